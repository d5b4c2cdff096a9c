"""Run Triton's kernels in its interpreter, on the CPU: `tests/test_kernels.py` starts this file, in its own process.

TRITON_INTERPRET=1, which Triton reads when it is imported, makes kernels of NumPy's operations.
"""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import pytest
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from spinn_tensor import forcing_noise, run_own, run_taught, to_torch
from spinn_tensor.data_prep.tables import forest_tables, lane_tables, own_tables
from spinn_tensor.machine import fused, fused_products
from spinn_tensor.machine.choice import CHOICES, VARIABLE, choose_bodies
from spinn_tensor.machine.loop import TORCH
from tests.contract import Executor, ExecutorContract
from tests.machines import (
    MACHINE_IDS,
    MACHINES,
    TRACKER,
    every_machine,
    flatten,
    gradients,
    parameters,
    random_leaves,
    random_transition_weights,
    random_transitions,
    random_weights,
    relative_error,
    run,
    run_tables,
)
from tests.operator_calls import check_operators

assert os.environ.get("TRITON_INTERPRET") == "1", "run me by tests/test_kernels.py"
KERNELS = [name for name in CHOICES if name != "off"]
LENGTHS = (1, 9, 12, 4, 2, 7)  # steps of few slots and of none that compose


def widened(x: TensorHandle) -> TensorHandle:
    """Return bfloat16, which the interpreter has as the upper halves of float32, as what it can multiply."""
    if x.dtype.scalar != tl.bfloat16:
        return x
    return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


@pytest.fixture(scope="module", params=KERNELS, autouse=True)
def kernels(request) -> str:
    """Choose the kernels of each kind for a module's tests."""
    dot = InterpreterBuilder.create_dot
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, request.param)
        patch.setattr(
            InterpreterBuilder,
            "create_dot",
            lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest),
        )
        yield request.param


@pytest.fixture(scope="module", params=zip(MACHINES, MACHINE_IDS, strict=True), ids=lambda case: case[1])
def executor(request) -> Executor:
    """Give every executor over every kind of tables."""
    name, tracked = request.param[0]
    return Executor(tracked, partial(run, name))


class TestKernels(ExecutorContract):
    """Keep the contract, but for what takes the interpreter minutes and repeats the rest at length."""

    test_random_batches = test_trees_of_up_to_sixty_tokens = test_sentences_of_the_snli_slice = None
    test_gradcheck = test_the_recorded_run_of_2017 = test_an_encoding_is_the_same_alone_and_in_any_batch = (
        None
    )


def batch_of(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [random_transitions(rng, n) for n in lengths]


def with_and_without(compute, monkeypatch) -> tuple[list[Tensor], list[Tensor]]:
    """Compute by the kernels and by the torch bodies."""
    got = compute()
    monkeypatch.setenv(VARIABLE, "off")
    return got, compute()


def assert_as_torch(got: list[Tensor], expected: list[Tensor], forward: float, backward: float) -> None:
    assert relative_error(got[0], expected[0]) < forward
    for ours, theirs in zip(got[1:], expected[1:], strict=True):
        assert relative_error(ours, theirs) < backward


@pytest.mark.parametrize("hidden_dim, tracker_dim", [(24, 8), (300, 61)])
@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16], ids=str)
@every_machine
def test_they_compute_what_torch_does(name, tracked, products, hidden_dim, tracker_dim, monkeypatch) -> None:
    """Outputs and all gradients, in sizes that are no multiple of a tile."""
    batch = batch_of(*LENGTHS)

    def compute() -> list[Tensor]:
        weights = random_weights(hidden_dim, tracker_dim if tracked else None, torch.float32)
        leaves = random_leaves(batch, hidden_dim, torch.float32)
        with torch.autocast("cpu", products, enabled=products == torch.bfloat16):
            output = run(name, leaves, *weights, batch, every_node=True)
        return [output, *gradients(output, parameters(leaves, *weights))]

    is_exact = products == torch.float32
    assert_as_torch(*with_and_without(compute, monkeypatch), *((1e-6, 1e-5) if is_exact else (0.01, 0.03)))


