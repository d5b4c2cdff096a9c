"""The forest schedule: all compositions of all trees of a batch, packed into S steps of at most W slots.

Without a tracker there is no time order, only the trees. A composition's level is its distance from its root, and
"highest level first" (Hu, Parallel sequencing and assembly line problems, Operations Research 9, 1961) is the shortest
schedule for in-trees on W machines: with n_l the number of compositions at level l and E the highest level plus one,

    S(W) = max over l of l + ceil(sum of n_k for k >= l / W).

The width is chosen from the batch: the tallest tree's height where that costs at most 10 % of padding slots, else the S
that costs least when a step costs as much as a few slots more than it holds. With a `leaf_index` there is no width:
`data_prep.tables.sharing` makes each height's distinct compositions one step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spinn_tensor.data_prep.display import in_short
from spinn_tensor.data_prep.segments import stable_order
from spinn_tensor.data_prep.tables.rows import (
    leaf_rows,
    pad_steps,
    padded_offsets,
    state_rows,
    widths_of_steps,
)
from spinn_tensor.data_prep.tables.sharing import HoistedLeaves, hoist_leaves, share_subtrees
from spinn_tensor.data_prep.tables.trace import NONE, StackTrace, parents, trace_stack

PADDING_ALLOWED = 0.10  # padding slots, as a part of the real ones, that keeping S at the height may cost
STEP_OVERHEAD = 8  # slots' worth of time that a step costs besides its slots (docs/decisions.md)


@in_short
class ForestTables(NamedTuple):
    """Hold everything the forest executor reads. C slots in S steps; rows as in `data_prep.tables.rows`."""

    left_index: np.ndarray  # (C,) int64, row of the left child of each slot; with `padded`, C = S * W
    right_index: np.ndarray  # (C,) int64, row of the right child
    step_offsets: np.ndarray  # (S + 1,) int64, where the slots of each step begin; stays on the host
    root_index: np.ndarray  # (B,) int64, row of each sentence's encoding
    node_index: np.ndarray  # (M,) int64, row of the state that each transition pushes
    hoisted: HoistedLeaves | None  # None where the loop multiplies every child


def forest_tables(
    transitions: np.ndarray,  # (M,) int8, SHIFT or REDUCE, sentence after sentence
    lengths: np.ndarray,  # (B,) tokens of each sentence
    *,
    width: int
    | np.ndarray
    | None = None,  # slots of a step at most; (n,) of each one, the last for all beyond
    padded: bool = False,
    n_leaf_rows: int | None = None,
    least_steps: int = 0,  # with `padded`; empty ones at the end
    leaf_index: np.ndarray | None = None,  # (L,) int64 leaf of each token, from 0; None = a leaf each
) -> ForestTables:
    """Schedule a batch of trees; `padded` gives every step its whole width, its padding slots composing null states.

    With a `leaf_index` equal subtrees are composed once (`data_prep.tables.sharing`) and the leaves' products hoisted
    out of the loop; that and a width exclude each other. Raises DataError for transitions that are not trees.
    """
    if width is not None and np.min(width) < 1:
        raise ValueError(f"width is {width}, a step needs at least one slot")
    if leaf_index is not None and (width is not None or padded):
        raise ValueError("tables of a given width share no leaves")
    trace = trace_stack(transitions, lengths)
    n_leaf_rows = leaf_rows(trace, n_leaf_rows, leaf_index)
    if leaf_index is not None:
        return _shared_tables(trace, n_leaf_rows, leaf_index)
    parent = parents(trace)
    level = _levels(parent)
    if width is None:
        width = choose_width(np.bincount(level))
    step = _highest_level_first(parent, level, width)

    order = stable_order(step)
    step_offsets = np.concatenate(([0], np.cumsum(np.bincount(step))))
    if padded:
        laid_offsets = padded_offsets(width, max(len(step_offsets) - 1, least_steps))
        order, step_offsets = pad_steps(order, step_offsets, laid_offsets), laid_offsets
    slot = np.empty(len(step) + 1, dtype=np.int64)
    slot[order] = np.arange(len(order))  # that of the padding goes to the spare last entry
    rows = state_rows(trace, slot[:-1], n_leaf_rows)
    left, right = np.append(trace.left, NONE), np.append(trace.right, NONE)
    return ForestTables(
        rows[left[order]], rows[right[order]], step_offsets, rows[trace.roots], rows[:-1], None
    )


def _shared_tables(trace: StackTrace, n_leaf_rows: int, leaf_index: np.ndarray) -> ForestTables:
    no_slots = np.zeros(len(trace.reduces), dtype=np.int64)  # yet
    rows = state_rows(trace, no_slots, n_leaf_rows, leaf_index)
    kind, left, right, step_offsets = share_subtrees(trace, rows, n_leaf_rows)
    hoisted = hoist_leaves(kind, left, right, step_offsets)
    return ForestTables(left, right, step_offsets, rows[trace.roots], rows[:-1], hoisted)


def choose_width(
    level_counts: np.ndarray,  # (E,) int64, compositions at each distance from the root
) -> int:
    """Choose the slots a step, so that the schedule is short and little of it is padding."""
    height, total = len(level_counts), int(level_counts.sum())
    if total == 0:
        return 1
    steps = np.arange(height, total + 1)
    widths = least_widths(level_counts, steps)
    if height * widths[0] <= (1 + PADDING_ALLOWED) * total:
        return int(widths[0])
    return int(widths[np.argmin(steps * (widths + STEP_OVERHEAD))])


def least_widths(
    level_counts: np.ndarray,  # (E,) int64, compositions at each distance from the root
    n_steps: np.ndarray,  # (n,) int64, each at least E
) -> np.ndarray:  # (n,) int64
    """Return the least width with which the trees are done in so many steps."""
    below = np.cumsum(level_counts[::-1])[::-1]  # compositions at this level or farther from the root
    widths = np.zeros(len(n_steps), dtype=np.int64)
    for level in range(len(level_counts)):  # those at `level` or beyond are done `level` steps before the end
        np.maximum(widths, -(-below[level] // (n_steps - level)), out=widths)
    return widths


def count_levels(
    transitions: np.ndarray,  # (M,) int8, SHIFT or REDUCE, sentence after sentence
    lengths: np.ndarray,  # (B,) tokens of each sentence
) -> np.ndarray:  # (E,) int64
    """Count the compositions at each distance from the root, as many levels as the tallest tree is high."""
    return np.bincount(_levels(parents(trace_stack(transitions, lengths))))


def _levels(
    parent: np.ndarray,  # (C,) int64
) -> np.ndarray:  # (C,) int64
    """Find each composition's distance from its root, by pointer doubling: log2(height) passes over the whole batch."""
    top = len(parent)
    ancestor = np.append(np.where(parent == NONE, top, parent), top)
    level = (ancestor != top).astype(np.int64)
    while (ancestor != top).any():
        level += level[ancestor]
        ancestor = ancestor[ancestor]
    return level[:-1]


