"""Files as they lie on disk, plain or packed, as bytes, and text of other encodings than UTF-8 as that.

What is wrong with one is a `DataError` that names it.
"""

from __future__ import annotations

import codecs
import importlib
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, cast

from spinn_tensor.data_prep.errors import DataError, NeededLine
from spinn_tensor.data_prep.paths import StrPath, expanded

try:
    from lzma import LZMAError
except ImportError:  # a Python that was built without it, which reads no .xz

    class LZMAError(Exception):  # type: ignore[no-redef]
        pass


# the module whose `open` unpacks a file of this ending
COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}
# what reading on in an archive raises
UNREADABLE = (EOFError, OSError, zlib.error, zipfile.BadZipFile, LZMAError)
N_HEAD = 1 << 10
_CHUNK = 1 << 14
_IN_TAR = 257  # where "ustar" stands in a tar archive
_MARKS = {  # the first that fits: the mark of UTF-32 begins as one of UTF-16 does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_NO_TEXT = {  # what begins so
    b"\x28\xb5\x2f\xfd": "packed by Zstandard, which is not read: unpack it",
    b"7z\xbc\xaf\x27\x1c": "packed by 7-Zip, which is not read: unpack it",
    b"Rar!\x1a\x07": "packed by RAR, which is not read: unpack it",
    b"\x1f\x8b": "packed by gzip: its name should end in .gz",
    **{b"BZh%d1AY&SY" % size: "packed by bzip2: its name should end in .bz2" for size in range(1, 10)},
    b"\xfd7zXZ\x00": "packed by xz: its name should end in .xz",
    b"PK\x03\x04": "a .zip file or a document of an office program, expected text",
    b"\x93NUMPY": "an array of NumPy, expected text",
    b"%PDF-": "a PDF, expected text",
    b"{\\rtf": "RTF, expected text",
    b"\xd0\xcf\x11\xe0": "a document of an office program, expected text",
    **{b"\x80%c" % version: "a pickle of Python, which is not read" for version in range(2, 6)},
}


def unpacked_name(path: StrPath) -> str:
    """Give a file's name without the ending that says how it is compressed."""
    name, suffix = os.path.splitext(os.fspath(path))
    return name if suffix in COMPRESSED else os.fspath(path)


def only_member(member: str | None, names: Sequence[str]) -> str:
    """Return the file of a .zip that is named, or the only one. Raises DataError."""
    if member is None:
        own = [name for name in names if not name.startswith("__MACOSX/")]
        member = own[0] if len(own) == 1 else None
    if member is None or member not in names:
        wanted = "say which file of it to read, or unpack it" if member is None else f"no {member} in it"
        raise DataError(f"{wanted}; it holds {', '.join(names[:8])}")
    return member


def open_bytes(
    path: StrPath,
    member: str | None = None,  # file inside a .zip
    # of `member` and the names in it; may raise
    choose: Callable[[str | None, Sequence[str]], str] = only_member,
) -> IO[bytes]:
    """Open a file, plain, .gz, .bz2, .xz or in a .zip, whose bytes are unpacked as they are read.

    Raises DataError for a missing file or folder, a folder, a member of what is no .zip or not in it, and an archive
    that is damaged or packed in another way than deflated. What is wrong further on shows when it is read: as one of
    `UNREADABLE`.
    """
    path = expanded(path)
    try:
        suffix = path.suffix
        if member is not None and suffix != ".zip":
            raise DataError(f"expected a .zip file to read {member} from")
        if suffix in COMPRESSED:
            return cast(IO[bytes], module_of(suffix).open(path))
        if suffix != ".zip":
            return open(path, "rb")
        with zipfile.ZipFile(path) as archive:
            member = choose(member, [name for name in archive.namelist() if not name.endswith("/")])
            if archive.getinfo(member).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{member} is packed in another way than deflated")
            # stays open after the archive, until it is closed itself; its own readline is slow with a limit
            return io.BufferedReader(cast(Any, archive.open(member)))
    except DataError as error:
        raise error.at(path=path) from error.__cause__
    except zipfile.BadZipFile as error:
        raise DataError("truncated or not a .zip file", path=path) from error
    except OSError as error:
        raise DataError(unopened(path, error), path=path) from error
    except (EOFError, RuntimeError, ValueError) as error:  # of a .zip that is odd, damaged or encrypted
        raise DataError(f"cannot be read: {error}", path=path) from error


def module_of(suffix: str) -> Any:
    """Import the module that unpacks files of this ending. Raises DataError where Python was built without it."""
    try:
        return importlib.import_module(COMPRESSED[suffix])
    except ImportError as error:
        raise DataError(
            f"this Python was built without {COMPRESSED[suffix]}, which {suffix} needs"
        ) from error


def unreadable(error: Exception) -> str:
    """Say in a line what is wrong with a file that cannot be unpacked further; the error is one of `UNREADABLE`."""
    if isinstance(error, EOFError):
        return "truncated: the compressed data end early"
    return f"cannot be read: {error}"


def unopened(path: StrPath, error: Exception) -> str:
    """Say why a file cannot be opened."""
    folder = Path(path).parent
    if isinstance(error, FileNotFoundError):
        return "no such file" if folder.is_dir() else f"no such folder: {folder}"
    if isinstance(error, IsADirectoryError):
        hint = "; name those in it" if any(Path(path).glob("*.parquet")) else ""
        return f"a folder, expected a file{hint}"
    return (isinstance(error, OSError) and error.strerror) or str(error)


def first_bytes(file: IO[bytes]) -> bytes:
    """Return some of the first bytes of a buffered file, which are still to be read."""
    return cast(bytes, cast(Any, file).peek(N_HEAD))[:N_HEAD]


def in_utf8(file: IO[bytes]) -> IO[bytes]:
    """Return the file itself, or what gives its text in UTF-8 where a byte order mark says that it is UTF-16 or UTF-32.

    Raises DataError for what is of another kind, or looks like UTF-16 without a mark; what is read raises it for text
    that is none.
    """
    head = first_bytes(file)
    if head[_IN_TAR : _IN_TAR + 5] == b"ustar":
        raise DataError("a tar archive: unpack it")
    if kind := next((kind for mark, kind in _NO_TEXT.items() if head.startswith(mark)), None):
        raise DataError(kind)
    if encoding := next((name for mark, name in _MARKS.items() if head.startswith(mark)), None):
        return io.BufferedReader(_Recoded(file, encoding))
    if head[:2].count(0) == 1:
        raise NeededLine("UTF-16 without a byte order mark, or no text", line=1)
    return file


class _Recoded(io.RawIOBase):
    """Read the bytes of a text in UTF-8. Closing it leaves the file open."""

    def __init__(self, file: IO[bytes], encoding: str) -> None:
        self._file, self._encoding = file, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._left = b""
        self._is_over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as there is text. Raises DataError."""
        while not self._left and not self._is_over:
            chunk = self._file.read(_CHUNK)
            self._is_over = not chunk
            try:
                self._left = self._decoder.decode(chunk, final=self._is_over).encode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"not {self._encoding.upper()} text") from error
        n_bytes = min(len(buffer), len(self._left))
        buffer[:n_bytes] = self._left[:n_bytes]
        self._left = self._left[n_bytes:]
        return n_bytes
