"""State once what every way to run a SPINN promises: the tests of each of them inherit it.

`ExecutorContract` is for what runs the stack machine over given leaf states and weights, `ArtefactContract` for what a
whole model was made into. A test module says how to run its own by one fixture of scope module, which may have
parameters, and makes a subclass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.data import load_sentences
from spinn_tensor import ComposeWeights, TrackerWeights
from spinn_tensor.data_prep.columns import select
from spinn_tensor.export.artefact import output_axes
from spinn_tensor.export.parity import Candidate, compare, make_case, random_cases, require
from spinn_tensor.machine import reference
from spinn_tensor.model.classifiers import Model
from tests.closeness import EXACT, FLOAT64, assert_close
from tests.machines import (
    TRACKER,
    Batch,
    gradients,
    needs_shared,
    parameters,
    random_leaves,
    random_transitions,
    random_weights,
    recorded_run,
    relative_error,
)
from tests.strategies import all_transitions, batches_of_transitions, left_branching, right_branching

HIDDEN = 7
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
Inputs = tuple[Tensor, ComposeWeights, TrackerWeights | None]  # leaves and weights


class Executor(NamedTuple):
    """Hold one way to run the machine."""

    tracked: bool
    run: Callable[
        ..., Tensor
    ]  # (leaves, compose, tracker, batch, every_node) -> h of the roots, or of every node
    is_differentiable: bool = True
    has_nodes: bool = True

    def inputs(self, batch: Batch, dtype: torch.dtype = torch.float64, dim: int = HIDDEN) -> Inputs:
        """Draw leaves and weights for a batch."""
        tracker_dim = min(TRACKER, dim) if self.tracked else None
        return random_leaves(batch, dim, dtype), *random_weights(dim, tracker_dim, dtype)


@cache
def snli_sentences() -> list[np.ndarray]:
    """Read the transitions of all sentences of the SNLI slice."""
    _, transitions = load_sentences("auto")
    return transitions


@cache
def _exact(tracked: bool, parses: tuple[bytes, ...], every_node: bool) -> tuple[Tensor, list[Tensor]]:
    """Compute once what the oracle makes of a batch, outputs and gradients: every executor is held against them."""
    batch = [np.frombuffer(parse, np.int8) for parse in parses]
    oracle = reference.encode_nodes if every_node else reference.encode_batch
    inputs = Executor(tracked, oracle).inputs(batch)
    exact = oracle(inputs[0], batch, *inputs[1:])[:, :HIDDEN]
    return exact.detach(), gradients(exact, parameters(*inputs))


def exact_of(tracked: bool, batch: Batch, every_node: bool = False) -> tuple[Tensor, list[Tensor]]:
    """Return the oracle's states of roots or of every node, and the gradients."""
    parses = tuple(np.asarray(transitions, np.int8).tobytes() for transitions in batch)
    return _exact(tracked, parses, every_node)


