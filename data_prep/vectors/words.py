"""The words that are looked for, and what becomes of those that a file lacks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import StrPath
from spinn_tensor.data_prep.vocabulary import PAD_ID, UNKNOWN_ID, Vocabulary, lower_case

DRAWN, EXACT, LOWER, PADDING = range(4)  # where a token's vector comes from
_SEED = 0  # of the vectors that are drawn


class WordVectors(NamedTuple):
    """Hold the vectors of V tokens. `str()` says in a line how many of them a file had."""

    matrix: np.ndarray  # (V, D) float32
    n_found: int  # tokens that the file has, as spelt or in lower case
    origin: np.ndarray  # (V,) int8: EXACT as spelt, LOWER in lower case, DRAWN not in the file, PADDING row 0

    @property
    def n_exact(self) -> int:
        """Count the tokens that the file has as spelt."""
        return int((self.origin == EXACT).sum())

    @property
    def n_lower(self) -> int:
        """Count the tokens that the file has in lower case only."""
        return int((self.origin == LOWER).sum())

    @property
    def n_missing(self) -> int:
        """Count the tokens that the file lacks, `<unk>` being one like the others."""
        return int((self.origin == DRAWN).sum())

    def __str__(self) -> str:
        n_tokens = self.n_found + self.n_missing
        text = f"vectors of {self.n_found:,} of {n_tokens:,} tokens ({self.n_found / n_tokens:.1%}): "
        text += f"{self.n_exact:,} as spelt, {self.n_lower:,} in lower case; {self.n_missing:,} drawn"
        return text + (", <unk> among them" if self.origin[UNKNOWN_ID] == DRAWN else "")


class WantedWords:
    """Keep a place for the vector of every word that a file is searched for.

    The tokens of the vocabulary have the first V places, in its order; lower-case forms that are no tokens
    themselves come after them.
    """

    def __init__(self, vocabulary: Vocabulary, dim: int) -> None:
        self.dim = dim
        self.place: dict[bytes, int] = {token.encode(): row for token, row in vocabulary.index.items()}
        self._n_tokens = len(vocabulary)
        self._lower = np.arange(self._n_tokens)  # place of each token's lower case; its own, if it is that
        for token, row in vocabulary.index.items():
            if (lower := lower_case(token)) != token:
                n_places = 1 + len(self.place)  # the padding's has no word
                self._lower[row] = self.place.setdefault(lower.encode(), n_places)
        n_places = 1 + len(self.place)
        self.found = np.zeros(n_places, dtype=bool)
        self._vectors = np.zeros((n_places, dim), dtype=np.float32)

    def put(
        self,
        place: int,
        vector: np.ndarray,  # (D,) float
    ) -> None:
        """Keep a vector. Raises DataError if it is not finite in float32."""
        row = self._vectors[place]
        with np.errstate(over="ignore"):
            row[:] = vector
        if not np.isfinite(row).all():
            raise DataError("a number that is not finite in float32")
        self.found[place] = True

    def result(
        self,
        path: StrPath,  # for errors
    ) -> WordVectors:
        """Return every token's vector; raises DataError if none was found."""
        n_tokens = self._n_tokens
        origin = np.full(n_tokens, DRAWN, dtype=np.int8)
        exact = self.found[:n_tokens]
        lower = ~exact & self.found[self._lower]
        origin[exact], origin[lower], origin[PAD_ID] = EXACT, LOWER, PADDING
        found = exact | lower
        if not found.any():
            raise DataError(f"none of the {n_tokens} words of the vocabulary is in it", path=path)
        self._vectors[:n_tokens][lower] = self._vectors[self._lower[lower]]
        matrix = self._vectors[:n_tokens]
        if n_tokens < len(self._vectors):
            matrix = matrix.copy()  # or the rest would live as long
        missing = origin == DRAWN
        if missing.any():
            matrix[missing] = _drawn(matrix[found], int(missing.sum()), path)
        return WordVectors(matrix, int(found.sum()), origin)


def _drawn(
    found: np.ndarray,  # (n, D) float32
    n_missing: int,
    path: StrPath,
) -> np.ndarray:  # (n_missing, D) float64
    with np.errstate(over="ignore", invalid="ignore"):
        scale = found.std()
    if not np.isfinite(scale):
        raise DataError("the numbers are too large for a standard deviation in float32", path=path)
    generator = np.random.Generator(np.random.PCG64(_SEED))
    return generator.normal(0.0, scale, (n_missing, found.shape[1]))
