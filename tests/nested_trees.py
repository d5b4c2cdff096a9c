"""Trees as tuples in tuples, whose brackets a recursion finds, and those of the slice of SNLI."""

from __future__ import annotations

import gzip
import json

import numpy as np

from spinn_tensor.data_prep.trees import SHIFT
from tests.machines import SHARED

Nested = int | tuple["Nested", "Nested"]


def nested(transitions: np.ndarray) -> Nested:
    """Return the tree as pairs of pairs, its words numbered from 0."""
    stack: list[Nested] = []
    n_words = 0
    for transition in transitions.tolist():
        if transition == SHIFT:
            stack.append(n_words)
            n_words += 1
        else:
            right, left = stack.pop(), stack.pop()
            stack.append((left, right))
    return stack[0]


def words(tree: Nested) -> list[int]:
    return [tree] if isinstance(tree, int) else words(tree[0]) + words(tree[1])


def spans(tree: Nested) -> set[tuple[int, int]]:
    if isinstance(tree, int):
        return set()
    return {(words(tree)[0], words(tree)[-1] + 1)} | spans(tree[0]) | spans(tree[1])


def snli_parses() -> list[tuple[str, str]]:
    with gzip.open(SHARED / "snli" / "snli_1.0_dev_slice.jsonl.gz", "rt") as lines:
        records = list(map(json.loads, lines))
    names = ("sentence1", "sentence2")
    return sorted({(r[f"{name}_parse"], r[f"{name}_binary_parse"]) for r in records for name in names})
