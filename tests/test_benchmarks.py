"""Every benchmark runs on tiny sizes, prints its table, times nothing that is wrong, and replaces no results."""

from __future__ import annotations

import gzip
import json
import operator
import zipfile
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from benchmarks import bulk, corpora, data, encoders, gpu, gpu_cases, harness, parsing, sharing
from spinn_tensor.data_prep import Example
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.model.classifiers import load_checkpoint
from spinn_tensor.training.config import RunConfig
from spinn_tensor.training.presets import run_config
from tests.machines import needs_shared
from tests.strategies import left_branching, right_branching, tree_of
from tests.tiny_runs import write_pairs, write_trees

pytest.importorskip("pyarrow")
Capture = pytest.CaptureFixture[str]
# name: options of a quick run besides --quick, and what its table says
QUICK = {
    "encoders": (["--no-memory"], "| 8 | 4 | 8 sorted | – |"),
    "sharing": ([], "| 8 | slice | 8 sorted |"),
    "own": ([], "| H | batch | supervised |"),
    "cells": (["--no-memory"], "| – | 8 sorted |"),
    "compiled": (["--kinds", "spinn-pi-nt"], "| spinn-pi-nt |"),
    "bulk": (["--sentences", "random"], "| file to shards | spinn encode |"),
    "vectors": ([], "| word2vec binary |"),
    "corpora": ([], "| peak memory, MB | "),
    "export": ([], "| pairs | 1 | 4 | 14 |"),
    "serve": ([], "| spinn serve | 4 | "),
    "gpu": (["--device", "cpu"], "| spinn-pi | float32 | 16 | 40 of 40 |"),
}
# which compile or start processes, and what others here run too
SLOW = "export", "compiled", "gpu", "bulk", "serve", "cells", "own"
ON_SNLI = [name for name in QUICK if name not in ("vectors", "export")]


