"""Batches of an epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.batching import epoch_batches

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
