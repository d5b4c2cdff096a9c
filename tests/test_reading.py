"""Blocks of lines at once against one line at a time: the same columns, labels, names, counts and errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinn_tensor.data_prep import reading
from spinn_tensor.data_prep.columns import NO_LABEL, sentence_columns
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped, read_examples
from spinn_tensor.data_prep.json_lines import read_json_lines
from spinn_tensor.data_prep.listops import ListOpsFormat
from spinn_tensor.data_prep.pairs import LabelNames, PairFields, PairFormat, pair_columns
from spinn_tensor.data_prep.reading import LineExample, LineFormat, read_examples_as_columns
from spinn_tensor.data_prep.sst import SstFormat
from spinn_tensor.data_prep.treebank import TreebankFormat
from spinn_tensor.data_prep.trees import format_binary
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.data_prep.words import WordList, by_frequency
from tests.machines import SHARED, needs_shared
from tests.strategies import binary_transitions, tree_of

VOCABULARY = Vocabulary.build([["A", "dog", "runs", "é", "w1", "1", "]", "[MAX"]])
OWN = PairFields.named(["premise=text", "hypothesis=claim", "label=verdict", "pair_id=key"])


class Slowly:
    """The same format, which sees nothing at once."""

    def __init__(self, line_format: LineFormat) -> None:
        self._format = line_format

    def peek(self, lines: Any) -> None:
        return None

    def read(self, line: str, skipped: Skipped) -> LineExample | None:
        return self._format.read(line, skipped)


def outcome(path: Path, line_format: LineFormat, skip_bad: bool, limit: int = 0) -> Any:
    """What came of the file, as plain values, or the error."""
    skipped = Skipped()
    try:
        found = read_examples_as_columns(
            path, line_format, VOCABULARY, skip_bad=skip_bad, skipped=skipped, limit=limit
        )
    except DataError as error:
        return str(error)
    columns = found.sentences
    return (
        columns.token_ids.tolist(),
        columns.token_offsets.tolist(),
        columns.transitions.tolist(),
        None if columns.node_labels is None else columns.node_labels.tolist(),
        found.n_sentences.tolist(),
        found.labels.tolist(),
        found.names.to_pylist(),
        dict(skipped),
    )


def assert_as_slowly(path: Path, make: Callable[[], LineFormat], limit: int = 0) -> Any:
    for skip_bad in (False, True):
        got = outcome(path, make(), skip_bad, limit)
        assert got == outcome(path, Slowly(make()), skip_bad, limit)
    return got


PARSES = st.one_of(
    st.sampled_from(
        ["( A dog )", "( ( A dog ) runs )", "dog", "( A ( dog", ")", "", " ", "( é w1 )", "(A dog)"]
    ),
    binary_transitions(max_tokens=9).map(lambda transitions: format_binary(tree_of(transitions))),
)
VALUES = st.one_of(PARSES, st.none(), st.integers(-1, 3), st.booleans(), st.lists(st.integers(), max_size=1))
LABELS = st.sampled_from(
    ["neutral", "entailment", "contradiction", "-", "other", 1, 0, None, "", ["neutral"]]
)


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


@pytest.mark.parametrize("names, grows", [(PairFields(), False), (OWN, True), (OWN, False)])
@pytest.mark.parametrize("require_label", [True, False])
@given(data=st.data())
def test_pairs(tmp_path_factory: Any, names: PairFields, grows: bool, require_label: bool, data: Any) -> None:
    lines = data.draw(st.lists(records(names), min_size=1, max_size=8))
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("\n".join(lines) + data.draw(st.sampled_from(["", "\n", "\n\n"])), encoding="utf-8")

    def make() -> PairFormat:
        # in one order, since labels are numbered as they come
        known = ["neutral", "entailment", "contradiction", "other", "1", "0", "", "-1", "2", "3"]
        labels = LabelNames(known if grows else known[:3], grows=grows)
        return PairFormat(labels, names, require_label=require_label)

    assert_as_slowly(path, make)


@given(data=st.data())
def test_treebanks(tmp_path_factory: Any, data: Any) -> None:
    is_jsonl = data.draw(st.booleans())
    single = st.builds(lambda parse: json.dumps({"sentence_binary_parse": parse}), PARSES)
    line = st.one_of(records(PairFields()), single) if is_jsonl else PARSES
    lines = data.draw(st.lists(line, min_size=1, max_size=8))
    path = tmp_path_factory.mktemp("trees") / "trees.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert_as_slowly(path, lambda: TreebankFormat(is_jsonl))


@given(st.lists(st.tuples(st.sampled_from(["3\t", "x\t", "", "12\t", "4"]), PARSES), min_size=1, max_size=8))
def test_listops(tmp_path_factory: Any, lines: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("listops") / "train.tsv"
    path.write_text("".join(label + parse + "\n" for label, parse in lines), encoding="utf-8")
    assert_as_slowly(path, ListOpsFormat)


def test_sst(tmp_path: Path) -> None:
    path = tmp_path / "dev.txt"
    path.write_text("(3 (2 A) (4 dog))\n(2 runs)\n(9 A)\n(0 (2 A) (2 dog))\n", encoding="utf-8")
    five = outcome(path, SstFormat(), skip_bad=True)
    assert (five[3], five[5]) == ([2, 4, 3, 2, 2, 2, 0], [3, 2, 0])
    two = outcome(path, SstFormat(binary=True), skip_bad=True)
    assert (two[3], two[5]) == ([NO_LABEL, 1, 1, NO_LABEL, NO_LABEL, 0], [1, 0])
    assert two[7]["a neutral sentence"] == 1


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 5, 50])
def test_a_limit_looks_no_further(tmp_path: Path, limit: int) -> None:
    good = {"gold_label": "neutral", "sentence1_binary_parse": "dog", "sentence2_binary_parse": "( A dog )"}
    lines = [json.dumps(record) for record in (good, {**good, "gold_label": "-"}, good, good)] + ["bad"]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    got = assert_as_slowly(path, PairFormat, limit)
    n_good = min(limit, 3) if limit else 3
    assert len(got[5]) == n_good
    is_error = isinstance(outcome(path, PairFormat(), False, limit), str)
    assert is_error == (limit in (0, 5, 50))


def test_blocks_are_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"gold_label": "neutral", "sentence1_binary_parse": "dog", "sentence2_binary_parse": "( A dog )"}
    lines = [json.dumps({**good, "pairID": str(i)}) for i in range(23)]
    lines[17] = "bad"
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    whole = [outcome(path, PairFormat(), skip_bad) for skip_bad in (False, True)]
    monkeypatch.setattr(reading, "BLOCK", 5)
    assert [outcome(path, PairFormat(), skip_bad) for skip_bad in (False, True)] == whole
    assert whole[0] == f"{path}:18: not JSON"


@pytest.mark.parametrize(
    "lines",
    [
        ['{"a": "x"}{"a": "y"}', '{"a": "z"}'],  # two records
        ['{"a": "x"', "}"],  # one on two lines
        ['{"a": "x", "b": [{}', "{}]}"],
        ['{"a": "x", "b":', "{}}", '{"a": "y"}{"a": "z"}'],  # three lines and three records
        ['{"a": "\\ud800"}'],
        ['{"b": ' + "[" * 20_000 + "]" * 20_000 + "}"],  # how deep a reader goes is its own affair
        ["[]"],
    ],
)
def test_what_is_not_a_record_a_line_is_left_to_others(lines: list[str]) -> None:
    assert read_json_lines(lines, ["a"]) is None


def test_a_null_is_no_missing_field() -> None:
    found = read_json_lines(['{"a": "x"}', '{"a": null}', '{"b": 1}'], ["a", "c"])
    assert found is not None
    assert found.texts["a"].to_pylist() == ["x", None, None]
    assert found.unsure_mask.tolist() == [False, True, True]
    assert found.texts["c"].null_count == 3


def test_words_are_numbered_as_they_come_and_ordered_at_the_end() -> None:
    words = WordList(["b", "a"])
    assert words.encode(["c", "a", "c", "d"]).tolist() == [2, 1, 2, 3]
    assert words.words == ("b", "a", "c", "d")
    assert by_frequency(words.words, np.array([2, 3, 2, 0])).tolist() == [1, 0, 2]


@needs_shared
def test_the_snli_slice_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of it is read on its own, and the columns are those of the examples."""
    path = SHARED / "snli" / "snli_1.0_dev_slice.jsonl.gz"
    expected = list(read_examples(path, lambda line: PairFormat().read(line, Skipped())))
    monkeypatch.setattr(PairFormat, "read", None)
    words = WordList()
    columns = pair_columns(read_examples_as_columns(path, PairFormat(), words))
    assert columns.labels.tolist() == [example.label for example in expected]
    for side, sentences in enumerate((columns.sides[0], columns.sides[1])):
        wanted = sentence_columns([example.trees[side] for example in expected], words)
        for values, others in zip(sentences[:3], wanted[:3], strict=True):
            assert values.dtype == others.dtype
            np.testing.assert_array_equal(values, others)
