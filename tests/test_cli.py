"""The `spinn` command: every subcommand, what it writes, and that every error is one clear line that leaves nothing."""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from data_prep.columns import sentence_columns
from data_prep.trees import Tree, parse_binary
from spinn_tensor import make_sentence_batch
from spinn_tensor.cli.main import build_parser, main
from spinn_tensor.cli.tree_view import side_by_side, tree_lines
from spinn_tensor.training.checkpoint import load_checkpoint
from tests.tiny_runs import SMALL, pair, pair_arguments, tree_arguments, write_pairs

pytest.importorskip("datasets")

Capture = pytest.CaptureFixture[str]
PRESET = ["--preset", "logic-spinn-pi", "--lr", "0.01", "--set", "decay_every=0"]
PREMISE, HYPOTHESIS = "( dogs bark )", "( dogs ( do ( not bark ) ) )"


@pytest.fixture(autouse=True)
def keep_threads() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def pair_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model of pairs."""
    folder = tmp_path_factory.mktemp("pairs")
    extra = f"again={write_pairs(folder / 'again.jsonl', 10, seed=3)}"
    options = [*PRESET, "--epochs", "20", "--extra", extra, "--output", str(folder / "run")]
    n_threads = torch.get_num_threads()
    assert main([*pair_arguments(folder), *options]) == 0
    torch.set_num_threads(n_threads)
    return folder / "run"


@pytest.fixture(scope="module")
def tree_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model of sentences with labels on every node."""
    folder = tmp_path_factory.mktemp("trees")
    options = ["--lr", "0.01", "--epochs", "12", "--dropout", "0", "--output", str(folder / "run")]
    n_threads = torch.get_num_threads()
    assert main([*tree_arguments(folder), *options]) == 0
    torch.set_num_threads(n_threads)
    return folder / "run"


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


