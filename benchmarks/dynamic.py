"""Run the baseline: dynamic batching with one Python stack and one Python buffer for each example.

This is how SPINN has been run in PyTorch since 2017. At step t every example whose transition is SHIFT moves
a row from its buffer to its stack; the examples whose transition is REDUCE pop two rows each, these are
bundled (`torch.cat`) into one matrix, composed by one product, and unbundled (`unbind`) back to their stacks.
With a tracker, the buffer tops, stack tops and second entries of all examples are bundled at each step for
one LSTM cell. Gradients are plain autograd.

It is written to be as fast as this algorithm can be, so that a ratio to it means something:

- a row is one [h; c] vector: one cat and one unbind a step, and one addmm over [h_left; h_right];
- the examples run in order of decreasing length, so that those that have not ended are a prefix: no masks
  and no work for padded lanes, in the tracker either;
- gates are combined with addcmul; leaves are unbound once;
- transitions arrive as lists of Python ints, made outside of any timing.

Variants that were measured and were no faster (D = 300, batches of 128): h and c as separate rows, one
sigmoid over the four gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from spinn_tensor.bundles import ComposeWeights, TrackerWeights
from spinn_tensor.data_prep.trees import SHIFT


def encode_batch(
    leaves: Tensor,  # (L, 2H) [h; c], the words of all sentences, one sentence after another
    transitions: Sequence[Sequence[int]],  # B lists of 2N - 1 codes
    compose_weights: ComposeWeights,
    tracker_weights: TrackerWeights | None = None,
) -> Tensor:  # (B, 2H) states of the roots
    """Return the roots' states of a batch, in the order of the sentences."""
    order = sorted(range(len(transitions)), key=lambda b: -len(transitions[b]))
    codes = [transitions[b] for b in order]
    null = leaves.new_zeros(leaves.shape[1])
    # The tracker reads below the ends: an empty buffer, and a stack of fewer than two entries.
    ends = [] if tracker_weights is None else [null]
    buffers = [ends + buffer for buffer in _buffers(leaves, transitions, order)]
    stacks = [ends * 2 for _ in order]
    state: tuple[Tensor, Tensor] | None = None  # (B, K) h and c of the trackers
    if tracker_weights is not None:
        zeros = leaves.new_zeros(len(order), tracker_weights.weight_hidden.shape[1])
        state = zeros, zeros
    n_active = len(order)
    for step in range(len(codes[0])):
        while len(codes[n_active - 1]) <= step:
            n_active -= 1
        if tracker_weights is not None and state is not None:
            inputs = _tracker_inputs(buffers[:n_active], stacks[:n_active], leaves.shape[1])
            state = _track(tracker_weights, inputs, state[0][:n_active], state[1][:n_active])
        children: list[Tensor] = []
        lanes: list[int] = []
        for lane in range(n_active):
            stack = stacks[lane]
            if codes[lane][step] == SHIFT:
                stack.append(buffers[lane].pop())
            else:
                right = stack.pop()
                children += (stack.pop(), right)
                lanes.append(lane)
        if lanes:
            parents = _compose(compose_weights, children, None if state is None else _rows(state[0], lanes))
            for lane, parent in zip(lanes, parents.unbind(), strict=True):
                stacks[lane].append(parent)
    roots = torch.cat([stack[-1] for stack in stacks]).view(len(order), -1)
    return roots.index_select(0, torch.tensor(order, device=leaves.device).argsort())


def _buffers(
    leaves: Tensor, transitions: Sequence[Sequence[int]], order: Sequence[int]
) -> list[list[Tensor]]:
    """Return for each example, in the given order, its leaf rows with the first word last."""
    rows = leaves.unbind()
    ends = list(accumulate((len(codes) + 1) // 2 for codes in transitions))
    starts = [0, *ends]
    return [list(rows[starts[b] : ends[b]][::-1]) for b in order]


def _compose(
    weights: ComposeWeights,
    children: Sequence[Tensor],  # 2R rows (2H,): left, right, left, right, ...
    tracker_h: Tensor | None,  # (R, K)
) -> Tensor:  # (R, 2H)
    """Compose the children of all examples that reduce at this step."""
    n_hidden = weights.weight.shape[1] // 2
    pairs = torch.cat(tuple(children)).view(-1, 2, 2 * n_hidden)  # (R, 2, 2H)
    h_pairs = pairs[:, :, :n_hidden].reshape(-1, 2 * n_hidden)
    gates = torch.addmm(weights.bias, h_pairs, weights.weight.t())
    if tracker_h is not None:
        assert weights.tracker_weight is not None, "a tracker needs compose weights with a tracker_weight"
        gates = torch.addmm(gates, tracker_h, weights.tracker_weight.t())
    a, i, f_left, f_right, o = gates.chunk(5, 1)
    c = torch.addcmul(a.tanh() * i.sigmoid(), f_left.sigmoid(), pairs[:, 0, n_hidden:])
    c = torch.addcmul(c, f_right.sigmoid(), pairs[:, 1, n_hidden:])
    return torch.cat([o.sigmoid() * c.tanh(), c], 1)


def _tracker_inputs(buffers: Sequence[list[Tensor]], stacks: Sequence[list[Tensor]], n_state: int) -> Tensor:
    """Return [h_buffer; h_stack1; h_stack2] of the active examples, (n_active, 3H)."""
    rows: list[Tensor] = []
    for buffer, stack in zip(buffers, stacks, strict=True):
        rows += (buffer[-1], stack[-1], stack[-2])
    states = torch.cat(rows).view(len(stacks), 3, n_state)
    return states[:, :, : n_state // 2].reshape(len(stacks), -1)


def _track(weights: TrackerWeights, inputs: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Take one step of the tracker's LSTM cell for all active examples."""
    gates = torch.addmm(weights.bias, inputs, weights.weight_input.t())
    gates = torch.addmm(gates, h, weights.weight_hidden.t())
    i, f, g, o = gates.chunk(4, 1)
    c = torch.addcmul(f.sigmoid() * c, i.sigmoid(), g.tanh())
    return o.sigmoid() * c.tanh(), c


def _rows(tracker_h: Tensor, lanes: list[int]) -> Tensor:
    """Return the tracker's output for the examples that reduce."""
    if len(lanes) == len(tracker_h):
        return tracker_h
    return tracker_h.index_select(0, torch.tensor(lanes, device=tracker_h.device))
