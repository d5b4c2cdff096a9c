"""The part of the compositions that is known before the loop: children that are leaves.

A composition multiplies its left child by one half of the weight and its right child by the other. Where the child is a
leaf, the product can be made beforehand, in one large product and once for each leaf and side, however many
compositions read it: half of all children are leaves, and where leaf rows are the distinct words of a batch, most words
come more than once. What is left to the loop are the children that are compositions themselves.

Within a step the compositions are sorted by what their children are,

    leaf leaf | composed leaf | composed composed | leaf composed

so that those whose left child is composed lie side by side, and those whose right child is, too: either product reads
and writes one block.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spinn_tensor.data_prep.display import in_short
from spinn_tensor.data_prep.segments import starts
from spinn_tensor.data_prep.tables.trace import StackTrace

N_FIXED_STARTS = 2  # rows of the starts before those of the leaves: the bias, and zero
KINDS = (0, 1, 3, 2)  # place within a step by 2 * (right is composed) + (left is composed)


@in_short
class HoistedLeaves(NamedTuple):
    """Hold what each composition starts from, before the loop adds its composed children. C compositions, S steps.

    The starts' rows: 0 the bias; 1 zeros; then U_l leaves as left children, bias included; then U_r as right children.
    """

    kind_offsets: np.ndarray  # (S, 3) int64, on the host: first slot with left, both, only right composed
    left_leaf_index: np.ndarray  # (U_l,) int64, rows of states: leaves that are left children, each once
    right_leaf_index: np.ndarray  # (U_r,) int64
    start_index: np.ndarray  # (C, 2) int64, starts of the left and of the right child, which are summed
    reader_index: np.ndarray  # (n,) int64, slots that start from each leaf, leaf after leaf, left ones first
    reader_offsets: np.ndarray  # (U_l + U_r,) int64, where those of each leaf begin


def kind_of_children(
    left_mask: np.ndarray,  # (n,) bool, whether the left child is a composition
    right_mask: np.ndarray,  # (n,) bool, whether the right child is one
) -> np.ndarray:  # (n,) int64
    """Say where in its step a composition belongs, by what its children are."""
    return np.array(KINDS)[2 * right_mask.astype(np.int64) + left_mask]


def kinds_of(trace: StackTrace) -> np.ndarray:  # (C,) int64
    """Return the kind of each REDUCE of `trace.reduces`."""
    return kind_of_children(trace.reduce_mask[trace.left], trace.reduce_mask[trace.right])


def hoist_leaves(
    kind: np.ndarray,  # (C,) int64, of the compositions in the order of their slots
    left_index: np.ndarray,  # (C,) int64, rows of their children
    right_index: np.ndarray,  # (C,) int64
    step_offsets: np.ndarray,  # (S + 1,) int64
) -> HoistedLeaves:
    """Make the tables for compositions that are sorted by step and kind."""
    n_steps = len(step_offsets) - 1
    step = np.repeat(np.arange(n_steps), np.diff(step_offsets))
    counts = np.bincount(4 * step + kind, minlength=4 * n_steps).reshape(-1, 4)
    kind_offsets = step_offsets[:-1, None] + np.cumsum(counts, 1)[:, :3]

    left_slots, right_slots = np.flatnonzero((kind == 0) | (kind == 3)), np.flatnonzero(kind <= 1)
    left_leaf_index, left_leaf = np.unique(left_index[left_slots], return_inverse=True)
    right_leaf_index, right_leaf = np.unique(right_index[right_slots], return_inverse=True)
    right_leaf = right_leaf + len(left_leaf_index)
    start_index = np.tile(np.arange(N_FIXED_STARTS), (len(kind), 1))
    start_index[left_slots, 0] = N_FIXED_STARTS + left_leaf
    start_index[right_slots, 1] = N_FIXED_STARTS + right_leaf

    leaf = np.concatenate((left_leaf, right_leaf))
    n_readers = np.bincount(leaf, minlength=len(left_leaf_index) + len(right_leaf_index))
    return HoistedLeaves(
        kind_offsets=kind_offsets,
        left_leaf_index=left_leaf_index,
        right_leaf_index=right_leaf_index,
        start_index=start_index,
        reader_index=np.concatenate((left_slots, right_slots))[np.argsort(leaf, kind="stable")],
        reader_offsets=starts(n_readers),
    )
