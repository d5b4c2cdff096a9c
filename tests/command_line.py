"""What tests of commands have in common: an error is one line, status 1, nothing half-written; and standard input."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from spinn_tensor.cli.main import main


def assert_one_error(capsys: pytest.CaptureFixture[str], message: str) -> None:
    """Check that what was printed since the last look is one line of this message, a regular expression."""
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1, errors
    assert re.search("^spinn: error: .*" + message, errors), errors


def assert_fails_cleanly(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run a command that fails, and check what it says and that it leaves the folder's files as they were."""
    capsys.readouterr()
    before = contents(folder)
    assert main(arguments) == 1
    assert_one_error(capsys, message)
    assert contents(folder) == before


def words_of(command: str, **places: Path) -> list[str]:
    """Return the words of a command, in which names stand for places, whatever blanks those have."""
    found = command.split()
    for name, place in places.items():
        found = [word.replace(name, str(place)) for word in found]
    return found


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def standard_input(given: bytes) -> Iterator[None]:
    """Let standard input be a pipe that gives these bytes, inside."""
    before, (reading, writing) = os.dup(0), os.pipe()
    os.dup2(reading, 0)
    os.close(reading)
    writer = threading.Thread(target=_write, args=(writing, given))
    writer.start()
    try:
        yield
    finally:
        os.dup2(before, 0)  # nobody reads on, so that who writes ends
        os.close(before)
        writer.join()


def _write(descriptor: int, given: bytes) -> None:
    with suppress(BrokenPipeError), open(descriptor, "wb") as file:
        file.write(given)


class Spinn:
    """Run commands as a test does: each prints what it says alone, and ends as it should."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *always: str) -> None:
        self._capsys, self._always = capsys, always  # what every command begins with

    def __call__(self, *arguments: object, status: int = 0) -> Any:
        """Return what a command that does well printed."""
        self._capsys.readouterr()
        ended = main([*self._always, *map(str, arguments)])
        printed = self._capsys.readouterr()
        assert ended == status, printed.err
        return printed

    def fails(self, *arguments: object) -> Any:
        """Return what a command that ends in an error, of one line, printed."""
        printed = self(*arguments, status=1)
        (line,) = printed.err.splitlines()
        assert line.startswith("spinn: error: ")
        return printed
