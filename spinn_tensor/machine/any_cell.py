"""The loop for any cell and any tracker: plain modules of one step, where `loop` has its own arithmetic.

    trackers[entry] = tracker(memory[buffer], memory[stack1], memory[stack2], trackers[previous])
    memory[row]     = cell(memory[left], memory[right], trackers[entry][:K])

Memory. States live in `memory` (R, S), in the rows of the tables: 0 is null, 1..L are the leaves, the rest compositions
in the order of the schedule; those of the trackers in `trackers` (1 + A, J), whose row 0 is their start, zeros.

Backward. One gradient buffer for either memory. The reverse loop visits the steps from last to first; each finds the
gradients of its own rows complete, applies its module once more to the rows that it had read, unless that was kept,
and adds the vector-Jacobian products to the rows read and to the parameters. Nothing is as large as all steps but the
memories, so that memory is linear in the transitions, and so is the traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from spinn_tensor.bundles import LaneTables, OwnTables
from spinn_tensor.machine.buffers import Tables, counts_of, slices_of
from spinn_tensor.machine.schedule import GivenSchedule, OwnSchedule

STATES, TRACKERS = 0, 1  # the memories


class Call(NamedTuple):
    """Hold one application of a module, with its graph."""

    inputs: list[Tensor]  # leaves of the graph
    output: Tensor


Read = tuple[int, Tensor]  # STATES or TRACKERS, and the rows (n,) int64
Kept = list[Call]  # of all steps, in the order of the forward


class Loop(nn.Module):
    """Hold the cell and the tracker. Calling it runs one of the functions below, for `torch.func.functional_call`."""

    def __init__(self, cell: nn.Module, tracker: nn.Module | None) -> None:
        super().__init__()
        self.cell, self.tracker = cell, tracker
        self.tracker_dim, self.output_dim = (0, 0) if tracker is None else tracker_dims(tracker)

    def forward(self, function: Callable, *arguments):
        return function(self, *arguments)

    def compose(self, left: Tensor, right: Tensor, tracker: Tensor | None = None) -> Tensor:
        """Apply the cell to states, and to those of trackers."""
        seen = () if tracker is None else (tracker[:, : self.output_dim],)
        return _like(left, self.cell(left, right, *seen), self.cell)

    def track(self, buffer: Tensor, stack1: Tensor, stack2: Tensor, state: Tensor) -> Tensor:
        """Apply the tracker to next words, tops of stacks, the states beneath them, and its own last states."""
        assert self.tracker is not None
        return _like(state, self.tracker(buffer, stack1, stack2, state), self.tracker)


def _like(states: Tensor, output: Tensor, module: nn.Module) -> Tensor:
    if getattr(output, "shape", None) != states.shape:
        got = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ValueError(
            f"{type(module).__name__} gave {got}, expected states of shape {tuple(states.shape)}"
        )
    return output


def of_compositions(
    child_index: Tensor,  # (2n,) int64: left, right, left, right, ...
    tracker_index: Tensor | None,  # (n,) int64
) -> list[Read]:
    """Say what the cell reads."""
    left, right = child_index.view(-1, 2).unbind(1)
    of_tracker = [] if tracker_index is None else [(TRACKERS, tracker_index)]
    return [(STATES, left), (STATES, right), *of_tracker]


def of_entries(
    rows: Tensor,  # (n, 3) int64: second entry, top, word
    previous_index: Tensor,  # (n,) int64
) -> list[Read]:
    """Say what the tracker reads."""
    stack2, stack1, buffer = rows.unbind(1)
    return [(STATES, buffer), (STATES, stack1), (STATES, stack2), (TRACKERS, previous_index)]


def tracker_dims(tracker: nn.Module) -> tuple[int, int]:
    """Return the width of a tracker's state, J, and how much of it compositions see, K. Raises TypeError."""
    width = getattr(tracker, "state_dim", None)
    if not isinstance(width, int):
        raise TypeError(
            f"{type(tracker).__name__} has no state_dim, the width of the state that it starts from"
        )
    return width, getattr(tracker, "output_dim", width)


