"""A folder that is replaced as a whole: at any moment, whatever kills the writer, a complete one can be read.

    write   .NAME.XXXXXXXX.tmp   files, each fsynced, then the folder (see `temporary`)
    rename  NAME               -> .NAME.old      (if there was one)
    rename  .NAME.XXXXXXXX.tmp -> NAME
    delete  .NAME.old

Killed during the writing, NAME is untouched. Killed between the renames, NAME is missing and `.NAME.old` is
complete: readers fall back to it (`readable`) and the next writer puts it back (`recover`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from glob import escape
from pathlib import Path

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.temporary import clear_temporaries, named_if_full, real_path, temporary_beside


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Replace `folder` by what `fill(temporary)` writes into an empty temporary folder beside it."""
    folder = real_path(folder)
    recover(folder)
    old = _old(folder)
    with named_if_full(folder), temporary_beside(folder, partial(Path.mkdir, parents=True)) as new:
        fill(new)
        for path in sorted(new.rglob("*"), reverse=True):  # what is in a folder before the folder
            _fsync(path)
        _fsync(new)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.rename(folder, old)
        os.rename(new, folder)
    _fsync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def readable(folder: Path) -> Path:
    """Find the folder to read: itself, or its predecessor if the writer was killed between the two renames."""
    folder = real_path(folder)
    return _old(folder) if not folder.exists() and _old(folder).is_dir() else folder


def recover(folder: Path) -> None:
    """Put whole what a killed writer left: delete its temporaries, put the predecessor back where NAME is missing.

    Where another writer is at work, the predecessor stays: NAME may be missing between that one's renames.
    Raises DataError for the working folder, of whose new one nobody who stands in it would see anything, and the root.
    """
    folder = real_path(folder)
    is_root = str(folder) == folder.anchor
    if is_root or (folder.exists() and folder.samefile(os.curdir)):
        what = "root" if is_root else "working"
        raise DataError(f"the {what} folder, expected another: it is replaced as a whole", path=folder)
    old = _old(folder)
    if clear_temporaries(folder.parent, escape(folder.name)):
        return
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.is_dir():
        os.rename(old, folder)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
