"""Trees as tuples in tuples, whose brackets a recursion finds, and those of the slice of SNLI."""

from __future__ import annotations

import gzip
import json
from typing import Any

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


def depths(tree: Nested, depth: int = 0) -> list[int]:
    """Return how deep each word lies."""
    return [depth] if isinstance(tree, int) else depths(tree[0], depth + 1) + depths(tree[1], depth + 1)


def spans(tree: Nested) -> set[tuple[int, int]]:
    if isinstance(tree, int):
        return set()
    return {(words(tree)[0], words(tree)[-1] + 1)} | spans(tree[0]) | spans(tree[1])


def nltk_phrases(tree: Any) -> list[tuple[str, int, int]]:
    """Return label and words [start, end) of the phrases of an nltk tree; a word with its tag is none."""
    leaves = [tree.leaf_treeposition(i) for i in range(len(tree.leaves()))]
    found = []
    for place in tree.treepositions():
        if not isinstance(tree[place], str) and tree[place].height() > 2:
            inside = [i for i, leaf in enumerate(leaves) if leaf[: len(place)] == place]
            found.append((tree[place].label(), inside[0], inside[-1] + 1))
    return found


def snli_parses() -> list[tuple[str, str]]:
    with gzip.open(SHARED / "snli" / "snli_1.0_dev_slice.jsonl.gz", "rt") as lines:
        records = list(map(json.loads, lines))
    names = ("sentence1", "sentence2")
    return sorted({(r[f"{name}_parse"], r[f"{name}_binary_parse"]) for r in records for name in names})
