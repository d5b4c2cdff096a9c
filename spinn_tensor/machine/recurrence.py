"""The machine's loop and its hand-written reverse. One loop runs every schedule, given tables and own choices alike.

Memory. States live in `memory` (2, R, H): h in [0], c in [1]; row 0 is null, rows 1..L the leaves, the rest
compositions in the order of the schedule (`data_prep.tables.rows`). Each step gathers, multiplies and writes one
contiguous block. The tracker's part of a step is `spinn_tensor.machine.tracking`.

Backward. One gradient buffer for all states. The reverse loop visits the steps from last to first; each finds the
gradients of its own rows complete and adds to those of the rows it had read. Weight gradients are one product over all
steps after the loop. Memory is linear in the number of transitions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spinn_tensor.bundles import ComposeWeights, LaneTables, OwnTables, TrackerWeights
from spinn_tensor.machine.buffers import (
    StepBuffer,
    Tables,
    Trail,
    both_children,
    composition_offsets,
    counts_of,
)
from spinn_tensor.machine.schedules import GivenSchedule, OwnSchedule
from spinn_tensor.machine.steps import cell_backward_step, compose_step, local_derivatives
from spinn_tensor.machine.tracking import TrackerWalk, TrackerWalkBack

Schedule = GivenSchedule | OwnSchedule


class Gradients(NamedTuple):
    """In the shapes of what they are gradients of; None without tracker."""

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
) -> Trail:
    """Make every state of the batch, step by step."""
    n_leaves, hidden_dim = leaves.shape[0], leaves.shape[1] // 2
    first = 1 + n_leaves  # row of the first composition
    memory = leaves.new_empty(2, first + schedule.n_compositions, hidden_dim)
    memory[:, 0] = 0
    memory[:, 1:first] = leaves.unflatten(1, (2, hidden_dim)).transpose(0, 1)
    h, c = memory.unbind(0)
    made_h, made_c = h[first:], c[first:]
    sizes = schedule.n_compositions, schedule.widest
    gates = StepBuffer(leaves, *sizes, 5 * hidden_dim, save)
    tanh_c = StepBuffer(leaves, *sizes, hidden_dim, save)
    walk = None
    if tracker is not None:
        assert entries is not None
        walk = TrackerWalk(tracker, memory, n_leaves, entries, save)

    for step in range(schedule.n_steps):
        tracker_h = None if walk is None else walk.advance(step, schedule.reads(step))
        slots, child_index, tracker_index = schedule.compositions(step, tracker_h)
        if (n := slots.stop - slots.start) == 0:
            continue
        h_children = h.index_select(0, child_index).view(n, -1)
        c_children = c.index_select(0, child_index).view(n, -1)
        composing_h = walk.h_of(tracker_index) if walk is not None and tracker_index is not None else None
        written = gates[slots], tanh_c[slots], made_h[slots], made_c[slots]
        compose_step(h_children, c_children, composing_h, compose, *written)
        if walk is not None:
            walk.project(slots, made_h[slots])
    if walk is None:
        return Trail(memory, gates.saved, tanh_c.saved, *(leaves.new_empty(0) for _ in range(3)))
    return Trail(memory, gates.saved, tanh_c.saved, walk.memory, walk.gates.saved, walk.tanh_c.saved)


def run_backward(
    grad_output: Tensor,  # (Q, H) gradient of h in the rows `output_index`
    output_index: Tensor,  # (Q,) int64
    compose: ComposeWeights,
    tracker: TrackerWeights | None,
    tables: Tables,
    trail: Trail,
    grad_tracker_memory: Tensor | None = None,  # (2, 1 + A, K) of the trackers' states, from outside
) -> Gradients:
    """Gradients of the leaves and of all weights."""
    n_rows, hidden_dim = trail.memory.shape[1:]
    n_compositions = tables.left_index.shape[0]
    n_leaves = n_rows - 1 - n_compositions
    grad_memory = torch.zeros_like(trail.memory)
    grad_h, grad_c = grad_memory.unbind(0)
    grad_h.index_add_(0, output_index, grad_output)

    counts = counts_of(composition_offsets(tables))
    children = both_children(tables)
    child_index = children.split([2 * n for n in counts])
    c_children = trail.memory[1].index_select(0, children).view(-1, 2 * hidden_dim)
    grad_gates, dc_factor = local_derivatives(trail.gates, trail.tanh_c, c_children)
    forget_of = trail.gates[:, 2 * hidden_dim : 4 * hidden_dim].unflatten(1, (2, hidden_dim)).split(counts)
    grad_gates_of, dc_factor_of = grad_gates.split(counts), dc_factor.split(counts)
    dh_rows, dc_rows = (part[1 + n_leaves :].split(counts) for part in (grad_h, grad_c))
    walk = None
    if tracker is not None:
        assert isinstance(tables, LaneTables)
        walk = TrackerWalkBack(tracker, compose, n_leaves, tables, trail, grad_tracker_memory)

    for step in reversed(range(len(counts))):
        if n := counts[step]:
            dh, dc = dh_rows[step], dc_rows[step]
            if walk is not None:
                walk.collect(step, dh)
            cell_backward_step(dh, dc, grad_gates_of[step], dc_factor_of[step])
            grad_h_children = grad_gates_of[step].mm(compose.weight).view(2 * n, hidden_dim)
            grad_c_children = (forget_of[step] * dc.unsqueeze(1)).view(2 * n, hidden_dim)
            grad_h.index_add_(0, child_index[step], grad_h_children)
            grad_c.index_add_(0, child_index[step], grad_c_children)
            if walk is not None:
                walk.receive(step, grad_gates_of[step])
        if walk is not None:
            walk.retreat(step)

    h_children = trail.memory[0].index_select(0, children).view(-1, 2 * hidden_dim)
    grad_compose = ComposeWeights(
        weight=grad_gates.t().mm(h_children),
        bias=grad_gates.sum(0),
        tracker_weight=None if walk is None else walk.compose_weight_gradient(grad_gates),
    )
    grad_tracker = None if walk is None else walk.finish(grad_h[1 : 1 + n_leaves])
    grad_leaves = grad_memory[:, 1 : 1 + n_leaves].transpose(0, 1).flatten(1)
    return Gradients(grad_leaves, grad_compose, grad_tracker)
