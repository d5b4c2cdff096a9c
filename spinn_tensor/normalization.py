"""Batch normalisation over what is real: over tokens and not over padding. Every published SPINN normalises
the padding too, so that its statistics depend on how a batch was padded.

Of the n real rows x of a batch, or, once synchronised, of the batches of all ranks together,

    mean = Σ x / n,    variance = Σ (x - mean)² / n,    y = (x - mean) / √(variance + ε) · weight + bias

The two sums over ranks are differentiable: the gradient of a sum goes to the rows of every rank. It is right where the
loss is the sum of the ranks' losses, as in `training.step`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional as F


class MaskedBatchNorm(nn.BatchNorm1d):
    """Normalise (n, D) as `nn.BatchNorm1d`, told which rows count. Padding rows come out as zeros.

    A training batch of a single row has no variance: it is normalised by the running statistics and leaves them alone.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.synchronised = False  # over all ranks of the process group
        self.counts = True  # whether this rank's rows do

    def forward(
        self,
        x: Tensor,  # (n, D)
        mask: Tensor | None = None,  # (n,) bool, True = real
        row_counts: Tensor | None = None,  # (n,) int64, the tokens that each row stands for; None = one
    ) -> Tensor:  # (n, D)
        if mask is None and not (self.training and (self.synchronised or row_counts is not None)):
            if self.training and x.shape[0] == 1:
                return self._normalise_by_running(x)
            return super().forward(x)
        rows = None if mask is None else mask.unsqueeze(1)
        x = _without_padding(x, rows)
        if not self.training:
            return _without_padding(self._normalise_by_running(x), rows)
        # sums of many rows, as F.batch_norm takes them; float16 does not count beyond 65,504
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        mean, variance, n = self._statistics(wide, rows, row_counts)
        several = n > 1
        mean = torch.where(several, mean, self.running_mean)
        variance = torch.where(several, variance, self.running_var)
        self._update_running(mean.detach(), variance.detach() * n / (n - 1).clamp(min=1), several)
        normalised = (wide - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias
        return _without_padding(normalised.to(x.dtype), rows)

    def _statistics(
        self,
        x: Tensor,  # (n, D), zeros in padding
        rows: Tensor | None,  # (n, 1) bool
        row_counts: Tensor | None,  # (n,) int64
    ) -> tuple[Tensor, Tensor, Tensor]:  # (D,), (D,), ()
        """Return mean, variance and number of the real rows, each as often as it counts."""
        weights = None if row_counts is None else row_counts.to(x.dtype)
        if weights is not None:
            n = weights.sum()
        else:
            n = x.new_full((), x.shape[0]) if rows is None else rows.sum().to(x.dtype)
        if not self.synchronised:
            mean = _weighted_sum(x, weights) / n
            return mean, _weighted_sum(_without_padding(x - mean, rows).square(), weights) / n, n
        sums = torch.cat((_weighted_sum(x, weights), n.unsqueeze(0))) * self.counts
        sums = sum_over_ranks(sums)
        n = sums[-1].detach()
        mean = sums[:-1] / n
        squares = _weighted_sum(_without_padding(x - mean, rows).square(), weights) * self.counts
        return mean, sum_over_ranks(squares) / n, n

    def _normalise_by_running(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def _update_running(self, mean: Tensor, variance: Tensor, several: Tensor) -> None:
        self.num_batches_tracked.add_(several)
        momentum: float | Tensor | None = self.momentum
        if momentum is None:  # the mean of all batches, as torch.optim.swa_utils.update_bn takes it
            momentum = self.num_batches_tracked.clamp(min=1).to(self.running_mean).reciprocal()
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        new_variance = torch.where(several, variance, self.running_var)
        self.running_var.lerp_(new_variance.to(self.running_var), momentum)


def synchronise(model: nn.Module) -> None:
    """Make the model's batch norms normalise over all ranks, which must run it the same number of times."""
    for norm in _norms(model):
        norm.synchronised = True


@contextmanager
def uncounted(model: nn.Module) -> Iterator[None]:
    """Keep what this rank computes meanwhile out of the statistics of the others."""
    for norm in _norms(model):
        norm.counts = False
    try:
        yield
    finally:
        for norm in _norms(model):
            norm.counts = True


_sum_in_place: Callable[[Tensor], object] | None = None  # None = the process group does


@contextmanager
def summing_by(sum_in_place: Callable[[Tensor], object]) -> Iterator[None]:
    """Let something else than the process group add up the ranks' tensors, inside."""
    global _sum_in_place
    _sum_in_place = sum_in_place
    try:
        yield
    finally:
        _sum_in_place = None


@torch.library.custom_op("spinn_tensor::sum_over_ranks", mutates_args=())
def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum the tensors of all ranks elementwise; so is the gradient summed."""
    total = x.clone()
    (_sum_in_place or torch.distributed.all_reduce)(total)
    return total


@sum_over_ranks.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _sum_over_ranks_backward(ctx: object, gradient: Tensor) -> Tensor:
    return sum_over_ranks(gradient)


sum_over_ranks.register_autograd(_sum_over_ranks_backward)


def _norms(model: nn.Module) -> list[MaskedBatchNorm]:
    return [module for module in model.modules() if isinstance(module, MaskedBatchNorm)]


def _weighted_sum(x: Tensor, weights: Tensor | None) -> Tensor:  # (D,) from (n, D) and (n,)
    if weights is None:
        return x.sum(0)
    with torch.autocast(x.device.type, enabled=False):  # which would round what it sums
        return weights @ x


def _without_padding(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x.masked_fill(~rows, 0)
