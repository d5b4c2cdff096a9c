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
from contextlib import closing, contextmanager
from functools import partial
from multiprocessing.connection import wait
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from spinn_tensor.data_prep.errors import SpinnError
from spinn_tensor.training.methods import Batch
from spinn_tensor.training.step import TrainStep
from spinn_tensor.transfer import SharedSlots, made_ahead, size_of

MOST_PROCESSES = 4  # that make batches: of 512 pairs with a tracker in 5 ms each, one every 1.3 ms
ROOM = 4  # times the first batch's bytes are reserved for each of the others, which takes no memory until it is written
SECONDS_TO_END = 5.0  # are given to a process whose connection is gone

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

    Raises LostMaker when the turn comes of what a process that is gone was to make.
    """
    if n := n_processes(step.device.type, n_ahead):
        pinned = _from_processes(make, items, step, n_ahead, n)
    else:
        pinned = made_ahead(lambda item: make(item).mapped(step.pin), items, n_ahead)
    with closing(pinned):
        yield pinned


def _from_processes(
    make: Callable[[Item], Feed], items: Iterable[Item], step: TrainStep, n_ahead: int, n_processes: int
) -> Generator[Feed, None, None]:
    """Yield what the steps run on, pinned, made by processes; the first by this one, which measures the slots by it."""
    items = list(items)
    if not items:
        return
    first = make(items[0])
    yield first.mapped(step.pin)
    # so many are ready, so many wait to be pinned, and one goes from these to those
    n_slots = 2 * n_ahead + 1
    slots = SharedSlots(n_processes, n_slots, ROOM * sum(map(size_of, first.batches)))

    def send(item: Item) -> Feed:
        feed = make(item)
        slots.turn()
        return feed.mapped(slots.packed)

    sent = made_by_processes(send, items[1:], n_ahead, n_processes)
    opened = partial(slots.opened, pin=step.device.type != "cpu")
    pinned = made_ahead(lambda feed: feed.mapped(opened), sent, n_ahead)
    with closing(sent), closing(pinned):
        yield from pinned


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

    What `make` raises is raised when its turn comes, and LostMaker when that comes of a process that is gone. Closing
    the iterator ends the processes.
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
    # Or torch raises that a process is gone wherever the program is, in the middle of a checkpoint or of a library that
    # takes it for an error of its own; who asks for what the process was to make is told in any case, 5 s later.
    torch._C._remove_worker_pids(id(iterator))
    iterator._worker_pids_set = False
    try:
        yield from iterator
    except (ConnectionError, EOFError, RuntimeError) as error:
        # a connection may be gone before its process has ended
        seconds = 0 if isinstance(error, RuntimeError) else SECONDS_TO_END
        if (ended := _ended(iterator._workers, seconds)) is None:
            raise
        raise LostMaker(f"a process that makes batches is gone: {ended}") from error
    finally:
        iterator._shutdown_workers()  # or they live as long as what holds an error does


def _ended(workers: Sequence[Any], seconds: float) -> str | None:
    """Wait for a process that ends, and say which one did, and by what; None = they all run."""
    wait([worker.sentinel for worker in workers], seconds)
    for worker in workers:
        worker.join(0.1)  # it closes what is waited for before it can be asked how it ended
        if (code := worker.exitcode) is not None:
            killed = f"was ended by signal {abs(code)} ({signal.strsignal(abs(code))})"
            return f"pid {worker.pid} {killed if code < 0 else f'exited with {code}'}"
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
