"""Every error of the `spinn` command: one clear line that names the place, status 1, and nothing half-written.

What is said of each kind of bad line or file is tested where they are read; here, that the commands say it.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from spinn_tensor.cli.main import main
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.temporary import alone_in
from spinn_tensor.training.run import execute, saved_run
from tests.command_line import Spinn, assert_fails_cleanly, assert_one_error, words_of
from tests.damage import WEIGHTS, change_tensors
from tests.tiny_runs import PRESET, SMALL, pair, pair_arguments, tree_arguments, write_pairs

pytest.importorskip("datasets")

Capture = pytest.CaptureFixture[str]
GOOD = json.dumps(pair(random.Random(0)))
PREMISE = "( dogs bark )"


def edited(**changes: object) -> str:
    """A good line with fields changed; None removes one."""
    record = {**json.loads(GOOD), **changes}
    return json.dumps({key: value for key, value in record.items() if value is not None})


def truncated_gz() -> bytes:
    rng = random.Random(1)
    return gzip.compress("".join(json.dumps(pair(rng)) + "\n" for _ in range(2000)).encode())[:3000]


FILES: dict[str, bytes] = {
    "bad.jsonl": f"{GOOD}\n{edited(sentence1_binary_parse='( ( dogs bark )')}\n{GOOD}\n".encode(),
    "cut.jsonl.gz": truncated_gz(),
    "none.jsonl": edited(gold_label="-").encode() + b"\n",
    "short.txt": b"dogs 1 2 3\n",
    "not.zip": b"PK\3\4x",
    "tree.txt": b"(3 (2 a)\n",
    "own.toml": b"[training]\nepoch = 2\n",
    "twice.csv": b"text,label,text\na,x,b\n",
    "mac.csv": b"text,label\ra b,x\r",
    "one.csv": b"text,label\na b,x\nc d,x\n",
    "list.jsonl": b'[{"text": "a b", "label": "x"}]',
    "table.txt": b"text,label\na b,x\n",
    "utf16.txt": "a b\n".encode("utf-16-le"),
    "open.json": b'[{"text": "a b", "label": "x"},',
}
SNLI, SST = ["--corpus", "snli"], ["--corpus", "sst"]
OWN = ["--corpus", "sentences", "--branching", "left"]
PAIRS = [*SNLI, "--train", "train.jsonl", "--dev", "dev.jsonl"]

# Options after those of a command on good pairs, in a folder with FILES, and what is said about them.
OF_TRAINING: dict[str, tuple[list[str], str]] = {
    "bad line": (["--train", "bad.jsonl"], r"bad.jsonl:2: sentence1_binary_parse: "),
    "truncated gz": (["--train", "cut.jsonl.gz"], r"cut.jsonl.gz:\d+: truncated"),
    "no label agreed on": (["--dev", "none.jsonl"], r"none.jsonl: no examples"),
    "unbalanced tree": ([*SST, "--train", "tree.txt"], r"tree.txt:1: "),
    "missing file": (["--train", "no.jsonl"], r"no.jsonl: no such file"),
    "missing folder": (["--train", "nowhere/no.jsonl"], r"nowhere/no.jsonl: no such folder"),
    "a file as the run": ([*PRESET, "--output", "tree.txt"], r"tree.txt: "),
    "missing vectors": (["--vectors", "none.txt", "--train", "bad.jsonl"], r"none.txt: no such file"),
    "short vector": (["--vectors", "short.txt"], r"short.txt:1: got 3 numbers, expected 8$"),
    "unknown key": (["--set", "depth=3"], r"unknown key 'depth'"),
    "bad value": (["--dropout", "2"], r"embedding_dropout: expected a probability"),
    "too wide a machine": (["--hidden-dim", str(10**12)], r"no model can have these sizes \(Storage"),
    "too wide word vectors": (["--embedding-dim", str(10**20)], r"no model can have these sizes \("),
    "unknown preset": (["--preset", "x"], r"unknown preset 'x'"),
    "bad preset": (["--preset", "own.toml"], r"own.toml: training: unknown key 'epoch'"),
    "node labels of pairs": (["--node-labels"], r"node_labels: is for --corpus sst"),
    "a label twice": ([*OWN, "--labels", "a", "a"], r"labels: got one twice: a, a$"),
    "extra without a file": (["--extra", "long"], r"extra: expected NAME=FILE"),
    "extra named like a split": (["--extra", "dev=dev.jsonl"], r"has a split 'dev' already"),
    "compiled LSTM": (["--compile", "--kind", "lstm"], r"compile: torch.compile cannot take an LSTM"),
    "branching of nodes": ([*SST, "--branching", "left", "--node-labels"], r"node_labels: the"),
    "a parser that cannot parse": (
        ["--corpus", "trees", "--kind", "lstm"],
        r"f1 is for an encoder that parses, kind 'spinn'; got 'lstm'",
    ),
    "a header of one name twice": ([*OWN, "--train", "twice.csv"], r"twice.csv:1: two columns 'text'$"),
    "lines of an old Mac": ([*OWN, "--train", "mac.csv"], r"mac.csv:1: a carriage return .* mends them\)$"),
    "a list named as lines": (
        [*OWN, "--train", "list.jsonl"],
        r"list.jsonl:1: a JSON list: its name should end in .json$",
    ),
    "a table named as text": ([*OWN, "--train", "table.txt"], r"table.txt:1: CSV: its name .* \.csv$"),
    "UTF-16 without a mark": ([*OWN, "--train", "utf16.txt"], r"utf16.txt:1: UTF-16 .*, or no text$"),
    "a list without an end": (
        [*OWN, "--train", "open.json", "--skip-bad"],
        r"open.json:2: not JSON, .*objects$",
    ),
    "one label": ([*OWN, "--train", "one.csv", "--dev", "one.csv"], "got the label 'x' alone, expected two"),
    "trees in a zip": (["--corpus", "trees", "--train", "not.zip"], r"not.zip: .*not a .zip file"),
}
if not torch.cuda.is_available():
    OF_TRAINING["no CUDA"] = (["--device", "cuda"], r"torch sees no CUDA device")
# Whole commands.
OTHERS: dict[str, tuple[list[str], str]] = {
    "missing data": (["train", *SNLI, "--data", "nowhere"], r"nowhere: no such folder"),
    "missing data under a preset": (
        ["train", *SNLI, "--preset", "spinn-pi", "--data", "nowhere"],
        r"nowhere: no such folder",
    ),
    "other files": (["train", *SNLI, "--data", "."], r": no snli_1.0_train.jsonl"),
    "bad zip": (["train", *SNLI, "--data", "not.zip"], r"not.zip: truncated or not a .zip file"),
    "no trees": (["train", *SST, "--data", "."], r": no train.txt"),
    "no treebank": (["train", "--corpus", "trees", "--data", "here"], r": no train.txt"),
    "no generated corpus": (["train", "--corpus", "listops", "--data", "."], r": no train.tsv"),
    "no dev file": (["train", *SNLI, "--train", "train.jsonl"], "no dev file: give --dev FILE"),
    "a folder as the corpus": (["train", "--output", "here"], r"corpus: holds other files \(notes.txt\)"),
    "generate over files": (["generate", "here"], r"holds other files \(.*; name a new folder"),
    "the working folder": (["prepare", *PAIRS, "--output", "."], r"\.: the working folder, expected another"),
    "generate in a file": (["generate", "bad.jsonl/x"], r"bad.jsonl/x: Not a directory$"),
    "generate over all": (["generate", "/"], r"/: the root folder, expected another"),
    "generate over a file": (["generate", "bad.jsonl"], "bad.jsonl: a file"),
    "inspect without a folder": (["inspect", *PAIRS, "--html", "nowhere/a.html"], "a.html: no such folder"),
    "inspect nothing": (
        ["inspect", *PAIRS[:-1], "none.jsonl", "--html", "a.html"],
        "none.jsonl: no examples",
    ),
    "profile without a folder": (["profile", *PAIRS, "--trace", "nowhere/a.json"], "a.json: no such folder"),
    "profile into a folder": (["profile", "--json", "."], "a folder, expected a file"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with good and bad files."""
    monkeypatch.chdir(tmp_path)
    pair_arguments(Path())
    for name, content in FILES.items():
        Path(name).write_bytes(content)
    Path("here/corpus").mkdir(parents=True)
    Path("here/corpus/notes.txt").write_text("mine")
    return tmp_path


