"""The words that are looked for, and what becomes of those that a file lacks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import StrPath
from spinn_tensor.data_prep.token_rules import unescape
from spinn_tensor.data_prep.vocabulary import PAD_ID, UNKNOWN_ID, Vocabulary, lower_case

# Where a token's vector comes from: nowhere, or the spelling of `_spellings` that the file has, the first one counting.
DRAWN, PADDING, EXACT, LOWER, UNESCAPED, UNESCAPED_LOWER = range(6)
_SEED = 0  # of the vectors that are drawn


class WordVectors(NamedTuple):
    """Hold the vectors of V tokens. `str()` says in a line how many of them a file had."""

    matrix: np.ndarray  # (V, D) float32
    n_found: int  # tokens that the file has, in any spelling
    # (V,) int8: PADDING row 0, DRAWN not in the file, else the spelling: EXACT, LOWER, UNESCAPED, …
    origin: np.ndarray

    @property
    def found_mask(self) -> np.ndarray:  # (V,) bool
        """Tell which tokens the file has, in any spelling."""
        return self.origin >= EXACT

    @property
    def n_exact(self) -> int:
        """Count the tokens that the file has as spelt."""
        return int((self.origin == EXACT).sum())

    @property
    def n_lower(self) -> int:
        """Count the tokens that the file has in lower case only."""
        return int((self.origin == LOWER).sum())

    @property
    def n_unescaped(self) -> int:
        """Count the tokens that the file has only without Penn's escapes, `(` for `-LRB-`, in either case."""
        return int((self.origin >= UNESCAPED).sum())

    @property
    def n_missing(self) -> int:
        """Count the tokens that the file lacks, `<unk>` being one like the others."""
        return int((self.origin == DRAWN).sum())

    def scaled(self, norm: float) -> WordVectors:
        """Return the same with every vector but padding's scaled to this length; 0 = as they are."""
        if not norm:
            return self
        lengths = np.linalg.norm(self.matrix, axis=1, keepdims=True)
        return self._replace(
            matrix=self.matrix * (norm / np.where(lengths > 0, lengths, 1)).astype(np.float32)
        )

    def __str__(self) -> str:
        n_tokens = self.n_found + self.n_missing
        text = f"vectors of {self.n_found:,} of {n_tokens:,} tokens ({self.n_found / n_tokens:.1%}): "
        text += f"{self.n_exact:,} as spelt, {self.n_lower:,} in lower case, "
        text += f"{self.n_unescaped:,} unescaped; {self.n_missing:,} drawn"
        return text + (", <unk> among them" if self.origin[UNKNOWN_ID] == DRAWN else "")


def spelling(token: str, origin: int) -> str:
    """Return how a file spells a token, of which `WordVectors.origin` is EXACT or what comes after it."""
    return _spellings(token)[origin - EXACT]


def _spellings(token: str) -> tuple[str, str, str, str]:
    """List how a token is looked up: EXACT, LOWER, UNESCAPED, UNESCAPED_LOWER."""
    lower, plain = lower_case(token), unescape(token)
    return token, lower, plain, lower if plain == token else lower_case(plain)


class WantedWords:
    """Keep a place for the vector of every word that a file is searched for.

    The tokens of the vocabulary have the first V places, in its order; their other spellings that are no tokens
    themselves come after them.
    """

    def __init__(self, vocabulary: Vocabulary, dim: int) -> None:
        self.dim = dim
        self.place: dict[bytes, int] = {token.encode(): row for token, row in vocabulary.index.items()}
        places = np.zeros((len(vocabulary), UNESCAPED_LOWER - EXACT + 1), dtype=np.int64)
        for token, row in vocabulary.index.items():
            for column, word in enumerate(_spellings(token)):
                n_places = 1 + len(self.place)  # the padding's has no word
                places[row, column] = self.place.setdefault(word.encode(), n_places)
        self._places = places  # (V, spellings); 0, where nothing is ever found, of the padding
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
        n_tokens = len(self._places)
        has_spelling = self.found[self._places]  # (V, spellings)
        found, first = has_spelling.any(1), has_spelling.argmax(1)
        if not found.any():
            raise DataError(f"none of the {n_tokens} words of the vocabulary is in it", path=path)
        origin = np.where(found, EXACT + first, DRAWN).astype(np.int8)
        origin[PAD_ID] = PADDING
        other = np.flatnonzero(origin > EXACT)  # the places that they read from are not among them
        self._vectors[other] = self._vectors[self._places[other, first[other]]]
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
