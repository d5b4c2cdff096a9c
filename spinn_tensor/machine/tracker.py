"""The tracker's part of each step, forward and backward (the equations are those of `spinn_tensor.machine.cell`).

What the tracker reads of a state it reads through one of three projections, and each state is projected once, where it
is made, instead of wherever it is read: `projections` (2R + 1 + L, 4K) holds in rows 2r and 2r + 1 state r as first and
as second stack entry, then one row for the empty buffer and one for each word, with the bias. A step's input is then
the sum of three rows. In the reverse loop the gradients of these rows gather from all their readers before a state's
own step, so that they too go back through the projection once a state. Triton's kernels project nothing but words
(`spinn_tensor.machine.fused`).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from spinn_tensor.bundles import LaneTables, OwnTables, TrackerWeights
from spinn_tensor.machine.buffers import StepBuffer, Tape, counts_of, interleave, slices_of
from spinn_tensor.machine.cell import cell_backward_step, cell_step, local_derivatives, sum_rows
from spinn_tensor.machine.compose import ComposeMatrices
from spinn_tensor.machine.products import (
    add_product,
    product,
    sum_of_outer_products,
    transposed,
    write_product,
)


class _Weights(NamedTuple):
    """Hold the tracker's weights as the loop wants them: gates in rows g, i, f, o.

    Those that read the machine's states have the type of the products.
    """

    buffer: Tensor  # (4K, H)
    stack1: Tensor  # (4K, H)
    stack2: Tensor  # (4K, H)
    hidden: Tensor  # (4K, K)
    bias: Tensor  # (4K,)

    @classmethod
    def arrange(cls, tracker: TrackerWeights, dtype: torch.dtype) -> _Weights:
        """Turn the order of the gates from torch's LSTM's to the cell's; `TrackerBackward.finish` turns it back."""
        buffer, stack1, stack2 = _tanh_gate_first(tracker.weight_input).to(dtype).chunk(3, dim=1)
        hidden, bias = _tanh_gate_first(tracker.weight_hidden), _tanh_gate_first(tracker.bias)
        return cls(buffer, stack1, stack2, hidden, bias)

    @property
    def stack(self) -> Tensor:  # (8K, H)
        """Return the rows that multiply stack1, then those of stack2, in one matrix."""
        return torch.cat((self.stack1, self.stack2))


def _tanh_gate_first(rows: Tensor) -> Tensor:
    """Reorder rows of the gates i, f, g, o to g, i, f, o."""
    i, f, g, o = rows.chunk(4)
    return torch.cat((g, i, f, o))


def _tanh_gate_third(rows: Tensor) -> Tensor:
    """Reorder rows of the gates g, i, f, o to i, f, g, o."""
    g, i, f, o = rows.chunk(4)
    return torch.cat((i, f, g, o))


def _h_and_c(
    index: Tensor,  # (A,) int64
    n_rows: int,
) -> Tensor:  # (2A,) int64
    """Return the rows of a memory (2, n_rows, K), flattened over h and c, that each entry reads: its h, then its c."""
    return interleave(index, index + n_rows)


def projection_rows(
    reads: Tensor,  # (n, 3) int64 rows of states: second entry, top, word
    n_rows: int,  # R
) -> Tensor:  # (3n,) int64
    """Return rows of the projections: state r as first and as second entry in 2r and 2r + 1, then the words."""
    shift, scale = projection_layout(reads, n_rows)
    return torch.addcmul(shift, reads, scale).view(-1)


