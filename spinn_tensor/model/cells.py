"""The parameters that the stack machine computes with; the equations are in `spinn_tensor.machine.cell`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spinn_tensor.bundles import ComposeWeights, TrackerWeights, TransitionWeights

SOFTMAX_RANGE = 0.005  # of a softmax layer's uniform initialisation (Bowman et al. 2016, section 4)


class Compose(nn.Module):
    """Own the parameters of the composition, a binary TreeLSTM, which `ComposeWeights` bundles."""

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
                nn.init.normal_(weight, std=(2 / n_inputs) ** 0.5)  # He et al. 2015, over a gate's inputs

    def weights(self) -> ComposeWeights:
        """Return the bundle that `machine` computes with."""
        return ComposeWeights(self.weight, self.bias, self.tracker_weight)


class Tracker(nn.Module):
    """Own the parameters of the tracker, an LSTM cell over buffer and stack, which `TrackerWeights` bundles."""

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
        """Return the bundle that `machine` computes with."""
        return TrackerWeights(self.weight_input, self.weight_hidden, self.bias)


class TransitionHead(nn.Module):
    """Own the parameters of the choice of transitions (Bowman et al. 2016, section 3.3):

    p(SHIFT), p(REDUCE) = softmax(W_trans h_tracker + b_trans)
    """

    def __init__(
        self,
        tracker_dim: int,  # K
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2, tracker_dim).uniform_(-SOFTMAX_RANGE, SOFTMAX_RANGE))
        self.bias = nn.Parameter(torch.zeros(2))

    def weights(self) -> TransitionWeights:
        """Return the bundle that `machine` computes with."""
        return TransitionWeights(self.weight, self.bias)