def run_forward(
    loop: Loop,
    leaves: Tensor,  # (L, S)
    schedule: GivenSchedule | OwnSchedule,
    entries: LaneTables | OwnTables | None,  # of the tracker
    kept: Kept | None,  # gets the calls; None: no graph is made
) -> tuple[Tensor, Tensor]:  # (R, S), (1 + A, J)
    """Make every state of the batch, step by step."""
    first = 1 + leaves.shape[0]
    memory = leaves.new_empty(first + schedule.n_compositions, leaves.shape[1])
    memory[0] = 0
    memory[1:first] = leaves
    trackers = leaves.new_empty(0)
    if entries is not None:
        trackers = leaves.new_empty(1 + entries.previous_index.shape[0], loop.tracker_dim)
        trackers[0] = 0
        slots_of, previous = slices_of(entries.entry_offsets), _steps(entries)
    memories, made, tracked = (memory, trackers), memory[first:], trackers[1:]

    for step in range(schedule.n_steps):
        if entries is not None:
            now = tracked[slots_of[step]]
            if now.shape[0]:
                now.copy_(_apply(loop.track, of_entries(schedule.rows(step), previous[step]), memories, kept))
            lanes = schedule.choose(step, now[:, : loop.output_dim])
            if lanes is not None:
                now.copy_(now.index_select(0, lanes))
        slots, _, child_index, tracker_index = schedule.compositions(step)
        if slots.start < slots.stop:
            made[slots] = _apply(loop.compose, of_compositions(child_index, tracker_index), memories, kept)
    return memory, trackers


def _steps(entries: LaneTables | OwnTables) -> Sequence[Tensor]:
    return entries.previous_index.split(counts_of(entries.entry_offsets))


def _apply(
    module: Callable[..., Tensor], reads: list[Read], memories: Sequence[Tensor], kept: Kept | None
) -> Tensor:
    """Apply a module to the rows that it reads."""
    inputs = [memories[which].index_select(0, index) for which, index in reads]
    if kept is None:
        return module(*inputs)
    call = _call(module, inputs)
    kept.append(call)
    return call.output.detach()


def _call(module: Callable[..., Tensor], inputs: list[Tensor]) -> Call:
    with torch.enable_grad():
        inputs = [rows.detach().requires_grad_() for rows in inputs]
        if not _has_any_global_hook():
            return Call(inputs, module(*inputs))
        views = (rows.view_as(rows) for rows in inputs)  # of FlopCounterMode, which cannot hook leaves
        return Call(inputs, module(*views))


def run_backward(
    loop: Loop,
    tables: Tables,
    memories: tuple[Tensor, Tensor],
    grad_memories: tuple[Tensor, Tensor],  # added to
    parameters: list[Tensor],  # of both modules, roots of the calls' graphs
    kept: Kept | None,  # calls of the forward; None: they are made again
) -> list[Tensor]:  # gradients of the parameters
    """Undo the steps from last to first; what is left in `grad_memories` are gradients of leaves and of null rows."""
    sums = [  # over all steps, not in half precision
        torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))
        for parameter in parameters
    ]
    schedule = GivenSchedule(tables, memories[STATES].shape[0])
    first = memories[STATES].shape[0] - schedule.n_compositions
    calls = None if kept is None else reversed(kept)

    def undo(module: Callable[..., Tensor], reads: list[Read], grad_output: Tensor) -> None:
        if calls is None:
            call = _call(module, [memories[which].index_select(0, index) for which, index in reads])
        else:
            call = next(calls)
        if not call.output.requires_grad:
            return
        gradients = torch.autograd.grad(
            call.output,
            [*call.inputs, *parameters],
            grad_output.to(call.output.dtype, copy=True),  # which may itself be what an input's is
            retain_graph=True,
            allow_unused=True,
        )
        for (which, index), gradient in zip(reads, gradients, strict=False):
            if gradient is not None:
                grad_memories[which].index_add_(0, index, gradient)
        for total, gradient in zip(sums, gradients[len(reads) :], strict=True):
            if gradient is not None:
                total += gradient

    entries = tables if isinstance(tables, LaneTables) else None
    if entries is not None:
        slots_of, previous = slices_of(entries.entry_offsets), _steps(entries)
    made, tracked = grad_memories[STATES][first:], grad_memories[TRACKERS][1:]
    for step in reversed(range(schedule.n_steps)):
        slots, _, child_index, tracker_index = schedule.compositions(step)
        if slots.start < slots.stop:
            undo(loop.compose, of_compositions(child_index, tracker_index), made[slots])
        if entries is not None and previous[step].shape[0]:
            undo(loop.track, of_entries(schedule.rows(step), previous[step]), tracked[slots_of[step]])
    return [total.to(parameter.dtype) for total, parameter in zip(sums, parameters, strict=True)]
