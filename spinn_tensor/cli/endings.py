"""Signals that end a command as Ctrl-C does: by an exception, so that its temporary files go."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Ended(BaseException):
    """Raised where a signal asks the program to end; like KeyboardInterrupt no error that something else may catch."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


def handled_here(*numbers: int) -> tuple[int, ...]:
    """Return the signals of these that this thread may handle: all of them, or none beside the main thread."""
    return numbers if threading.current_thread() is threading.main_thread() else ()


@contextmanager
def ending_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP raise `Ended` within the block; those that are ignored (nohup) or handled stay so."""
    previous = {}
    for number in handled_here(*ENDING):
        if signal.getsignal(number) is signal.SIG_DFL:
            previous[number] = signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    raise Ended(number)
