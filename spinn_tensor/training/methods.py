"""How a step is trained: which tables its batch has, what noise, and which loss.

Classify    encoders that do not parse for themselves: the classification loss
Supervise   SPINN: teacher forcing, or scheduled sampling, with the transition loss
Reinforce   RL-SPINN: sampled transitions, after an optional warm-up under supervision
Explore     a policy that shares nothing with what composes, in `explore`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spinn_tensor.batch import Batch, TableKind, make_batch
from spinn_tensor.bundles import OwnTables
from spinn_tensor.data_prep.columns import Corpus, select
from spinn_tensor.fixed_shapes import FIXED_KINDS, Shape, fixed_batch, plan_for_corpus
from spinn_tensor.machine import forcing_noise, logistic_noise
from spinn_tensor.model.classifiers import Model
from spinn_tensor.training.config import ParsingConfig
from spinn_tensor.training.objective import Totals, supervised_loss, training_loss
from spinn_tensor.training.reinforce import Moments, n_lanes_of, reinforce_loss, sampling_noise

N_LOSSES = 2  # that a supervised step is observed by: of the task, and of the transitions


class Method:
    """Say how to train one model; a subclass says what a batch is made of and what its loss is."""

    later = frozenset({"losses"})  # of `tensors`, those that the states of older runs have not

    def __init__(self, model: Model, class_weights: Tensor | None = None) -> None:
        self.model = model
        self.class_weights = class_weights  # (C,) float, in the loss; None = all 1
        self.shapes: list[Shape] = []  # that are planned

    @property
    def fixed_kind(self) -> TableKind | None:
        """Say of which kind the tables of every batch are, if they may be padded to few shapes."""
        return None

    def plan(
        self,
        corpus: Corpus,
        batch_size: int,
        seed: int,
        token_budget: int = 0,
        dealt_to: tuple[int, int] = (1, 1),  # ranks, and microbatches of each
    ) -> bool:
        """Make batches of few shapes from now on; False where the model's batches cannot have them."""
        if (kind := self.fixed_kind) is None:
            return False
        options: dict[str, Any] = {"token_budget": token_budget, "dealt_to": dealt_to}
        self.shapes = plan_for_corpus(corpus, kind, batch_size, seed, **options)
        return True

    def collate(self, columns: Corpus, step: int) -> Batch:
        """Make the batch of a step, on the CPU."""
        raise NotImplementedError

    def _laid(self, columns: Corpus, table_kind: TableKind) -> Batch:
        """Make a batch in the first of the shapes that holds it; without one, as it is."""
        fixed = fixed_batch(columns, table_kind, self.shapes) if self.shapes else None
        return fixed or self._ragged(columns, table_kind)

    def _ragged(self, columns: Corpus, table_kind: TableKind, n_samples: int = 1) -> Batch:
        """Make a batch that computes no padding, and what is equal in it once."""
        # said, since a thread may make the batch while the model is evaluated
        share = self.model.encoder.sharing(table_kind, training=True)
        return make_batch(columns, table_kind, n_samples=n_samples, share=share)

    def samples(
        self,
        corpus: Corpus,
        rows: np.ndarray,  # (n,) int64, of a batch
        step: int,
    ) -> list[Batch]:
        """Make batches to warm up with: one of every shape that is planned, or this one as the step has it."""
        if not self.shapes or self.fixed_kind is None:
            return [self.collate(select(corpus, rows), step)]
        shortest = select(corpus, corpus.lengths_key.argmin().reshape(1))
        # the largest first: what it leaves of the pool of memory is enough for every other one
        batches = (fixed_batch(shortest, self.fixed_kind, [shape]) for shape in reversed(self.shapes))
        return [batch for batch in batches if batch is not None]

    def loss(self, batch: Batch, step: int, totals: Totals | None = None) -> Tensor:  # ()
        """Return what a batch on the model's device adds to the loss of its step; draws what noise it needs.

        `totals` are those of the whole step; None = the step is this batch.
        """
        raise NotImplementedError

    def further_updates(self, step: int) -> int:
        """Count the updates of the weights in a step after the one by `loss`."""
        return 0

    def further_loss(self, step: int, totals: Totals | None = None) -> Tensor:  # ()
        """Return the loss of a further update, on the batch that `loss` was of."""
        raise NotImplementedError

    @property
    def longest(self) -> int:
        """Say how many words an example's longest sentence has at most in this epoch; 0 = any number."""
        return 0

    def end_epoch(self) -> None:
        """Take note that all examples of that length have been seen."""

    def observed(self) -> Tensor:  # (k,) float
        """Return what is to be added up over the microbatches and ranks of a step, of the last batch."""
        return torch.zeros(0, device=next(self.model.parameters()).device)

    def observe(self, sums: Tensor) -> None:
        """Take in the sums of what was observed in a step."""

    def figures(self) -> dict[str, Tensor]:
        """Return what the log is to say, each (): of the last step, or means since it was last asked."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Return what a resumed run needs beside weights and optimiser, by name."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""


class Classify(Method):
    """Train by the classification loss on given trees, or on none."""

    def __init__(
        self,
        model: Model,
        compiled: bool,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(model, class_weights)
        self._classify = compiled_function(training_loss, compiled, label_smoothing=label_smoothing)

    @property
    def fixed_kind(self) -> TableKind | None:
        kind = self.model.encoder.table_kind
        return kind if kind in FIXED_KINDS and not self.model.config.node_labels else None

    def collate(self, columns: Corpus, step: int) -> Batch:
        return self._laid(columns, self.model.encoder.table_kind)

    def loss(self, batch: Batch, step: int, totals: Totals | None = None) -> Tensor:
        return self._classify(self.model, batch, totals, self.class_weights)


class Supervise(Method):
    """Train by the transition loss beside the classification loss."""

    def __init__(
        self,
        model: Model,
        config: ParsingConfig,
        compiled: bool,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(model, class_weights)
        self.config = config
        self._supervised = compiled_function(supervised_loss, compiled, label_smoothing=label_smoothing)
        device = next(model.parameters()).device
        self._observed = torch.zeros(N_LOSSES, device=device)
        # sums of both losses over the steps since the log was last written, and how many steps these were
        self._losses = torch.zeros(N_LOSSES + 1, device=device)

    def own_share(self, step: int) -> float:
        """Return the part of the transitions that are the model's own, which grows over the first steps."""
        return self.config.scheduled_sampling * min(1.0, step / max(self.config.scheduled_steps, 1))

    @property
    def fixed_kind(self) -> TableKind | None:
        return None if self.config.scheduled_sampling else "lanes"

    def collate(self, columns: Corpus, step: int) -> Batch:
        return self._ragged(columns, "own") if self.own_share(step) else self._laid(columns, "lanes")

    def loss(self, batch: Batch, step: int, totals: Totals | None = None) -> Tensor:
        noise = None
        if isinstance(batch.sentences.tables, OwnTables):
            gold = batch.sentences.transitions
            own, drawn = torch.rand(2, *gold.shape, device=gold.device)
            is_own = own < self.own_share(step)
            noise = torch.where(is_own, logistic_noise(drawn), forcing_noise(gold))
        weight, class_weights = self.config.transition_weight, self.class_weights
        loss, self._observed = self._supervised(self.model, batch, noise, weight, totals, class_weights)
        return loss

    def observed(self) -> Tensor:
        return self._observed

    def observe(self, sums: Tensor) -> None:
        self._losses = self._losses + torch.cat((sums, sums.new_ones(1)))

    def figures(self) -> dict[str, Tensor]:
        *losses, n_steps = self._losses
        if not n_steps:
            return {}
        self._losses = torch.zeros_like(self._losses)
        named = dict(zip(("task_loss", "transition_loss"), losses, strict=True))
        if not self.model.config.labels:
            del named["task_loss"]
        return {name: loss / n_steps for name, loss in named.items()}

    def tensors(self) -> dict[str, Tensor]:
        return {"losses": self._losses}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self._losses = tensors["losses"].to(self._losses.device)