class ExecutorContract:
    """Expect the oracle's outputs and gradients, whatever the trees, the batch, its order and what memory holds.

    The fixture `executor` gives the `Executor`.
    """

    def assert_close(
        self,
        executor: Executor,
        inputs: Inputs,
        batch: Batch,
        exact: Tensor,
        exact_gradients: list[Tensor],
        every_node: bool = False,
    ) -> None:
        """Hold outputs and gradients against exact ones, by the tolerance of the inputs' type."""
        tolerance = TOLERANCE[inputs[0].dtype]
        output = executor.run(*inputs, batch, every_node)
        assert relative_error(output, exact) < tolerance
        if executor.is_differentiable:
            for got, expected in zip(gradients(output, parameters(*inputs)), exact_gradients, strict=True):
                assert relative_error(got, expected) < tolerance

    def check(
        self,
        executor: Executor,
        batch: Batch,
        dtype: torch.dtype = torch.float64,
        every_node: bool = False,
    ) -> None:
        """Hold an executor in `dtype` against the oracle in float64."""
        every_node = every_node and executor.has_nodes
        exact = exact_of(executor.tracked, batch, every_node)
        self.assert_close(executor, executor.inputs(batch, dtype), batch, *exact, every_node)

    @every_dtype
    def test_every_tree_of_up_to_six_leaves(self, executor: Executor, dtype: torch.dtype) -> None:
        batch = [transitions for n in range(1, 7) for transitions in all_transitions(n)]
        assert len(batch) == 1 + 1 + 2 + 5 + 14 + 42
        self.check(executor, batch, dtype)

    @pytest.mark.once
    @settings(
        max_examples=settings.default.max_examples // 4,
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
    )
    @given(batch=batches_of_transitions(max_batch=9, max_tokens=12), every_node=st.booleans())
    def test_random_batches(self, executor: Executor, batch: Batch, every_node: bool) -> None:
        self.check(executor, batch, every_node=every_node)

    @every_dtype
    def test_trees_of_up_to_sixty_tokens(self, executor: Executor, dtype: torch.dtype) -> None:
        rng = np.random.default_rng(5)
        batch = [random_transitions(rng, n) for n in (60, 1, 59, 2, 33, 60, 17, 48)]
        batch += [left_branching(60), right_branching(60), left_branching(31)]
        self.check(executor, batch, dtype)

    @needs_shared
    @pytest.mark.parametrize("n_sentences", [215, pytest.param(2578, marks=pytest.mark.slow)])
    def test_sentences_of_the_snli_slice(self, executor: Executor, n_sentences: int) -> None:
        assert len(snli_sentences()) == 2578
        for start in range(0, n_sentences, 215):
            stop = min(start + 215, n_sentences)
            batch = snli_sentences()[start:stop]
            exact = exact_of(executor.tracked, batch)
            for dtype in TOLERANCE:
                self.assert_close(executor, executor.inputs(batch, dtype), batch, *exact)

    @needs_shared
    def test_the_recorded_run_of_2017(self, executor: Executor) -> None:
        """An implementation that none of us wrote: outputs and gradients on 30 sentences, float64."""
        recorded = recorded_run(executor.tracked)
        inputs = recorded.leaves, recorded.compose, recorded.tracker
        output = executor.run(*inputs, recorded.batch, False)
        assert relative_error(output, recorded.root_h) < 1e-10
        if executor.is_differentiable:
            loss = (output * recorded.loss_weight).sum()
            computed = torch.autograd.grad(loss, parameters(*inputs))
            for ours, theirs in zip(computed, recorded.gradients, strict=True):
                assert relative_error(ours, theirs) < 1e-10

    @pytest.mark.once
    @pytest.mark.parametrize(
        "fast", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["fast", "whole"]
    )
    def test_gradcheck(self, executor: Executor, fast: bool) -> None:
        """By difference quotients: along random directions, or (slow) each number by itself."""
        if not executor.is_differentiable:
            pytest.skip("for inference alone")
        batch = [*all_transitions(1), *all_transitions(3), *all_transitions(4)]

        def function(*inputs: Tensor) -> Tensor:
            weights = ComposeWeights(*inputs[1 : 4 if executor.tracked else 3])
            trackers = TrackerWeights(*inputs[4:]) if executor.tracked else None
            return executor.run(inputs[0], weights, trackers, batch, executor.has_nodes)

        assert torch.autograd.gradcheck(function, parameters(*executor.inputs(batch, dim=2)), fast_mode=fast)

    def test_an_encoding_is_the_same_alone_and_in_any_batch(self, executor: Executor) -> None:
        rng = np.random.default_rng(3)
        batch = [random_transitions(rng, n) for n in (1, 9, 30, 4, 17, 2, 30)]
        leaves, *weights = executor.inputs(batch)
        words = leaves.split([(len(transitions) + 1) // 2 for transitions in batch])
        together = executor.run(leaves, *weights, batch, False)
        for row, transitions in enumerate(batch):
            alone = executor.run(words[row], *weights, [transitions], False)
            torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-10)
        order = rng.permutation(len(batch))
        shuffled = torch.cat([words[row] for row in order])
        got = executor.run(shuffled, *weights, [batch[row] for row in order], False)
        torch.testing.assert_close(got, together[order], rtol=0, atol=1e-10)

    def test_single_words_compose_nothing(self, executor: Executor) -> None:
        batch = [np.zeros(1, np.int8)] * 3
        inputs = executor.inputs(batch)
        output = executor.run(*inputs, batch, False)
        torch.testing.assert_close(output, inputs[0][:, :HIDDEN])
        if executor.is_differentiable:
            grad_leaves, *others = gradients(output, parameters(*inputs))
            assert grad_leaves[:, :HIDDEN].any()
            assert not any(gradient.any() for gradient in others)

    @pytest.mark.once
    @pytest.mark.filterwarnings("ignore:.*deterministic.*:UserWarning")
    def test_nothing_reads_memory_that_nothing_wrote(self, executor: Executor) -> None:
        """Fresh buffers are filled with NaN, so that a slot that is read before it is written shows."""
        rng = np.random.default_rng(4)
        batch = [random_transitions(rng, n) for n in (5, 1, 12, 3)]
        torch.use_deterministic_algorithms(True)
        try:
            assert torch.empty(3).isnan().all()
            assert torch.zeros(3).new_empty(3).isnan().all()
            self.check(executor, batch)
        finally:
            torch.use_deterministic_algorithms(False)

    def test_bfloat16_is_near_float64(self, executor: Executor) -> None:
        rng = np.random.default_rng(6)
        batch = [random_transitions(rng, n) for n in (5, 1, 12, 3)]
        inputs, exact_inputs = (executor.inputs(batch, dtype) for dtype in (torch.bfloat16, torch.float64))
        output, exact = (executor.run(*some, batch, False) for some in (inputs, exact_inputs))
        assert output.dtype == torch.bfloat16
        assert relative_error(output, exact) < 0.05
        if executor.is_differentiable:
            computed = gradients(output, parameters(*inputs)), gradients(exact, parameters(*exact_inputs))
            for got, expected in zip(*computed, strict=True):
                assert relative_error(got, expected) < 0.1

    def test_without_gradients_the_same_states_and_nothing_saved(self, executor: Executor) -> None:
        rng = np.random.default_rng(7)
        batch = [random_transitions(rng, n) for n in (5, 1, 12, 3)]
        inputs = executor.inputs(batch)
        with torch.no_grad():
            lean = executor.run(*inputs, batch, executor.has_nodes)
        assert not lean.requires_grad
        torch.testing.assert_close(lean, executor.run(*inputs, batch, executor.has_nodes), rtol=0, atol=0)


class Artefact(NamedTuple):
    """Hold what a model was made into."""

    model: Model  # in float64
    tables: str  # "own", "given" or "forest"
    run: Candidate
    path: Path | None = None  # of the file


class ArtefactContract:
    """Expect of an artefact what its model says, in float64, whatever the lengths, the padding and the batch.

    The fixture `artefact` gives the `Artefact`.
    """

    def test_it_says_what_its_model_says(self, artefact: Artefact) -> None:
        """Sentences of 1 to 82 words, alone and mixed, with padding that is no word."""
        model, tables = artefact.model, artefact.tables
        case = next(random_cases(model, tables=tables, batch_sizes=(3,)))
        assert list(artefact.run(case.inputs)) == list(output_axes(model.config.task, tables))
        cases = random_cases(model, tables=tables, batch_sizes=(1, 3, 32))
        require(compare(model, artefact.run, cases, tables=tables), EXACT)

    def test_an_example_is_the_same_alone_and_in_any_order(self, artefact: Artefact) -> None:
        model, tables, run, _ = artefact
        (case,) = random_cases(model, tables=tables, batch_sizes=(6,))
        together = run(case.inputs)
        order = np.random.default_rng(0).permutation(6)
        for rows in (order, *np.arange(6)[:, None]):
            some = run(make_case(model, select(case.columns, rows), tables=tables).inputs)
            for name, values in some.items():
                expected = together[name][rows]
                assert_close(values, expected[:, : values.shape[1]], FLOAT64)
