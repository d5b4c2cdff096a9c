"""Temporary files and folders: `.NAME.XXXXXXXX.tmp` beside the NAME that it takes when it is whole.

Whoever writes NAME deletes what a killed writer of NAME has left: that on which nobody has a lock. A writer holds one
(flock) on its temporary, which goes with the process however it ends. The number of the writer's process would not do:
it says nothing in another container, or on another machine, that shares the folder. Where there are no locks, what
nobody has written to for a day is a leftover.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from pathlib import Path

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.paths import expanded

DAY = 86_400.0  # seconds
_OF_FOLDERS: set[int] = set()  # locks of `alone_in`
_DESCRIPTORS = re.compile(r"/dev/fd|/proc/(?P<process>\d+)(/task/\d+)?/fd")


@contextmanager
def temporary_beside(
    path: Path,
    create: Callable[[Path], object],  # makes an empty file or folder of a name
) -> Iterator[Path]:
    """Make a file or folder to be renamed to `path` within the block; one that was not is deleted."""
    clear_temporaries(path.parent, escape(path.name))
    with ExitStack() as stack:
        while True:
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            create(temporary)
            try:
                lock = _locked(temporary)
            except OSError:  # no locks here: nobody else deletes it either
                break
            if lock is not None:
                stack.callback(os.close, lock)
                break
        stack.callback(_delete, temporary)
        yield temporary


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes that ask out of a folder, which is made; where there are no locks they are not seen.

    Raises DataError where one is there already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with suppress(OSError):
            if (lock := _locked(Path(os.path.realpath(folder)))) is None:
                raise DataError("another process is writing there", path=folder)
            _OF_FOLDERS.add(lock)
            stack.callback(_let_go, lock)
        yield


def _let_go(*locks: int) -> None:
    """Close locks of folders, each once; in a fork all, or one that outlives a killed run would keep out its next."""
    for lock in _OF_FOLDERS.intersection(locks):
        _OF_FOLDERS.discard(lock)
        os.close(lock)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _let_go(*_OF_FOLDERS))


@contextmanager
def named_if_full(path: Path) -> Iterator[None]:
    """Name what is written in errors of its temporary, and of a full disk or user's part, which name nothing."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or str(error.filename).endswith(".tmp"):
            error.filename = os.fspath(path)
        raise


def clear_temporaries(
    folder: Path,
    names: str,  # a pattern of `glob`
) -> bool:
    """Delete what killed writers of such names left; return whether there are others, in use."""
    in_use = False
    for path in list(folder.glob(f".{names}.{'[0-9a-f]' * 8}.tmp")):
        try:
            lock = _locked(path)
        except PermissionError:
            continue  # somebody else's file
        except OSError:  # no locks here
            _delete_old(path)
            continue
        if lock is None:
            in_use = in_use or path.exists()
        else:
            _delete(path)
            os.close(lock)
    return in_use


def _delete_old(path: Path) -> None:
    """Delete a file or folder if it, and all in it, is older than a day."""
    with suppress(OSError):  # it is gone, or somebody else's
        if max(part.stat().st_mtime for part in (path, *path.rglob("*"))) < time.time() - DAY:
            _delete(path)


def real_path(path: Path) -> Path:
    """Follow ~ and a link to what is to be replaced; give the path itself if it is no link, or one to no file."""
    path = expanded(path)
    real = Path(os.path.realpath(path)) if path.is_symlink() else path
    return path if path.exists() and not real.exists() else real  # /dev/stdout that is a pipe


def shared_descriptor(path: Path) -> int | None:
    """Open what `path` stands for once more where it must not be replaced; None where it may be.

    That is a descriptor by name, /dev/stdout and the like, and the file that standard output or errors go to.
    """
    for _ in range(40):  # links of links, as many as Linux follows
        path = Path(os.path.realpath(path.parent), path.name)
        if (found := _DESCRIPTORS.fullmatch(str(path.parent))) and path.name.isdecimal():
            if found["process"] in (None, str(os.getpid())):
                return os.dup(int(path.name))
            return os.open(path, os.O_WRONLY | os.O_APPEND)
        if not path.is_symlink():
            break
        path = path.parent / os.readlink(path)
    if path.is_file():
        for descriptor in (1, 2):
            with suppress(OSError):  # which may be closed
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return os.dup(descriptor)
    return None


def _locked(path: Path) -> int | None:
    """Open and lock; give None where another has the lock, or the path is gone. OSError: there are no locks."""
    try:
        import fcntl
    except ImportError as error:
        raise OSError(str(error)) from error
    with ExitStack() as stack:
        try:
            # NFS locks a file for one writer only if it is open for writing
            descriptor = os.open(path, os.O_NOFOLLOW | (os.O_RDONLY if path.is_dir() else os.O_RDWR))
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return None
        except (BlockingIOError, FileNotFoundError):
            return None
        stack.pop_all()
        return descriptor


def _delete(path: Path) -> None:
    """Delete what can be deleted; the rest is left to the next writer."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
