"""The stack machine as a plain recursion: one tree at a time, on Python lists. It is slow, and it is right.

    SHIFT   pushes the word on top of the buffer
    REDUCE  pops right, then left, and pushes compose(left, right, h_tracker)

    gates  [a; i; f_left; f_right; o] = W [h_left; h_right] + b + W_t h_tracker
    state  c = tanh(a) σ(i) + σ(f_left) c_left + σ(f_right) c_right,    h = σ(o) tanh(c)

(Bowman et al., ACL 2016, section 3.2; the binary TreeLSTM of Tai et al., ACL 2015, equations 9-14.) The tracker is an
LSTM cell on [h of the buffer's top; h of the stack's top; h of the entry below it], stepped from zeros before every
action.

This is the oracle: it shares with the fast executors the weights and nothing else, no index table, no batch, no
hand-written reverse (gradients are plain autograd), and whatever they compute is compared with it. The benchmarks time
it as the slowest baseline. Read it first to know what the machine computes.

A state is one vector [h; c] of length 2H; the null state, which stands for an absent word or stack entry, is zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from spinn_tensor.bundles import ComposeWeights, TrackerWeights
from spinn_tensor.data_prep.trees import SHIFT
from spinn_tensor.machine.any_cell import tracker_dims

Transitions = Tensor | np.ndarray | Sequence[int]  # (2N - 1,) of SHIFT and REDUCE, no padding


def compose(
    weights: ComposeWeights,
    left: Tensor,  # (2H,) [h; c]
    right: Tensor,  # (2H,) [h; c]
    tracker_h: Tensor | None = None,  # (K,)
) -> Tensor:  # (2H,) [h; c]
    """Return the parent's state, given its children's states and the tracker's output."""
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
    weights: TrackerWeights,
    inputs: Tensor,  # (3H,) [h_buffer; h_stack1; h_stack2]
    h: Tensor,  # (K,)
    c: Tensor,  # (K,)
) -> tuple[Tensor, Tensor]:  # (K,) h, (K,) c
    """Take one step of the tracker's LSTM cell."""
    gates = weights.weight_input @ inputs + weights.weight_hidden @ h + weights.bias
    i, f, g, o = gates.chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def walk_tree(
    leaves: Tensor,  # (N, 2H) [h; c] of the words
    transitions: Transitions,
    compose_weights: ComposeWeights,
    tracker_weights: TrackerWeights | None = None,
) -> tuple[list[Tensor], list[Tensor]]:  # 2N - 1 states of (2H,), the root's last; as many (K,), or none
    """Return the state that every transition of one tree pushes, and the tracker's h before each transition."""
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
    transitions: Sequence[Transitions],  # B of them
    compose_weights: ComposeWeights,
    tracker_weights: TrackerWeights | None = None,
) -> Tensor:  # (B, 2H)
    """Return the states of the roots of B trees."""
    walks = _walk_trees(leaves, transitions, compose_weights, tracker_weights)
    return torch.stack([pushed[-1] for pushed, _ in walks])


def encode_nodes(
    leaves: Tensor,  # (L, 2H), the words of all sentences, one sentence after another
    transitions: Sequence[Transitions],  # B of them
    compose_weights: ComposeWeights,
    tracker_weights: TrackerWeights | None = None,
) -> Tensor:  # (2L - B, 2H)
    """Return the states that all transitions of B trees push, tree after tree."""
    walks = _walk_trees(leaves, transitions, compose_weights, tracker_weights)
    return torch.cat([torch.stack(pushed) for pushed, _ in walks])


def tracker_outputs(
    leaves: Tensor,  # (L, 2H), the words of all sentences, one sentence after another
    transitions: Sequence[Transitions],  # B of them
    compose_weights: ComposeWeights,
    tracker_weights: TrackerWeights,
) -> Tensor:  # (2L - B, K)
    """Return the tracker's h before every transition of B trees, tree after tree."""
    walks = _walk_trees(leaves, transitions, compose_weights, tracker_weights)
    return torch.cat([torch.stack(tracked) for _, tracked in walks])


def _walk_trees(
    leaves: Tensor,
    transitions: Sequence[Transitions],
    compose_weights: ComposeWeights,
    tracker_weights: TrackerWeights | None,
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Walk one tree after another, each with its own words."""
    lengths = [(len(codes) + 1) // 2 for codes in transitions]
    for words, codes in zip(leaves.split(lengths), transitions, strict=True):
        yield walk_tree(words, codes, compose_weights, tracker_weights)


def walk_any(
    cell: nn.Module,
    tracker: nn.Module | None,
    leaves: Tensor,  # (N, S) states of the words
    transitions: Transitions,
) -> tuple[list[Tensor], list[Tensor]]:  # 2N - 1 states of (S,), the root's last; as many (K,), or none
    """Return what `walk_tree` does, of any cell and tracker: modules of one step, see `spinn_tensor.model.cells`."""
    null = leaves.new_zeros(1, leaves.shape[1])
    buffer = list(leaves.split(1))[::-1]
    stack: list[Tensor] = []
    pushed: list[Tensor] = []
    tracked: list[Tensor] = []
    state = None if tracker is None else leaves.new_zeros(1, tracker_dims(tracker)[0])
    for transition in [int(code) for code in transitions]:
        seen: list[Tensor] = []
        if tracker is not None:
            stack1, stack2 = (stack[-1] if stack else null), (stack[-2] if len(stack) > 1 else null)
            state = tracker(buffer[-1] if buffer else null, stack1, stack2, state)
            seen = [state[:, : tracker_dims(tracker)[1]]]
            tracked.append(seen[0][0])
        if transition == SHIFT:
            stack.append(buffer.pop())
        else:
            right, left = stack.pop(), stack.pop()
            stack.append(cell(left, right, *seen))
        pushed.append(stack[-1][0])
    return pushed, tracked
