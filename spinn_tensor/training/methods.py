"""How a step is trained: which tables its batch has, what noise, and which loss.

Classify    encoders that do not parse for themselves: the classification loss
Supervise   SPINN: teacher forcing, or scheduled sampling, with the transition loss
Reinforce   RL-SPINN: sampled transitions, after an optional warm-up under supervision
Explore     a policy that shares nothing with what composes, in `explore`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

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
from spinn_tensor.training.reinforce import (
    Moments,
    bonus_weight,
    n_lanes_of,
    reinforce_loss,
    sampling_noise,
)

N_LOSSES = 2  # that a supervised step is observed by: of the task, and of the transitions
Given = tuple[Tensor, ...]  # what the loss of a step depends on beside its batch, () float each


class Layout(NamedTuple):
    """Say which tables the batch of a step has."""

    table_kind: TableKind
    n_samples: int = 1  # lanes of each sentence


class Method:
    """Say how to train one model; a subclass says what a batch is made of and what its loss is."""

    later = frozenset({"losses"})  # of `tensors`, those that the states of older runs have not
    phases: tuple[int, ...] = (0,)  # first steps, of those that are trained alike but for what is given
    kept: tuple[str, ...] = ()  # attributes that a resumed run needs: tensors, or bundles of them

    def __init__(
        self,
        model: Model,
        config: ParsingConfig,
        compiled: bool,
        class_weights: Tensor | None = None,  # (C,) float, in the loss; None = all 1
        label_smoothing: float = 0.0,
    ) -> None:
        self.model, self.config, self.class_weights = model, config, class_weights
        self.device = next(model.parameters()).device
        self.shapes: dict[Layout, list[Shape]] = {}  # that are planned
        self._is_compiled, self._smoothing = compiled, label_smoothing
        self._observed = torch.zeros(0, device=self.device)
        self._begin()

    def _begin(self) -> None:
        """Make what the losses need."""

    def _function(self, function: Callable[..., Any], **constants: float) -> Callable[..., Any]:
        """Return the function with some arguments given, compiled whole if that is asked for."""
        function = partial(function, **constants) if constants else function
        return torch.compile(function, fullgraph=True, dynamic=True) if self._is_compiled else function

    @property
    def may_pad(self) -> bool:
        """Tell whether every batch may be padded to few shapes."""
        return False

    def layout(self, step: int) -> Layout:
        """Say which tables the batch of a step has."""
        raise NotImplementedError

    def phase(self, step: int) -> int:
        """Return the first step of the phase that a step is in."""
        return max(first for first in self.phases if first <= step)

    def plan(
        self,
        corpus: Corpus,
        batch_size: int,
        seed: int,
        token_budget: int = 0,
        dealt_to: tuple[int, int] = (1, 1),  # ranks, and microbatches of each
    ) -> bool:
        """Make batches of few shapes from now on; False where the model's batches cannot have them."""
        if not self.may_pad:
            return False
        plan = partial(plan_for_corpus, token_budget=token_budget, dealt_to=dealt_to)
        for layout in map(self.layout, self.phases):
            kind, n_samples = layout
            self.shapes[layout] = plan(corpus, kind, batch_size, seed, n_samples=n_samples)
        return True

    def collate(self, columns: Corpus, step: int) -> Batch:
        """Make the batch of a step, on the CPU: in the first of the shapes that holds it; without one, as it is."""
        kind, n_samples = layout = self.layout(step)
        if layout in self.shapes:
            fixed = fixed_batch(columns, kind, self.shapes[layout], n_samples)
            if fixed is not None:
                return fixed
        # what is equal is computed once; said, since a thread may make the batch while the model is evaluated
        share = self.model.encoder.sharing(kind, training=True)
        return make_batch(columns, kind, n_samples=n_samples, share=share)

    def samples(
        self,
        corpus: Corpus,
        rows: np.ndarray,  # (n,) int64, of a batch
        step: int,
    ) -> Iterator[tuple[int, Batch]]:
        """Make batches to warm up with, and say of which step: one of every shape that is planned, or this one."""
        if not self.shapes:
            yield step, self.collate(select(corpus, rows), step)
            return
        shortest = select(corpus, corpus.lengths_key.argmin().reshape(1))
        for first in self.phases[self.phases.index(self.phase(step)) :]:
            kind, n_samples = layout = self.layout(first)
            # the largest first: what it leaves of the pool of memory is enough for every other one
            for shape in reversed(self.shapes[layout]):
                if (batch := fixed_batch(shortest, kind, [shape], n_samples)) is not None:
                    yield max(step, first), batch

    def given(self, step: int) -> Given:
        """Return what the loss of a step depends on beside its batch; the same in number throughout a phase."""
        return ()

    def loss(
        self, batch: Batch, step: int, totals: Totals | None = None, given: Given | None = None
    ) -> Tensor:  # ()
        """Return what a batch on the model's device adds to the loss of its step; draws what noise it needs.

        `totals` are those of the whole step; None = the step is this batch. Where something is `given`, the step may be
        any other of its phase.
        """
        raise NotImplementedError

    def further_updates(self, step: int) -> int:
        """Count the updates of the weights in a step after the one by `loss`."""
        return 0

    def further_loss(self, step: int, totals: Totals) -> Tensor:  # ()
        """Return the loss of a further update, on the batch that `loss` was of."""
        raise NotImplementedError

    def rate_factor(self, step: int) -> float:
        """Return what the learning rate of a step is multiplied by."""
        return 1.0

    @property
    def lengths(self) -> tuple[int, int]:
        """Say how many words an example's longest sentence has in this epoch, at least and at most; 0 = any number."""
        return 0, 0

    def end_epoch(self) -> None:
        """Take note that all examples of that length have been seen."""

    def observed(self) -> Tensor:  # (k,) float
        """Return what is to be added up over the microbatches and ranks of a step, of the last batch."""
        return self._observed

    def observe(self, sums: Tensor) -> None:
        """Take in the sums of what was observed in a step."""

    def figures(self) -> dict[str, Tensor]:
        """Return what the log is to say, each (): of the last step, or means since it was last asked."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Return what a resumed run needs beside weights and optimiser, by name."""
        found: dict[str, Tensor] = {}
        for name in self.kept:
            value = getattr(self, name)
            found |= {name: value} if isinstance(value, Tensor) else value._asdict()
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        for name in self.kept:
            old = getattr(self, name)
            if isinstance(old, Tensor):
                new = tensors[name].to(old.device)
            else:
                new = old._make(tensors[part].to(value.device) for part, value in old._asdict().items())
            setattr(self, name, new)


