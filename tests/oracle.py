"""The oracle of every equivalence test: a plain loop over one tree at a time, on Python lists, plain
autograd.

It shares the weights with the code under test and none of its batching. The algorithm itself is
`benchmarks/recursion.py`, where it is also timed as a baseline; this module gives it the names that the tests
use.

States are (2H,) vectors [h; c]. `encode_tree` returns the state pushed by every transition, `oracle_batch`
the (B, 2H) states of the roots of packed sentences, `oracle_rows` all pushed states of packed sentences in
transition order, and `oracle_tracker` the tracker's h before each of these transitions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.recursion import ComposeParameters, TrackerParameters, compose, encode_tree, walk_tree
from benchmarks.recursion import encode_batch as oracle_batch

__all__ = ["compose", "encode_tree", "oracle_batch", "oracle_rows", "oracle_tracker"]


def oracle_rows(
    leaves: Tensor,  # (L, 2H), the words of all sentences, one sentence after another
    transitions: Sequence[Tensor | Sequence[int]],  # B sequences of 2N - 1
    compose_weights: ComposeParameters,
    tracker_weights: TrackerParameters | None = None,
) -> Tensor:  # (2L - B, 2H)
    """The states pushed by all transitions, sentence after sentence in transition order."""
    lengths = [(len(codes) + 1) // 2 for codes in transitions]
    return torch.cat(
        [
            torch.stack(encode_tree(words, codes, compose_weights, tracker_weights))
            for words, codes in zip(leaves.split(lengths), transitions, strict=True)
        ]
    )


def oracle_tracker(
    leaves: Tensor,  # (L, 2H), the words of all sentences, one sentence after another
    transitions: Sequence[Tensor | Sequence[int]],  # B sequences of 2N - 1
    compose_weights: ComposeParameters,
    tracker_weights: TrackerParameters,
) -> Tensor:  # (2L - B, K)
    """The tracker's h at all transitions, sentence after sentence in transition order."""
    lengths = [(len(codes) + 1) // 2 for codes in transitions]
    return torch.cat(
        [
            torch.stack(walk_tree(words, codes, compose_weights, tracker_weights)[1])
            for words, codes in zip(leaves.split(lengths), transitions, strict=True)
        ]
    )
