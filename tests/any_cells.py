"""Run any cell by plain recursion, one tree at a time; and cells and trackers that nothing knows of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from spinn_tensor.machine.reference import walk_any
from spinn_tensor.model.cells import TreeLSTM


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
