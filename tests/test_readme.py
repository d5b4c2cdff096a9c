"""The examples of README and of the documents run and print what is said there."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if ">>> " in path.read_text("utf-8")
]


@pytest.mark.parametrize("name", PAGES)
def test_the_examples_print_what_is_said(name: str) -> None:
    results = doctest.testfile(str(ROOT / name), module_relative=False)
    assert results.attempted > 5
    assert results.failed == 0


def test_pages_have_examples() -> None:
    assert {"docs/cell.md", "docs/tutorial.md", "docs/guides/python.md", "docs/guides/bulk.md"} <= set(PAGES)


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120
