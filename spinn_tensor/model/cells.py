"""The cells that compose two states into one, the tracker, and the choice of transitions.

A cell is a module that is called as `cell(left, right)`, or with a tracker as `cell(left, right, tracker)`, on n states
at once, (n, S) each, and returns (n, S). `state_dim` is S; the first `output_dim` of a state are its encoding, and all
of it where a cell does not say. Below, H is the width of an encoding and K that of what a tracker says.

The machine runs `TreeLSTM` and `Tracker` by hand-written steps (`spinn_tensor.machine.cell`), and every other cell as
it is written (`spinn_tensor.machine.any_cell`).
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from spinn_tensor.bundles import ComposeWeights, TrackerWeights, TransitionWeights
from spinn_tensor.config import CELLS, ConfigError
from spinn_tensor.model.leaves import he_linear
from spinn_tensor.model.own_classes import make_part

SOFTMAX_RANGE = 0.005  # of a softmax layer's uniform initialisation (Bowman et al. 2016, section 4)


class TreeLSTM(nn.Module):
    """Compose by the binary TreeLSTM (Tai et al. 2015, section 3.2, as Bowman et al. 2016, section 3.2, have it).

    [a; i; f_l; f_r; o] = W [h_l; h_r] + W_t h_tracker + b
    c = tanh(a) σ(i) + σ(f_l) c_l + σ(f_r) c_r          h = σ(o) tanh(c)

    Args:
        hidden_dim: H; a state is [h; c], 2H wide, and h the encoding.
        tracker_dim: K; None without tracker.

    >>> TreeLSTM(8)(torch.zeros(3, 16), torch.zeros(3, 16)).shape
    torch.Size([3, 16])
    """

    tracker_weight: Tensor | None

    def __init__(
        self,
        hidden_dim: int,  # H
        tracker_dim: int | None = None,  # K, None without tracker
    ) -> None:
        super().__init__()
        self.state_dim, self.output_dim = 2 * hidden_dim, hidden_dim
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

    def forward(
        self,
        left: Tensor,  # (n, 2H)
        right: Tensor,  # (n, 2H)
        tracker: Tensor | None = None,  # (n, K)
    ) -> Tensor:  # (n, 2H)
        (h_left, c_left), (h_right, c_right) = left.chunk(2, 1), right.chunk(2, 1)
        gates = nn.functional.linear(torch.cat((h_left, h_right), 1), self.weight, self.bias)
        if tracker is not None and self.tracker_weight is not None:
            gates = gates + nn.functional.linear(tracker, self.tracker_weight)
        a, i, f_left, f_right, o = gates.chunk(5, 1)
        c = a.tanh() * i.sigmoid() + f_left.sigmoid() * c_left + f_right.sigmoid() * c_right
        return torch.cat((o.sigmoid() * c.tanh(), c), 1)


class GRC(nn.Module):
    """Compose by the gated recursive cell (Shen et al. 2019, Ordered Memory, section 3.3).

    [g_l; g_r; g_u; u] = W_2 relu(W_1 [h_l; h_r; h_tracker] + b_1) + b_2, the layer between 4H wide
    h = LayerNorm(σ(g_l) h_l + σ(g_r) h_r + σ(g_u) u)

    Args:
        hidden_dim: H, the width of a state.
        tracker_dim: K; None without tracker.

    >>> GRC(8)(torch.zeros(3, 8), torch.zeros(3, 8)).shape
    torch.Size([3, 8])
    """

    def __init__(self, hidden_dim: int, tracker_dim: int | None = None) -> None:
        super().__init__()
        self.state_dim = hidden_dim
        self.inner = he_linear(2 * hidden_dim + (tracker_dim or 0), 4 * hidden_dim)
        self.outer = he_linear(4 * hidden_dim, 4 * hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(
        self,
        left: Tensor,  # (n, H)
        right: Tensor,  # (n, H)
        tracker: Tensor | None = None,  # (n, K)
    ) -> Tensor:  # (n, H)
        inputs = torch.cat((left, right) if tracker is None else (left, right, tracker), 1)
        of_left, of_right, of_new, new = self.outer(self.inner(inputs).relu()).chunk(4, 1)
        return self.norm(of_left.sigmoid() * left + of_right.sigmoid() * right + of_new.sigmoid() * new)


class RNTN(nn.Module):
    """Compose by the recursive neural tensor network (Socher et al. 2013, section 4.3).

    h = tanh(xᵀ V x + W x + b), x = [h_l; h_r; h_tracker]

    V has H matrices of 4H² numbers, at H = 300 of 108 million in all: the paper has H between 25 and 35.

    Args:
        hidden_dim: H, the width of a state.
        tracker_dim: K; None without tracker.

    >>> RNTN(8)(torch.zeros(3, 8), torch.zeros(3, 8)).shape
    torch.Size([3, 8])
    """

    def __init__(self, hidden_dim: int, tracker_dim: int | None = None) -> None:
        super().__init__()
        self.state_dim = hidden_dim
        n_inputs = 2 * hidden_dim + (tracker_dim or 0)
        self.tensor = nn.Parameter(torch.empty(hidden_dim, n_inputs, n_inputs).normal_(std=1 / n_inputs))
        self.linear = nn.Linear(n_inputs, hidden_dim)

    def forward(
        self,
        left: Tensor,  # (n, H)
        right: Tensor,  # (n, H)
        tracker: Tensor | None = None,  # (n, K)
    ) -> Tensor:  # (n, H)
        x = torch.cat((left, right) if tracker is None else (left, right, tracker), 1)
        products = nn.functional.linear(x, self.tensor.flatten(0, 1)).unflatten(1, (-1, x.shape[1]))
        return ((products * x.unsqueeze(1)).sum(2) + self.linear(x)).tanh()


class TreeGRU(nn.Module):
    """Compose by a binary Tree-GRU (Zhou et al. 2016, section 3.2, with matrices for either child, as a TreeLSTM's).

    [r_l; r_r; z] = σ(W [h_l; h_r; h_tracker] + b)
    h = z (h_l + h_r) + (1 - z) tanh(U [r_l h_l; r_r h_r; h_tracker] + b_u)

    Args:
        hidden_dim: H, the width of a state.
        tracker_dim: K; None without tracker.

    >>> TreeGRU(8)(torch.zeros(3, 8), torch.zeros(3, 8)).shape
    torch.Size([3, 8])
    """

    def __init__(self, hidden_dim: int, tracker_dim: int | None = None) -> None:
        super().__init__()
        self.state_dim = hidden_dim
        n_inputs = 2 * hidden_dim + (tracker_dim or 0)
        self.gates = he_linear(n_inputs, 3 * hidden_dim)
        self.candidate = he_linear(n_inputs, hidden_dim)

    def forward(
        self,
        left: Tensor,  # (n, H)
        right: Tensor,  # (n, H)
        tracker: Tensor | None = None,  # (n, K)
    ) -> Tensor:  # (n, H)
        more = () if tracker is None else (tracker,)
        of_left, of_right, z = self.gates(torch.cat((left, right, *more), 1)).sigmoid().chunk(3, 1)
        new = self.candidate(torch.cat((of_left * left, of_right * right, *more), 1)).tanh()
        return z * (left + right) + (1 - z) * new


class Sum(nn.Module):
    """Compose by adding, of which the encoding is the sum of the words: what a test can compute by hand.

    Args:
        hidden_dim: H, the width of a state.
        tracker_dim: K, which is not looked at.

    >>> Sum(2)(torch.ones(1, 2), torch.ones(1, 2))
    tensor([[2., 2.]])
    """

    def __init__(self, hidden_dim: int, tracker_dim: int | None = None) -> None:
        super().__init__()
        self.state_dim = hidden_dim

    def forward(
        self,
        left: Tensor,  # (n, H)
        right: Tensor,  # (n, H)
        tracker: Tensor | None = None,  # (n, K)
    ) -> Tensor:  # (n, H)
        return left + right


def make_cell(
    name: str,  # of CELLS, or module:Class
    hidden_dim: int,  # H
    tracker_dim: int | None,  # K, None without tracker
) -> nn.Module:
    """Make the cell that settings name, by `Class(hidden_dim, tracker_dim)`.

    Raises ConfigError as `make_part`, and for what is no cell of encodings H wide.
    """
    cell = make_part("cell", name, _CLASS_OF, hidden_dim, tracker_dim)
    if not isinstance(getattr(cell, "state_dim", None), int):
        raise ConfigError(f"cell: {name} has no state_dim, the width of its states")
    if (width := getattr(cell, "output_dim", state_dim(cell))) != hidden_dim:
        raise ConfigError(f"cell: {name} makes encodings {width} wide, expected hidden_dim, {hidden_dim}")
    if tracker_dim is not None:
        try:
            inspect.signature(cell.forward).bind(None, None, None)
        except TypeError as error:
            reason = f"{error}; it is called as forward(left, right, tracker)"
            raise ConfigError(f"cell: {name} cannot go with a tracker ({reason})") from error
    return cell


def state_dim(cell: nn.Module) -> int:
    """Return the width of a cell's states."""
    width = cell.state_dim
    assert isinstance(width, int)
    return width


_CLASS_OF = dict(zip(CELLS, (TreeLSTM, GRC, RNTN, TreeGRU, Sum), strict=True))


class Tracker(nn.Module):
    """Track buffer and stack by an LSTM cell (Bowman et al. 2016, section 3.2), gates i, f, g, o as torch's LSTM.

    A tracker of your own is a module that is called as this one, with a `state_dim`, the width of its state, which
    starts from zeros, and an `output_dim` if compositions shall see only so much of it.

    Args:
        hidden_dim: H, as many numbers of each state are read.
        tracker_dim: K; a state is [h; c], 2K wide, and h what compositions see.

    >>> Tracker(8, 3)(*torch.zeros(3, 5, 16), torch.zeros(5, 6)).shape
    torch.Size([5, 6])
    """

    def __init__(
        self,
        hidden_dim: int,  # H
        tracker_dim: int,  # K
    ) -> None:
        super().__init__()
        self.hidden_dim, self.state_dim, self.output_dim = hidden_dim, 2 * tracker_dim, tracker_dim
        self.weight_input = nn.Parameter(torch.empty(4 * tracker_dim, 3 * hidden_dim))
        self.weight_hidden = nn.Parameter(torch.empty(4 * tracker_dim, tracker_dim))
        self.bias = nn.Parameter(torch.zeros(4 * tracker_dim))
        for weight in (self.weight_input, self.weight_hidden):
            nn.init.normal_(weight, std=(2 / (3 * hidden_dim + tracker_dim)) ** 0.5)  # He et al. 2015

    def weights(self) -> TrackerWeights:
        """Return the bundle that `machine` computes with."""
        return TrackerWeights(self.weight_input, self.weight_hidden, self.bias)

    def forward(
        self,
        buffer: Tensor,  # (n, S) the next words
        stack1: Tensor,  # (n, S) tops of the stacks
        stack2: Tensor,  # (n, S) the states beneath them
        state: Tensor,  # (n, 2K) of the trackers
    ) -> Tensor:  # (n, 2K)
        """Step n trackers on what they see; return their new states.

        Args:
            buffer: (n, S) states of the next words.
            stack1: (n, S) tops of the stacks.
            stack2: (n, S) the states beneath them.
            state: (n, 2K) [h; c] of the trackers, zeros at first.

        Returns:
            (n, 2K).

        >>> Tracker(8, 3).forward(*torch.zeros(3, 5, 16), torch.zeros(5, 6)).shape
        torch.Size([5, 6])
        """
        inputs = torch.cat([part[:, : self.hidden_dim] for part in (buffer, stack1, stack2)], 1)
        h, c = state.chunk(2, 1)
        gates = nn.functional.linear(inputs, self.weight_input, self.bias)
        i, f, g, o = (gates + nn.functional.linear(h, self.weight_hidden)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return torch.cat((o.sigmoid() * c.tanh(), c), 1)


class TransitionHead(nn.Module):
    """Own the parameters of the choice of transitions (Bowman et al. 2016, section 3.3).

    p(SHIFT), p(REDUCE) = softmax(W_trans h_tracker + b_trans)

    Args:
        tracker_dim: K.

    >>> TransitionHead(3).weights().weight.shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        tracker_dim: int,  # K
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2, tracker_dim).uniform_(-SOFTMAX_RANGE, SOFTMAX_RANGE))
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self) -> TransitionWeights:
        """Return `weights`, where hooks see to them, as those of pruning do."""
        return self.weights()

    def weights(self) -> TransitionWeights:
        """Return the bundle that `machine` computes with."""
        return TransitionWeights(self.weight, self.bias)
