"""`spinn parse`: trees of sentences however they are given, scores, and clear errors for what is no sentence."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.parsing import read_trees, write_split
from spinn_tensor import SentenceParser, make_sentence_batch, parsers
from spinn_tensor.cli import arguments
from spinn_tensor.cli.main import main
from spinn_tensor.data_prep.archives import COMPRESSED
from spinn_tensor.data_prep.brackets import score_parses
from spinn_tensor.data_prep.columns import lengths, sentence_columns, take
from spinn_tensor.data_prep.trees import format_binary, parse_binary, right_branching
from spinn_tensor.inference import predict_transitions
from spinn_tensor.model.classifiers import load_checkpoint
from tests.command_line import Spinn, assert_fails_cleanly, assert_one_error
from tests.machines import needs_shared
from tests.tiny_runs import PRESET, pair_arguments, write_pairs

pytestmark = pytest.mark.numerical

pytest.importorskip("datasets")

Capture = pytest.CaptureFixture[str]
# The parser's training corpora have these trees, and it learns them all.
TREES = {
    "dogs bark": "( dogs bark )",
    "red cows sing": "( ( red cows ) sing )",
    "cats do not sleep": "( cats ( do ( not sleep ) ) )",
    "big birds do not sing": "( ( big birds ) ( do ( not sing ) ) )",
    "a good film": "( a ( good film ) )",
}


@pytest.fixture
def spinn(capsys: Capture) -> Spinn:
    """What parses on a thread of the CPU."""
    return Spinn(capsys, "parse", "--threads", "1", "--device", "cpu")


def test_a_parser_learns_its_trees(parser_run: Path) -> None:
    results = json.loads((parser_run / "results.json").read_text())["splits"]["dev"]
    assert results["parse"]["gold"]["sentence_f1"] == 1
    assert "accuracy" not in results
    model, _, config = load_checkpoint(parser_run)
    assert isinstance(model, SentenceParser)
    assert config.run["data"]["train"] == [
        str(parser_run.parent / name) for name in ("pairs.jsonl", "sst.txt")
    ]


@pytest.mark.parametrize("options", [[], ["--tokens"]])
def test_sentences_as_arguments(options: list[str], parser_run: Path, spinn: Spinn) -> None:
    printed = spinn("--model", parser_run, *options, *TREES)
    assert printed.out == "".join(tree + "\n" for tree in TREES.values())
    assert printed.err == ""


def test_a_file_among_the_sentences_is_told(tmp_path: Path, spinn: Spinn) -> None:
    (tmp_path / "a.txt").touch()
    told = spinn("--branching", "left", tmp_path / "a.txt").err
    assert told.startswith(f"spinn: {tmp_path}/a.txt is read as a sentence; there is a file of that name")


def test_raw_text_is_tokenised_and_tokens_are_not(parser_run: Path, spinn: Spinn) -> None:
    for options, tokens in ([], "dogs do n't bark ."), (["--tokens"], "dogs don't bark."):
        printed = spinn("--model", parser_run, *options, "dogs don't bark.").out
        assert parse_binary(printed).tokens == tuple(tokens.split())


def test_drawn(parser_run: Path, spinn: Spinn) -> None:
    printed = spinn("--model", parser_run, "--draw", "red cows sing", "dogs").out
    assert printed == "┬─┬── red\n│ └── cows\n└──── sing\n\n─ dogs\n\n"


def test_a_text_file(parser_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    """A line in is a line out."""
    source, target = tmp_path / "in.txt.gz", tmp_path / "out.txt"
    source.write_bytes(gzip.compress("\n\n".join(TREES).encode()))
    told = "spinn: 4 lines have no tree: 4 x a blank line\n"
    expected = "\n\n".join(TREES.values()) + "\n"
    assert spinn("--model", parser_run, "--input", source) == (expected, told)
    for name, module in COMPRESSED.items():
        target = tmp_path / f"out.txt{name}"
        printed = spinn("--model", parser_run, "--input", source, "--output", target)
        assert printed == (f"5 trees in {target}\n", told)
        with import_module(module).open(target, "rt") as file:
            assert file.read() == expected


def test_standard_input(
    parser_run: Path, tmp_path: Path, spinn: Spinn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a file stands for it; a process that reads it is in test_cli_limits.py."""
    stdin = tmp_path / "stdin"
    monkeypatch.setattr(arguments, "STDIN", stdin)
    for text, printed in (("dogs bark\n", ("( dogs bark )\n", "")), ("", ("", "an empty file"))):
        stdin.write_text(text)
        out, err = spinn("--model", parser_run, "--input", "-", status=0 if text else 1)
        assert (out, err.strip().rpartition(": ")[2]) == printed


