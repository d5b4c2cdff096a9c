"""What is compared: every encoder as a function from one batch to its root encodings, with shared weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import dynamic
from spinn_tensor.bundles import ComposeWeights, ForestTables, LaneTables, TrackerWeights, to_torch
from spinn_tensor.data_prep.tables import forest_tables, lane_tables
from spinn_tensor.machine import reference, run_forest, run_given

FOREST, GIVEN = "forest", "given transitions"
DYNAMIC, RECURSION, PADDED_LSTM = "dynamic batching", "recursion", "LSTM, padded"
OURS = (FOREST, GIVEN)
BASELINE = DYNAMIC
TOLERANCE = 1e-4  # of outputs and gradients, relative to the largest, before anything is timed


class Batch(NamedTuple):
    """One batch in the forms that the candidates take, all made before any timing."""

    transitions: list[list[int]]  # B lists of 2N - 1
    flat_transitions: np.ndarray  # (M,) int8
    lengths: np.ndarray  # (B,) int64, tokens
    leaves: Tensor  # (L, 2H) float32, requires grad
    root_gradient: Tensor  # (B, H)
    forest: ForestTables
    lanes: LaneTables
    padding_index: Tensor  # (N_max * B,) int64, leaf of each place of the padded batch, 0 in the padding
    last_index: Tensor  # (B,) int64, place of each sentence's last word


class Weights(NamedTuple):
    """Of every candidate of one width."""

    compose: ComposeWeights
    tracker: TrackerWeights | None
    lstm: torch.nn.LSTM

    def spinn(self) -> list[Tensor]:
        """Parameters of all SPINN encoders."""
        tensors = [*self.compose, *(self.tracker or ())]
        return [tensor for tensor in tensors if tensor is not None]


class Candidate(NamedTuple):
    """An encoder to time."""

    name: str
    encode: Callable[[Batch], Tensor]  # root encodings (B, H)
    parameters: list[Tensor]


def make_weights(n_hidden: int, n_tracker: int) -> Weights:
    """Random weights of the usual size; n_tracker = 0 for none."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        bound = n_hidden**-0.5
        return torch.empty(shape).uniform_(-bound, bound, generator=generator).requires_grad_()

    tracker_weight = uniform(5 * n_hidden, n_tracker) if n_tracker else None
    compose = ComposeWeights(uniform(5 * n_hidden, 2 * n_hidden), uniform(5 * n_hidden), tracker_weight)
    tracker = None
    if n_tracker:
        tracker = TrackerWeights(
            weight_input=uniform(4 * n_tracker, 3 * n_hidden),
            weight_hidden=uniform(4 * n_tracker, n_tracker),
            bias=uniform(4 * n_tracker),
        )
    return Weights(compose, tracker, torch.nn.LSTM(n_hidden, n_hidden))


