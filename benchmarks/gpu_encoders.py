"""The encoders of the GPU record: ours in every mode and precision, dynamic batching and cuDNN's LSTM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import dynamic, harness
from benchmarks.candidates import Weights, make_weights
from benchmarks.gpu_measure import precision
from spinn_tensor.bundles import ComposeWeights, ForestTables, LaneTables, TrackerWeights, move, to_torch
from spinn_tensor.data_prep.tables import count_levels, forest_tables, lane_tables, least_widths
from spinn_tensor.fixed_shapes import LANE_WIDTH
from spinn_tensor.machine import run_forest, run_given
from spinn_tensor.training.capture import CapturedSteps
from spinn_tensor.training.step import autocast

EAGER, COMPILED, CAPTURED = "eager", "compiled", "captured"
MODES = (EAGER, COMPILED, CAPTURED)
FORWARD, BOTH = "forward", "forward + backward"
PASSES = {FORWARD: 1, BOTH: 3}  # of the forward's products: those of a backward are twice as many
DYNAMIC, LSTM = "dynamic batching", "cuDNN LSTM"

Tables = ForestTables | LaneTables
Transitions = Sequence[np.ndarray]  # (2N - 1,) int8 each


class Batch(NamedTuple):
    """One batch of trees in all the forms that the encoders take."""

    transitions: list[list[int]]
    leaves: Tensor  # (L, 2H)
    root_gradient: Tensor  # (B, H)
    ragged: Tables
    fixed: Tables  # what a captured step replays: every step of one width
    padding_index: Tensor  # (N_max * B,) int64, leaf of each place of the padded batch
    last_index: Tensor  # (B,) int64, place of each sentence's last word


def make_batch(
    transitions: Transitions, hidden_dim: int, tracked: bool, device: torch.device, dtype: torch.dtype
) -> Batch:
    """A batch with random leaves."""
    generator = torch.Generator().manual_seed(1)
    flat = np.concatenate(transitions).astype(np.int8)
    lengths = np.array([(len(codes) + 1) // 2 for codes in transitions])
    positions = np.arange(lengths.max())[:, None]
    padding = np.where(positions < lengths, np.cumsum(lengths) - lengths + positions, 0)
    last = (lengths - 1) * len(lengths) + np.arange(len(lengths))
    ragged: Tables
    fixed: Tables
    if tracked:
        width = max(1, round(LANE_WIDTH * len(lengths)))
        ragged = to_torch(lane_tables(flat, lengths))
        fixed = to_torch(lane_tables(flat, lengths, width=width, padded=True))
    else:
        levels = count_levels(flat, lengths)
        width = max(1, int(least_widths(levels, np.array([len(levels)]))[0]))
        ragged = to_torch(forest_tables(flat, lengths))
        fixed = to_torch(forest_tables(flat, lengths, width=width, padded=True))
    leaves = 0.5 * torch.randn(int(lengths.sum()), 2 * hidden_dim, generator=generator, dtype=torch.float64)
    gradient = torch.randn(len(lengths), hidden_dim, generator=generator, dtype=torch.float64)
    return Batch(
        transitions=[codes.tolist() for codes in transitions],
        leaves=leaves.to(device, dtype),
        root_gradient=gradient.to(device, dtype),
        ragged=move(ragged, device),
        fixed=move(fixed, device),
        padding_index=torch.from_numpy(padding.reshape(-1)).to(device),
        last_index=torch.from_numpy(last).to(device),
    )


def weights_on(hidden_dim: int, tracker_dim: int, device: torch.device, dtype: torch.dtype) -> Weights:
    """The same random weights wherever they are."""
    made = make_weights(hidden_dim, tracker_dim)

    def put(bundle: Any) -> Any:
        return type(bundle)(
            *(None if w is None else w.detach().to(device, dtype).requires_grad_() for w in bundle)
        )

    tracker = None if made.tracker is None else put(made.tracker)
    return Weights(put(made.compose), tracker, made.lstm.to(device, dtype))


def encode(
    leaves: Tensor, compose: ComposeWeights, tracker: TrackerWeights | None, tables: Tables
) -> Tensor:  # (B, H)
    """Ours."""
    if isinstance(tables, ForestTables):
        return run_forest(leaves, compose, tables)
    return run_given(leaves, compose, tracker, tables)


@cache
def compiled(backend: str) -> Callable[..., Tensor]:
    """`encode`, whose graphs are as many as there are precisions, passes and kinds of tables."""
    return torch.compile(encode, fullgraph=True, dynamic=True, backend=backend)


def ours(
    batch: Batch, weights: Weights, mode: str, passes: str, name: str, device: torch.device, backend: str
) -> Callable[[], Any]:
    """A call of our encoder in one mode and precision. Raises what the precision raises where it is not there."""
    function = compiled(backend) if mode == COMPILED else encode

    def step(tables: Tables) -> Tensor:
        return _call(lambda leaves: function(leaves, *weights[:2], tables), batch, weights, passes, name)[0]

    if mode != CAPTURED:
        return lambda: step(batch.ragged)
    captured = CapturedSteps(step, lambda: [], device)
    captured.record(batch.fixed)
    return lambda: captured(batch.fixed)


def outputs(batch: Batch, weights: Weights, tables: Tables, name: str) -> tuple[Tensor, ...]:
    """Roots and the gradients of leaves and weights, to compare."""
    return _call(lambda leaves: encode(leaves, *weights[:2], tables), batch, weights, BOTH, name)


def baselines(
    batch: Batch, weights: Weights, passes: str, names: Sequence[str]
) -> dict[tuple[str, str], Callable[[], Any]]:
    """Dynamic batching, in float32, and the LSTM in every precision: by what it is and how."""
    hidden_dim = weights.lstm.hidden_size

    def lists(leaves: Tensor) -> Tensor:
        return dynamic.encode_batch(leaves, batch.transitions, *weights[:2])[:, :hidden_dim]

    def lstm(leaves: Tensor) -> Tensor:
        words = leaves[:, :hidden_dim].index_select(0, batch.padding_index)
        output, _ = weights.lstm(words.view(-1, len(batch.transitions), hidden_dim))
        return output.flatten(0, 1).index_select(0, batch.last_index)

    calls: dict[tuple[str, str], Callable[[], Any]] = {
        (LSTM, name): partial(_call, lstm, batch, weights, passes, name) for name in names
    }
    return {(DYNAMIC, names[0]): partial(_call, lists, batch, weights, passes, names[0])} | calls


def _call(
    function: Callable[[Tensor], Tensor], batch: Batch, weights: Weights, passes: str, name: str
) -> tuple[Tensor, ...]:
    """Roots and, unless only the forward is asked for, the gradients of all that they depend on."""
    with precision(name):
        if passes == FORWARD:
            with torch.no_grad(), autocast(name, batch.leaves.device.type):
                return (function(batch.leaves),)
        leaves = batch.leaves.detach().requires_grad_()
        inputs = [leaves, *weights.spinn(), *weights.lstm.parameters()]
        with autocast(name, leaves.device.type):
            roots = function(leaves)
        gradient = batch.root_gradient.to(roots.dtype)
        gradients = torch.autograd.grad(roots, inputs, gradient, allow_unused=True)
        return roots.detach(), *(gradient for gradient in gradients if gradient is not None)


def floor_seconds(
    transitions: Transitions, hidden_dim: int, tracker_dim: int, passes: str, flops: float, bandwidth: float
) -> float:
    """What no implementation in float32 states can go below: products at the device's rate, or memory traffic.

    Traffic is counted once a use: of each composition its children's and its own h and c, of each tracker entry its
    three reads and both states; for a backward three times that, and the gates written and read. Weights, which stay in
    the cache, count once a pass.
    """
    n_entries = sum(map(len, transitions))
    n_compositions = (n_entries - len(transitions)) // 2
    numbers = 6 * hidden_dim * n_compositions
    weights = (2 * hidden_dim + tracker_dim) * 5 * hidden_dim
    gates = 5 * hidden_dim * n_compositions
    if tracker_dim:
        numbers += (3 * hidden_dim + 4 * tracker_dim) * n_entries
        weights += (3 * hidden_dim + tracker_dim) * 4 * tracker_dim
        gates += 4 * tracker_dim * n_entries
    numbers = (numbers + weights) * PASSES[passes] + (2 * gates if passes == BOTH else 0)
    n_flops = PASSES[passes] * harness.encoder_flops(transitions, hidden_dim, tracker_dim)
    return max(n_flops / flops, 4 * numbers / bandwidth)
