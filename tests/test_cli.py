"""The `spinn` command: every subcommand, and what it prints and writes.

Its errors are in test_cli_errors.py, its usage in test_cli_usage.py.
"""

from __future__ import annotations

import gzip
import json
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from spinn_tensor import __version__, make_sentence_batch
from spinn_tensor.cli import arguments
from spinn_tensor.cli.main import main
from spinn_tensor.cli.progress import TerminalObserver
from spinn_tensor.cli.report import comparison_table, parse_table, print_evaluations
from spinn_tensor.data_prep.brackets import score_parses
from spinn_tensor.data_prep.columns import sentence_columns
from spinn_tensor.data_prep.trees import parse_binary
from spinn_tensor.model.classifiers import load_checkpoint
from spinn_tensor.training.checkpoint import Progress
from spinn_tensor.training.evaluate import Evaluation, Scores
from tests.closeness import assert_close
from tests.command_line import Spinn
from tests.tiny_runs import PRESET, SMALL, TINY_LOGIC, pair_arguments, tree_arguments, write_pairs

pytest.importorskip("datasets")

Capture = pytest.CaptureFixture[str]
PREMISE, HYPOTHESIS = "( dogs bark )", "( dogs ( do ( not bark ) ) )"


def test_train_leaves_a_whole_run(pair_run: Path) -> None:
    assert {path.name for path in pair_run.iterdir()} == {
        "run.json",
        "metrics.jsonl",
        "results.json",
        "best",
        "last",
    }
    results = json.loads((pair_run / "results.json").read_text())
    assert set(results["splits"]) == {"dev", "again"}
    assert results["splits"]["dev"]["accuracy"] >= 0.9
    assert results["splits"]["again"]["n_examples"] == 10
    assert results["steps"] == 20 * 4
    settings = json.loads((pair_run / "run.json").read_text())
    assert settings["training"]["learning_rate"] == 0.01
    assert settings["encoder"]["hidden_dim"] == 8
    assert settings["classifier"]["mlp_dim"] == 12


def test_train_prints_scores(tmp_path: Path, spinn: Spinn) -> None:
    printed = spinn(*pair_arguments(tmp_path), *PRESET, "--epochs", "1", "--output", tmp_path / "run")
    assert re.search(r"dev: accuracy \d+\.\d\d% of 24", printed.out)
    for label in ("entailment", "neutral", "contradiction", "macro-F1", "precision", "recall"):
        assert label in printed.out
    assert "1 epoch: 4 steps in" in printed.out
    assert "dev accuracy" in printed.err


