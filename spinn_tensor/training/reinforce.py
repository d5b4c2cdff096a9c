"""RL-SPINN: transitions sampled by the policy, rewarded by what the classifier makes of the tree (REINFORCE).

Of S samples s of each of E examples (a sentence, or a pair, whose two parses are one action), with r the reward and
log π the log-probability of all transitions that were a choice,

    L = -1/(S E) Σ [ r(s) + w_π A(s) log π(s) ] - w_H H,        r = log softmax(logits)[label],

whose second gradient, through the states, is that of the classification loss (Yogatama et al. 2017 reward so; Nangia &
Bowman 2018 is RL-SPINN, with one sample an example). H is the mean entropy of the choices. The advantage A treats
r as a constant:

    "none"             A = r
    "mean"             A = r - μ                        running mean μ of the rewards of the batches before
    "greedy"           A = r - r(greedy parse)          self-critical (Rennie et al. 2017); one more lane an example
    "leave-one-out"    A = r - mean of the other samples' r                                    (Kool et al. 2019)

divided, unless told not to, by the running standard deviation σ of the rewards of the batches before. None of these
depends on the sample's own choices, so that all are unbiased: the mean gradient is that of the expected reward (the
policy's part times w_π / σ). Batch norm over the samples is the one thing that couples them. With "greedy" the first
lane of each example is the greedy parse: r outside of A, and H, are then means over all 1 + S lanes, so that what is
used at test time is trained too, and it is the policy's part that is unbiased.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from spinn_tensor.batch import Batch
from spinn_tensor.bundles import OwnTables
from spinn_tensor.data_prep.columns import NO_LABEL
from spinn_tensor.machine import Parse, logistic_noise
from spinn_tensor.model.classifiers import Model
from spinn_tensor.training.config import ParsingConfig


class Moments(NamedTuple):
    """Hold the running mean and mean square of the rewards, corrected for having begun at nothing."""

    weight: Tensor  # () float
    first: Tensor  # () float, weight times the mean
    second: Tensor  # () float, weight times the mean square

    @classmethod
    def empty(cls, device: torch.device) -> Moments:
        return cls(*(torch.zeros((), device=device) for _ in range(3)))

    def mean(self) -> Tensor:
        return self.first / self.weight.clamp(min=1e-30)

    def deviation(self) -> Tensor:
        """Return the standard deviation; 1 before there is anything to deviate."""
        variance = self.second / self.weight.clamp(min=1e-30) - self.mean().square()
        return torch.where(self.weight > 0, variance.clamp(min=1e-6).sqrt(), 1.0)

    def updated(self, mean: Tensor, mean_square: Tensor, decay: float) -> Moments:
        """Return the moments with the rewards of one more step, () each."""
        new = torch.ones_like(self.weight), mean, mean_square
        return Moments(*(old.lerp(value.to(old), 1 - decay) for old, value in zip(self, new, strict=True)))


class Rollout(NamedTuple):
    """Hold what the samples of a batch came to."""

    rewards: Tensor  # (S, E), differentiable; 0 for examples without a label
    log_probabilities: Tensor  # (S, E) of all choices of the sample
    entropy: Tensor  # () mean over the choices


def bonus_weight(config: ParsingConfig, step: int) -> float:  # of those that the policy learns in
    """Return the weight of the bonus, which falls to zero over `entropy_steps` steps; 0 = it stays."""
    passed = step / config.entropy_steps if config.entropy_steps else 0.0
    return config.entropy_weight * max(0.0, 1.0 - passed)


def n_lanes_of(baseline: str, n_samples: int) -> int:
    """Return the number of lanes of each sentence: the samples, and the greedy parse where it is the baseline."""
    return n_samples + (baseline == "greedy")


def sampling_noise(
    batch: Batch,  # with own tables
    n_lanes: int,  # of each sentence
    baseline: str,
) -> Tensor:  # (M,)
    """Draw noise that samples every lane but, with baseline "greedy", the first one of each sentence."""
    tables = batch.sentences.tables
    assert isinstance(tables, OwnTables)
    noise = logistic_noise(torch.rand(tables.lane_index.shape, device=tables.lane_index.device))
    if baseline == "greedy":
        n_greedy = tables.root_entry_index.shape[0] // n_lanes  # lanes come sample after sample
        noise = noise.masked_fill(tables.lane_index < n_greedy, 0)
    return noise


def reinforce_loss(
    model: Model,
    batch: Batch,  # with own tables
    noise: Tensor,  # (M,)
    moments: Moments,
    baseline: str,
    normalise: bool,
    policy_weight: float,
    entropy_weight: Tensor,  # () float
    class_weights: Tensor | None = None,  # (C,) float, of the rewards; None = all 1
) -> tuple[Tensor, Tensor, Tensor]:  # () loss; (S, E) rewards of the samples and () entropy, detached
    """Return the loss whose gradient is described above."""
    rollout = roll_out(model, batch, noise, class_weights)
    rewards = rollout.rewards.detach()
    terms = advantages(rewards, moments, baseline, normalise) * sampled(rollout.log_probabilities, baseline)
    loss = -rollout.rewards.mean() - policy_weight * terms.mean() - entropy_weight * rollout.entropy
    return loss, sampled(rewards, baseline), rollout.entropy.detach()


def sampled(
    values: Tensor,  # (S, E), with baseline "greedy" (1 + S, E)
    baseline: str,
) -> Tensor:  # (S, E)
    """Return the rows of the samples."""
    return values[1:] if baseline == "greedy" else values


def advantages(
    rewards: Tensor,  # (S, E), with baseline "greedy" (1 + S, E)
    moments: Moments,
    baseline: str,
    normalise: bool,
) -> Tensor:  # (S, E)
    """Return how much better each sample is than was to be expected without knowing it."""
    if baseline == "none":
        better = rewards
    elif baseline == "mean":
        better = rewards - moments.mean()
    elif baseline == "greedy":
        better = rewards[1:] - rewards[0]
    else:
        n_samples = rewards.shape[0]
        better = (rewards - rewards.mean(0)) * (n_samples / (n_samples - 1))
    return better / moments.deviation() if normalise else better


def roll_out(
    model: Model,
    batch: Batch,
    noise: Tensor,  # (M,)
    class_weights: Tensor | None = None,  # (C,) float, of the rewards; None = all 1
) -> Rollout:
    """Parse, classify, and see what it was worth."""
    outcome = model.run(batch, noise)
    assert outcome.parse is not None
    assert outcome.logits is not None
    tables = batch.sentences.tables
    assert isinstance(tables, OwnTables)
    rewards = label_rewards(outcome.logits, batch.labels, class_weights)
    n_samples, n_examples = rewards.shape
    n_lanes = tables.root_entry_index.shape[0]
    log_probabilities = outcome.parse.log_probabilities()
    of_lane = log_probabilities.new_zeros(n_lanes).index_add(0, tables.lane_index, log_probabilities)
    of_sample = of_lane.view(n_samples, -1, n_examples).sum(1)
    return Rollout(rewards, of_sample, mean_entropy(outcome.parse))


def label_rewards(
    logits: Tensor,  # (S * E, C), sample after sample
    labels: Tensor,  # (E,) int64
    class_weights: Tensor | None = None,  # (C,) float, None = all 1
) -> Tensor:  # (S, E) float
    """Return the log-probabilities of the labels, by their weights; 0 where there is none."""
    repeated = labels.repeat(logits.shape[0] // labels.shape[0])
    losses = F.cross_entropy(logits, repeated, class_weights, ignore_index=NO_LABEL, reduction="none")
    return -losses.view(-1, labels.shape[0])


def mean_entropy(parse: Parse) -> Tensor:  # ()
    """Return the mean entropy, in nats, of the transitions that were a choice."""
    free = parse.free_mask
    log_probability = F.log_softmax(parse.logits.masked_fill(~free.unsqueeze(1), 0), 1)
    entropy = -(log_probability.exp() * log_probability).sum(1)
    return torch.where(free, entropy, 0).sum() / free.sum().clamp(min=1)
