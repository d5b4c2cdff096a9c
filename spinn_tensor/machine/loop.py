"""The machine's loop and its hand-written reverse. One loop runs every schedule, given tables and own choices alike.

Memory. States live in `memory` (2, R, H): h in [0], c in [1]; row 0 is null, rows 1..L the leaves, the rest
compositions in the order of the schedule (`data_prep.tables.rows`). Each step gathers, multiplies and writes one
contiguous block. The tracker's part of a step is `spinn_tensor.machine.tracker`.

Backward. One gradient buffer for all states. The reverse loop visits the steps from last to first; each finds the
gradients of its own rows complete and adds to those of the rows it had read. Weight gradients are one product over all
steps after the loop, or with hoisted leaves one for each half of the weight. Memory is linear in the transitions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spinn_tensor.bundles import ComposeWeights, HoistedLeaves, LaneTables, OwnTables, TrackerWeights
from spinn_tensor.machine.buffers import StepBuffer, Tables, Tape
from spinn_tensor.machine.cell import cell_backward_step, cell_step, local_derivatives
from spinn_tensor.machine.compose import (
    ComposeMatrices,
    CompositionSteps,
    HoistedProducts,
    LeafGradients,
    weight_gradients,
)
from spinn_tensor.machine.products import add_product, biased_product, product
from spinn_tensor.machine.schedule import GivenSchedule, OwnSchedule
from spinn_tensor.machine.tracker import TrackerBackward, TrackerForward

Schedule = GivenSchedule | OwnSchedule


class Gradients(NamedTuple):
    """Hold gradients in the shapes of what they are gradients of; None without tracker."""

    leaves: Tensor  # (L, 2H)
    compose: ComposeWeights
    tracker: TrackerWeights | None


def run_forward(
    leaves: Tensor,  # (L, 2H) [h; c]
    compose: ComposeWeights,
    tracker: TrackerWeights | None,
    schedule: Schedule,
    entries: LaneTables | OwnTables | None,  # the tracker's entries
    save: bool,
    dtype: torch.dtype,  # of the products
) -> Tape:
    """Make every state of the batch, step by step."""
    n_leaves, hidden_dim = leaves.shape[0], leaves.shape[1] // 2
    first = 1 + n_leaves  # row of the first composition
    memory = leaves.new_empty(2, first + schedule.n_compositions, hidden_dim)
    memory[:, 0] = 0
    memory[:, 1:first] = leaves.unflatten(1, (2, hidden_dim)).transpose(0, 1)
    h, c = memory.unbind(0)
    made_h, made_c = h[first:], c[first:]
    gates = StepBuffer(leaves, schedule.n_compositions, schedule.widest, 5 * hidden_dim, save)
    matrices = ComposeMatrices.forward(compose, dtype)
    hoisted_products = HoistedProducts(h, matrices, compose.bias, schedule.hoisted)
    trackers = None
    if tracker is not None:
        assert entries is not None
        trackers = TrackerForward(tracker, memory, n_leaves, entries, save, dtype)

    for step in range(schedule.n_steps):
        tracker_h = None if trackers is None else trackers.advance(step, schedule.reads(step))
        slots, products, child_index, tracker_index = schedule.compositions(step, tracker_h)
        if (n := slots.stop - slots.start) == 0:
            continue
        made_h_now = made_h[slots]
        sums = hoisted_products.of(slots)
        for rows, index, half in products:
            children = h.index_select(0, index).view(rows.stop - rows.start, -1)
            if sums is None:
                sums = biased_product(children, matrices.parts[half], compose.bias)
            else:
                add_product(children, matrices.parts[half], sums[rows])
        assert sums is not None
        if trackers is not None and tracker_index is not None and matrices.tracker is not None:
            add_product(trackers.h_of(tracker_index), matrices.tracker, sums)
        cell_step(sums, gates[slots], c.index_select(0, child_index).view(n, -1), made_h_now, made_c[slots])
        if trackers is not None:
            trackers.project(slots, made_h_now)
    if trackers is None:
        return Tape(memory, gates.saved, leaves.new_empty(0), leaves.new_empty(0))
    return Tape(memory, gates.saved, trackers.memory, trackers.gates.saved)


def run_backward(
    grad_output: Tensor,  # (Q, H) gradient of h in the rows `output_index`
    output_index: Tensor,  # (Q,) int64
    compose: ComposeWeights,
    tracker: TrackerWeights | None,
    tables: Tables,
    tape: Tape,
    dtype: torch.dtype,  # of the products
    grad_tracker_memory: Tensor | None = None,  # (2, 1 + A, K) of the trackers' states, from outside
) -> Gradients:
    """Undo the steps from last to first; return the gradients of the leaves and of all weights."""
    n_rows, hidden_dim = tape.memory.shape[1:]
    n_leaves = n_rows - 1 - tables.left_index.shape[0]
    grad_memory = torch.zeros_like(tape.memory)
    grad_h, grad_c = grad_memory.unbind(0)
    grad_h.index_add_(0, output_index, grad_output)

    steps, matrices = CompositionSteps(tables), ComposeMatrices.backward(compose, dtype)
    gates = ComposeGradients(tape, steps, dtype, tracked=tracker is not None)
    dh_rows, dc_rows = (part[1 + n_leaves :].split(steps.counts) for part in (grad_h, grad_c))
    trackers = None
    if tracker is not None:
        assert isinstance(tables, LaneTables)
        trackers = TrackerBackward(tracker, matrices, n_leaves, tables, tape, grad_tracker_memory)

    for step in reversed(range(len(steps.counts))):
        if n := steps.counts[step]:
            dh, dc = dh_rows[step], dc_rows[step]
            if trackers is not None:
                trackers.add_from_readers(step, dh)
            grad_gates = gates.of_step(step, dh, dc)
            for rows, index, half in steps.products[step]:
                grad_h_children = product(grad_gates[rows], matrices.parts[half]).to(grad_h.dtype)
                grad_h.index_add_(0, index, grad_h_children.view(-1, hidden_dim))
            grad_c_children = (gates.forget_of[step] * dc.unsqueeze(1)).view(2 * n, hidden_dim)
            grad_c.index_add_(0, steps.child_index[step], grad_c_children)
            if trackers is not None:
                trackers.add_from_compositions(step, grad_gates)
        if trackers is not None:
            trackers.step_back(step)

    grad_compose = _compose_gradients(gates.all, tape, steps, matrices, tables.hoisted, grad_h)
    grad_tracker = None
    if trackers is not None:
        grad_compose = grad_compose._replace(tracker_weight=trackers.compose_weight_gradient(gates.all))
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


class ComposeGradients:
    """Take the gradients of the compositions' gates before activation.

    Local derivatives are taken for a step when it comes, on the CPU, where what they read and write then fits in the
    cache; for all steps at once elsewhere, and with a tracker, whose steps are many: there the number of operators
    counts.
    """

    def __init__(self, tape: Tape, steps: CompositionSteps, dtype: torch.dtype, tracked: bool) -> None:
        hidden_dim = tape.memory.shape[2]
        self._steps, self._c, self._gates = steps, tape.memory[1], tape.gates
        self.all = torch.empty_like(tape.gates, dtype=dtype)  # (C, 5H) of all steps, for the products
        self._all_of = self.all.split(steps.counts)
        self._is_mixed = dtype != tape.gates.dtype
        forget_gates = tape.gates[:, 2 * hidden_dim : 4 * hidden_dim]
        self.forget_of = forget_gates.unflatten(1, (2, hidden_dim)).split(steps.counts)
        self._factors = self._dc_factor_of = None
        if tracked or tape.gates.device.type != "cpu":
            factors = torch.empty_like(tape.gates) if self._is_mixed else self.all
            dc_factor = self._derive(slice(0, factors.shape[0]), steps.children, factors)
            self._factors, self._dc_factor_of = factors.split(steps.counts), dc_factor.split(steps.counts)

    def of_step(
        self,
        step: int,
        dh: Tensor,  # (n, H) complete
        dc: Tensor,  # (n, H) from later steps; completed in place
    ) -> Tensor:  # (n, 5H) in the type of the products
        """Return the gradients of the gates of one step, whose states' gradients are complete."""
        wanted = self._all_of[step]
        if self._factors is not None and self._dc_factor_of is not None:
            factors, dc_factor = self._factors[step], self._dc_factor_of[step]
        else:
            factors = torch.empty_like(wanted, dtype=dh.dtype) if self._is_mixed else wanted
            dc_factor = self._derive(self._steps.slots[step], self._steps.child_index[step], factors)
        cell_backward_step(dh, dc, factors, dc_factor)
        if self._is_mixed:
            wanted.copy_(factors)
        return wanted

    def _derive(self, slots: slice, child_index: Tensor, factors: Tensor) -> Tensor:
        made_c = self._c[self._c.shape[0] - self._gates.shape[0] :]
        c_children = self._c.index_select(0, child_index).view(-1, 2 * self._c.shape[1])
        return local_derivatives(self._gates[slots], made_c[slots], c_children, factors)
