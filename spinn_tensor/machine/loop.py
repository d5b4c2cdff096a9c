"""The machine's loop and its hand-written reverse. One loop runs every schedule, given tables and own choices alike.

Memory. States live in `memory` (2, R, H): h in [0], c in [1]; row 0 is null, rows 1..L the leaves, the rest
compositions in the order of the schedule (`data_prep.tables.rows`). Each step gathers, multiplies and writes one
contiguous block. The tracker's part of a step is `spinn_tensor.machine.tracker`. On CUDA, other bodies may take the
place of these (`spinn_tensor.machine.choice`).

Backward. One gradient buffer for all states. The reverse loop visits the steps from last to first; each finds the
gradients of its own rows complete and adds to those of the rows it had read. Weight gradients are one product over all
steps after the loop, or with hoisted leaves one for each half of the weight. Memory is linear in the transitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from spinn_tensor.bundles import ComposeWeights, HoistedLeaves, LaneTables, OwnTables, TrackerWeights
from spinn_tensor.machine.buffers import StepBuffer, Tables, Tape
from spinn_tensor.machine.cell import cell_backward_step, cell_step, local_derivatives
from spinn_tensor.machine.compose import (
    BOTH,
    ComposeMatrices,
    CompositionSteps,
    HoistedProducts,
    LeafGradients,
    weight_gradients,
)
from spinn_tensor.machine.products import add_product, biased_product, product
from spinn_tensor.machine.schedule import Compositions, GivenSchedule, OwnSchedule
from spinn_tensor.machine.tracker import TrackerBackward, TrackerForward

Schedule = GivenSchedule | OwnSchedule


class Gradients(NamedTuple):
    """Hold gradients in the shapes of what they are gradients of; None without tracker."""

    leaves: Tensor  # (L, 2H)
    compose: ComposeWeights
    tracker: TrackerWeights | None


class ComposeForward:
    """Make the compositions of each step."""

    def __init__(
        self,
        compose: ComposeWeights,
        memory: Tensor,  # (2, R, H), null row and leaves filled in
        n_leaves: int,
        schedule: Schedule,
        trackers: TrackerForward | None,
        save: bool,
        dtype: torch.dtype,  # of the products
    ) -> None:
        self.trackers, self.memory, self.first = trackers, memory, 1 + n_leaves
        self.bias, n_rows = compose.bias, schedule.n_compositions
        self.matrices = ComposeMatrices.forward(compose, dtype, n_rows)
        self.h, self.c = memory.unbind(0)
        self.made_h, self.made_c = self.h[self.first :], self.c[self.first :]
        self.gates = StepBuffer(memory, n_rows, schedule.widest, self.bias.shape[0], save)
        self.hoisted_products = HoistedProducts(self.h, self.matrices, self.bias, schedule.hoisted)
        self._prepare(compose, schedule)

    def _prepare(self, compose: ComposeWeights, schedule: Schedule) -> None:
        """Make what other bodies need besides."""

    def advance(
        self,
        now: Compositions,  # at least one
    ) -> Tensor:  # (n, H)
        """Compose what this step composes; return the new h."""
        h, c = self.made_h[now.slots], self.made_c[now.slots]
        sums = self.sums(now)
        c_children = self.c.index_select(0, now.child_index).view(h.shape[0], -1)
        cell_step(sums, self.gates[now.slots], c_children, h, c)
        return h

    def sums(
        self,
        now: Compositions,
    ) -> Tensor:  # (n, 5H)
        """Return the gates before activation."""
        sums = self.hoisted_products.of(now.slots)
        for rows, index, half in now.products:
            children = self.h.index_select(0, index).view(rows.stop - rows.start, -1)
            if sums is None:
                sums = biased_product(children, self.matrices.parts[half], self.bias)
            else:
                add_product(children, self.matrices.parts[half], sums[rows])
        assert sums is not None
        if self.trackers is not None and now.tracker_index is not None and self.matrices.tracker is not None:
            add_product(self.trackers.h_of(now.tracker_index), self.matrices.tracker, sums)
        return sums


class ComposeBackward:
    """Undo what `ComposeForward` did, step by step.

    Local derivatives are taken for a step when it comes, on the CPU, where what they read and write then fits in the
    cache; for all steps at once elsewhere, and with a tracker, whose steps are many: there the number of operators
    counts.
    """

    def __init__(
        self,
        tape: Tape,
        grad_memory: Tensor,  # (2, R, H) gradients of the states
        steps: CompositionSteps,
        matrices: ComposeMatrices,
        trackers: TrackerBackward | None,
    ) -> None:
        dtype, hidden_dim = matrices.parts[BOTH].dtype, tape.memory.shape[2]
        self.steps, self.matrices, self.trackers, self.grad_memory = steps, matrices, trackers, grad_memory
        self._c, self._gates = tape.memory[1], tape.gates
        self._grad_h, self._grad_c = grad_memory.unbind(0)
        self.first = tape.memory.shape[1] - tape.gates.shape[0]  # row of the first composition
        self.dh_rows, self.dc_rows = (
            part[self.first :].split(steps.counts) for part in grad_memory.unbind(0)
        )
        self.grad_gates = self._new_grad_gates(dtype)  # (C, 5H), in the type of the products
        self._grad_gates_of = self.grad_gates.split(steps.counts)
        self._is_mixed = dtype != tape.gates.dtype
        forget_gates = tape.gates[:, 2 * hidden_dim : 4 * hidden_dim]
        self._forget_of = forget_gates.unflatten(1, (2, hidden_dim)).split(steps.counts)
        self._factors: Sequence[Tensor] | None = None
        self._dc_factor_of: Sequence[Tensor] | None = None
        self._prepare()

    def _new_grad_gates(self, dtype: torch.dtype) -> Tensor:
        return torch.empty_like(self._gates, dtype=dtype)

    def _prepare(self) -> None:
        """Take the local derivatives of all steps, where that is better than step by step."""
        if self.trackers is None and self._gates.device.type == "cpu":
            return
        factors = torch.empty_like(self._gates) if self._is_mixed else self.grad_gates
        dc_factor = self._derive(slice(0, factors.shape[0]), self.steps.children, factors)
        self._factors, self._dc_factor_of = (part.split(self.steps.counts) for part in (factors, dc_factor))

    def step_back(self, step: int) -> None:
        """Undo one step, whose states' gradients are complete; it composed at least once."""
        dh, dc = self.dh_rows[step], self.dc_rows[step]
        n, hidden_dim = dh.shape
        self._go_through_products(step, self._of_step(step, dh, dc))
        grad_c_children = (self._forget_of[step] * dc.unsqueeze(1)).view(2 * n, hidden_dim)
        self._grad_c.index_add_(0, self.steps.child_index[step], grad_c_children)

    def _go_through_products(
        self,
        step: int,
        grad_gates: Tensor,  # (n, 5H) in the type of the products
    ) -> None:
        """Add to the children that were multiplied, and to the trackers."""
        for rows, index, half in self.steps.products[step]:
            grad_h_children = product(grad_gates[rows], self.matrices.parts[half]).to(self._grad_h.dtype)
            self._grad_h.index_add_(0, index, grad_h_children.view(-1, self._grad_h.shape[1]))
        if self.trackers is not None:
            self.trackers.add_from_compositions(step, grad_gates)

    def _of_step(
        self,
        step: int,
        dh: Tensor,  # (n, H) complete
        dc: Tensor,  # (n, H) from later steps; completed in place
    ) -> Tensor:  # (n, 5H) in the type of the products
        """Return the gradients of the gates before activation."""
        wanted = self._grad_gates_of[step]
        if self._factors is not None and self._dc_factor_of is not None:
            factors, dc_factor = self._factors[step], self._dc_factor_of[step]
        else:
            factors = torch.empty_like(wanted, dtype=dh.dtype) if self._is_mixed else wanted
            dc_factor = self._derive(self.steps.slots[step], self.steps.child_index[step], factors)
        cell_backward_step(dh, dc, factors, dc_factor)
        if self._is_mixed:
            wanted.copy_(factors)
        return wanted

    def _derive(self, slots: slice, child_index: Tensor, factors: Tensor) -> Tensor:
        made_c = self._c[self.first :]
        c_children = self._c.index_select(0, child_index).view(-1, 2 * self._c.shape[1])
        return local_derivatives(self._gates[slots], made_c[slots], c_children, factors)


