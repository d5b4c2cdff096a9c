"""What is known of a batch before any transition is chosen: how many each sentence takes, and where its words are.

Lanes go longest sentence first, so that the lanes still running at step t are always the first ones, and the entry of
lane k at step t is number entry_offsets[t] + k. Which rows an entry reads is found while the machine runs; the tables
here, and the choices, are all that it takes. `n_samples` lanes share one sentence's words: many parses, one set of
leaves. They go side by side.

With `widths` every step has as many entries as are asked for, so that shapes can be fixed. Entries beyond those of the
lanes that still run are of lanes that have ended, or of none: they find no word, push what nobody reads, and belong to
transition A, the one after all that entries can make, which is laid at a first entry, where there is no choice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spinn_tensor.data_prep.display import in_short
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.segments import places, starts

FIRST_ENTRY = 1  # tracker row of the first entry of a lane, where there is no choice
FIRST_OF_NONE, LAST_OF_NONE = 1, 0  # rows of the words of a lane that has none


@in_short
class OwnTables(NamedTuple):
    """Hold everything the own-transitions executor reads. P = n_samples * B lanes of 2N - 1 entries each, A in all.

    Lanes come sample after sample, within a sample in the order of the sentences; M = A, the transitions of lane 0,
    then those of lane 1, ... Padded, at most as many lanes run as the first step has entries, and M = A + 1. Rows of
    states as in `data_prep.tables.rows`; rows of tracker states: 0 is the zero start, 1 + e is entry e.
    """

    first_index: np.ndarray  # (P,) int64, row of the first word of each lane that runs, longest first
    last_index: np.ndarray  # (P,) int64, row of its last word
    previous_index: np.ndarray  # (A,) int64, tracker row of the lane's entry before, 0 at its first
    entry_offsets: np.ndarray  # (S + 1,) int64, where the entries of each step begin; stays on the host
    transition_index: np.ndarray  # (A,) int64, the transition, of M, that each entry makes
    entry_index: np.ndarray  # (M,) int64, tracker row of the entry of each transition
    root_entry_index: np.ndarray  # (P,) int64, tracker row of each lane's last entry, lane after lane
    lane_index: np.ndarray  # (M,) int64, the lane of each transition


def own_tables(
    lengths: np.ndarray,  # (B,) tokens of each sentence; with widths 0 for one that is missing
    *,
    n_samples: int = 1,
    widths: np.ndarray | None = None,  # (S,) int64, the entries of each step, never growing
) -> OwnTables:
    """Lay out lanes that choose their own transitions.

    Raises DataError for a sentence without tokens and for a batch without sentences, ValueError for n_samples below 1
    and for widths that do not hold the lanes.
    """
    lengths = _checked(lengths, n_samples, is_padded=widths is not None)
    first = np.tile(starts(lengths) + 1, n_samples)
    last = np.tile(np.cumsum(lengths), n_samples)
    sentence = np.tile(np.arange(len(lengths)), n_samples)
    lengths = np.tile(lengths, n_samples)
    n_steps = np.maximum(2 * lengths - 1, 0)
    order = np.lexsort((sentence, -lengths))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))

    time = places(n_steps)
    counts = _counts(time, widths)
    n_entries, n_lanes = int(counts.sum()), counts[0]
    n_transitions = len(time) if widths is None else n_entries + 1
    entry_offsets = np.concatenate(([0], np.cumsum(counts)))
    entry = entry_offsets[time] + np.repeat(rank, n_steps)
    transition_index = np.full(n_entries, n_entries)
    transition_index[entry] = np.arange(len(entry))
    previous_index = 1 + np.arange(n_entries) - np.repeat(np.concatenate(([0], counts[:-1])), counts)
    previous_index[:n_lanes] = 0
    return OwnTables(
        first_index=_fitted(first[order], n_lanes, FIRST_OF_NONE),
        last_index=_fitted(last[order], n_lanes, LAST_OF_NONE),
        previous_index=previous_index,
        entry_offsets=entry_offsets,
        transition_index=transition_index,
        entry_index=_fitted(1 + entry, n_transitions, FIRST_ENTRY),
        root_entry_index=np.where(n_steps > 0, 1 + entry[np.cumsum(n_steps) - 1], 0),
        lane_index=_fitted(np.repeat(np.arange(len(lengths)), n_steps), n_transitions, 0),
    )


def _checked(lengths: np.ndarray, n_samples: int, is_padded: bool) -> np.ndarray:  # (B,) int64
    lengths = np.asarray(lengths, dtype=np.int64)
    if len(lengths) == 0:
        raise DataError("a batch needs at least one sentence")
    if not is_padded and (lengths < 1).any():
        raise DataError("a sentence without tokens", example=int(np.argmax(lengths < 1)))
    if n_samples < 1:
        raise ValueError(f"n_samples is {n_samples}, expected at least 1")
    return lengths


def _counts(
    time: np.ndarray,  # (A,) int64, the step of each transition
    widths: np.ndarray | None,
) -> np.ndarray:  # (S,) int64
    """Count the entries of each step, which are those asked for if these hold all. Raises ValueError."""
    counts = np.bincount(time)
    if widths is None:
        return counts
    if len(counts) > len(widths) or (counts > widths[: len(counts)]).any() or (np.diff(widths) > 0).any():
        raise ValueError("widths of own tables never grow, and hold the lanes of every step")
    return widths


def _fitted(
    rows: np.ndarray,
    n: int,  # fewer only where the last ones are of lanes without words
    missing: int,
) -> np.ndarray:  # (n,)
    """Return n of the rows."""
    return rows[:n] if n <= len(rows) else np.pad(rows, (0, n - len(rows)), constant_values=missing)
