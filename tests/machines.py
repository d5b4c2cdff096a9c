"""Name every executor over every kind of table, and draw weights for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from spinn_tensor import (
    ComposeWeights,
    ForestTables,
    LaneTables,
    OwnTables,
    TrackerWeights,
    TransitionWeights,
    forcing_noise,
    run_forest,
    run_given,
    run_own,
    to_torch,
)
from spinn_tensor.data_prep.tables import forest_tables, lane_tables, own_tables

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")

TRACKER = 5  # width of the tracker whose scores random_transition_weights makes
Batch = Sequence[np.ndarray]  # transitions of each sentence, (2N - 1,) int8


def flatten(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Return the transitions of a batch as the tables want them: (M,) int8 and lengths (B,)."""
    return np.concatenate(batch), np.array([(len(transitions) + 1) // 2 for transitions in batch])


def cap(batch: Batch) -> int:
    """Return a width that makes lanes wait."""
    return max(1, len(batch) // 3)


def own_leaves(batch: Batch) -> np.ndarray:
    """Give each token a leaf of its own: products are hoisted, and the rows are those of tables without."""
    return np.arange(flatten(batch)[1].sum())


def roomy(batch: Batch) -> np.ndarray:
    """Return widths of own tables in which some lanes go on after their end, and one is none."""
    n_transitions = np.array([len(transitions) for transitions in batch])
    n_steps = n_transitions.max()
    running = (n_transitions > np.arange(n_steps)[:, None]).sum(1)
    return np.concatenate((running + 1, [1, 1]))


AnyTables = ForestTables | LaneTables | OwnTables
TABLES: dict[str, Callable[[Batch], AnyTables]] = {
    "forest": lambda batch: to_torch(forest_tables(*flatten(batch))),
    "forest, narrow": lambda batch: to_torch(forest_tables(*flatten(batch), width=cap(batch))),
    "forest, padded": lambda batch: to_torch(forest_tables(*flatten(batch), padded=True)),
    "forest, hoisted": lambda batch: to_torch(forest_tables(*flatten(batch), leaf_index=own_leaves(batch))),
    "given": lambda batch: to_torch(lane_tables(*flatten(batch))),
    "given, capped": lambda batch: to_torch(lane_tables(*flatten(batch), width=cap(batch))),
    "given, padded": lambda batch: to_torch(lane_tables(*flatten(batch), width=cap(batch), padded=True)),
    "given, hoisted": lambda batch: to_torch(lane_tables(*flatten(batch), leaf_index=own_leaves(batch))),
    "own, forced": lambda batch: to_torch(own_tables(flatten(batch)[1])),
    "own, padded": lambda batch: to_torch(own_tables(flatten(batch)[1], widths=roomy(batch))),
}
MACHINES = [(name, False) for name in TABLES if not name.startswith("own")]
MACHINES += [(name, True) for name in TABLES if not name.startswith("forest")]
MACHINE_IDS = [f"{name}{', tracker' if tracked else ''}" for name, tracked in MACHINES]
every_machine = pytest.mark.parametrize("name, tracked", MACHINES, ids=MACHINE_IDS)


def run(
    name: str,
    leaves: Tensor,
    compose: ComposeWeights,
    tracker: TrackerWeights | None,
    batch: Batch,
    every_node: bool = False,
) -> Tensor:
    """Return h of the roots, or of every node in the order of the transitions."""
    return run_tables(TABLES[name](batch), leaves, compose, tracker, batch, every_node)


def run_tables(
    tables: AnyTables,  # of the batch, where the leaves are
    leaves: Tensor,
    compose: ComposeWeights,
    tracker: TrackerWeights | None,
    batch: Batch,
    every_node: bool = False,
) -> Tensor:
    """Return h of the roots, or of every node; own transitions are forced to be those of the batch."""
    if isinstance(tables, OwnTables):
        assert tracker is not None
        noise = forced(batch, tables).to(leaves.device)
        silent = TransitionWeights(leaves.new_zeros(2, tracker.weight_hidden.shape[1]), leaves.new_zeros(2))
        run = run_own(leaves, compose, tracker, silent, tables, noise, every_node=every_node)
        return run.encodings[: len(flatten(batch)[0])]
    index = tables.node_index if every_node else None
    if isinstance(tables, ForestTables):
        return run_forest(leaves, compose, tables, index)
    return run_given(leaves, compose, tracker, tables, index)


def forced(batch: Batch, tables: OwnTables) -> Tensor:
    """Return noise that forces the transitions of the batch."""
    transitions = torch.from_numpy(flatten(batch)[0])
    return forcing_noise(F.pad(transitions, (0, len(tables.entry_index) - len(transitions))))


def random_transitions(rng: np.random.Generator, n_tokens: int) -> np.ndarray:
    """Draw a tree by a random walk over the valid transitions."""
    transitions, depth, shifts = [], 0, 0
    while shifts < n_tokens or depth > 1:
        reduces = depth > 1 and (shifts == n_tokens or rng.random() < 0.5)
        transitions.append(int(reduces))
        depth, shifts = depth + (-1 if reduces else 1), shifts + (not reduces)
    return np.array(transitions, dtype=np.int8)


def random_weights(
    hidden_dim: int, tracker_dim: int | None, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[ComposeWeights, TrackerWeights | None]:
    """Draw weights large enough to make every gate matter."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64) / shape[-1] ** 0.5
        return values.to(dtype).requires_grad_()

    compose = ComposeWeights(draw(5 * hidden_dim, 2 * hidden_dim), draw(5 * hidden_dim))
    if tracker_dim is None:
        return compose, None
    compose = compose._replace(tracker_weight=draw(5 * hidden_dim, tracker_dim))
    gate_dim = 4 * tracker_dim
    return compose, TrackerWeights(
        draw(gate_dim, 3 * hidden_dim), draw(gate_dim, tracker_dim), draw(gate_dim)
    )


def random_leaves(batch: Batch, hidden_dim: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    """Draw the states of all words, (L, 2H)."""
    n_tokens = sum((len(transitions) + 1) // 2 for transitions in batch)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n_tokens, 2 * hidden_dim, generator=generator, dtype=torch.float64)
    return values.to(dtype).requires_grad_()


def parameters(leaves: Tensor, compose: ComposeWeights, tracker: TrackerWeights | None) -> list[Tensor]:
    """List all that has a gradient."""
    return [leaves, *(weight for weight in compose if weight is not None), *(tracker or ())]


def gradients(output: Tensor, inputs: Sequence[Tensor], seed: int = 2) -> list[Tensor]:
    """Compute the gradients of a random weighting of the output; zeros for what it does not depend on."""
    generator = torch.Generator().manual_seed(seed)
    weighting = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    return list(torch.autograd.grad((output * weighting).sum(), inputs, materialize_grads=True))


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest expected value."""
    difference = (got.detach().double() - expected.detach().double()).abs()
    return (
        float(difference.max() / expected.detach().abs().max().clamp(min=1e-30)) if expected.numel() else 0.0
    )


class Recorded(NamedTuple):
    """Hold sentences with weights, and what an implementation that none of us wrote made of them, in float64."""

    batch: Batch  # of 30 sentences
    leaves: Tensor  # (L, 2H)
    compose: ComposeWeights
    tracker: TrackerWeights | None
    root_h: Tensor  # (B, H)
    loss_weight: Tensor  # (B, H); the loss is the sum of its products with root_h
    gradients: list[Tensor]  # of `parameters`


def recorded_run(tracked: bool) -> Recorded:
    """Read the run of 2017 from ../shared."""
    recorded = np.load(SHARED / "golden" / f"spinn2017_{'tracker' if tracked else 'no_tracker'}.npz")
    lengths, width = recorded["lengths"], recorded["transitions"].shape[1]
    real = np.arange(width) < (2 * lengths - 1)[:, None]

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(recorded[name])

    def words(name: str) -> Tensor:
        return torch.cat([row[:n] for row, n in zip(tensor(name), lengths, strict=True)])

    def children(prefix: str) -> Tensor:
        return torch.cat((tensor(f"{prefix}compose_left_weight"), tensor(f"{prefix}compose_right_weight")), 1)

    compose = ComposeWeights(children(""), tensor("compose_bias"))
    expected = [words("grad_leaf"), children("grad_"), tensor("grad_compose_bias")]
    tracker = None
    if tracked:
        compose = compose._replace(tracker_weight=tensor("compose_track_weight"))
        biases = tensor("tracker_bias_ih") + tensor("tracker_bias_hh")
        tracker = TrackerWeights(tensor("tracker_weight_ih"), tensor("tracker_weight_hh"), biases)
        expected += [tensor("grad_compose_track_weight")]
        expected += [tensor(f"grad_tracker_{name}") for name in ("weight_ih", "weight_hh", "bias_ih")]
    leaves = words("leaf")
    for weight in parameters(leaves, compose, tracker):
        weight.requires_grad_()
    batch = [row[mask] for row, mask in zip(recorded["transitions"], real, strict=True)]
    return Recorded(batch, leaves, compose, tracker, tensor("root_h"), tensor("loss_weight"), expected)


def random_transition_weights(seed: int = 4, scale: float = 3.0) -> TransitionWeights:
    """Return weights of the last layer of a parser, in float64."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(2, TRACKER, generator=generator, dtype=torch.float64) * scale
    bias = torch.randn(2, generator=generator, dtype=torch.float64)
    return TransitionWeights(weight.requires_grad_(), bias.requires_grad_())
