"""Pairs to train on where a benchmark needs whole training steps: SNLI's slice, else the generated logic corpus."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.sentences import is_usual, snli_file, snli_pairs
from spinn_tensor.data_prep.columns import Corpus, select
from spinn_tensor.data_prep.pairs import PairExample, pair_columns_from_examples
from spinn_tensor.data_prep.vocabulary import Vocabulary

N_CLASSES = 3


class Pairs(NamedTuple):
    """A corpus of pairs and what it is."""

    source: str
    columns: Corpus
    vocabulary_size: int


def load_pairs(source: str = "auto") -> Pairs:
    """The pairs of an SNLI file, of "logic", or for "auto" of the slice if it is there, else of "logic".

    Raises DataError for a file that is not there or cannot be read.
    """
    if is_usual(source) or source not in ("auto", "logic"):
        path, _ = snli_file(source)
        return _columns(f"SNLI ({path.name})", snli_pairs(source))
    from spinn_tensor.data_prep.logic import LogicConfig, write_corpus

    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder), LogicConfig())
        return _columns("generated logic corpus", snli_pairs(f"{folder}/dev.jsonl"))


def repeated(columns: Corpus, n_pairs: int) -> Corpus:
    """As many pairs with the same distribution of lengths: all of them so often, and the rest drawn."""
    n = len(columns.labels)
    rest = np.random.default_rng(0).permutation(n)[: n_pairs % n]
    return select(columns, np.concatenate((np.tile(np.arange(n), n_pairs // n), rest)))


def _columns(name: str, examples: Iterable[PairExample]) -> Pairs:
    pairs = list(examples)
    words = Counter(
        word for pair in pairs for tree in (pair.premise, pair.hypothesis) for word in tree.tokens
    )
    vocabulary = Vocabulary.from_counts(words)
    return Pairs(name, pair_columns_from_examples(pairs, vocabulary), len(vocabulary))
