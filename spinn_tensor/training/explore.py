"""How a policy of its own is trained: on what a search found, then on what `ppo` samples.

The first `warmup_steps` are the composer's, on random trees, at a rate that falls to nothing where a search follows. In
the next `search_steps` it rests: in three quarters of them policies are compared by what copies of it learn from their
trees (`rule_search`), and in all the policy learns to imitate the best. Sentences are then of half to twice the length
that they had: of short ones all trees are as good, and right ones show best where they are longer than what was learnt.
Then each step of the composer is followed by several of the policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from spinn_tensor.batch import Batch
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.columns import SentenceColumns
from spinn_tensor.model.classifiers import SentenceParser
from spinn_tensor.training.methods import Given, Layout, Method
from spinn_tensor.training.objective import Totals
from spinn_tensor.training.ppo import (
    Experience,
    Sampled,
    batch_of,
    better_than,
    columns_of,
    composed_rewards,
    experience_of,
    policy_loss,
    random_trees,
    sample_deviations,
    sample_parses,
    under,
)
from spinn_tensor.training.reinforce import Moments, bonus_weight
from spinn_tensor.training.rule_search import Rivals, Search, least_steps, parses_by, stage_of, state_moments

DOUBT = 0.1  # with which a policy imitates, so that it has something to try afterwards


class Explore(Method):
    """Train a composer on what a policy samples, and the policy by what it was worth, see `ppo`."""

    later = Method.later | {"shortest", *Search._fields, *Rivals.names}
    kept = ("shortest", "reached", "greedy", "moments", "search")

    def _begin(self) -> None:
        model, config = self.model, self.config
        assert not isinstance(model, SentenceParser), "which RunConfig checks"
        assert model.encoder.policy is not None
        self.classifier, self.policy = model, model.encoder.policy
        self.moments = Moments.empty(self.device)
        self.shortest, self.reached = torch.tensor(0), torch.tensor(config.first_length)
        # sums over the epoch so far: rewards of greedy parses, and how many
        self.greedy = torch.zeros(2, device=self.device)
        self._policy_loss = self._function(policy_loss)
        self.search = Search.empty(model.encoder.output_dim, self.device)
        if 0 < config.search_steps < least_steps():
            raise ConfigError(
                f"search_steps: got {config.search_steps}, expected 0 or at least {least_steps()}, of a whole search"
            )
        self.rivals = Rivals(model) if config.search_steps else None
        self._experience: Experience | None = None
        self._take_in: Callable[[Tensor], None] = self._take_in_rewards
        self._figures: dict[str, Tensor] = {}
        self._step = 0

    def layout(self, step: int) -> Layout:
        return Layout("own")

    @property
    def _n_before(self) -> int:
        """Count the steps before the policy's own ones."""
        return self.config.warmup_steps + self.config.search_steps

    def further_updates(self, step: int) -> int:
        return self.config.policy_steps if step >= self._n_before else 0

    def loss(
        self, batch: Batch, step: int, totals: Totals | None = None, given: Given | None = None
    ) -> Tensor:
        config, labels, self._step = self.config, batch.labels, step
        columns = columns_of(batch.sentences)
        if step >= self._n_before:
            self.rivals = None  # which no state needs to keep any more
        elif step >= config.warmup_steps:
            return self._imitation_loss(columns, labels, step) / (
                len(labels) if totals is None else totals.examples
            )
        sampled = self._sample(columns, step, len(labels))
        n_parses = sampled.transitions.shape[0]
        n_composed = min(n_parses, 1 + config.n_composed) if config.n_composed else n_parses
        parts = sampled.transitions.split([n_composed, n_parses - n_composed])
        rewards = composed_rewards(self.classifier, columns, parts[0], labels, self.class_weights)
        loss = -rewards.sum() / n_composed
        if n_composed < n_parses:
            with torch.no_grad():
                others = composed_rewards(self.classifier, columns, parts[1], labels, self.class_weights)
            rewards = torch.cat((rewards, others))
        rewards = rewards.detach()
        if self.further_updates(step):
            credit = better_than(rewards, self.moments, config.baseline)
            self._experience = experience_of(self.policy, columns, sampled, rewards, credit)
        drawn = rewards[1:]
        sums = rewards[0].sum(), drawn.sum(), drawn.square().sum(), _count(drawn), _count(rewards[0])
        self._take_in, self._observed = self._take_in_rewards, torch.stack(sums).to(self.greedy)
        return loss / (len(labels) if totals is None else totals.examples)

    def _imitation_loss(self, columns: SentenceColumns, labels: Tensor, step: int) -> Tensor:
        """Compare policies; return the loss of ours as an imitation of the best, summed over the examples."""
        encoder, number = self.classifier.encoder, step - self.config.warmup_steps - 1
        if number < 0:
            transitions = random_trees(self.policy, columns, 0).transitions
            self._observed = state_moments(encoder, columns, transitions[0])
            self._take_in = self._begin_search
        else:
            is_searching = number + 1 < self.config.search_steps * 3 // 4
            n_policies = stage_of(number).n_policies if is_searching else 1
            transitions = parses_by(self.search.policies[:n_policies], self.search, encoder, columns)
            rewards = self._rewards_of(columns, transitions, labels, number if is_searching else None)
            self._observed = torch.cat((rewards.sum(1), _count(rewards[0]).view(1)))
            self._take_in = partial(self._compare, number)
        parse = self.policy.parse(batch_of(self.policy, under(columns, transitions[:1]), "lanes"))
        # the logits of no choice are infinite, and doubt would make of them a loss that is
        logits = torch.where(parse.free_mask.unsqueeze(1), parse.logits, 0.0)
        losses = F.cross_entropy(logits, transitions[0], reduction="none", label_smoothing=DOUBT)
        mean_loss = (losses * parse.free_mask).sum() / parse.free_mask.sum().clamp(min=1)
        return mean_loss * len(labels) * (number >= 0)

    def _rewards_of(
        self, columns: SentenceColumns, transitions: Tensor, labels: Tensor, number: int | None
    ) -> Tensor:  # (n, E)
        """Return what trees are worth to the composer, or in a round to its copies, which learn from them."""
        assert self.rivals is not None
        if number is None or stage_of(number).round is None:
            with torch.no_grad():
                return composed_rewards(self.classifier, columns, transitions, labels, self.class_weights)
        if stage_of(number).is_first:
            self.rivals.begin()
        return self.rivals.learn(columns, transitions, labels, self.class_weights)

    def _sample(self, columns: SentenceColumns, step: int, n_examples: int) -> Sampled:
        n_samples = self.config.n_samples
        if not self.further_updates(step):
            return random_trees(self.policy, columns, self.config.n_composed or n_samples)
        if self.config.credit == "deviation":
            return sample_deviations(self.policy, columns, n_samples, n_examples)
        return sample_parses(self.policy, columns, n_samples)

    def further_loss(self, step: int, totals: Totals) -> Tensor:
        config, experience = self.config, self._experience
        assert experience is not None
        weight = self.greedy.new_full((), bonus_weight(config, step - self._n_before))
        loss, told = self._policy_loss(self.policy, experience, config.clip_ratio, weight)
        self._take_in = self._take_in_policy
        self._observed = torch.cat((told, told.new_ones(1))) * experience.n_examples
        return loss / totals.examples

    def observe(self, sums: Tensor) -> None:
        self._take_in(sums)

    def _begin_search(self, sums: Tensor) -> None:
        self.search = self.search.begun(sums)
        self._figures = {}  # this step has none

    def _compare(self, number: int, sums: Tensor) -> None:
        rewards, n_examples = sums[:-1], sums[-1]
        if len(rewards) > 1:
            self.search = self.search.compared(number, rewards)
        self._figures = {"greedy_reward": rewards[0] / n_examples}

    def _take_in_policy(self, sums: Tensor) -> None:
        entropy, change, n_examples = sums
        self._figures |= {"entropy": entropy / n_examples, "ratio_change": change / n_examples}

    def _take_in_rewards(self, sums: Tensor) -> None:
        greedy, drawn, square, n_drawn, n_examples = sums
        self.moments = self.moments.updated(drawn / n_drawn, square / n_drawn, self.config.baseline_decay)
        if self._experience is not None:  # else trees are random, and longer ones have to wait
            self.greedy = self.greedy + torch.stack((greedy, n_examples))
        self._figures |= {"greedy_reward": greedy / n_examples, "reward": drawn / n_drawn}

    def figures(self) -> dict[str, Tensor]:
        return {**self._figures, **({"longest": self.reached} if self.reached else {})}

    def rate_factor(self, step: int) -> float:
        left = 1 - step / max(1, self.config.warmup_steps)
        return min(1.0, 3 * left + 0.02) if self.config.search_steps and left > 0 else 1.0

    @property
    def lengths(self) -> tuple[int, int]:
        return int(self.shortest), int(self.reached)

    def end_epoch(self) -> None:
        """Let longer examples in, half as long again and a word at least, if greedy parses of these cost little."""
        first = self.config.first_length
        is_searching = self.config.warmup_steps <= self._step + 1 < self._n_before
        self.shortest = torch.tensor(first // 2 + 1 if is_searching and first else 0)
        if is_searching:
            self.reached = torch.tensor(2 * first)
        reward, n_examples = self.greedy.tolist()
        self.greedy = torch.zeros_like(self.greedy)
        if -reward < self.config.length_loss * n_examples:
            self.reached = (self.reached * 3 + 1) // 2

    def tensors(self) -> dict[str, Tensor]:
        return {**super().tensors(), **(self.rivals.tensors() if self.rivals is not None else {})}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        super().restore(tensors)
        if self.rivals is not None:
            self.rivals.restore(tensors)


def _count(values: Tensor) -> Tensor:  # ()
    return values.new_full((), values.numel())
