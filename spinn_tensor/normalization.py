"""Batch normalisation over the rows that are real.

Ioffe & Szegedy 2015, with mean and variance taken over tokens and not over padding. Every published SPINN normalises
the padding too, so that its statistics depend on how a batch was padded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOMENTUM = 0.1  # of the running statistics


class MaskedBatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over (n, D), told which rows count. Padding rows come out as zeros.

    A training batch of a single row has no variance: it is normalised by the running statistics and leaves them alone.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features, momentum=MOMENTUM)

    def forward(
        self,
        x: Tensor,  # (n, D)
        mask: Tensor | None = None,  # (n,) bool, True = real
    ) -> Tensor:  # (n, D)
        if mask is None:
            if self.training and x.shape[0] == 1:
                return self._normalise_by_running(x)
            return super().forward(x)
        rows = mask.unsqueeze(1)
        x = x.masked_fill(~rows, 0)
        if not self.training:
            return self._normalise_by_running(x).masked_fill(~rows, 0)
        n = mask.sum()
        wide = x.float() if x.dtype == torch.bfloat16 else x  # sums of many rows, as F.batch_norm takes them
        mean = wide.sum(0) / n
        variance = (wide - mean).masked_fill(~rows, 0).square().sum(0) / n
        several = n > 1
        mean = torch.where(several, mean, self.running_mean)
        variance = torch.where(several, variance, self.running_var)
        self._update_running(mean.detach(), variance.detach() * n / (n - 1).clamp(min=1), several)
        normalised = (wide - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias
        return normalised.to(x.dtype).masked_fill(~rows, 0)

    def _normalise_by_running(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def _update_running(self, mean: Tensor, variance: Tensor, several: Tensor) -> None:
        self.num_batches_tracked.add_(several)
        self.running_mean.lerp_(mean.to(self.running_mean), MOMENTUM)
        new_variance = torch.where(several, variance, self.running_var)
        self.running_var.lerp_(new_variance.to(self.running_var), MOMENTUM)
