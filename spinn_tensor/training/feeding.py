"""Batches that are ready when training asks for them: taken from the columns and compiled into tables beforehand.

What is made ahead depends on nothing that training changes, so that it is the batch that would have been made then. On
the CPU a thread is enough: it needs a hundredth to a tenth of a step's time, and what it runs (NumPy, copies) mostly
lets the training thread go on. On CUDA a step may take less time than its batch takes to be made, so there forked
processes make them, and the thread pins what they send.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from multiprocessing.connection import wait
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from spinn_tensor.data_prep.errors import SpinnError, one_line
from spinn_tensor.training.methods import Batch
from spinn_tensor.training.step import TrainStep
from spinn_tensor.transfer import Parcel, made_ahead

MOST_PROCESSES = 4  # that make batches: of 512 pairs with a tracker in 10 ms each, one every 2.5 ms

Made = TypeVar("Made")
Item = TypeVar("Item")


class Feed(NamedTuple):
    """Hold what one step of one rank runs on, on the host; pinned where the model is on a GPU."""

    rows: np.ndarray  # (B,) int64, of the whole step
    batches: list[Batch]  # this rank's, one a microbatch
    counts: bool  # False: the rank has no example of this step, and runs one that weighs nothing

    def mapped(self, function: Callable[[Any], Any]) -> Feed:
        """Apply a function to every batch."""
        return self._replace(batches=[function(batch) for batch in self.batches])


class LostMaker(SpinnError, RuntimeError):
    """Say that a process which made batches is gone, and by what; its text is one line."""


@contextmanager
def feeds_of(
    make: Callable[[Item], Feed], items: Iterable[Item], step: TrainStep, n_ahead: int
) -> Iterator[Iterator[Feed]]:
    """Give what the steps run on, pinned, made ahead by whoever is best at it on the model's device.

    Raises LostMaker, wherever the program is when a process that makes them dies.
    """
    with ExitStack() as makers:
        if n := n_processes(step.device.type, n_ahead):
            sent = made_by_processes(lambda item: make(item).mapped(Parcel.of), items, n_ahead, n)
            makers.enter_context(closing(sent))
            pinned = made_ahead(lambda feed: feed.mapped(Parcel.opened).mapped(step.pin), sent, n_ahead)
        else:
            pinned = made_ahead(lambda item: make(item).mapped(step.pin), items, n_ahead)
        try:
            yield makers.enter_context(closing(pinned))
        except RuntimeError as error:
            if (lost := _lost(error)) is None:
                raise
            raise LostMaker(f"a process that makes batches is gone: {lost}") from error


def _lost(error: BaseException | None) -> str | None:
    """Return what torch says of a process of a DataLoader that is gone, where an error is of that."""
    said = None
    while error is not None:  # that it was killed, and by what, is the cause of that it is gone
        said = one_line(error) if str(error).startswith("DataLoader worker (pid") else said
        error = error.__cause__ or error.__context__
    return said


def n_processes(device_type: str, n_ahead: int) -> int:
    """Return how many processes are to make batches, of the cores that this rank may use; 0 = a thread is to."""
    if device_type != "cuda" or not n_ahead or "fork" not in multiprocessing.get_all_start_methods():
        return 0
    n_cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(0, min(MOST_PROCESSES, n_cores - 1))


def made_by_processes(
    make: Callable[[Item], Made], items: Iterable[Item], n_ahead: int, n_processes: int
) -> Generator[Made, None, None]:
    """Yield make(item) for every item, in order, made by processes that are forked for it, `n_ahead` each.

    Each tensor that is sent costs the receiver a message, so that a bundle goes as a `Parcel`. What `make` raises is
    raised when its turn comes. Closing the iterator ends the processes.
    """
    loader = DataLoader(
        _WhenAsked(make, list(items)),
        batch_size=None,
        num_workers=n_processes,
        prefetch_factor=n_ahead,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_signals,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # or it would draw from torch's own, and dropout would be another
    )
    iterator: Any = iter(loader)
    try:
        yield from iterator
    except (ConnectionError, EOFError) as error:  # a process died while what it had made was fetched from it
        if (said := _ended(iterator._workers)) is None:
            raise
        raise RuntimeError(said) from error
    finally:
        iterator._shutdown_workers()  # or they live as long as what holds an error does


def _ended(workers: Sequence[Any], seconds: float = 5.0) -> str | None:
    """Wait for a process that ends; say as torch does which one was killed, and by what."""
    wait([worker.sentinel for worker in workers], seconds)
    for worker in workers:
        worker.join(0.1)  # it closes what is waited for before it can be asked how it ended
        if worker.exitcode is not None and worker.exitcode < 0:
            return f"DataLoader worker (pid {worker.pid}) is killed by signal: {signal.strsignal(-worker.exitcode)}"
    return None


class _WhenAsked(Dataset, Generic[Item, Made]):
    def __init__(self, make: Callable[[Item], Made], items: Sequence[Item]) -> None:
        self._make, self._items = make, items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, number: int) -> Made:
        return self._make(self._items[number])


def _as_it_is(made: Made) -> Made:
    return made


def _leave_signals(number: int) -> None:
    """Let training's process alone say when to end, and end this one by what ends processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
