"""How a step is trained: which tables its batch has, what noise, and which loss.

Classify    encoders that do not parse for themselves: the classification loss
Supervise   SPINN: teacher forcing, or scheduled sampling, with the transition loss
Reinforce   RL-SPINN: sampled transitions, after an optional warm-up under supervision
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from data_prep.columns import LabelledColumns, PairColumns
from spinn_tensor.batch import LabelledBatch, PairBatch, collate
from spinn_tensor.bundles import OwnTables
from spinn_tensor.classifiers import Model
from spinn_tensor.machine import forcing_noise, logistic_noise
from spinn_tensor.training.config import ParsingConfig
from spinn_tensor.training.objective import supervised_loss, training_loss
from spinn_tensor.training.reinforce import Moments, n_lanes_of, reinforce_loss, sampling_noise

Columns = PairColumns | LabelledColumns
Batch = PairBatch | LabelledBatch


class Method:
    """How to train one model; a subclass says what a batch is made of and what its loss is."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def collate(self, columns: Columns, step: int) -> Batch:
        """The batch of a step, on the CPU."""
        raise NotImplementedError

    def loss(self, batch: Batch, step: int) -> Tensor:  # ()
        """The loss of a step, whose batch is on the model's device; draws what noise it needs."""
        raise NotImplementedError

    def figures(self) -> dict[str, Tensor]:
        """What the log is to say of the last step, each ()."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs beside weights and optimiser, by name."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `tensors` gave."""


class Classify(Method):
    """The classification loss on given trees, or on none."""

    def __init__(self, model: Model, compiled: bool) -> None:
        super().__init__(model)
        self._classify = _compiled(training_loss, compiled)

    def collate(self, columns: Columns, step: int) -> Batch:
        return collate(columns, self.model.encoder.table_kind)

    def loss(self, batch: Batch, step: int) -> Tensor:
        return self._classify(self.model, batch)


class Supervise(Method):
    """The transition loss beside the classification loss."""

    def __init__(self, model: Model, config: ParsingConfig, compiled: bool) -> None:
        super().__init__(model)
        self.config = config
        self._supervised = _compiled(supervised_loss, compiled)

    def own_share(self, step: int) -> float:
        """Part of the transitions that are the model's own under scheduled sampling, growing over the first steps."""
        return self.config.scheduled_sampling * min(1.0, step / max(self.config.scheduled_steps, 1))

    def collate(self, columns: Columns, step: int) -> Batch:
        return collate(columns, "own" if self.own_share(step) else "lanes")

    def loss(self, batch: Batch, step: int) -> Tensor:
        noise = None
        if isinstance(batch.sentences.tables, OwnTables):
            gold = batch.sentences.transitions
            own, drawn = torch.rand(2, *gold.shape, device=gold.device)
            is_own = own < self.own_share(step)
            noise = torch.where(is_own, logistic_noise(drawn), forcing_noise(gold))
        return self._supervised(self.model, batch, noise, self.config.transition_weight)


class Reinforce(Supervise):
    """The policy gradient, after `warmup_steps` under supervision."""

    def __init__(self, model: Model, config: ParsingConfig, compiled: bool) -> None:
        super().__init__(model, config, compiled)
        device = next(model.parameters()).device
        self.moments = Moments.empty(device)
        self._n_lanes = n_lanes_of(config.baseline, config.n_samples)
        self._reinforced = _compiled(reinforce_loss, compiled)
        self._figures: dict[str, Tensor] = {}

    def entropy_weight(self, step: int) -> float:
        """Falls to zero in a straight line over `entropy_steps` steps after the warm-up; 0 = it stays."""
        config = self.config
        passed = (step - config.warmup_steps) / config.entropy_steps if config.entropy_steps else 0.0
        return config.entropy_weight * max(0.0, 1.0 - passed)

    def collate(self, columns: Columns, step: int) -> Batch:
        if step < self.config.warmup_steps:
            return super().collate(columns, step)
        return collate(columns, "own", n_samples=self._n_lanes)

    def loss(self, batch: Batch, step: int) -> Tensor:
        if step < self.config.warmup_steps:
            return super().loss(batch, step)
        config = self.config
        noise = sampling_noise(batch, self._n_lanes, config.baseline)
        entropy_weight = torch.full((), self.entropy_weight(step), device=noise.device)
        chosen = config.baseline, config.normalise, config.policy_weight
        loss, rewards, entropy = self._reinforced(
            self.model, batch, noise, self.moments, *chosen, entropy_weight
        )
        self.moments = self.moments.updated(rewards, config.baseline_decay)
        self._figures = {"reward": rewards.mean(), "entropy": entropy}
        return loss

    def figures(self) -> dict[str, Tensor]:
        return self._figures

    def tensors(self) -> dict[str, Tensor]:
        return self.moments._asdict()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.moments = Moments(*(tensors[name].to(self.moments.weight.device) for name in Moments._fields))


def make_method(model: Model, config: ParsingConfig, compiled: bool = False) -> Method:
    """How to train this model."""
    if not model.encoder.config.parses:
        return Classify(model, compiled)
    kind = Reinforce if config.learning == "reinforce" else Supervise
    return kind(model, config, compiled)


def _compiled(function: Callable[..., Any], compiled: bool) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, dynamic=True) if compiled else function
