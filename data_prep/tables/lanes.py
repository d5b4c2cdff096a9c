"""The tracker's tables: which states each lane reads at each step, and which lanes reduce.

With a tracker the order of the steps is forced: transition t of a sentence needs the tracker's state after transition
t - 1. Every sentence is a lane; step s runs one entry for each lane that has a transition then, and composes those that
REDUCE. Entries and compositions are kept flat, step after step, with the offsets of the steps on the host:

* ragged: no lane waits, S = T; nothing is computed for sentences that have ended.
* capped: at most `width` lanes compose at a step, so that shapes can be fixed; a lane whose turn it is not waits, the
  sentences with the most transitions left going first.

Both are built from the same trace by the same code; only the step of each transition differs. With a `leaf_index` lanes
that began alike share their entries and compositions (`data_prep.tables.sharing`).
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
from spinn_tensor.data_prep.tables.sharing import (
    HoistedLeaves,
    first_of_equal,
    hoist_leaves,
    kinds_of,
    same_entries,
)
from spinn_tensor.data_prep.tables.trace import NONE, StackTrace, trace_stack


@in_short
class LaneTables(NamedTuple):
    """Hold everything the given-transitions executor reads. A entries and C compositions in S steps.

    Rows of states as in `data_prep.tables.rows`; rows of tracker states: 0 is the zero start, 1 + e is entry e.
    """

    buffer_index: np.ndarray  # (A,) int64, row of the word on top of the buffer, null when it is empty
    stack1_index: np.ndarray  # (A,) int64, row of the top of the stack before the transition, or null
    stack2_index: np.ndarray  # (A,) int64, row of the second entry, or null
    previous_index: np.ndarray  # (A,) int64, tracker row of the lane's entry before, 0 at its first
    entry_offsets: np.ndarray  # (S + 1,) int64, where the entries of each step begin; stays on the host
    left_index: np.ndarray  # (C,) int64, row of the left child of each composition
    right_index: np.ndarray  # (C,) int64, row of the right child
    tracker_index: np.ndarray  # (C,) int64, tracker row of the entry that reduces
    reduce_offsets: np.ndarray  # (S + 1,) int64, where the compositions of each step begin; stays on the host
    root_index: np.ndarray  # (B,) int64, row of each sentence's encoding
    node_index: np.ndarray  # (M,) int64, row of the state that each transition pushes
    entry_index: np.ndarray  # (M,) int64, tracker row of the entry of each transition
    hoisted: HoistedLeaves | None  # None where the loop multiplies every child


@in_short
class ThinStackTables(NamedTuple):
    """Hold the same reads laid out as time by batch, padded, to look at in order to understand the machine."""

    buffer_index: np.ndarray  # (T, B) int64
    stack1_index: np.ndarray  # (T, B) int64
    stack2_index: np.ndarray  # (T, B) int64
    reduce_mask: np.ndarray  # (T, B) bool
    valid_mask: np.ndarray  # (T, B) bool, False where the sentence has ended or waits
    root_index: np.ndarray  # (B,) int64


def lane_tables(
    transitions: np.ndarray,  # (M,) int8, SHIFT or REDUCE, sentence after sentence
    lengths: np.ndarray,  # (B,) tokens of each sentence
    *,
    width: int | np.ndarray | None = None,  # compositions; (n,) of each step, the last for all beyond
    padded: bool = False,
    n_leaf_rows: int | None = None,
    n_lanes: int
    | np.ndarray
    | None = None,  # entries, likewise; fewer than there are sentences make lanes wait
    least_steps: int = 0,  # with `padded`; empty ones at the end
    leaf_index: np.ndarray | None = None,  # (L,) int64 leaf of each token, from 0; None = a leaf each
) -> LaneTables:
    """Compile a batch for the tracker: ragged, or capped at `width` compositions a step.

    `padded` (with `width`) gives every step B entries, or `n_lanes`, and `width` compositions; the padding reads null
    states. With a `leaf_index` what begins alike is run once, and the leaves' products are hoisted out of the loop;
    that and a width exclude each other. Raises DataError for transitions that are not trees.
    """
    _check_sizes(len(lengths), width, padded, n_lanes, leaf_index)
    n_lanes = len(lengths) if n_lanes is None else n_lanes
    trace = trace_stack(transitions, lengths)
    step = trace.time if width is None else _capped_steps(trace, width, n_lanes)
    same = same_entries(trace, leaf_index)  # of each transition the first one with the same entry
    n_states = len(same)
    n_reduces = len(trace.reduces)
    # likewise among the REDUCEs
    same_composition = np.arange(n_reduces) if leaf_index is None else first_of_equal(same[trace.reduces])
    kind = np.zeros(n_states, dtype=np.int64)
    kind[trace.reduces] = kinds_of(trace)
    distinct = np.flatnonzero(same == np.arange(n_states))
    widths = (n_lanes, width) if padded else (None, None)
    entries = _in_order(distinct, step, widths[0], least_steps)
    reduces = trace.reduces[same_composition == np.arange(n_reduces)]
    compositions = _in_order(reduces, step, widths[1], least_steps, kind)

    composition_slot = compositions.of_transitions(n_states)[trace.reduces][same_composition]
    rows = state_rows(trace, composition_slot, leaf_rows(trace, n_leaf_rows, leaf_index), leaf_index)
    entry_rows = np.append(1 + entries.of_transitions(n_states)[same], 0)  # NONE reads the zero start
    top, second, word = _reads(trace)  # the lane's entry before pushed what is on top
    children = rows[second[compositions.order]], rows[top[compositions.order]]
    step_offsets = compositions.step_offsets
    hoisted = None if leaf_index is None else hoist_leaves(kind[compositions.order], *children, step_offsets)
    return LaneTables(
        buffer_index=rows[word[entries.order]],
        stack1_index=rows[top[entries.order]],
        stack2_index=rows[second[entries.order]],
        previous_index=entry_rows[top[entries.order]],
        entry_offsets=entries.step_offsets,
        left_index=children[0],
        right_index=children[1],
        tracker_index=entry_rows[compositions.order],
        reduce_offsets=step_offsets,
        root_index=rows[trace.roots],
        node_index=rows[:-1],
        entry_index=entry_rows[:-1],
        hoisted=hoisted,
    )


def _check_sizes(
    n_sentences: int,
    width: int | np.ndarray | None,
    padded: bool,
    n_lanes: int | np.ndarray | None,
    leaf_index: np.ndarray | None,
) -> None:
    """Raise ValueError for sizes that exclude each other."""
    if padded and width is None:
        raise ValueError("padded lane tables need a width")
    if leaf_index is not None and width is not None:
        raise ValueError("tables of a given width share no leaves")
    if n_lanes is not None and not isinstance(n_lanes, np.ndarray) and n_lanes < n_sentences:
        raise ValueError(f"n_lanes is {n_lanes}, the batch has {n_sentences} sentences")


@in_short
class _Slots(NamedTuple):
    """Lay transitions into the slots of a schedule, step after step."""

    order: np.ndarray  # (n,) int64, flat position of the transition in each slot, NONE in the padding
    step_offsets: np.ndarray  # (S + 1,) int64, where the slots of each step begin

    def of_transitions(self, n_transitions: int) -> np.ndarray:  # (n_transitions,) int64
        """Return the slot of each transition; zero for those that have none."""
        slot = np.zeros(n_transitions + 1, dtype=np.int64)
        slot[self.order] = np.arange(len(self.order))  # that of the padding goes to the spare last entry
        return slot[:-1]


def _in_order(
    positions: np.ndarray,  # (n,) int64 of transitions, growing
    step: np.ndarray,  # (M,) int64 of every transition
    width: int | np.ndarray | None,  # slots of every step, or of each one; None for as many as are needed
    least_steps: int,  # with a width
    kind: np.ndarray | None = None,  # (M,) int64
) -> _Slots:
    """Order transitions by step, within a step by their kind, and within that by sentence, as they come."""
    of_step = step[positions]
    key = of_step if kind is None else of_step * (int(kind.max()) + 1) + kind[positions]
    order = positions[stable_order(key)]
    offsets = np.concatenate(([0], np.cumsum(np.bincount(of_step, minlength=int(step.max()) + 1))))
    if width is None:
        return _Slots(order, offsets)
    step_offsets = padded_offsets(width, max(len(offsets) - 1, least_steps))
    return _Slots(pad_steps(order, offsets, step_offsets), step_offsets)


def thin_stack_tables(
    transitions: np.ndarray,  # (M,) int8, SHIFT or REDUCE, sentence after sentence
    lengths: np.ndarray,  # (B,) tokens of each sentence
) -> ThinStackTables:
    """Return the thin stack's reads at every step of every sentence, compositions in rows by step, then sentence."""
    trace = trace_stack(transitions, lengths)
    n_steps, n_lanes = int(trace.time.max()) + 1, len(trace.lengths)
    reduce_order = trace.reduces[np.argsort(trace.time[trace.reduces], kind="stable")]
    composition = np.empty(len(trace.time), dtype=np.int64)
    composition[reduce_order] = np.arange(len(reduce_order))
    rows = state_rows(trace, composition[trace.reduces], int(trace.lengths.sum()))

    def spread(values: np.ndarray) -> np.ndarray:
        table = np.zeros((n_steps, n_lanes), dtype=values.dtype)  # zero is the null row, and False
        table[trace.time, trace.sentence] = values
        return table

    top, second, word = (states[:-1] for states in _reads(trace))
    return ThinStackTables(
        buffer_index=spread(rows[word]),
        stack1_index=spread(rows[top]),
        stack2_index=spread(rows[second]),
        reduce_mask=spread(trace.reduce_mask),
        valid_mask=spread(np.ones(len(trace.time), dtype=bool)),
        root_index=rows[trace.roots],
    )