def test_jsonl_keeps_its_records_and_gains_parses(parser_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    records = [
        {"pairID": "a", "gold_label": "neutral", "sentence1": "dogs bark", "sentence2": "red cows sing"},
        {"sentence": "a good film", "other": ["\ud800", None]},
        {"sentence": "a good film", "sentence_binary_parse": "( a b )"},  # which is replaced
    ]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert spinn("--model", parser_run, "--input", source, "--output", target).out == f"4 trees in {target}\n"
    records[0] |= {f"sentence{i}_binary_parse": TREES[records[0][f"sentence{i}"]] for i in (1, 2)}
    for record in records[1:]:
        record["sentence_binary_parse"] = "( a ( good film ) )"
    assert [json.loads(line) for line in target.read_text().splitlines()] == records
    printed = spinn("--model", parser_run, "--input", source, "--field", "sentence1", "--skip-bad")
    assert json.loads(printed.out)["sentence1_binary_parse"] == "( dogs bark )"
    assert re.fullmatch(r"spinn: 2 lines skipped: 2 x sentence1: missing field \(.*:2, 3\)\n", printed.err)


def test_parsed_pairs_are_a_corpus(parser_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    source, parsed = tmp_path / "in.jsonl", tmp_path / "parsed.jsonl"
    record = {"gold_label": "neutral", "sentence1": "dogs bark", "sentence2": "cows do not sing"}
    source.write_text(3 * (json.dumps(record) + "\n"))
    spinn("--model", parser_run, "--input", source, "--output", parsed)
    options = ["--train", str(parsed), "--dev", str(parsed), "--epochs", "1"]
    assert main([*pair_arguments(tmp_path), *PRESET, *options, "--output", str(tmp_path / "run")]) == 0


def test_any_spinn_parses(spinn_run: Path, spinn: Spinn) -> None:
    printed = spinn("--model", spinn_run, "big dogs do not bark").out
    assert parse_binary(printed).tokens == ("big", "dogs", "do", "not", "bark")


@pytest.mark.parametrize(
    "kind, tree",
    [("left", "( ( ( a b ) c ) d )"), ("right", "( a ( b ( c d ) ) )"), ("balanced", "( ( a b ) ( c d ) )")],
)
def test_trees_without_a_model(kind: str, tree: str, spinn: Spinn) -> None:
    assert spinn("--branching", kind, "a b c d").out == tree + "\n"
    assert parse_binary(spinn("--branching", "random", "a b c d").out).tokens == tuple("abcd")


def test_the_parser_of_the_package(
    parser_run: Path, tmp_path: Path, spinn: Spinn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parsers.resources, "files", lambda package: tmp_path)
    missing = "the package's parser model is missing here; name the folder of one that spinn train made"
    assert missing in spinn.fails("dogs bark").err
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / "parser").symlink_to(parser_run / "best")
    assert spinn("dogs bark").out == "( dogs bark )\n"


# Options after --model, and what is said; FOLDER stands for the test's folder, RUN for the model's.
BAD: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "give sentences, or --input, or --gold; --input - reads stdin"),
    "both": (["dogs", "--input", "x"], "give sentences, or --input, or --gold"),
    "empty": (["dogs", ""], "sentence 2: a sentence without words"),
    "blank": ([" \t "], "sentence 1: a sentence without words"),
    "blank tokens": (["--tokens", " "], "sentence 1: a sentence without words"),
    "control characters": (["\x01\x7f\u200b"], "sentence 1: a sentence without words"),
    "not UTF-8": (["dogs \udcff"], "sentence 1: not UTF-8 text"),
    "tokens not UTF-8": (["--tokens", "dogs \udcff"], "sentence 1: not UTF-8 text"),
    "a bracket": (["--tokens", "dogs ( bark"], r"sentence 1: token 2 '\(': a bracket"),
    "bad line": (["--input", "FOLDER/bad.txt"], "bad.txt:1: a sentence without words"),
    "bytes": (["--input", "FOLDER/bytes.txt"], "bytes.txt:1: not UTF-8 text"),
    "not JSON": (["--input", "FOLDER/bad.jsonl"], "bad.jsonl:1: not JSON"),
    "no field": (["--input", "FOLDER/other.jsonl"], "other.jsonl:1: missing field, expected sentence"),
    "no such field": (["--input", "FOLDER/other.jsonl", "--field", "a"], "other.jsonl:1: a: missing field"),
    "a number": (
        ["--input", "FOLDER/other.jsonl", "--field", "text"],
        "other.jsonl:1: text: got int, expected a string",
    ),
    "missing": (["--input", "FOLDER/none.txt"], "none.txt: no such file"),
    "no folder": (["dogs", "--output", "FOLDER/a/b"], "no such folder"),
    "over its input": (["--input", "FOLDER/a.txt", "--output", "FOLDER/a.txt"], "a.txt: is read, so that it"),
    "field of text": (["dogs", "--field", "a"], "--field goes with a jsonl"),
    "bad arguments left out": (["dogs", "--skip-bad"], "--on-error and --skip-bad go with --input or --gold"),
    "bad arguments empty": (["dogs", "--on-error", "empty"], "--on-error and --skip-bad go with --input"),
    "empty scores": (
        ["--gold", "FOLDER/bad.txt", "--on-error", "empty"],
        "--on-error empty goes with --input",
    ),
    "two ways": (["--input", "x", "--skip-bad", "--on-error", "empty"], "--skip-bad is --on-error skip"),
    "predicted alone": (["dogs", "--predicted", "x"], "--predicted goes with --gold"),
    "other trees": (
        ["--gold", "FOLDER/a.txt", "--predicted", "FOLDER/b.txt"],
        "b.txt: example 0: other words",
    ),
    "fewer trees": (
        ["--gold", "FOLDER/a.txt", "--predicted", "FOLDER/c.txt"],
        "c.txt: 1 trees, expected the 2",
    ),
    "half a pair": (["--input", "FOLDER/half.jsonl"], "half.jsonl:1: sentence1: missing field"),
    "drawn jsonl": (["--draw", "--input", "FOLDER/other.jsonl"], "--format draw: a jsonl"),
    "a picture of jsonl": (["--format", "svg", "--input", "FOLDER/other.jsonl"], "--format svg: a jsonl"),
    "drawn scores": (["--draw", "--gold", "FOLDER/bad.txt"], "--gold prints scores only"),
    "notation of scores": (
        ["--gold", "FOLDER/a.txt", "--notation", "text"],
        "--notation goes without --gold",
    ),
    "notation of tokens": (["--tokens", "--notation", "parses", "dogs"], "--notation goes without"),
    "one twice": (["--gold", "FOLDER/a.txt", "--model", "RUN"], "--model: a checkpoint is given twice"),
    "its best": (["--gold", "FOLDER/a.txt", "--model", "RUN/best"], "--model: a checkpoint is given twice"),
    "two models": (["dogs", "--model", "x"], "several --model are compared with --gold"),
    "model and branching": (["dogs", "--branching", "left"], "--branching goes without --model"),
    "gold text": (["--gold", "FOLDER/text.txt"], "text.txt:1: token 2 'bark': after the end"),
    "text is no tree": (["--branching", "none", "--input", "FOLDER/text.txt"], "--branching goes without"),
}


