"""The parameters of the tracker, an LSTM cell over buffer and stack (equations in `spinn_tensor.machine.steps`), and of
the choice of transitions (Bowman et al. 2016, section 3.3):

    p(SHIFT), p(REDUCE) = softmax(W_trans h_tracker + b_trans)
"""

from __future__ import annotations

import torch
from torch import nn

from spinn_tensor.bundles import TrackerWeights, TransitionWeights

SOFTMAX_RANGE = 0.005  # of a softmax layer's uniform initialisation (Bowman et al. 2016, section 4)


class Tracker(nn.Module):
    """Owns what `TrackerWeights` bundles."""

    def __init__(
        self,
        hidden_dim: int,  # H
        tracker_dim: int,  # K
    ) -> None:
        super().__init__()
        self.weight_input = nn.Parameter(torch.empty(4 * tracker_dim, 3 * hidden_dim))
        self.weight_hidden = nn.Parameter(torch.empty(4 * tracker_dim, tracker_dim))
        self.bias = nn.Parameter(torch.zeros(4 * tracker_dim))
        for weight in (self.weight_input, self.weight_hidden):
            nn.init.normal_(weight, std=(2 / (3 * hidden_dim + tracker_dim)) ** 0.5)  # He et al. 2015

    def weights(self) -> TrackerWeights:
        return TrackerWeights(self.weight_input, self.weight_hidden, self.bias)


class TransitionHead(nn.Module):
    """Owns what `TransitionWeights` bundles."""

    def __init__(
        self,
        tracker_dim: int,  # K
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2, tracker_dim).uniform_(-SOFTMAX_RANGE, SOFTMAX_RANGE))
        self.bias = nn.Parameter(torch.zeros(2))

    def weights(self) -> TransitionWeights:
        return TransitionWeights(self.weight, self.bias)
