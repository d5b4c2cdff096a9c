"""The oracle is right: by recursion from the top, by hand, and on what another implementation recorded in 2017."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from benchmarks import dynamic
from spinn_tensor.machine import reference
from tests.machines import (
    gradients,
    needs_shared,
    parameters,
    random_leaves,
    random_weights,
    recorded_run,
    relative_error,
)
from tests.strategies import batches_of_transitions, binary_transitions, right_branching

pytestmark = pytest.mark.numerical

HIDDEN, TRACKER = 5, 3
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


@given(transitions=binary_transitions())
def test_every_transition_pushes_the_composition_of_its_subtree(transitions: np.ndarray) -> None:
    """Without tracker a node's state depends on its subtree alone, found here by recursion from the top."""
    weights, _ = random_weights(HIDDEN, None)
    leaves = random_leaves([transitions], HIDDEN)
    pushed, _ = reference.walk_tree(leaves, transitions, weights)

    def state_ending_at(step: int, n_words: int) -> tuple[Tensor, int, int]:
        """Return the state of the node pushed at `step`, after `n_words`: and its first step, and words before it."""
        if transitions[step] == 0:
            return leaves[n_words - 1], step, n_words - 1
        right, first_of_right, before_right = state_ending_at(step - 1, n_words)
        left, first, before = state_ending_at(first_of_right - 1, before_right)
        return reference.compose(weights, left, right), first, before

    words = np.cumsum(transitions == 0)
    for step, state in enumerate(pushed):
        torch.testing.assert_close(state, state_ending_at(step, int(words[step]))[0], **CLOSE)


def test_the_tracker_is_an_lstm_cell_on_the_stack_before_the_action() -> None:
    """The reads of ( a ( b c ) ) are written down by hand, and given to torch's own cell."""
    weights, tracker = random_weights(HIDDEN, TRACKER)
    assert tracker is not None
    leaves = random_leaves([right_branching(3)], HIDDEN)
    pushed, tracked = reference.walk_tree(leaves, right_branching(3), weights, tracker)
    a, b, c = leaves
    null = torch.zeros_like(a)
    reads = [(a, null, null), (b, a, null), (c, b, a), (null, c, b), (null, pushed[3], a)]
    cell = torch.nn.LSTMCell(3 * HIDDEN, TRACKER, dtype=torch.float64)
    with torch.no_grad():
        cell.weight_ih.copy_(tracker.weight_input)
        cell.weight_hh.copy_(tracker.weight_hidden)
        cell.bias_ih.copy_(tracker.bias)
        cell.bias_hh.zero_()
    states = None
    for read, h in zip(reads, tracked, strict=True):
        states = cell(torch.cat([state[:HIDDEN] for state in read])[None], states)
        torch.testing.assert_close(h, states[0][0], **CLOSE)
    torch.testing.assert_close(pushed[3], reference.compose(weights, b, c, tracked[3]), **CLOSE)
    torch.testing.assert_close(pushed[4], reference.compose(weights, a, pushed[3], tracked[4]), **CLOSE)


@needs_shared
@pytest.mark.parametrize("encode", [reference.encode_batch, dynamic.encode_batch])
@pytest.mark.parametrize("tracked", [False, True])
def test_recorded_outputs_and_gradients_of_2017(encode, tracked) -> None:
    recorded = recorded_run(tracked)
    inputs = parameters(recorded.leaves, recorded.compose, recorded.tracker)
    transitions = [codes.tolist() for codes in recorded.batch]
    roots = encode(recorded.leaves, transitions, recorded.compose, recorded.tracker)
    root_h = roots[:, : roots.shape[1] // 2]
    assert relative_error(root_h, recorded.root_h) < 1e-10
    computed = torch.autograd.grad((root_h * recorded.loss_weight).sum(), inputs)
    for got, expected in zip(computed, recorded.gradients, strict=True):
        assert relative_error(got, expected) < 1e-10


@pytest.mark.parametrize("tracked", [False, True])
@given(batch=batches_of_transitions())
def test_dynamic_batching_equals_the_oracle(tracked: bool, batch: list[np.ndarray]) -> None:
    """The benchmarks' baseline, which is written independently of both the oracle and the executors."""
    weights, tracker = random_weights(HIDDEN, TRACKER if tracked else None)
    leaves = random_leaves(batch, HIDDEN)
    inputs = parameters(leaves, weights, tracker)
    transitions = [codes.tolist() for codes in batch]
    expected, got = (
        encode(leaves, transitions, weights, tracker)[:, :HIDDEN]
        for encode in (reference.encode_batch, dynamic.encode_batch)
    )
    torch.testing.assert_close(got, expected, **CLOSE)
    torch.testing.assert_close(gradients(got, inputs), gradients(expected, inputs), **CLOSE)
