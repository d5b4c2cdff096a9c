"""Every executor against the oracle: outputs and gradients, over all small trees, random ones and real ones."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spinn_tensor import ComposeWeights, TrackerWeights, run_forest, to_torch
from spinn_tensor.data_prep.tables import lane_tables
from spinn_tensor.data_prep.trees import parse_binary
from spinn_tensor.machine import reference
from tests.machines import (
    MACHINES,
    SHARED,
    every_machine,
    flatten,
    gradients,
    needs_shared,
    parameters,
    random_leaves,
    random_transitions,
    random_weights,
    recorded_run,
    relative_error,
    run,
)
from tests.strategies import all_transitions, batches_of_transitions, left_branching, right_branching

pytestmark = pytest.mark.numerical

HIDDEN, TRACKER = 7, 5
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def check_against_oracle(name, tracked, batch, dtype=torch.float64, every_node=False) -> None:
    """The executor in `dtype` against the oracle in float64: outputs and all gradients."""
    compose, tracker = random_weights(HIDDEN, TRACKER if tracked else None, dtype)
    leaves = random_leaves(batch, HIDDEN, dtype)
    inputs = parameters(leaves, compose, tracker)
    output = run(name, leaves, compose, tracker, batch, every_node)

    exact_compose, exact_tracker = random_weights(HIDDEN, TRACKER if tracked else None)
    exact_leaves = random_leaves(batch, HIDDEN)
    oracle = reference.encode_nodes if every_node else reference.encode_batch
    exact_output = oracle(exact_leaves, batch, exact_compose, exact_tracker)[:, :HIDDEN]
    assert relative_error(output, exact_output) < TOLERANCE[dtype]
    exact_inputs = parameters(exact_leaves, exact_compose, exact_tracker)
    for got, expected in zip(gradients(output, inputs), gradients(exact_output, exact_inputs), strict=True):
        assert relative_error(got, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@every_machine
def test_every_tree_of_up_to_six_leaves(name, tracked, dtype) -> None:
    batch = [transitions for n in range(1, 7) for transitions in all_transitions(n)]
    assert len(batch) == 1 + 1 + 2 + 5 + 14 + 42
    check_against_oracle(name, tracked, batch, dtype)


@every_machine
@settings(max_examples=25)
@given(batch=batches_of_transitions(max_batch=9, max_tokens=12), every_node=st.booleans())
def test_random_batches(name, tracked, batch, every_node) -> None:
    check_against_oracle(name, tracked, batch, every_node=every_node)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@every_machine
def test_random_trees_of_up_to_sixty_tokens(name, tracked, dtype) -> None:
    rng = np.random.default_rng(5)
    batch = [random_transitions(rng, n) for n in (60, 1, 59, 2, 33, 60, 17, 48)]
    batch += [left_branching(60), right_branching(60), left_branching(31)]
    check_against_oracle(name, tracked, batch, dtype)


@pytest.fixture(scope="module")
def snli_sentences() -> list[np.ndarray]:
    """Transitions of all sentences of the SNLI slice."""
    with gzip.open(SHARED / "snli" / "snli_1.0_dev_slice.jsonl.gz", "rt", encoding="utf-8") as lines:
        pairs = [json.loads(line) for line in lines]
    fields = ("sentence1_binary_parse", "sentence2_binary_parse")
    return [parse_binary(pair[field]).transitions for pair in pairs for field in fields]


@needs_shared
@pytest.mark.parametrize("tracked", [False, True], ids=["no tracker", "tracker"])
def test_all_sentences_of_the_snli_slice(tracked, snli_sentences) -> None:
    assert len(snli_sentences) == 2578
    machines = [name for name, needs_tracker in MACHINES if needs_tracker == tracked]
    tracker_dim = TRACKER if tracked else None
    for start in range(0, len(snli_sentences), 430):
        batch = snli_sentences[start : start + 430]
        inputs = random_leaves(batch, HIDDEN), *random_weights(HIDDEN, tracker_dim)
        exact = reference.encode_batch(inputs[0], batch, *inputs[1:])[:, :HIDDEN]
        exact_gradients = gradients(exact, parameters(*inputs))
        for dtype, tolerance in TOLERANCE.items():
            inputs = random_leaves(batch, HIDDEN, dtype), *random_weights(HIDDEN, tracker_dim, dtype)
            for name in machines:
                output = run(name, *inputs, batch)
                assert relative_error(output, exact) < tolerance
                for got, expected in zip(
                    gradients(output, parameters(*inputs)), exact_gradients, strict=True
                ):
                    assert relative_error(got, expected) < tolerance


@every_machine
def test_gradcheck(name, tracked) -> None:
    batch = [*all_transitions(1), *all_transitions(3), *all_transitions(4)]
    compose, tracker = random_weights(2, 2 if tracked else None)
    leaves = random_leaves(batch, 2)

    def function(*inputs):
        weights = ComposeWeights(*inputs[1 : 4 if tracked else 3])
        trackers = TrackerWeights(*inputs[4:]) if tracked else None
        return run(name, inputs[0], weights, trackers, batch, every_node=True)

    assert torch.autograd.gradcheck(function, parameters(leaves, compose, tracker))


@needs_shared
@every_machine
def test_the_recorded_run_of_2017(name, tracked) -> None:
    recorded = recorded_run(tracked)
    inputs = recorded.leaves, recorded.compose, recorded.tracker
    output = run(name, *inputs, recorded.batch)
    assert relative_error(output, recorded.root_h) < 1e-10
    loss = (output * recorded.loss_weight).sum()
    for ours, theirs in zip(torch.autograd.grad(loss, parameters(*inputs)), recorded.gradients, strict=True):
        assert relative_error(ours, theirs) < 1e-10


@every_machine
def test_an_encoding_is_the_same_alone_and_in_any_batch(name, tracked) -> None:
    rng = np.random.default_rng(3)
    batch = [random_transitions(rng, n) for n in (1, 9, 30, 4, 17, 2, 30)]
    compose, tracker = random_weights(HIDDEN, TRACKER if tracked else None)
    leaves = random_leaves(batch, HIDDEN)
    words = leaves.split([(len(transitions) + 1) // 2 for transitions in batch])
    together = run(name, leaves, compose, tracker, batch)
    for row, transitions in enumerate(batch):
        alone = run(name, words[row], compose, tracker, [transitions])
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-10)
    order = rng.permutation(len(batch))
    shuffled = run(
        name, torch.cat([words[row] for row in order]), compose, tracker, [batch[row] for row in order]
    )
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-10)


@every_machine
@pytest.mark.filterwarnings("ignore:.*deterministic.*:UserWarning")
def test_nothing_reads_memory_that_nothing_wrote(name, tracked) -> None:
    """Fresh buffers are filled with NaN, so that a slot that is read before it is written shows."""
    rng = np.random.default_rng(4)
    batch = [random_transitions(rng, n) for n in (5, 1, 12, 3)]
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        check_against_oracle(name, tracked, batch)
    finally:
        torch.use_deterministic_algorithms(False)


@every_machine
def test_bfloat16_is_near_float64(name, tracked) -> None:
    rng = np.random.default_rng(6)
    batch = [random_transitions(rng, n) for n in (5, 1, 12, 3)]
    exact_inputs, inputs = (
        (random_leaves(batch, HIDDEN, dtype), *random_weights(HIDDEN, TRACKER if tracked else None, dtype))
        for dtype in (torch.float64, torch.bfloat16)
    )
    output, exact = run(name, *inputs, batch), run(name, *exact_inputs, batch)
    assert output.dtype == torch.bfloat16
    assert relative_error(output, exact) < 0.05
    for got, expected in zip(
        gradients(output, parameters(*inputs)), gradients(exact, parameters(*exact_inputs)), strict=True
    ):
        assert relative_error(got, expected) < 0.1


@every_machine
def test_without_gradients_the_same_states_and_nothing_saved(name, tracked) -> None:
    rng = np.random.default_rng(7)
    batch = [random_transitions(rng, n) for n in (5, 1, 12, 3)]
    compose, tracker = random_weights(HIDDEN, TRACKER if tracked else None)
    leaves = random_leaves(batch, HIDDEN)
    with torch.no_grad():
        lean = run(name, leaves, compose, tracker, batch, every_node=True)
    torch.testing.assert_close(
        lean, run(name, leaves, compose, tracker, batch, every_node=True), rtol=0, atol=0
    )
    assert not lean.requires_grad


def test_a_batch_of_single_words_composes_nothing() -> None:
    batch = [np.zeros(1, np.int8)] * 3
    for name, tracked in MACHINES:
        compose, tracker = random_weights(HIDDEN, TRACKER if tracked else None)
        leaves = random_leaves(batch, HIDDEN)
        output = run(name, leaves, compose, tracker, batch)
        torch.testing.assert_close(output, leaves[:, :HIDDEN])
        grad_leaves, *others = gradients(output, parameters(leaves, compose, tracker))
        assert grad_leaves[:, :HIDDEN].any()
        assert not any(gradient.any() for gradient in others)


def test_mixed_precision_and_the_wrong_tables_are_refused() -> None:
    batch = [left_branching(3)]
    compose, _ = random_weights(HIDDEN, None)
    leaves = random_leaves(batch, HIDDEN)
    with pytest.raises(TypeError, match=r"one dtype, got torch.float32, torch.float64"):
        run("forest", leaves.float(), compose, None, batch)
    with pytest.raises(TypeError, match="got LaneTables; run_forest reads ForestTables"):
        run_forest(leaves, compose, to_torch(lane_tables(*flatten(batch))))


def test_a_tracker_without_its_weights_is_refused() -> None:
    batch = [np.zeros(1, np.int8)]
    compose, _ = random_weights(HIDDEN, TRACKER)
    with pytest.raises(ValueError, match="together"):
        run("given", random_leaves(batch, HIDDEN), compose, None, batch)
