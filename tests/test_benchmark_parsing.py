"""The benchmarks of parsing: the split holds nothing back twice, and they run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import own
from benchmarks.parsing import split, write_split
from data_prep.snli import PairExample
from data_prep.treebank import read_treebank
from data_prep.trees import parse_binary
from tests.machines import needs_shared
from tests.strategies import tree_of

pytest.importorskip("rich")


def test_own_runs_and_reports_ratios(tmp_path) -> None:
    own.main(["--quick", "--sentences", "random", "--out", str(tmp_path / "own.json")])
    result = json.loads((tmp_path / "own.json").read_text())
    assert {row["what"] for row in result["rows"]} == {"forward", "step"}
    for row in result["rows"]:
        first, *others = row["ratio"].values()
        assert first == 1
        assert all(ratio > 0 for ratio in others)
    assert "| H | batch | given |" in (tmp_path / "own.md").read_text()


def test_what_is_held_back_is_nowhere_else() -> None:
    """Hypotheses shared by premises of different parts are in one of them."""
    rng = np.random.default_rng(0)
    shapes = [np.array([0, 0, 1, 0, 1]), np.array([0, 0, 0, 1, 1])]
    pairs = []
    for number in range(200):
        premise = tree_of(shapes[rng.integers(2)])._replace(tokens=(f"p{number}", "x", "y"))
        hypothesis = tree_of(shapes[rng.integers(2)])._replace(tokens=(f"h{rng.integers(50)}", "x", "y"))
        pairs.append(PairExample(premise, hypothesis, None, ""))
    parts = split(pairs)
    sentences = {name: {tree.tokens for tree in trees} for name, trees in parts.items()}
    assert all(sentences.values())
    assert not sentences["test"] & sentences["dev"]
    assert not (sentences["test"] | sentences["dev"]) & sentences["train"]
    assert set.union(*sentences.values()) == {tree.tokens for pair in pairs for tree in pair[:2]}


@needs_shared
def test_the_split_of_the_slice(tmp_path) -> None:
    files = write_split(tmp_path)
    counts = {name: len(list(read_treebank(path))) for name, path in files.items()}
    assert counts == {"test": 410, "dev": 210, "train": 1093}
    assert parse_binary(files["test"].read_text().splitlines()[0]).n_tokens > 1
