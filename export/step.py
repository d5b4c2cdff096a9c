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


class Reads(NamedTuple):
    """Hold what a step finds."""

    word: Tensor  # (B,) int64 row of the word on the buffer, 0 where it is empty
    right: Tensor  # (B,) int64 the stack's top, as in `entries`
    left: Tensor  # (B,) int64 the entry beneath
    depth: Tensor  # (B,) int64


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


def product(
    x: Tensor,  # (n, I)
    weight: Tensor,  # (I, O)
) -> Tensor:  # (n, O) of x's type
    """Return x W in the type of the weight."""
    if weight.dtype == x.dtype:
        return torch.mm(x, weight)
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


def read(
    machine: Machine,
    words: Words,
    number: Tensor,  # () int64, t
) -> Reads:
    """Look at the lanes' buffers and stacks."""
    shifted = machine.n_shifted
    word = torch.where(shifted < words.lengths, words.before + shifted + 1, torch.zeros_like(shifted))
    depth = (2 * shifted - number).clamp(min=0)
    columns = torch.stack((depth, depth + 1), 1)
    pair = torch.gather(machine.entries, 1, columns)
    return Reads(word, pair[:, 1], pair[:, 0], depth)


def track(
    machine: Machine,
    words: Words,
    reads: Reads,
    weights: StepWeights,
) -> tuple[Tensor, Tensor]:  # (B, K) h, (B, K) c
    """Step the tracker, before the transition."""
    n_lanes = reads.left.shape[0]
    composed = torch.index_select(machine.seconds, 0, composed_rows(reads.left, n_lanes))
    word = torch.index_select(words.second, 0, reads.left.clamp(min=0))
    second = torch.where((reads.left < 0).unsqueeze(1), composed, word)
    sums = torch.index_select(words.buffer, 0, reads.word) + machine.tops + second
    return lstm_cell(sums + product(machine.tracker_h, weights.hidden), machine.tracker_c)


