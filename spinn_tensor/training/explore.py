"""How a policy of its own is trained: several steps of it after each of the composer, on what `ppo` samples."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from spinn_tensor.batch import Batch
from spinn_tensor.data_prep.columns import Corpus, SentenceColumns
from spinn_tensor.model.classifiers import Model, SentenceParser
from spinn_tensor.training.config import ParsingConfig
from spinn_tensor.training.methods import Method, compiled_function
from spinn_tensor.training.objective import Totals
from spinn_tensor.training.ppo import (
    Experience,
    Sampled,
    better_than,
    columns_of,
    composed_rewards,
    experience_of,
    policy_loss,
    random_trees,
    sample_deviations,
    sample_parses,
)
from spinn_tensor.training.reinforce import Moments


class Explore(Method):
    """Train a composer on what a policy samples, and the policy by what it was worth, see `ppo`."""

    def __init__(
        self, model: Model, config: ParsingConfig, compiled: bool, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(model, class_weights)
        assert not isinstance(model, SentenceParser), "which RunConfig checks"
        assert model.encoder.policy is not None
        self.classifier, self.policy, self.config = model, model.encoder.policy, config
        device = next(model.parameters()).device
        self.moments = Moments.empty(device)
        self._reached = torch.tensor(config.first_length)
        # sums over the epoch so far: rewards of greedy parses, and how many
        self._greedy = torch.zeros(2, device=device)
        self._policy_loss = compiled_function(policy_loss, compiled)
        self._experience: Experience | None = None
        self._observed = self._greedy
        self._figures: dict[str, Tensor] = {}

    def collate(self, columns: Corpus, step: int) -> Batch:
        return self._ragged(columns, "own")

    def further_updates(self, step: int) -> int:
        return self.config.policy_steps if step >= self.config.warmup_steps else 0

    def loss(self, batch: Batch, step: int, totals: Totals | None = None) -> Tensor:
        config, labels = self.config, batch.labels
        columns = columns_of(batch.sentences)
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
            self._experience = experience_of(self.policy, columns, sampled, rewards, credit, config.credit)
        drawn = rewards[1:]
        self._observed = torch.stack(
            [
                value.to(self.moments.first.dtype)
                for value in (
                    rewards[0].sum(),
                    drawn.sum(),
                    drawn.square().sum(),
                    _count(drawn),
                    _count(rewards[0]),
                )
            ]
        )
        return loss / (len(labels) if totals is None else totals.examples)

    def _sample(self, columns: SentenceColumns, step: int, n_examples: int) -> Sampled:
        n_samples = self.config.n_samples
        if not self.further_updates(step):
            return random_trees(self.policy, columns, self.config.n_composed or n_samples)
        if self.config.credit == "deviation":
            return sample_deviations(self.policy, columns, n_samples, n_examples)
        return sample_parses(self.policy, columns, n_samples)

    def further_loss(self, step: int, totals: Totals | None = None) -> Tensor:
        config, experience = self.config, self._experience
        assert experience is not None
        passed = (step - config.warmup_steps) / config.entropy_steps if config.entropy_steps else 0.0
        entropy_weight = torch.full(
            (), config.entropy_weight * max(0.0, 1.0 - passed), device=self._greedy.device
        )
        loss, told = self._policy_loss(self.policy, experience, config.clip_ratio, entropy_weight)
        self._observed = torch.cat((told, told.new_ones(1))) * experience.n_examples
        return loss / (experience.n_examples if totals is None else totals.examples)

    def observed(self) -> Tensor:
        return self._observed

    def observe(self, sums: Tensor) -> None:
        if len(sums) == 3:  # of a step of the policy
            entropy, change, n_examples = sums
            self._figures |= {"entropy": entropy / n_examples, "ratio_change": change / n_examples}
            return
        greedy, drawn, square, n_drawn, n_examples = sums
        self.moments = self.moments.updated(drawn / n_drawn, square / n_drawn, self.config.baseline_decay)
        self._greedy = self._greedy + torch.stack((greedy, n_examples))
        self._figures |= {"greedy_reward": greedy / n_examples, "reward": drawn / n_drawn}

    def figures(self) -> dict[str, Tensor]:
        return {**self._figures, **({"longest": self._reached} if self.longest else {})}

    @property
    def longest(self) -> int:
        return int(self._reached)

    def end_epoch(self) -> None:
        """Let longer examples in, half as long again and a word at least, if greedy parses of these cost little."""
        reward, n_examples = self._greedy.tolist()
        self._greedy = torch.zeros_like(self._greedy)
        if -reward < self.config.length_loss * n_examples:
            self._reached = (self._reached * 3 + 1) // 2

    def tensors(self) -> dict[str, Tensor]:
        return {"reached": self._reached, "greedy": self._greedy, **self.moments._asdict()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        device = self._greedy.device
        self._reached, self._greedy = tensors["reached"].cpu(), tensors["greedy"].to(device)
        self.moments = Moments(*(tensors[name].to(device) for name in Moments._fields))


def _count(values: Tensor) -> Tensor:  # ()
    return torch.full((), float(values.numel()), device=values.device)
