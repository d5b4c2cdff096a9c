"""Draw and enumerate trees for the tests of data, tables and machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from hypothesis import strategies as st

from spinn_tensor.data_prep.columns import SentenceColumns
from spinn_tensor.data_prep.trees import REDUCE, SHIFT, Tree


def left_branching(n_tokens: int) -> np.ndarray:
    """Return the transitions of ( ( ( a b ) c ) d ): (2N-1,) int8."""
    return np.array([SHIFT] + [SHIFT, REDUCE] * (n_tokens - 1), dtype=np.int8)


def right_branching(n_tokens: int) -> np.ndarray:
    """Return the transitions of ( a ( b ( c d ) ) ): (2N-1,) int8."""
    return np.array([SHIFT] * n_tokens + [REDUCE] * (n_tokens - 1), dtype=np.int8)


def transitions_from_choices(n_tokens: int, prefer_reduce: Sequence[bool]) -> np.ndarray:
    """Return transitions, (2N-1,) int8, that follow 2N-1 choices where both are possible; every tree can be had."""
    transitions, n_shifted, depth = [], 0, 0
    for reduce in prefer_reduce:
        reduces = depth >= 2 and (reduce or n_shifted == n_tokens)
        transitions.append(REDUCE if reduces else SHIFT)
        n_shifted += not reduces
        depth += -1 if reduces else 1
    return np.array(transitions, dtype=np.int8)


@st.composite
def binary_transitions(draw: st.DrawFn, min_tokens: int = 1, max_tokens: int = 12) -> np.ndarray:
    """Draw the transitions of a binary tree, (2N-1,) int8, often of a pure left- or right-branching one."""
    n_tokens = draw(st.integers(min_tokens, max_tokens))
    shape = draw(st.sampled_from(["random", "random", "random", "left", "right"]))
    if shape == "left":
        return left_branching(n_tokens)
    if shape == "right":
        return right_branching(n_tokens)
    n_transitions = 2 * n_tokens - 1
    choices = draw(st.lists(st.booleans(), min_size=n_transitions, max_size=n_transitions))
    return transitions_from_choices(n_tokens, choices)


def batches_of_transitions(
    min_batch: int = 1, max_batch: int = 8, min_tokens: int = 1, max_tokens: int = 12
) -> st.SearchStrategy[list[np.ndarray]]:
    """Draw a batch of trees of differing lengths: a list of (2N-1,) int8."""
    return st.lists(binary_transitions(min_tokens, max_tokens), min_size=min_batch, max_size=max_batch)


@cache
def _all_shapes(n_tokens: int) -> tuple[tuple[int, ...], ...]:
    if n_tokens == 1:
        return ((SHIFT,),)
    return tuple(
        (*left, *right, REDUCE)
        for n_left in range(1, n_tokens)
        for left in _all_shapes(n_left)
        for right in _all_shapes(n_tokens - n_left)
    )


def all_transitions(n_tokens: int) -> Iterator[np.ndarray]:
    """Enumerate every binary tree of n_tokens leaves, Catalan(n_tokens - 1) of them: (2N-1,) int8 each."""
    for shape in _all_shapes(n_tokens):
        yield np.array(shape, dtype=np.int8)


def tree_of(transitions: np.ndarray, labels: np.ndarray | None = None) -> Tree:
    """Make the tree of these transitions, its words named w1, w2, ..."""
    n_tokens = (len(transitions) + 1) // 2
    return Tree(tuple(f"w{i}" for i in range(1, n_tokens + 1)), transitions, labels)


def columns_of(batch: Sequence[np.ndarray]) -> SentenceColumns:
    """Make columns of a batch of transitions; the tokens of the batch are numbered 0, 1, 2, ... as they come."""
    lengths = np.array([(len(transitions) + 1) // 2 for transitions in batch], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = np.concatenate([np.zeros(0, np.int8), *batch]).astype(np.int8)
    return SentenceColumns(np.arange(offsets[-1], dtype=np.int32), offsets, flat, None)


def assert_same_tree(got: Tree, expected: Tree) -> None:
    """Assert that tokens, transitions and labels are equal, and of the dtypes that columns have."""
    assert got.tokens == expected.tokens
    assert got.transitions.dtype == np.int8
    np.testing.assert_array_equal(got.transitions, expected.transitions)
    assert (got.labels is None) == (expected.labels is None)
    if got.labels is not None:
        assert got.labels.dtype == np.int64
        np.testing.assert_array_equal(got.labels, expected.labels)
