"""Make what is compared: every encoder as a function from a batch to root encodings, and a whole training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import dynamic
from benchmarks.data import n_tokens_of
from spinn_tensor.bundles import ComposeWeights, ForestTables, LaneTables, TrackerWeights, move, to_torch
from spinn_tensor.config import ClassifierConfig, EncoderConfig, ModelConfig
from spinn_tensor.data_prep.tables import forest_tables, lane_tables
from spinn_tensor.machine import reference, run_forest, run_given
from spinn_tensor.model.cells import Tracker, TreeLSTM
from spinn_tensor.model.classifiers import build_model
from spinn_tensor.training.config import ParsingConfig, TrainingConfig
from spinn_tensor.training.methods import make_method
from spinn_tensor.training.optimizer import make_optimizer
from spinn_tensor.training.step import TrainStep

FORWARD, BOTH = "forward", "forward + backward"
PASSES = {FORWARD: 1, BOTH: 3}  # of the forward's products: those of a backward are twice as many
FOREST, GIVEN = "forest", "given transitions"
DYNAMIC, RECURSION, PADDED_LSTM = "dynamic batching", "recursion", "LSTM, padded"
OURS = (FOREST, GIVEN)
BASELINE = DYNAMIC
TOLERANCE = 1e-4  # of outputs and gradients, relative to the largest, before anything is timed

Tables = ForestTables | LaneTables
Builder = Callable[[np.ndarray, np.ndarray], Any]  # of NumPy tables, from flat transitions and lengths
BUILDERS: dict[str, Builder] = {FOREST: forest_tables, GIVEN: lane_tables}


class Batch(NamedTuple):
    """Hold one batch in the forms that the candidates take, all made before any timing."""

    transitions: list[list[int]]  # B lists of 2N - 1
    flat_transitions: np.ndarray  # (M,) int8
    lengths: np.ndarray  # (B,) int64, tokens
    leaves: Tensor  # (L, 2H), requires grad
    root_gradient: Tensor  # (B, H)
    tables: dict[str, Tables]  # by the name of their builder
    padding_index: Tensor  # (N_max * B,) int64, leaf of each place of the padded batch, 0 in the padding
    last_index: Tensor  # (B,) int64, place of each sentence's last word


class Weights(NamedTuple):
    """Hold the weights of every candidate of one width."""

    compose: ComposeWeights
    tracker: TrackerWeights | None
    lstm: torch.nn.LSTM

    def spinn(self) -> list[Tensor]:
        """Return the parameters of all SPINN encoders."""
        tensors = [*self.compose, *(self.tracker or ())]
        return [tensor for tensor in tensors if tensor is not None]


class Candidate(NamedTuple):
    """Hold an encoder to time."""

    encode: Callable[[Batch], Tensor]  # root encodings (B, H)
    parameters: list[Tensor]


def make_weights(
    n_hidden: int,
    n_tracker: int,  # 0 for none
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Weights:
    """Draw weights of the usual size, the same ones whatever the device and the type."""
    compose, lstm = TreeLSTM(n_hidden, n_tracker or None), torch.nn.LSTM(n_hidden, n_hidden)
    tracker = Tracker(n_hidden, n_tracker) if n_tracker else None
    modules = torch.nn.ModuleList(module for module in (compose, tracker, lstm) if module is not None)
    generator = torch.Generator().manual_seed(0)
    for weight in modules.parameters():
        torch.nn.init.uniform_(weight, -(n_hidden**-0.5), n_hidden**-0.5, generator)
    modules.to(device, dtype)
    return Weights(compose.weights(), tracker.weights() if tracker else None, lstm)


def make_batch(
    transitions: Sequence[np.ndarray],
    n_hidden: int,
    builders: Mapping[str, Builder] = BUILDERS,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """Make a batch of trees with random leaves, the same ones whatever the device and the type."""
    generator = torch.Generator().manual_seed(1)
    flat, lengths = np.concatenate(transitions).astype(np.int8), n_tokens_of(transitions)
    leaves = 0.5 * torch.randn(int(lengths.sum()), 2 * n_hidden, generator=generator)
    gradient = torch.randn(len(lengths), n_hidden, generator=generator)
    positions = np.arange(lengths.max())[:, None]  # (N_max, 1)
    padding = np.where(positions < lengths, np.cumsum(lengths) - lengths + positions, 0)  # (N_max, B)
    last = (lengths - 1) * len(lengths) + np.arange(len(lengths))
    return Batch(
        transitions=[codes.tolist() for codes in transitions],
        flat_transitions=flat,
        lengths=lengths,
        leaves=leaves.to(device, dtype).requires_grad_(),
        root_gradient=gradient.to(device, dtype),
        tables={name: move(to_torch(build(flat, lengths)), device) for name, build in builders.items()},
        padding_index=torch.from_numpy(padding.reshape(-1)).to(device),
        last_index=torch.from_numpy(last).to(device),
    )


def run_tables(
    leaves: Tensor, compose: ComposeWeights, tracker: TrackerWeights | None, tables: Tables
) -> Tensor:  # (B, H)
    """Encode a batch by ours, by the executor that its tables are for."""
    if isinstance(tables, ForestTables):
        return run_forest(leaves, compose, tables)
    return run_given(leaves, compose, tracker, tables)


def run_lists(leaves: Tensor, batch: Batch, weights: Weights) -> Tensor:  # (B, H)
    """Encode a batch by dynamic batching."""
    roots = dynamic.encode_batch(leaves, batch.transitions, weights.compose, weights.tracker)
    return roots[:, : roots.shape[1] // 2]


def run_lstm(leaves: Tensor, batch: Batch, weights: Weights) -> Tensor:  # (B, H)
    """Encode a batch by an LSTM over the padded words."""
    words = leaves[:, : leaves.shape[1] // 2].index_select(0, batch.padding_index)
    output, _ = weights.lstm(words.view(-1, len(batch.lengths), words.shape[1]))
    return output.flatten(0, 1).index_select(0, batch.last_index)


def make_candidates(weights: Weights) -> dict[str, Candidate]:
    """Return every encoder that can run with these weights, ours first."""
    spinn, cells = weights.spinn(), (weights.compose, weights.tracker)
    n_hidden = weights.lstm.hidden_size

    def by_tables(name: str) -> Candidate:
        return Candidate(lambda batch: run_tables(batch.leaves, *cells, batch.tables[name]), spinn)

    def recursive(batch: Batch) -> Tensor:
        return reference.encode_batch(batch.leaves, batch.transitions, *cells)[:, :n_hidden]

    return {
        **{name: by_tables(name) for name in (OURS if weights.tracker is None else (GIVEN,))},
        DYNAMIC: Candidate(lambda batch: run_lists(batch.leaves, batch, weights), spinn),
        RECURSION: Candidate(recursive, spinn),
        PADDED_LSTM: Candidate(
            lambda batch: run_lstm(batch.leaves, batch, weights), list(weights.lstm.parameters())
        ),
    }


def forward(candidate: Candidate, batch: Batch) -> Tensor:
    """Compute root encodings as in inference."""
    with torch.no_grad():
        return candidate.encode(batch)


def forward_backward(candidate: Candidate, batch: Batch) -> tuple[Tensor, ...]:
    """Compute root encodings and the gradients of the leaves and of all weights."""
    return with_gradients(
        partial(candidate.encode, batch), [batch.leaves, *candidate.parameters], batch.root_gradient
    )


def with_gradients(
    run: Callable[[], Tensor], inputs: Sequence[Tensor], gradient: Tensor
) -> tuple[Tensor, ...]:
    """Return an output and the gradients of its inputs, zeros for what it does not depend on."""
    output = run()
    grads = torch.autograd.grad(output, inputs, gradient, allow_unused=True, materialize_grads=True)
    return output.detach(), *grads


def check_agreement(candidates: Mapping[str, Candidate], batch: Batch) -> None:
    """Refuse to time what is wrong: raise RuntimeError where outputs or gradients differ from the recursion's."""
    trees = {name: candidate for name, candidate in candidates.items() if name != PADDED_LSTM}
    oracle = trees.pop(RECURSION)
    roots, gradients = forward(oracle, batch), forward_backward(oracle, batch)
    for name, candidate in trees.items():
        require_close(name, [forward(candidate, batch)], [roots])
        require_close(name, forward_backward(candidate, batch), gradients)


def require_close(
    name: str, got: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = TOLERANCE
) -> None:
    """Raise RuntimeError where an output or a gradient is off by more than the tolerance of the largest value."""
    for number, (tensor, right) in enumerate(zip(got, expected, strict=True)):
        error = relative_error(tensor, right)
        if not error <= tolerance:
            what = "root encodings" if number == 0 else f"gradient {number - 1}"
            raise RuntimeError(f"{name}: {what} are off by {error:.1e} of the largest")


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest value expected."""
    difference = (got.detach().cpu().double() - expected.detach().cpu().double()).abs().max()
    return float(difference / expected.detach().abs().max().clamp(min=1e-30))


def make_step(
    encoder: EncoderConfig,
    classifier: ClassifierConfig,
    config: TrainingConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TrainStep:
    """Make a freshly initialised model over pairs, and what trains it."""
    torch.manual_seed(config.seed)
    model = build_model(ModelConfig("pair", ("a", "b", "c"), encoder, classifier)).to(device, dtype).train()
    method = make_method(model, ParsingConfig(), config.compile)
    return TrainStep(method, make_optimizer(model, config), config)