class Classify(Method):
    """Train by the classification loss on given trees, or on none."""

    def _begin(self) -> None:
        self._classify = self._function(training_loss, label_smoothing=self._smoothing)

    @property
    def may_pad(self) -> bool:
        return self.model.encoder.table_kind in FIXED_KINDS and not self.model.config.node_labels

    def layout(self, step: int) -> Layout:
        return Layout(self.model.encoder.table_kind)

    def loss(
        self, batch: Batch, step: int, totals: Totals | None = None, given: Given | None = None
    ) -> Tensor:
        return self._classify(self.model, batch, totals, self.class_weights)


class Supervise(Method):
    """Train by the transition loss beside the classification loss."""

    kept: tuple[str, ...] = ("losses",)

    def _begin(self) -> None:
        self._supervised = self._function(supervised_loss, label_smoothing=self._smoothing)
        # sums of both losses over the steps since the log was last written, and how many steps these were
        self.losses = torch.zeros(N_LOSSES + 1, device=self.device)

    def own_share(self, step: int) -> float:
        """Return the part of the transitions that are the model's own, which grows over the first steps."""
        return self.config.scheduled_sampling * min(1.0, step / max(self.config.scheduled_steps, 1))

    @property
    def may_pad(self) -> bool:
        return True

    def layout(self, step: int) -> Layout:
        return Layout("own" if self.config.scheduled_sampling else "lanes")

    def given(self, step: int) -> Given:
        if not self.config.scheduled_sampling:
            return ()
        return (torch.full((), self.own_share(step), device=self.device),)

    def loss(
        self, batch: Batch, step: int, totals: Totals | None = None, given: Given | None = None
    ) -> Tensor:
        noise = None
        if isinstance(batch.sentences.tables, OwnTables):
            (own_share,) = self.given(step) if given is None else given
            gold = batch.sentences.transitions
            own, drawn = torch.rand(2, *gold.shape, device=gold.device)
            is_own = own < own_share
            noise = torch.where(is_own, logistic_noise(drawn), forcing_noise(gold))
        weight, class_weights = self.config.transition_weight, self.class_weights
        loss, self._observed = self._supervised(self.model, batch, noise, weight, totals, class_weights)
        return loss

    def observe(self, sums: Tensor) -> None:
        self.losses = self.losses + torch.cat((sums, sums.new_ones(1)))

    def figures(self) -> dict[str, Tensor]:
        *losses, n_steps = self.losses
        if not n_steps:
            return {}
        self.losses = torch.zeros_like(self.losses)
        named = dict(zip(("task_loss", "transition_loss"), losses, strict=True))
        if not self.model.config.labels:
            del named["task_loss"]
        return {name: loss / n_steps for name, loss in named.items()}


