"""Search for a policy that is worth imitating, by what a composer learns from its trees.

What one choice is worth, the others being drawn, says nothing about a structure that pays only where all of it is
right (docs/decisions.md). So policies are compared whole, each of which parses every sentence of a batch. They look at
what the composer, which has learnt on random trees, makes of the phrase on top of the stack: z, the k directions in
which such states vary most, scaled to a variance of 1. A policy is k + 1 numbers of length √(k + 1),

    REDUCE where w . z + b > 0

Many are drawn at random and compared by the reward that the composer has on their trees, ever fewer on ever more
batches (successive halving, Jamieson and Talwalkar 2016). Each of the J that are left gets a copy of the composer,
which learns from its trees for some batches, the same ones for all; in the later ones the reward of its copy, before it
learns from them, is what a policy is worth. The best four stay, the others of the next round are drawn near the best
five (evolution, with learning as the measure: Hinton and Nowlan 1987). Policies run as lanes of one batch. Noise is a
function of the round's number, so that all ranks draw the same; the copies are each rank's own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spinn_tensor.bundles import OwnTables
from spinn_tensor.data_prep.columns import SentenceColumns
from spinn_tensor.model.cells import TransitionHead, state_dim
from spinn_tensor.model.encoder import SentenceEncoder
from spinn_tensor.model.machine import StackMachine
from spinn_tensor.training.ppo import Classifier, batch_of, composed_rewards, under

N_FEATURES = 4  # k
LEVELS = ((768, 4), (192, 8), (48, 16))  # policies that are compared, and on how many batches
N_RIVALS = 16  # J
N_LEARNT, N_JUDGED = 80, 50  # batches of a round; the last of them, which tell what a policy is worth
N_KEPT, N_PARENTS = 4, 5
SPREADS = 4 * (0.5,) + 4 * (0.3,) + (0.2,)  # of the noise on those of the next round; the last, of all later
RATE = 1e-3  # of Adam, by which copies learn


class Search(NamedTuple):
    """Hold what policies look at, and the policies, the best first."""

    projection: Tensor  # (k, H), z = projection (h - centre)
    centre: Tensor  # (H,)
    policies: Tensor  # (R, k + 1), each its w and then its b
    rewards: Tensor  # (R,) of this level or round so far

    @classmethod
    def empty(cls, hidden_dim: int, device: torch.device) -> Search:
        """Return one that has not begun."""
        k, n_policies = min(N_FEATURES, hidden_dim), LEVELS[0][0]
        noise = torch.randn(n_policies, k + 1, generator=torch.Generator().manual_seed(0))
        return cls(
            projection=torch.zeros(k, hidden_dim, device=device),
            centre=torch.zeros(hidden_dim, device=device),
            policies=_scaled(noise).to(device),
            rewards=torch.zeros(n_policies, device=device),
        )

    def begun(self, moments: Tensor) -> Search:  # sums of `state_moments`
        """Look where states vary most."""
        count, total, square = moments.double().split([1, len(self.centre), len(self.centre) ** 2])
        centre = total / count
        covariance = square.view(len(centre), -1) / count - torch.outer(centre, centre)
        variance, directions = torch.linalg.eigh(covariance)
        largest = slice(-len(self.projection), None)
        scale = variance[largest].clamp(min=torch.finfo(self.rewards.dtype).eps).rsqrt()
        projection = (directions[:, largest] * scale).T.flip(0)
        return self._replace(projection=projection.to(self.projection), centre=centre.to(self.centre))

    def compared(
        self,
        batch: int,
        rewards: Tensor,  # (n,) of the first n policies, sums over the batch
    ) -> Search:
        """Take in what the policies of a batch came to; put the best first where a level or a round ends."""
        stage = stage_of(batch)
        if stage.counts:
            total = self.rewards[: len(rewards)] + rewards
            self = self._replace(rewards=torch.cat((total, self.rewards[len(rewards) :])))
        if not stage.is_last:
            return self
        order = self.rewards[: len(rewards)].argsort(descending=True)
        policies = torch.cat((self.policies[order], self.policies[len(rewards) :]))
        if stage.round is not None:
            policies = torch.cat((_next_round(policies[: len(order)], stage.round), policies[len(order) :]))
        return self._replace(policies=policies, rewards=torch.zeros_like(self.rewards))


class Stage(NamedTuple):
    """Say what a batch of the search is for."""

    n_policies: int  # that it compares
    round: int | None  # in which copies learn; None: a level
    is_first: bool  # of its level or round
    is_last: bool
    counts: bool  # whether its rewards are those that decide


def stage_of(batch: int) -> Stage:
    """Say what a batch of this number is for."""
    for n_policies, n_batches in LEVELS:
        if batch < n_batches:
            return Stage(n_policies, None, batch == 0, batch == n_batches - 1, True)
        batch -= n_batches
    number, place = divmod(batch, N_LEARNT)
    return Stage(N_RIVALS, number, place == 0, place == N_LEARNT - 1, place >= N_LEARNT - N_JUDGED)


def least_steps() -> int:
    """Count the steps of a search, and of imitation after it, that hold all levels and one round."""
    n_batches = 1 + sum(n for _, n in LEVELS) + N_LEARNT
    return -(-4 * n_batches // 3)


def _scaled(policies: Tensor) -> Tensor:
    return policies * policies.shape[1] ** 0.5 / torch.linalg.vector_norm(policies, dim=1, keepdim=True)


def _next_round(ranked: Tensor, number: int) -> Tensor:  # (J, k + 1)
    """Keep the best, and draw others near them; one is the mean of the best."""
    n_drawn = len(ranked) - N_KEPT - 1
    noise = torch.randn(n_drawn, ranked.shape[1], generator=torch.Generator().manual_seed(1 + number))
    parents = ranked[torch.arange(n_drawn) % N_PARENTS]
    drawn = parents + SPREADS[min(number, len(SPREADS) - 1)] * noise.to(ranked)
    return torch.cat((ranked[:N_KEPT], _scaled(drawn), _scaled(ranked[:N_KEPT].mean(0, keepdim=True))))


class Rivals:
    """Hold copies of a composer and its classifier, each of which learns from the trees of one policy."""

    names = ("rivals", "rivals_step", "rivals_first", "rivals_second")  # of `tensors`

    def __init__(self, model: Classifier) -> None:
        self._model = copy.deepcopy(model)
        self._parts, self._originals = (
            [p for name, p in of.named_parameters() if p.requires_grad and ".policy." not in name]
            for of in (self._model, model)
        )
        self.weights = nn.Parameter(
            nn.utils.parameters_to_vector(self._originals).detach().repeat(N_RIVALS, 1)
        )
        self.optimizer = torch.optim.Adam([self.weights], RATE)
        first, second = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        state = {"step": torch.zeros(()), "exp_avg": first, "exp_avg_sq": second}
        self.optimizer.state[self.weights] = state
        self._state = dict(zip(self.names, (self.weights.detach(), *state.values()), strict=True))

    def begin(self) -> None:
        """Make all copies what the composer is."""
        weights = nn.utils.parameters_to_vector(self._originals).detach().expand_as(self.weights)
        self.restore({**dict.fromkeys(self.names, torch.zeros(())), self.names[0]: weights})

    def learn(
        self,
        columns: SentenceColumns,
        transitions: Tensor,  # (J, M)
        labels: Tensor,  # (E,) int64
        class_weights: Tensor | None,
    ) -> Tensor:  # (J, E) rewards before they learn from this batch
        """Let each copy learn from its policy's trees of a batch."""
        self._model.train()
        rewards, gradient = [], torch.zeros_like(self.weights)
        for number, weights in enumerate(self.weights.detach()):
            nn.utils.vector_to_parameters(weights, self._parts)
            trees = transitions[number : number + 1]
            reward = composed_rewards(self._model, columns, trees, labels, class_weights)[0]
            found = torch.autograd.grad(-reward.mean(), self._parts, materialize_grads=True)
            gradient[number] = nn.utils.parameters_to_vector(found)
            gradient[number] /= torch.linalg.vector_norm(gradient[number]).clamp(min=1.0)
            rewards.append(reward.detach())
        self.weights.grad = gradient
        self.optimizer.step()
        return torch.stack(rewards)

    def tensors(self) -> dict[str, Tensor]:
        """Return copies of what a resumed run needs, by name."""
        return {name: tensor.clone() for name, tensor in self._state.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        for name, tensor in self._state.items():
            tensor.copy_(tensors[name])


def state_moments(
    encoder: SentenceEncoder,
    columns: SentenceColumns,
    transitions: Tensor,  # (M,)
) -> Tensor:  # (1 + H + H²,) how many states there are, their sum and that of their products
    """Add up what the composer makes of every phrase, each of which is once on top of a stack."""
    with torch.no_grad():
        states = encoder.node_states(batch_of(encoder, under(columns, transitions.unsqueeze(0)), "forest"))
        return torch.cat((states.new_full((1,), len(states)), states.sum(0), (states.T @ states).flatten()))


class _TopOfStack(nn.Module):
    """Score REDUCE by what is on top of the stack, in each lane by a policy that the lane's state carries along."""

    def __init__(
        self,
        search: Search,
        policies: Tensor,  # (P, k + 1), in the order of the first step
    ) -> None:
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
