"""One step of the exported machine: B lanes at once, pure functions of tensors.

The equations are those of `spinn_tensor.machine.cell`; what differs is the memory. A runtime that runs a loop copies
whatever the loop carries at every step, so the carry is kept small:

    words      read only. Row 0 is the null word, row 1 + b N + n the n-th word of lane b: its state, S wide, of which
               the first H are the encoding, and what the tracker reads of it as buffer top, stack top and second entry
    composed   slots of composed states, D = N // 2 + 1 a lane: a live composed state covers at least two words, and
               one slot is always free. Slot d of lane b is row d B + b
    entries    the stack itself, as integers: r > 0 the word in row r, 0 no entry, -1 - d the composed state in slot d

A lane that has made s SHIFTs by step t is 2s - t entries deep. A lane that has ended finds its buffer empty and no
second entry, so that it neither shifts nor reduces; its root stays in slot 0.

Every function passes `torch.export`, and those that `export.script_loop` imports `torch.jit.script`. (Hence no `from
__future__ import annotations`: TorchScript reads the fields of a NamedTuple as they are.)
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class StepWeights(NamedTuple):
    """Hold the tracker's weights as [inputs, outputs]; in half precision, if they are, products are taken in it."""

    buffer: Tensor  # (H, 4K) the tracker's of the word on the buffer; gates i, f, o, g
    stack: Tensor  # (H, 8K) of the second stack entry, then of the top
    hidden: Tensor  # (K, 4K)
    tracker_bias: Tensor  # (4K,)
    score: Tensor  # (K,) of logit(REDUCE) - logit(SHIFT); zeros where transitions are given
    score_limit: Tensor  # () minus its bias: above it the score says REDUCE; 0 where transitions are given


class Words(NamedTuple):
    """Hold what is known of the words before the loop; L = B N."""

    states: Tensor  # (1 + L, S)
    buffer: Tensor  # (1 + L, 4K) with the tracker's bias
    second: Tensor  # (1 + L, 4K)
    top: Tensor  # (1 + L, 4K)
    before: Tensor  # (B,) int64, the row before each lane's first word
    lengths: Tensor  # (B,) int64


class Machine(NamedTuple):
    """Hold what goes from step to step."""

    states: Tensor  # (D B, S) of the composed
    seconds: Tensor  # (D B, 4K) what the tracker reads of them as second entry
    tops: Tensor  # (B, 4K) what it reads of the stack's top
    tracker_h: Tensor  # (B, K)
    tracker_c: Tensor  # (B, K)
    entries: Tensor  # (B, N + 3) int64
    n_shifted: Tensor  # (B,) int64
    n_composed: Tensor  # (B,) int64 live composed states


class Product(nn.Module):
    """Compute x W + b, the product in the type of W."""

    weight: Tensor  # (I, O)
    bias: Tensor  # (O,)

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:  # (..., O) from (..., I)
        return torch.matmul(x.to(self.weight.dtype), self.weight).to(x.dtype) + self.bias

    @torch.jit.unused
    def in_type(self, dtype: torch.dtype) -> "Product":
        """Return the product with its matrix in this type."""
        return Product(self.weight.to(dtype), self.bias)


def product(
    x: Tensor,  # (n, I)
    weight: Tensor,  # (I, O)
) -> Tensor:  # (n, O) of x's type
    """Return x W, the product in the type of W."""
    return torch.mm(x.to(weight.dtype), weight).to(x.dtype)


def prepare(
    leaves: Tensor,  # (B, N, S); what lies beyond a sentence's length is not read
    lengths: Tensor,  # (B,) int64
    weights: StepWeights,
) -> Words:
    """Make all that the loop reads of the words, in one product each."""
    n_lanes, n_words, state_dim = leaves.shape[0], leaves.shape[1], leaves.shape[2]
    states = torch.cat((leaves.new_zeros(1, state_dim), leaves.reshape(n_lanes * n_words, state_dim)))
    h = states[:, : weights.stack.shape[0]]
    second, top = torch.chunk(product(h, weights.stack), 2, 1)
    return Words(
        states,
        product(h, weights.buffer) + weights.tracker_bias,
        second.contiguous(),
        top.contiguous(),
        torch.arange(n_lanes, device=leaves.device) * n_words,
        lengths,
    )


