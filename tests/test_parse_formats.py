"""What `spinn parse` writes of a tree: every format, of text, tokens, trees and records; and its log-probability."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from spinn_tensor import make_sentence_batch
from spinn_tensor.cli import parse
from spinn_tensor.cli.main import main
from spinn_tensor.data_prep.columns import node_offsets, sentence_columns, take
from spinn_tensor.data_prep.penn import BINARIZE, parse_penn, to_binary
from spinn_tensor.data_prep.tree_json import nested
from spinn_tensor.data_prep.trees import REDUCE, format_binary, parse_binary, right_branching
from spinn_tensor.inference import predict_parses
from spinn_tensor.machine import reference
from spinn_tensor.model.classifiers import load_checkpoint
from tests import nested_trees
from tests.command_line import assert_one_error

pytestmark = pytest.mark.numerical

pytest.importorskip("datasets")

Capture = pytest.CaptureFixture[str]
FORMATS = ("binary", "penn", "json", "draw", "svg")
MRG = """\
( (S
    (NP-SBJ-1 (DT The) (NN dog))
    (VP (VBZ barks)
      (NP (-NONE- *T*-1))
      (ADVP (RB loudly)))
    (. .)))

(S (NP (PRP I)) (VP (VBP see)))
"""


def spinn(capsys: Capture, *arguments: str | Path) -> tuple[list[str], str]:
    """Run it; return the lines of stdout, and stderr."""
    assert main(["parse", "--threads", "1", "--device", "cpu", *map(str, arguments)]) == 0
    printed = capsys.readouterr()
    return printed.out.split("\n")[:-1], printed.err


def test_penn_trees_are_parsed_back_to_the_same_binary_trees(parser_run: Path, capsys: Capture) -> None:
    sentences = ["red cows sing", "dogs", "a good film"]
    trees, _ = spinn(capsys, "--model", parser_run, *sentences)
    penn, _ = spinn(capsys, "--model", parser_run, "--format", "penn", *sentences)
    assert [format_binary(to_binary(parse_penn(line))) for line in penn] == trees


def test_tags_are_kept_and_words_are_escaped(capsys: Capture) -> None:
    (line,), _ = spinn(capsys, "--branching", "right", "--format", "penn", "(S (NP (DT a) (NN b)) (VP c))")
    assert line == "(ROOT (X (DT a) (X (NN b) (VP c))))"
    (line,), _ = spinn(capsys, "--branching", "right", "--format", "penn", "--tokens", "f(x) :)")
    assert line == "(ROOT (X (X f-LRB-x-RRB-) (X :-RRB-)))"


@pytest.mark.parametrize("text", ['He said "hi (x)" don’t…', "dogs  bark", "naïve\tcafé 🐕 barks.", "a"])
def test_offsets_are_those_of_the_text(text: str, parser_run: Path, capsys: Capture) -> None:
    (line,), _ = spinn(capsys, "--model", parser_run, "--format", "json", text)
    made = json.loads(line)
    assert made["text"] == text
    tree = parse_binary(made["tree"])
    assert list(tree.tokens) == made["tokens"]
    shown = [text[start:end] for start, end in made["offsets"]]
    plain = {"``": '"', "''": '"', "-LRB-": "(", "-RRB-": ")", "n't": "n’t", "...": "…"}
    assert shown == [plain.get(token, token) for token in made["tokens"]]
    brackets = nested_trees.spans(nested_trees.nested(tree.transitions))
    as_they_open = sorted(brackets, key=lambda span: (span[0], -span[1]))
    assert [tuple(span["words"]) for span in made["spans"]] == as_they_open
    for span in made["spans"]:
        first, end = span["words"]
        assert span["characters"] == [made["offsets"][first][0], made["offsets"][end - 1][1]]
    assert made["log_probability"] <= 0


@pytest.mark.parametrize(
    "options, text",
    [
        (["--tokens"], "dogs don't bark ."),
        ([], "( dogs ( don't ( bark . ) ) )"),
        ([], "(S (NP dogs) (VP don't bark .))"),
    ],
)
def test_offsets_of_tokens_are_those_of_the_tokens_joined(
    options: list[str], text: str, parser_run: Path, capsys: Capture
) -> None:
    (line,), _ = spinn(capsys, "--model", parser_run, *options, "--format", "json", text)
    made = json.loads(line)
    assert made["text"] == "dogs don't bark ."
    assert (
        [made["text"][start:end] for start, end in made["offsets"]] == made["tokens"] == made["text"].split()
    )


@pytest.mark.parametrize("form, nothing", [("binary", ""), ("penn", ""), ("draw", ""), ("json", "null")])
def test_a_blank_line_has_no_tree(
    form: str, nothing: str, parser_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "in.txt").write_text("\ndogs\n \n\u200b\ncats")
    command = ["--model", parser_run, "--format", form, "--input", tmp_path / "in.txt"]
    lines, err = spinn(capsys, *command, "--on-error", "empty")
    alone = [spinn(capsys, "--model", parser_run, "--format", form, word)[0] for word in ("dogs", "cats")]
    assert lines == [nothing, *alone[0], nothing, nothing, *alone[1]]
    reasons = "2 x a blank line; 1 x a sentence without words ("
    assert err.startswith(f"spinn: 3 lines have no tree: {reasons}")
    assert err.endswith("in.txt:4)\n")
    lines, err = spinn(capsys, *command, "--on-error", "skip")
    assert lines == [*alone[0], *alone[1]]
    assert err.startswith(f"spinn: 3 lines skipped: {reasons}")


@pytest.mark.parametrize("form, field", [("binary", "binary_parse"), ("penn", "parse"), ("json", "tree")])
def test_records_gain_a_field(form: str, field: str, tmp_path: Path, capsys: Capture) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(
        '{"id": 1, "sentence": "a b"}\n\n{"id": 2, "sentence": ""}\n{"id"\n{"id": 4}\n{"sentence": 5}\n'
    )
    command = ["--branching", "left", "--format", form, "--input", source]
    lines, err = spinn(capsys, *command, "--on-error", "empty")
    (alone,), _ = spinn(capsys, "--branching", "left", "--format", form, "a b")
    made = {"id": 1, "sentence": "a b", f"sentence_{field}": json.loads(alone) if form == "json" else alone}
    assert json.loads(lines[0]) == made
    assert [lines[1], lines[3]] == ["null" if form == "json" else ""] * 2
    assert json.loads(lines[2]) == {"id": 2, "sentence": "", f"sentence_{field}": None}
    assert json.loads(lines[4]) == {"id": 4}
    assert json.loads(lines[5]) == {"sentence": 5, f"sentence_{field}": None}
    assert err.startswith("spinn: 5 lines have no tree: ")


@pytest.mark.parametrize("binarize", BINARIZE)
def test_trees_that_are_given_are_written_as_they_are(binarize: str, tmp_path: Path, capsys: Capture) -> None:
    source = tmp_path / "a.mrg"
    source.write_text(MRG)
    command = ["--branching", "none", "--binarize", binarize, "--input", source]
    expected = {
        "right": "( ( The dog ) ( ( barks loudly ) . ) )",
        "left": "( ( ( The dog ) ( barks loudly ) ) . )",
        "head": "( ( The dog ) ( ( barks loudly ) . ) )",
    }
    lines, err = spinn(capsys, *command)
    assert lines == [expected[binarize], "( I see )"]
    assert not err
    for options in (["--format", "penn"], ["--branching", "left"]):
        assert main([str(word) for word in ["parse", *command, *options]]) == 1
        assert_one_error(capsys, "--binarize goes with --branching none")
    lines, _ = spinn(capsys, "--branching", "none", "--input", source, "--format", "penn")
    assert lines == [
        "( (S (NP-SBJ-1 (DT The) (NN dog)) (VP (VBZ barks) (ADVP (RB loudly))) (. .)))",
        "(S (NP (PRP I)) (VP (VBP see)))",
    ]
    assert main(["parse", "--branching", "none", "--tokens", "dogs bark"]) == 1
    assert_one_error(capsys, "--branching none writes trees that are given: it goes without --tokens")
    assert main(["parse", "--branching", "none", "dogs bark"]) == 1
    assert_one_error(capsys, "sentence 1: .*text without a parse")


def test_trees_of_records(parser_run: Path, tmp_path: Path, capsys: Capture) -> None:
    """Without a text the words of a tree are parsed; with --branching none the tree is kept, SNLI's own or another."""
    source = tmp_path / "in.jsonl"
    penn, binary = "(S (NP dogs) (VP (MD do) (RB not) (VP bark)))", "( ( ( dogs do ) not ) bark )"
    source.write_text(
        json.dumps({"sentence1_parse": penn, "sentence2_parse": penn, "sentence2_binary_parse": binary})
    )

    def found(*options: str | Path) -> dict[str, str]:
        (line,), _ = spinn(capsys, *options, "--input", source)
        return json.loads(line)

    (own,), _ = spinn(capsys, "--model", parser_run, "dogs do not bark")
    record = found("--model", parser_run)
    assert (record["sentence1_binary_parse"], record["sentence2_binary_parse"]) == (own, own)
    record = found("--branching", "none")
    assert record["sentence1_binary_parse"] == "( dogs ( ( do not ) bark ) )"
    assert record["sentence2_binary_parse"] == binary
    record = found("--branching", "none", "--binarize", "right", "--field", "sentence2_parse")
    assert record["sentence2_binary_parse"] == "( dogs ( do ( not bark ) ) )"
    assert "sentence1_binary_parse" not in record
    source.write_text(json.dumps({"sentence": "( see below )", "text": "( see below )"}))
    assert found("--branching", "left")["sentence_binary_parse"].startswith("( ( ( -LRB-")
    assert found("--branching", "left", "--field", "text")["text_binary_parse"] == "( see below )"


