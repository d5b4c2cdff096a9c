"""The optimiser, its learning rate and a clipped gradient: torch's own classes, in groups and under `torch.compile`.

    w <- w - rate · update(g),    g = clip(∂loss/∂w) + λ w              (AdamW: λ w is no part of g, but of the update)

    rate = learning_rate · min(1, (s + 1) / W) · factor                 in step s of S, with a warm-up of W steps
        step        factor = decay_factor ^ ⌊s or epoch / decay_every⌋
        constant    factor = 1
        linear      factor = 1 - t,                                     t = (s - W) / (S - W), at least 0
        cosine      factor = (1 + cos πt) / 2

λ is `weight_decay` and acts on matrices only: biases and batch norm's scales have no reason to be small,
and a decaying embedding would also change the words that a batch does not contain.

Compiled, clipping and optimiser are one graph: a pass over weights and gradients where there were ten.

A run may have an exponential average of the weights, which it evaluates and saves as its model:

    a <- d a + (1 - d) w        after each step, and a = w before the first one

w are the trained parameters and, since they belong to these, batch norm's running statistics. The average is torch's
(`torch.optim.swa_utils`), over tensors that stay where they are, so that a compiled or captured step takes it along.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from spinn_tensor.training.config import TrainingConfig

# What torch's optimisers keep for each parameter, of its shape, beside "step".
MOMENTS: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.RMSprop: ("square_avg",),
    torch.optim.Adadelta: ("square_avg", "acc_delta"),
    torch.optim.Adam: ("exp_avg", "exp_avg_sq"),
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
    torch.optim.Adagrad: ("sum",),
}


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimiser over the parameters that are trained, in groups: with L2, without, and of other rates."""
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    policy = getattr(getattr(model, "encoder", None), "policy", None)
    of_policy = set() if policy is None else {id(parameter) for parameter in policy.parameters()}
    members: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            is_embedding = id(parameter) in embeddings
            factor = config.embedding_rate if is_embedding else 1.0
            factor *= config.policy_rate if id(parameter) in of_policy else 1.0
            decays = parameter.dim() >= 2 and not is_embedding
            members.setdefault((factor, decays), []).append(parameter)
    groups = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decays else 0.0,
            "lr": config.learning_rate * factor,
            "rate_factor": factor,
        }
        for (factor, decays), parameters in members.items()
        if parameters
    ]
    adam = {"betas": (config.adam_beta1, config.adam_beta2), "eps": config.adam_epsilon}
    options: dict[str, dict[str, Any]] = {
        "rmsprop": {"alpha": config.rms_decay, "eps": config.rms_epsilon},
        "adadelta": {"rho": config.rms_decay, "eps": config.rms_epsilon},
        "adam": adam,
        "adamw": adam,
        "adagrad": {"eps": config.adagrad_epsilon},
    }
    kinds = {kind.__name__.lower(): kind for kind in MOMENTS}
    return kinds[config.optimizer](groups, **options[config.optimizer])


def learning_rate(
    config: TrainingConfig,
    step: int,  # s, from 0
    epoch: int,  # from 0
    n_steps: int = 0,  # S, of the whole run, where `rate_needs_length`
) -> float:
    """Return the rate of the step with this number: a function, so it needs no state."""
    warmup = config.lr_warmup if config.lr_warmup >= 1 else round(config.lr_warmup * n_steps)
    done = max(0.0, step - warmup) / max(1.0, n_steps - warmup)  # t
    factor = 1.0
    if config.lr_schedule == "step" and config.decay_every:
        position = epoch if config.decay_unit == "epoch" else step
        factor = config.decay_factor ** (position // config.decay_every)
    elif config.lr_schedule == "linear":
        factor = 1 - done
    elif config.lr_schedule == "cosine":
        factor = (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate * factor * min(1.0, (step + 1) / max(warmup, 1))


class Average:
    """Keep the average beside the weights of a model; with decay 0 there is none, and all of this does nothing."""

    def __init__(
        self,
        model: nn.Module,
        decay: float = 0.0,  # d
    ) -> None:
        trained = ((name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad)
        statistics = ((name, tensor) for name, tensor in model.named_buffers() if tensor.is_floating_point())
        self.weights: dict[str, Tensor] = dict((*trained, *statistics) if decay else ())
        self.averages = [tensor.detach().clone() for tensor in self.weights.values()]
        self._update = get_ema_multi_avg_fn(decay)

    def update(self) -> None:
        """Take in the weights as they are now."""
        if self.averages:
            self._update(self.averages, list(self.weights.values()), 0)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the model hold the averages meanwhile."""
        kept = self.copies()
        self._fill(dict(zip(self.weights, self.averages, strict=True)))
        try:
            yield
        finally:
            self._fill(kept)

    def copies(self) -> dict[str, Tensor]:
        """Copy the weights that are averaged, by name."""
        return {name: tensor.detach().clone() for name, tensor in self.weights.items()}

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Take what the model holds as the averages, and give it these weights."""
        for average, tensor in zip(self.averages, self.weights.values(), strict=True):
            average.copy_(tensor.detach())
        self._fill(weights)

    def _fill(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self.weights.items():
                tensor.copy_(values[name])


class Update:
    """Clip the gradients of a step, change the weights by them, and average these. Nothing waits for the device."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        config: TrainingConfig,
        average: Average,
    ) -> None:
        self.optimizer, self.config, self.average = optimizer, config, average
        self._step, self._run = type(optimizer).step, self._clip_and_step
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if config.compile:  # the rate is a tensor, so that another one is no other graph
            # without the wrappers for hooks and for gradients of gradients, in which torch.compile breaks a graph
            self._step = inspect.unwrap(self._step)
            self._run = torch.compile(self._clip_and_step, fullgraph=True)
            like: Tensor = self._parameters[0]
            for group in optimizer.param_groups:
                rate = torch.zeros((), dtype=like.dtype, device=like.device)
                group.update(lr=rate, foreach=True, capturable=True)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the steps from now on."""
        for group in self.optimizer.param_groups:
            own = rate * group["rate_factor"]
            if self.config.compile:
                group["lr"].fill_(own)
            else:
                group["lr"] = own

    def make_state(self) -> None:
        """Make the state of all parameters on their device, so that from now on it only changes in place."""
        for parameter in self._parameters:
            state = self.optimizer.state[parameter]
            if not state:
                state["step"] = parameter.new_zeros(())
                state |= {name: torch.zeros_like(parameter) for name in MOMENTS[type(self.optimizer)]}
            state["step"] = state["step"].to(parameter.device)  # where a graph can count it

    def __call__(self) -> None:
        with torch.no_grad():
            self._run()

    def _clip_and_step(self) -> None:
        clip_gradient(self._parameters, self.config.clip_norm, self.config.clip_kind)
        self._step(self.optimizer)
        self.average.update()


def clip_gradient(parameters: Iterable[nn.Parameter], largest_norm: float, kind: str = "l2") -> Tensor | None:
    """Scale the gradient to a global norm of at most `largest_norm` (0 = no clipping); no host sync."""
    if not largest_norm:
        return None
    norm_type = {"l2": 2.0, "inf": math.inf}[kind]
    return nn.utils.clip_grad_norm_(parameters, largest_norm, norm_type, error_if_nonfinite=False)
