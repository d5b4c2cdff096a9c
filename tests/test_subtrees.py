"""Equal subtrees composed once: as many compositions as distinct subtrees, and the same states and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spinn_tensor import run_forest, to_torch
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.tables import ForestTables, forest_tables
from tests.machines import flatten, random_weights
from tests.strategies import all_transitions, batches_of_transitions

pytestmark = pytest.mark.numerical

Subtree = int | tuple["Subtree", "Subtree"]
HIDDEN = 3


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


def nodes(leaves: Tensor, batch: list[np.ndarray]) -> Tensor:
    """Return h of every node, each subtree composed where it is."""
    tables = to_torch(forest_tables(*flatten(batch)))
    return run_forest(leaves, random_weights(HIDDEN, None)[0], tables, tables.node_index)


def assert_shared(batch: list[np.ndarray], token_ids: np.ndarray) -> None:
    pushed = subtrees(batch, token_ids)
    words, tables = shared_tables(token_ids, *flatten(batch))
    assert len(tables.left_index) == len({tree for tree in pushed if isinstance(tree, tuple)})
    assert len({*zip(pushed, tables.node_index.tolist(), strict=True)}) == len(set(pushed))
    for start, end in zip(tables.step_offsets, tables.step_offsets[1:], strict=False):
        made = 1 + len(words) + start
        assert (tables.left_index[start:end] < made).all()
        assert (tables.right_index[start:end] < made).all()
    embedding = torch.randn(
        len(words), 2 * HIDDEN, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    alone = embedding[np.searchsorted(words, token_ids)].requires_grad_()
    together = embedding.clone().requires_grad_()
    torch_tables = to_torch(tables)
    weights = random_weights(HIDDEN, None)[0]
    got = run_forest(together, weights, torch_tables, torch_tables.node_index)
    expected = nodes(alone, batch)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(run_forest(together, weights, torch_tables), expected[_ends(batch)])
    loss_weight = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (grad,) = torch.autograd.grad((got * loss_weight).sum(), together)
    (grad_alone,) = torch.autograd.grad((expected * loss_weight).sum(), alone)
    summed = torch.zeros_like(grad).index_add(
        0, torch.from_numpy(np.searchsorted(words, token_ids)), grad_alone
    )
    torch.testing.assert_close(grad, summed)


def _ends(batch: list[np.ndarray]) -> np.ndarray:
    return np.cumsum([len(transitions) for transitions in batch]) - 1


@given(batches_of_transitions(max_tokens=10), st.integers(1, 4), st.integers(0, 9))
def test_states_and_gradients(batch: list[np.ndarray], n_words: int, seed: int) -> None:
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
