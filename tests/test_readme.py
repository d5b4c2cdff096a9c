"""The examples of README and of the guides run and print what is said there."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name, least", [("README.md", 20), ("docs/cell.md", 20)])
def test_the_examples_print_what_is_said(name: str, least: int) -> None:
    results = doctest.testfile(str(ROOT / name), module_relative=False)
    assert results.attempted > least
    assert results.failed == 0