@pytest.mark.once
@pytest.mark.parametrize("name", BAD)
def test_errors_are_one_line_and_leave_nothing(
    name: str, parser_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    options, message = BAD[name]
    (tmp_path / "bad.txt").write_text("\u200b\ndogs bark\n")
    (tmp_path / "text.txt").write_text("dogs bark\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\n")
    (tmp_path / "bad.jsonl").write_text("{\n")
    (tmp_path / "other.jsonl").write_text('{"text": 3}\n')
    (tmp_path / "a.txt").write_text("( a b )\n( c d )\n")
    (tmp_path / "b.txt").write_text("( a c )\n( c d )\n")
    (tmp_path / "c.txt").write_text("( a b )\n")
    (tmp_path / "half.jsonl").write_text('{"sentence2": "dogs bark", "sentence": "dogs bark"}\n')
    options = [o.replace("FOLDER", str(tmp_path)).replace("RUN", str(parser_run)) for o in options]
    command = ["parse", "--threads", "1", "--device", "cpu", "--model", str(parser_run), *options]
    assert_fails_cleanly(command, message, tmp_path, capsys)


def test_models_that_do_not_parse(pair_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    error = spinn.fails("--model", pair_run, "dogs bark").err
    assert "run: an encoder of kind spinn-pi does not parse" in error
    assert "none: no such checkpoint folder" in spinn.fails("--model", tmp_path / "none", "dogs bark").err


# Whatever a text is, its words come back under a tree.
ODD = {
    "one word": "bark",
    "two thousand words": "dogs bark " * 1000,
    "emoji": "🐕 👩‍👩‍👧 bark 🙂",
    "escapes": "dogs \x1b[31mbark\x1b[0m \x00 now",
    "line ends": "dogs\r\nbark\u2028now\x85then",
    "brackets": "( dogs ) [bark] {now} ((",
    "quotes": "\"dogs\" ''bark'' “now” 'then'",
    "right to left": "‮dogs bark‬ كلب",
    "a long word": "a" * 100_000,
    "markup": "[bold]dogs[/bold] <b>bark</b>",
}


@pytest.mark.once
@pytest.mark.parametrize("name", ODD)
def test_odd_text_has_a_tree(name: str, parser_run: Path, spinn: Spinn) -> None:
    printed = spinn("--model", parser_run, ODD[name]).out
    assert printed.count("\n") == 1
    tree = parse_binary(printed)
    assert tree.n_tokens >= 1
    assert spinn("--model", parser_run, "--tokens", " ".join(tree.tokens)).out == printed


def test_a_batch_gives_the_trees_of_its_sentences_alone(parser_run: Path) -> None:
    model, vocabulary, _ = load_checkpoint(parser_run)
    model.double()  # a tie of float32 would be another tree
    rng = np.random.default_rng(0)
    words = vocabulary.tokens[2:]
    sentences = [right_branching(rng.choice(words, size=n)) for n in rng.integers(1, 30, size=40)]
    columns = sentence_columns(sentences, vocabulary)
    done: list[int] = []
    together = predict_transitions(model.encoder, columns, done.append)
    assert together.dtype == np.int8
    assert sum(done) == 40
    alone = []
    for row in range(40):
        batch = make_sentence_batch(take(columns, np.array([row])), "own")
        with torch.no_grad():
            alone.append(model.encoder.parse(batch).transitions.numpy())
    np.testing.assert_array_equal(together, np.concatenate(alone))
    no_sentences = predict_transitions(model.encoder, take(columns, np.zeros(0, dtype=np.int64)))
    assert no_sentences.shape == (0,)


def test_gold_prints_one_table_of_all(
    parser_run: Path, spinn_run: Path, tmp_path: Path, spinn: Spinn
) -> None:
    gold = write_pairs(tmp_path / "gold.jsonl", 20, seed=7)
    printed = spinn("--gold", gold, "--model", parser_run).out
    assert printed.startswith("40 sentences, ")
    assert "agreement" not in printed
    rows = ("left-branching", "right-branching", "balanced", "random", "the corpus's trees")
    places = [printed.index(row) for row in rows]
    assert places == sorted(places)
    assert "final mark at the root" in " ".join(printed.split())
    figures = dict(re.findall(r"^ ([a-z-]+) +([\d.]+)%", printed, re.MULTILINE))
    assert 50 < float(figures["right-branching"]) < float(figures["balanced"]) <= 100
    assert re.search(r"100\.00% of transitions as in the corpus's trees", printed)
    printed = spinn("--gold", gold, "--model", parser_run, "--model", spinn_run).out
    assert re.search(
        r"agreement of the 2 models \(self F1\): mean \d+\.\d\d%, mean, inner \d+\.\d\d%", printed
    )


@pytest.mark.parametrize("line", ["( a ( good film ) )", "(2 (2 a) (4 (4 good) (2 film)))", "( a film )"])
def test_gold_takes_any_treebank(
    line: str, parser_run: Path, spinn_run: Path, tmp_path: Path, spinn: Spinn
) -> None:
    (tmp_path / "gold.txt").write_text(line + "\n")
    printed = spinn("--gold", tmp_path / "gold.txt", "--model", parser_run, "--model", spinn_run).out
    assert "nan" not in printed
    assert "100.00% of transitions as in the corpus's trees" in printed
    (tmp_path / "gold.txt").write_text(line + "\n( bad\n")
    assert "1 line skipped" in spinn("--gold", tmp_path / "gold.txt", "--model", parser_run, "--skip-bad").err


def test_a_bar_on_a_terminal(parser_run: Path, spinn: Spinn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    printed = spinn("--model", parser_run, "dogs bark")
    assert "sentences parsed" in printed.err
    assert printed.out == "( dogs bark )\n"


def test_evaluate_scores_the_trees(parser_run: Path, tmp_path: Path, capsys: Capture) -> None:
    results = json.loads((parser_run / "results.json").read_text())
    assert "loss" not in results["splits"]["dev"]
    (tmp_path / "more.txt").write_text(format_binary(parse_binary("( a ( bad plot ) )")) + "\n")
    assert main(["evaluate", str(parser_run), "--data", str(tmp_path / "more.txt")]) == 0
    assert "100.00% of transitions as in the corpus's trees" in capsys.readouterr().out
    options = ["--branching", "left", "--json", str(tmp_path / "scores.json")]
    assert main(["evaluate", str(parser_run), *options]) == 0
    printed = capsys.readouterr().out
    assert "of transitions as in trees made by --branching left" in printed
    assert "the corpus's trees" not in printed
    scores = json.loads((tmp_path / "scores.json").read_text())["dev"]["parse"]
    assert scores["gold"] == scores["left"]
    (tmp_path / "text.txt").write_text("a bad plot\n")  # there is nothing to score
    assert main(["evaluate", str(parser_run), "--data", str(tmp_path / "text.txt")]) == 1
    assert_one_error(capsys, "text.txt:1: .*text without a parse")


def test_output_that_cannot_be_encoded_is_no_traceback(
    parser_run: Path, monkeypatch: pytest.MonkeyPatch, spinn: Spinn
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    spinn("--model", parser_run, "naïve dogs")
    stream.flush()
    assert stream.buffer.getvalue() == b"( na?ve dogs )\n"


def test_the_parser_that_comes_with_the_package(capsys: Capture) -> None:
    sentences = ["The church has cracks in the ceiling.", "A man in a red shirt is playing the guitar."]
    assert main(["parse", *sentences]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "( ( The church ) ( ( has ( cracks ( in ( the ceiling ) ) ) ) . ) )",
        "( ( ( A man ) ( in ( a ( red shirt ) ) ) ) ( ( is ( playing ( the guitar ) ) ) . ) )",
    ]


@needs_shared
def test_the_parser_that_comes_with_the_package_is_the_one_measured(tmp_path: Path) -> None:
    """On sentences that it did not learn from: benchmarks/results/parsing.md."""
    gold = read_trees(write_split(tmp_path)["test"])
    model, vocabulary, _ = load_checkpoint(parsers.packaged_folder())
    columns = sentence_columns(gold, vocabulary)
    predicted = predict_transitions(model.encoder, columns)
    scores = score_parses(predicted, columns.transitions, lengths(columns))
    assert scores.gold.sentence_f1 > 0.87
    assert scores.transition_accuracy > 0.87
