"""What every stack of a batch holds at every step, from the transitions alone.

Each transition pushes exactly one state, so the state pushed by transition `p` is named by its flat position `p`. With
`depth[p]` the height of its stack after `p` (a running sum of +1 for SHIFT and -1 for REDUCE), the left child of a
REDUCE is the latest state of its own depth before it, and its right child `p - 1`. It covers what its left child
covered, and so on back to the SHIFT that pushed the first of them onto the state before it:

    below[p] = q - 1,    q = the latest SHIFT up to p with depth[q] = depth[p], NONE if it is a sentence's first,

found for the whole batch by one sort by depth, in which positions stay in order. Sentences are not told apart: each one
shifts to a depth before it reduces to it. There is no loop over sentences or nodes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spinn_tensor.data_prep.display import in_short
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.segments import places, stable_order, starts
from spinn_tensor.data_prep.trees import REDUCE, check_all_transitions

NONE = -1  # no such state


@in_short
class StackTrace(NamedTuple):
    """Hold the stacks of B sentences; M = sum of 2N - 1 transitions, C = sum of N - 1 REDUCE, L = sum of N SHIFT."""

    lengths: np.ndarray  # (B,) int64, tokens of each sentence
    sentence: np.ndarray  # (M,) int64, sentence of each transition
    time: np.ndarray  # (M,) int64, step of each transition within its sentence
    reduce_mask: np.ndarray  # (M,) bool
    shifted: np.ndarray  # (M,) int64, SHIFTs of the whole batch up to and including this transition
    below: np.ndarray  # (M,) int64, state beneath the pushed state on the stack, NONE at the bottom
    reduces: np.ndarray  # (C,) int64, flat positions of the REDUCE transitions
    left: np.ndarray  # (C,) int64, state that each REDUCE takes as left child
    right: np.ndarray  # (C,) int64, state that each REDUCE takes as right child
    roots: np.ndarray  # (B,) int64, last state of each sentence

    def first_words(self, states: np.ndarray) -> np.ndarray:
        """Return the first word under each of these states: the one after what lies beneath it on the stack."""
        below = self.below[states]
        of_sentence = starts(self.lengths)[self.sentence[states]]
        return np.where(below == NONE, of_sentence, self.shifted[below])


def trace_stack(
    transitions: np.ndarray,  # (M,) int8, SHIFT or REDUCE, sentence after sentence
    lengths: np.ndarray,  # (B,) tokens of each sentence, each >= 1
) -> StackTrace:
    """Follow all stacks of a batch at once.

    Raises DataError, naming the example and where it fails, if `transitions` is not one binary tree over `lengths[b]`
    tokens for every b, or if there are no sentences.
    """
    transitions = np.asarray(transitions)
    lengths = np.asarray(lengths, dtype=np.int64)
    if len(lengths) == 0:
        raise DataError("a batch needs at least one sentence")
    check_all_transitions(transitions, lengths)
    n_steps = 2 * lengths - 1
    ends = np.cumsum(n_steps)
    sentence = np.repeat(np.arange(len(lengths)), n_steps)
    time = places(n_steps)

    reduce_mask = transitions == REDUCE
    height = np.cumsum(1 - 2 * reduce_mask.astype(np.int64))
    depth = height - sentence  # every sentence before this one has left one state behind

    order = stable_order(depth)
    latest_shift = order[np.maximum.accumulate(np.where(reduce_mask[order], 0, np.arange(len(order))))]
    below = np.empty(len(transitions), dtype=np.int64)
    below[order] = np.where(time[latest_shift] > 0, latest_shift - 1, NONE)
    reduces = np.flatnonzero(reduce_mask)
    return StackTrace(
        lengths=lengths,
        sentence=sentence,
        time=time,
        reduce_mask=reduce_mask,
        shifted=np.cumsum(~reduce_mask),
        below=below,
        reduces=reduces,
        left=below[reduces - 1],
        right=reduces - 1,
        roots=ends - 1,
    )


def parents(trace: StackTrace) -> np.ndarray:  # (C,) int64
    """Find the REDUCE that consumes each REDUCE's state, NONE for roots, all counted among the REDUCEs."""
    n_reduces = len(trace.reduces)
    number = np.full(len(trace.time), NONE, dtype=np.int64)
    number[trace.reduces] = np.arange(n_reduces)
    parent = np.full(n_reduces + 1, NONE, dtype=np.int64)  # leaves, NONE, write to the spare last entry
    parent[number[trace.left]] = np.arange(n_reduces)
    parent[number[trace.right]] = np.arange(n_reduces)
    return parent[:n_reduces]
