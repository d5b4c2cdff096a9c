"""GloVe's text: a word and its D numbers a line, separated by one blank each.

    the 0.27204 -0.06203 -0.1884 …

word2vec's text has a first line besides with the number of words and D. Lines end at "\\n" alone, for words hold other
line ends of Unicode; a few words of glove.840B hold blanks (`. . .`), and so numbers are counted from the right. Words
are compared as UTF-8 bytes.
"""

from __future__ import annotations

import re

import numpy as np

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.vectors.files import ByteSource
from spinn_tensor.data_prep.vectors.words import WantedWords

_HEADER = re.compile(rb"(\d{1,12}) (\d{1,9})")
_MAX_WORD, _MAX_NUMBER = 1 << 16, 64  # bytes; a longer line is no line of vectors


def read_text(source: ByteSource, words: WantedWords) -> None:
    """Read the vectors of the wanted words.

    Raises DataError naming the line: another number of numbers than D, on any line; of wanted words, what is no
    finite number; fewer or more words than a header says; an empty file.
    """
    dim, place_of, found = words.dim, words.place.get, words.found
    n_words, number = None, 0
    try:
        for number, line in enumerate(source.lines(_MAX_WORD + _MAX_NUMBER * dim), start=1):
            line = line.rstrip(b"\r\n ")
            if number == 1 and (n_words := _header(line, dim)) is not None:
                continue
            end = line.find(b" ") if line.count(b" ") == dim else _end_of_word(line, dim, number == 1)
            place = place_of(line[:end])
            if place is not None and not found[place]:
                words.put(place, _numbers(line[end + 1 :]))
    except DataError as error:
        raise error.at(path=source.path, line=number) from error.__cause__
    if not number:
        raise DataError("an empty file", path=source.path)
    if n_words is not None and number - 1 != n_words:
        raise DataError(f"got {number - 1} words, line 1 says {n_words}", path=source.path)


def _header(line: bytes, dim: int) -> int | None:
    """How many words the first line says there are; None if it is no header. Raises DataError."""
    match = _HEADER.fullmatch(line)
    if match is None:
        return None
    n_words, n_numbers = map(int, match.groups())
    if n_numbers == dim:
        return n_words
    if dim == 1:
        return None  # a number that has a vector of one number
    raise DataError(f"the file says that its vectors have {n_numbers} numbers, expected {dim}")


def _end_of_word(line: bytes, dim: int, is_first: bool) -> int:
    """Where the word of a line ends that has not D blanks. Raises DataError if it has not D numbers."""
    word = line.rsplit(b" ", dim)[0]
    n_blanks = line.count(b" ")
    # Few words have blanks; where the second part is a number, it is rather a longer vector, or two lines in one.
    if n_blanks < dim or is_first or _is_number(word.split(b" ", 2)[1]):
        raise DataError(f"got {n_blanks} numbers, expected {dim}")
    return len(word)


def _numbers(text: bytes) -> np.ndarray:  # (D,) float64
    fields = text.split(b" ")
    try:
        if b"_" in text:
            raise ValueError  # float() takes 1_000, which nobody writes into such a file
        return np.array([float(field) for field in fields])
    except ValueError:
        position, wrong = next((i, f) for i, f in enumerate(fields, start=1) if not _is_number(f))
        got = wrong[:40].decode("utf-8", "replace")
        raise DataError(f"got {got!r}, expected a number", field=f"number {position}") from None


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return b"_" not in field
