"""Lines in blocks, as they come: what is made of those that are there need not wait for those that are not.

A file has its lines at once: they are read a full block after the other. Elsewhere, in a pipe or a terminal, a thread
reads on, up to a block, and a block has what it found until it was asked. Either way no more than two blocks are in
memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Line, StrPath, characters_in, next_lines

BLOCK_LINES = 4_096
BLOCK_CHARACTERS = 1 << 21  # beside the last line

OpenLines = Callable[[], AbstractContextManager[Iterator[Line]]]


def line_blocks(
    path: StrPath,  # of what is opened
    open_lines: OpenLines,
) -> Iterator[list[Line]]:
    """Yield all lines in blocks, none of them empty.

    Raises what `open_lines` and reading on raise, when the lines before have been given.
    """
    if not Path(path).exists() or Path(path).is_file():
        with open_lines() as lines:
            while True:
                block: list[Line] = []
                try:
                    next_lines(lines, BLOCK_LINES, BLOCK_CHARACTERS, into=block)
                except DataError:
                    if block:
                        yield block
                    raise
                if not block:
                    return
                yield block
    ahead = _ReadAhead()
    threading.Thread(target=ahead.read, args=(open_lines,), daemon=True).start()  # which may wait for ever
    try:
        while block := ahead.take():
            yield block
    finally:
        ahead.leave()


class _ReadAhead:
    """Hold the lines that a thread has read and nobody has taken."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._n_characters = 0
        self._is_over = False  # the file, or the interest in it
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def read(self, open_lines: OpenLines) -> None:
        """Read on until the end, an error, or until nobody takes any more."""
        try:
            with open_lines() as lines:
                for line in lines:
                    if not self._put(line):
                        return
        except BaseException as error:  # for whoever takes the lines
            self._error = error
        finally:
            self.leave()

    def take(self) -> list[Line]:
        """Return the lines that are there, waiting for one; [] at the end. Raises what reading on raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._is_over)
            block, self._lines, self._n_characters = self._lines, [], 0
            self._changed.notify_all()
        if not block and self._error is not None:
            raise self._error
        return block

    def leave(self) -> None:
        """Say that there will be no more lines, or that nobody takes any."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _put(self, line: Line) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._has_room() or self._is_over)
            self._lines.append(line)
            self._n_characters += characters_in(line)
            self._changed.notify_all()
            return not self._is_over

    def _has_room(self) -> bool:
        return len(self._lines) < BLOCK_LINES and self._n_characters < BLOCK_CHARACTERS
