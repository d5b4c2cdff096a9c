"""A file of vectors as a stream of bytes: plain, .gz, or the file in a .zip that has the dimension wanted."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import StrPath

BLOCK_BYTES = 1 << 20
_TEXT = (".txt", ".vec")
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ByteSource:
    """The bytes of a file, unpacked as they are asked for."""

    def __init__(self, file: IO[bytes], path: StrPath) -> None:
        self.path = path
        self._file = file

    def lines(
        self,
        limit: int,  # bytes
    ) -> Iterator[bytes]:
        """Lines, which end at "\\n" alone.

        Raises DataError naming the line that is longer than `limit` or cannot be unpacked.
        """
        number = 0
        while True:
            number += 1
            try:
                line = self._file.readline(limit)
            except (EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
                raise DataError(_unreadable(error), path=self.path, line=number) from error
            if not line:
                return
            if len(line) == limit and not line.endswith(b"\n"):
                raise DataError(f"a line of {limit:,} bytes or more", path=self.path, line=number)
            yield line

    def read(self, n_bytes: int) -> bytes:
        """The next bytes, fewer only at the end. Raises DataError if they cannot be unpacked."""
        try:
            return self._file.read(n_bytes)
        except (EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
            raise DataError(_unreadable(error), path=self.path) from error


@contextmanager
def open_bytes(
    path: StrPath,
    dim: int,  # that the file in a .zip has in its name, if there are several
) -> Iterator[ByteSource]:
    """Open a file; raises DataError if it is missing, a folder, no archive, or one with no or several such files."""
    with io.BufferedReader(cast(Any, open_file(path, dim)), BLOCK_BYTES) as file:
        yield ByteSource(file, path)


def open_file(path: StrPath, dim: int) -> IO[bytes]:
    """As `open_bytes`, without a buffer for a file that is not packed."""
    suffix = Path(path).suffix
    try:
        if suffix == ".zip":
            return _member(path, dim)
        if suffix == ".gz":
            return cast(IO[bytes], gzip.open(path))
        return cast(IO[bytes], open(path, "rb", buffering=0))
    except DataError:
        raise
    except zipfile.BadZipFile as error:
        raise DataError("truncated or not a .zip file", path=path) from error
    except (OSError, EOFError, RuntimeError, ValueError) as error:  # zipfile's, of odd or damaged archives
        raise DataError(_unopened(path, error), path=path) from error


def _member(path: StrPath, dim: int) -> IO[bytes]:
    with zipfile.ZipFile(path) as archive:
        files = [member for member in archive.infolist() if not member.is_dir()]
        texts = [m for m in files if m.filename.endswith(_TEXT) and not m.filename.startswith("__MACOSX/")]
        if len(texts) > 1:
            texts = [member for member in texts if re.search(rf"(?<!\d){dim}(?!\d)", member.filename)]
        if len(texts) != 1:
            names = ", ".join(member.filename for member in files[:8])
            wanted = f"one .txt file, or one with {dim} in its name"
            raise DataError(f"expected {wanted}; it holds {names or 'nothing'}", path=path)
        if texts[0].compress_type not in _PACKED:
            raise DataError(f"{texts[0].filename} is packed in another way than deflated", path=path)
        return archive.open(texts[0])  # stays open after the archive, until it is closed itself


def _unreadable(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "truncated: the compressed data end early"
    return f"cannot be read: {error}"


def _unopened(path: StrPath, error: Exception) -> str:
    folder = Path(path).parent
    if isinstance(error, FileNotFoundError):
        return "no such file" if folder.is_dir() else f"no such folder: {folder}"
    if isinstance(error, IsADirectoryError):
        return "a folder, expected a file"
    return (isinstance(error, OSError) and error.strerror) or f"cannot be read: {error}"
