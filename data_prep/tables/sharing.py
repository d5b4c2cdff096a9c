"""What a batch need not make twice: products with leaves, equal subtrees, and entries of sentences that begin alike.

**Leaves.** A composition multiplies its left child by one half of the weight and its right child by the other. Where
the child is a leaf, the product can be made beforehand, in one large product and once for each leaf and side, however
many compositions read it: half of all children are leaves, and where leaf rows are the distinct words of a batch, most
words come more than once. What is left to the loop are the children that are compositions themselves.

Within a step the compositions are sorted by what their children are,

    leaf leaf | composed leaf | composed composed | leaf composed

so that those whose left child is composed lie side by side, and those whose right child is, too: either product reads
and writes one block.

**Subtrees.** Without a tracker a state depends on nothing but its subtree, so that equal subtrees have equal states,
wherever in the batch they are: `( the park )` is one composition, however many sentences it is in. The trees then are
one directed graph, whose nodes are numbered from the leaves up. All compositions of one height are a step:

    1. the height's compositions are those whose children have rows by now;
    2. equal pairs of children's rows are one composition, found by one sort; the distinct ones get the next rows;
    3. whoever waits for them is told.

Equal subtrees are equally high, so that none is missed. The number of steps is the height of the tallest tree, as it is
for the forest of unshared trees; how wide a step is is not chosen, and of no account in large batches.

**Prefixes.** What a tracker and its stack hold before a transition depends on the words and the transitions before it,
and what the tracker then reads also on the next word. Sentences that begin alike therefore share their first entries:
`A man in a` is read once, however many sentences begin so, and a sentence that comes twice is encoded once.

Prefixes are compared by a polynomial hash, a running sum for the whole batch at once, and what it finds is then checked
exactly: two entries are the same if the same ones precede them and they read the same, which by induction is all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spinn_tensor.data_prep.display import in_short
from spinn_tensor.data_prep.segments import mixed_bits, starts
from spinn_tensor.data_prep.tables.trace import NONE, StackTrace, parents

N_FIXED_STARTS = 2  # rows of the starts before those of the leaves: the bias, and zero
KINDS = (0, 1, 3, 2)  # place within a step by 2 * (right is composed) + (left is composed)
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that its powers are invertible modulo 2**64


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


def share_subtrees(
    trace: StackTrace,
    rows: np.ndarray,  # (M + 1,) int64, rows of the leaves and of the null state; those of compositions are filled in
    n_leaf_rows: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Give every composition its row, the same to equal ones, step after step, sorted by kind within a step.

    Returns the kind of each of the C distinct ones (C,), the rows of its left and its right child (C,), and where the
    S steps begin (S + 1,), all int64.
    """
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
        waiting = parent[ready]
        np.subtract.at(waits_for, waiting, 1)
        waiting = waiting[waits_for[waiting] == 0]
        ready = np.unique(waiting[waiting != NONE])
    kind, left, right = np.concatenate(steps, 1)
    step_offsets = np.cumsum([step.shape[1] for step in steps])
    return kind, left, right, step_offsets


def _consumers(trace: StackTrace) -> tuple[np.ndarray, np.ndarray]:
    """Find for each REDUCE, counted among them, the one that takes its state, (C,), and of how many it takes, (C + 1,).

    Roots report to NONE, a spare last entry, which never becomes ready.
    """
    composed = trace.reduce_mask[trace.left].astype(np.int64) + trace.reduce_mask[trace.right]
    return parents(trace), np.append(composed, len(composed) + 1)


def same_entries(
    trace: StackTrace,
    leaf_index: np.ndarray | None,  # (L,) int64 leaf of each token, from 0; None = every token differs
) -> np.ndarray:  # (M,) int64
    """Find for each transition the first of the batch whose entry is the same."""
    itself = np.arange(len(trace.time))
    if leaf_index is None:
        return itself
    read = _read_codes(trace, leaf_index)
    found = first_of_equal(_prefix_hashes(trace, read))
    previous = np.where(trace.time > 0, itself - 1, 0)
    is_same = (read == read[found]) & (trace.time == trace.time[found])
    is_same &= (trace.time == 0) | (found[previous] == found[previous[found]])
    return found if is_same.all() else itself  # two prefixes with one hash: share nothing


def first_of_equal(values: np.ndarray) -> np.ndarray:  # (n,) int64
    """Find the first position with the same value."""
    _, first, which = np.unique(values, return_index=True, return_inverse=True)
    return first[which]


def _read_codes(trace: StackTrace, leaf_index: np.ndarray) -> np.ndarray:  # (M,) int64
    """Code what each transition adds to its prefix: the transition before it, and the next word, if there is one."""
    next_token = trace.shifted - ~trace.reduce_mask
    is_left = next_token < np.cumsum(trace.lengths)[trace.sentence]
    word = np.where(is_left, leaf_index[np.minimum(next_token, len(leaf_index) - 1)], -1)
    before = np.where(trace.time > 0, trace.reduce_mask[np.arange(len(word)) - 1], False)
    return 2 * (word + 1) + before


def _prefix_hashes(trace: StackTrace, read: np.ndarray) -> np.ndarray:  # (M,) uint64
    """Sum over the prefix of mixed codes times powers of a base, modulo 2**64."""
    mixed = mixed_bits(read.astype(np.uint64) + np.uint64(1))
    powers = np.cumprod(np.full(int(trace.time.max()) + 1, _BASE), dtype=np.uint64)
    sums = np.cumsum(mixed * powers[trace.time], dtype=np.uint64)
    starts = np.flatnonzero(trace.time == 0)
    before = np.where(starts > 0, sums[starts - 1], np.uint64(0))
    return (sums - before[trace.sentence]) ^ trace.time.astype(np.uint64)
