"""The buffers that the loop writes, and how a schedule cuts them into steps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spinn_tensor.bundles import ForestTables, LaneTables

Tables = ForestTables | LaneTables


class Trail(NamedTuple):
    """What the forward loop leaves for the backward; the gates and tanh(c) are empty where nothing is saved."""

    memory: Tensor  # (2, R, H) states
    gates: Tensor  # (C, 5H) activated gates of each composition
    tanh_c: Tensor  # (C, H)
    tracker_memory: Tensor  # (2, 1 + A, K) tracker states; empty without tracker, like the next two
    tracker_gates: Tensor  # (A, 4K) activated gates of each entry
    tracker_tanh_c: Tensor  # (A, K)


def counts_of(offsets: Tensor) -> list[int]:
    """Slots of each step, read on the host."""
    return offsets.diff().tolist()


def composition_counts(tables: Tables) -> list[int]:
    """Compositions of each step."""
    return counts_of(tables.step_offsets if isinstance(tables, ForestTables) else tables.reduce_offsets)


def both_children(tables: Tables) -> Tensor:  # (2C,) int64
    """Rows of the children of each composition, left, right, left, right, ..."""
    return torch.stack((tables.left_index, tables.right_index), 1).flatten()


def step_buffers(like: Tensor, counts: list[int], width: int, save: bool) -> tuple[Tensor, list[Tensor]]:
    """One buffer (sum of counts, width) over all steps if the backward wants it, else one for each step anew."""
    if save:
        buffer = like.new_empty(sum(counts), width)
        return buffer, list(buffer.split(counts))
    scratch = like.new_empty(max(counts, default=0), width)
    return like.new_empty(0), [scratch[:n] for n in counts]
