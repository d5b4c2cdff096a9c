"""A folder that is replaced as a whole: at any moment, whatever kills the writer, a complete one can be read.

    write   .NAME.new   files, each fsynced, then the folder
    rename  NAME     -> .NAME.old      (if there was one)
    rename  .NAME.new -> NAME
    delete  .NAME.old

Killed during the writing, NAME is untouched. Killed between the renames, NAME is missing and `.NAME.old` is
complete: readers fall back to it (`readable`) and the next writer puts it back (`recover`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Replaces `folder` by what `fill(temporary)` writes into an empty temporary folder beside it."""
    folder = _real(folder)
    new, old = _new(folder), _old(folder)
    recover(folder)
    new.mkdir(parents=True)
    try:
        fill(new)
        for path in sorted(new.rglob("*"), reverse=True):  # what is in a folder before the folder
            _fsync(path)
        _fsync(new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    _fsync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def readable(folder: Path) -> Path:
    """The folder to read: itself, or its predecessor if the writer was killed between the two renames."""
    folder = _real(folder)
    return _old(folder) if not folder.exists() and _old(folder).is_dir() else folder


def recover(folder: Path) -> None:
    """Puts the predecessor back if the writer was killed between the renames; deletes stale temporaries."""
    folder = _real(folder)
    old = _old(folder)
    if not folder.exists() and old.is_dir():
        os.rename(old, folder)
    for stale in (_new(folder), old):
        if stale.is_dir():
            shutil.rmtree(stale)


def _real(folder: Path) -> Path:
    """What a link stands for: it is the folder behind it that is replaced."""
    return Path(os.path.realpath(folder)) if folder.is_symlink() else folder


def _new(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.new")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
