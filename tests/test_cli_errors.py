"""Every error of the `spinn` command: one clear line that names the place, status 1, and nothing half-written."""

from __future__ import annotations

import gzip
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spinn_tensor.cli.main import main
from spinn_tensor.config import ConfigError
from spinn_tensor.training.run import execute, saved_run
from tests.tiny_runs import (
    PRESET,
    SMALL,
    pair,
    pair_arguments,
    same_threads,
    train_pairs,
    tree_arguments,
    write_pairs,
)

pytest.importorskip("datasets")

Capture = pytest.CaptureFixture[str]
GOOD = json.dumps(pair(random.Random(0)))
PREMISE = "( dogs bark )"
keep_threads = pytest.fixture(autouse=True)(same_threads)


@pytest.fixture(scope="module")
def pair_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model of pairs."""
    return train_pairs(tmp_path_factory.mktemp("pairs"))


def edited(**changes: object) -> str:
    """A good line with fields changed; None removes one."""
    record = {**json.loads(GOOD), **changes}
    return json.dumps({key: value for key, value in record.items() if value is not None})


def assert_one_error(capsys: Capture, message: str) -> None:
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1, errors
    assert re.search("^spinn: error: .*" + message, errors), errors


BAD_LINES = {
    "not JSON": ("{not json", r"train.jsonl:2: .*not JSON"),
    "missing field": (edited(sentence2_binary_parse=None), r"train.jsonl:2: sentence2_binary_parse: missing"),
    "unbalanced": (
        edited(sentence1_binary_parse="( ( dogs bark )"),
        r"train.jsonl:2: sentence1_binary_parse: ",
    ),
    "text": (
        edited(sentence1_binary_parse=None, sentence1="dogs bark"),
        r"train.jsonl:2: sentence1_binary_parse: missing field; sentence1 is text .* --branching",
    ),
    "unknown label": (edited(gold_label="maybe"), r"train.jsonl:2: gold_label: .*maybe"),
    "half a surrogate pair": (
        edited(sentence1_binary_parse="( dogs \ud800 )"),
        r"train.jsonl:2: sentence1_binary_parse: half of a surrogate pair",
    ),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_ends_training_before_anything_is_written(
    name: str, tmp_path: Path, capsys: Capture
) -> None:
    line, message = BAD_LINES[name]
    arguments = pair_arguments(tmp_path)
    (tmp_path / "train.jsonl").write_text(f"{GOOD}\n{line}\n{GOOD}\n{edited(gold_label='neutral')}\n")
    before = sorted(tmp_path.rglob("*"))
    options = [*PRESET, "--epochs", "1", "--output", str(tmp_path / "run")]
    assert main([*arguments, *options]) == 1
    assert_one_error(capsys, message)
    assert sorted(tmp_path.rglob("*")) == before
    assert main([*arguments, *options, "--skip-bad"]) == 0
    errors = capsys.readouterr().err
    assert errors.startswith("1 lines skipped: 1 x ")
    assert errors.count("lines skipped") == 1
    assert list(json.loads((tmp_path / "run" / "results.json").read_text())["skipped"].values()) == [1]


def truncated_gz() -> bytes:
    rng = random.Random(1)
    return gzip.compress("".join(json.dumps(pair(rng)) + "\n" for _ in range(2000)).encode())[:3000]


# Content of a file given as --train (None: there is no such file), its name, and what is said about it.
BAD_FILES: dict[str, tuple[bytes | None, str, str]] = {
    "truncated gz": (truncated_gz(), "bad.jsonl.gz", r"bad.jsonl.gz:\d+: truncated"),
    "not a gz": (b"x", "bad.jsonl.gz", r"bad.jsonl.gz:1: "),
    "not UTF-8": (b"\xff\xfe\n", "bad.jsonl", r"bad.jsonl:1: not UTF-8"),
    "empty": (b"", "bad.jsonl", r"bad.jsonl: .*empty"),
    "blank lines": (b"\n\n", "bad.jsonl", r"bad.jsonl: no examples"),
    "missing": (None, "bad.jsonl", r"bad.jsonl: no such file"),
    "missing folder": (None, "nowhere/bad.jsonl", r"nowhere/bad.jsonl: no such folder"),
    "no label agreed on": (edited(gold_label="-").encode() + b"\n", "bad.jsonl", r"bad.jsonl: no examples"),
}
BAD_TREES: dict[str, tuple[bytes | None, str, str]] = {
    "unbalanced tree": (b"(3 (2 a)\n", "bad.txt", r"bad.txt:1: "),
    "label out of range": (b"(7 (2 a) (2 b))\n", "bad.txt", r"bad.txt:1: "),
    "three children": (b"(3 (2 a) (2 b) (2 c))\n", "bad.txt", r"bad.txt:1: "),
}


@pytest.mark.parametrize("name", [*BAD_FILES, *BAD_TREES])
def test_a_bad_file_is_one_line_and_leaves_nothing(name: str, tmp_path: Path, capsys: Capture) -> None:
    content, file, message = {**BAD_FILES, **BAD_TREES}[name]
    arguments = (pair_arguments if name in BAD_FILES else tree_arguments)(tmp_path)
    if content is not None:
        (tmp_path / file).write_bytes(content)
    arguments[arguments.index("--train") + 1] = str(tmp_path / file)
    options = ["--epochs", "1", "--output", str(tmp_path / "run")]
    assert_fails_cleanly([*arguments, *options], message, tmp_path, capsys)


# Options after those of a good run, and what is said about them; FOLDER stands for the test's folder.
BAD_OPTIONS = {
    "missing vectors": (["--vectors", "FOLDER/none.txt"], r"none.txt: no such file"),
    "short vector": (["--vectors", "FOLDER/short.txt"], r"short.txt:1: got 3 numbers, expected 8"),
    "unknown key": (["--set", "depth=3"], r"unknown key 'depth'"),
    "bad value": (["--dropout", "2"], r"embedding_dropout: expected a probability"),
    "unknown preset": (["--preset", "x"], r"unknown preset 'x'"),
    "node labels of pairs": (["--node-labels"], r"node_labels: only"),
    "extra without a file": (["--extra", "long"], r"extra: expected NAME=FILE"),
    "compiled LSTM": (["--compile", "--set", "kind=lstm"], r"compile: torch.compile cannot take an LSTM"),
    "branching of nodes": (["--branching", "left", "--corpus", "sst", "--node-labels"], r"node_labels: the"),
    "a parser that cannot parse": (
        ["--corpus", "trees", "--set", "kind=lstm"],
        r"f1 is for an encoder that parses, kind 'spinn'; got 'lstm'",
    ),
    "trees in a zip": (["--corpus", "trees", "--train", "FOLDER/a.zip"], r"a.zip: .*not a .zip file"),
    "extra named like a split": (["--extra", "dev=FOLDER/dev.jsonl"], r"has a split 'dev' already"),
}
if not torch.cuda.is_available():
    BAD_OPTIONS["no CUDA"] = (["--device", "cuda"], r"torch sees no CUDA device")


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options_are_one_line_and_leave_nothing(name: str, tmp_path: Path, capsys: Capture) -> None:
    options, message = BAD_OPTIONS[name]
    (tmp_path / "short.txt").write_text("dogs 1 2 3\n")
    (tmp_path / "a.zip").write_text("x")
    options = [option.replace("FOLDER", str(tmp_path)) for option in options]
    whole = [*pair_arguments(tmp_path), "--epochs", "1", "--output", str(tmp_path / "run"), *options]
    assert_fails_cleanly(whole, message, tmp_path, capsys)


# Where --data does not hold the corpus.
BAD_DATA = {
    "missing folder": ("snli", "nowhere", r"nowhere: no such folder"),
    "other files": ("snli", ".", r": no snli_1.0_train.jsonl"),
    "truncated zip": ("snli", "bad.zip", r"bad.zip: truncated or not a .zip file"),
    "other trees": ("sst", ".", r": no train.txt"),
    "no treebank": ("trees", ".", r": no train.txt"),
    "missing generated corpus": ("logic", "run/corpus", r"run/corpus: no such folder"),
    "not a generated corpus": ("logic", ".", r": no train.jsonl"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_a_bad_corpus_is_one_line_and_leaves_nothing(name: str, tmp_path: Path, capsys: Capture) -> None:
    corpus, data, message = BAD_DATA[name]
    (tmp_path / "bad.zip").write_bytes(b"PK\3\4x")
    options = ["--corpus", corpus, "--data", str(tmp_path / data), "--output", str(tmp_path / "run")]
    assert_fails_cleanly(["train", *options], message, tmp_path, capsys)


def test_a_corpus_needs_a_dev_file(tmp_path: Path, capsys: Capture) -> None:
    train = write_pairs(tmp_path / "train.jsonl", 3, seed=1)
    options = ["--corpus", "snli", "--train", str(train), "--output", str(tmp_path / "run")]
    assert_fails_cleanly(["train", *options], "no dev file: give --dev FILE", tmp_path, capsys)


def test_nodes_of_an_encoder_without_trees(tmp_path: Path, capsys: Capture) -> None:
    options = ["--set", "kind=lstm", "--output", str(tmp_path / "run")]
    assert_fails_cleanly([*tree_arguments(tmp_path), *options], "node_labels: only a SPINN", tmp_path, capsys)


def test_generate_leaves_other_files_alone(tmp_path: Path, capsys: Capture) -> None:
    write_pairs(tmp_path / "train.jsonl", 3, seed=1)
    assert_fails_cleanly(
        ["generate", str(tmp_path)],
        r"holds other files \(train.jsonl\); name a new folder",
        tmp_path,
        capsys,
    )


def test_generate_takes_no_file_for_a_folder(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "corpus").write_text("mine")
    assert_fails_cleanly(["generate", str(tmp_path / "corpus")], "corpus: a file", tmp_path, capsys)


def test_a_folder_where_the_corpus_should_be_generated(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "run" / "corpus").mkdir(parents=True)
    (tmp_path / "run" / "corpus" / "notes.txt").write_text("mine")
    arguments = ["train", "--output", str(tmp_path / "run"), *SMALL]
    assert_fails_cleanly(arguments, r"corpus: holds other files \(notes.txt\)", tmp_path, capsys)


def test_split_needs_data(pair_run: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments = ["evaluate", str(pair_run), "--split", "test"]
    assert_fails_cleanly(arguments, "--split goes with --data", tmp_path, capsys)


def test_nodes_under_other_trees_have_no_labels(tmp_path: Path, capsys: Capture) -> None:
    run = str(tmp_path / "run")
    assert main([*tree_arguments(tmp_path), "--epochs", "1", "--output", run]) == 0
    capsys.readouterr()
    message = "node_labels: the nodes of trees made by --branching have no labels"
    assert_fails_cleanly(["evaluate", run, "--branching", "left"], message, tmp_path, capsys)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory.\nTried"), MemoryError()])
def test_out_of_memory_is_one_line(
    error: Exception, pair_run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("spinn_tensor.cli.evaluate.evaluate", fail)
    assert main(["evaluate", str(pair_run)]) == 1
    assert_one_error(capsys, "out of memory")


@pytest.mark.parametrize("name", ["sentenceID", "pairID"])
def test_identifiers_are_text(name: str, pair_run: Path, tmp_path: Path, capsys: Capture) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"binary_parse": "( a b )", name: 3.5}) + "\n")
    arguments = ["encode", str(pair_run), "--input", str(source), "--output", str(tmp_path / "out.npy")]
    assert_fails_cleanly(arguments, f"in.jsonl:1: {name}: got float, expected a string", tmp_path, capsys)


def assert_fails_cleanly(arguments: list[str], message: str, folder: Path, capsys: Capture) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(arguments) == 1
    assert_one_error(capsys, message)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_truncated_gz_with_skip_bad_gives_what_is_whole(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "bad.jsonl.gz").write_bytes(truncated_gz())
    options = ["--train", str(tmp_path / "bad.jsonl.gz"), "--epochs", "1", "--skip-bad"]
    assert main([*pair_arguments(tmp_path), *PRESET, *options, "--output", str(tmp_path / "run")]) == 0
    assert "truncated" in capsys.readouterr().err


def test_an_existing_run_is_not_overwritten_unasked(pair_run: Path, tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "run"
    arguments = [*pair_arguments(tmp_path), *PRESET, "--epochs", "1", "--output", str(output)]
    assert main(arguments) == 0
    (output / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main([*arguments, "--seed", "2"]) == 1
    assert_one_error(capsys, "holds a run already; --resume goes on with it, --overwrite deletes it")
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert main([*arguments, "--seed", "2", "--overwrite"]) == 0
    assert (output / "notes.txt").read_text() == "mine"
    assert json.loads((output / "run.json").read_text())["training"]["seed"] == 2


def test_execute_itself_keeps_an_existing_run(pair_run: Path, tmp_path: Path) -> None:
    settings = saved_run(pair_run)
    assert settings is not None
    with pytest.raises(ConfigError, match="holds a run already"):
        execute(settings, pair_run)
    with pytest.raises(ConfigError, match="either resumed or overwritten"):
        execute(settings, pair_run, resume=True, overwrite=True)


def test_a_resume_that_fails_leaves_the_settings(pair_run: Path, tmp_path: Path, capsys: Capture) -> None:
    run = Path(shutil.copytree(pair_run, tmp_path / "run"))
    damaged(lambda tensors: tensors.pop("mlp.output.bias"))(run / "last")
    arguments = ["train", "--output", str(run), "--resume", "--epochs", "99"]
    assert_fails_cleanly(arguments, "tensor 'mlp.output.bias' is missing", tmp_path, capsys)


def damaged(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


@pytest.mark.parametrize(
    "damage, message",
    [
        (
            damaged(lambda t: t.pop("mlp.output.bias")),
            r"model.safetensors: tensor 'mlp.output.bias' is missing",
        ),
        (
            damaged(lambda t: t.update({"mlp.output.bias": torch.zeros(9)})),
            r"tensor 'mlp.output.bias' has shape \(9,\)",
        ),
        (shutil.rmtree, r"no such checkpoint folder"),
        (lambda folder: (folder / "config.json").unlink(), r"no checkpoint here"),
    ],
    ids=["missing tensor", "misshapen tensor", "missing folder", "no config"],
)
@pytest.mark.parametrize("command", ["evaluate", "predict", "encode", "resume"])
def test_a_damaged_checkpoint_is_one_line_for_every_command(
    command: str,
    damage: Callable[[Path], None],
    message: str,
    pair_run: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(pair_run, run)
    if command == "resume" and damage is shutil.rmtree:
        pytest.skip("a run without a checkpoint begins anew")
    damage(run / "last")
    source = write_pairs(tmp_path / "in.jsonl", 3, seed=1)
    options = {
        "evaluate": ["evaluate", str(run / "last"), "--json", str(tmp_path / "scores.json")],
        "predict": [
            "predict",
            str(run / "last"),
            "--input",
            str(source),
            "--output",
            str(tmp_path / "out.jsonl"),
        ],
        "encode": [
            "encode",
            str(run / "last"),
            "--input",
            str(source),
            "--output",
            str(tmp_path / "out.npy"),
        ],
        "resume": ["train", "--output", str(run), "--resume"],
    }
    assert_fails_cleanly(options[command], message if command != "resume" else "", tmp_path, capsys)


@pytest.mark.parametrize("command, target", [("predict", "out.jsonl"), ("encode", "out.npy")])
def test_a_bad_line_leaves_no_half_written_output(
    command: str, target: str, pair_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(f"{GOOD}\n{edited(sentence1_binary_parse='( a )')}\n{GOOD}\n")
    options = [command, str(pair_run), "--input", str(source), "--output", str(tmp_path / target)]
    if command == "encode":
        options += ["--field", "sentence1"]
    assert main(options) == 1
    assert_one_error(capsys, r"in.jsonl:2: sentence1_binary_parse: ")
    assert sorted(tmp_path.iterdir()) == [source]
    assert main([*options, "--skip-bad"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("2 ")
    assert "1 lines skipped" in printed.err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--premise", PREMISE], "a pair needs both"),
        (["--premise", PREMISE, "--hypothesis", "( a"], r"--hypothesis: "),
        (["--sentence", PREMISE], "this checkpoint classifies pairs"),
        ([], "give --premise and --hypothesis, or --sentence, or --input"),
        (["--premise", "a", "--hypothesis", "b", "--output", "x"], "--output goes with --input"),
        (["--premise", "a", "--hypothesis", "b", "--field", "x"], "--field goes with --input"),
        (["--premise", "a", "--hypothesis", "b", "--skip-bad"], "--skip-bad goes with --input"),
        (["--input", "x", "--field", "sentence1"], "--field: this checkpoint classifies pairs"),
    ],
)
def test_predict_says_what_it_needs(
    arguments: list[str], message: str, pair_run: Path, capsys: Capture
) -> None:
    assert main(["predict", str(pair_run), *arguments]) == 1
    assert_one_error(capsys, message)


@pytest.mark.parametrize(
    "output, message",
    [
        ("nowhere/out.npy", "nowhere"),
        ("in.jsonl", "expected a name ending in .npy or .safetensors, for one array, or a folder"),
        ("file", "a file, expected a folder, or a name ending in .npy or .safetensors"),
        ("", "holds files, but no encodings"),
    ],
)
def test_an_unwritable_output_is_one_line(
    output: str, message: str, pair_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    source = write_pairs(tmp_path / "in.jsonl", 3, seed=1)
    (tmp_path / "file").touch()
    options = ["--input", str(source), "--field", "sentence1", "--output", str(tmp_path / output)]
    assert_fails_cleanly(["encode", str(pair_run), *options], message, tmp_path, capsys)


def test_missing_vectors_are_said_before_the_corpus_is_read(tmp_path: Path, capsys: Capture) -> None:
    arguments = pair_arguments(tmp_path)
    (tmp_path / "train.jsonl").write_text("{not json\n")
    options = ["--vectors", str(tmp_path / "none.txt"), "--output", str(tmp_path / "run")]
    assert_fails_cleanly([*arguments, *options], "none.txt: no such file", tmp_path, capsys)


@pytest.mark.parametrize("options", [["--data", "nowhere"], ["--train", "nowhere", "--dev", "nowhere"]])
def test_nothing_is_said_of_vectors_before_an_error(
    options: list[str], tmp_path: Path, capsys: Capture
) -> None:
    arguments = [
        "train",
        "--corpus",
        "snli",
        "--preset",
        "spinn-pi",
        *options,
        "--output",
        str(tmp_path / "run"),
    ]
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1


def test_a_file_where_the_run_should_be(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").touch()
    options = ["--output", str(tmp_path / "file")]
    assert_fails_cleanly([*pair_arguments(tmp_path), *options], "file: ", tmp_path, capsys)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such checkpoint folder"):
        main(["evaluate", str(tmp_path / "none"), "--debug"])
