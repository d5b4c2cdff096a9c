"""The benchmarks of parsing: the split holds nothing back twice, and both run, on tiny files and models."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest

from benchmarks import own, parsing
from benchmarks.parsing import split, write_split
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.pairs import PairExample
from spinn_tensor.data_prep.treebank import read_treebank
from spinn_tensor.data_prep.trees import parse_binary
from spinn_tensor.model.classifiers import load_checkpoint
from spinn_tensor.training.config import RunConfig
from spinn_tensor.training.presets import run_config
from tests.machines import needs_shared
from tests.strategies import tree_of
from tests.tiny_runs import same_threads, write_pairs, write_trees

pytest.importorskip("rich")
keep_threads = pytest.fixture(autouse=True)(same_threads)


def test_own_runs_and_reports_ratios(tmp_path) -> None:
    own.main(["--quick", "--sentences", "random", "--out", str(tmp_path / "own.json")])
    result = json.loads((tmp_path / "own.json").read_text())
    assert {row["what"] for row in result["rows"]} == {"forward", "step"}
    for row in result["rows"]:
        first, *others = row["ratio"].values()
        assert first == 1
        assert all(ratio > 0 for ratio in others)
    assert "| H | batch | given |" in (tmp_path / "own.md").read_text()


def test_parsing_runs_and_stores_every_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snli = write_pairs(tmp_path / "pairs.jsonl", 150, seed=1)
    sst = write_trees(tmp_path / "sst.txt", 20, seed=1)
    tiny = {"epochs": 1, "embedding_dim": 4, "hidden_dim": 4, "tracker_dim": 4}
    monkeypatch.setattr(parsing, "run_config", lambda preset, data: run_config(preset, data).changed(**tiny))
    shipped, out = tmp_path / "shipped", tmp_path / "parsing.json"
    options = [
        "--snli",
        str(snli),
        "--sst",
        str(sst),
        "--seeds",
        "1",
        "2",
        "--output",
        str(tmp_path / "runs"),
        "--ship",
        str(shipped),
    ]
    parsing.main([*options, "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["source"] == "pairs.jsonl"
    assert result["sentences"].keys() == {"test", "dev", "train"}
    *baselines, of_slice, of_both = result["rows"].values()
    assert len(baselines) == 5
    assert all("seeds" not in row and row["gold"]["sentence_f1"] > 0 for row in baselines)
    for row in (of_slice, of_both):
        assert row.keys() == {"seeds", "self_f1"}
        assert len(row["seeds"]) == 2
    for name, n_files in (("slice-1", 1), ("slice-2", 1), ("slice-sst-1", 2), ("slice-sst-2", 2)):
        run = RunConfig.from_dict(load_checkpoint(tmp_path / "runs" / name).config.run)
        assert (run.training.seed, len(run.data.train)) == (int(name[-1]), n_files)
    mean = statistics.mean(run["gold"]["sentence_f1"] for run in of_both["seeds"])
    assert f"| SPINN, and SST's trees | {mean:.1%} |" in out.with_suffix(".md").read_text()
    assert load_checkpoint(shipped).config.run["data"]["train"] == ["train.txt", "sst.txt"]


def test_parsing_without_sst_learns_from_the_slice_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parsing, "SST_TRAIN", tmp_path / "none")
    snli = write_pairs(tmp_path / "pairs.jsonl", 150, seed=1)
    tiny = {"epochs": 1, "embedding_dim": 4, "hidden_dim": 4, "tracker_dim": 4}
    monkeypatch.setattr(parsing, "run_config", lambda preset, data: run_config(preset, data).changed(**tiny))
    out = tmp_path / "parsing.json"
    options = ["--snli", str(snli), "--seeds", "1", "--output", str(tmp_path / "runs")]
    parsing.main([*options, "--out", str(out)])
    assert [name for name in json.loads(out.read_text())["rows"] if "SPINN" in name] == [
        "SPINN, the slice's trees"
    ]
    with pytest.raises(DataError, match="none: no such file; name SST's training trees by --sst FILE"):
        parsing.main([*options, "--ship", str(tmp_path / "shipped")])


@pytest.mark.parametrize(
    "option, hint", [("--snli", "; name SNLI's dev file by --snli FILE"), ("--sst", "$")]
)
def test_parsing_says_which_file_it_lacks(option: str, hint: str, tmp_path: Path) -> None:
    files = {
        "--snli": str(write_pairs(tmp_path / "pairs.jsonl", 3, seed=1)),
        "--sst": str(write_trees(tmp_path / "sst.txt", 3, seed=1)),
        option: str(tmp_path / "none"),
    }
    options = [word for pair in files.items() for word in pair]
    with pytest.raises(DataError, match=f"none: no such file{hint}"):
        parsing.main([*options, "--output", str(tmp_path / "runs")])
    assert not (tmp_path / "runs").exists()


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
