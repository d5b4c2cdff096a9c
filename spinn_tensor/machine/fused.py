"""The bodies of a step by Triton's kernels around torch's products: a gather, one product and one kernel for the cells.

The compositions of a step are

    inputs = [h_left, h_right, h_tracker]        sums = inputs Wᵀ        h, c, gates = cell(sums + b, c_left, c_right)

in three launches, and backward in three: the cells' gradients from the saved gates, one product with W, and the
scatter. The trackers' steps are the same with h' for inputs and three projections added to the sums, and one launch
more for the projections of what was composed. Products with leaves that were hoisted stay as they are. The tape is
the same whatever the bodies.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from spinn_tensor.bundles import ComposeWeights
from spinn_tensor.machine import kernels
from spinn_tensor.machine.buffers import slices_of
from spinn_tensor.machine.compose import BOTH
from spinn_tensor.machine.loop import Bodies, ComposeBackward, ComposeForward, Schedule
from spinn_tensor.machine.schedule import Compositions
from spinn_tensor.machine.tracker import TrackerBackward, TrackerForward, projection_rows

OPTIONS = {"enable_fp_fusion": True}  # a b + c rounded once; said, since Triton 3.10 has another default
ALIGNMENT = 16  # bytes: rows of the products' operands begin at multiples


def is_interpreted(like: Tensor) -> bool:
    """Tell whether kernels run in the interpreter, which is slow by the program, so that these should be few."""
    return like.device.type == "cpu"


def _tile(like: Tensor, width: int) -> tuple[int, int]:
    """Return the rows and units of a program."""
    rows, units = (16, 128) if is_interpreted(like) else (8, 64)
    return rows, min(units, triton.next_power_of_2(width))


def aligned(
    like: Tensor,
    n: int,
    width: int,
    dtype: torch.dtype,
) -> Tensor:  # (n, width)
    """Make a matrix whose rows begin where a product reads them fastest."""
    whole = ALIGNMENT // dtype.itemsize
    return like.new_empty(n, triton.cdiv(width, whole) * whole, dtype=dtype)[:, :width]


def side_by_side(parts: list[Tensor]) -> Tensor:  # (5H, 2H + K)
    """Make one weight of those of the children and of the tracker."""
    first, width = parts[0], sum(part.shape[1] for part in parts)
    return torch.cat(parts, 1, out=aligned(first, first.shape[0], width, first.dtype))


class Inputs:
    """Gather what a step multiplies, and scatter its gradients."""

    def __init__(
        self,
        h: Tensor,  # (R, H) states, or their gradients
        tracker_h: Tensor | None,  # (1 + A, K)
        n_children: int,
        most: int,  # slots of the widest step
        dtype: torch.dtype,  # of the products
    ) -> None:
        self._h, self._tracker_h = h, h if tracker_h is None else tracker_h
        hidden_dim, tracker_dim = h.shape[1], 0 if tracker_h is None else tracker_h.shape[1]
        rows, units = _tile(h, hidden_dim if n_children else tracker_dim)
        self._grid = triton.cdiv(hidden_dim, units) * n_children + triton.cdiv(tracker_dim, units)
        self._rows = aligned(h, most, n_children * hidden_dim + tracker_dim, dtype)
        self._constants = {
            "N_CHILDREN": n_children,
            "H": hidden_dim,
            "K": tracker_dim,
            "STRIDE": self._rows.stride(0),
            "BM": rows,
            "BD": units,
        }

    def gather(self, n: int, child_index: Tensor, tracker_index: Tensor | None) -> Tensor:
        """Return [h_left, h_right, h_tracker] of n slots, or what there is of them; it lasts until the next step."""
        return self._launch(kernels.gather_inputs, n, child_index, tracker_index)

    def grad(self, n: int) -> Tensor:
        """Return where to write the gradients of n slots for `scatter`."""
        return self._rows[:n]

    def scatter(self, n: int, child_index: Tensor, tracker_index: Tensor | None) -> None:
        """Add the gradients to the rows that were gathered."""
        self._launch(kernels.scatter_inputs, n, child_index, tracker_index)

    def _launch(self, kernel: Any, n: int, child_index: Tensor, tracker_index: Tensor | None) -> Tensor:
        inputs, grid = self._rows[:n], (triton.cdiv(n, self._constants["BM"]), self._grid)
        no_trackers = child_index if tracker_index is None else tracker_index
        kernel[grid](
            self._h, self._tracker_h, child_index, no_trackers, inputs, n, **self._constants, **OPTIONS
        )
        return inputs


def _run_cells(
    sums: Tensor,  # (n, G D)
    bias: Tensor,  # (G D,)
    is_biased: bool,  # the sums have it already
    memory: Tensor,  # (2, R, D)
    first: int,  # row of the first state of the step
    c_index: Tensor,  # ((G - 3) n,)
    gates: Tensor | None,  # (C, G D)
    slot: int,  # row of the gates of that state
    projections: Tensor | None = None,  # (P, G D)
    read_index: Tensor | None = None,  # (3n,)
) -> None:
    """Run the cells of one step."""
    (h, c), (n, gate_dim), width = memory.unbind(0), sums.shape, memory.shape[2]
    rows, units = _tile(h, width)
    kernels.cell_forward[triton.cdiv(n, rows), triton.cdiv(width, units)](
        sums,
        bias,
        h if projections is None else projections,
        c_index if read_index is None else read_index,
        h,
        c,
        c_index,
        h if gates is None else gates,
        n,
        first,
        slot,
        D=width,
        G=gate_dim // width,
        STRIDE=sums.stride(0),
        HAS_BIAS=not is_biased,
        READS=projections is not None,
        SAVE=gates is not None,
        BM=rows,
        BD=units,
        **OPTIONS,
    )


def _undo_cells(
    n: int,
    grad_memory: Tensor,  # (2, R, D)
    gates: Tensor,  # (C, G D)
    c: Tensor,  # (R, D)
    first: int,
    c_index: Tensor,  # ((G - 3) n,)
    grad_gates: Tensor,  # (C, G D) written
    slot: int,
    grad_projections: Tensor | None = None,  # (P, G D)
    read_index: Tensor | None = None,  # (3n,)
    first_word: int = 0,  # row of the empty buffer among the projections
) -> None:
    """Undo the cells of one step."""
    grad_h, grad_c = grad_memory.unbind(0)
    width = c.shape[1]
    rows, units = _tile(c, width)
    kernels.cell_backward[triton.cdiv(n, rows), triton.cdiv(width, units)](
        grad_h,
        grad_c,
        gates,
        c,
        c_index,
        grad_gates,
        grad_h if grad_projections is None else grad_projections,
        c_index if read_index is None else read_index,
        n,
        first,
        slot,
        first_word,
        D=width,
        G=gates.shape[1] // width,
        STRIDE=grad_gates.stride(0),
        READS=grad_projections is not None,
        BM=rows,
        BD=units,
        **OPTIONS,
    )


class FusedComposeForward(ComposeForward):
    """Make the compositions of each step in three launches."""

    def _prepare(self, compose: ComposeWeights, schedule: Schedule) -> None:
        self._is_hoisted = schedule.hoisted is not None
        if self._is_hoisted:
            return
        dtype = self.matrices.parts[BOTH].dtype
        tracker_h = None if self.trackers is None else self.trackers.memory[0]
        self._inputs = Inputs(self.h, tracker_h, 2, schedule.widest, dtype)
        parts = (compose.weight, compose.tracker_weight)
        self.weight = side_by_side([part.to(dtype) for part in parts if part is not None])
        self._sums = aligned(self.memory, schedule.widest, self.bias.shape[0], dtype)

    def advance(self, now: Compositions) -> Tensor:
        """Compose what this step composes; return the new h."""
        slot, n = now.slots.start, now.slots.stop - now.slots.start
        if self._is_hoisted:
            sums = self.sums(now)
        else:
            inputs = self._inputs.gather(n, now.child_index, now.tracker_index)
            sums = torch.mm(inputs, self.weight.t(), out=self._sums[:n])
        first, saved = self.first + slot, self.gates.if_saved
        _run_cells(sums, self.bias, self._is_hoisted, self.memory, first, now.child_index, saved, slot)
        return self.made_h[now.slots]


class FusedComposeBackward(ComposeBackward):
    """Undo what `FusedComposeForward` did, step by step."""

    def _prepare(self) -> None:
        """Arrange the weight; local derivatives are the kernels'."""
        if self.steps.is_hoisted:
            return
        both, tracker = self.matrices.parts[BOTH], self.matrices.tracker
        self._weight = side_by_side([both] if tracker is None else [both, tracker])
        grad_tracker_h = None if self.trackers is None else self.trackers.grad_memory[0]
        widest = max(self.steps.counts, default=0)
        self._grad_inputs = Inputs(self._grad_h, grad_tracker_h, 2, widest, both.dtype)

    def step_back(self, step: int) -> None:
        """Undo one step, whose states' gradients are complete; it composed at least once."""
        n, slot, child_index = (
            self.steps.counts[step],
            self.steps.slots[step].start,
            self.steps.child_index[step],
        )
        first = self.first + slot
        _undo_cells(n, self.grad_memory, self._gates, self._c, first, child_index, self.grad_gates, slot)
        if self.steps.is_hoisted:
            self._go_through_products(step, self._grad_gates_of[step])
            return
        self._go_through_product(step)

    def _go_through_product(self, step: int) -> None:
        """Add to the children and the trackers, by one product for all of them."""
        n, child_index = self.steps.counts[step], self.steps.child_index[step]
        torch.mm(self._grad_gates_of[step], self._weight, out=self._grad_inputs.grad(n))
        tracker_index = None if self.trackers is None else self.trackers.tracker_index[step]
        self._grad_inputs.scatter(n, child_index, tracker_index)

    def _new_grad_gates(self, dtype: torch.dtype) -> Tensor:
        if self.steps.is_hoisted:  # whose rows are summed by an operator that wants no gaps
            return super()._new_grad_gates(dtype)
        return aligned(self._gates, self._gates.shape[0], self._gates.shape[1], dtype)