def test_train_prints_scores(tmp_path: Path, capsys: Capture) -> None:
    assert main([*pair_arguments(tmp_path), *PRESET, "--epochs", "1", "--output", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr()
    assert re.search(r"dev: accuracy \d+\.\d\d% of 24", printed.out)
    for label in ("entailment", "neutral", "contradiction"):
        assert label in printed.out
    assert "1 epoch: 4 steps in" in printed.out
    assert "dev accuracy" in printed.err


def test_node_labels(tree_run: Path) -> None:
    scores = json.loads((tree_run / "results.json").read_text())["splits"]["dev"]
    assert scores["accuracy"] >= 0.9
    assert scores["nodes"]["n_examples"] == 16 * 5


@pytest.mark.parametrize("kind", ["lstm", "bow"])
def test_trees_without_node_labels(kind: str, tmp_path: Path) -> None:
    arguments = [argument for argument in tree_arguments(tmp_path) if argument != "--node-labels"]
    options = ["--set", f"kind={kind}", "--epochs", "1", "--output", str(tmp_path / "run")]
    assert main([*arguments, *options]) == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["splits"]["dev"]["nodes"] is None


def test_vectors_fix_the_embedding(tmp_path: Path) -> None:
    words = ("dogs", "cats", "bark", "sing", "not", "unseen")
    vectors = tmp_path / "vectors.txt.gz"
    with gzip.open(vectors, "wt", encoding="utf-8") as file:
        file.writelines(
            f"{word} {' '.join(str(i + j / 8) for j in range(8))}\n" for i, word in enumerate(words)
        )
    options = [
        "--preset",
        "spinn-pi-nt",
        "--vectors",
        str(vectors),
        "--epochs",
        "1",
        "--output",
        str(tmp_path / "run"),
    ]
    assert main([*pair_arguments(tmp_path), *options]) == 0
    model, vocabulary, config = load_checkpoint(tmp_path / "run")
    assert not config.model.encoder.train_embedding
    row = vocabulary.index["cats"]
    assert model.encoder.embedding.weight[row].tolist() == [1 + j / 8 for j in range(8)]


def test_without_vectors_the_embedding_is_trained(tmp_path: Path, capsys: Capture) -> None:
    options = ["--preset", "spinn-pi-nt", "--epochs", "1", "--output", str(tmp_path / "run")]
    assert main([*pair_arguments(tmp_path), *options]) == 0
    assert "the embedding is trained from scratch" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "run").config.model.encoder.train_embedding


def test_the_same_run_gives_the_same_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert (
            main([*pair_arguments(tmp_path), *PRESET, "--epochs", "2", "--output", str(tmp_path / name)]) == 0
        )
    weights = [(tmp_path / name / "last" / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]


def test_generated_corpus_is_the_default(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    assert (
        main(["generate", str(folder), "--train", "90", "--dev", "30", "--test", "30", "--long", "30"]) == 0
    )
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"train.jsonl", "dev.jsonl", "test.jsonl", "long.jsonl"} <= set(before)
    output = tmp_path / "run"
    assert main(["train", "--data", str(folder), "--epochs", "1", *SMALL, "--output", str(output)]) == 0
    results = json.loads((output / "results.json").read_text())
    assert set(results["splits"]) == {"dev", "test", "long"}
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_demo(tmp_path: Path, capsys: Capture) -> None:
    corpus = [
        "generate",
        str(tmp_path / "corpus"),
        "--train",
        "90",
        "--dev",
        "30",
        "--test",
        "30",
        "--long",
        "30",
    ]
    assert main(corpus) == 0
    assert main(["demo", "--output", str(tmp_path), "--epochs", "1", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    for kind in ("spinn-pi", "lstm", "bow"):
        assert (tmp_path / kind / "best" / "model.safetensors").exists()
        assert re.search(rf"{kind} .* \d+\.\d% .* \d+\.\d%", printed)
    assert "┬─" in printed
    assert "seconds in all" in printed


def test_evaluate(pair_run: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["evaluate", str(pair_run), "--json", str(tmp_path / "scores.json"), "--device", "cpu"]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores == json.loads((pair_run / "results.json").read_text())["splits"]
    assert "dev: accuracy" in capsys.readouterr().out
    other = write_pairs(tmp_path / "other.jsonl", 7, seed=9)
    assert main(["evaluate", str(pair_run / "last"), "--data", str(other), "--device", "cpu"]) == 0
    assert f"{other}: accuracy" in capsys.readouterr().out


def test_evaluate_sentences(tree_run: Path, capsys: Capture) -> None:
    assert main(["evaluate", str(tree_run)]) == 0
    assert "dev, all nodes: accuracy" in capsys.readouterr().out


def test_predict_draws_both_trees(pair_run: Path, capsys: Capture) -> None:
    assert main(["predict", str(pair_run), "--premise", PREMISE, "--hypothesis", HYPOTHESIS]) == 0
    printed = capsys.readouterr().out
    assert "┬── dogs    ┬────── dogs" in printed
    shares = dict(re.findall(r"^(\w+) +([\d.]+)%", printed, re.MULTILINE))
    assert set(shares) == {"entailment", "neutral", "contradiction"}
    assert sum(map(float, shares.values())) == pytest.approx(100, abs=0.3)
    assert float(shares["contradiction"]) > 50


def test_predict_names_unknown_words(pair_run: Path, capsys: Capture) -> None:
    assert main(["predict", str(pair_run), "--premise", "( dogs [meow] )", "--hypothesis", "dogs"]) == 0
    assert "not in the vocabulary: [meow]" in capsys.readouterr().out


def test_predict_a_sentence(tree_run: Path, capsys: Capture) -> None:
    assert main(["predict", str(tree_run), "--sentence", "( a ( good film ) )"]) == 0
    assert re.search(r"^very positive +\d+\.\d%", capsys.readouterr().out, re.MULTILINE)


def test_predict_a_file_keeps_its_order(pair_run: Path, tmp_path: Path, capsys: Capture) -> None:
    source = write_pairs(tmp_path / "in.jsonl", 30, seed=5)
    records = [json.loads(line) for line in source.read_text().splitlines()]
    records[3]["gold_label"] = "-"
    del records[4]["gold_label"]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    target = tmp_path / "out.jsonl"
    assert main(["predict", str(pair_run), "--input", str(source), "--output", str(target)]) == 0
    assert "30 predictions" in capsys.readouterr().out
    predictions = [json.loads(line) for line in target.read_text().splitlines()]
    assert [p["pairID"] for p in predictions] == [record["pairID"] for record in records]
    assert all(p["label"] == max(p["probabilities"], key=p["probabilities"].get) for p in predictions)
    right = [p["label"] == record.get("gold_label") for p, record in zip(predictions, records, strict=True)]
    assert sum(right) >= 24
    assert main(["predict", str(pair_run), "--input", str(source)]) == 0
    assert capsys.readouterr().out == target.read_text()


def test_predict_a_file_of_sentences(tree_run: Path, tmp_path: Path, capsys: Capture) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"sentenceID": "s1", "binary_parse": "( a film )"}\n')
    assert main(["predict", str(tree_run), "--input", str(source)]) == 0
    assert json.loads(capsys.readouterr().out)["sentenceID"] == "s1"


@pytest.mark.parametrize("field", [None, "sentence1", "sentence2_binary_parse"])
def test_encode_is_the_encoder_in_the_order_of_the_file(
    field: str | None, pair_run: Path, tmp_path: Path
) -> None:
    source = tmp_path / "in.jsonl"
    name = {None: "sentence_binary_parse", "sentence1": "sentence1_binary_parse"}.get(field, field)
    parses = ["( dogs bark )", "dogs", "( ( old cats ) ( do ( not sing ) ) )"] * 3
    source.write_text("".join(json.dumps({name: parse}) + "\n" for parse in parses))
    target = tmp_path / "out.npy"
    option = [] if field is None else ["--field", field]
    assert main(["encode", str(pair_run), "--input", str(source), "--output", str(target), *option]) == 0
    encodings = np.load(target)
    assert encodings.dtype == np.float32
    assert encodings.shape == (9, 8)
    model, vocabulary, _ = load_checkpoint(pair_run)
    for parse, encoding in zip(parses, encodings, strict=True):
        columns = sentence_columns([parse_binary(parse)], vocabulary)
        with torch.no_grad():
            alone = model.encoder(make_sentence_batch(columns, model.encoder.table_kind))[0].numpy()
        np.testing.assert_allclose(encoding, alone, atol=1e-6)


def test_presets(capsys: Capture) -> None:
    assert main(["presets"]) == 0
    assert "spinn-pi-2017" in capsys.readouterr().out
    assert main(["presets", "spinn-pi"]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["learning_rate"] == 7e-3


def test_python_m_runs_the_command() -> None:
    command = [sys.executable, "-m", "spinn_tensor", "presets", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("spinn: error: unknown preset 'nonsense'")
    assert len(done.stderr.splitlines()) == 1


def commands() -> dict[str, argparse.ArgumentParser]:
    for action in build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("no subcommands")


@pytest.mark.parametrize("name", commands())
def test_help_teaches(name: str) -> None:
    text = commands()[name].format_help()
    assert text.count(f"spinn {name}") >= 3  # the usage and two examples
    assert "examples:" in text
    assert len(commands()[name].description or "") > 150


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train", "--resume", "--overwrite"],
        ["train", "--epochs", "0"],
        ["encode", "x"],
        ["train", "--lr", "a"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as status:
        main(arguments)
    assert status.value.code == 2
    assert "usage: spinn" in capsys.readouterr().err


GOOD = json.dumps(pair(__import__("random").Random(0)))


def edited(**changes: object) -> str:
    record = {**json.loads(GOOD), **changes}
    return json.dumps({key: value for key, value in record.items() if value is not None})


def truncated_gz(path: Path) -> None:
    lines = "".join(json.dumps(pair(__import__("random").Random(i))) + "\n" for i in range(2000))
    path.write_bytes(gzip.compress(lines.encode())[:3000])


BAD_LINES = {
    "not JSON": ("{not json", r"train.jsonl:2: .*not JSON"),
    "missing field": (
        edited(sentence2_binary_parse=None),
        r"train.jsonl:2: sentence2_binary_parse: missing field",
    ),
    "unbalanced parse": (
        edited(sentence1_binary_parse="( ( dogs bark )"),
        r"train.jsonl:2: sentence1_binary_parse: ",
    ),
    "unknown label": (edited(gold_label="maybe"), r"train.jsonl:2: gold_label: .*maybe"),
}


def assert_one_error(capsys: Capture, message: str) -> None:
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1, errors
    assert re.search("^spinn: error: .*" + message, errors), errors


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
    assert "1 lines skipped: 1 x " in capsys.readouterr().err


def replace_train(
    content: Callable[[Path], object], name: str = "train.jsonl"
) -> Callable[[Path], list[str]]:
    def arguments(folder: Path) -> list[str]:
        whole = pair_arguments(folder)
        (folder / "train.jsonl").unlink()
        content(folder / name)
        return [
            str(folder / name) if argument == str(folder / "train.jsonl") else argument for argument in whole
        ]

    return arguments


BAD_FILES = {
    "truncated gz": (replace_train(truncated_gz, "train.jsonl.gz"), r"train.jsonl.gz:\d+: truncated"),
    "not a gz": (replace_train(lambda p: p.write_text("x"), "train.jsonl.gz"), r"train.jsonl.gz:1: "),
    "empty file": (replace_train(lambda p: p.touch()), r"train.jsonl: .*empty"),
    "only blank lines": (replace_train(lambda p: p.write_text("\n\n")), r"train.jsonl: no examples"),
    "missing file": (replace_train(lambda p: None), r"train.jsonl: no such file"),
    "missing folder": (
        lambda folder: ["train", "--corpus", "snli", "--data", str(folder / "nowhere")],
        r"nowhere: no such folder",
    ),
    "folder without the corpus": (
        lambda folder: ["train", "--corpus", "snli", "--data", str(folder)],
        r": no snli_1.0_train.jsonl",
    ),
    "truncated zip": (
        lambda folder: [
            (folder / "s.zip").write_bytes(b"PK\3\4x"),
            "train",
            "--corpus",
            "snli",
            "--data",
            str(folder / "s.zip"),
        ][1:],
        r"s.zip: truncated or not a .zip file",
    ),
    "no dev file": (
        lambda folder: ["train", "--corpus", "snli", "--train", str(write_pairs(folder / "t.jsonl", 2, 1))],
        r"no dev file",
    ),
    "missing vectors": (
        lambda folder: [*pair_arguments(folder), "--vectors", str(folder / "v")],
        r"v: no such file",
    ),
    "short vector": (
        lambda folder: [*pair_arguments(folder), "--vectors", str(_write(folder / "v", "dogs 1 2 3\n"))],
        r"v:1: got 3 numbers, expected 8",
    ),
    "unknown key": (lambda folder: [*pair_arguments(folder), "--set", "depth=3"], r"unknown key 'depth'"),
    "bad value": (
        lambda folder: [*pair_arguments(folder), "--dropout", "2"],
        r"embedding_dropout: expected a prob",
    ),
    "unknown preset": (lambda folder: [*pair_arguments(folder), "--preset", "x"], r"unknown preset 'x'"),
    "node labels of pairs": (lambda folder: [*pair_arguments(folder), "--node-labels"], r"node_labels: only"),
    "nodes of an lstm": (
        lambda folder: [*tree_arguments(folder), "--set", "kind=lstm"],
        r"node_labels: only a SPINN",
    ),
    "bad tree": (
        lambda folder: [
            _write(folder / "t", "(3 (2 a)\n"),
            *tree_arguments(folder),
            "--train",
            str(folder / "t"),
        ][1:],
        r"t:1: ",
    ),
    "SST label out of range": (
        lambda folder: [
            _write(folder / "t", "(7 (2 a) (2 b))\n"),
            *tree_arguments(folder),
            "--dev",
            str(folder / "t"),
        ][1:],
        r"t:1: ",
    ),
}
if not torch.cuda.is_available():
    BAD_FILES["no CUDA"] = (
        lambda folder: [*pair_arguments(folder), "--device", "cuda"],
        r"torch sees no CUDA device",
    )


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_input_is_one_line_and_leaves_nothing(name: str, tmp_path: Path, capsys: Capture) -> None:
    make_arguments, message = BAD_FILES[name]
    arguments = [*PRESET, "--epochs", "1", "--output", str(tmp_path / "run")]
    made = make_arguments(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main([made[0], *arguments, *made[1:]]) == 1
    assert_one_error(capsys, message)
    assert sorted(tmp_path.rglob("*")) == before


def test_truncated_gz_with_skip_bad_keeps_what_is_whole(tmp_path: Path, capsys: Capture) -> None:
    arguments = replace_train(truncated_gz, "train.jsonl.gz")(tmp_path)
    options = [*PRESET, "--epochs", "1", "--skip-bad", "--output", str(tmp_path / "run")]
    assert main([*arguments, *options]) == 0
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
    before = sorted(tmp_path.rglob("*"))
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
    assert main(options[command]) == 1
    assert_one_error(capsys, message if command != "resume" else "")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command, target", [("predict", "out.jsonl"), ("encode", "out.npy")])
def test_a_bad_line_leaves_no_half_written_output(
    command: str, target: str, pair_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(f"{GOOD}\n{edited(sentence1_binary_parse='( a )')}\n{GOOD}\n")
    options = [command, str(pair_run), "--input", str(source), "--output", str(tmp_path / target)]
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
    ],
)
def test_predict_says_what_it_needs(
    arguments: list[str], message: str, pair_run: Path, capsys: Capture
) -> None:
    assert main(["predict", str(pair_run), *arguments]) == 1
    assert_one_error(capsys, message)


def test_an_unwritable_output_is_one_line(pair_run: Path, tmp_path: Path, capsys: Capture) -> None:
    source = write_pairs(tmp_path / "in.jsonl", 3, seed=1)
    for output in (str(tmp_path / "nowhere" / "out.npy"), "out.txt"):
        assert (
            main(
                ["encode", str(pair_run), "--input", str(source), "--field", "sentence1", "--output", output]
            )
            == 1
        )
        assert_one_error(capsys, "nowhere|expected a name ending in .npy")
    blocked = _write(tmp_path / "file", "")
    assert main([*pair_arguments(tmp_path), "--output", str(blocked)]) == 1
    assert_one_error(capsys, "file: ")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such checkpoint folder"):
        main(["evaluate", str(tmp_path / "none"), "--debug"])


def test_tree_view() -> None:
    tree = parse_binary("( ( the church ) ( ( has cracks ) . ) )")
    assert tree_lines(tree) == [
        "┬─┬──── the",
        "│ └──── church",
        "└─┬─┬── has",
        "  │ └── cracks",
        "  └──── .",
    ]
    assert tree_lines(parse_binary("church")) == ["─ church"]
    assert side_by_side(["ab", "c"], ["x"]) == ["ab    x", "c"]


def test_tree_view_of_a_long_chain_has_a_line_a_word() -> None:
    n_tokens = 500
    transitions = np.array([0] + [0, 1] * (n_tokens - 1), dtype=np.int8)
    assert len(tree_lines(Tree(("w",) * n_tokens, transitions))) == n_tokens
