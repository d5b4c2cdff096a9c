"""Lines without end, and sentences that are too long, given to every command that reads sentences."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path

import pytest

from spinn_tensor.cli.main import main
from spinn_tensor.data_prep.trees import format_binary, right_branching
from tests.command_line import Spinn, assert_one_error, words_of
from tests.processes import forked
from tests.tiny_runs import SMALL, write_pairs

pytest.importorskip("datasets")

Capture = pytest.CaptureFixture[str]
LONG = format_binary(right_branching(["dogs"] * 7))


@pytest.fixture
def runs(pair_run: Path, tree_run: Path) -> dict[str, Path]:
    """A trained model of pairs and one of sentences."""
    return {"PAIRS": pair_run, "TREES": tree_run}


# Each command's arguments: PAIRS, TREES and HERE are folders, FILE is the file in question.
COMMANDS = {
    "parse": "parse --branching right --input FILE",
    "parse to a file": "parse --branching right --input FILE --output HERE/out",
    "parse --gold": "parse --gold FILE",
    "encode": "encode PAIRS --branching right --input FILE --output HERE/out.npy",
    "encode into shards": "encode PAIRS --branching right --input FILE --output HERE/out",
    "predict a pair": "predict PAIRS --branching right --input FILE --output HERE/out",
    "predict a sentence": "predict TREES --branching right --input FILE",
    "evaluate": "evaluate PAIRS --branching right --data FILE",
    "train": f"train --corpus snli --train FILE --dev HERE/dev.jsonl --output HERE/out --epochs 1 {' '.join(SMALL)}",
    "train on trees": "train --corpus trees --train HERE/train.jsonl --dev FILE --output HERE/out",
    "prepare": "prepare --corpus snli --train HERE/train.jsonl --dev FILE --output HERE/out",
}
OF_PAIRS = ("predict a pair", "evaluate", "train", "prepare")


def arguments(command: str, file: Path, runs: dict[str, Path]) -> list[str]:
    return words_of(command, **runs, HERE=file.parent, FILE=file)


def assert_fails(command: list[str], message: str, here: Path, capsys: Capture) -> None:
    """In one line, and nothing is left but the note of a job of shards, which may go on."""
    before = set(here.rglob("*"))
    capsys.readouterr()
    assert main(command) == 1
    assert_one_error(capsys, message)
    assert {path.name for path in set(here.rglob("*")) - before if path.is_file()} <= {"job.json"}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with the files that are as they should be."""
    write_pairs(tmp_path / "train.jsonl", 32, seed=1)
    write_pairs(tmp_path / "dev.jsonl", 8, seed=2)
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_a_line_without_end_is_not_read_to_its_end(
    name: str, here: Path, runs: dict[str, Path], capsys: Capture
) -> None:
    """The file is broken after some megabytes: who reads on finds that."""
    file = here / "endless.jsonl.gz"
    packed = gzip.compress(b'{"sentence1": "' + b"a" * 16_000_000)
    file.write_bytes(packed[: len(packed) // 2])
    message = r"endless\.jsonl\.gz:1: a line of more than 1,000,000 bytes; --max-line-bytes "
    assert_fails(arguments(COMMANDS[name], file, runs), message, here, capsys)


def test_inspect_counts_a_line_without_end(here: Path, capsys: Capture, spinn: Spinn) -> None:
    file = here / "endless.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"sentence1": "' + b"a" * 16_000_000))
    command = ["inspect", "--corpus", "snli", "--dev", str(here / "dev.jsonl"), "--train"]
    message = r"no examples \(1 line skipped: 1 x a line of more than 1,000,000 bytes"
    assert_fails([*command, str(file)], message, here, capsys)
    good = (here / "train.jsonl").read_bytes()
    file.write_bytes(gzip.compress(good + b"a" * 16_000_000 + b"\n" + good))
    printed = spinn(*command, file).out  # a table, in which lines are broken
    assert "a line of more than" in printed
    assert "gz:33" in printed


def line_of(name: str, parse: str) -> str:
    if name in OF_PAIRS:
        fields = {"gold_label": "neutral", "sentence1_binary_parse": parse, "sentence2_binary_parse": "dogs"}
        return json.dumps({**fields, "sentence1": "", "sentence2": ""})
    text = " ".join(parse.replace("(", "").replace(")", "").split())
    field = "sentence" if name.startswith("parse") and "gold" not in name else "sentence_binary_parse"
    return json.dumps({field: text if field == "sentence" else parse})


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("option", ["--max-words", "--max-line-bytes"])
def test_the_limits_are_options(
    name: str, option: str, here: Path, runs: dict[str, Path], capsys: Capture, spinn: Spinn
) -> None:
    file, good, long = here / "long.jsonl", line_of(name, "( dogs bark )"), line_of(name, LONG)
    if option == "--max-words":
        few, enough = "6", "7"
    else:
        few, enough = "1000", "2000"
        long += " " * 1000
    file.write_text(f"{good}\n{long}\n{good}\n")
    command = arguments(COMMANDS[name], file, runs)
    assert_fails([*command, option, few], rf"long\.jsonl:2: .*{option}", here, capsys)
    if name in ("train", "train on trees", "parse --gold"):
        return  # which are long, and read as others do
    assert "spinn: 1 line skipped: 1 x " in spinn(*command, option, few, "--skip-bad").err
    again = ["--overwrite"] if "shards" in name else []
    assert "skipped" not in spinn(*command, option, enough, *again).err


@pytest.mark.parametrize(
    "command, place",
    [
        (["parse", "--branching", "left", "dogs", "a b c d"], "sentence 2"),
        (["predict", "TREES", "--sentence", "( a ( b ( c d ) ) )"], "--sentence"),
        (
            ["predict", "PAIRS", "--premise", "a", "--hypothesis", "( ( a b ) ( c d ) )"],
            "--hypothesis",
        ),
    ],
)
def test_arguments_are_sentences_too(
    command: list[str], place: str, runs: dict[str, Path], tmp_path: Path, capsys: Capture, spinn: Spinn
) -> None:
    command = [str(runs.get(part, part)) for part in command]
    message = f"{place}: token 4 'd': a sentence of more than 3 words; --max-words allows more"
    assert_fails([*command, "--max-words", "3"], message, tmp_path, capsys)
    spinn(*command, "--max-words", "4")
    assert_fails([*command, "--max-line-bytes", "9"], "--max-line-bytes goes with", tmp_path, capsys)


def test_standard_input_without_end() -> None:
    """Whoever writes is told, by a pipe that nobody reads, long before it has written all."""
    process = forked(lambda: main(["parse", "--branching", "right", "--input", "-"]))
    try:
        with pytest.raises(BrokenPipeError):
            _write_line(process, n_megabytes=20)
        error = process.communicate()[1].decode()
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 1
    assert error.startswith("spinn: error: /dev/stdin:1: a line of more than 1,000,000 bytes")
    assert error.count("\n") == 1


def _write_line(process: subprocess.Popen[bytes], n_megabytes: int) -> None:
    assert process.stdin is not None
    for _ in range(n_megabytes):
        process.stdin.write(b"dogs bark " * 100_000)


def test_what_was_long_and_good_is_good(tmp_path: Path, spinn: Spinn) -> None:
    """Trees of 20,000 words, and 2,000 words in one line, by the limits that are there without an option."""
    deep = format_binary(right_branching(["dogs"] * 20_000))
    (tmp_path / "text.txt").write_text("dogs " * 20_000 + "\n" + "dogs bark " * 1_000 + "\n")
    parses = spinn("parse", "--branching", "right", "--input", tmp_path / "text.txt").out
    assert parses.splitlines()[0] == deep
    (tmp_path / "trees.txt").write_text(parses)
    trees = ["--train", str(tmp_path / "trees.txt"), "--dev", str(tmp_path / "trees.txt")]
    assert "22,000" in spinn("prepare", "--corpus", "trees", *trees, "--output", tmp_path / "store").out
