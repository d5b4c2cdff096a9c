"""The slow algorithm that everything else is compared with: one tree at a time, on Python lists.

    SHIFT   pushes the word on top of the buffer
    REDUCE  pops right, then left, and pushes compose(left, right, h_tracker)

    gates  [a; i; f_left; f_right; o] = W [h_left; h_right] + b + W_t h_tracker
    state  c = tanh(a) σ(i) + σ(f_left) c_left + σ(f_right) c_right,    h = σ(o) tanh(c)

(Bowman et al., ACL 2016, section 3.2; the binary TreeLSTM of Tai et al., ACL 2015, equations 9-14.) The
tracker is an LSTM cell on [h of the buffer's top; h of the stack's top; h of the entry below it], stepped
from zeros before every action.

Nothing is shared with the fast executors but the weights, so that this is an oracle (`tests/oracle.py`) as
well as a baseline. Weights are anything with the attributes of `ComposeWeights` and `TrackerWeights`. A state
is one vector [h; c] of length 2H; the null state, which stands for an absent word or stack entry, is zeros.
Gradients: plain autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

SHIFT, REDUCE = 0, 1


class ComposeParameters(Protocol):
    """Attributes of the composition's weights; the rows of all are the gates a, i, f_left, f_right, o."""

    @property
    def weight(self) -> Tensor: ...  # (5H, 2H), columns [h_left; h_right]

    @property
    def bias(self) -> Tensor: ...  # (5H,)

    @property
    def tracker_weight(self) -> Tensor | None: ...  # (5H, K)


class TrackerParameters(Protocol):
    """Attributes of the tracker's weights; the rows of all are the gates i, f, g, o."""

    @property
    def weight_input(self) -> Tensor: ...  # (4K, 3H), columns [h_buffer; h_stack1; h_stack2]

    @property
    def weight_hidden(self) -> Tensor: ...  # (4K, K)

    @property
    def bias(self) -> Tensor: ...  # (4K,)


def compose(
    weights: ComposeParameters,
    left: Tensor,  # (2H,) [h; c]
    right: Tensor,  # (2H,) [h; c]
    tracker_h: Tensor | None = None,  # (K,)
) -> Tensor:  # (2H,) [h; c]
    """The parent's state from its children's states and the tracker's output."""
    h_left, c_left = left.chunk(2)
    h_right, c_right = right.chunk(2)
    gates = weights.weight @ torch.cat([h_left, h_right]) + weights.bias
    if tracker_h is not None:
        assert weights.tracker_weight is not None, "a tracker needs compose weights with a tracker_weight"
        gates = gates + weights.tracker_weight @ tracker_h
    a, i, f_left, f_right, o = gates.chunk(5)
    c = a.tanh() * i.sigmoid() + f_left.sigmoid() * c_left + f_right.sigmoid() * c_right
    return torch.cat([o.sigmoid() * c.tanh(), c])


def track(
    weights: TrackerParameters,
    inputs: Tensor,  # (3H,) [h_buffer; h_stack1; h_stack2]
    h: Tensor,  # (K,)
    c: Tensor,  # (K,)
) -> tuple[Tensor, Tensor]:  # (K,) h, (K,) c
    """One step of the tracker's LSTM cell."""
    gates = weights.weight_input @ inputs + weights.weight_hidden @ h + weights.bias
    i, f, g, o = gates.chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def encode_tree(
    leaves: Tensor,  # (N, 2H) [h; c] of the words
    transitions: Tensor | Sequence[int],  # (2N - 1,) of SHIFT and REDUCE, no padding
    compose_weights: ComposeParameters,
    tracker_weights: TrackerParameters | None = None,
) -> list[Tensor]:  # 2N - 1 states of (2H,), in the order of the transitions
    """The state pushed by every transition of one tree; the last one is the root's."""
    return walk_tree(leaves, transitions, compose_weights, tracker_weights)[0]


def walk_tree(
    leaves: Tensor,  # (N, 2H) [h; c] of the words
    transitions: Tensor | Sequence[int],  # (2N - 1,) of SHIFT and REDUCE, no padding
    compose_weights: ComposeParameters,
    tracker_weights: TrackerParameters | None = None,
) -> tuple[list[Tensor], list[Tensor]]:  # 2N - 1 states of (2H,); as many (K,), or none
    """The state pushed by every transition of one tree, and the tracker's h before each of them."""
    null = leaves.new_zeros(leaves.shape[1])
    n_hidden = leaves.shape[1] // 2
    buffer = list(leaves.unbind())[::-1]  # its top is its last entry, as on the stack
    stack: list[Tensor] = []
    pushed: list[Tensor] = []
    tracked: list[Tensor] = []
    tracker_h = tracker_c = None
    if tracker_weights is not None:
        tracker_h = tracker_c = leaves.new_zeros(tracker_weights.weight_hidden.shape[1])
    for transition in [int(code) for code in transitions]:
        if tracker_weights is not None and tracker_h is not None and tracker_c is not None:
            buffer_top = buffer[-1] if buffer else null
            stack1 = stack[-1] if stack else null
            stack2 = stack[-2] if len(stack) > 1 else null
            inputs = torch.cat([state[:n_hidden] for state in (buffer_top, stack1, stack2)])
            tracker_h, tracker_c = track(tracker_weights, inputs, tracker_h, tracker_c)
            tracked.append(tracker_h)
        if transition == SHIFT:
            state = buffer.pop()
        else:
            right = stack.pop()
            left = stack.pop()
            state = compose(compose_weights, left, right, tracker_h)
        stack.append(state)
        pushed.append(state)
    assert (len(buffer), len(stack)) == (0, 1), "the transitions do not read one whole tree"
    return pushed, tracked


def encode_batch(
    leaves: Tensor,  # (L, 2H), the words of all sentences, one sentence after another
    transitions: Sequence[Tensor | Sequence[int]],  # B sequences of 2N - 1
    compose_weights: ComposeParameters,
    tracker_weights: TrackerParameters | None = None,
) -> Tensor:  # (B, 2H) states of the roots
    """The roots' states of B trees, one tree after another."""
    lengths = [(len(codes) + 1) // 2 for codes in transitions]
    return torch.stack(
        [
            encode_tree(words, codes, compose_weights, tracker_weights)[-1]
            for words, codes in zip(leaves.split(lengths), transitions, strict=True)
        ]
    )
