"""RMSprop with L2, a decaying learning rate and a clipped gradient.

    v <- α v + (1 - α) g²,    w <- w - lr g / (√v + ε),    g = clip(∂loss/∂w) + λ w
    lr = lr₀ · factor ^ ⌊step or epoch / decay_every⌋

λ is `weight_decay` and acts on matrices only: biases and batch norm's scales have no reason to be small,
and a decaying embedding would also change the words that a batch does not contain.

Compiled, clipping and RMSprop are one graph: a pass over weights and gradients where there were ten.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from spinn_tensor.training.config import TrainingConfig


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.RMSprop:
    """Return RMSprop over the parameters that are trained, in two groups: with L2 and without."""
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
    """Return the rate of the step with this number (both count from 0): a function, so it needs no state."""
    if not config.decay_every:
        return config.learning_rate
    position = epoch if config.decay_unit == "epoch" else step
    return config.learning_rate * config.decay_factor ** (position // config.decay_every)


# RMSprop's step without the wrappers for hooks and for gradients of gradients, in which torch.compile breaks a graph.
RMSPROP_STEP = inspect.unwrap(torch.optim.RMSprop.step)


class Update:
    """Clip the gradients of a step and change the weights by them. Nothing waits for the device."""

    def __init__(
        self,
        optimizer: torch.optim.RMSprop,
        clip_norm: float,  # largest global norm of the gradient; 0 = no clipping
        compiled: bool,
    ) -> None:
        self.optimizer, self.clip_norm = optimizer, clip_norm
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._compiled = torch.compile(self._clip_and_step, fullgraph=True) if compiled else None
        if compiled:  # the rate is a tensor, so that another one is no other graph
            like: Tensor = self._parameters[0]
            rate = torch.zeros((), dtype=like.dtype, device=like.device)
            for group in optimizer.param_groups:
                group.update(lr=rate, foreach=True, capturable=True)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the steps from now on."""
        for group in self.optimizer.param_groups:
            if self._compiled is None:
                group["lr"] = rate
            else:
                group["lr"].fill_(rate)

    def make_state(self) -> None:
        """Make the state of all parameters on their device, so that from now on it only changes in place."""
        for parameter in self._parameters:
            state = self.optimizer.state[parameter]
            if not state:
                state["step"], state["square_avg"] = torch.zeros(()), torch.zeros_like(parameter)
            state["step"] = state["step"].to(parameter.device)  # where a graph can count it

    def __call__(self) -> None:
        if self._compiled is None:
            clip_gradient(self._parameters, self.clip_norm)
            self.optimizer.step()
            return
        with torch.no_grad():
            self._compiled()

    def _clip_and_step(self) -> None:
        """Do as an eager update does, in a form that `torch.compile` takes whole."""
        clip_gradient(self._parameters, self.clip_norm)
        RMSPROP_STEP(self.optimizer)


def clip_gradient(parameters: Iterable[nn.Parameter], largest_norm: float) -> Tensor | None:
    """Scale the gradient to a global norm of at most `largest_norm` (0 = no clipping); no host sync."""
    if not largest_norm:
        return None
    return nn.utils.clip_grad_norm_(parameters, largest_norm, error_if_nonfinite=False)
