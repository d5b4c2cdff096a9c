"""Which rows each step reads and composes: looked up in tables, or found by choosing the transitions.

The loop asks a schedule twice at each step: what the trackers read, and then, when the trackers have moved, what to
compose. `GivenSchedule` has all answers beforehand. `OwnSchedule` has a stack of its own and lets the trackers choose.

**The stack of a lane without a stack.** Every transition pushes exactly one state, so a state is named by the entry
that pushed it. Two integers are kept for each entry e: `row[e]`, where its state lives, and `below[e]`, the entry
beneath it on the stack. Before an entry with the same lane's entry p before it,

    top = p,    second = below[p],

    SHIFT   row = the next word's,    below = p
    REDUCE  row = a new one,          below = below[below[p]]

so that a step is three gathers and two contiguous writes of integers: nothing is ever moved, and the stack may be as
deep as it likes. With word, second = 0 for "none", a SHIFT is possible where word > 0 and a REDUCE where second > 0.
A lane takes exactly 2N - 1 transitions, hence no SHIFT can leave too few steps: after s of N SHIFTs and r REDUCEs there
remain as many steps as it takes to shift N - s words and to reduce N - 1 - r times. Any scores whatever give a tree.

**The choice** is REDUCE where score + noise > 0, with score = logit(REDUCE) - logit(SHIFT) and one number of noise a
transition: 0 chooses the likelier one, a draw from the logistic distribution samples the softmax of the logits
(Gumbel 1954: the difference of two Gumbel draws is logistic), and ±∞ forces.

The rows read and composed are left as `LaneTables`, the same that `data_prep.tables.lane_tables` makes of the chosen
transitions, but for the order of the lanes within a step. So the backward pass is that of the given transitions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spinn_tensor.bundles import LaneTables, OwnTables, TransitionWeights
from spinn_tensor.machine.buffers import (
    Tables,
    both_children,
    composition_offsets,
    counts_of,
    interleave,
    slices_of,
)


class Compositions(NamedTuple):
    """What one step composes."""

    slots: slice  # among all compositions
    child_index: Tensor  # (2n,) int64 rows: left, right, left, right, ...
    tracker_index: Tensor | None  # (n,) int64 tracker rows


class GivenSchedule:
    """The steps of index tables."""

    def __init__(
        self,
        tables: Tables,
        n_rows: int,  # R
    ) -> None:
        slots = composition_offsets(tables)
        counts = counts_of(slots)
        self.n_steps, self.n_compositions = len(counts), tables.left_index.shape[0]
        self.widest = max(counts, default=0)
        self._slots = slices_of(slots)
        self._child_index = both_children(tables).split([2 * n for n in counts])
        self._tracker_index: tuple[Tensor | None, ...] = (None,) * len(counts)
        if isinstance(tables, LaneTables):
            self._tracker_index = tables.tracker_index.split(counts)
            reads = projections_read(tables.stack1_index, tables.stack2_index, tables.buffer_index, n_rows)
            self._reads = reads.split([3 * n for n in counts_of(tables.entry_offsets)])

    def reads(self, step: int) -> Tensor:  # (3n,) int64
        """Rows of the tracker's projections that the entries of this step read."""
        return self._reads[step]

    def compositions(
        self,
        step: int,
        tracker_h: Tensor | None,  # (n, K) of the entries of this step; not needed here
    ) -> Compositions:
        return Compositions(self._slots[step], self._child_index[step], self._tracker_index[step])


def projections_read(
    stack1_index: Tensor,  # (n,) int64
    stack2_index: Tensor,  # (n,) int64
    buffer_index: Tensor,  # (n,) int64
    n_rows: int,  # R
) -> Tensor:  # (3n,) int64
    """Rows of `tracking`'s projections: state r as first and as second entry in 2r and 2r + 1, then the words."""
    return interleave(2 * stack1_index, 2 * stack2_index + 1, 2 * n_rows + buffer_index)


def can_shift(buffer_index: Tensor) -> Tensor:
    """Whether there is a word left; of any shape."""
    return buffer_index != 0


def can_reduce(stack2_index: Tensor) -> Tensor:
    """Whether there are two entries on the stack; of any shape."""
    return stack2_index != 0


def choose(
    scores: Tensor,  # (n,) logit(REDUCE) - logit(SHIFT) + noise
    may_shift: Tensor,  # (n,) bool
    may_reduce: Tensor,  # (n,) bool
) -> Tensor:  # (n,) bool, True = REDUCE
    """The transitions of n lanes, possible ones whatever the scores; one of both is always possible."""
    return may_reduce & ((scores > 0) | ~may_shift)


def score_weights(transition: TransitionWeights) -> tuple[Tensor, Tensor]:  # (K,), ()
    """Weight and bias of logit(REDUCE) - logit(SHIFT)."""
    weight, bias = transition.weight.diff(dim=0), transition.bias.diff(dim=0)
    return weight.squeeze(0), bias.squeeze(0)


