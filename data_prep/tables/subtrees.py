"""The forest schedule with every distinct subtree of a batch made once.

Without a tracker a state depends on nothing but its subtree, so that equal subtrees have equal states, wherever in the
batch they are: `( the park )` is one composition, however many sentences it is in. The trees then are one directed
graph, whose nodes are numbered from the leaves up. All compositions of one height are a step:

    1. the height's compositions are those whose children have rows by now;
    2. equal pairs of children's rows are one composition, found by one sort; the distinct ones get the next rows;
    3. whoever waits for them is told.

Equal subtrees are equally high, so that none is missed. The number of steps is the height of the tallest tree, as it is
for the forest of unshared trees; how wide a step is is not chosen, and of no account in large batches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spinn_tensor.data_prep.display import in_short
from spinn_tensor.data_prep.tables.hoist import kind_of_children
from spinn_tensor.data_prep.tables.trace import NONE, StackTrace, parents


@in_short
class SharedSchedule(NamedTuple):
    """Hold C distinct compositions in S steps, sorted by kind within a step."""

    rows: np.ndarray  # (M + 1,) int64, row of the state that each transition pushes; the last is null
    kind: np.ndarray  # (C,) int64, see `data_prep.tables.hoist`
    left_index: np.ndarray  # (C,) int64, row of the left child
    right_index: np.ndarray  # (C,) int64, row of the right child
    step_offsets: np.ndarray  # (S + 1,) int64


def share_subtrees(
    trace: StackTrace,
    rows: np.ndarray,  # (M + 1,) int64, rows of the leaves and of the null state; those of compositions are filled in
    n_leaf_rows: int,
) -> SharedSchedule:
    """Give every composition its row, the same to equal ones, step after step."""
    parent, waits_for = _consumers(trace)
    next_row = 1 + n_leaf_rows
    steps = [np.zeros((3, 0), dtype=np.int64)]
    ready = np.flatnonzero(waits_for == 0)
    while ready.size:
        left, right = rows[trace.left[ready]], rows[trace.right[ready]]
        kind = kind_of_children(left > n_leaf_rows, right > n_leaf_rows)
        key = (kind * next_row + left) * next_row + right
        _, first, which = np.unique(key, return_index=True, return_inverse=True)
        rows[trace.reduces[ready]] = next_row + which
        steps.append(np.stack((kind[first], left[first], right[first])))
        next_row += len(first)
        parents = parent[ready]
        np.subtract.at(waits_for, parents, 1)
        parents = parents[waits_for[parents] == 0]
        ready = np.unique(parents[parents != NONE])
    kind, left, right = np.concatenate(steps, 1)
    step_offsets = np.cumsum([step.shape[1] for step in steps])
    return SharedSchedule(rows, kind, left, right, step_offsets)


def _consumers(trace: StackTrace) -> tuple[np.ndarray, np.ndarray]:
    """Find for each REDUCE, counted among them, the one that takes its state, (C,), and of how many it takes, (C + 1,).

    Roots report to NONE, a spare last entry, which never becomes ready.
    """
    composed = trace.reduce_mask[trace.left].astype(np.int64) + trace.reduce_mask[trace.right]
    return parents(trace), np.append(composed, len(composed) + 1)
