"""RMSprop with L2, a decaying learning rate and a clipped gradient.

    v <- α v + (1 - α) g²,    w <- w - lr g / (√v + ε),    g = clip(∂loss/∂w) + λ w
    lr = lr₀ · factor ^ ⌊step or epoch / decay_every⌋

λ is `weight_decay` and acts on matrices only: biases and batch norm's scales have no reason to be small,
and a decaying embedding would also change the words that a batch does not contain.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from spinn_tensor.training.config import TrainingConfig


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.RMSprop:
    """RMSprop over the parameters that are trained, in two groups: with L2 and without."""
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            has_decay = parameter.dim() >= 2 and id(parameter) not in embeddings
            (decayed if has_decay else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.RMSprop(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        alpha=config.rms_decay,
        eps=config.rms_epsilon,
    )


def learning_rate(config: TrainingConfig, step: int, epoch: int) -> float:
    """The rate of the step with this number (both count from 0): a function, so it needs no state."""
    if not config.decay_every:
        return config.learning_rate
    position = epoch if config.decay_unit == "epoch" else step
    return config.learning_rate * config.decay_factor ** (position // config.decay_every)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip_gradient(parameters: Iterable[nn.Parameter], largest_norm: float) -> Tensor | None:
    """Scales the gradient to a global norm of at most `largest_norm` (0 = no clipping); no host sync."""
    if not largest_norm:
        return None
    return nn.utils.clip_grad_norm_(parameters, largest_norm, error_if_nonfinite=False)
