"""Trees for the sentences of a corpus that are text: where a parser makes them, or where no model will look at any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from spinn_tensor.data_prep.columns import SentenceColumns, lengths, put_transitions, take


class Parse(Protocol):
    """Find the trees of sentences."""

    @property
    def sha256(self) -> str:
        """Return the digest of what it is made of."""

    def __call__(
        self,
        words: Sequence[str],  # by number
        sentences: SentenceColumns,  # n; their trees are not looked at
        /,
    ) -> np.ndarray:
        """Return transitions (M,) int8, sentence after sentence."""


class TextTrees:
    """Put sentences that are text under trees, and count them."""

    def __init__(
        self,
        parse: Parse | None = None,  # None: they keep right-branching trees, which no model looks at
        *,
        of_all: bool = False,  # of sentences with a tree, too
    ) -> None:
        self.n_sentences = 0  # that were text, of two words or more
        self._parse, self._of_all = parse, of_all

    @property
    def sha256(self) -> str | None:
        """Return the digest of the parser whose trees all sentences get; None where those that come are kept."""
        return self._parse.sha256 if self._parse is not None and self._of_all else None

    @property
    def note(self) -> str | None:
        """Say how many sentences were text, and what became of them; None where there were none."""
        if not self.n_sentences:
            return None
        by = "no tree is looked at" if self._parse is None else f"trees are those of {self._parse}"
        are = "sentence is" if self.n_sentences == 1 else "sentences are"
        return f"{self.n_sentences:,} {are} text without a parse: {by}"

    def put(
        self,
        sentences: SentenceColumns,  # n
        words: Sequence[str],  # by number
        text_mask: np.ndarray,  # (n,) bool, those that are text
    ) -> SentenceColumns:
        """Return the sentences under the trees; labels of nodes go with the trees that are replaced."""
        text_mask = text_mask & (lengths(sentences) > 1)  # one word has one tree
        self.n_sentences += int(text_mask.sum())
        rows = np.flatnonzero(text_mask | self._of_all)
        if self._parse is None or not len(rows):
            return sentences
        sentences = put_transitions(sentences, rows, self._parse(words, take(sentences, rows)))
        return sentences._replace(node_labels=None) if self._of_all else sentences