class Bodies(NamedTuple):
    """Name the classes whose methods a step runs."""

    compose_forward: type[ComposeForward] = ComposeForward
    compose_backward: type[ComposeBackward] = ComposeBackward
    tracker_forward: type[TrackerForward] = TrackerForward
    tracker_backward: type[TrackerBackward] = TrackerBackward


TORCH = Bodies()


def run_forward(
    leaves: Tensor,  # (L, 2H) [h; c]
    compose: ComposeWeights,
    tracker: TrackerWeights | None,
    schedule: Schedule,
    entries: LaneTables | OwnTables | None,  # the tracker's entries
    save: bool,
    dtype: torch.dtype,  # of the products
    bodies: Bodies = TORCH,
) -> Tape:
    """Make every state of the batch, step by step."""
    n_leaves, hidden_dim = leaves.shape[0], leaves.shape[1] // 2
    first = 1 + n_leaves  # row of the first composition
    memory = leaves.new_empty(2, first + schedule.n_compositions, hidden_dim)
    memory[:, 0] = 0
    memory[:, 1:first] = leaves.unflatten(1, (2, hidden_dim)).transpose(0, 1)
    trackers = None
    if tracker is not None:
        assert entries is not None
        trackers = bodies.tracker_forward(tracker, memory, n_leaves, entries, save, dtype)
    compositions = bodies.compose_forward(compose, memory, n_leaves, schedule, trackers, save, dtype)

    for step in range(schedule.n_steps):
        if trackers is not None:
            tracker_h = trackers.advance(step, schedule)
            lanes = schedule.choose(step, tracker_h)
            if lanes is not None:
                trackers.move(step, lanes)
        now = schedule.compositions(step)
        if now.slots.start == now.slots.stop:
            continue
        h = compositions.advance(now)
        if trackers is not None:
            trackers.project(now.slots, h)
    if trackers is None:
        return Tape(memory, compositions.gates.saved, leaves.new_empty(0), leaves.new_empty(0))
    return Tape(memory, compositions.gates.saved, trackers.memory, trackers.gates.saved)


