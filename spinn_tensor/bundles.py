"""The tensors that travel together: weights of the two cells, and the index tables as torch tensors.

A bundle is a NamedTuple of tensors, so that it passes `torch.compile`, `torch.export` and `torch.jit.script` alike. The
tables are those of `data_prep.tables`, field by field; what they mean is said there. Step offsets stay on the host,
where the loop over the steps reads them; everything else lives with the model.
"""

from __future__ import annotations

from typing import NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from spinn_tensor.data_prep import tables as numpy_tables


class ComposeWeights(NamedTuple):
    """Binary TreeLSTM; gates in rows a, i, f_left, f_right, o."""

    weight: Tensor  # (5H, 2H), columns [h_left; h_right]
    bias: Tensor  # (5H,)
    tracker_weight: Tensor | None = None  # (5H, K), columns h_tracker


class TrackerWeights(NamedTuple):
    """Tracker LSTM; gates in rows i, f, g, o."""

    weight_input: Tensor  # (4K, 3H), columns [h_buffer; h_stack1; h_stack2]
    weight_hidden: Tensor  # (4K, K)
    bias: Tensor  # (4K,)


class TransitionWeights(NamedTuple):
    """The parser's last layer: scores of SHIFT and REDUCE from the tracker's h."""

    weight: Tensor  # (2, K)
    bias: Tensor  # (2,)


class HoistedLeaves(NamedTuple):
    """`data_prep.tables.HoistedLeaves` in torch."""

    kind_offsets: Tensor  # (S, 3) int64, on the CPU
    left_leaf_index: Tensor  # (U_l,) int64
    right_leaf_index: Tensor  # (U_r,) int64
    start_index: Tensor  # (C, 2) int64
    reader_index: Tensor  # (n,) int64
    reader_offsets: Tensor  # (U_l + U_r,) int64


class ForestTables(NamedTuple):
    """`data_prep.tables.ForestTables` in torch."""

    left_index: Tensor  # (C,) int64
    right_index: Tensor  # (C,) int64
    step_offsets: Tensor  # (S + 1,) int64, on the CPU
    root_index: Tensor  # (B,) int64
    node_index: Tensor  # (M,) int64
    hoisted: HoistedLeaves | None = None


class LaneTables(NamedTuple):
    """`data_prep.tables.LaneTables` in torch."""

    buffer_index: Tensor  # (A,) int64
    stack1_index: Tensor  # (A,) int64
    stack2_index: Tensor  # (A,) int64
    previous_index: Tensor  # (A,) int64
    entry_offsets: Tensor  # (S + 1,) int64, on the CPU
    left_index: Tensor  # (C,) int64
    right_index: Tensor  # (C,) int64
    tracker_index: Tensor  # (C,) int64
    reduce_offsets: Tensor  # (S + 1,) int64, on the CPU
    root_index: Tensor  # (B,) int64
    node_index: Tensor  # (M,) int64
    entry_index: Tensor  # (M,) int64
    hoisted: HoistedLeaves | None = None


class OwnTables(NamedTuple):
    """`data_prep.tables.OwnTables` in torch."""

    first_index: Tensor  # (P,) int64
    last_index: Tensor  # (P,) int64
    previous_index: Tensor  # (A,) int64
    entry_offsets: Tensor  # (S + 1,) int64, on the CPU
    transition_index: Tensor  # (A,) int64
    entry_index: Tensor  # (M,) int64
    root_entry_index: Tensor  # (P,) int64
    lane_index: Tensor  # (M,) int64


class SequenceTables(NamedTuple):
    """The sentences of a batch as sequences: what `torch.nn.utils.rnn.PackedSequence` needs, and whose each word is."""

    packed_order: Tensor  # (L,) int64, tokens by time, longest sentence first
    unpacked_order: Tensor  # (L,) int64, its inverse
    batch_sizes: Tensor  # (N,) int64, sentences that still have a token at each time; on the CPU
    sorted_order: Tensor  # (B,) int64, sentences longest first
    unsorted_order: Tensor  # (B,) int64, its inverse
    sentence_index: Tensor  # (L,) int64, the sentence of each token


KIND_OF: dict[type, type] = {
    numpy_tables.ForestTables: ForestTables,
    numpy_tables.LaneTables: LaneTables,
    numpy_tables.OwnTables: OwnTables,
    numpy_tables.HoistedLeaves: HoistedLeaves,
}
HOST_FIELDS = frozenset({"step_offsets", "entry_offsets", "reduce_offsets", "kind_offsets", "batch_sizes"})


@overload
def to_torch(tables: numpy_tables.ForestTables, device: torch.device | str = "cpu") -> ForestTables: ...
@overload
def to_torch(tables: numpy_tables.LaneTables, device: torch.device | str = "cpu") -> LaneTables: ...
@overload
def to_torch(tables: numpy_tables.OwnTables, device: torch.device | str = "cpu") -> OwnTables: ...
def to_torch(
    tables: numpy_tables.ForestTables | numpy_tables.LaneTables | numpy_tables.OwnTables,
    device: torch.device | str = "cpu",
) -> ForestTables | LaneTables | OwnTables:
    """The same tables as torch tensors; sharing memory with NumPy's on the CPU."""
    return move(_as_tensors(tables), device)


def _as_tensors(tables):
    """The bundle in torch of a bundle in NumPy, or None."""
    if tables is None or isinstance(tables, np.ndarray):
        return None if tables is None else torch.from_numpy(np.ascontiguousarray(tables))
    return KIND_OF[type(tables)](*map(_as_tensors, tables))


def flatten(
    bundle,  # any nesting of NamedTuples of tensors, or None
) -> list[Tensor]:
    """The tensors of a bundle, field after field, without what is None."""
    if bundle is None or isinstance(bundle, Tensor):
        return [] if bundle is None else [bundle]
    return [tensor for value in bundle for tensor in flatten(value)]


def move(
    bundle,  # any nesting of NamedTuples of tensors, or None
    device: torch.device | str,
    *,
    non_blocking: bool = False,
):
    """The bundle on `device`, host fields left where they are."""
    if bundle is None or isinstance(bundle, Tensor):
        return None if bundle is None else bundle.to(device, non_blocking=non_blocking)
    moved = (
        value if name in HOST_FIELDS else move(value, device, non_blocking=non_blocking)
        for name, value in zip(bundle._fields, bundle, strict=True)
    )
    return type(bundle)(*moved)
