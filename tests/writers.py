"""Write a file and a folder, in tests and in the processes that they kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from spinn_tensor.data_prep.files import atomic_write
from spinn_tensor.data_prep.folders import write_folder


def write_a_file(path: Path, meanwhile: Callable[[], object]) -> None:
    with atomic_write(path) as file:
        file.write("text")
        meanwhile()


def write_a_folder(path: Path, meanwhile: Callable[[], object]) -> None:
    def fill(folder: Path) -> None:
        (folder / "a").mkdir()
        (folder / "a" / "b").write_text("text")
        meanwhile()

    write_folder(path, fill)
