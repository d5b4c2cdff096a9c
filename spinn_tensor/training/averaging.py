"""An exponential average of the weights: what a run that has one evaluates and saves as its model.

    a <- d a + (1 - d) w        after each step, and a = w before the first one

w are the trained parameters and, since they belong to these, batch norm's running statistics. The average is torch's
(`torch.optim.swa_utils`), over tensors that stay where they are, so that a compiled or captured step takes it along.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


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