def projection_layout(like: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:  # (3,) int64 each
    """Return shift and scale that turn a row of states, read as second entry, top or word, into one of projections."""
    shift, scale = like.new_empty(3), like.new_full((3,), 2)
    # filled in: a list, or a number assigned to one element, would be copied from the host, which no graph records
    for read, first in enumerate((1, 0, 2 * n_rows)):
        shift[read].fill_(first)
    scale[2].fill_(1)
    return shift, scale


class Reads(Protocol):
    """Say what the trackers read at a step, in one of two ways.

    A step asks once, in the one or the other: a schedule that chooses writes down what it was asked for.
    """

    def rows(self, step: int) -> Tensor:  # (n, 3) int64
        """Return the rows of states that the entries of this step read: second entry, top, word."""

    def projections(self, step: int) -> Tensor:  # (3n,) int64
        """Return the rows of the tracker's projections that they read."""


class TrackerForward:
    """Run the trackers of all lanes through the steps."""

    def __init__(
        self,
        tracker: TrackerWeights,
        memory: Tensor,  # (2, R, H), null row and leaves filled in
        n_leaves: int,
        entries: LaneTables | OwnTables,
        save: bool,
        dtype: torch.dtype,  # of the products with the machine's states
    ) -> None:
        self.weights = _Weights.arrange(tracker, dtype)
        gate_dim, tracker_dim = self.weights.hidden.shape
        n_entries, counts = entries.previous_index.shape[0], counts_of(entries.entry_offsets)
        self.memory = memory.new_empty(2, 1 + n_entries, tracker_dim)
        self.memory[:, 0] = 0
        self.gates = StepBuffer(memory, n_entries, max(counts), gate_dim, save)
        self.entries = slices_of(entries.entry_offsets)
        self.h_rows, self.c_rows = (self.memory[part, 1:].split(counts) for part in (0, 1))
        self._prepare(memory[0], n_leaves, entries.previous_index, counts)

    def _prepare(
        self,
        h: Tensor,  # (R, H) of the machine, null row and leaves filled in
        n_leaves: int,
        previous_index: Tensor,  # (A,)
        counts: list[int],
    ) -> None:
        """Project the leaves, and make what the steps read and write."""
        weights, (n_rows, gate_dim) = self.weights, (h.shape[0], self.weights.bias.shape[0])
        n_entries = sum(counts)
        self._stack_t, self._hidden_t = (transposed(w, n_entries) for w in (weights.stack, weights.hidden))
        self._offsets = torch.arange(0, 3 * max(counts), 3, device=h.device)
        self._h_and_c = self.memory.flatten(0, 1)
        previous = _h_and_c(previous_index, self.memory.shape[1])
        self.previous_index = previous.split([2 * n for n in counts])
        leaves = h[: 1 + n_leaves]
        self.projections = self._project_leaves(leaves, n_rows)
        self.composed_projections = self.projections[2 * len(leaves) : 2 * n_rows].view(-1, 2 * gate_dim)

    def _project_leaves(self, leaves: Tensor, n_rows: int) -> Tensor:
        """Return the projections with the rows of the null state and of the leaves filled in."""
        gate_dim = self.weights.bias.shape[0]
        projections = leaves.new_empty(2 * n_rows + len(leaves), gate_dim)
        write_product(leaves, self._stack_t, projections[: 2 * len(leaves)].view(-1, 2 * gate_dim))
        write_product(leaves, self.weights.buffer.t(), projections[2 * n_rows :])
        projections[2 * n_rows :] += self.weights.bias
        return projections

    def advance(
        self,
        step: int,
        reads: Reads,
    ) -> Tensor:  # (n, K)
        """Step the trackers of all lanes that have a transition now; return their new h."""
        h, c = self.h_rows[step], self.c_rows[step]
        n, tracker_dim = h.shape
        sums = sum_rows(self.projections, reads.projections(step), self._offsets[:n])
        previous = self._h_and_c.index_select(0, self.previous_index[step]).view(n, 2, tracker_dim)
        h_previous, c_previous = previous.unbind(1)
        sums.addmm_(h_previous, self._hidden_t)
        cell_step(sums, self.gates[self.entries[step]], c_previous, h, c)
        return h

    def move(
        self,
        step: int,
        lanes: Tensor,  # (n,) int64
    ) -> None:
        """Let each lane go on from the state that another one has reached."""
        for rows in (self.h_rows[step], self.c_rows[step]):
            rows.copy_(rows.index_select(0, lanes))

    def h_of(
        self,
        tracker_index: Tensor,  # (n,) int64
    ) -> Tensor:  # (n, K)
        """Return h of the entries that compose."""
        return self.memory[0].index_select(0, tracker_index)

    def project(
        self,
        slots: slice,  # among all compositions
        h: Tensor,  # (n, H) states just composed
    ) -> None:
        """Project new states for the steps to come."""
        write_product(h, self._stack_t, self.composed_projections[slots])


class TrackerBackward:
    """Undo what `TrackerForward` did, step by step.

    `add_from_readers` undoes `project`, `add_from_compositions` undoes `h_of`, and `step_back` undoes `advance`.
    """

    def __init__(
        self,
        tracker: TrackerWeights,
        matrices: ComposeMatrices,
        n_leaves: int,
        tables: LaneTables,
        tape: Tape,
        grad_h: Tensor,  # (R, H) gradient of the machine's h
        grad_memory: Tensor | None,  # (2, 1 + A, K) gradient of the trackers' states from outside the machine
    ) -> None:
        assert matrices.tracker is not None
        self.weights = _Weights.arrange(tracker, matrices.tracker.dtype)
        self.compose_weight = matrices.tracker
        self.tables, self.tape, self.n_leaves, self.grad_h = tables, tape, n_leaves, grad_h
        counts, reduce_counts = counts_of(tables.entry_offsets), counts_of(tables.reduce_offsets)
        self.grad_gates = self._new_grad_gates(matrices.tracker.dtype)
        zeros = torch.zeros_like(tape.tracker_memory)
        self.grad_memory = zeros if grad_memory is None else zeros.copy_(grad_memory)
        self.tracker_index = tables.tracker_index.split(reduce_counts)
        self.reads = torch.stack((tables.stack2_index, tables.stack1_index, tables.buffer_index), 1)
        self._prepare(counts, reduce_counts)

    def _new_grad_gates(self, dtype: torch.dtype) -> Tensor:  # (A, 4K)
        """Make room for the gradients of the gates: here in the type of the states, whatever that of the products."""
        return torch.empty_like(self.tape.tracker_gates)

    def _prepare(self, counts: list[int], reduce_counts: list[int]) -> None:
        """Take the local derivatives of all steps, and make what the steps read and write."""
        self._stack = self.weights.stack
        tape = self.tape
        n_rows, (gate_dim, tracker_dim) = tape.memory.shape[1], self.weights.hidden.shape
        previous = _h_and_c(self.tables.previous_index, tape.tracker_memory.shape[1])
        states = tape.tracker_memory.flatten(0, 1).index_select(0, previous).view(-1, 2, tracker_dim)
        self.h_previous, c_previous = states.unbind(1)
        c = tape.tracker_memory[1, 1:]
        dc_factor = local_derivatives(tape.tracker_gates, c, c_previous, self.grad_gates)
        self.grad_gates_of, self.dc_factor_of = self.grad_gates.split(counts), dc_factor.split(counts)
        self.forget_of = tape.tracker_gates[:, 2 * tracker_dim : 3 * tracker_dim].split(counts)

        self._grad_h_and_c = self.grad_memory.flatten(0, 1)
        self.dh_rows, self.dc_rows = (self.grad_memory[part, 1:].split(counts) for part in (0, 1))
        self.previous_index = previous.split([2 * n for n in counts])
        self.grad_projections = self.grad_memory.new_zeros(2 * n_rows, gate_dim)
        stack2_index, stack1_index, _ = projection_rows(self.reads, n_rows).view(-1, 3).t().contiguous()
        self.stack1_index, self.stack2_index = stack1_index.split(counts), stack2_index.split(counts)
        composed = self.grad_projections[2 * (1 + self.n_leaves) :].view(-1, 2 * gate_dim)
        self.grad_projections_of = composed.split(reduce_counts)

    def add_from_readers(
        self,
        step: int,
        dh: Tensor,  # (n, H) added to
    ) -> None:
        """Add to the states composed at this step the gradients from the trackers that read them later."""
        add_product(self.grad_projections_of[step], self._stack, dh)

    def add_from_compositions(
        self,
        step: int,
        grad_compose_gates: Tensor,  # (n, 5H) in the type of the products
    ) -> None:
        """Add to the trackers of this step the gradients from the compositions that read them."""
        grad_h = product(grad_compose_gates, self.compose_weight).to(self.grad_memory.dtype)
        self.grad_memory[0].index_add_(0, self.tracker_index[step], grad_h)

    def step_back(self, step: int) -> None:
        """Undo one step of the trackers, whose gradients are complete."""
        dh, dc, grad_gates = self.dh_rows[step], self.dc_rows[step], self.grad_gates_of[step]
        cell_backward_step(dh, dc, grad_gates, self.dc_factor_of[step])
        self.grad_projections.index_add_(0, self.stack1_index[step], grad_gates)
        self.grad_projections.index_add_(0, self.stack2_index[step], grad_gates)
        if step == 0:
            return  # every lane starts from zero
        grad_previous = dh.new_empty(dh.shape[0], 2, dh.shape[1])
        torch.mm(grad_gates, self.weights.hidden, out=grad_previous[:, 0])
        torch.mul(self.forget_of[step], dc, out=grad_previous[:, 1])
        self._grad_h_and_c.index_add_(0, self.previous_index[step], grad_previous.flatten(0, 1))

    def compose_weight_gradient(
        self,
        grad_compose_gates: Tensor,  # (C, 5H) in the type of the products
    ) -> Tensor:  # (5H, K)
        """Return the gradient of the weight by which compositions multiply the tracker's h, over all steps."""
        h = self.tape.tracker_memory[0].index_select(0, self.tables.tracker_index)
        return sum_of_outer_products(grad_compose_gates, h, grad_compose_gates.dtype)

    def finish(
        self,
        grad_leaf_h: Tensor,  # (L, H) added to
    ) -> TrackerWeights:
        """Add the leaves' gradients and return the weights', from one product each."""
        n_leaf_rows, h, dtype = 1 + self.n_leaves, self.tape.memory[0], self.weights.buffer.dtype
        grad_stack = self.grad_projections.view(-1, 2 * self.grad_projections.shape[1])
        grad_words = self.grad_gates.new_zeros(n_leaf_rows, self.grad_gates.shape[1])
        grad_words.index_add_(0, self.tables.buffer_index, self.grad_gates)
        add_product(grad_stack[1:n_leaf_rows], self._stack, grad_leaf_h)
        add_product(grad_words[1:], self.weights.buffer, grad_leaf_h)
        stack1, stack2 = sum_of_outer_products(grad_stack, h, dtype).chunk(2)
        buffer = sum_of_outer_products(grad_words, h[:n_leaf_rows], dtype)
        hidden = self.grad_gates.t().mm(self.h_previous)
        return self._arranged(buffer, stack1, stack2, hidden)

    def _arranged(self, buffer: Tensor, stack1: Tensor, stack2: Tensor, hidden: Tensor) -> TrackerWeights:
        """Return the weights' gradients in the order that torch's LSTM has the gates in."""
        return TrackerWeights(
            weight_input=_tanh_gate_third(torch.cat((buffer, stack1, stack2), 1)),
            weight_hidden=_tanh_gate_third(hidden),
            bias=_tanh_gate_third(self.grad_gates.sum(0, dtype=buffer.dtype)),
        )
