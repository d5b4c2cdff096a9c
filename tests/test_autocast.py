"""Under autocast the products run in bfloat16, and states, gates and gradients keep their type."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spinn_tensor import LaneTables, TransitionWeights, run_taught
from tests.machines import (
    MACHINES,
    TABLES,
    gradients,
    parameters,
    random_leaves,
    random_transitions,
    random_weights,
    relative_error,
    run_tables,
)
from tests.test_own import TRACKER, random_transition_weights

pytestmark = pytest.mark.numerical

BATCH = [random_transitions(np.random.default_rng(3), n) for n in (1, 7, 12, 7, 2, 20)]
CLOSE = 0.03  # eight bits of mantissa, over a dozen compositions


@pytest.mark.parametrize("name, tracked", MACHINES)
def test_bfloat16_products_are_close_and_states_stay_float32(name, tracked) -> None:
    compose, tracker = random_weights(16, 8 if tracked else None, torch.float32)
    leaves = random_leaves(BATCH, 16, torch.float32)
    inputs = parameters(leaves, compose, tracker)
    tables = TABLES[name](BATCH)
    expected = run_tables(tables, leaves, compose, tracker, BATCH, every_node=True)
    with torch.autocast("cpu", torch.bfloat16):
        got = run_tables(tables, leaves, compose, tracker, BATCH, every_node=True)
    assert got.dtype == torch.float32
    assert 1e-5 < relative_error(got, expected) < CLOSE
    for ours, theirs in zip(gradients(got, inputs), gradients(expected, inputs), strict=True):
        assert ours.dtype == torch.float32
        assert relative_error(ours, theirs) < CLOSE


def test_leaves_from_an_autocast_region_may_be_bfloat16() -> None:
    compose, tracker = random_weights(16, TRACKER, torch.float32)
    leaves = random_leaves(BATCH, 16, torch.float32).detach().bfloat16().requires_grad_()
    tables = TABLES["given"](BATCH)
    assert isinstance(tables, LaneTables)
    transition = TransitionWeights(*(weight.float() for weight in random_transition_weights()))
    with torch.autocast("cpu", torch.bfloat16):
        parse = run_taught(leaves, compose, tracker, transition, tables)
    assert parse.encodings.dtype == parse.logits.dtype == torch.float32
    (parse.encodings.sum() + parse.log_probabilities().sum()).backward()
    assert leaves.grad is not None
    assert leaves.grad.dtype == torch.bfloat16


def test_without_autocast_types_must_agree() -> None:
    compose, _ = random_weights(16, None, torch.float32)
    leaves = random_leaves(BATCH, 16, torch.float32).bfloat16()
    with pytest.raises(TypeError, match="one dtype"):
        run_tables(TABLES["forest"](BATCH), leaves, compose, None, BATCH)
