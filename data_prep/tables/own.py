"""What is known of a batch before any transition is chosen: how many each sentence takes, and where its words are.

Lanes go longest sentence first, so that the lanes still running at step t are always the first ones, and the entry of
lane k at step t is number entry_offsets[t] + k. Which rows an entry reads is found while the machine runs; the tables
here, and the choices, are all that it takes. `n_samples` lanes share one sentence's words: many parses, one set of
leaves. They go side by side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spinn_tensor.data_prep.display import in_short
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.segments import places, starts


@in_short
class OwnTables(NamedTuple):
    """Hold everything the own-transitions executor reads. P = n_samples * B lanes of 2N - 1 entries each, A in all.

    Lanes come sample after sample, within a sample in the order of the sentences; M = A, the transitions of lane 0,
    then those of lane 1, ... Rows of states as in `data_prep.tables.rows`; rows of tracker states: 0 is the zero start,
    1 + e is entry e.
    """

    first_index: np.ndarray  # (P,) int64, row of the first word of each lane, lanes longest first
    last_index: np.ndarray  # (P,) int64, row of its last word, lanes longest first
    previous_index: np.ndarray  # (A,) int64, tracker row of the lane's entry before, 0 at its first
    entry_offsets: np.ndarray  # (S + 1,) int64, where the entries of each step begin; stays on the host
    transition_index: np.ndarray  # (A,) int64, the transition, of M, that each entry makes
    entry_index: np.ndarray  # (M,) int64, tracker row of the entry of each transition
    root_entry_index: np.ndarray  # (P,) int64, tracker row of each lane's last entry, lane after lane
    lane_index: np.ndarray  # (M,) int64, the lane of each transition


def own_tables(
    lengths: np.ndarray,  # (B,) tokens of each sentence
    *,
    n_samples: int = 1,
) -> OwnTables:
    """Lay out lanes that choose their own transitions.

    Raises DataError for a sentence without tokens and for a batch without sentences, ValueError for n_samples below 1.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if len(lengths) == 0:
        raise DataError("a batch needs at least one sentence")
    if (lengths < 1).any():
        raise DataError("a sentence without tokens", example=int(np.argmax(lengths < 1)))
    if n_samples < 1:
        raise ValueError(f"n_samples is {n_samples}, expected at least 1")
    first = np.tile(starts(lengths) + 1, n_samples)
    last = np.tile(np.cumsum(lengths), n_samples)
    lengths = np.tile(lengths, n_samples)
    n_steps = 2 * lengths - 1
    sentence = np.tile(np.arange(len(lengths) // n_samples), n_samples)
    order = np.lexsort((sentence, -lengths))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))

    time = places(n_steps)
    entry_offsets = np.concatenate(([0], np.cumsum(np.bincount(time))))
    place = np.repeat(rank, n_steps)
    entry = entry_offsets[time] + place
    transition_index = np.empty_like(entry)
    transition_index[entry] = np.arange(len(entry))
    previous_index = np.empty_like(entry)
    previous_index[entry] = np.where(time > 0, 1 + entry_offsets[time - 1] + place, 0)
    return OwnTables(
        first_index=first[order],
        last_index=last[order],
        previous_index=previous_index,
        entry_offsets=entry_offsets,
        transition_index=transition_index,
        entry_index=1 + entry,
        root_entry_index=1 + entry[np.cumsum(n_steps) - 1],
        lane_index=np.repeat(np.arange(len(lengths)), n_steps),
    )
