"""Blocks of lines at once against one line at a time: the same columns, labels, names, counts and errors."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinn_tensor.data_prep.columns import NO_LABEL, sentence_columns
from spinn_tensor.data_prep.corpora import read
from spinn_tensor.data_prep.corpora.formats import (
    LabelNames,
    LineFormat,
    ListOpsFormat,
    PairFields,
    PairFormat,
    SentenceFormat,
    SstFormat,
    TreebankFormat,
)
from spinn_tensor.data_prep.corpora.read import (
    Block,
    open_examples,
    read_examples_as_columns,
    read_line_examples,
)
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import NOT_UTF_8, Skipped
from spinn_tensor.data_prep.text import SentenceReader
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import Tree, format_binary
from spinn_tensor.data_prep.vocabulary import WordList
from tests.machines import SHARED, needs_shared
from tests.reading import OWN, VOCABULARY, assert_as_by_the_line, outcome
from tests.strategies import binary_transitions, tree_of

pytest.importorskip("pyarrow")

PARSES = st.one_of(
    st.sampled_from(
        [
            "( A dog )",
            "( ( A dog ) runs )",
            "dog",
            "( A ( dog",
            ")",
            "",
            " ",
            "( é w1 )",
            "(A dog)",
            "don't bark",
        ]
    ),
    binary_transitions(max_tokens=9).map(lambda transitions: format_binary(tree_of(transitions))),
)
VALUES = st.one_of(PARSES, st.none(), st.integers(-1, 3), st.booleans(), st.lists(st.integers(), max_size=1))
LABELS = st.sampled_from(
    ["neutral", "entailment", "contradiction", "-", "other", 1, 0, None, "", ["neutral"]]
)
GOOD = {"gold_label": "neutral", "sentence1_binary_parse": "dog", "sentence2_binary_parse": "( A dog )"}


@st.composite
def records(draw: Any, names: PairFields) -> str:
    """A line: mostly a good pair, sometimes with a field that is missing, null or of another type, or no JSON."""
    record: dict[str, Any] = {}
    for name in (names.premise, names.hypothesis):
        for field in (f"{name}_binary_parse", name):
            if draw(st.integers(0, 9)) or field.endswith("parse"):
                record[field] = draw(PARSES if draw(st.integers(0, 9)) else VALUES)
            if not draw(st.integers(0, 9)):
                record.pop(field, None)
    record[names.label] = draw(LABELS if not draw(st.integers(0, 4)) else st.just("neutral"))
    record[names.pair_id] = draw(st.sampled_from(["1#0", "é", "", None, 3])) if draw(st.booleans()) else "x"
    for name in (names.label, names.pair_id):
        if not draw(st.integers(0, 9)):
            del record[name]
    line = json.dumps(record, ensure_ascii=draw(st.booleans()))
    damage = draw(st.integers(0, 19))
    if damage == 0:
        line = draw(
            st.sampled_from([line[:-1], line + line, "[" + line + "]", line + ",", "null", "{}", "{", "}"])
        )
    elif damage == 1:
        line = line.replace(
            "A", draw(st.sampled_from(["\\ud800", "\\u0041", "\\n", "\x01", "\t", "\\u0000"]))
        )
    elif damage == 2:
        line = draw(st.sampled_from(["", "  ", "\x0c", "\u2003", "  " + line + " "]))
    elif damage == 3:
        line = line[:-1] + ", " + line[1:] if record else line  # every field twice
    return line


def assert_lines(folder: Any, lines: list[str], make: Callable[[], LineFormat], name: str = "in") -> None:
    path = folder.getbasetemp() / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert_as_by_the_line(path, make)


@pytest.mark.parametrize("names, grows", [(PairFields(), False), (OWN, True), (OWN, False)])
@pytest.mark.parametrize("require_label", [True, False])
@given(data=st.data())
def test_pairs(tmp_path_factory: Any, names: PairFields, grows: bool, require_label: bool, data: Any) -> None:
    lines = data.draw(st.lists(records(names), min_size=1, max_size=8))

    def make() -> PairFormat:
        return PairFormat(LabelNames([] if grows else ["neutral", "1"], grows), names, require_label)

    assert_lines(tmp_path_factory, lines, make, "in.jsonl")


TREES = st.one_of(
    PARSES, st.sampled_from(["(3 (2 A) (4 dog))", "(3 (2 A))", "9\t( A dog )", "9\t", "\ufeff"])
)
SINGLES = st.builds(
    lambda field, parse: json.dumps({field: parse, "sentenceID": 7}),
    st.sampled_from(["sentence", "sentence_binary_parse", "binary_parse"]),
    PARSES,
)
LINE_FORMATS: list[tuple[Any, Callable[[], LineFormat]]] = [
    (TREES, lambda: TreebankFormat()),
    (TREES, lambda: TreebankFormat(SentenceReader(Tokenizer().tokenize))),
    (records(PairFields()) | SINGLES, lambda: TreebankFormat()),
    (TREES, SstFormat),
    (TREES, ListOpsFormat),
    (TREES, lambda: SentenceFormat()),
    (TREES, lambda: SentenceFormat(None, SentenceReader(Tokenizer().tokenize))),
    (
        records(PairFields()) | SINGLES,
        lambda: SentenceFormat("sentence1", SentenceReader(Tokenizer().tokenize)),
    ),
    (records(PairFields()) | SINGLES, lambda: SentenceFormat()),
]


@pytest.mark.parametrize("lines, make", LINE_FORMATS)
@given(data=st.data())
def test_other_formats(tmp_path_factory: Any, lines: Any, make: Callable[[], LineFormat], data: Any) -> None:
    name = "in" if lines is TREES else "in.jsonl"
    assert_lines(tmp_path_factory, data.draw(st.lists(lines, min_size=1, max_size=8)), make, name)


def test_sst(tmp_path: Path) -> None:
    path = tmp_path / "dev.txt"
    path.write_text("(3 (2 A) (4 dog))\n(2 runs)\n(9 A)\n(0 (2 A) (2 dog))\n", encoding="utf-8")
    five = assert_as_by_the_line(path, SstFormat)
    assert (five[3], five[5]) == ([2, 4, 3, 2, 2, 2, 0], [3, 2, 0])
    two = assert_as_by_the_line(path, lambda: SstFormat(binary=True))
    assert (two[3], two[5]) == ([NO_LABEL, 1, 1, NO_LABEL, NO_LABEL, 0], [1, 0])
    assert two[7]["a neutral sentence"] == 1


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 5, 50])
def test_a_limit_looks_no_further(tmp_path: Path, limit: int) -> None:
    lines = [json.dumps(record) for record in (GOOD, {**GOOD, "gold_label": "-"}, GOOD, GOOD)] + ["bad"]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    got = assert_as_by_the_line(path, PairFormat, limit)
    n_good = min(limit, 3) if limit else 3
    assert len(got[5]) == n_good
    is_error = isinstance(outcome(path, PairFormat(), False, limit), str)
    assert is_error == (limit in (0, 5, 50))


def test_blocks_are_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps({**GOOD, "pairID": str(i)}) for i in range(23)]
    lines[17] = "bad"
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    whole = [outcome(path, PairFormat(), skip_bad) for skip_bad in (False, True)]
    monkeypatch.setattr(read, "BLOCK", 5)
    assert [outcome(path, PairFormat(), skip_bad) for skip_bad in (False, True)] == whole
    assert whole[0] == f"{path}:18: not JSON: Expecting value"


def blocks_of(path: Path, size: int) -> tuple[list[Block], Skipped]:
    """All blocks of a file of sentences, and everything that was skipped."""
    with open_examples(path, SentenceFormat(), VOCABULARY, skip_bad=True) as file:
        blocks = list(iter(lambda: file.block(size), None))
        skipped = Skipped(file.skipped)
    for block in blocks:
        skipped.update(block.skipped)
    return blocks, skipped


def test_lines_without_a_sentence_are_named(tmp_path: Path) -> None:
    path = tmp_path / "in.txt.gz"
    lines = [b"( a b )\n", b"\n", b"( a )\n", b"dogs\n", b"\xff\n", b"( old dogs )"]
    path.write_bytes(gzip.compress(b"".join(lines)))
    blocks, skipped = blocks_of(path, 4)
    assert [(block.first_line, block.n_lines, block.left_out.tolist()) for block in blocks] == [
        (1, 4, [2, 3]),
        (5, 2, [5]),
    ]
    assert skipped == {"a node with one child": 1, NOT_UTF_8: 1}


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_broken_end_is_counted_once_wherever_the_blocks_end(size: int, tmp_path: Path) -> None:
    path = tmp_path / "in.txt.gz"
    path.write_bytes(gzip.compress(b"( old dogs )\n" * 6, 0)[:-8])  # its last bytes, a checksum, are missing
    blocks, skipped = blocks_of(path, size)
    assert sum(block.n_lines for block in blocks) == 6
    assert skipped == {"truncated: the compressed data end early": 1}


def test_lines_that_are_skipped_are_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"( a )\n" * 2 + b"\xff\n" + b"( old dogs )\n" + b"( a )\n" * 2)
    with open_examples(path, SentenceFormat(), VOCABULARY, skip_bad=True) as file:
        assert file.skip(3) == 3
        block = file.block(1)
        assert block is not None
        found = (block.first_line, block.n_lines, len(block.examples.sentences.token_ids), block.skipped)
        assert found == (4, 1, 2, {})
        assert [file.skip(3), file.skip(3)] == [2, 0]
        assert not file.skipped


@pytest.mark.parametrize("n_sides", [1, 2])
def test_a_bad_example_at_hand_is_named_by_its_own_number(n_sides: int) -> None:
    good, bad = Tree(("a",), np.array([0])), Tree(("a",), np.array([0, 1]))
    examples = [read.Example((good,) * n_sides) for _ in range(5)]
    examples[3] = read.Example((*(good,) * (n_sides - 1), bad))
    with pytest.raises(DataError) as caught:
        read.corpus_of(examples, WordList())
    assert caught.value.example == 3


def test_words_are_numbered_as_they_come() -> None:
    words = WordList(["b", "a"])
    assert words.encode(["c", "a", "c", "d"]).tolist() == [2, 1, 2, 3]
    assert words.words == ("b", "a", "c", "d")


@needs_shared
def test_the_snli_slice() -> None:
    path = SHARED / "snli" / "snli_1.0_dev_slice.jsonl.gz"
    skipped = Skipped()
    pairs = list(read_line_examples(path, PairFormat(), skipped=skipped))
    assert skipped == {"gold_label '-'": 16}
    words = WordList()
    corpus = read_examples_as_columns(path, PairFormat(), words).corpus()
    assert corpus.labels.tolist() == [pair.label for pair in pairs]
    assert np.bincount(corpus.labels).tolist() == [433, 421, 419]
    for side, sentences in enumerate(corpus.sides):
        wanted = sentence_columns([pair.trees[side] for pair in pairs], words)
        for values, others in zip(sentences[:3], wanted[:3], strict=True):
            assert values.dtype == others.dtype
            np.testing.assert_array_equal(values, others)
