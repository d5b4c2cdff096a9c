"""Vectors as a safetensors file, from which single rows can be read without the others.

    vectors     (V, D) F32 (F16, BF16 and F64 are read too)
    words       (number of bytes,) U8: the V words as UTF-8, with "\\n" between each two

The format (https://github.com/huggingface/safetensors): 8 bytes that give the length of a JSON header, the header with
the type, shape and place of each tensor, and their bytes. It is read and written here, not by the library, since that
maps the file into memory: then the whole of it would count as used.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

import numpy as np

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import StrPath, atomic_write
from spinn_tensor.data_prep.vectors.files import open_file
from spinn_tensor.data_prep.vectors.words import EXACT, LOWER, WantedWords, WordVectors
from spinn_tensor.data_prep.vocabulary import Vocabulary, lower_case

VECTORS, WORDS = "vectors", "words"
_MAX_HEADER = 100_000_000  # bytes, as in the library
_STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1"}
_FLOATS = ("F64", "F32", "F16", "BF16")


class _Header(NamedTuple):
    """What is in a file."""

    entries: dict[str, Any]  # by name: dtype, shape and place of each tensor
    n_bytes: int  # before the tensors begin
    file_bytes: int


class _Tensor(NamedTuple):
    """Where a tensor is in a file."""

    dtype: str  # of `_STORED`
    shape: tuple[int, ...]
    start: int  # byte of the file


def save_vectors(
    path: StrPath,  # *.safetensors
    vocabulary: Vocabulary,  # V tokens
    vectors: WordVectors,
) -> None:
    """Write the vectors that were found, each under the spelling in which the file had it, atomically.

    `read_vectors` of the result gives the same again, and quickly. Raises DataError if the file cannot be
    written, or a word holds a "\\n".
    """
    found: dict[str, int] = {}
    for row in np.flatnonzero((vectors.origin == EXACT) | (vectors.origin == LOWER)).tolist():
        token = vocabulary.tokens[row]
        found.setdefault(token if vectors.origin[row] == EXACT else lower_case(token), row)
    write_tensor_file(path, list(found), vectors.matrix[list(found.values())])


def write_tensor_file(
    path: StrPath,
    words: Sequence[str],  # (V,)
    vectors: np.ndarray,  # (V, D) float32
) -> None:
    """Write words and their vectors, atomically. Raises DataError as `save_vectors`."""
    if wrong := next((word for word in words if "\n" in word), None):
        raise DataError(f"a word with a line end in it: {wrong!r}", path=path)
    vectors = np.ascontiguousarray(vectors, dtype="<f4")
    text = "\n".join(words).encode()
    header = {
        VECTORS: {"dtype": "F32", "shape": vectors.shape, "data_offsets": (0, vectors.nbytes)},
        WORDS: {
            "dtype": "U8",
            "shape": (len(text),),
            "data_offsets": (vectors.nbytes, vectors.nbytes + len(text)),
        },
    }
    packed = json.dumps(header).encode("ascii")
    packed += b" " * (-len(packed) % 8)  # so that the numbers begin at a multiple of 8 bytes
    with atomic_write(path, "wb") as file:
        file.write(len(packed).to_bytes(8, "little") + packed)
        file.write(vectors.data)
        file.write(text)


def read_tensor_file(path: StrPath, words: WantedWords) -> None:
    """Read the vectors of the wanted words.

    Raises DataError for a file that is none of this form or ends early, for vectors of another dimension, and
    naming the word with a number that is not finite.
    """
    with open_file(path, words.dim) as file:
        try:
            _read(file, words)
        except DataError as error:
            raise error.at(path=path) from error.__cause__
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", path=path) from error


def _read(file: IO[bytes], words: WantedWords) -> None:
    header = _read_header(file)
    vectors = _tensor(header, VECTORS, _FLOATS, 2)
    names = _tensor(header, WORDS, ("U8",), 1)
    n_words, dim = vectors.shape
    if dim != words.dim:
        raise DataError(f"got {dim} numbers a word, expected {words.dim}", field=VECTORS)
    file.seek(names.start)
    spellings = file.read(names.shape[0]).split(b"\n")
    if len(spellings) != n_words:
        raise DataError(f"got {len(spellings)} words, but {n_words} vectors", field=WORDS)
    n_bytes = dim * np.dtype(_STORED[vectors.dtype]).itemsize
    for number, spelling in enumerate(spellings):
        place = words.place.get(spelling)
        if place is None or words.found[place]:
            continue
        file.seek(vectors.start + number * n_bytes)
        try:
            words.put(place, _floats(file.read(n_bytes), vectors.dtype))
        except DataError as error:
            raise DataError(f"word {number + 1:,}: {error.reason}", field=VECTORS) from None


def _floats(data: bytes, dtype: str) -> np.ndarray:  # (D,) float
    numbers = np.frombuffer(data, dtype=_STORED[dtype])
    return (numbers.astype("<u4") << 16).view("<f4") if dtype == "BF16" else numbers


def _read_header(file: IO[bytes]) -> _Header:
    """Raises DataError."""
    size = os.fstat(file.fileno()).st_size
    n_bytes = int.from_bytes(file.read(8), "little")
    if size < 8 or n_bytes > min(size - 8, _MAX_HEADER):
        raise DataError("truncated or not a .safetensors file")
    try:
        entries = json.loads(file.read(n_bytes))
    except (ValueError, RecursionError) as error:
        raise DataError("not a .safetensors file: its header is not JSON") from error
    if not isinstance(entries, dict):
        raise DataError("not a .safetensors file: its header is no JSON object")
    return _Header(entries, 8 + n_bytes, size)


def _tensor(
    header: _Header,
    name: str,
    dtypes: tuple[str, ...],
    n_axes: int,
) -> _Tensor:
    """The tensor of this name. Raises DataError if it is missing, of another type or shape, or cut off."""
    entry: Any = header.entries.get(name)
    if not isinstance(entry, dict):
        raise DataError(f"no such tensor; it holds {', '.join(header.entries)[:200] or 'none'}", field=name)
    values: list[Any] = [entry.get(key) for key in ("dtype", "shape", "data_offsets")]
    dtype, shape, offsets = values
    if dtype not in dtypes or not _are_sizes(shape, n_axes) or not _are_sizes(offsets, 2):
        got = f"{dtype} {shape}"[:80]
        raise DataError(f"got {got}, expected {' or '.join(dtypes)} of {n_axes} axes", field=name)
    n_bytes = math.prod(shape) * np.dtype(_STORED[dtype]).itemsize
    begin, end = (header.n_bytes + offset for offset in offsets)
    if end - begin != n_bytes or end > header.file_bytes:
        place = f"bytes {begin} to {end} of {header.file_bytes}"
        raise DataError(f"truncated or damaged: {dtype} {shape} at {place}", field=name)
    return _Tensor(dtype, tuple(shape), begin)


def _are_sizes(value: object, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(type(n) is int and 0 <= n < 1 << 63 for n in value)
    )
