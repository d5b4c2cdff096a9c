"""RMSprop with L2, a decaying learning rate and a clipped gradient.

    v <- α v + (1 - α) g²,    w <- w - lr g / (√v + ε),    g = clip(∂loss/∂w) + λ w
    lr = lr₀ · factor ^ ⌊step or epoch / decay_every⌋

λ is `weight_decay` and acts on matrices only: biases and batch norm's scales have no reason to be small,
and a decaying embedding would also change the words that a batch does not contain.

Compiled, clipping and RMSprop are one graph: a pass over weights and gradients where there were ten.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.rmsprop import rmsprop

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


class Update:
    """What a step does with its gradients: clips them and changes the weights. Nothing waits for the device."""

    def __init__(
        self,
        optimizer: torch.optim.RMSprop,
        clip_norm: float,  # largest global norm of the gradient; 0 = no clipping
        compiled: bool,
    ) -> None:
        self.optimizer, self.clip_norm = optimizer, clip_norm
        like: Tensor = optimizer.param_groups[0]["params"][0]
        self._rate = torch.zeros((), dtype=like.dtype, device=like.device)
        self._compiled = torch.compile(clip_and_step, fullgraph=True) if compiled else None

    def set_rate(self, rate: float) -> None:
        """The learning rate from now on: for a compiled update a tensor, so that another is no other graph."""
        set_learning_rate(self.optimizer, rate)
        self._rate.fill_(rate)

    def make_state(self) -> None:
        """The state of all parameters, so that from now on it only changes in place."""
        for parameter in self._parameters():
            self._state(parameter)

    def __call__(self) -> None:
        if self._compiled is None:
            clip_gradient(self._parameters(), self.clip_norm)
            self.optimizer.step()
            return
        with torch.no_grad():
            self._compiled(self._parts(), self._rate, self.clip_norm)

    def _parameters(self) -> Iterable[nn.Parameter]:
        return (parameter for group in self.optimizer.param_groups for parameter in group["params"])

    def _parts(self) -> list[Part]:
        """Each group's parameters that have a gradient, with their state, which is made where there is none."""
        parts = []
        for group in self.optimizer.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self._state(parameter) for parameter in parameters]
            parts.append(
                Part(
                    parameters,
                    [parameter.grad for parameter in parameters],
                    [state["square_avg"] for state in states],
                    [state["step"] for state in states],
                    group["weight_decay"],
                    group["alpha"],
                    group["eps"],
                )
            )
        return parts

    def _state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state = self.optimizer.state[parameter]
        if not state:
            state["step"], state["square_avg"] = torch.zeros(()), torch.zeros_like(parameter)
        state["step"] = state["step"].to(parameter.device)  # where a graph can count it
        return state


class Part(NamedTuple):
    """A group of parameters, as the optimiser's functional form takes it."""

    parameters: list[nn.Parameter]
    gradients: list[Tensor]
    square_averages: list[Tensor]
    steps: list[Tensor]  # () each
    weight_decay: float
    rms_decay: float
    rms_epsilon: float


def clip_and_step(
    parts: list[Part],
    rate: Tensor,  # ()
    clip_norm: float,
) -> None:
    """`clip_gradient` and the optimiser's step, as `torch.compile` takes them whole."""
    if clip_norm:
        gradients = [gradient for part in parts for gradient in part.gradients]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        parameters = [parameter for part in parts for parameter in part.parameters]
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm, foreach=True)
    for part in parts:
        rmsprop(
            part.parameters,  # type: ignore[arg-type]
            part.gradients,
            part.square_averages,
            [],
            [],
            part.steps,
            lr=rate,  # type: ignore[arg-type]
            alpha=part.rms_decay,
            eps=part.rms_epsilon,
            weight_decay=part.weight_decay,
            momentum=0.0,
            centered=False,
            foreach=True,
            capturable=True,  # the rate is a tensor
        )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip_gradient(parameters: Iterable[nn.Parameter], largest_norm: float) -> Tensor | None:
    """Scales the gradient to a global norm of at most `largest_norm` (0 = no clipping); no host sync."""
    if not largest_norm:
        return None
    return nn.utils.clip_grad_norm_(parameters, largest_norm, error_if_nonfinite=False)