class Reinforce(Supervise):
    """Train by the policy gradient, after `warmup_steps` under supervision."""

    kept = ("losses", "moments")

    def _begin(self) -> None:
        super()._begin()
        self.moments = Moments.empty(self.device)
        self._n_lanes = n_lanes_of(self.config.baseline, self.config.n_samples)
        self._reinforced = self._function(reinforce_loss)
        self._figures: dict[str, Tensor] = {}
        if self.config.warmup_steps:
            self.phases = (0, self.config.warmup_steps)

    def layout(self, step: int) -> Layout:
        return super().layout(step) if step < self.config.warmup_steps else Layout("own", self._n_lanes)

    def given(self, step: int) -> Given:
        if step < self.config.warmup_steps:
            return super().given(step)
        weight = bonus_weight(self.config, step - self.config.warmup_steps)
        return torch.full_like(self.moments.weight, weight), *self.moments

    def loss(
        self, batch: Batch, step: int, totals: Totals | None = None, given: Given | None = None
    ) -> Tensor:
        if step < self.config.warmup_steps:
            return super().loss(batch, step, totals, given)
        config, n_rows = self.config, batch.labels.shape[0]
        weight, *moments = self.given(step) if given is None else given
        n_examples = torch.full_like(weight, n_rows)
        if batch.row_mask is not None:
            n_examples = batch.row_mask.sum().to(n_examples)
            weight = weight * (n_examples / n_rows)  # the loss is a mean over all rows
        noise = sampling_noise(batch, self._n_lanes, config.baseline)
        chosen = config.baseline, config.normalise, config.policy_weight
        loss, rewards, entropy = self._reinforced(
            self.model, batch, noise, Moments(*moments), *chosen, weight, self.class_weights
        )
        # a batch's mean entropy weighs by its examples, in the loss as well
        sums = rewards.sum(), rewards.square().sum(), n_examples * rewards.shape[0], entropy * n_examples
        self._observed = torch.stack([value.to(n_examples.dtype) for value in (*sums, n_examples)])
        return loss if totals is None else loss * n_rows / totals.examples

    def observe(self, sums: Tensor) -> None:
        if len(sums) == N_LOSSES:  # of a supervised step
            super().observe(sums)
            return
        reward, square, n_rewards, entropy, n_examples = sums
        reward = reward / n_rewards
        self.moments = self.moments.updated(reward, square / n_rewards, self.config.baseline_decay)
        self._figures = {"reward": reward, "entropy": entropy / n_examples}

    def figures(self) -> dict[str, Tensor]:
        return {**super().figures(), **self._figures}


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
    kind: type[Method] = Supervise
    if not model.encoder.config.parses:
        kind = Classify
    elif config.learning == "reinforce":
        kind = Reinforce
    elif config.learning == "ppo":
        from spinn_tensor.training.explore import Explore as kind
    return kind(model, config, compiled, weights, label_smoothing)
