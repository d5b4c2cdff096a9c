"""The tensors that travel together: weights of the two cells, and the index tables as torch tensors.

A bundle is a NamedTuple of tensors, so that it passes `torch.compile` and `torch.jit.script` alike. (`torch.export`
takes no batch: `OnHost` is no pytree node; `spinn export` makes programs.) The tables are those of
`data_prep.tables`, field by field; what they mean is said there. (One generic NamedTuple for both is neither scripted
nor made under `torch.compile`.) Step offsets stay on the host, where the loop over the steps reads them, as `OnHost`;
everything else lives with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from spinn_tensor.data_prep import tables as numpy_tables
from spinn_tensor.data_prep.display import in_short


class OnHost:
    """Keep a tensor on the host. It is no tensor itself, so that whatever moves those of a bundle passes it by."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process among what is said of a bundle, not in shared memory of its own as a tensor would."""
        return _on_host, (self.tensor.numpy(),)

    def to(self, *_: object, **__: object) -> Self:
        """Return itself: movers that know nothing of it call this."""
        return self

    def tolist(self) -> list:
        """Return the numbers, which needs no waiting for a device."""
        return self.tensor.tolist()

    def __repr__(self) -> str:
        return f"OnHost({self.tensor!r})"


def _on_host(values: np.ndarray) -> OnHost:
    return OnHost(torch.from_numpy(values))


@in_short
class ComposeWeights(NamedTuple):
    """Hold the weights of the binary TreeLSTM; gates in rows a, i, f_left, f_right, o.

    >>> weights = ComposeWeights(torch.zeros(40, 16), torch.zeros(40))  # H = 8, without tracker
    """

    weight: Tensor  # (5H, 2H), columns [h_left; h_right]
    bias: Tensor  # (5H,)
    tracker_weight: Tensor | None = None  # (5H, K), columns h_tracker


@in_short
class TrackerWeights(NamedTuple):
    """Hold the weights of the tracker LSTM; gates in rows i, f, g, o.

    >>> weights = TrackerWeights(torch.zeros(12, 24), torch.zeros(12, 3), torch.zeros(12))  # H = 8, K = 3
    """

    weight_input: Tensor  # (4K, 3H), columns [h_buffer; h_stack1; h_stack2]
    weight_hidden: Tensor  # (4K, K)
    bias: Tensor  # (4K,)


@in_short
class TransitionWeights(NamedTuple):
    """Hold the parser's last layer, which scores SHIFT and REDUCE from the tracker's h.

    >>> weights = TransitionWeights(torch.zeros(2, 3), torch.zeros(2))  # K = 3
    """

    weight: Tensor  # (2, K)
    bias: Tensor  # (2,)


@in_short
class HoistedLeaves(NamedTuple):
    """Hold `data_prep.tables.HoistedLeaves` in torch."""

    kind_offsets: OnHost  # (S, 3) int64
    left_leaf_index: Tensor  # (U_l,) int64
    right_leaf_index: Tensor  # (U_r,) int64
    start_index: Tensor  # (C, 2) int64
    reader_index: Tensor  # (n,) int64
    reader_offsets: Tensor  # (U_l + U_r,) int64


@in_short
class ForestTables(NamedTuple):
    """Hold `data_prep.tables.ForestTables` in torch.

    >>> make_sentence_batch(columns, "forest").tables.left_index.shape  # of the compositions
    torch.Size([4])
    """

    left_index: Tensor  # (C,) int64
    right_index: Tensor  # (C,) int64
    step_offsets: OnHost  # (S + 1,) int64
    root_index: Tensor  # (B,) int64
    node_index: Tensor  # (M,) int64
    hoisted: HoistedLeaves | None = None


@in_short
class LaneTables(NamedTuple):
    """Hold `data_prep.tables.LaneTables` in torch.

    >>> make_sentence_batch(columns, "lanes").tables.buffer_index.shape  # of the tracker's steps
    torch.Size([10])
    """

    buffer_index: Tensor  # (A,) int64
    stack1_index: Tensor  # (A,) int64
    stack2_index: Tensor  # (A,) int64
    previous_index: Tensor  # (A,) int64
    entry_offsets: OnHost  # (S + 1,) int64
    left_index: Tensor  # (C,) int64
    right_index: Tensor  # (C,) int64
    tracker_index: Tensor  # (C,) int64
    reduce_offsets: OnHost  # (S + 1,) int64
    root_index: Tensor  # (B,) int64
    node_index: Tensor  # (M,) int64
    entry_index: Tensor  # (M,) int64
    hoisted: HoistedLeaves | None = None


