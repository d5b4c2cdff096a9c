"""The schedules: which rows each step reads and composes, looked up in tables or found by choosing transitions.

The loop asks a schedule at each step what the trackers read and, when they have moved, what it chooses and what to
compose. `GivenSchedule` has all answers beforehand. `OwnSchedule` has a stack of its own and lets the trackers choose.

**The stack of a lane without a stack.** Every transition pushes exactly one state, so a state is named by the entry
that pushed it. Two integers are kept for each entry e: `row[e]`, where its state lives, and `below[e]`, the entry
beneath it on the stack. Before an entry with the same lane's entry p before it,

    top = p,    second = below[p],

    SHIFT   row = the next word's,    below = p
    REDUCE  row = a new one,          below = below[below[p]]

so that a step is two gathers and two contiguous writes of integers: nothing is ever moved, and the stack may be as
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

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from spinn_tensor.bundles import LaneTables, OnHost, OwnTables, TransitionWeights
from spinn_tensor.machine.buffers import Tables, counts_of, slices_of
from spinn_tensor.machine.compose import BOTH, CompositionSteps, StepProduct
from spinn_tensor.machine.tracker import projection_layout, projection_rows


class Compositions(NamedTuple):
    """Say what one step composes."""

    slots: slice  # among all compositions
    products: list[StepProduct]  # children that are not hoisted
    child_index: Tensor  # (2n,) int64 rows: left, right, left, right, ...
    tracker_index: Tensor | None  # (n,) int64 tracker rows


class GivenSchedule:
    """Look the steps up in index tables."""

    def __init__(
        self,
        tables: Tables,
        n_rows: int,  # R
    ) -> None:
        self._steps = steps = CompositionSteps(tables)
        counts = steps.counts
        self.n_steps, self.n_compositions = len(counts), tables.left_index.shape[0]
        self.widest = max(counts, default=0)
        self.hoisted = tables.hoisted
        self._tracker_index: tuple[Tensor | None, ...] = (None,) * len(counts)
        if isinstance(tables, LaneTables):
            self._tracker_index = tables.tracker_index.split(counts)
            self._rows = torch.stack((tables.stack2_index, tables.stack1_index, tables.buffer_index), 1)
            self._entries, self._n_rows = slices_of(tables.entry_offsets), n_rows

    def rows(self, step: int) -> Tensor:  # (n, 3) int64
        """Return the rows of states that the entries of this step read: second entry, top, word."""
        return self._rows[self._entries[step]]

    def projections(self, step: int) -> Tensor:  # (3n,) int64
        """Return the rows of the tracker's projections that the entries of this step read."""
        entries = self._entries[step]
        return self._projections[3 * entries.start : 3 * entries.stop]

    @cached_property
    def _projections(self) -> Tensor:  # (3A,) int64
        return projection_rows(self._rows, self._n_rows)

    def choose(
        self,
        step: int,
        tracker_h: Tensor,  # (n, K) of the entries of this step
    ) -> Tensor | None:
        """Choose nothing: the transitions are given."""
        return None

    def compositions(self, step: int) -> Compositions:
        """Return what this step composes."""
        steps = self._steps
        return Compositions(
            steps.slots[step], steps.products[step], steps.child_index[step], self._tracker_index[step]
        )


def can_shift(buffer_index: Tensor) -> Tensor:
    """Tell whether there is a word left; of any shape."""
    return buffer_index != 0


def can_reduce(stack2_index: Tensor) -> Tensor:
    """Tell whether there are two entries on the stack; of any shape."""
    return stack2_index != 0


def choose(
    scores: Tensor,  # (n,) logit(REDUCE) - logit(SHIFT) + noise
    is_empty: Tensor,  # (n,) bool, there is no word left
    may_reduce: Tensor,  # (n,) bool
) -> Tensor:  # (n,) bool, True = REDUCE
    """Choose the transitions of n lanes, possible ones whatever the scores; one of both is always possible."""
    return may_reduce & ((scores > 0) | is_empty)


def score_weights(transition: TransitionWeights) -> tuple[Tensor, Tensor]:  # (K,), ()
    """Return weight and bias of logit(REDUCE) - logit(SHIFT)."""
    weight, bias = transition.weight.diff(dim=0), transition.bias.diff(dim=0)
    return weight.squeeze(0), bias.squeeze(0)


