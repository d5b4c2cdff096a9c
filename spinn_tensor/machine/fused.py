"""The bodies of a step by Triton's kernels around torch's products: a gather, one product and one kernel for the cells.

The compositions of a step are

    inputs = [h_left, h_right, h_tracker]        sums = inputs Wᵀ        h, c, gates = cell(sums + b, c_left, c_right)

in three launches, and backward in three: the cells' gradients from the saved gates, one product with W, and the
scatter. The trackers' steps are the same, with [h_second, h_top, h'] for inputs and what they read of the word, which
is projected beforehand, added to the sums. Torch's bodies project each state once instead, where it is made, which
takes two products more a step, one after another: less arithmetic, and on a GPU more time. Products with leaves that
were hoisted stay as they are. The tape is the same whatever the bodies.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from spinn_tensor.bundles import ComposeWeights, TrackerWeights
from spinn_tensor.machine import kernels
from spinn_tensor.machine.buffers import slices_of
from spinn_tensor.machine.compose import BOTH
from spinn_tensor.machine.loop import Bodies, ComposeBackward, ComposeForward, Schedule
from spinn_tensor.machine.products import add_product, sum_of_outer_products
from spinn_tensor.machine.schedule import Compositions
from spinn_tensor.machine.tracker import Reads, TrackerBackward, TrackerForward

OPTIONS = {"enable_fp_fusion": True}  # a b + c rounded once; said, since Triton 3.10 has another default
ALIGNMENT = 16  # bytes: rows of the products' operands begin at multiples
CHILDREN, READS = 2, 3  # numbers a slot among the rows of children, and among those that a tracker reads


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


def side_by_side(parts: list[Tensor]) -> Tensor:  # (G, 2H + K)
    """Make one weight of those of the states and of the tracker, with zeros between its rows."""
    first, width = parts[0], sum(part.shape[1] for part in parts)
    weight = aligned(first, first.shape[0], width, first.dtype)
    if weight.stride(0) > width:
        weight.as_strided((first.shape[0], weight.stride(0)), weight.stride())[:, width:] = 0
    return torch.cat([part.to(first.dtype) for part in parts], 1, out=weight)


class Inputs:
    """Gather what a step multiplies, and scatter its gradients."""

    def __init__(
        self,
        h: Tensor,  # (R, H) states, or their gradients
        tracker_h: Tensor | None,  # (1 + A, K)
        every: int,  # from one pair of the rows of h to the next
        most: int,  # slots of the widest step
        dtype: torch.dtype,  # of the products
    ) -> None:
        self._h, self._tracker_h = h, h if tracker_h is None else tracker_h
        hidden_dim, tracker_dim = h.shape[1], 0 if tracker_h is None else tracker_h.shape[1]
        rows, units = _tile(h, hidden_dim)
        self._grid = 2 * triton.cdiv(hidden_dim, units) + triton.cdiv(tracker_dim, units)
        self._rows = aligned(h, most, 2 * hidden_dim + tracker_dim, dtype)
        self._constants = {
            "EVERY": every,
            "H": hidden_dim,
            "K": tracker_dim,
            "STRIDE": self._rows.stride(0),
            "BM": rows,
            "BD": units,
        }

    def gather(self, n: int, child_index: Tensor, tracker_index: Tensor | None) -> Tensor:
        """Return [h, h, h_tracker] of n slots; it lasts until the next step."""
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
    words: Tensor | None = None,  # (1 + L, G D) projections
    word_index: Tensor | None = None,  # (n,), READS apart
) -> None:
    """Run the cells of one step."""
    (h, c), (n, gate_dim), width = memory.unbind(0), sums.shape, memory.shape[2]
    rows, units = _tile(h, width)
    kernels.cell_forward[triton.cdiv(n, rows), triton.cdiv(width, units)](
        sums,
        bias,
        h if words is None else words,
        c_index if word_index is None else word_index,
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
        EVERY=READS,
        HAS_BIAS=not is_biased,
        READS=words is not None,
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
    grad_words: Tensor | None = None,  # (1 + L, G D)
    word_index: Tensor | None = None,  # (n,), READS apart
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
        grad_h if grad_words is None else grad_words,
        c_index if word_index is None else word_index,
        n,
        first,
        slot,
        D=width,
        G=gates.shape[1] // width,
        STRIDE=grad_gates.stride(0),
        EVERY=READS,
        READS=grad_words is not None,
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
        self._inputs = Inputs(self.h, tracker_h, CHILDREN, schedule.widest, dtype)
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
        self._grad_inputs = Inputs(self._grad_h, grad_tracker_h, CHILDREN, widest, both.dtype)

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
    """Run the trackers of all lanes through the steps, three launches each."""

    def _prepare(self, h: Tensor, n_leaves: int, previous_index: Tensor, counts: list[int]) -> None:
        """Project the words, in the type of the products and without the bias, and arrange the weight."""
        weights, most = self.weights, max(counts)
        dtype = weights.buffer.dtype
        self.machine_h, self.previous_of = h, previous_index.split(counts)
        self.words = h[: 1 + n_leaves].to(dtype) @ weights.buffer.t()
        self.weight = side_by_side([weights.stack2, weights.stack1, weights.hidden])
        self._inputs = Inputs(h, self.memory[0], READS, most, dtype)
        self._sums = aligned(h, most, weights.bias.shape[0], dtype)

    def advance(self, step: int, reads: Reads) -> Tensor:
        """Step the trackers of all lanes that have a transition now; return their new h."""
        slot, h, previous = self.entries[step].start, self.h_rows[step], self.previous_of[step]
        rows, n = reads.rows(step).flatten(), h.shape[0]
        sums = torch.mm(self._inputs.gather(n, rows, previous), self.weight.t(), out=self._sums[:n])
        bias, saved = self.weights.bias, self.gates.if_saved
        _run_cells(
            sums, bias, False, self.memory, 1 + slot, previous, saved, slot, self.words, rows[CHILDREN:]
        )
        return h

    def project(self, slots: slice, h: Tensor) -> None:
        """Leave new states as they are: they are multiplied where they are read."""


class FusedTrackerBackward(TrackerBackward):
    """Undo what `FusedTrackerForward` did, step by step."""

    def _prepare(self, counts: list[int], reduce_counts: list[int]) -> None:
        """Make what the steps write, and arrange the weight."""
        weights, previous_index = self.weights, self.tables.previous_index
        self.previous_of, self.read_of = (
            previous_index.split(counts),
            self.reads.flatten().split([3 * n for n in counts]),
        )
        self.entries, self.grad_gates_of = slices_of(self.tables.entry_offsets), self.grad_gates.split(counts)
        self.grad_words = self.grad_memory.new_zeros(1 + self.n_leaves, weights.bias.shape[0])
        self.weight = side_by_side([weights.stack2, weights.stack1, weights.hidden])
        self._grad_inputs = Inputs(
            self.grad_h, self.grad_memory[0], READS, max(counts), self.grad_gates.dtype
        )

    def _new_grad_gates(self, dtype: torch.dtype) -> Tensor:
        gates = self.tape.tracker_gates
        return aligned(gates, gates.shape[0], gates.shape[1], dtype)

    def add_from_readers(self, step: int, dh: Tensor) -> None:
        """Leave the states as they are: who read them has added to them."""

    def step_back(self, step: int) -> None:
        """Undo one step of the trackers, whose gradients are complete."""
        slot, previous, rows, tape = (
            self.entries[step].start,
            self.previous_of[step],
            self.read_of[step],
            self.tape,
        )
        _undo_cells(
            previous.shape[0], self.grad_memory, tape.tracker_gates, tape.tracker_memory[1], 1 + slot, previous,
            self.grad_gates, slot, self.grad_words, rows[CHILDREN:],
        )  # fmt: skip
        if step:  # before, every stack is empty and every lane zero
            self._go_through_product(step)

    def _go_through_product(self, step: int) -> None:
        """Add to the states read and to the entries before, by one product."""
        grad_gates, previous = self.grad_gates_of[step], self.previous_of[step]
        n = grad_gates.shape[0]
        torch.mm(grad_gates, self.weight, out=self._grad_inputs.grad(n))
        self._grad_inputs.scatter(n, self.read_of[step], previous)

    def finish(self, grad_leaf_h: Tensor) -> TrackerWeights:
        """Add what was read of the words to the leaves; return the weights' gradients, all steps' in one product."""
        h, dtype, previous_index = self.tape.memory[0], self.grad_gates.dtype, self.tables.previous_index
        add_product(self.grad_words[1:], self.weights.buffer, grad_leaf_h)
        buffer = sum_of_outer_products(self.grad_words, h[: 1 + self.n_leaves], dtype)
        n_entries, (hidden_dim, tracker_dim) = (
            previous_index.shape[0],
            (h.shape[1], self.weights.hidden.shape[1]),
        )
        inputs = Inputs(h, self.tape.tracker_memory[0], READS, n_entries, dtype)
        every = inputs.gather(n_entries, self.reads.flatten(), previous_index)
        parts = self.grad_gates.t().mm(every).to(h.dtype).split((hidden_dim, hidden_dim, tracker_dim), 1)
        second, top, hidden = parts
        return self._arranged(buffer, top, second, hidden)


CELLS = Bodies(FusedComposeForward, FusedComposeBackward, FusedTrackerForward, FusedTrackerBackward)