class OwnSchedule:
    """Steps whose transitions the trackers choose.

    A step composes the lanes that reduce, which takes a look at them on the host, or with `dense` every lane, those
    that shift composing null states: then nothing waits for the device.
    """

    def __init__(
        self,
        tables: OwnTables,
        transition: TransitionWeights,
        noise: Tensor,  # (M,) in the order of the transitions
        n_leaves: int,
        dense: bool,
    ) -> None:
        self._own, self._dense = tables, dense
        n_entries, n_lanes = tables.previous_index.shape[0], tables.first_index.shape[0]
        self._entries = slices_of(tables.entry_offsets)
        self.n_steps = len(self._entries)
        self.n_compositions = own_compositions(n_entries, n_lanes, dense)
        self.widest = n_lanes
        self._first_row = 1 + n_leaves  # of the compositions
        self._n_rows = 1 + n_leaves + self.n_compositions
        self._weight, bias = score_weights(transition)
        self._noise = noise.index_select(0, tables.transition_index) + bias  # by entry
        self._previous_index = tables.previous_index.split(counts_of(tables.entry_offsets))

        new = tables.previous_index.new_empty
        self._row, self._below = new(1 + n_entries), new(1 + n_entries)  # of each entry; 0 of none
        self._row[0], self._below[0] = 0, 0
        self._next_word = tables.first_index.clone()
        self._buffer, self._stack1, self._stack2 = (new(n_entries) for _ in range(3))
        self._left, self._right, self._tracker = (new(self.n_compositions) for _ in range(3))
        self._slot_offsets = [0]
        self.scores = noise.new_empty(n_entries)

    def reads(self, step: int) -> Tensor:  # (3n,) int64
        """Rows of the tracker's projections that the entries of this step read: the lanes' stacks and buffers."""
        entries = self._entries[step]
        n = entries.stop - entries.start
        self._second = self._below.index_select(0, self._previous_index[step])
        stack1, stack2, buffer = (part[entries] for part in (self._stack1, self._stack2, self._buffer))
        torch.index_select(self._row, 0, self._previous_index[step], out=stack1)
        torch.index_select(self._row, 0, self._second, out=stack2)
        word = self._next_word[:n]
        torch.mul(word, word <= self._own.last_index[:n], out=buffer)
        return projections_read(stack1, stack2, buffer, self._n_rows)

    def compositions(
        self,
        step: int,
        tracker_h: Tensor | None,  # (n, K) of the entries of this step
    ) -> Compositions:
        """Choose the transitions of this step and push what they push."""
        assert tracker_h is not None
        entries = self._entries[step]
        stack2, buffer = self._stack2[entries], self._buffer[entries]
        scores = torch.addmv(self._noise[entries], tracker_h, self._weight, out=self.scores[entries])
        reduces = choose(scores, can_shift(buffer), can_reduce(stack2))
        slots, composed_row, found = self._take_slots(entries, reduces)
        self._push(step, reduces, composed_row)
        return Compositions(slots, interleave(self._left[slots], self._right[slots]), found)

    def _take_slots(
        self,
        entries: slice,
        reduces: Tensor,  # (n,) bool
    ) -> tuple[slice, Tensor, Tensor]:
        """Slots of this step's compositions, their rows lane by lane (n,), and the tracker rows that compose."""
        start, stack1, stack2 = self._slot_offsets[-1], self._stack1[entries], self._stack2[entries]
        if self._dense:
            slots = entries
            counted = torch.arange(1, 1 + reduces.shape[0], device=reduces.device)
            torch.mul(stack2, reduces, out=self._left[slots])
            torch.mul(stack1, reduces, out=self._right[slots])
            torch.mul(counted + entries.start, reduces, out=self._tracker[slots])
        else:
            lanes = reduces.nonzero().squeeze(1)
            slots = slice(start, start + lanes.shape[0])
            counted = reduces.cumsum(0)
            torch.index_select(stack2, 0, lanes, out=self._left[slots])
            torch.index_select(stack1, 0, lanes, out=self._right[slots])
            torch.add(lanes, 1 + entries.start, out=self._tracker[slots])
        self._slot_offsets.append(slots.stop)
        return slots, counted + (self._first_row + start - 1), self._tracker[slots]

    def _push(
        self,
        step: int,
        reduces: Tensor,  # (n,) bool
        composed_row: Tensor,  # (n,) int64
    ) -> None:
        entries, previous = self._entries[step], self._previous_index[step]
        pushed = slice(1 + entries.start, 1 + entries.stop)
        beneath = self._below.index_select(0, self._second)
        torch.where(reduces, composed_row, self._buffer[entries], out=self._row[pushed])
        torch.where(reduces, beneath, previous, out=self._below[pushed])
        self._next_word[: reduces.shape[0]] += ~reduces

    def lane_tables(self) -> LaneTables:
        """The tables of the transitions chosen, when all steps are done."""
        own = self._own
        return LaneTables(
            buffer_index=self._buffer,
            stack1_index=self._stack1,
            stack2_index=self._stack2,
            previous_index=own.previous_index,
            entry_offsets=own.entry_offsets,
            left_index=self._left,
            right_index=self._right,
            tracker_index=self._tracker,
            reduce_offsets=torch.tensor(self._slot_offsets),
            root_index=self._row.index_select(0, own.root_entry_index),
            node_index=self._row.index_select(0, own.entry_index),
            entry_index=own.entry_index,
        )


def own_compositions(n_entries: int, n_lanes: int, dense: bool) -> int:
    """Slots of all steps: D lanes of 2N - 1 entries REDUCE (A - D) / 2 times."""
    return n_entries if dense else (n_entries - n_lanes) // 2
