"""word2vec's binary form: "V D\\n", then V times a word, a blank and D little-endian float32.

Some writers end each vector with a newline, which is then taken off the next word.
"""

from __future__ import annotations

import re

import numpy as np

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.vectors.files import BLOCK_BYTES, ByteSource
from spinn_tensor.data_prep.vectors.words import WantedWords

_HEADER = re.compile(rb"(\d{1,12}) (\d{1,9}) ?\r?\n")
_MAX_HEADER, _MAX_WORD = 32, 1 << 16  # bytes


def read_word2vec(source: ByteSource, words: WantedWords) -> None:
    """Read the vectors of the wanted words.

    Raises DataError for a bad header and, naming the word's number and its first byte, both counted from 1 in the
    unpacked file, for an end too early, a word without an end, a number that is not finite, and bytes after the
    last vector.
    """
    n_words, position = _header(source, words.dim)
    n_bytes = 4 * words.dim
    block_bytes = max(BLOCK_BYTES, _MAX_WORD + n_bytes)
    block, start = b"", 0  # what is read but not used yet begins at `start`
    for number in range(1, n_words + 1):
        end = block.find(b" ", start)
        if not 0 <= end < len(block) - n_bytes:
            position += start
            block, start = block[start:] + source.read(block_bytes), 0
            end = block.find(b" ")
        if not 0 <= end < len(block) - n_bytes or end - start > _MAX_WORD:
            reason = "no blank after the word"
            if len(block) - start <= _MAX_WORD + n_bytes:
                reason = f"the file ends early, {n_words} words expected"
            raise _error(source, number, position + start, reason)
        place = words.place.get(block[start:end].lstrip(b"\n"))
        if place is not None and not words.found[place]:
            try:
                words.put(place, np.frombuffer(block, dtype="<f4", count=words.dim, offset=end + 1))
            except DataError as error:
                raise _error(source, number, position + start, error.reason) from None
        start = end + 1 + n_bytes
    if (block[start:] + source.read(2)).strip(b"\n"):
        raise _error(source, n_words + 1, position + start, f"more data, {n_words} words expected")


def _header(source: ByteSource, dim: int) -> tuple[int, int]:
    """How many words there are, and how many bytes were read. Raises DataError."""
    line = next(source.lines(_MAX_HEADER), b"")
    match = _HEADER.fullmatch(line)
    if match is None:
        reason = 'expected a first line of two numbers, "words dimension"' if line else "an empty file"
        raise DataError(reason, path=source.path)
    n_words, n_numbers = map(int, match.groups())
    if n_numbers != dim:
        raise DataError(
            f"the file says that its vectors have {n_numbers} numbers, expected {dim}", path=source.path
        )
    return n_words, len(line)


def _error(source: ByteSource, number: int, position: int, reason: str) -> DataError:
    return DataError(f"word {number:,} at byte {position + 1:,}: {reason}", path=source.path)
