"""The buffers that the loop writes, and the tape that it leaves for the backward."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from spinn_tensor.bundles import ForestTables, LaneTables, OnHost

Tables = ForestTables | LaneTables


class Tape(NamedTuple):
    """Hold what the forward loop leaves for the backward; the gates are empty where nothing is saved."""

    memory: Tensor  # (2, R, H) states
    gates: Tensor  # (C, 5H) activated gates of each composition
    tracker_memory: Tensor  # (2, 1 + A, K) tracker states; empty without tracker, like the next one
    tracker_gates: Tensor  # (A, 4K) activated gates of each entry


class StepBuffer:
    """Keep one row a slot for all steps if the backward wants it, else as many rows as the widest step takes."""

    def __init__(
        self,
        like: Tensor,
        n_slots: int,  # of all steps
        most: int,  # slots of the widest step
        width: int,
        save: bool,
    ) -> None:
        self._save = save
        self._rows = like.new_empty(n_slots if save else most, width)

    @property
    def saved(self) -> Tensor:  # (n_slots, width), or empty
        return self._rows if self._save else self._rows.new_empty(0)

    @property
    def if_saved(self) -> Tensor | None:  # (n_slots, width)
        return self._rows if self._save else None

    def __getitem__(self, slots: slice) -> Tensor:  # (n, width)
        return self._rows[slots] if self._save else self._rows[: slots.stop - slots.start]


def counts_of(offsets: OnHost) -> list[int]:
    """Count the slots of each step, on the host."""
    return offsets.tensor.diff().tolist()


def slices_of(offsets: OnHost) -> list[slice]:
    """Return the slots of each step as slices, on the host."""
    bounds = offsets.tolist()
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def composition_offsets(tables: Tables) -> OnHost:  # (S + 1,) int64
    """Return where the compositions of each step begin."""
    return tables.step_offsets if isinstance(tables, ForestTables) else tables.reduce_offsets


def both_children(tables: Tables) -> Tensor:  # (2C,) int64
    """Return the rows of the children of each composition: left, right, left, right, ..."""
    return interleave(tables.left_index, tables.right_index)


def interleave(*columns: Tensor) -> Tensor:
    """Return the first of each, then the second of each, ...: m columns (n,) to (m n,)."""
    return torch.stack(columns, 1).flatten()