def run_backward(
    grad_output: Tensor,  # (Q, H) gradient of h in the rows `output_index`
    output_index: Tensor,  # (Q,) int64
    compose: ComposeWeights,
    tracker: TrackerWeights | None,
    tables: Tables,
    tape: Tape,
    dtype: torch.dtype,  # of the products
    grad_tracker_memory: Tensor | None = None,  # (2, 1 + A, K) of the trackers' states, from outside
    bodies: Bodies = TORCH,
) -> Gradients:
    """Undo the steps from last to first; return the gradients of the leaves and of all weights."""
    n_leaves = tape.memory.shape[1] - 1 - tables.left_index.shape[0]
    grad_memory = torch.zeros_like(tape.memory)
    grad_h = grad_memory[0]
    grad_h.index_add_(0, output_index, grad_output)

    steps, matrices = CompositionSteps(tables), ComposeMatrices.backward(compose, dtype)
    trackers = None
    if tracker is not None:
        assert isinstance(tables, LaneTables)
        trackers = bodies.tracker_backward(
            tracker, matrices, n_leaves, tables, tape, grad_h, grad_tracker_memory
        )
    compositions = bodies.compose_backward(tape, grad_memory, steps, matrices, trackers)

    for step in reversed(range(len(steps.counts))):
        if steps.counts[step]:
            if trackers is not None:
                trackers.add_from_readers(step, compositions.dh_rows[step])
            compositions.step_back(step)
        if trackers is not None:
            trackers.step_back(step)

    grad_gates = compositions.grad_gates
    grad_compose = _compose_gradients(grad_gates, tape, steps, matrices, tables.hoisted, grad_h)
    grad_tracker = None
    if trackers is not None:
        grad_compose = grad_compose._replace(tracker_weight=trackers.compose_weight_gradient(grad_gates))
        grad_tracker = trackers.finish(grad_h[1 : 1 + n_leaves])
    grad_leaves = grad_memory[:, 1 : 1 + n_leaves].transpose(0, 1).flatten(1)
    return Gradients(grad_leaves, grad_compose, grad_tracker)


def _compose_gradients(
    grad_gates: Tensor,  # (C, 5H) in the type of the products
    tape: Tape,
    steps: CompositionSteps,
    matrices: ComposeMatrices,
    hoisted: HoistedLeaves | None,
    grad_h: Tensor,  # (R, H); the hoisted leaves' rows are added to
) -> ComposeWeights:
    """Finish after the loop: undo the hoisted products, and take the weights' gradients over all steps at once."""
    leaf_gradients = None
    if hoisted is not None:
        leaf_gradients = LeafGradients.collect(grad_gates, hoisted)
        leaf_gradients.add_to_leaves(grad_h, matrices, hoisted)
    h = tape.memory[0]
    weight, bias_rows = weight_gradients(grad_gates, h, steps, hoisted, leaf_gradients)
    return ComposeWeights(weight, bias_rows.sum(0, dtype=h.dtype))