@in_short
class OwnTables(NamedTuple):
    """Hold `data_prep.tables.OwnTables` in torch.

    >>> make_sentence_batch(columns, "own", n_samples=3).tables.first_index.shape  # of the lanes
    torch.Size([6])
    """

    first_index: Tensor  # (P,) int64
    last_index: Tensor  # (P,) int64
    previous_index: Tensor  # (A,) int64
    entry_offsets: OnHost  # (S + 1,) int64
    transition_index: Tensor  # (A,) int64
    entry_index: Tensor  # (M,) int64
    root_entry_index: Tensor  # (P,) int64
    lane_index: Tensor  # (M,) int64


@in_short
class SequenceTables(NamedTuple):
    """Lay the sentences of a batch out as sequences, as `torch.nn.utils.rnn.PackedSequence` needs them."""

    packed_order: Tensor  # (L,) int64, tokens by time, longest sentence first
    batch_sizes: OnHost  # (N,) int64, sentences that still have a token at each time
    sorted_order: Tensor  # (B,) int64, sentences longest first
    unsorted_order: Tensor  # (B,) int64, its inverse
    sentence_index: Tensor  # (L,) int64, the sentence of each token


_KINDS = {kind.__name__: kind for kind in (ForestTables, LaneTables, OwnTables, HoistedLeaves)}
_HOST_FIELDS = frozenset({"step_offsets", "entry_offsets", "reduce_offsets", "kind_offsets", "batch_sizes"})


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
    """Make torch tensors of the tables, sharing memory with NumPy's on the CPU.

    Args:
        tables: those of `data_prep.tables`.
        device: where they go.

    Returns:
        The same fields as tensors.

    >>> from spinn_tensor.data_prep.tables import own_tables
    >>> to_torch(own_tables(np.array([4, 2]))).last_index
    tensor([4, 6])
    """
    return move(_as_tensors(tables), device)


def _as_tensors(tables):
    """Make a bundle of torch tensors of one of NumPy arrays; None stays None."""
    if tables is None or isinstance(tables, np.ndarray):
        return None if tables is None else torch.from_numpy(np.ascontiguousarray(tables))
    return bundle_of(_KINDS[type(tables).__name__], map(_as_tensors, tables))


Bundle = TypeVar("Bundle", bound=tuple)


def bundle_of(
    kind: type[Bundle],  # of tables
    tensors: Iterable,  # of its fields, of which those at the end may be missing, or None
) -> Bundle:
    """Make tables of their fields, those that stay on the host becoming `OnHost`."""
    named = zip(kind._fields, tensors, strict=False)  # type: ignore[attr-defined]
    return kind(*(OnHost(value) if name in _HOST_FIELDS else value for name, value in named))  # type: ignore[arg-type]


def flatten(
    bundle,  # any nesting of tuples of tensors, or None
    *,
    host: bool = True,  # what is `OnHost` among them
) -> list[Tensor]:
    """List the tensors of a bundle, field after field, without what is None."""
    if isinstance(bundle, OnHost):
        return [bundle.tensor] if host else []
    if bundle is None or isinstance(bundle, Tensor):
        return [] if bundle is None else [bundle]
    return [tensor for part in bundle for tensor in flatten(part, host=host)]


def move(bundle, device: torch.device | str, *, non_blocking: bool = False):
    """Bring a bundle to a device; what is `OnHost` stays where it is.

    Args:
        bundle: a batch, tables, weights, or any nesting of tuples of tensors and None.
        device: where it goes.
        non_blocking: as in `Tensor.to`.

    Returns:
        The bundle, of tensors on that device.

    >>> move(make_sentence_batch(columns, "lanes"), "cpu").token_ids.device
    device(type='cpu')
    """
    return map_tensors(bundle, lambda tensor: tensor.to(device, non_blocking=non_blocking))


def map_tensors(bundle, function: Callable[[Tensor], Tensor]):
    """Apply a function to every tensor of a bundle that lives with the model; what is `OnHost` stays as it is."""
    if bundle is None or isinstance(bundle, OnHost):
        return bundle
    if isinstance(bundle, Tensor):
        return function(bundle)
    parts = [map_tensors(part, function) for part in bundle]
    return type(bundle)(*parts) if hasattr(bundle, "_fields") else tuple(parts)
