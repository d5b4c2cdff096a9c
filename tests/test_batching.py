"""Test the batches of an epoch, and of an evaluation."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model
from spinn_tensor.data_prep import Example, batching, corpus_of
from spinn_tensor.data_prep.batching import epoch_batches, length_batches
from spinn_tensor.data_prep.trees import right_branching
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.inference import BATCH_TOKENS, EVALUATION_BATCH, corpus_batches, predict_logits
from tests.closeness import assert_close

pytestmark = pytest.mark.numerical

LENGTHS = np.random.default_rng(0).integers(1, 60, 1_000)


def as_lists(batches: list[np.ndarray]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


@given(
    st.lists(st.integers(1, 9), max_size=60).map(lambda lengths: 5 * lengths),  # several pools
    st.integers(1, 9),
    st.integers(0, 2**40),
    st.integers(0, 5),
)
@example([3, 1, 2], 10**20, 0, 0)
def test_every_row_comes_once(lengths: list[int], batch_size: int, seed: int, epoch: int) -> None:
    batches = epoch_batches(np.array(lengths, dtype=np.int64), batch_size, seed=seed, epoch=epoch)
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(lengths)))
    sizes = sorted((len(batch) for batch in batches), reverse=True)
    assert all(size == batch_size for size in sizes[:-1])
    assert len(batches) == -(-len(lengths) // batch_size)
    assert all(batch.dtype == np.int64 for batch in batches)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), max_size=60),
    st.integers(1, 60),
    st.integers(1, 9),
)
@example([(1, 2)] * 4, 4, 2)  # to the last token
@example([(1, 2)] * 4, 10**20, 2)
def test_a_budget_is_kept_and_used_up(sizes: list[tuple[int, int]], budget: int, batch_size: int) -> None:
    lengths, n_tokens = np.array(sizes, dtype=np.int64).reshape(-1, 2).T
    batches = epoch_batches(lengths, batch_size, seed=1, epoch=0, n_tokens=n_tokens, token_budget=budget)
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or n_tokens[batch].sum() <= budget
    assert len(batches) <= 1 or n_tokens.sum() > budget


def test_a_budget_needs_the_tokens() -> None:
    with pytest.raises(ValueError, match="n_tokens"):
        epoch_batches(LENGTHS, 8, seed=0, epoch=0, token_budget=100)


def test_seed_and_epoch_decide() -> None:
    first = as_lists(epoch_batches(LENGTHS, 32, seed=1, epoch=2))
    assert first == as_lists(epoch_batches(LENGTHS, 32, seed=1, epoch=2))
    assert first != as_lists(epoch_batches(LENGTHS, 32, seed=1, epoch=3))
    assert first != as_lists(epoch_batches(LENGTHS, 32, seed=2, epoch=2))


def test_rows_are_sorted_within_a_pool_and_batches_shuffled() -> None:
    batches = epoch_batches(LENGTHS, 2, seed=0, epoch=0)
    spread = [np.ptp(LENGTHS[batch]) for batch in batches]
    assert np.mean(spread) < 5 < 30 < np.ptp(LENGTHS)
    means = [LENGTHS[batch].mean() for batch in batches]
    assert np.mean(np.diff(means) > 0) < 0.7  # not in the order of their lengths


def test_rows_of_a_pool_are_drawn_from_the_whole_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "POOL", 1)
    lengths = np.repeat([1, 50], 500)
    batches = epoch_batches(lengths, 10, seed=0, epoch=0)
    assert sum(np.ptp(lengths[batch]) > 0 for batch in batches) > 90


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("most", [None, 1, 7])
def test_batches_by_length_hold_every_row_once_and_as_many_as_fit(padded: bool, most: int | None) -> None:
    n_tokens = np.random.default_rng(0).integers(1, 30, 200)
    n_tokens[17] = 500
    made = list(length_batches(n_tokens, tokens=100, rows=most, padded=padded))
    rows = np.concatenate(made)
    assert (np.diff(n_tokens[rows]) <= 0).all()
    np.testing.assert_array_equal(np.sort(rows), np.arange(200))

    def size(batch: np.ndarray) -> int:
        return int(n_tokens[batch].max() * len(batch) if padded else n_tokens[batch].sum())

    assert made[0].tolist() == [17]
    for batch, following in pairwise(made[1:]):
        assert size(batch) <= 100
        assert len(batch) == most or size(np.append(batch, following[0])) > 100
    assert list(length_batches(n_tokens[:0], tokens=100)) == []


def test_a_size_below_one_and_a_budget_without_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        epoch_batches(LENGTHS, 0, seed=0, epoch=0)
    with pytest.raises(ValueError, match="a token_budget needs the n_tokens"):
        epoch_batches(LENGTHS, 1, seed=0, epoch=0, token_budget=9)


@pytest.mark.parametrize("of_pairs", [False, True])
def test_a_corpus_of_long_sentences_is_scored_in_small_batches(of_pairs: bool) -> None:
    tokens = tuple(np.random.default_rng(0).choice(list("abcd"), size=2_000))
    trees = [right_branching(tokens[:n]) for n in [2_000] * 20 + [3, 1]]
    vocabulary = Vocabulary.build([tokens])
    task = "pair" if of_pairs else "sentence"
    encoder = EncoderConfig(len(vocabulary), kind="bow", embedding_dim=2, hidden_dim=2, tracker_dim=2)
    model = build_model(ModelConfig(task, tuple("xyz"), encoder, ClassifierConfig(3, mlp_dim=4))).eval()
    corpus = corpus_of((Example((tree, tree) if of_pairs else (tree,)) for tree in trees), vocabulary)
    found = list(corpus_batches(model, corpus, EVALUATION_BATCH))
    assert sorted(np.concatenate([rows for rows, _ in found]).tolist()) == list(range(len(trees)))
    assert max(len(batch.sentences.token_ids) for _, batch in found) <= BATCH_TOKENS
    assert_close(predict_logits(model, corpus), predict_logits(model, corpus, batch_size=1))


@given(lengths=st.lists(st.integers(1, 9), max_size=8), overhead=st.integers(0, 5))
def test_rows_are_parted_by_length_at_the_least_cost(lengths: list[int], overhead: int) -> None:
    """Held against all ways to cut the sorted rows."""
    rows = np.array(lengths, dtype=np.int64)
    batches = list(length_batches(rows, tokens=1000, padded=True, overhead=overhead))
    assert np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *batches])).tolist() == list(range(len(rows)))
    in_order = sorted(lengths, reverse=True)

    def cost(parts: list[list[int]]) -> int:
        return sum(max(part) * (len(part) + overhead) for part in parts if part)

    cuts = [combinations(range(1, len(lengths)), n) for n in range(len(lengths) + 1)]
    every = [np.split(np.array(in_order), cut) for some in cuts for cut in some]
    least = min((cost([part.tolist() for part in parts]) for parts in every), default=0)
    assert cost([rows[batch].tolist() for batch in batches]) == least
