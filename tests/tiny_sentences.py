"""Draw a few trees, and write a file of their parses, for the tests of bulk encoding."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spinn_tensor.data_prep.trees import Tree, format_binary
from tests.machines import random_transitions

WORDS = ("old", "dogs", "bark", "cats", "sing")
N_LINES = 23


def trees(n_trees: int = N_LINES, seed: int = 0) -> list[Tree]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, n_trees)
    return [Tree(tuple(rng.choice(WORDS, n)), random_transitions(rng, int(n))) for n in lengths]


def write_parses(path: Path, bad: dict[int, str] | None = None) -> list[Tree]:
    """Write a text file of parses, some lines replaced; return the trees of the others."""
    made = trees()
    lines = {line: format_binary(tree) for line, tree in enumerate(made, start=1)} | (bad or {})
    path.write_text("".join(f"{lines[line]}\n" for line in sorted(lines)))
    return [tree for line, tree in enumerate(made, start=1) if line not in (bad or {})]
