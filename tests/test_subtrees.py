"""Equal subtrees composed once: as many compositions as distinct subtrees; test_sharing.py has their states."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.tables import ForestTables, forest_tables
from tests.machines import flatten
from tests.strategies import all_transitions, batches_of_transitions

Subtree = int | tuple["Subtree", "Subtree"]


def subtrees(batch: list[np.ndarray], token_ids: np.ndarray) -> list[Subtree]:
    """Return what each transition pushes, as nested pairs of words."""
    words, pushed = iter(token_ids.tolist()), []
    for transitions in batch:
        stack: list[Subtree] = []
        for transition in transitions:
            if transition:
                right = stack.pop()
                stack.append((stack.pop(), right))
            else:
                stack.append(next(words))
            pushed.append(stack[-1])
    return pushed


def shared_tables(
    token_ids: np.ndarray, transitions: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, ForestTables]:
    """Return the distinct words, and tables whose leaves they are."""
    words, leaf_index = np.unique(token_ids, return_inverse=True)
    return words, forest_tables(transitions, lengths, leaf_index=leaf_index)


def assert_shared(batch: list[np.ndarray], token_ids: np.ndarray) -> None:
    pushed = subtrees(batch, token_ids)
    words, tables = shared_tables(token_ids, *flatten(batch))
    assert len(tables.left_index) == len({tree for tree in pushed if isinstance(tree, tuple)})
    rows = dict(zip(pushed, tables.node_index.tolist(), strict=True))
    assert [rows[tree] for tree in pushed] == tables.node_index.tolist()
    assert len(set(rows.values())) == len(rows)
    ends = np.cumsum([len(transitions) for transitions in batch]) - 1
    assert tables.root_index.tolist() == tables.node_index[ends].tolist()
    for tree, row in rows.items():
        if isinstance(tree, tuple):
            slot = row - 1 - len(words)
            assert (tables.left_index[slot], tables.right_index[slot]) == (rows[tree[0]], rows[tree[1]])
    for start, end in zip(tables.step_offsets, tables.step_offsets[1:], strict=False):
        made = 1 + len(words) + start
        assert (tables.left_index[start:end] < made).all()
        assert (tables.right_index[start:end] < made).all()


@given(batches_of_transitions(max_tokens=10), st.integers(1, 4), st.integers(0, 9))
def test_every_subtree_is_composed_once(batch: list[np.ndarray], n_words: int, seed: int) -> None:
    token_ids = np.random.default_rng(seed).integers(3, 3 + n_words, flatten(batch)[1].sum())
    assert_shared(batch, token_ids)


@pytest.mark.parametrize("n_words", [1, 2])
def test_every_tree_of_five_words_beside_all_others(n_words: int) -> None:
    batch = [transitions for n_tokens in range(1, 6) for transitions in all_transitions(n_tokens)]
    token_ids = np.random.default_rng(0).integers(0, n_words, flatten(batch)[1].sum())
    assert_shared(batch, token_ids)


def test_a_sentence_that_comes_again_costs_nothing() -> None:
    tree = np.array([0, 0, 0, 1, 1], dtype=np.int8)
    once = shared_tables(np.array([7, 8, 9]), *flatten([tree]))[1]
    often = shared_tables(np.tile([7, 8, 9], 4), *flatten([tree] * 4))[1]
    np.testing.assert_array_equal(once.left_index, often.left_index)
    np.testing.assert_array_equal(often.root_index, np.repeat(once.root_index, 4))


def test_what_is_no_tree_is_named() -> None:
    with pytest.raises(DataError, match="example 1"):
        shared_tables(np.arange(3), np.array([0, 0, 1, 1], dtype=np.int8), np.array([1, 2]))
