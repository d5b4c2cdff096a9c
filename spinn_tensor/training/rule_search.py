"""Search for a policy that is worth imitating by comparing whole ones: the cross-entropy method (Rubinstein 1999).

What one choice is worth, the others being drawn, says nothing about a structure that pays only where all of it is
right (docs/decisions.md). So policies are compared whole, each of which parses every sentence of a batch. They look at
what the composer, which has learnt on random trees, makes of the phrase on top of the stack: z, the k directions in
which such states vary most, scaled to a variance of 1. A policy is k + 1 numbers,

    REDUCE where w . z + b > 0

A generation draws R of them from N(mean, diag(deviation²)), parses some batches by each, and takes the E under which
the composer's loss is least, scaled to a length of √(k + 1):

    mean <- mean + α (mean of the E - mean),        deviation <- deviation + α (deviation of the E + δ - deviation)

δ keeps it from settling on chance (Szita and Lőrincz 2006). After some generations the search begins anew; in its last
ones its mean is held against the best of the searches before, at first against right-branching, on the same sentences.
All R run as lanes of one batch. The noise of a generation is a function of its number, so that all ranks draw the same.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from spinn_tensor.bundles import OwnTables
from spinn_tensor.data_prep.columns import SentenceColumns
from spinn_tensor.model.cells import TransitionHead, state_dim
from spinn_tensor.model.encoder import SentenceEncoder
from spinn_tensor.model.machine import StackMachine
from spinn_tensor.training.ppo import batch_of, under

N_POLICIES, N_BEST = 96, 12  # R and E
N_FEATURES = 8  # k
N_BATCHES = 8  # that a generation lives for
N_GENERATIONS, N_JUDGED = 72, 12  # of a search; the last of them, which tell how good it is
RATE, SPREAD = 0.4, 0.05  # α and δ


class Search(NamedTuple):
    """Hold what policies look at, and where they are drawn, each its w and then its b."""

    projection: Tensor  # (k, H), z = projection (h - centre)
    centre: Tensor  # (H,)
    mean: Tensor  # (k + 1,)
    deviation: Tensor  # (k + 1,)
    rewards: Tensor  # (R,) of this generation so far
    best: Tensor  # (k + 1,) the mean of the best search that has ended
    lead: Tensor  # () by how much this one's mean had more reward, of all examples that it was judged by

    @classmethod
    def empty(cls, hidden_dim: int, device: torch.device) -> Search:
        """Return one that has not begun: policies are as likely as their opposites."""
        k = min(N_FEATURES, hidden_dim)
        return cls(
            projection=torch.zeros(k, hidden_dim, device=device),
            centre=torch.zeros(hidden_dim, device=device),
            mean=torch.zeros(k + 1, device=device),
            deviation=torch.ones(k + 1, device=device),
            rewards=torch.zeros(N_POLICIES, device=device),
            best=torch.zeros(k + 1, device=device),
            lead=torch.zeros((), device=device),
        )

    def begun(self, moments: Tensor) -> Search:  # sums of `state_moments`
        """Look where states vary most."""
        count, total, square = moments.double().split([1, len(self.centre), len(self.centre) ** 2])
        centre = total / count
        covariance = square.view(len(centre), -1) / count - torch.outer(centre, centre)
        variance, directions = torch.linalg.eigh(covariance)
        largest = slice(-len(self.projection), None)
        scale = variance[largest].clamp(min=torch.finfo(self.mean.dtype).eps).rsqrt()
        projection = (directions[:, largest] * scale).T.flip(0)
        return self._replace(projection=projection.to(self.projection), centre=centre.to(self.centre))

    def policies(self, batch: int) -> Tensor:  # (R + 2, k + 1)
        """Return those that a batch of this number compares: a generation, its mean, and the best before."""
        generator = torch.Generator().manual_seed(batch // N_BATCHES)
        noise = torch.randn(N_POLICIES, len(self.mean), generator=generator).to(self.mean)
        drawn = self.mean + self.deviation * noise
        return torch.cat((drawn, self.mean.unsqueeze(0), self.best.unsqueeze(0)))

    def compared(self, batch: int, rewards: Tensor) -> Search:  # (R + 2,) sums over the batch
        """Take in what the policies of a batch came to."""
        generation, is_last = batch // N_BATCHES % N_GENERATIONS, (batch + 1) % N_BATCHES == 0
        search = self._replace(rewards=self.rewards + rewards[:-2])
        if generation >= N_GENERATIONS - N_JUDGED:
            search = search._replace(lead=self.lead + rewards[-2] - rewards[-1])
        if not is_last:
            return search
        chosen = self.policies(batch)[search.rewards.topk(N_BEST).indices]
        chosen *= chosen.shape[1] ** 0.5 / torch.linalg.vector_norm(chosen, dim=1, keepdim=True)
        search = search._replace(
            mean=self.mean.lerp(chosen.mean(0), RATE),
            deviation=self.deviation.lerp(chosen.std(0, correction=0) + SPREAD, RATE),
            rewards=torch.zeros_like(self.rewards),
        )
        return search._begun_anew() if generation == N_GENERATIONS - 1 else search

    def _begun_anew(self) -> Search:
        return self._replace(
            mean=torch.zeros_like(self.mean),
            deviation=torch.ones_like(self.deviation),
            best=torch.where(self.lead > 0, self.mean, self.best),
            lead=torch.zeros_like(self.lead),
        )


def state_moments(
    encoder: SentenceEncoder, columns: SentenceColumns, transitions: Tensor
) -> (
    Tensor
):  # (1 + H + H²,) how many states there are under these trees (M,), their sum and that of their products
    """Add up what the composer makes of every phrase, each of which is once on top of a stack."""
    with torch.no_grad():
        states = encoder.node_states(batch_of(encoder, under(columns, transitions.unsqueeze(0)), "forest"))
        return torch.cat((states.new_full((1,), len(states)), states.sum(0), (states.T @ states).flatten()))


class _TopOfStack(nn.Module):
    """Score REDUCE by what is on top of the stack, in each lane by a policy that the lane's state carries along."""

    def __init__(
        self, search: Search, policies: Tensor
    ) -> None:  # (P, k + 1), in the order of the first step
        super().__init__()
        self.search, self._first = search, [policies]
        self.state_dim, self.output_dim = 1 + policies.shape[1], 1

    def forward(self, buffer: Tensor, stack1: Tensor, stack2: Tensor, state: Tensor) -> Tensor:
        policies = self._first.pop() if self._first else state[:, 1:]
        z = (stack1[:, : len(self.search.centre)] - self.search.centre) @ self.search.projection.T
        score = torch.linalg.vecdot(z, policies[:, :-1]) + policies[:, -1]
        return torch.cat((score.unsqueeze(1), policies), 1)


class _Untracked(nn.Module):
    """Compose by a cell that is not told what the tracker says."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell
        self.output_dim = getattr(cell, "output_dim", state_dim(cell))

    def forward(self, left: Tensor, right: Tensor, tracker: Tensor) -> Tensor:
        states: Tensor = self.cell(left, right)
        return states


def parses_by(
    policies: Tensor,  # (R, k + 1)
    search: Search,
    encoder: SentenceEncoder,
    columns: SentenceColumns,
) -> Tensor:  # (R, M) transitions
    """Parse by each policy, all in one run of the machine."""
    composer, batch = encoder.composer, batch_of(encoder, columns, "own", len(policies))
    assert isinstance(composer, StackMachine)
    assert isinstance(batch.tables, OwnTables)
    lanes = batch.tables.transition_index[: len(batch.tables.first_index)] // len(columns.transitions)
    head = TransitionHead(1).to(policies)
    with torch.no_grad():
        head.weight.copy_(head.weight.new_tensor([[0.0], [1.0]]))
        tracker = _TopOfStack(search, policies[lanes])
        machine = StackMachine(_Untracked(composer.compose), tracker, head)
        return machine.parse(encoder.leaves(batch), batch.tables).transitions.view(len(policies), -1)
