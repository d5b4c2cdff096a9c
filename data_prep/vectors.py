"""Word vectors in GloVe's text format: a word and its numbers a line, separated by blanks."""

from __future__ import annotations

import numpy as np

from data_prep.errors import DataError
from data_prep.files import StrPath, open_text
from data_prep.vocabulary import PAD_ID, Vocabulary

_SEED = 0  # of the vectors of words that the file lacks: the same vocabulary and file give the same matrix


def read_vectors(
    path: StrPath,  # text, plain or .gz; read line by line
    vocabulary: Vocabulary,  # V tokens
    dim: int,  # D
) -> tuple[np.ndarray, int]:
    """Vectors of the vocabulary's tokens, (V, D) float32, and how many of them the file has.

    The others are drawn from N(0, s), s being the standard deviation of the numbers found; row 0, the
    padding's, is zero. Where the file has a word twice, the first counts. Raises DataError naming a line that
    has not one word and D finite numbers, and DataError if no word is found.
    """
    matrix = np.zeros((len(vocabulary), dim), dtype=np.float32)
    found = np.zeros(len(vocabulary), dtype=bool)
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            # From the right, since a few words of the 840B vectors have blanks in them.
            word, *numbers = line.rstrip("\r\n ").rsplit(" ", dim)
            if len(numbers) != dim or (number == 1 and " " in word):
                n_numbers = line.rstrip().count(" ")
                raise DataError(f"got {n_numbers} numbers, expected {dim}", path=path, line=number)
            row = vocabulary.index.get(word)
            if row is not None and not found[row]:
                matrix[row] = _numbers(numbers, path, number)
                found[row] = True
    if not found.any():
        raise DataError(f"none of the {len(vocabulary)} words of the vocabulary is in it", path=path)
    missing = ~found
    missing[PAD_ID] = False
    generator = np.random.Generator(np.random.PCG64(_SEED))
    matrix[missing] = generator.normal(0.0, matrix[found].std(), (int(missing.sum()), dim))
    return matrix, int(found.sum())


def _numbers(numbers: list[str], path: StrPath, line: int) -> np.ndarray:
    """(D,) float32."""
    try:
        vector = np.array(numbers, dtype=np.float32)
    except ValueError as error:
        raise DataError(str(error), path=path, line=line) from error
    if not np.isfinite(vector).all():
        raise DataError("a number that is not finite", path=path, line=line)
    return vector