@pytest.mark.parametrize("name", [*OF_TRAINING, *OTHERS])
def test_an_error_is_one_line_and_leaves_nothing(name: str, folder: Path, capsys: Capture) -> None:
    if name in OTHERS:
        arguments, message = OTHERS[name]
    else:
        options, message = OF_TRAINING[name]
        arguments = ["train", *SNLI, "--epochs", "1", "--output", "run", *SMALL, *options]
        for split in ("train", "dev"):
            if f"--{split}" not in options:
                arguments += [f"--{split}", f"{split}.jsonl"]
    assert_fails_cleanly(arguments, message, folder, capsys)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "command",
    [
        "evaluate RUN --data dev.jsonl --predictions dev.jsonl",
        "evaluate RUN --data train.jsonl dev.jsonl --json dev.jsonl",
        "predict RUN --input dev.jsonl --output here/../dev.jsonl",
        "evaluate RUN --data dev.jsonl --json nowhere/dev.jsonl",
        "predict RUN --input dev.jsonl --output nowhere/dev.jsonl",
        "evaluate RUN --json a.dev.jsonl --predictions here/../a.dev.jsonl",
        "profile --corpus snli --train train.jsonl --dev dev.jsonl --json here/../dev.jsonl",
        "inspect --corpus snli --train train.jsonl --dev dev.jsonl --html dev.jsonl",
    ],
)
def test_what_is_read_is_not_written_over(
    command: str, pair_run: Path, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anything scored whose scores could not be written."""
    monkeypatch.setattr("spinn_tensor.cli.evaluate.load_checkpoint", None)
    monkeypatch.setattr("spinn_tensor.cli.predict.load_checkpoint", None)
    reasons = "no such folder: nowhere", "is read, so that it cannot be written", "is written by two options"
    message = f"dev.jsonl: ({'|'.join(reasons)})(; name .*)?$"
    assert_fails_cleanly(words_of(command, RUN=pair_run), message, folder, capsys)


@pytest.mark.parametrize("file", ["bad.jsonl", "cut.jsonl.gz"])
def test_bad_lines_can_be_left_out(file: str, folder: Path, spinn: Spinn) -> None:
    files = ["--train", file, "--train", "train.jsonl", "--dev", "dev.jsonl"]
    options = [*PRESET, *SMALL, "--epochs", "1", "--output", "run", "--skip-bad"]
    errors = spinn("train", *SNLI, *files, *options).err
    assert errors.startswith("1 line skipped")
    assert errors.count("line skipped") == 1
    assert list(json.loads(Path("run/results.json").read_text())["skipped"].values()) == [1]


@pytest.mark.parametrize("name, text", [("a.txt", "un café\n"), ("a.csv", "sentence\nun café\n")])
def test_lines_of_another_encoding_are_not_to_be_left_out(
    name: str, text: str, tmp_path: Path, spinn: Spinn
) -> None:
    (tmp_path / name).write_bytes(text.encode("cp1252"))
    printed = spinn.fails("parse", "--branching", "left", "--input", tmp_path / name).err
    assert printed.endswith("of Windows cp1252, in Chinese gb18030)\n")


def test_nodes_of_trees_that_have_no_labels(tmp_path: Path, capsys: Capture, spinn: Spinn) -> None:
    run = str(tmp_path / "run")
    arguments = [*tree_arguments(tmp_path), "--epochs", "1", "--output", run]
    assert_fails_cleanly([*arguments, "--kind", "lstm"], "node_labels: only a SPINN", tmp_path, capsys)
    spinn(*arguments)
    message = "node_labels: the nodes of trees made by --branching or --parser"
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


def test_an_existing_run_is_not_overwritten_unasked(tmp_path: Path, capsys: Capture, spinn: Spinn) -> None:
    output = tmp_path / "run"
    arguments = [*pair_arguments(tmp_path), *PRESET, "--epochs", "1", "--output", str(output)]
    spinn(*arguments)
    (output / "notes.txt").write_text("mine")
    message = "holds a run already; --resume goes on with it, --overwrite deletes it"
    assert_fails_cleanly([*arguments, "--seed", "2"], message, tmp_path, capsys)
    spinn(*arguments, "--seed", "2", "--overwrite")
    assert (output / "notes.txt").read_text() == "mine"
    assert json.loads((output / "run.json").read_text())["training"]["seed"] == 2


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_is_closed_is_written_to_in_vain(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, name, None)
    assert main(["parse", "--branching", "right", "a b"]) == 0
    with getattr(sys, name) as stream:
        print("a", file=stream)


@pytest.mark.parametrize("option", ["--resume", "--overwrite"])
def test_a_run_is_written_by_one_process(
    option: str, pair_run: Path, tmp_path: Path, capsys: Capture, spinn: Spinn
) -> None:
    run = Path(shutil.copytree(pair_run, tmp_path / "run"))
    (tmp_path / "link").symlink_to(run)
    arguments = [*pair_arguments(tmp_path), *PRESET, "--epochs", "1", "--output", str(tmp_path / "link")]
    arguments = arguments if option == "--overwrite" else ["train", *arguments[-2:], "--epochs", "9"]
    with alone_in(run):
        assert_fails_cleanly([*arguments, option], "link: another process is writing there", tmp_path, capsys)
    spinn(*arguments, option)


def test_execute_itself_keeps_an_existing_run(pair_run: Path) -> None:
    settings = saved_run(pair_run)
    assert settings is not None
    with pytest.raises(ConfigError, match="holds a run already"):
        execute(settings, pair_run)
    with pytest.raises(ConfigError, match="either resumed or overwritten"):
        execute(settings, pair_run, resume=True, overwrite=True)


def test_a_resume_that_fails_leaves_the_settings(pair_run: Path, tmp_path: Path, capsys: Capture) -> None:
    run = Path(shutil.copytree(pair_run, tmp_path / "run"))
    change_tensors(WEIGHTS, lambda tensors: tensors.pop("mlp.output.bias"))(run / "last")
    arguments = ["train", "--output", str(run), "--resume", "--epochs", "99"]
    assert_fails_cleanly(arguments, "tensor 'mlp.output.bias' is missing", tmp_path, capsys)


# Commands on a checkpoint: RUN stands for the run.
ON_A_CHECKPOINT = {
    "evaluate": "evaluate RUN/last --json scores.json",
    "predict": "predict RUN/last --input in.jsonl --output out.jsonl",
    "encode": "encode RUN/last --input in.jsonl --field sentence1 --output out.npy",
    "resume": "train --output RUN --resume --epochs 99",
}


@pytest.mark.parametrize(
    "damage, message",
    [
        (
            change_tensors(WEIGHTS, lambda t: t.pop("mlp.output.bias")),
            r"model.safetensors: tensor 'mlp.output.bias' is missing",
        ),
        (
            change_tensors(WEIGHTS, lambda t: t.update({"mlp.output.bias": torch.zeros(9)})),
            r"tensor 'mlp.output.bias' has shape \(9,\)",
        ),
        (shutil.rmtree, r"no such checkpoint folder"),
        (lambda folder: (folder / "config.json").unlink(), r"config.json|no checkpoint here"),
    ],
    ids=["missing tensor", "misshapen tensor", "missing folder", "no config"],
)
def test_a_damaged_checkpoint_is_one_line_for_every_command(
    damage: Callable[[Path], None], message: str, pair_run: Path, folder: Path, capsys: Capture
) -> None:
    run = Path(shutil.copytree(pair_run, "run"))
    write_pairs(Path("in.jsonl"), 3, seed=1)
    damage(run / "last")
    for name, command in ON_A_CHECKPOINT.items():
        if name != "resume" or damage is not shutil.rmtree:  # a run without a checkpoint begins anew
            assert_fails_cleanly(command.replace("RUN", "run").split(), message, folder, capsys)


@pytest.mark.parametrize("name", ["predict", "encode"])
def test_a_bad_line_leaves_no_half_written_output(
    name: str, pair_run: Path, folder: Path, capsys: Capture, spinn: Spinn
) -> None:
    Path("in.jsonl").write_text(f"{GOOD}\n{edited(sentence1_binary_parse='( a )')}\n{GOOD}\n")
    command = words_of(ON_A_CHECKPOINT[name], RUN=pair_run)
    assert_fails_cleanly(command, r"in.jsonl:2: sentence1_binary_parse: ", folder, capsys)
    printed = spinn(*command, "--skip-bad")
    assert printed.out.startswith("2 ")
    assert "1 line skipped" in printed.err


# Commands on a run of pairs and a good file, and what is said about them.
WRONG_USE = [
    ("evaluate RUN --split test", "--split goes with --data"),
    (
        "evaluate RUN --split test --data in.jsonl",
        "--split goes with --data: it names a part of an official zip",
    ),
    ("evaluate RUN --json RUN/../dev.jsonl", "dev.jsonl: is read, so that it cannot be written"),
    ("predict RUN --premise a", "a pair needs both"),
    ("predict RUN --premise a --hypothesis (S(NP(", r"--hypothesis: "),
    ("predict RUN --sentence a", "this checkpoint classifies pairs"),
    ("predict RUN", "give --premise and --hypothesis, or --sentence, or --input"),
    ("predict RUN --premise a --hypothesis b --output x", "--output goes with --input"),
    ("predict RUN --premise a --hypothesis b --field x", "--field goes with --input"),
    ("predict RUN --premise a --hypothesis b --skip-bad", "--skip-bad goes with --input"),
    ("predict RUN --input x --field sentence1", "--field: this checkpoint classifies pairs"),
    (
        "predict RUN --input tree.txt",
        r"tree.txt:1: text, expected records \(JSON lines, .*, as pairs",
    ),
    (
        "parse --branching left --input listops.tsv",
        r"listops.tsv:1: a label, .*, and a tree\? .*notation says text; --on-",
    ),
    ("encode RUN --input listops.tsv --output a.npy", "listops.tsv:1: a label, or"),
    ("encode RUN --input in.jsonl --output nowhere/out.npy", "nowhere"),
    ("encode RUN --input in.jsonl --output file", "a file, expected a folder, or a name ending in .npy"),
    ("encode RUN --input in.jsonl --output .", "holds files, but no encodings"),
    ("encode RUN --input ids.jsonl --output a.npy", "ids.jsonl:1: pairID: got float, expected a string"),
]


@pytest.mark.parametrize("command, message", WRONG_USE)
def test_commands_say_what_they_need(
    command: str, message: str, pair_run: Path, folder: Path, capsys: Capture
) -> None:
    write_pairs(Path("in.jsonl"), 3, seed=1)
    Path("ids.jsonl").write_text(json.dumps({"binary_parse": "( a b )", "pairID": 3.5}) + "\n")
    Path("listops.tsv").write_text("3\t( ( [MAX 3 ) ] )\n")
    Path("file").touch()
    assert_fails_cleanly(words_of(command, RUN=pair_run), message, folder, capsys)


@pytest.mark.parametrize("option", ["--field text", "--fields text=review"])
def test_lines_of_text_have_no_fields(option: str, tree_run: Path, tmp_path: Path, capsys: Capture) -> None:
    """As of a table in a pipe whose only column is not known for a header: that were a sentence."""
    (tmp_path / "a.txt").write_text("text\na b\n")
    arguments = ["predict", str(tree_run), "--input", str(tmp_path / "a.txt"), *option.split()]
    message = f"{option.split()[0]} goes with a jsonl --input, or another of records; .*a.txt is read as text"
    assert_fails_cleanly(arguments, message, tmp_path, capsys)


def test_no_skip_bad_is_heard(pair_run: Path, tmp_path: Path, capsys: Capture, spinn: Spinn) -> None:
    """Where skipping is what the run did, or the command does by itself; without a file it says nothing new."""
    run = Path(shutil.copytree(pair_run, tmp_path / "run"))
    (tmp_path / "bad.jsonl").write_text(f"{GOOD}\n[\n")
    for name in ("best", "last"):
        config = run / name / "config.json"
        content = json.loads(config.read_text())
        data = content["run"]["data"]
        data.update(
            skip_bad=True, train=[str(tmp_path / "bad.jsonl")], dev=[str(tmp_path / "bad.jsonl")], extra=[]
        )
        config.write_text(json.dumps(content))
    assert "1 line skipped" in spinn("evaluate", run).err
    message = r"bad.jsonl:2: not JSON"
    assert_fails_cleanly(["evaluate", str(run), "--no-skip-bad"], message, tmp_path, capsys)
    files = [option for split in ("train", "dev") for option in (f"--{split}", str(tmp_path / "bad.jsonl"))]
    spinn("inspect", *SNLI, *files)
    assert_fails_cleanly(["inspect", *SNLI, *files, "--no-skip-bad"], message, tmp_path, capsys)
    spinn("predict", run, "--premise", "a", "--hypothesis", "b", "--no-skip-bad")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such checkpoint folder"):
        main(["evaluate", str(tmp_path / "none"), "--debug"])