def _reads(trace: StackTrace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find what is read before each transition: stack top, second entry and next word, as flat positions or NONE.

    Each is (M + 1,); the last is NONE, so that no transition reads nothing.
    """
    time = np.append(trace.time, 0)
    before = np.arange(len(time)) - 1
    top = np.where(time > 0, before, NONE)
    second = np.where(time > 0, trace.below[before], NONE)
    shifts = np.append(np.flatnonzero(~trace.reduce_mask), NONE)  # the k-th one pushes the batch's k-th word
    next_word = trace.shifted - ~trace.reduce_mask
    last_word = np.cumsum(trace.lengths)[trace.sentence]
    word = np.where(next_word < last_word, shifts[next_word], NONE)
    return top, second, np.append(word, NONE)


def _capped_steps(
    trace: StackTrace,
    width: int | np.ndarray,  # lanes that may REDUCE
    n_lanes: int | np.ndarray,  # lanes that may take a transition, an array if they are not all
) -> np.ndarray:  # (M,) int64
    """Find the step of each transition where lanes wait for each other, those with the least left; one pass a step."""
    of_steps = np.atleast_1d(width)
    if of_steps.min() < 0 or of_steps[-1] < 1:
        raise ValueError(f"width is {width}, at least one lane must reduce at a step in the end")
    n_steps = len(trace.time) + int((of_steps == 0).sum())  # no schedule has more
    widths = widths_of_steps(width, n_steps)
    most = widths_of_steps(n_lanes, n_steps)
    lanes = np.argsort(-trace.lengths, kind="stable")
    cursor = trace.roots[lanes] - 2 * (trace.lengths[lanes] - 1)
    end = trace.roots[lanes] + 1
    reduce_mask = np.append(trace.reduce_mask, False)
    step = np.empty(len(trace.time), dtype=np.int64)
    now = 0
    while True:
        remaining = end - cursor
        running = remaining > 0
        if not running.any():
            return step
        _let_wait(running, running, remaining, most[now])
        _let_wait(running, running & reduce_mask[cursor], remaining, widths[now])
        step[cursor[running]] = now
        cursor[running] += 1
        now += 1


def _let_wait(
    running: np.ndarray,  # (B,) bool, changed
    wants: np.ndarray,  # (B,) bool
    remaining: np.ndarray,  # (B,) int64
    most: int,
) -> None:
    """Stop those lanes that want something and have the least left, until no more than `most` want it."""
    if np.count_nonzero(wants) > most:
        urgent = np.flatnonzero(wants)
        running[urgent[np.argsort(-remaining[urgent], kind="stable")[most:]]] = False
