"""What the tests of every command expect of an error: one line, status 1, and nothing half-written."""

from __future__ import annotations

import re
from pathlib import Path

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


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
