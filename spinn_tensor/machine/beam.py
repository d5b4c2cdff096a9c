"""Beam search over the machine: of each sentence, the k likeliest beginnings of a parse go on at every transition.

A hypothesis is a lane, so that k lanes of every sentence run in the batch that greedy parses run in, and a transition's
log-probability is that of the softmax of its logits: log σ(±s) with s = logit(REDUCE) - logit(SHIFT), 0 where there was
no choice. After each step of the trackers a sentence has 2k candidates, those of either transition of each lane; the k
best by their sums are what its lanes go on with, best first: a lane takes over the tracker's state and the stack of the
lane that its candidate comes from. Nothing but these numbers is copied, since a stack is two integers a lane.

All parses of a sentence have the same number of transitions, so that sums compare as they are, and no two lanes hold
the same one. A sentence of few words has fewer trees than lanes: those left over run along at log-probability -∞.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from spinn_tensor.bundles import ComposeWeights, LaneTables, OwnTables, TrackerWeights, TransitionWeights
from spinn_tensor.machine import any_cell
from spinn_tensor.machine.any_cell import Loop
from spinn_tensor.machine.executors import (
    Parse,
    check_dtypes,
    check_leaves,
    checked_noise,
    make_parse,
    prepare,
)
from spinn_tensor.machine.loop import run_forward
from spinn_tensor.machine.operators import as_written, found_by
from spinn_tensor.machine.schedule import OwnSchedule, can_reduce


class Beams(NamedTuple):
    """Hold the k best parses that were found of each of B sentences: P = kB lanes, rank after rank, the best first.

    >>> encoder = SentenceEncoder(EncoderConfig(len(vocabulary), kind="spinn", hidden_dim=8))
    >>> beams = encoder.beams(make_sentence_batch(columns, "own", n_samples=3), 3)  # of 4 words and of 2
    >>> beams.parse.transitions.shape, beams.log_probabilities[:, 1].isinf().tolist()
    (torch.Size([30]), [False, True, True])
    """

    parse: Parse  # of the lanes; without gradient
    log_probabilities: (
        Tensor  # (k, B) float64 of the trees, falling with the rank; -inf where there is no other tree
    )


class BeamSchedule(OwnSchedule):
    """Let the k best hypotheses of each sentence go on."""

    def __init__(
        self,
        tables: OwnTables,  # of k lanes a sentence
        transition: TransitionWeights,
        n_leaves: int,
        k: int,
        like: Tensor,  # of the states' type
    ) -> None:
        n_lanes = tables.first_index.shape[0]
        if k < 1 or n_lanes % k:
            raise ValueError(f"k is {k}, expected what the {n_lanes} lanes can be shared out by")
        super().__init__(
            tables, transition, checked_noise(like, None, tables), n_leaves, like.device.type != "cpu"
        )
        self._k = k
        self._place = torch.arange(n_lanes, device=like.device)
        # one lane of each sentence begins; the first step has one candidate
        is_first = self._place % k == 0
        none = torch.zeros(n_lanes, dtype=torch.float64, device=like.device)
        self._sums = [none.masked_fill(~is_first, -torch.inf)]  # before each step (n,)
        self._lanes: list[Tensor] = []  # of each step (n,): whose place each lane took
        self._previous: list[Tensor] = []  # of each step (n,): the entries that they had made

    def _most_compositions(self, n_entries: int, n_lanes: int) -> int:
        return n_entries  # hypotheses that are given up may have more of them than whole trees

    def choose(
        self,
        step: int,
        tracker_h: Tensor,  # (n, K)
    ) -> Tensor:  # (n,) int64
        """Choose the best candidates; return the lane that each comes from."""
        super().choose(step, tracker_h)
        n = tracker_h.shape[0]
        beam = (n // self._k, self._k)
        size = self._scores[step].double().abs()
        is_free = can_reduce(self._row2) & ~self._empty
        likelier = F.logsigmoid(size).masked_fill(~is_free, 0)
        other = F.logsigmoid(-size).masked_fill(~is_free, -torch.inf)
        candidates = torch.cat([(self._sums[-1][:n] + one).view(beam) for one in (likelier, other)], 1)
        # stable: of equal ones the likelier transition goes first, so that no impossible one is ever among the best
        sums, order = candidates.sort(dim=1, descending=True, stable=True)
        best = order[:, : self._k]
        lanes = (best % self._k + self._place[: n : self._k].unsqueeze(1)).flatten()
        self._reduces = self._reduces.index_select(0, lanes) ^ (best >= self._k).flatten()
        self._sums.append(sums[:, : self._k].flatten())
        self._take_over(lanes)
        return lanes

    def _take_over(self, lanes: Tensor) -> None:
        """Give each lane the stack of the one whose place it takes."""
        reads = self._reads[-1] = self._reads[-1].index_select(0, lanes)
        self._row2, self._row1, self._word = reads.unbind(1)
        self._entry, self._second, self._next_word = (
            part.index_select(0, lanes) for part in (self._entry, self._second, self._next_word)
        )
        self._lanes.append(lanes)
        self._previous.append(self._entry)

    def _trace(self) -> Tensor:  # (M,) int64
        """Follow each lane back from its end: the tracker row of the entry of each of its transitions."""
        place, entries = self._place[:0], []
        for lanes, slots in zip(reversed(self._lanes), reversed(self._entries), strict=True):
            place = torch.cat((place, self._place[place.shape[0] : lanes.shape[0]]))
            entries.append(place + (1 + slots.start))
            place = lanes.index_select(0, place)
        return torch.cat(entries[::-1]).index_select(0, self._own.entry_index - 1)

    def lane_tables(self) -> LaneTables:
        """Return the tables of all that was run, of which those of the transitions follow the hypotheses kept."""
        entry_index = self._trace()
        return (
            super()
            .lane_tables()
            ._replace(
                previous_index=torch.cat(self._previous),
                node_index=self._row.index_select(0, entry_index),
                entry_index=entry_index,
            )
        )

    def beams(
        self,
        states: Tensor,  # (R, D), of which roots are encoded
        trackers: Tensor,  # (1 + A, K)
        transition: TransitionWeights,
    ) -> Beams:
        """Return what was found. Raises ScoreError, except with `dense`."""
        tables, _ = found_by(self, self._own, self._dense)
        n_rows = self._first_row + tables.left_index.shape[0]  # that are in use
        encodings = states.index_select(0, tables.root_index)
        parse = make_parse(encodings, trackers, n_rows, transition, tables)
        sums = torch.cat(self._sums[1:]).index_select(0, self._own.root_entry_index - 1)
        return Beams(parse, sums.view(self._k, -1))


def run_beams(
    leaves: Tensor,
    compose: ComposeWeights,
    tracker: TrackerWeights,
    transition: TransitionWeights,
    tables: OwnTables,
    k: int,
) -> Beams:
    """Run SPINN with a beam: `run_own`, whose trees are the k likeliest that a beam of that width finds.

    Args:
        leaves: (L, 2H) [h; c] of the words of all sentences.
        compose, tracker, transition: the weights.
        tables: of k lanes a sentence.
        k: at least 1, where it finds what `run_own` does.

    Returns:
        The k best parses; nothing in them is differentiable.

    Raises:
        ScoreError: as `run_own`.
        TypeError: for weights of more than one dtype.
        ValueError: for tables of another number of lanes, and as `run_forest`.
    """
    leaves, _, dtype = prepare(leaves, compose, tracker)
    check_dtypes(compose.weight, transition)
    check_leaves(leaves, tables)
    with torch.no_grad(), as_written(leaves):
        schedule = BeamSchedule(tables, transition, leaves.shape[0], k, leaves)
        tape = run_forward(leaves, compose, tracker, schedule, tables, False, dtype)
        return schedule.beams(tape.memory[0], tape.tracker_memory[0], transition)


def run_cell_beams(
    loop: Loop,  # of any cell and tracker
    leaves: Tensor,  # (L, S)
    transition: TransitionWeights,
    tables: OwnTables,  # of k lanes a sentence
    k: int,
) -> Beams:
    """Do what `run_beams` does by the loop for any cell."""
    if torch.is_autocast_enabled(leaves.device.type):
        leaves = leaves.to(transition.weight.dtype)
    check_dtypes(leaves, transition)
    check_leaves(leaves, tables)
    with torch.no_grad():
        schedule = BeamSchedule(tables, transition, leaves.shape[0], k, leaves)
        memory, trackers = any_cell.run_forward(loop, leaves, schedule, tables, None)
        output_dim = getattr(loop.cell, "output_dim", memory.shape[1])
        return schedule.beams(memory[:, :output_dim], trackers[:, : loop.output_dim], transition)
