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
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch._utils import ExceptionWrapper

from spinn_tensor.data_prep.errors import SpinnError
from spinn_tensor.training.methods import Batch
from spinn_tensor.training.step import TrainStep
from spinn_tensor.transfer import SharedSlots, made_ahead, size_of

MOST_PROCESSES = 4  # that make batches: of 512 pairs with a tracker in 5 ms each, one every 1.3 ms
ROOM = 4  # times the first batch's bytes are reserved for each of the others, which takes no memory until it is written

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
        pinned = made_ahead(lambda item: make(item).mapped(step.pin), items, n_ahead, step.device)
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
    # so many are made ahead by each process, so many of those that came wait to be pinned, and one comes
    slots = SharedSlots((n_processes + 1) * n_ahead + 1, ROOM * sum(map(size_of, first.batches)))

    def send(numbered: tuple[int, Item]) -> Feed:
        number, item = numbered
        feed = make(item)
        slots.turn_to(number)
        return feed.mapped(slots.packed)

    sent = made_by_processes(send, enumerate(items[1:]), n_ahead, n_processes)
    opened = partial(slots.opened, pin=step.device.type != "cpu")
    pinned = made_ahead(lambda feed: feed.mapped(opened), sent, n_ahead, step.device)
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
    the iterator ends the processes. Each has a connection of its own: one that they shared would be waited on for ever
    if a process were killed while it writes to it.
    """
    items = list(items)
    n_asked = n_ahead * n_processes
    with ExitStack() as stack:
        makers = [stack.enter_context(closing(_Maker(make, items))) for _ in range(n_processes)]
        for number in range(min(n_asked, len(items))):
            makers[number % n_processes].ask(number)
        for number in range(len(items)):
            maker = makers[number % n_processes]
            made = maker.answer()
            if number + n_asked < len(items):
                maker.ask(number + n_asked)
            yield made


class _Maker:
    """Be a process that makes the items of which it is sent the numbers."""

    def __init__(self, make: Callable[[Item], Any], items: Sequence[Item]) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, its = context.Pipe()
        self._process = context.Process(target=self._make, args=(its, make, items), daemon=True)
        self._process.start()
        its.close()

    def _make(self, its: Connection, make: Callable[[Item], Any], items: Sequence[Item]) -> None:
        self._connection.close()  # or it would be there for as long as this process is
        # training's process alone says when to end
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        torch.set_num_threads(1)  # OpenMP's threads are not in a fork, and would be waited for
        with suppress(EOFError, ConnectionError):  # who asks is gone
            while True:
                item = items[its.recv()]
                try:
                    its.send(make(item))
                except Exception:
                    its.send(ExceptionWrapper(where="in a process that makes batches"))

    def ask(self, number: int) -> None:
        """Have the process make an item; where it is gone, `answer` says so."""
        with suppress(ConnectionError):
            self._connection.send(number)

    def answer(self) -> Any:
        """Wait for what it has made of the next item that it was asked for. Raises LostMaker, and what it raised."""
        try:
            made = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            code = self._process.exitcode or 0
            how = f"exited with {code}"
            if code < 0:
                how = f"was ended by signal {-code} ({signal.strsignal(-code)})"
            raise LostMaker(f"a process that makes batches is gone: pid {self._process.pid} {how}") from error
        if isinstance(made, ExceptionWrapper):
            made.reraise()
        return made

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()
