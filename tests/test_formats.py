"""What is read from the lines of each format, and what is said of those that are refused."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from spinn_tensor.data_prep.columns import NO_LABEL, phrases
from spinn_tensor.data_prep.corpora.formats import (
    NLI_LABELS,
    Example,
    LabelNames,
    LineFormat,
    ListOpsFormat,
    PairFields,
    PairFormat,
    SentenceFormat,
    SstFormat,
    TreebankFormat,
    named_fields,
)
from spinn_tensor.data_prep.corpora.read import corpus_of, read_examples_as_columns, read_line_examples
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.text import SentenceReader, tree_of
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import format_binary, parse_labelled, right_branching
from spinn_tensor.data_prep.vocabulary import Vocabulary
from tests.machines import SHARED, needs_shared

READER = SentenceReader(Tokenizer().tokenize)
OLD, BARK = "( ( The church ) ( is old ) )", "( Dogs bark )"
SST = "(3 (2 (2 The) (2 church)) (3 (2 is) (1 old)))"
LISTOPS = "9\t( ( ( [MAX 2 ) 9 ) ] )"
GOOD: dict[str, Any] = {
    "gold_label": "neutral",
    "sentence1_binary_parse": "( ( A dog ) runs )",
    "sentence2_binary_parse": "Run",
    "pairID": "1#0",
}


def record(**fields: object) -> str:
    return json.dumps(fields)


def write(path: Path, *lines: dict[str, Any] | str) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    content = ("\n".join(texts) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(path: Path, line_format: LineFormat, skipped: Skipped | None = None) -> list[Example]:
    return list(read_line_examples(path, line_format, skipped=skipped))


def parses_of(path: Path, line_format: LineFormat) -> list[str]:
    """Every tree in a file."""
    return [format_binary(tree) for example in read(path, line_format) for tree in example.trees]


def test_pairs_with_and_without_a_gold_label(tmp_path: Path) -> None:
    bare = {field: GOOD[field] for field in ("sentence1_binary_parse", "sentence2_binary_parse")}
    path = write(tmp_path / "a.jsonl", GOOD, {**GOOD, "gold_label": "-", "pairID": 12})
    skipped = Skipped()
    (pair,) = read(path, PairFormat(), skipped)
    assert format_binary(pair.premise) == GOOD["sentence1_binary_parse"]
    assert pair.hypothesis.tokens == ("Run",)
    assert (pair.label, pair.name) == (1, "1#0")
    assert skipped == {"gold_label '-'": 1}
    write(path, bare, {**bare, "gold_label": "-", "pairID": 12}, GOOD)
    pairs = read(path, PairFormat(require_label=False))
    assert [pair[1:] for pair in pairs] == [(NO_LABEL, ""), (NO_LABEL, "12"), (1, "1#0")]


def test_fields_and_labels_of_one_s_own(tmp_path: Path) -> None:
    """Text that begins like a parse is one; numbers are labels, too; "-" is none."""
    lines = [
        {"text": "( a b )", "claim": "( c d )", "verdict": 1},
        {"text_binary_parse": "( a b )", "text": "A b.", "claim": "c", "verdict": 0},
        {"text": "a", "claim": "b", "verdict": "-"},
    ]
    labels = LabelNames([], grows=True)
    fields = named_fields(PairFields(), ["premise=text", "hypothesis=claim", "label=verdict", "pair_id=key"])
    path, skipped = write(tmp_path / "own.jsonl", *lines), Skipped()
    pairs = read(path, PairFormat(labels, fields), skipped)
    assert [labels.names[pair.label] for pair in pairs] == ["1", "0"]
    assert parses_of(path, PairFormat(labels, fields)) == ["( a b )", "( c d )", "( a b )", "c"]
    assert skipped == {"verdict '-' (no label, unless --labels names it)": 1}


@pytest.mark.parametrize(
    "settings, message",
    [
        (["premise"], "got 'premise', expected premise, hypothesis, label, pair_id = the name of a field"),
        (["sentence=x"], "got 'sentence=x', expected premise"),
        (["premise=x", "label=x"], "got premise=x, label=x: two parts of a record in one field"),
    ],
)
def test_names_of_fields_are_checked(settings: list[str], message: str) -> None:
    with pytest.raises(DataError) as caught:
        named_fields(PairFields(), settings)
    assert str(caught.value).startswith(f"fields: {message}")


@pytest.mark.parametrize(
    "value",
    [
        "NaN",
        "-Infinity",
        "1e999",
        "[" * 900 + "]" * 900,
        "123456789012345678901234567890",
        r'"\ud800"',
        "1.5",
    ],
)
def test_values_that_json_libraries_do_not_agree_on_do_no_harm(tmp_path: Path, value: str) -> None:
    """Neither in fields that nobody reads nor as names, which may be any integer."""
    path = write(tmp_path / "a.jsonl", json.dumps(GOOD)[:-1] + f', "other": {value}}}', GOOD)
    assert len(read(path, PairFormat())) == 2
    path = write(tmp_path / "a.jsonl", json.dumps({**GOOD, "pairID": 0}).replace(": 0", f": {value}"))
    if value.isdecimal():
        assert not isinstance(orjson.loads(value), int)
        assert read(path, PairFormat())[0].name == value
    elif value == "NaN":  # as pandas has what is missing
        assert read(path, PairFormat())[0].name == ""
    else:
        with pytest.raises(DataError, match=":1: pairID: "):
            read(path, PairFormat())


# Name and lines of a file, and the trees in it.
FORMS: dict[str, tuple[str, list[str], list[str]]] = {
    "pairs": (
        "a.jsonl",
        [record(sentence1_binary_parse=OLD, sentence2_binary_parse=BARK, gold_label="-")] * 2,
        [OLD, BARK, OLD, BARK],
    ),
    "sentences": (
        "a.jsonl",
        [record(sentence_binary_parse=OLD, sentence="x y"), record(binary_parse=BARK)],
        [OLD, BARK],
    ),
    "the first of several fields": (
        "a.jsonl",
        [
            record(binary_parse=BARK, sentence_binary_parse=OLD, sentence="x y"),
            record(sentence="x y", binary_parse=BARK),
            record(sentence_binary_parse=BARK, sentence1_binary_parse=OLD, sentence2_binary_parse=OLD),
        ],
        [OLD, BARK, OLD, OLD],
    ),
    "parses": ("a.txt", [OLD, BARK, "Yes", BARK], [OLD, BARK, "Yes", BARK]),
    "labelled trees": ("a.txt", [SST, "(9 No)"], [OLD, "No"]),
    "labelled parses": ("a.tsv", [LISTOPS, "3\t3"], ["( ( ( [MAX 2 ) 9 ) ] )", "3"]),
    "all of them": ("a.txt", [OLD, "", SST, f"0\t{BARK}"], [OLD, OLD, BARK]),
}


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("form", FORMS)
def test_treebanks_in_every_form(form: str, packed: str, tmp_path: Path) -> None:
    name, lines, expected = FORMS[form]
    path = write(tmp_path / (name + packed), *lines)
    assert parses_of(path, TreebankFormat()) == expected
    found = read_examples_as_columns(path, TreebankFormat(), Vocabulary.build([]))
    assert set(found.labels.tolist()) == {NO_LABEL}
    assert found.sentences.node_labels is None


RAW: dict[str, tuple[str, list[str], list[str]]] = {
    "pairs": (
        "a.jsonl",
        [record(sentence1="It isn't old.", sentence2="Dogs bark", sentence2_binary_parse=BARK)],
        ["( It ( is ( n't ( old . ) ) ) )", BARK],
    ),
    "sentences": ("a.jsonl", [record(sentence="(Yes)")], ["( -LRB- ( Yes -RRB- ) )"]),
    "lines": (
        "a.txt",
        ["Don't", OLD, SST, "(3) no"],
        ["( Do n't )", OLD, OLD, "( -LRB- ( 3 ( -RRB- no ) ) )"],
    ),
}


@pytest.mark.parametrize("form", RAW)
def test_text_is_read_where_there_is_no_parse(form: str, tmp_path: Path) -> None:
    name, lines, expected = RAW[form]
    assert parses_of(write(tmp_path / name, *lines), TreebankFormat(READER)) == expected


def test_the_sentence_of_a_record_may_be_in_any_field(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", record(sentence1=OLD, sentence2="Dogs bark", pairID="1", sentenceID=7))
    for field, expected in (("sentence1", OLD), ("sentence2", BARK)):
        (example,) = read(path, SentenceFormat(field, READER))
        assert (format_binary(example.trees[0]), example.name) == (expected, "7")


def without(name: str) -> str:
    return json.dumps({field: value for field, value in GOOD.items() if field != name})


PAIR, TREE_RECORD, TREE = PairFormat(), TreebankFormat(), TreebankFormat()
# A format, a good line and a bad one, and what is said of it.
BAD: list[tuple[LineFormat, Any, Any, str]] = [
    (PAIR, GOOD, '{"gold_label": ', "not JSON"),
    (PAIR, GOOD, "[" * 100_000, "not JSON"),
    (PAIR, GOOD, "[1]", "got a JSON list, expected an object"),
    (
        PAIR,
        GOOD,
        {**GOOD, "gold_label": "maybe"},
        "gold_label: got 'maybe', expected one of 'entailment', 'neutral'",
    ),
    (PAIR, GOOD, {**GOOD, "gold_label": ["neutral"]}, "gold_label: got list, expected a string"),
    (PAIR, GOOD, {**GOOD, "sentence1_binary_parse": 3}, "sentence1_binary_parse: got int, expected a string"),
    (
        PAIR,
        GOOD,
        {**GOOD, "sentence2_binary_parse": "( a"},
        "sentence2_binary_parse: token 1 '(': unbalanced",
    ),
    (
        PAIR,
        GOOD,
        {**GOOD, "sentence1_binary_parse": "( a ) )"},
        "sentence1_binary_parse: token 3 ')': a node with",
    ),
    (PAIR, GOOD, {**GOOD, "sentence1_binary_parse": ""}, "sentence1_binary_parse: no parse"),
    (
        PAIR,
        GOOD,
        {**GOOD, "sentence1_binary_parse": "\ud800"},
        "sentence1_binary_parse: half of a surrogate pair",
    ),
    (PAIR, GOOD, {**GOOD, "pairID": 7.5}, "pairID: got float, expected a string"),
    (PAIR, GOOD, without("gold_label"), "gold_label: missing field"),
    (PAIR, GOOD, without("sentence1_binary_parse"), "sentence1_binary_parse: missing field"),
    (PAIR, GOOD, without("sentence2_binary_parse"), "sentence2_binary_parse: missing field"),
    (TREE_RECORD, GOOD, "{", "not JSON"),
    (TREE_RECORD, GOOD, record(text="x"), "missing field, expected sentence1_binary_parse"),
    (TREE_RECORD, GOOD, record(sentence2="A cat"), "sentence2_binary_parse: missing field"),
    (
        TREE_RECORD,
        GOOD,
        record(sentence1="A", sentence2="A"),
        "sentence1_binary_parse: missing field; sentence1 is",
    ),
    (
        TREE_RECORD,
        GOOD,
        record(sentence="A dog"),
        "sentence_binary_parse: missing field; sentence is text without",
    ),
    (TREE, BARK, "( ( a b )", "token 1 '(': unbalanced"),
    (TREE, BARK, "a b", "token 2 'b': after the end of the tree; text without a parse: --parser packaged"),
    (TREE, BARK, "(3 (2 a) (2 b) (2 c))", "token 15 ')': a node with 3 children"),
    (TREE, BARK, "3\t", "an empty parse"),
    (
        TreebankFormat(READER),
        GOOD,
        record(sentence1="A", sentence2="\u200b"),
        "sentence2: a sentence without",
    ),
    (SstFormat(), SST, "(5 (2 It) (4 works))", "token 2 '5': expected a label from 0 to 4"),
    (SstFormat(), SST, "(3 (2 It) (4 works)", "token 1 '(': unbalanced"),
    (SstFormat(), SST, "(3 (2 It))", "token 7 ')': a node with one child"),
    (
        ListOpsFormat(),
        LISTOPS,
        "9 ( ( ( [MAX 2 ) 9 ) ] )",
        "no tab, expected a label, a tab and a binary parse",
    ),
    (ListOpsFormat(), LISTOPS, "10\t( ( ( [MAX 2 ) 9 ) ] )", "label: got '10', expected 0 to 9"),
    (ListOpsFormat(), LISTOPS, "\t( ( ( [MAX 2 ) 9 ) ] )", "label: got '', expected 0 to 9"),
    (ListOpsFormat(), LISTOPS, "9\t( ( ( [MAX 2 ) 9 ) ]", "token 1 '(': unbalanced"),
    (ListOpsFormat(), LISTOPS, "9\t( ( ( [MAX 2 ) 9 ) ] ) 3", "token 11 '3': after the end"),
    (ListOpsFormat(), LISTOPS, "9\t( [MAX 2 9 ] )", "token 6 ')': "),
]


@pytest.mark.parametrize("line_format, good, bad, message", BAD, ids=[f"{row[3][:50]}" for row in BAD])
def test_a_bad_line_is_named_or_counted(
    tmp_path: Path, line_format: LineFormat, good: Any, bad: Any, message: str
) -> None:
    path = write(tmp_path / "a", good, bad, good)
    with pytest.raises(DataError) as caught:
        read_examples_as_columns(path, line_format, Vocabulary.build([]))
    assert str(caught.value).startswith(f"{path}:2: {message}")
    assert len(str(caught.value).splitlines()) == 1
    skipped = Skipped()
    found = read_examples_as_columns(path, line_format, Vocabulary.build([]), skip_bad=True, skipped=skipped)
    assert (len(found.labels), skipped.total()) == (2, 1)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    write(tmp_path / "dash.jsonl", {**GOOD, "gold_label": "-"})
    for name, message in [
        ("empty.jsonl", "an empty file"),
        ("dash.jsonl", "no examples (1 line skipped: 1 x gold_label '-' ("),
        ("none.jsonl", "no such file"),
        ("none/a.jsonl", "no such folder"),
        (".", "a folder, expected a file"),
    ]:
        for skip_bad in (False, True):
            with pytest.raises(DataError) as caught:
                read_examples_as_columns(tmp_path / name, PAIR, Vocabulary.build([]), skip_bad=skip_bad)
            assert message in str(caught.value)


def test_the_official_zip(tmp_path: Path) -> None:
    path = tmp_path / "snli_1.0.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for split, label in zip(("train", "dev", "test"), NLI_LABELS, strict=True):
            line = json.dumps({**GOOD, "gold_label": label}) + "\n"
            archive.writestr(f"snli_1.0/snli_1.0_{split}.jsonl", line)
    for number, split in enumerate(("train", "dev", "test")):
        (pair,) = read_line_examples(path, PAIR, member=f"snli_1.0/snli_1.0_{split}.jsonl")
        assert pair.label == number
    assert os.listdir(tmp_path) == ["snli_1.0.zip"]
    with pytest.raises(DataError, match=r"no other\.jsonl in it"):
        list(read_line_examples(path, PAIR, member="other.jsonl"))


@pytest.mark.parametrize("text", ["( a", "( ( a b )", "( a b ) c )", "( a b c )", "( a ( b c ) ( d )"])
def test_what_begins_like_a_parse_is_no_text(text: str) -> None:
    """A parse with a bracket missing is not silently read as other words."""
    with pytest.raises(DataError):
        tree_of(READER.read(text))


@pytest.mark.parametrize("n_tokens", [1, 2, 5])
def test_right_branching(n_tokens: int) -> None:
    tokens = tuple("abcde"[:n_tokens])
    expected = {1: "a", 2: "( a b )", 5: "( a ( b ( c ( d e ) ) ) )"}[n_tokens]
    assert format_binary(right_branching(tokens)) == expected


def test_phrases_are_all_nodes() -> None:
    tree = parse_labelled("(3 (2 It) (4 (2 was) (0 (1 so) (3 good))))", 5)
    vocabulary = Vocabulary.build([tree.tokens])
    examples = [Example((tree,), 3), Example((parse_labelled("(1 good)", 5),), 1)]
    corpus = phrases(corpus_of(examples, vocabulary))
    words = np.array(vocabulary.tokens)[corpus.sentences.token_ids]
    got = [" ".join(part) for part in np.split(words, corpus.sentences.token_offsets[1:-1])]
    assert got == ["It", "was", "so", "good", "so good", "was so good", "It was so good", "good"]
    assert corpus.labels.tolist() == [2, 2, 1, 3, 0, 4, 3, 1]
    shapes = ["0"] * 4 + ["001", "00011", "0000111", "0"]
    assert "".join(map(str, corpus.sentences.transitions)) == "".join(shapes)


@needs_shared
def test_the_sentiment_treebank() -> None:
    found = read_examples_as_columns(SHARED / "sst" / "dev.txt.gz", SstFormat(), Vocabulary.build([]))
    assert np.bincount(found.labels).tolist() == [139, 289, 229, 279, 165]  # the treebank's own counts


@needs_shared
def test_the_slice_of_snli_has_the_trees_of_its_pairs() -> None:
    path = SHARED / "snli" / "snli_1.0_dev_slice.jsonl.gz"
    assert parses_of(path, TREE_RECORD) == parses_of(path, PairFormat(require_label=False))
