"""Where each state lives: row 0 is the null state, then one row a token, then one row a composition.

    row 0            null state, zeros
    rows 1 .. L      leaves, in the order of the tokens (n_leaf_rows of them, where padded)
    rows L+1 ..      compositions, in the order in which the schedule makes them, so that each step writes one block

With a `leaf_index` tokens share leaves, those that are the same word, and the leaves are as many as the distinct words.

Nothing is ever overwritten: popping is a matter of which row is read.
"""

from __future__ import annotations

import numpy as np

from spinn_tensor.data_prep.segments import ragged_arange
from spinn_tensor.data_prep.tables.trace import NONE, StackTrace

NULL_ROW = 0


def state_rows(
    trace: StackTrace,
    composition_slot: np.ndarray,  # (C,) int64, the slot in which each REDUCE of `trace.reduces` is made
    n_leaf_rows: int,
    leaf_index: np.ndarray | None = None,  # (L,) int64 leaf of each token, from 0; None = a leaf each
) -> np.ndarray:  # (M + 1,) int64; the last entry is the null row, so that state NONE = -1 reads it
    """Return the row of the state that each transition pushes."""
    rows = np.empty(len(trace.time) + 1, dtype=np.int64)
    rows[:-1] = trace.shifted  # the k-th SHIFT of the batch pushes leaf k, which lives in row k
    if leaf_index is not None:
        rows[np.flatnonzero(~trace.reduce_mask)] = 1 + leaf_index
    rows[trace.reduces] = 1 + n_leaf_rows + composition_slot
    rows[NONE] = NULL_ROW
    return rows


def leaf_rows(
    trace: StackTrace,
    n_leaf_rows: int | None,
    leaf_index: np.ndarray | None = None,  # (L,) int64 leaf of each token, from 0
) -> int:
    """Count the rows that the leaves take: one a token, or a leaf, or as many as asked for where shapes are fixed."""
    n_tokens = int(trace.lengths.sum())
    if leaf_index is not None and leaf_index.shape != (n_tokens,):
        raise ValueError(f"got leaf_index of shape {leaf_index.shape}, expected {(n_tokens,)}")
    n_leaves = n_tokens if leaf_index is None else int(leaf_index.max()) + 1
    if n_leaf_rows is None:
        return n_leaves
    if n_leaf_rows < n_leaves:
        raise ValueError(f"n_leaf_rows is {n_leaf_rows}, the batch has {n_leaves} leaves")
    return n_leaf_rows


def widths_of_steps(
    width: int | np.ndarray,  # of every step, or of each one, the last for all beyond
    n_steps: int,
) -> np.ndarray:  # (n_steps,) int64
    """Return how many slots each step has."""
    widths = np.atleast_1d(width)
    return widths[np.minimum(np.arange(n_steps), len(widths) - 1)]


def padded_offsets(
    width: int | np.ndarray,  # as of `widths_of_steps`
    n_steps: int,
) -> np.ndarray:  # (n_steps + 1,) int64
    """Return where each step begins when all their slots are laid out."""
    return np.concatenate(([0], np.cumsum(widths_of_steps(width, n_steps))))


def pad_steps(
    order: np.ndarray,  # (n,) int64, what is in the slots of step 0, then in those of step 1, ...
    offsets: np.ndarray,  # (S + 1,) int64, where each step begins
    padded: np.ndarray,  # (S + 1 or more,) int64, where it is to begin
) -> np.ndarray:  # (padded[-1],) int64, NONE in the padding
    """Give every step the slots that it is to have."""
    laid = np.full(padded[-1], NONE, dtype=np.int64)
    counts = np.diff(offsets)
    laid[ragged_arange(padded[: len(counts)], counts)] = order
    return laid
