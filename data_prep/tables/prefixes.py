"""Which entries of a batch are one and the same.

What a tracker and its stack hold before a transition depends on the words and the transitions before it, and what the
tracker then reads also on the next word. Sentences that begin alike therefore share their first entries: `A man in a`
is read once, however many sentences begin so, and a sentence that comes twice is encoded once.

Prefixes are compared by a polynomial hash, a running sum for the whole batch at once, and what it finds is then checked
exactly: two entries are the same if the same ones precede them and they read the same, which by induction is all.
"""

from __future__ import annotations

import numpy as np

from spinn_tensor.data_prep.segments import mixed_bits
from spinn_tensor.data_prep.tables.trace import StackTrace

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that its powers are invertible modulo 2**64


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