class Reinforce(Supervise):
    """Train by the policy gradient, after `warmup_steps` under supervision."""

    def __init__(
        self, model: Model, config: ParsingConfig, compiled: bool, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(model, config, compiled, class_weights)
        device = next(model.parameters()).device
        self.moments = Moments.empty(device)
        self._n_lanes = n_lanes_of(config.baseline, config.n_samples)
        self._reinforced = compiled_function(reinforce_loss, compiled)
        self._figures: dict[str, Tensor] = {}

    @property
    def fixed_kind(self) -> TableKind | None:
        return None

    def entropy_weight(self, step: int) -> float:
        """Return the weight, which falls to zero over `entropy_steps` steps after the warm-up; 0 = it stays."""
        config = self.config
        passed = (step - config.warmup_steps) / config.entropy_steps if config.entropy_steps else 0.0
        return config.entropy_weight * max(0.0, 1.0 - passed)

    def collate(self, columns: Corpus, step: int) -> Batch:
        if step < self.config.warmup_steps:
            return super().collate(columns, step)
        return self._ragged(columns, "own", self._n_lanes)

    def loss(self, batch: Batch, step: int, totals: Totals | None = None) -> Tensor:
        if step < self.config.warmup_steps:
            return super().loss(batch, step, totals)
        config = self.config
        noise = sampling_noise(batch, self._n_lanes, config.baseline)
        entropy_weight = torch.full((), self.entropy_weight(step), device=noise.device)
        chosen = config.baseline, config.normalise, config.policy_weight
        loss, rewards, entropy = self._reinforced(
            self.model, batch, noise, self.moments, *chosen, entropy_weight, self.class_weights
        )
        n_examples = batch.labels.shape[0]
        entropy_sum = entropy * n_examples  # a batch's mean weighs by its examples, in the loss as well
        n_rewards = torch.full_like(entropy_sum, rewards.numel())
        sums = rewards.sum(), rewards.square().sum(), n_rewards, entropy_sum, n_rewards / rewards.shape[0]
        self._observed = torch.stack([value.to(self.moments.first.dtype) for value in sums])
        return loss if totals is None else loss * n_examples / totals.examples

    def observe(self, sums: Tensor) -> None:
        if len(sums) == N_LOSSES:  # of a supervised step
            return super().observe(sums)
        reward, square, n_rewards, entropy, n_examples = sums
        self.moments = self.moments.updated(
            reward / n_rewards, square / n_rewards, self.config.baseline_decay
        )
        self._figures = {"reward": reward / n_rewards, "entropy": entropy / n_examples}
        return None

    def figures(self) -> dict[str, Tensor]:
        return {**super().figures(), **self._figures}

    def tensors(self) -> dict[str, Tensor]:
        return {**super().tensors(), **self.moments._asdict()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        super().restore(tensors)
        self.moments = Moments(*(tensors[name].to(self.moments.weight.device) for name in Moments._fields))


def make_method(
    model: Model,
    config: ParsingConfig,
    compiled: bool = False,
    class_weights: np.ndarray | None = None,  # (C,) float64, see `weighting`
    label_smoothing: float = 0.0,
) -> Method:
    """Return how to train this model."""
    weights = None
    if class_weights is not None:
        weights = torch.from_numpy(class_weights).to(next(model.parameters()))
    if not model.encoder.config.parses:
        return Classify(model, compiled, weights, label_smoothing)
    if config.learning == "reinforce":
        return Reinforce(model, config, compiled, weights)
    if config.learning == "ppo":
        from spinn_tensor.training.explore import Explore

        return Explore(model, config, compiled, weights)
    return Supervise(model, config, compiled, weights, label_smoothing)


def compiled_function(function: Callable[..., Any], compiled: bool, **constants: float) -> Callable[..., Any]:
    """Return the function with some arguments given, compiled whole if that is asked for."""
    function = partial(function, **constants) if constants else function
    return torch.compile(function, fullgraph=True, dynamic=True) if compiled else function
