"""Text of other encodings than UTF-8, which a byte order mark tells, as UTF-8."""

from __future__ import annotations

import codecs
import io
from typing import IO, Any, cast

from spinn_tensor.data_prep.errors import DataError

N_HEAD = 1 << 10
_CHUNK = 1 << 14
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
}


def first_bytes(file: IO[bytes]) -> bytes:
    """Return some of the first bytes of a buffered file, which are still to be read."""
    return cast(bytes, cast(Any, file).peek(N_HEAD))[:N_HEAD]


def in_utf8(file: IO[bytes]) -> IO[bytes]:
    """Return the file itself, or what gives its text in UTF-8 where a byte order mark says that it is UTF-16 or UTF-32.

    Raises DataError for what is of another kind, or looks like UTF-16 without a mark; what is read raises it for text
    that is none.
    """
    head = first_bytes(file)
    if kind := next((kind for mark, kind in _NO_TEXT.items() if head.startswith(mark)), None):
        raise DataError(kind)
    if encoding := next((name for mark, name in _MARKS.items() if head.startswith(mark)), None):
        return io.BufferedReader(_Recoded(file, encoding))
    if head[:2].count(0) == 1:
        raise DataError("UTF-16 without a byte order mark, or no text", line=1)
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
