"""Numbers for words, and for labels, before all of them are known.

A `Vocabulary` is made of words that have been counted, so that a corpus would have to be read twice: once to count,
once to number. A `WordList` gives the next number to every new word, and when all is read, `renumber` turns its numbers
into those of a vocabulary by one look-up each.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from spinn_tensor.data_prep.columns import SentenceColumns


class WordList:
    """Keep words in the order in which they came."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._index: dict[str, int] = {}
        self.encode(words)

    def encode(self, tokens: Iterable[str]) -> np.ndarray:
        """Return the numbers of the tokens, (number of tokens,) int32; a new one has the next number."""
        index = self._index
        return np.array([index.setdefault(token, len(index)) for token in tokens], dtype=np.int32)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def words(self) -> tuple[str, ...]:
        """Return all words, by number."""
        return tuple(self._index)


def renumber(
    columns: SentenceColumns,
    new_ids: np.ndarray,  # (V,) integers, the new number of each word
) -> SentenceColumns:
    """Give the words of the same sentences other numbers."""
    return columns._replace(token_ids=new_ids.astype(np.int32)[columns.token_ids])