class FusedTrackerForward(TrackerForward):
    """Run the trackers of all lanes through the steps, three launches each and one for what was composed."""

    def _prepare(self, previous_index: Tensor, counts: list[int]) -> None:
        self._previous_of = previous_index.split(counts)
        self._sums = self.memory.new_empty(max(counts), self.weights.bias.shape[0])

    def _project_leaves(self, leaves: Tensor, n_rows: int) -> Tensor:
        """Return the projections, in the type of the products and without the bias, leaves filled in."""
        n_leaf_rows, weights = leaves.shape[0], self.weights
        leaves = leaves.to(weights.stack.dtype)
        projections = leaves.new_empty(2 * n_rows + n_leaf_rows, weights.bias.shape[0])
        stack = projections[: 2 * n_leaf_rows].view(n_leaf_rows, -1)
        torch.mm(leaves, self._stack_t, out=stack)
        torch.mm(leaves, weights.buffer.t(), out=projections[2 * n_rows :])
        return projections

    def advance(self, step: int, read_index: Tensor) -> Tensor:
        """Step the trackers of all lanes that have a transition now; return their new h."""
        slot, h, previous = self.entries[step].start, self.h_rows[step], self._previous_of[step]
        sums = torch.mm(
            self.memory[0].index_select(0, previous), self._hidden_t, out=self._sums[: h.shape[0]]
        )
        _run_cells(
            sums,
            self.weights.bias,
            False,
            self.memory,
            1 + slot,
            previous,
            self.gates.if_saved,
            slot,
            self.projections,
            read_index,
        )
        return h

    def project(self, slots: slice, h: Tensor) -> None:
        """Project new states for the steps to come."""
        torch.mm(h.to(self._stack_t.dtype), self._stack_t, out=self.composed_projections[slots])