@pytest.fixture(autouse=True)
def pairs_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write tiny pairs, which are also the slice, and give results a folder of their own."""
    path = write_pairs(tmp_path / "pairs.jsonl", 40, seed=1)
    for module in (data, bulk):
        monkeypatch.setattr(module, "SNLI_SLICE", path)
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    return path


def module_of(name: str) -> ModuleType:
    if name == "serve":
        pytest.importorskip("uvicorn")
    if name in ("export", "serve"):
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    return import_module(f"benchmarks.{name}")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in QUICK]
)
def test_it_runs_and_prints_its_table_and_writes_what_it_is_told_to(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(gpu, "POOL", 12)
    monkeypatch.setattr(gpu_cases, "ROUND_SECONDS", 0.0)
    options, line = QUICK[name]
    out = tmp_path / "folder" / "report.json"
    module_of(name).main(["--quick", *options, "--out", str(out)])
    printed = capsys.readouterr().out
    assert line in printed
    assert out.with_suffix(".md").read_text() == printed.removesuffix("\n")
    result = json.loads(out.read_text())
    assert result["command"].startswith(f"python -m benchmarks.{name} --quick")
    assert result["machine"]["torch"] == torch.__version__


@pytest.mark.slow
def test_a_soak_has_a_row_of_each_minute(tmp_path: Path) -> None:
    module_of("serve").main(["--quick", "--soak", "0.01", "--out", str(tmp_path / "soak.json")])
    rows = json.loads((tmp_path / "soak.json").read_text())["rows"]
    assert [row["minute"] for row in rows] == [0, 1]
    assert all(row["requests"] > 0 and row["failed"] == 0 for row in rows)


@pytest.mark.parametrize("name", QUICK)
def test_committed_results_are_replaced_by_a_whole_run_on_the_slice_alone(
    name: str, pairs_file: Path
) -> None:
    parse = module_of(name)._parse
    whole = parse([]).out
    assert whole.parent == harness.RESULTS
    assert whole.name.startswith(name)
    assert parse(["--quick"]).out is None
    assert parse(["--quick", "--out", "mine.json"]).out == Path("mine.json")
    with pytest.raises(SystemExit, match=r"^0$"):
        parse(["--help"])
    if name in ON_SNLI:
        assert parse(["--snli", str(pairs_file)]).out is None
        pairs_file.unlink()  # what is measured then is something else
        assert parse([]).out is None


def test_fewer_seeds_or_another_corpus_replace_nothing(
    pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parsing, "SST_TRAIN", pairs_file)
    assert parsing._parse([]).out == harness.RESULTS / "parsing.json"
    for options in (["--seeds", "1"], ["--sst", __file__], ["--snli", "mine.jsonl"]):
        assert parsing._parse(options).out is None
    pairs_file.unlink()
    assert parsing._parse([]).out is None


def test_a_run_without_out_writes_nothing(tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    harness.publish(sharing._parse(["--quick"]), {}, [], [])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", [*ON_SNLI, "parsing"])
def test_a_missing_file_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(parsing, "SST_TRAIN", write_pairs(tmp_path / "sst.txt", 3, seed=1))
    missing = str(tmp_path / "none.jsonl")
    with pytest.raises(SystemExit) as status:
        harness.run(lambda: module_of(name).main(["--snli", missing]))
    assert str(status.value.code).startswith(f"error: {missing}: no such file")
    assert capsys.readouterr().out == ""


def test_other_errors_are_no_lines() -> None:
    with pytest.raises(ZeroDivisionError):
        harness.run(lambda: print(1 / 0))


def test_snli_is_read_plain_packed_and_from_the_official_zip(pairs_file: Path, tmp_path: Path) -> None:
    packed, archive = tmp_path / "pairs.jsonl.gz", tmp_path / "snli_1.0.zip"
    packed.write_bytes(gzip.compress(pairs_file.read_bytes()))
    with zipfile.ZipFile(archive, "w") as file:
        file.write(pairs_file, "snli_1.0/snli_1.0_dev.jsonl")
    expected = [pair.name for pair in data.snli_pairs("auto")]
    assert len(expected) == 40
    for path in (pairs_file, packed, archive):
        assert [pair.name for pair in data.snli_pairs(str(path))] == expected
        assert len(data.load_pairs(str(path)).columns.labels) == 40
        name, transitions = data.load_sentences(str(path))
        assert (name, len(transitions)) == (f"SNLI ({path.name})", 80)
        assert corpora.make_corpus(tmp_path, 30, str(path)) == name
        assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 30


def test_repeated_pairs_keep_the_distribution_of_lengths() -> None:
    few = data.load_pairs().columns
    columns = data.repeated(few, 100)
    n = few.lengths_key.tolist()
    assert len(columns.labels) == 100
    assert columns.lengths_key[:80].tolist() == [*n, *n]
    assert set(columns.lengths_key[80:].tolist()) <= set(n)


def test_interleaved_times_every_round_and_warms_up() -> None:
    calls: list[str] = []

    def case(name: str):
        return lambda: calls.append(name) or 1.0

    seconds = harness.interleaved([{"a": case("a"), "b": case("b")}], range(-1, 2))
    assert seconds == [{"a": [1.0, 1.0], "b": [1.0, 1.0]}]
    assert calls == ["b", "a", "a", "b", "b", "a"]


def test_flops_and_the_floor_are_counted_as_by_hand() -> None:
    trees = [left_branching(3), left_branching(1)]  # 2 REDUCE, 5 + 1 transitions
    compose = 2 * (2 * 50 * 20)
    assert harness.encoder_flops(trees, 10, 0) == compose
    assert harness.encoder_flops(trees, 10, 3) == compose + 2 * (2 * 50 * 3) + 6 * (2 * 12 * 33)
    trees = [left_branching(3), right_branching(2)]  # 3 compositions, 8 transitions
    products = 3 * 2 * (2 * 10) * 50
    numbers, gates = 3 * 6 * 10 + 20 * 50, 2 * 3 * 50
    for passes, flops, traffic in ((gpu_cases.FORWARD, 1, numbers), (gpu_cases.BOTH, 3, 3 * numbers + gates)):
        assert gpu_cases.floor_seconds(trees, 10, 0, passes, 1.0, 1e30) == flops * products
        assert gpu_cases.floor_seconds(trees, 10, 0, passes, 1e30, 4.0) == traffic


def test_operators_are_counted_inside_and_without_views() -> None:
    x = torch.randn(4, 6, requires_grad=True)
    assert harness.count_operators(lambda: x.view(2, 12).t()[1:].unsqueeze(0)) == 0
    assert harness.count_operators(lambda: torch.nn.functional.linear(x, x)) == 1
    assert harness.count_operators(lambda: x.detach().tanh().reshape(3, 8).sigmoid()) == 2
    # tanh, sum; in the backward pass: ones (a fill), tanh_backward
    assert harness.count_operators(lambda: torch.autograd.grad(x.tanh().sum(), x)) == 4


def test_peak_memory_is_measured_in_a_process() -> None:
    n_bytes = 100_000_000
    assert harness.in_a_process(harness.peak_of, partial(operator.mul, b"a", n_bytes)) > 0.9 * n_bytes
    assert encoders.peak_memory(encoders.FOREST, 6, 4, 8, 0, 1) >= 0


def test_what_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth too much in one gradient or encoding stops the benchmark."""
    options = gpu._parse(["--quick", "--device", "cpu"])
    right, encode = gpu_cases.outputs, sharing._encode

    def wrong(batch, weights, tables, name):
        roots, *gradients = right(batch, weights, tables, name)
        return roots, *gradients[:-1], gradients[-1] * (1.001 if roots.dtype == torch.float32 else 1)

    monkeypatch.setattr(gpu_cases, "outputs", wrong)
    with pytest.raises(RuntimeError, match="'precision': 'float32'"):
        gpu.correctness([left_branching(4), right_branching(5)], options)
    monkeypatch.setattr(
        sharing, "_encode", lambda case, name: encode(case, name) * (1.01 if name == sharing.SHARED else 1)
    )
    _, trees = data.load_trees("auto")
    with pytest.raises(RuntimeError, match="shared: "):
        sharing.make_case(trees[:4], 8, 0)


