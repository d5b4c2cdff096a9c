"""Run any cell by plain recursion, one tree at a time; and cells and trackers that nothing knows of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from spinn_tensor import StackMachine
from spinn_tensor.machine.reference import walk_any
from spinn_tensor.model.cells import TreeLSTM
from tests.machines import Batch, flatten, gradients, random_transitions, relative_error
from tests.strategies import left_branching


class PlainTreeLSTM(TreeLSTM):
    """The TreeLSTM as it is written for one step: of this class the machine knows nothing."""


class OddCell(nn.Module):
    """A cell whose states are of an odd width, of which three numbers are the encoding."""

    output_dim = 3

    def __init__(self, tracker_dim: int | None = None) -> None:
        super().__init__()
        self.state_dim = 5
        self.layer = nn.Linear(10 + (tracker_dim or 0), 5)
        self.register_buffer("scale", torch.tensor(0.9))

    def forward(self, left: Tensor, right: Tensor, tracker: Tensor | None = None) -> Tensor:
        more = () if tracker is None else (tracker.sin(),)
        return self.layer(torch.cat((left, right, *more), 1)).tanh() * self.scale + left * right / 2


class RunningMean(nn.Module):
    """A tracker whose state is a decaying mean of what it saw, of which compositions see four numbers."""

    output_dim = 4

    def __init__(self, state_dim: int) -> None:
        super().__init__()
        self.state_dim = 6
        self.layer = nn.Linear(state_dim, 6)

    def forward(self, buffer: Tensor, stack1: Tensor, stack2: Tensor, state: Tensor) -> Tensor:
        return 0.5 * state + self.layer(buffer - stack1 * stack2).tanh()


def recursion(
    cell: nn.Module,
    tracker: nn.Module | None,
    leaves: Tensor,  # (L, S)
    batch: Sequence[np.ndarray],  # transitions of each sentence
) -> tuple[Tensor, Tensor]:  # (M, output_dim), (M, K) or nothing
    """Return the encoding of every node, and what the tracker said before each transition."""
    lengths = [(len(transitions) + 1) // 2 for transitions in batch]
    walks = [walk_any(cell, tracker, *one) for one in zip(leaves.split(lengths), batch, strict=True)]
    pushed = torch.stack([state for states, _ in walks for state in states])
    said = [output for _, outputs in walks for output in outputs]
    return pushed[:, : getattr(cell, "output_dim", None)], torch.stack(said) if said else leaves.new_zeros(0)


def leaves_of(batch: Batch, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    n_words = int(flatten(batch)[1].sum())
    return torch.randn(n_words, width, generator=generator, dtype=torch.float64).requires_grad_()


def some_trees(n_trees: int = 6, most: int = 9) -> Batch:
    rng = np.random.default_rng(0)
    return [random_transitions(rng, int(n)) for n in rng.integers(1, most, n_trees)] + [left_branching(7)]


def parameters_of(machine: nn.Module) -> list[Tensor]:
    return [parameter for parameter in machine.parameters() if parameter.requires_grad]


def assert_same(machine: StackMachine, got: Tensor, expected: Tensor, leaves: Tensor) -> None:
    """Hold outputs, and gradients of leaves and parameters, against the recursion's."""
    assert relative_error(got, expected) < 1e-10
    inputs = [leaves, *parameters_of(machine)]
    for one, other in zip(gradients(got, inputs), gradients(expected, inputs), strict=True):
        assert relative_error(one, other) < 1e-10