def test_train_shows_a_bar_on_a_terminal(
    tmp_path: Path, spinn: Spinn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    monkeypatch.setenv("COLUMNS", "100")
    shown = spinn(*pair_arguments(tmp_path), *PRESET, "--epochs", "2", "--output", tmp_path / "run").err
    assert "epoch 2" in shown
    assert re.search(r"loss \d\.\d{4}  lr 0.01  [\d,]+ pairs/s", shown)


def test_node_labels(tree_run: Path, spinn: Spinn) -> None:
    scores = json.loads((tree_run / "results.json").read_text())["splits"]["dev"]
    assert scores["accuracy"] >= 0.9
    assert scores["nodes"]["n_examples"] == 16 * 5
    assert f"dev, all nodes: accuracy {scores['nodes']['accuracy']:.2%}" in spinn("evaluate", tree_run).out


@pytest.mark.parametrize("packed", [True, False])
def test_the_official_snli_zip_and_folder(packed: bool, tmp_path: Path, spinn: Spinn) -> None:
    folder = tmp_path / "snli_1.0"
    folder.mkdir()
    for seed, split in enumerate(("train", "dev", "test")):
        write_pairs(folder / f"snli_1.0_{split}.jsonl", 20 + seed, seed)
    data = (
        shutil.make_archive(str(tmp_path / "snli"), "zip", tmp_path, "snli_1.0") if packed else str(tmp_path)
    )
    run = str(tmp_path / "run")
    spinn("train", "--corpus", "snli", "--data", data, *PRESET, *SMALL, "--epochs", "1", "--output", run)
    splits = json.loads((tmp_path / "run" / "results.json").read_text())["splits"]
    assert {name: scores["n_examples"] for name, scores in splits.items()} == {"dev": 21, "test": 22}
    if packed:
        assert "accuracy" in spinn("evaluate", run, "--data", data, "--split", "train").out
        assert "say which file of it to read" in spinn.fails("evaluate", run, "--data", data).err


@pytest.mark.parametrize("kind", ["lstm", "bow"])
def test_trees_without_node_labels(kind: str, tmp_path: Path, spinn: Spinn) -> None:
    arguments = [argument for argument in tree_arguments(tmp_path) if argument != "--node-labels"]
    options = ["--set", f"kind={kind}", "--epochs", "1", "--output", str(tmp_path / "run")]
    spinn(*arguments, *options)
    assert "nodes" not in json.loads((tmp_path / "run" / "results.json").read_text())["splits"]["dev"]


@pytest.mark.filterwarnings("always::spinn_tensor.data_prep.errors.DataWarning")
def test_vectors_fix_the_embedding(tmp_path: Path, spinn: Spinn, monkeypatch: pytest.MonkeyPatch) -> None:
    def show(*warning: Any) -> None:  # as Python does where pytest does not keep them
        print(warnings.formatwarning(*warning[:4]), end="", file=sys.stderr)

    monkeypatch.setattr(warnings, "showwarning", show)
    words = ("dogs", "cats", "bark", "sing", "not", "unseen")
    vectors = tmp_path / "vectors.txt.gz"
    with gzip.open(vectors, "wt", encoding="utf-8") as file:
        file.write("4 8\n")
        file.writelines(
            f"{word} {' '.join(str(i + j / 8) for j in range(8))}\n" for i, word in enumerate(words)
        )
    options = ["--preset", "spinn-pi-nt", "--epochs", "1", "--output", str(tmp_path / "run")]
    said = spinn(*pair_arguments(tmp_path), *options, "--vectors", vectors).err.splitlines()
    assert f"spinn: warning: {vectors}: line 1 says 4 words, the file has 6" in said
    model, vocabulary, config = load_checkpoint(tmp_path / "run")
    assert not config.model.encoder.train_embedding
    row = vocabulary.index["cats"]
    assert model.encoder.embedding.weight[row].tolist() == [1 + j / 8 for j in range(8)]


def test_without_vectors_the_embedding_is_trained(tmp_path: Path, spinn: Spinn) -> None:
    options = ["--preset", "spinn-pi-nt", "--epochs", "1", "--output", str(tmp_path / "run")]
    printed = spinn(*pair_arguments(tmp_path), *options).err
    assert "no --vectors: the embedding is trained from scratch\n" in printed
    assert load_checkpoint(tmp_path / "run").config.model.encoder.train_embedding


def test_demo(tmp_path: Path, spinn: Spinn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spinn_tensor.cli.demo.CORPUS", TINY_LOGIC)
    demo = ["demo", "--output", str(tmp_path), "--epochs", "1", "--device", "cpu"]
    printed = spinn(*demo).out
    for kind in ("spinn-pi", "lstm", "bow"):
        assert (tmp_path / kind / "best" / "model.safetensors").exists()
        assert re.search(rf"{kind} .* \d+\.\d% .* \d+\.\d%", printed)
    assert "┬─" in printed
    assert "seconds in all" in printed
    assert "holds a demo already; --overwrite replaces it" in spinn.fails(*demo).err


def test_evaluate(pair_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    printed = spinn("evaluate", pair_run, "--json", tmp_path / "scores.json", "--device", "cpu").out
    scores = json.loads((tmp_path / "scores.json").read_text())
    expected = json.loads((pair_run / "results.json").read_text())["splits"]
    for split in expected:
        assert scores[split].pop("loss") == pytest.approx(expected[split].pop("loss"), rel=1e-5)
    assert scores == expected
    assert "dev: accuracy" in printed
    other = write_pairs(tmp_path / "other.jsonl", 7, seed=9)
    printed = spinn("evaluate", pair_run / "last", "--data", other, "--device", "cpu").out
    assert f"{other}: accuracy" in printed
    counts = Counter(json.loads(line)["gold_label"] for line in other.read_text().splitlines())
    assert f"always the most frequent label: {max(counts.values()) / 7:.2%}" in printed
    other.write_text(other.read_text() + "bad\n")
    error = spinn.fails("evaluate", pair_run, "--data", other, "--device", "cpu").err
    assert error.endswith("; --skip-bad leaves such lines out\n")


def test_evaluate_says_that_a_run_is_unfinished(pair_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    run = shutil.copytree(pair_run, tmp_path / "run")
    assert spinn("evaluate", run / "last").err == ""
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    ends = [number for number, line in enumerate(lines, 1) if json.loads(line)["kind"] == "epoch"]
    (run / "metrics.jsonl").write_text("".join(lines[: ends[2]]))  # as far as an interrupted run has it
    for folder, name in ((run, "best"), (run / "best", "best"), (run / "last", "last")):
        metrics = load_checkpoint(run / name).config.metrics
        at = f"step {metrics['step']}, after epoch {metrics['epoch']}"
        said = f"spinn: {run}: unfinished, 3 of 20 epochs; this checkpoint is of {at}\n"
        assert spinn("evaluate", folder).err == said


def test_evaluate_has_the_limit_of_the_run(tmp_path: Path, spinn: Spinn) -> None:
    run, scores = str(tmp_path / "run"), tmp_path / "scores.json"
    spinn(*pair_arguments(tmp_path), *PRESET, "--epochs", "1", "--limit", "7", "--output", run)
    spinn("evaluate", run, "--json", scores)
    assert json.loads(scores.read_text())["dev"]["n_examples"] == 7
    spinn("evaluate", run, "--json", scores, "--data", tmp_path / "dev.jsonl")
    assert json.loads(scores.read_text())[str(tmp_path / "dev.jsonl")]["n_examples"] == 24


def test_predict_draws_both_trees_and_names_unknown_words(pair_run: Path, spinn: Spinn) -> None:
    printed = spinn("predict", pair_run, "--premise", PREMISE, "--hypothesis", HYPOTHESIS).out
    assert "┬── dogs    ┬────── dogs" in printed
    shares = dict(re.findall(r"^(\w+) +([\d.]+)%", printed, re.MULTILINE))
    assert set(shares) == {"entailment", "neutral", "contradiction"}
    assert sum(map(float, shares.values())) == pytest.approx(100, abs=0.3)
    assert float(shares["contradiction"]) > 50
    shown = spinn("predict", pair_run, "--premise", "( dogs [meow] )", "--hypothesis", "dogs").out
    assert "not in the vocabulary: [meow]" in shown


def test_predict_a_sentence(tree_run: Path, spinn: Spinn) -> None:
    printed = spinn("predict", tree_run, "--sentence", "( a ( good film ) )").out
    assert re.search(r"^very positive +\d+\.\d%", printed, re.MULTILINE)


def test_predict_a_file_keeps_its_order(
    pair_run: Path, tmp_path: Path, spinn: Spinn, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_pairs(tmp_path / "in.jsonl", 30, seed=5)
    records = [json.loads(line) for line in source.read_text().splitlines()]
    records[3]["gold_label"] = "-"
    del records[4]["gold_label"]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    target = tmp_path / "out.jsonl"
    assert "30 predictions" in spinn("predict", pair_run, "--input", source, "--output", target).out
    predictions = [json.loads(line) for line in target.read_text().splitlines()]
    assert [p["id"] for p in predictions] == [record["pairID"] for record in records]
    assert all(p["label"] == max(p["probabilities"], key=p["probabilities"].get) for p in predictions)
    right = [p["label"] == record.get("gold_label") for p, record in zip(predictions, records, strict=True)]
    assert sum(right) >= 24
    monkeypatch.setattr(arguments, "STDIN", source)
    for name in (str(source), "-"):
        assert spinn("predict", pair_run, "--input", name).out == target.read_text()


def test_a_blank_line_is_a_prediction_of_nothing(pair_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    source = write_pairs(tmp_path / "in.jsonl", 3, seed=5)
    first, *others = source.read_text().splitlines()
    source.write_text("\n".join([first, " ", "", *others, "", ""]))
    command = ["predict", str(pair_run), "--input", str(source)]
    printed = spinn(*command)
    predictions = [json.loads(line) for line in printed.out.splitlines()]
    assert [p["label"] is None for p in predictions] == [False, True, True, False, False, True]
    assert predictions[1] == {"line": 2, "id": None, "label": None, "probabilities": None}
    assert [p["line"] for p in predictions] == [1, 2, 3, 4, 5, 6]
    assert [p["id"] for p in predictions if p["label"]] == [json.loads(x)["pairID"] for x in (first, *others)]
    assert "3 lines have no label: 3 x a blank line" in printed.err
    source.write_text(source.read_text() + "bad\n")
    printed = spinn(*command, "--skip-bad")
    assert [json.loads(line) for line in printed.out.splitlines()] == [p for p in predictions if p["label"]]
    assert "4 lines skipped: 3 x a blank line; 1 x" in printed.err
    assert spinn(*command, "--on-error", "skip") == printed
    printed = spinn(*command, "--on-error", "empty")
    assert [json.loads(line) for line in printed.out.splitlines()] == [
        *predictions,
        {**predictions[1], "line": 7},
    ]
    assert "4 lines have no label: 3 x a blank line; 1 x" in printed.err
    shown = spinn(*command, "--on-error", "nan")  # as encode calls it
    assert shown == printed
    spinn.fails(*command, "--on-error", "empty", "--skip-bad")
    printed = spinn.fails(*command)  # those before it are there
    assert [json.loads(line) for line in printed.out.splitlines()] == predictions
    assert f"{source}:7: " in printed.err
    assert printed.err.endswith(
        "; --on-error empty keeps the place of such lines, --skip-bad leaves them out\n"
    )
    source.write_text("\n\n")
    assert "no examples" in spinn.fails(*command).err


def test_predict_a_file_of_sentences(tree_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    source = tmp_path / "in.jsonl"
    for name in ("sentenceID", "pairID", "id"):
        source.write_text(f'{{"{name}": "s1", "binary_parse": "( a film )"}}\n')
        assert json.loads(spinn("predict", tree_run, "--input", source).out)["id"] == "s1"


def test_the_parse_is_the_first_field_that_a_record_has(pair_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    """In the order of every reader of records: sentence_binary_parse, binary_parse, then text."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.npy"
    first, other = "( dogs bark )", "( ( red cats ) sing )"
    found = []
    for record, options in (
        ({"sentence_binary_parse": first}, []),
        ({"binary_parse": other, "sentence_binary_parse": first, "sentence": "x"}, []),
        ({"sentence": "x", "binary_parse": first}, []),
        ({"sentence": "x", "binary_parse": first}, ["--field", "sentence"]),
        ({"sentence_binary_parse": other, "tree": first}, ["--field", "tree"]),
    ):
        source.write_text(json.dumps(record) + "\n")
        arguments = ["encode", str(pair_run), "--input", str(source), "--output", str(target)]
        spinn(*arguments, *options)
        found.append(np.load(target))
    np.testing.assert_array_equal(found, [found[0]] * len(found))


@pytest.mark.parametrize("field", [None, "sentence1", "sentence2_binary_parse"])
def test_encode_is_the_encoder_in_the_order_of_the_file(
    field: str | None, pair_run: Path, tmp_path: Path, spinn: Spinn
) -> None:
    source = tmp_path / "in.jsonl"
    name = {None: "sentence_binary_parse", "sentence1": "sentence1_binary_parse"}.get(field, field)
    parses = ["( dogs bark )", "dogs", "( ( old cats ) ( do ( not sing ) ) )"] * 3
    source.write_text("".join(json.dumps({name: parse}) + "\n" for parse in parses))
    target = tmp_path / "out.npy"
    option = [] if field is None else ["--field", field]
    spinn("encode", pair_run, "--input", source, "--output", target, *option)
    encodings = np.load(target)
    assert encodings.dtype == np.float32
    assert encodings.shape == (9, 8)
    model, vocabulary, _ = load_checkpoint(pair_run)
    for parse, encoding in zip(parses, encodings, strict=True):
        columns = sentence_columns([parse_binary(parse)], vocabulary)
        with torch.no_grad():
            alone = model.encoder(make_sentence_batch(columns, model.encoder.table_kind))[0].numpy()
        assert_close(encoding, alone)


def test_presets(spinn: Spinn) -> None:
    assert "spinn-pi-2017" in spinn("presets").out
    assert tomllib.loads(spinn("presets", "spinn-pi").out)["training"]["learning_rate"] == 7e-3


def test_python_m_runs_the_command() -> None:
    command = [sys.executable, "-m", "spinn_tensor", "presets", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("spinn: error: unknown preset 'nonsense'")
    assert len(done.stderr.splitlines()) == 1


def test_version(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as status:
        main(["--version"])
    assert status.value.code == 0
    versions = f"spinn_tensor {__version__}, torch {torch.__version__}, Python {platform.python_version()}\n"
    assert capsys.readouterr().out == versions
    assert __version__ == metadata.version("spinn_tensor")


@pytest.mark.parametrize("patience", [0, 1])
def test_a_finished_run_has_nothing_left_to_train(patience: int, tmp_path: Path, spinn: Spinn) -> None:
    """Its epochs are done, or early stopping ended it: with no learning the second evaluation is no better."""
    options = [*PRESET, "--epochs", "3" if patience else "1", "--patience", str(patience), "--lr", "1e-12"]
    arguments = [*pair_arguments(tmp_path), *options, "--output", str(tmp_path / "run")]
    spinn(*arguments)
    printed = spinn(*arguments, "--resume").err
    why = (
        "early stopping ended the run at step 8"
        if patience
        else "the run has had its 1 epoch; more by --epochs N"
    )
    assert printed == f"nothing left to train: {why}\n"
    if not patience:
        assert spinn(*arguments, "--resume", "--epochs", "2").err.startswith("resumed at step 4, epoch 2\n")


def test_a_label_is_no_markup(capsys: Capture) -> None:
    labels = ("[bold]:joy:", "[/x]")
    print_evaluations({"dev": Evaluation(Scores(labels, [[2, 1], [0, 3]]), None, None, 0.5)})
    printed = capsys.readouterr().out
    assert [printed.count(label) for label in labels] == [3, 3]


def test_trees_of_single_words_have_no_f1(capsys: Capture) -> None:
    shift = np.zeros(1, dtype=np.int8)
    evaluation = Evaluation(None, None, score_parses(shift, shift, np.array([1])), None)
    TerminalObserver().evaluated(Progress(), evaluation, is_best=False)
    assert capsys.readouterr().err == "step 0  0 s  dev  trees F1 –\n"


def test_tables_of_trees_explain_their_figures(capsys: Capture) -> None:
    shape = np.array([0, 0, 1, 0, 1], dtype=np.int8)
    scores = score_parses(shape, shape, np.array([3]))
    for table in (parse_table(scores), comparison_table({"a": scores})):
        Console(width=80).print(table)
        lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
        assert lines[-2:] == [
            "mean: over sentences; pooled: over all brackets;",
            "inner: without the bracket around the sentence",
        ]
