"""The machine's loops for TorchScript, where memory may be written in place and shapes may depend on data.

So it is that of the thin stack. One memory holds the states of all lanes: row 0 is null, rows 1..L are the words of all
sentences, one after another and without padding, and the compositions of each step follow those of the step before. A
lane's stack is a row of row numbers, and only the lanes that reduce are composed. The equations and the weights are
those of `export.step`; as there, TorchScript forbids `from __future__ import annotations`. A cell is traced by itself,
and called by the loops.
"""

import torch
from torch import Tensor, nn

from spinn_tensor.export.step import StepWeights, choices_of, decide, lstm_step, prepare, product


class LaneLoop(nn.Module):
    """Run the machine with a tracker."""

    buffer: Tensor  # `StepWeights`
    stack: Tensor
    hidden: Tensor
    tracker_bias: Tensor
    score: Tensor
    score_limit: Tensor

    def __init__(
        self,
        weights: StepWeights,
        cell: nn.Module,  # traced
    ) -> None:
        super().__init__()
        self.cell = cell
        for name, weight in weights._asdict().items():
            self.register_buffer(name, weight)

    def forward(
        self,
        leaves: Tensor,  # (L, S) states of all sentences' words
        lengths: Tensor,  # (B,) int64
        n_words: int,  # N
        given: Tensor | None,  # (B, 2N - 1) int64 SHIFT, REDUCE or padding; None = the trackers choose
    ) -> tuple[Tensor, Tensor, Tensor]:
        # (B, H) encodings, (B, 2N - 1) int64 transitions, their log-probabilities
        """Run the whole loop."""
        weights = StepWeights(
            self.buffer, self.stack, self.hidden, self.tracker_bias, self.score, self.score_limit
        )
        n_lanes, n_leaves, tracker_dim = lengths.shape[0], leaves.shape[0], weights.hidden.shape[0]
        words = prepare(leaves.unsqueeze(0), lengths, weights)
        states = with_null_row(leaves, n_leaves - n_lanes)
        # rows 2r and 2r + 1: what the tracker reads of row r as second stack entry and as top
        stack = leaves.new_empty(2 * states.shape[0], 4 * tracker_dim)
        stack[0 : 2 + 2 * n_leaves : 2] = words.second
        stack[1 : 2 + 2 * n_leaves : 2] = words.top
        n_below = 2  # columns of `entries` under the stack, which read as empty
        hidden_dim = weights.stack.shape[0]
        entries = torch.zeros(n_lanes, n_words + n_below + 1, dtype=torch.int64, device=leaves.device)
        depth = torch.zeros_like(lengths)
        last = torch.cumsum(lengths, 0)
        next_word = last - lengths + 1
        h, c = leaves.new_zeros(n_lanes, tracker_dim), leaves.new_zeros(n_lanes, tracker_dim)
        told = leaves.new_full((2 * n_words - 1, n_lanes), float("-inf"))
        columns = torch.arange(2, device=leaves.device)
        free = 1 + n_leaves
        for number in range(2 * int(lengths.max()) - 1):
            pair = torch.gather(entries, 1, depth.unsqueeze(1) + columns)
            word = torch.where(next_word <= last, next_word, 0)
            found = torch.index_select(stack, 0, (2 * pair + columns).view(-1))
            sums = torch.index_select(words.buffer, 0, word) + found.view(n_lanes, 2, 4 * tracker_dim).sum(1)
            h, c = lstm_step(sums, h, c, weights.hidden)
            now = None if given is None else given[:, number]
            reduces, shifts, scores = decide(h, word, pair[:, 0], now, weights)
            lanes = torch.nonzero(reduces).squeeze(1)
            children = torch.index_select(pair, 0, lanes)
            left = torch.index_select(states, 0, children[:, 0])
            right = torch.index_select(states, 0, children[:, 1])
            made = self.cell(left, right, torch.index_select(h, 0, lanes))
            n_made = made.shape[0]
            states[free : free + n_made] = made
            read_of = product(made[:, :hidden_dim], weights.stack)
            stack[2 * free : 2 * (free + n_made)] = read_of.view(2 * n_made, 4 * tracker_dim)
            entry = word.index_copy(0, lanes, torch.arange(free, free + n_made, device=leaves.device))
            free += n_made
            column = torch.where(reduces, depth, depth + n_below)
            entries.scatter_(1, column.unsqueeze(1), entry.unsqueeze(1))
            shifted = shifts.to(torch.int64)
            next_word = next_word + shifted
            depth = depth + shifted - reduces.to(torch.int64)
            told[number] = scores
        # a lane that has ended is one entry deep
        roots = torch.index_select(states, 0, entries[:, n_below])
        transitions, log_probabilities = choices_of(told, weights.score_limit, lengths)
        return roots[:, :hidden_dim], transitions, log_probabilities


def with_null_row(
    leaves: Tensor,  # (L, S)
    n_more: int,
) -> Tensor:  # (1 + L + n_more, S), of which the last rows are not initialised
    states = leaves.new_empty(1 + leaves.shape[0] + n_more, leaves.shape[1])
    states[0] = 0
    states[1 : 1 + leaves.shape[0]] = leaves
    return states


class ForestLoop(nn.Module):
    """Run the machine without a tracker, step after step of its schedule."""

    def __init__(
        self,
        hidden_dim: int,  # H
        cell: nn.Module,  # traced
    ) -> None:
        super().__init__()
        self.cell, self.hidden_dim = cell, hidden_dim

    def forward(
        self,
        leaves: Tensor,  # (L, S)
        left_index: Tensor,  # (S, W) int64
        right_index: Tensor,  # (S, W) int64
        root_index: Tensor,  # (B,) int64
    ) -> Tensor:  # (B, H) encodings
        n_steps, width = left_index.shape[0], left_index.shape[1]
        states = with_null_row(leaves, n_steps * width)
        free = 1 + leaves.shape[0]
        for number in range(n_steps):
            left = torch.index_select(states, 0, left_index[number])
            right = torch.index_select(states, 0, right_index[number])
            states[free : free + width] = self.cell(left, right)
            free += width
        return torch.index_select(states, 0, root_index)[:, : self.hidden_dim]