class OwnSchedule:
    """Let the trackers choose the transitions of each step.

    A step composes the lanes that reduce, which takes a look at them on the host, or with `dense` every lane, those
    that shift composing null states: then nothing waits for the device. What is known of the stacks is carried from
    step to step, one number a lane, lanes longest first; those that have ended are cut off.
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
        self.hoisted = None  # which children are leaves is not known beforehand
        counts = counts_of(tables.entry_offsets)
        n_entries, n_lanes = tables.previous_index.shape[0], tables.first_index.shape[0]
        self.n_steps, self.widest = len(counts), n_lanes
        self.n_compositions = self._most_compositions(n_entries, n_lanes)
        self._entries = slices_of(tables.entry_offsets)
        self._first_row = 1 + n_leaves  # of the compositions
        new = tables.previous_index.new_empty

        self._weight, bias = score_weights(transition)
        by_entry = noise.index_select(0, tables.transition_index) + bias
        self.scores = torch.empty_like(by_entry)
        self._noise, self._scores = by_entry.split(counts), self.scores.split(counts)

        self._row, self._below = new(1 + n_entries), new(1 + n_entries)  # of each entry; 0 of none
        self._row[:1], self._below[:1] = 0, 0  # of [0] alone, it would be copied from the host
        self._rows, self._belows = self._row[1:].split(counts), self._below[1:].split(counts)
        self._entry_rows = torch.arange(1, 1 + n_entries, device=noise.device).split(counts)
        self._entry = torch.zeros_like(tables.first_index)  # on top of each lane's stack
        self._second = self._entry  # the entry beneath it
        self._row1 = self._row2 = self._entry  # rows of both
        self._next_word = tables.first_index
        self._reads: list[Tensor] = []  # of each step (n, 3): second entry, top, word
        self._children: list[Tensor] = []  # of each step (2n,)
        self._trackers: list[Tensor] = []  # of each step (n,)
        self._slot_offsets = [0]

    def _most_compositions(self, n_entries: int, n_lanes: int) -> int:
        return own_compositions(n_entries, n_lanes, self._dense)

    def rows(self, step: int) -> Tensor:  # (n, 3) int64
        """Return the rows of states that this step reads: the second entry, the top and the word of each lane."""
        entries = self._entries[step]
        if (n := entries.stop - entries.start) < self._entry.shape[0]:
            self._entry, self._second, self._row1, self._row2, self._next_word = (
                part[:n] for part in (self._entry, self._second, self._row1, self._row2, self._next_word)
            )
        self._empty = self._next_word > self._own.last_index[:n]
        self._word = self._next_word.masked_fill(self._empty, 0)
        reads = torch.stack((self._row2, self._row1, self._word), 1)
        self._reads.append(reads)
        return reads

    def projections(self, step: int) -> Tensor:  # (3n,) int64
        """Return the rows of the tracker's projections that this step reads."""
        shift, scale = self._layout
        return torch.addcmul(shift, self.rows(step), scale).view(-1)

    @cached_property
    def _layout(self) -> tuple[Tensor, Tensor]:  # (3,) int64 each
        return projection_layout(self._own.previous_index, self._first_row + self.n_compositions)

    def choose(
        self,
        step: int,
        tracker_h: Tensor,  # (n, K) of the entries of this step
    ) -> Tensor | None:  # (n,) int64
        """Choose the transitions of this step; return whose place each lane takes, None for its own."""
        scores = torch.addmv(self._noise[step], tracker_h, self._weight, out=self._scores[step])
        self._reduces = choose(scores, self._empty, can_reduce(self._row2))
        return None

    def compositions(self, step: int) -> Compositions:
        """Push what the transitions of this step push."""
        slots, composed_row = self._take_slots(step, self._reduces)
        self._push(step, self._reduces, composed_row)
        children, n = self._children[-1], slots.stop - slots.start
        return Compositions(slots, [StepProduct(slice(0, n), children, BOTH)], children, self._trackers[-1])

    def _take_slots(
        self,
        step: int,
        reduces: Tensor,  # (n,) bool
    ) -> tuple[slice, Tensor]:
        """Give this step's compositions their slots; return these, and the row of each lane that composes, (n,)."""
        reads, start, first_entry = self._reads[-1], self._slot_offsets[-1], 1 + self._entries[step].start
        if self._dense:
            place = torch.arange(reduces.shape[0], device=reduces.device)
            composed_row = place + (self._first_row + start)
            children = reads[:, :2] * reduces.unsqueeze(1)
            trackers = (place + first_entry) * reduces
        else:
            lanes = reduces.nonzero().view(-1)
            composed_row = reduces.cumsum(0) + (self._first_row + start - 1)
            children = reads.index_select(0, lanes)[:, :2]
            trackers = lanes + first_entry
        self._children.append(children.flatten())
        self._trackers.append(trackers)
        self._slot_offsets.append(start + trackers.shape[0])
        return slice(start, self._slot_offsets[-1]), composed_row

    def _push(
        self,
        step: int,
        reduces: Tensor,  # (n,) bool
        composed_row: Tensor,  # (n,) int64
    ) -> None:
        """Push the new states and carry the stacks on to the next step."""
        beneath = self._below.index_select(0, self._second)
        beneath_row = self._row.index_select(0, beneath)
        self._second = torch.where(reduces, beneath, self._entry, out=self._belows[step])
        self._row2 = torch.where(reduces, beneath_row, self._row1)
        self._row1 = torch.where(reduces, composed_row, self._word, out=self._rows[step])
        self._entry = self._entry_rows[step]
        self._next_word = self._next_word + ~reduces

    def lane_tables(self) -> LaneTables:
        """Return the tables of the transitions chosen, when all steps are done."""
        own = self._own
        stack2, stack1, buffer = torch.cat(self._reads).unbind(1)
        left, right = torch.cat(self._children).view(-1, 2).unbind(1)
        return LaneTables(
            buffer_index=_alone(buffer),
            stack1_index=_alone(stack1),
            stack2_index=_alone(stack2),
            previous_index=own.previous_index,
            entry_offsets=own.entry_offsets,
            left_index=_alone(left),
            right_index=_alone(right),
            tracker_index=torch.cat(self._trackers),
            reduce_offsets=OnHost(torch.tensor(self._slot_offsets, device="cpu")),
            root_index=self._row.index_select(0, own.root_entry_index),
            node_index=self._row.index_select(0, own.entry_index),
            entry_index=own.entry_index,
        )


def _alone(column: Tensor) -> Tensor:
    """Copy to memory of its own: an operator's outputs must not share any."""
    return column.clone(memory_format=torch.contiguous_format)


def is_dense(tables: OwnTables) -> bool:
    """Tell whether every entry composes: on a GPU, whose choices nobody waits for, and where tables are padded."""
    is_padded = tables.entry_index.shape != tables.previous_index.shape
    return is_padded or tables.first_index.device.type != "cpu"


def own_compositions(n_entries: int, n_lanes: int, dense: bool) -> int:
    """Count the slots of all steps: P lanes of 2N - 1 entries REDUCE (A - P) / 2 times."""
    return n_entries if dense else (n_entries - n_lanes) // 2