def test_bulk_draws_words_by_their_shares_and_every_tree_equally_often(tmp_path: Path) -> None:
    name, transitions = data.load_sentences("random")
    text = bulk.Text(name, transitions, ["often", "rarely"], np.array([0.9, 0.1]))
    text.write(tmp_path / "in.txt", 2 * len(transitions))
    trees = parsing.read_trees(tmp_path / "in.txt")
    expected = sorted(codes.tobytes() for codes in transitions)
    assert sorted(tree.transitions.tobytes() for tree in trees) == sorted(expected * 2)
    words = [token for tree in trees for token in tree.tokens]
    assert abs(words.count("often") / len(words) - 0.9) < 0.01


def test_parsing_learns_from_both_files_and_ships_the_parser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snli, sst = (
        write_pairs(tmp_path / "snli.jsonl", 150, seed=1),
        write_trees(tmp_path / "sst.txt", 20, seed=1),
    )
    tiny = {"epochs": 1, "embedding_dim": 4, "hidden_dim": 4, "tracker_dim": 4}
    monkeypatch.setattr(parsing, "run_config", lambda preset, data: run_config(preset, data).changed(**tiny))
    monkeypatch.setattr(parsing, "WIDTH", 3)
    monkeypatch.setattr(parsing, "N_CAPTIONS", 7)
    (tmp_path / "vectors.txt").write_text("film 0.1 0.2 0.3 0.4\nplot 1 2 3 4\n")
    texts = [{"sentence1": f"The dog number {n} barks.", "sentence2": "Cats sing"} for n in range(9)]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    out, shipped, runs = tmp_path / "parsing.json", tmp_path / "shipped", tmp_path / "runs"
    options = ["--snli", str(snli), "--seeds", "1", "2", "--output", str(runs), "--out", str(out)]
    more = ["--vectors", str(tmp_path / "vectors.txt"), "--captions", str(tmp_path / "raw.jsonl")]
    parsing.main([*options, "--sst", str(sst), "--ship", str(shipped), *more])
    result = json.loads(out.read_text())
    assert result["sentences"].keys() == {"test", "dev", "train"}
    parsers = {name: row for name, row in result["rows"].items() if name.startswith("SPINN")}
    assert len(result["rows"]) - len(parsers) == 5
    assert all(row["gold"]["sentence_f1"] > 0 for name, row in result["rows"].items() if name not in parsers)
    assert [len(row["seeds"]) for row in parsers.values()] == [2, 2, 2, 2]
    assert all(
        seed["best"] >= seed["gold"]["sentence_f1"] for row in parsers.values() for seed in row["seeds"]
    )
    for name, n_files in (("slice-1", 1), ("slice-sst-2", 2), ("vectors-1", 2), ("captions-2", 4)):
        run = RunConfig.from_dict(load_checkpoint(runs / name).config.run)
        assert (run.training.seed, len(run.data.train)) == (int(name[-1]), n_files)
        assert run.encoder["embedding_dim"] == (4 if name.startswith("slice") else 3)
    assert len(parsing.read_trees(runs / "data" / "captions.txt")) == 7
    assert load_checkpoint(shipped).config.run["data"]["train"] == [
        "train.txt",
        "train.txt",
        "sst.txt",
        "captions.txt",
    ]
    assert "| SPINN, and SST's trees | " in out.with_suffix(".md").read_text()
    monkeypatch.setattr(parsing, "SST_TRAIN", tmp_path / "none")
    for missing in (["--ship", str(shipped)], ["--sst", str(tmp_path / "none")]):
        with pytest.raises(DataError, match="none: no such file"):
            parsing.main([*options, *missing])


def test_what_parsing_holds_back_is_nowhere_else() -> None:
    """Hypotheses shared by premises of different parts are in one of them."""
    rng = np.random.default_rng(0)
    shapes = [left_branching(3), right_branching(3)]
    pairs = []
    for number in range(200):
        premise = tree_of(shapes[rng.integers(2)])._replace(tokens=(f"p{number}", "x", "y"))
        hypothesis = tree_of(shapes[rng.integers(2)])._replace(tokens=(f"h{rng.integers(50)}", "x", "y"))
        pairs.append(Example((premise, hypothesis)))
    parts = parsing.split(pairs)
    sentences = {name: {tree.tokens for tree in trees} for name, trees in parts.items()}
    assert all(sentences.values())
    assert not sentences["test"] & sentences["dev"]
    assert not (sentences["test"] | sentences["dev"]) & sentences["train"]
    assert set.union(*sentences.values()) == {tree.tokens for pair in pairs for tree in pair.trees}


@needs_shared
def test_parsing_splits_the_slice_as_its_results_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    files = parsing.write_split(tmp_path)
    counts = {name: len(parsing.read_trees(path)) for name, path in files.items()}
    assert counts == {"test": 410, "dev": 210, "train": 1093}
