"""The executors: what to run over which tables. One operator and one step function serve them all."""

from __future__ import annotations

import torch
from torch import Tensor

from spinn_tensor.bundles import ComposeWeights, ForestTables, LaneTables, TrackerWeights
from spinn_tensor.machine.operators import stack_machine


def run_forest(
    leaves: Tensor,  # (L, 2H) [h; c] of the words of all sentences
    compose: ComposeWeights,  # without tracker_weight
    tables: ForestTables,
    output_index: Tensor | None = None,  # (Q,) int64 rows to return
    leaf_mask: Tensor | None = None,  # (L,) bool, False in rows that pad the leaves
) -> Tensor:  # (Q, H)
    """SPINN-PI-NT: all compositions of all trees in the forest's schedule.

    Returns h of the roots (B, H), or of the rows `output_index`, e.g. `tables.node_index` for every node in the order
    of the transitions. Differentiable once in `leaves` and the weights.
    """
    return _run(leaves, compose, None, tables, output_index, leaf_mask)


def run_given(
    leaves: Tensor,  # (L, 2H) [h; c] of the words of all sentences
    compose: ComposeWeights,
    tracker: TrackerWeights | None,
    tables: LaneTables,
    output_index: Tensor | None = None,  # (Q,) int64 rows to return
    leaf_mask: Tensor | None = None,  # (L,) bool, False in rows that pad the leaves
) -> Tensor:  # (Q, H)
    """SPINN-PI: step after step, the tracker of every lane and the compositions of the lanes that reduce.

    Without tracker it computes what `run_forest` does, in the order of the transitions. Returns as `run_forest`.
    """
    if tracker is not None:
        return _run(leaves, compose, tracker, tables, output_index, leaf_mask)
    in_time = ForestTables(
        left_index=tables.left_index,
        right_index=tables.right_index,
        step_offsets=tables.reduce_offsets,
        root_index=tables.root_index,
        node_index=tables.node_index,
    )
    return _run(leaves, compose, None, in_time, output_index, leaf_mask)


def _run(
    leaves: Tensor,
    compose: ComposeWeights,
    tracker: TrackerWeights | None,
    tables: ForestTables | LaneTables,
    output_index: Tensor | None,
    leaf_mask: Tensor | None,
) -> Tensor:
    if (compose.tracker_weight is None) != (tracker is None):
        raise ValueError("compose.tracker_weight and the tracker's weights are given together or not at all")
    if leaf_mask is not None:
        leaves = leaves.masked_fill(
            ~leaf_mask.unsqueeze(1), 0
        )  # the weights' gradients multiply whole memories
    weights = [weight for weight in compose if weight is not None]
    tracker_weights = [] if tracker is None else list(tracker)
    differentiable = (leaves, *weights, *tracker_weights)
    if not isinstance(tables, ForestTables if tracker is None else LaneTables):
        raise TypeError(f"got {type(tables).__name__}; run_forest reads ForestTables, run_given LaneTables")
    if any(tensor.dtype != leaves.dtype for tensor in differentiable):
        got = sorted({str(tensor.dtype) for tensor in differentiable})
        raise TypeError(f"leaves and weights must have one dtype, got {', '.join(got)}")
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in differentiable)
    index = tables.root_index if output_index is None else output_index
    output, *_ = stack_machine(leaves, weights, tracker_weights, list(tables), index, save)
    return output