def test_a_picture_has_all_words(tmp_path: Path, parser_run: Path, capsys: Capture) -> None:
    (tmp_path / "in.txt").write_text("<b> & dogs\n\ncats sing\n" + "x " * 1001 + "\n")
    target = tmp_path / "trees.svg"
    options = ["--format", "svg", "--tokens", "--input", tmp_path / "in.txt", "--output", target]
    spinn(capsys, "--model", parser_run, *options)
    picture = ElementTree.parse(target).getroot()
    name = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in picture.iter(f"{name}text")]
    assert texts[:5] == ["<b>", "&", "dogs", "cats", "sing"]
    assert "1,001 words" in (texts[5] or "")
    assert len(list(picture.iter(f"{name}path"))) == 3  # a bracket each
    places = [float(element.attrib["x"]) for element in picture.iter(f"{name}text")]
    assert places[:3] == sorted(places[:3])
    assert max(places) < float(picture.attrib["width"])


def test_a_picture_of_too_many_trees_is_refused(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parse, "MOST_DRAWN", 2)
    command = ["parse", "--branching", "left", "--format", "svg", "--output", str(tmp_path / "a.svg")]
    assert main([*command, "a b", "c d"]) == 0
    (tmp_path / "a.svg").unlink()
    capsys.readouterr()
    assert main([*command, "a b", "c d", "e"]) == 1
    assert_one_error(capsys, "--format svg: a picture of at most 2 trees")
    assert not (tmp_path / "a.svg").exists()


