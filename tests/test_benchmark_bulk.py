"""The benchmark of bulk encoding runs, and its corpus is what it says."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bulk
from benchmarks.sentences import load_sentences
from spinn_tensor.data_prep.files import read_examples
from spinn_tensor.data_prep.trees import parse_binary
from tests.tiny_runs import same_threads

pytest.importorskip("pyarrow")
keep_threads = pytest.fixture(autouse=True)(same_threads)


def test_bulk_runs_and_reports_ratios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "SNLI_SLICE", tmp_path / "none")  # nor the training pairs beside it
    bulk.main(["--quick", "--sentences", "random", "--out", str(tmp_path / "bulk.json")])
    result = json.loads((tmp_path / "bulk.json").read_text())
    for what in ("file to shards", "encoding", "reading"):
        first, *others = result[what].values()
        assert first["times_baseline"] == 1
        assert others
        assert all(figures["times_baseline"] > 0 for figures in others)
    assert result["peak_bytes"].keys() == {"40", "200"}
    assert min(result["peak_bytes"].values()) > 2**20
    assert result["largest_difference"] <= bulk.TOLERANCE
    assert "| file to shards | spinn encode |" in (tmp_path / "bulk.md").read_text()


def test_the_trees_come_equally_often_with_words_drawn_by_their_shares(tmp_path: Path) -> None:
    sentences = load_sentences("random")
    words, shares = ["often", "rarely"], np.array([0.9, 0.1])
    bulk.write_sentences(tmp_path / "in.txt", sentences, words, shares, 2 * len(sentences.transitions))
    trees = list(read_examples(tmp_path / "in.txt", parse_binary))
    expected = Counter(transitions.tobytes() for transitions in sentences.transitions)
    assert Counter(tree.transitions.tobytes() for tree in trees) == expected + expected
    counts = Counter(token for tree in trees for token in tree.tokens)
    assert abs(counts["often"] / counts.total() - 0.9) < 0.01