def make_batch(transitions: Sequence[np.ndarray], n_hidden: int) -> Batch:
    """A batch of trees with random leaves."""
    generator = torch.Generator().manual_seed(1)
    flat = np.concatenate(transitions).astype(np.int8)
    lengths = np.array([(len(codes) + 1) // 2 for codes in transitions])
    leaves = torch.randn(int(lengths.sum()), 2 * n_hidden, generator=generator) * 0.5
    positions = np.arange(lengths.max())[:, None]  # (N_max, 1)
    padding = np.where(positions < lengths, np.cumsum(lengths) - lengths + positions, 0)  # (N_max, B)
    last = (lengths - 1) * len(lengths) + np.arange(len(lengths))
    return Batch(
        transitions=[codes.tolist() for codes in transitions],
        flat_transitions=flat,
        lengths=lengths,
        leaves=leaves.requires_grad_(),
        root_gradient=torch.randn(len(lengths), n_hidden, generator=generator),
        forest=build_forest(flat, lengths),
        lanes=build_lanes(flat, lengths),
        padding_index=torch.from_numpy(padding.reshape(-1)),
        last_index=torch.from_numpy(last),
    )


def build_forest(flat_transitions: np.ndarray, lengths: np.ndarray) -> ForestTables:
    """All that the forest executor needs to know of a batch."""
    tables = to_torch(forest_tables(flat_transitions, lengths))
    assert isinstance(tables, ForestTables)
    return tables


def build_lanes(flat_transitions: np.ndarray, lengths: np.ndarray) -> LaneTables:
    """All that the given-transitions executor needs to know of a batch."""
    tables = to_torch(lane_tables(flat_transitions, lengths))
    assert isinstance(tables, LaneTables)
    return tables


def table_builders(batch: Batch, weights: Weights) -> dict[str, Callable[[], object]]:
    """What builds the tables of each of our executors from the transitions."""
    builders: dict[str, Callable[[], object]] = {
        GIVEN: lambda: build_lanes(batch.flat_transitions, batch.lengths)
    }
    if weights.tracker is None:
        builders[FOREST] = lambda: build_forest(batch.flat_transitions, batch.lengths)
    return builders


def make_candidates(weights: Weights) -> list[Candidate]:
    """Every encoder that can run with these weights; ours first."""
    n_hidden = weights.compose.weight.shape[1] // 2

    def forest(batch: Batch) -> Tensor:
        return run_forest(batch.leaves, weights.compose, batch.forest)

    def given(batch: Batch) -> Tensor:
        return run_given(batch.leaves, weights.compose, weights.tracker, batch.lanes)

    def lists(batch: Batch) -> Tensor:
        roots = dynamic.encode_batch(batch.leaves, batch.transitions, weights.compose, weights.tracker)
        return roots[:, :n_hidden]

    def recursive(batch: Batch) -> Tensor:
        roots = reference.encode_batch(batch.leaves, batch.transitions, weights.compose, weights.tracker)
        return roots[:, :n_hidden]

    def padded_lstm(batch: Batch) -> Tensor:
        words = batch.leaves[:, :n_hidden].index_select(0, batch.padding_index)
        output, _ = weights.lstm(words.view(-1, len(batch.lengths), n_hidden))
        return output.flatten(0, 1).index_select(0, batch.last_index)

    spinn = weights.spinn()
    candidates = [
        Candidate(GIVEN, given, spinn),
        Candidate(DYNAMIC, lists, spinn),
        Candidate(RECURSION, recursive, spinn),
        Candidate(PADDED_LSTM, padded_lstm, list(weights.lstm.parameters())),
    ]
    return [Candidate(FOREST, forest, spinn), *candidates] if weights.tracker is None else candidates


def forward(candidate: Candidate, batch: Batch) -> Tensor:
    """Root encodings as in inference."""
    with torch.no_grad():
        return candidate.encode(batch)


def forward_backward(candidate: Candidate, batch: Batch) -> tuple[Tensor, ...]:
    """Gradients of the leaves and of all weights; zeros for weights that single words do not use."""
    inputs = [batch.leaves, *candidate.parameters]
    roots = candidate.encode(batch)
    return torch.autograd.grad(roots, inputs, batch.root_gradient, allow_unused=True, materialize_grads=True)


def check_agreement(candidates: Sequence[Candidate], batch: Batch) -> None:
    """Refuse to time what is wrong: raises RuntimeError where outputs or gradients differ from the
    recursion's."""
    trees = {candidate.name: candidate for candidate in candidates if candidate.name != PADDED_LSTM}
    reference = trees.pop(RECURSION)
    expected = (forward(reference, batch), *forward_backward(reference, batch))
    for name, candidate in trees.items():
        got = (forward(candidate, batch), *forward_backward(candidate, batch))
        for number, (tensor, right) in enumerate(zip(got, expected, strict=True)):
            difference, largest = float((tensor - right).abs().max()), float(right.abs().max())
            if not difference <= TOLERANCE * largest:
                what = "root encodings" if number == 0 else f"gradient {number - 1}"
                raise RuntimeError(
                    f"{name}: {what} are {difference:.1e} off the recursion's (up to {largest:.1e})"
                )