def test_a_tracker_wider_than_a_tile(monkeypatch) -> None:
    batch = batch_of(5, 3)

    def compute() -> list[Tensor]:
        leaves, weights = random_leaves(batch, 24), random_weights(24, 130)
        output = run("given", leaves, *weights, batch)
        return [output, *gradients(output, parameters(leaves, *weights))]

    assert_as_torch(*with_and_without(compute, monkeypatch), 1e-10, 1e-10)


@pytest.mark.parametrize("kind", ["taught", "own", "two samples"])
def test_gradients_through_the_trackers_states(kind, monkeypatch) -> None:
    """Losses of the transitions enter the reverse loop from outside; two samples of a sentence share its leaves."""
    batch = batch_of(*LENGTHS)
    transitions, lengths = flatten(batch)

    def compute() -> list[Tensor]:
        leaves, weights = random_leaves(batch, 24), random_weights(24, TRACKER)
        transition = random_transition_weights()
        if kind == "taught":
            parse = run_taught(leaves, *weights, transition, to_torch(lane_tables(transitions, lengths)))
        else:
            n_samples = 2 if kind == "two samples" else 1
            tables = to_torch(own_tables(lengths, n_samples=n_samples))
            noise = None if n_samples == 2 else forcing_noise(torch.from_numpy(transitions))
            parse = run_own(leaves, *weights, transition, tables, noise)
        output = torch.cat((parse.encodings.flatten(), parse.log_probabilities()))
        return [output, *gradients(output, [*parameters(leaves, *weights), *transition])]

    assert_as_torch(*with_and_without(compute, monkeypatch), 1e-10, 1e-10)


@pytest.mark.parametrize("tracked", [False, True])
def test_shared_tables(tracked, monkeypatch) -> None:
    """Three words, the same sentences twice: many compositions of a step read one row."""
    batch = batch_of(*LENGTHS, *LENGTHS)
    transitions, lengths = flatten(batch)
    words = np.tile(np.arange(lengths.sum() // 2) % 3, 2)
    make = lane_tables if tracked else forest_tables
    tables = to_torch(make(transitions, lengths, leaf_index=words))
    assert tables.left_index.shape[0] < (lengths - 1).sum()

    def compute() -> list[Tensor]:
        weights = random_weights(24, TRACKER if tracked else None)
        leaves = random_leaves(batch, 24)[:3].detach().requires_grad_()
        output = run_tables(tables, leaves, *weights, batch)
        return [output, *gradients(output, parameters(leaves, *weights))]

    assert_as_torch(*with_and_without(compute, monkeypatch), 1e-10, 1e-10)


@pytest.mark.parametrize("name", ["forest, hoisted", "given, padded", "own, padded"])
def test_they_are_what_torch_takes_operators_for(name) -> None:
    """Nothing that they are given changes, and outputs are as their fake kernels foretell."""
    batch, tracked = batch_of(4, 1, 2), not name.startswith("forest")

    def compute() -> list[Tensor]:
        leaves, weights = random_leaves(batch, 4), random_weights(4, TRACKER if tracked else None)
        return gradients(run(name, leaves, *weights, batch), parameters(leaves, *weights))

    assert "stack_machine_backward" in check_operators(compute)


def test_they_are_what_runs(kernels) -> None:
    """Guards against a comparison of torch with itself."""
    states, bodies = torch.zeros(1), {"cells": fused.CELLS, "steps": fused_products.STEPS}[kernels]
    assert choose_bodies(states, torch.float32, True, 5) == bodies != TORCH
    assert choose_bodies(states, torch.bfloat16, True, 5) == bodies
    assert choose_bodies(states.bfloat16(), torch.bfloat16, True, 5) == TORCH