def slow_log_probability(model: Any, columns: Any, transitions: list[int]) -> float:
    """Of one tree, by the plain recursion: its transitions one by one, each among those that are possible."""
    encoder = model.encoder
    leaves = encoder.leaves(make_sentence_batch(columns, "own", share="nothing"))
    machine = encoder.composer
    _, tracked = reference.walk_tree(
        leaves, transitions, machine.compose.weights(), machine.tracker.weights()
    )
    n_left, depth, total = len(leaves), 0, 0.0
    for transition, h in zip(transitions, tracked, strict=True):
        logits = (machine.transition.weight @ h + machine.transition.bias).tolist()
        possible = [n_left > 0, depth > 1]
        both = sum(
            math.exp(logit) for logit, is_possible in zip(logits, possible, strict=True) if is_possible
        )
        total += logits[transition] - math.log(both)
        n_left, depth = (n_left, depth - 1) if transition == REDUCE else (n_left - 1, depth + 1)
    return total


def test_the_log_probability_is_that_of_one_tree_alone(spinn_run: Path) -> None:
    """In float64, of a batch of many lengths, against a recursion over one tree."""
    model, vocabulary, _ = load_checkpoint(spinn_run)
    model.double()
    rng = np.random.default_rng(0)
    sentences = [right_branching(rng.choice(vocabulary.tokens[2:], n)) for n in (1, 2, 3, 9, 4, 1, 30, 7)]
    columns = sentence_columns(sentences, vocabulary)
    found = predict_parses(model.encoder, columns)
    bounds = node_offsets(columns)
    with torch.no_grad():
        expected = [
            slow_log_probability(model, take(columns, np.array([row])), found.transitions[start:end].tolist())
            for row, (start, end) in enumerate(pairwise(bounds))
        ]
    log_probabilities = np.add.reduceat(found.step_log_probabilities, bounds[:-1])
    np.testing.assert_allclose(log_probabilities, expected, rtol=1e-10, atol=1e-12)
    assert log_probabilities[0] == 0
    assert (log_probabilities[[3, 6]] < 0).all()


@pytest.mark.parametrize(
    "parse", ["cats", '( ( The "dog" ) ( barks é ) )', "( a ( b ( c d ) ) )", "( ( ( a b ) c ) d )"]
)
def test_nested_lists_are_the_tree(parse: str) -> None:
    def binary(value: object) -> str:
        return f"( {binary(value[0])} {binary(value[1])} )" if isinstance(value, list) else str(value)

    assert binary(json.loads(nested(parse_binary(parse)))) == parse


def test_nested_lists_of_a_deep_tree_need_no_recursion() -> None:
    assert nested(right_branching(["a"] * 5000)).count("[") == 4999