def _highest_level_first(
    parent: np.ndarray,  # (C,) int64
    level: np.ndarray,  # (C,) int64
    width: int | np.ndarray,
) -> np.ndarray:  # (C,) int64
    """Find the step of each composition: at each step the `width` ready ones farthest from their roots."""
    widths = widths_of_steps(width, len(parent)).tolist()  # no schedule has more steps than compositions
    n_nodes = len(parent)
    order = stable_order(level.max(initial=0) - level)
    place = np.empty(n_nodes + 1, dtype=np.int64)
    place[order] = np.arange(n_nodes)
    place[NONE] = n_nodes  # roots report to a spare last entry, which never becomes ready
    parent_place = place[parent[order]]
    waiting_for = np.bincount(parent_place, minlength=n_nodes + 1)
    waiting_for[n_nodes] = n_nodes + 1
    ready = waiting_for == 0
    step = np.full(n_nodes, NONE, dtype=np.int64)
    done, now = 0, 0
    while done < n_nodes:
        chosen = np.flatnonzero(ready)[: widths[now]]
        ready[chosen] = False
        step[order[chosen]] = now
        consumers = parent_place[chosen]
        np.subtract.at(waiting_for, consumers, 1)
        ready[consumers[waiting_for[consumers] == 0]] = True
        done += len(chosen)
        now += 1
    return step