def start(
    words: Words,
    n_words: int,  # N
    tracker_dim: int,  # K
) -> Machine:
    """Return empty stacks and full buffers."""
    n_lanes, state_dim = words.before.shape[0], words.states.shape[1]
    n_rows = (n_words // 2 + 1) * n_lanes
    like, none = words.states, torch.zeros_like(words.before)
    return Machine(
        like.new_zeros(n_rows, state_dim),
        like.new_zeros(n_rows, 4 * tracker_dim),
        like.new_zeros(n_lanes, 4 * tracker_dim),
        like.new_zeros(n_lanes, tracker_dim),
        like.new_zeros(n_lanes, tracker_dim),
        torch.zeros(n_lanes, n_words + 3, dtype=torch.int64, device=like.device),
        none,
        none.clone(),
    )


def lstm_step(
    sums: Tensor,  # (B, 4K) what it reads of all but h, bias included; gates i, f, o, g
    h: Tensor,  # (B, K)
    c: Tensor,  # (B, K)
    hidden: Tensor,  # (K, 4K)
) -> tuple[Tensor, Tensor]:  # (B, K) h, (B, K) c
    """Step an LSTM: the tracker, or a direction of one over words."""
    i, f, o, g = torch.chunk(sums + product(h, hidden), 4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def decide(
    tracker_h: Tensor,  # (B, K)
    word: Tensor,  # (B,) int64 row of the word on the buffer, 0 where it is empty
    left: Tensor,  # (B,) int64 the stack's second entry, 0 where there is none
    given: Tensor | None,  # (B,) int64 SHIFT, REDUCE or padding; None = the trackers choose
    weights: StepWeights,
) -> tuple[Tensor, Tensor, Tensor]:
    # (B,) bool, the lanes that reduce and those that shift, and (B,) their scores
    """Say which lanes reduce, those with a score above the limit: the trackers', or infinity where no choice is left.

    A lane that neither reduces nor shifts has minus infinity.
    """
    has_word = word != 0
    if given is None:
        scores = torch.where(has_word, torch.mv(tracker_h, weights.score), float("inf"))
        scores = torch.where(left != 0, scores, float("-inf"))
    else:
        scores = tracker_h.new_full(given.shape, float("-inf")).masked_fill(given == 1, float("inf"))
    reduces = scores > weights.score_limit
    return reduces, has_word & ~reduces, scores


def step(
    machine: Machine,
    words: Words,
    weights: StepWeights,
    cell: nn.Module,  # (left, right, tracker) to states
    number: Tensor,  # () int64, t
    given: Tensor | None,  # (B,) int64 as in `decide`
) -> tuple[Machine, Tensor]:  # and (B,) the scores of `decide`
    """Run one step: the tracker first, then a composition in every lane, kept in those that reduce."""
    n_lanes, state_dim = words.before.shape[0], words.states.shape[1]
    lane, shifted = torch.arange(n_lanes, device=number.device), machine.n_shifted
    word = torch.where(shifted < words.lengths, words.before + shifted + 1, torch.zeros_like(shifted))
    depth = (2 * shifted - number).clamp(min=0)
    left, right = torch.gather(machine.entries, 1, torch.stack((depth, depth + 1), 1)).unbind(1)
    entries = torch.stack((left, right))
    composed, word_rows = (-1 - entries).clamp(min=0) * n_lanes + lane, entries.clamp(min=0)

    second = torch.where(
        (left < 0).unsqueeze(1),
        torch.index_select(machine.seconds, 0, composed[0]),
        torch.index_select(words.second, 0, word_rows[0]),
    )
    sums = torch.index_select(words.buffer, 0, word) + machine.tops + second
    h, c = lstm_step(sums, machine.tracker_h, machine.tracker_c, weights.hidden)
    reduces, shifts, scores = decide(h, word, left, given, weights)

    children = torch.where(
        (entries < 0).unsqueeze(2),
        torch.index_select(machine.states, 0, composed.view(-1)).view(2, n_lanes, state_dim),
        torch.index_select(words.states, 0, word_rows.view(-1)).view(2, n_lanes, state_dim),
    )
    made = cell(children[0], children[1], h)
    made_second, made_top = torch.chunk(product(made[:, : weights.stack.shape[0]], weights.stack), 2, 1)
    # behind the composed states that stay on the stack; what does not reduce writes to a slot that is free
    slot = machine.n_composed - (left < 0).to(torch.int64) - (right < 0).to(torch.int64)
    row = torch.where(reduces, slot, machine.n_composed) * n_lanes + lane
    column = torch.where(reduces, depth, depth + 2).unsqueeze(1)
    after = Machine(
        states=torch.index_copy(machine.states, 0, row, made),
        seconds=torch.index_copy(machine.seconds, 0, row, made_second),
        tops=torch.where(reduces.unsqueeze(1), made_top, torch.index_select(words.top, 0, word)),
        tracker_h=h,
        tracker_c=c,
        entries=torch.scatter(machine.entries, 1, column, torch.where(reduces, -1 - slot, word).unsqueeze(1)),
        n_shifted=shifted + shifts.to(torch.int64),
        n_composed=torch.where(reduces, slot + 1, machine.n_composed),
    )
    return after, scores


def choices_of(
    scores: Tensor,  # (T, B) of `decide`
    score_limit: Tensor,  # ()
    lengths: Tensor,  # (B,) int64
) -> tuple[Tensor, Tensor]:  # (B, T) int64 SHIFT, REDUCE or -1, and (B, T) their log-probabilities
    """Return what every lane did, step after step, padded, and how probable the likelier transition was, as log."""
    numbers = torch.arange(scores.shape[0], device=lengths.device)
    by_lane = scores.t()
    made = (by_lane > score_limit).to(torch.int64)
    made = torch.where(numbers < 2 * lengths.unsqueeze(1) - 1, made, -1)
    return made, torch.nn.functional.logsigmoid((by_lane - score_limit).abs())


def roots(
    words: Words,
    states: Tensor,  # (D B, S) after the last step
    hidden_dim: int,  # H
) -> Tensor:  # (B, H)
    """Return the encoding of each lane's last entry: what is in slot 0, or the word itself."""
    n_lanes = words.before.shape[0]
    word = torch.index_select(words.states, 0, words.before + 1)
    return torch.where((words.lengths == 1).unsqueeze(1), word, states[:n_lanes])[:, :hidden_dim]
