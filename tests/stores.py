"""A prepared corpus, and whether two are the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from spinn_tensor.data_prep.columns import Corpus
from spinn_tensor.data_prep.corpora.store import PreparedCorpus, Split
from tests.strategies import columns_of, transitions_from_choices


def assert_same(got: Any, expected: Any) -> None:
    """Named tuples of arrays, and of what compares."""
    if isinstance(expected, np.ndarray):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
    elif isinstance(expected, tuple) and hasattr(expected, "_fields"):
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert_same(got[name], value)
    else:
        assert got == expected


def random_corpus(n_words: int, task: str = "pair") -> PreparedCorpus:
    import pyarrow as pa

    rng = np.random.default_rng(0)

    def sentences(n: int) -> Any:
        n_tokens = rng.integers(1, 12, n)
        columns = columns_of([transitions_from_choices(k, rng.random(2 * k - 1) < 0.5) for k in n_tokens])
        ids = rng.integers(0, n_words, len(columns.token_ids)).astype(np.int32)
        return columns._replace(token_ids=ids)

    def split(n: int) -> Split:
        labels = np.where(rng.random(n) < 0.2, -100, rng.integers(0, 3, n))
        names = pa.array([f"é {i}" for i in range(n)])
        if task == "pair":
            return Split(Corpus.of_pairs(sentences(n), sentences(n), labels), names)
        labelled = sentences(n)
        labelled = labelled._replace(node_labels=rng.integers(0, 3, len(labelled.transitions)))
        return Split(Corpus(labelled, labels), names)

    words = tuple(f"word {i}" for i in range(n_words))
    return PreparedCorpus(task, ("a", "b", "c"), words, {"train": split(50), "dev": split(7)})
