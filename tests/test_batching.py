"""Batches of an epoch, and of an evaluation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model
from spinn_tensor.data_prep.batching import epoch_batches
from spinn_tensor.data_prep.columns import Corpus
from spinn_tensor.data_prep.pairs import PairExample, pair_columns_from_examples
from spinn_tensor.data_prep.treebank import treebank_columns
from spinn_tensor.data_prep.trees import right_branching
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.training.evaluate import (
    EVALUATION_BATCH,
    TOKENS,
    batches,
    predict_probabilities,
    sentence_batches,
)
from tests.closeness import assert_close

pytestmark = pytest.mark.numerical

LENGTHS = np.random.default_rng(0).integers(1, 60, 1_000)


def as_lists(batches: list[np.ndarray]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


@given(
    st.lists(st.integers(1, 9), max_size=60),
    st.integers(1, 9),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 2**40),
    st.integers(0, 5),
)
def test_every_row_comes_once(
    lengths: list[int], batch_size: int, pool: int, shuffle: bool, seed: int, epoch: int
) -> None:
    batches = epoch_batches(
        np.array(lengths, dtype=np.int64), batch_size, seed=seed, epoch=epoch, shuffle=shuffle, pool=pool
    )
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(lengths)))
    sizes = sorted((len(batch) for batch in batches), reverse=True)
    assert all(size == batch_size for size in sizes[:-1])
    assert len(batches) == -(-len(lengths) // batch_size)
    assert all(batch.dtype == np.int64 for batch in batches)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), max_size=60),
    st.integers(1, 60),
    st.integers(1, 9),
    st.booleans(),
)
@example([(1, 2)] * 4, 4, 2, False)  # to the last token
def test_a_budget_is_kept_and_used_up(
    sizes: list[tuple[int, int]], budget: int, batch_size: int, shuffle: bool
) -> None:
    lengths, n_tokens = np.array(sizes, dtype=np.int64).reshape(-1, 2).T
    batches = epoch_batches(
        lengths, batch_size, seed=1, epoch=0, shuffle=shuffle, pool=99, n_tokens=n_tokens, token_budget=budget
    )
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or n_tokens[batch].sum() <= budget
    if not shuffle:  # one row more would have been too many
        for batch, following in pairwise(batches):
            assert n_tokens[batch].sum() + n_tokens[following[0]] > budget


def test_a_budget_needs_the_tokens() -> None:
    with pytest.raises(ValueError, match="n_tokens"):
        epoch_batches(LENGTHS, 8, seed=0, epoch=0, token_budget=100)


def test_seed_and_epoch_decide() -> None:
    first = as_lists(epoch_batches(LENGTHS, 32, seed=1, epoch=2))
    assert first == as_lists(epoch_batches(LENGTHS, 32, seed=1, epoch=2))
    assert first != as_lists(epoch_batches(LENGTHS, 32, seed=1, epoch=3))
    assert first != as_lists(epoch_batches(LENGTHS, 32, seed=2, epoch=2))


def test_rows_are_sorted_within_a_pool_and_batches_shuffled() -> None:
    batches = epoch_batches(LENGTHS, 10, seed=0, epoch=0, pool=20)
    spread = [np.ptp(LENGTHS[batch]) for batch in batches]
    assert np.mean(spread) < 5 < 30 < np.ptp(LENGTHS)
    means = [LENGTHS[batch].mean() for batch in batches]
    assert np.mean(np.diff(means) > 0) < 0.7  # not in the order of their lengths


def test_rows_of_a_pool_are_drawn_from_the_whole_corpus() -> None:
    lengths = np.repeat([1, 50], 500)
    batches = epoch_batches(lengths, 10, seed=0, epoch=0, pool=1)
    assert sum(np.ptp(lengths[batch]) > 0 for batch in batches) > 90


def test_unshuffled_batches_are_sorted_the_longest_first() -> None:
    batches = epoch_batches(LENGTHS, 32, seed=0, epoch=0, shuffle=False)
    assert (np.diff(LENGTHS[np.concatenate(batches)]) <= 0).all()
    assert as_lists(batches) == as_lists(epoch_batches(LENGTHS, 32, seed=9, epoch=9, shuffle=False))


@pytest.mark.parametrize("batch_size, pool", [(0, 1), (1, 0)])
def test_sizes_below_one_are_refused(batch_size: int, pool: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        epoch_batches(LENGTHS, batch_size, seed=0, epoch=0, pool=pool)


@pytest.mark.parametrize("of_pairs", [False, True])
def test_a_corpus_of_long_sentences_is_scored_in_small_batches(of_pairs: bool) -> None:
    tokens = tuple(np.random.default_rng(0).choice(list("abcd"), size=2_000))
    trees = [right_branching(tokens[:n]) for n in [2_000] * 20 + [3, 1]]
    vocabulary = Vocabulary.build([tokens])
    task = "pair" if of_pairs else "sentence"
    encoder = EncoderConfig(len(vocabulary), kind="bow", embedding_dim=2, hidden_dim=2, tracker_dim=2)
    model = build_model(ModelConfig(task, tuple("xyz"), encoder, ClassifierConfig(3, mlp_dim=4))).eval()
    corpus: Corpus = treebank_columns(trees, vocabulary)
    longest = 2_000
    if of_pairs:
        pairs = [PairExample(tree, tree, "neutral", "") for tree in trees]
        corpus, longest = pair_columns_from_examples(pairs, vocabulary), 4_000
    found = list(batches(model, corpus, EVALUATION_BATCH))
    assert sorted(np.concatenate([rows for rows, _ in found]).tolist()) == list(range(len(trees)))
    assert max(len(batch.sentences.token_ids) for _, batch in found) < TOKENS + longest
    probabilities = predict_probabilities(model, corpus)
    assert_close(probabilities, predict_probabilities(model, corpus, batch_size=1))


def test_batches_of_long_sentences_are_small() -> None:
    n_tokens = np.array([3, 2 * TOKENS, *[1000] * 100, 2])
    found = list(sentence_batches(n_tokens))
    assert sorted(np.concatenate(found).tolist()) == list(range(len(n_tokens)))
    assert all(n_tokens[rows[:-1]].sum() < TOKENS for rows in found)
    assert list(sentence_batches(np.zeros(0, dtype=np.int64))) == []