class FusedTrackerBackward(TrackerBackward):
    """Undo what `FusedTrackerForward` did, step by step."""

    def _prepare(self, counts: list[int]) -> None:
        """Make what the steps write."""
        tape, tables = self.tape, self.tables
        n_rows, gate_dim = tape.memory.shape[1], self.weights.bias.shape[0]
        self.h_previous = tape.tracker_memory[0].index_select(0, tables.previous_index)
        self._first_word = 2 * n_rows
        projections = self.grad_memory.new_zeros(self._first_word + 1 + self.n_leaves, gate_dim)
        self.grad_projections, self._grad_words = projections[: 2 * n_rows], projections[2 * n_rows :]
        self._grad_projections = projections
        self._read_index = projection_rows(self.reads, n_rows).split([3 * n for n in counts])
        self._previous_of = tables.previous_index.split(counts)
        self._entries = slices_of(tables.entry_offsets)
        self.grad_gates_of = self.grad_gates.split(counts)
        self._grad_previous = Inputs(
            self.grad_memory[0], self.grad_memory[0], 0, max(counts), self.grad_memory.dtype
        )

    def step_back(self, step: int) -> None:
        """Undo one step of the trackers, whose gradients are complete."""
        slot, previous, grad_gates = (
            self._entries[step].start,
            self._previous_of[step],
            self.grad_gates_of[step],
        )
        n, tape = grad_gates.shape[0], self.tape
        _undo_cells(
            n, self.grad_memory, tape.tracker_gates, tape.tracker_memory[1], 1 + slot, previous, self.grad_gates, slot,
            self._grad_projections, self._read_index[step], self._first_word,
        )  # fmt: skip
        if step == 0:
            return  # every lane starts from zero
        self._go_through_product(step)

    def _go_through_product(self, step: int) -> None:
        """Add to the entries before."""
        grad_gates, previous = self.grad_gates_of[step], self._previous_of[step]
        n = grad_gates.shape[0]
        torch.mm(grad_gates, self.weights.hidden, out=self._grad_previous.grad(n))
        self._grad_previous.scatter(n, previous, previous)

    def _of_words(self) -> Tensor:
        return self._grad_words


CELLS = Bodies(FusedComposeForward, FusedComposeBackward, FusedTrackerForward, FusedTrackerBackward)
