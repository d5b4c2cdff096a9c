"""The parameters of the composition, a binary TreeLSTM (equations in `spinn_tensor.machine.steps`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spinn_tensor.bundles import ComposeWeights


class Compose(nn.Module):
    """Owns what `ComposeWeights` bundles."""

    tracker_weight: Tensor | None

    def __init__(
        self,
        hidden_dim: int,  # H
        tracker_dim: int | None,  # K, None without tracker
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(5 * hidden_dim, 2 * hidden_dim))
        self.bias = nn.Parameter(torch.zeros(5 * hidden_dim))
        if tracker_dim is None:
            self.register_parameter("tracker_weight", None)
        else:
            self.tracker_weight = nn.Parameter(torch.empty(5 * hidden_dim, tracker_dim))
        n_inputs = 2 * hidden_dim + (tracker_dim or 0)
        for weight in (self.weight, self.tracker_weight):
            if weight is not None:
                nn.init.normal_(
                    weight, std=(2 / n_inputs) ** 0.5
                )  # He et al. 2015, over all inputs of a gate

    def weights(self) -> ComposeWeights:
        return ComposeWeights(self.weight, self.bias, self.tracker_weight)