def lstm_cell(
    sums: Tensor,  # (B, 4K) before activation; gates i, f, o, g
    c: Tensor,  # (B, K)
) -> tuple[Tensor, Tensor]:  # (B, K) h, (B, K) c
    """Step an LSTM, the tracker or a direction of the leaf encoder."""
    i, f, o, g = torch.chunk(sums, 4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def composed_rows(
    entries: Tensor,  # (n,) int64 of lanes 0, 1, ...
    n_lanes: int,
) -> Tensor:  # (n,) int64 rows of the composed; of some state where the entry is none
    lane = torch.arange(n_lanes, device=entries.device)
    return (-1 - entries).clamp(min=0) * n_lanes + lane


def decide(
    tracker_h: Tensor,  # (B, K)
    reads: Reads,
    given: Tensor | None,  # (B,) int64
    weights: StepWeights,
) -> tuple[Tensor, Tensor, Tensor]:
    # (B,) bool, the lanes that reduce and those that shift, and (B,) their scores
    """Say which lanes reduce, those with a score above the limit: the trackers', or infinity where no choice is left.

    A lane that neither reduces nor shifts has minus infinity.
    """
    has_word = reads.word != 0
    if given is None:
        scores = torch.where(has_word, torch.mv(tracker_h, weights.score), float("inf"))
        scores = torch.where(reads.left != 0, scores, float("-inf"))
    else:
        scores = tracker_h.new_full(given.shape, float("-inf")).masked_fill(given == 1, float("inf"))
    reduces = scores > weights.score_limit
    return reduces, has_word & ~reduces, scores


def slot_of(machine: Machine, reads: Reads) -> Tensor:  # (B,) int64
    """Return where a lane's next composition goes: after the composed states that it leaves on the stack."""
    taken = (reads.left < 0).to(torch.int64) + (reads.right < 0).to(torch.int64)
    return machine.n_composed - taken


def compose(
    machine: Machine,
    words: Words,
    weights: StepWeights,
    cell: nn.Module,  # (left, right, tracker) to states
    reads: Reads,
    reduces: Tensor,  # (B,) bool
    slot: Tensor,  # (B,) int64, `slot_of`
    tracker_h: Tensor,  # (B, K)
) -> tuple[Tensor, Tensor, Tensor]:  # new states, seconds, tops
    """Compose in every lane, and keep the results of those that reduce; the others write to a slot that is free."""
    n_lanes, state_dim = slot.shape[0], words.states.shape[1]
    lane = torch.arange(n_lanes, device=slot.device)
    entries = torch.stack((reads.left, reads.right))
    rows = (-1 - entries).clamp(min=0) * n_lanes + lane
    found = torch.where(
        (entries < 0).unsqueeze(2),
        torch.index_select(machine.states, 0, rows.view(-1)).view(2, n_lanes, state_dim),
        torch.index_select(words.states, 0, entries.clamp(min=0).view(-1)).view(2, n_lanes, state_dim),
    )
    made = cell(found[0], found[1], tracker_h)
    second, top = torch.chunk(product(made[:, : weights.stack.shape[0]], weights.stack), 2, 1)
    row = torch.where(reduces, slot, machine.n_composed) * n_lanes + lane
    word_top = torch.index_select(words.top, 0, reads.word)
    return (
        torch.index_copy(machine.states, 0, row, made),
        torch.index_copy(machine.seconds, 0, row, second),
        torch.where(reduces.unsqueeze(1), top, word_top),
    )


def move(
    machine: Machine,
    reads: Reads,
    reduces: Tensor,  # (B,) bool
    shifts: Tensor,  # (B,) bool
    slot: Tensor,  # (B,) int64, `slot_of`
    tracker: tuple[Tensor, Tensor],  # new h and c
    composed: tuple[Tensor, Tensor, Tensor],  # new states, seconds, tops
) -> Machine:
    """Return the machine after the transitions."""
    column = torch.where(reduces, reads.depth, reads.depth + 2)
    entry = torch.where(reduces, -1 - slot, reads.word)
    return Machine(
        composed[0],
        composed[1],
        composed[2],
        tracker[0],
        tracker[1],
        torch.scatter(machine.entries, 1, column.unsqueeze(1), entry.unsqueeze(1)),
        machine.n_shifted + shifts.to(torch.int64),
        torch.where(reduces, slot + 1, machine.n_composed),
    )


def step(
    machine: Machine,
    words: Words,
    weights: StepWeights,
    cell: nn.Module,
    number: Tensor,  # () int64, t
    given: Tensor | None,  # (B,) int64 SHIFT, REDUCE or padding; None = the trackers choose
) -> tuple[Machine, Tensor]:  # and (B,) the scores of `decide`
    """Run one whole step."""
    reads = read(machine, words, number)
    tracker = track(machine, words, reads, weights)
    reduces, shifts, scores = decide(tracker[0], reads, given, weights)
    slot = slot_of(machine, reads)
    composed = compose(machine, words, weights, cell, reads, reduces, slot, tracker[0])
    return move(machine, reads, reduces, shifts, slot, tracker, composed), scores


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


def lstm_step(
    sums: Tensor,  # (B, 4D) of the words, bias included; gates i, f, o, g
    h: Tensor,  # (B, D)
    c: Tensor,  # (B, D)
    hidden: Tensor,  # (D, 4D)
) -> tuple[Tensor, Tensor]:  # (B, D) h, (B, D) c
    """Run one step of one direction of a bidirectional leaf encoder."""
    return lstm_cell(sums + product(h, hidden), c)


def reversed_columns(
    lengths: Tensor,  # (B,) int64
    n_words: int,  # N
) -> Tensor:  # (B, N) int64
    """Index the words of every sentence from the last to the first, padding as the first; its own inverse on words."""
    place = torch.arange(n_words, device=lengths.device)
    return (lengths.unsqueeze(1) - 1 - place).clamp(min=0)
