"""Every executor over every kind of tables keeps the contract; what it does not run is refused."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from spinn_tensor import TransitionWeights, run_forest, run_given, run_taught, to_torch
from spinn_tensor.data_prep.tables import forest_tables, lane_tables
from tests.contract import HIDDEN, Executor, ExecutorContract
from tests.machines import MACHINE_IDS, MACHINES, TRACKER, flatten, random_leaves, random_weights, run
from tests.strategies import left_branching

pytestmark = pytest.mark.numerical

N_SPARE = 6  # leaf rows of fixed shapes beyond the words


def taught(leaves, compose, tracker, batch, every_node) -> Tensor:
    """Run given transitions as teacher forcing does, beside their scores."""
    silent = TransitionWeights(leaves.new_zeros(2, tracker.weight_hidden.shape[1]), leaves.new_zeros(2))
    tables = to_torch(lane_tables(*flatten(batch)))
    return run_taught(leaves, compose, tracker, silent, tables, every_node=every_node).encodings


def of_fixed_shape(leaves, compose, tracker, batch, every_node) -> Tensor:
    """Run tables as captured steps replay them: every step of one width, and leaf rows that are no words."""
    padded = torch.cat((leaves, torch.full((N_SPARE, leaves.shape[1]), 100.0, dtype=leaves.dtype)))
    options = {"padded": True, "n_leaf_rows": len(padded)}
    if tracker is None:
        tables = to_torch(forest_tables(*flatten(batch), **options))
        return run_forest(padded, compose, tables, tables.node_index if every_node else None)
    tables = to_torch(lane_tables(*flatten(batch), width=2, **options))
    return run_given(padded, compose, tracker, tables, tables.node_index if every_node else None)


EXECUTORS = {
    **{
        name: Executor(machine[1], partial(run, machine[0]))
        for name, machine in zip(MACHINE_IDS, MACHINES, strict=True)
    },
    "taught": Executor(True, taught),
    "fixed shape": Executor(False, of_fixed_shape),
    "fixed shape, tracker": Executor(True, of_fixed_shape),
}


@pytest.fixture(scope="module", params=EXECUTORS.values(), ids=EXECUTORS)
def executor(request) -> Executor:
    """Give each of them."""
    return request.param


class TestExecutors(ExecutorContract):
    """All executors, over all kinds of tables."""


def test_mixed_precision_and_the_wrong_tables_are_refused() -> None:
    batch = [left_branching(3)]
    compose, _ = random_weights(HIDDEN, None)
    leaves = random_leaves(batch, HIDDEN)
    with pytest.raises(TypeError, match=r"one dtype, got torch.float32, torch.float64"):
        run("forest", leaves.float(), compose, None, batch)
    with pytest.raises(TypeError, match="got LaneTables; run_forest reads ForestTables"):
        run_forest(leaves, compose, to_torch(lane_tables(*flatten(batch))))


@pytest.mark.parametrize("name", ["forest", "forest, narrow", "forest, hoisted", "given", "given, hoisted"])
def test_other_leaves_than_the_tables_are_of_are_refused(name: str) -> None:
    """One row too many shifted all compositions by one, in silence."""
    batch = [left_branching(3), left_branching(2)]
    for tracker_dim in [None] if name.startswith("forest") else [None, TRACKER]:
        compose, tracker = random_weights(HIDDEN, tracker_dim)
        leaves = random_leaves(batch, HIDDEN)
        for other in (leaves[:-1], torch.cat((leaves, leaves[:1]))):
            with pytest.raises(
                ValueError, match=rf"leaves: got {len(other)}, expected one for each of the 5 words"
            ):
                run(name, other, compose, tracker, batch)


def test_a_tracker_without_its_weights_is_refused() -> None:
    batch = [np.zeros(1, np.int8)]
    compose, _ = random_weights(HIDDEN, TRACKER)
    with pytest.raises(ValueError, match="together"):
        run("given", random_leaves(batch, HIDDEN), compose, None, batch)
