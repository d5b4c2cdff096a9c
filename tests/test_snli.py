"""SNLI's jsonl: what is read, what is refused, and the columns it becomes."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.columns import NO_LABEL, SentenceColumns
from data_prep.errors import DataError
from data_prep.files import Skipped
from data_prep.snli import (
    LABELS,
    UNLABELLED,
    PairExample,
    pair_columns,
    pair_columns_from_examples,
    read_pairs,
    to_dataset,
    token_counts,
)
from data_prep.trees import format_binary
from data_prep.vocabulary import Vocabulary

SLICE = Path(__file__).resolve().parents[2] / "shared" / "data" / "snli" / "snli_1.0_dev_slice.jsonl.gz"
GOOD: dict[str, Any] = {
    "gold_label": "neutral",
    "sentence1_binary_parse": "( ( A dog ) runs )",
    "sentence2_binary_parse": "Run",
    "pairID": "1#0",
}


def write(path: Path, *records: dict[str, Any] | str) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def assert_same_columns(got: SentenceColumns, expected: SentenceColumns) -> None:
    assert got.node_labels is None
    assert expected.node_labels is None
    for values, wanted in zip(got[:3], expected[:3], strict=True):
        assert values.dtype == wanted.dtype
        np.testing.assert_array_equal(values, wanted)


def test_a_pair(tmp_path: Path) -> None:
    (pair,) = read_pairs(write(tmp_path / "a.jsonl", GOOD))
    assert format_binary(pair.premise) == GOOD["sentence1_binary_parse"]
    assert pair.hypothesis.tokens == ("Run",)
    assert (pair.label, pair.pair_id) == ("neutral", "1#0")


def test_pairs_without_a_gold_label_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", GOOD, {**GOOD, "gold_label": "-"}, {**GOOD, "gold_label": "entailment"}
    )
    skipped = Skipped()
    assert [pair.label for pair in read_pairs(path, skipped=skipped)] == ["neutral", "entailment"]
    assert skipped == {"gold_label '-'": 1}


def test_labels_may_be_missing_where_none_is_asked_for(tmp_path: Path) -> None:
    bare = {field: GOOD[field] for field in ("sentence1_binary_parse", "sentence2_binary_parse")}
    path = write(tmp_path / "a.jsonl", bare, {**bare, "gold_label": "-"}, GOOD)
    skipped = Skipped()
    pairs = list(read_pairs(path, require_label=False, skipped=skipped))
    assert [(pair.label, pair.pair_id) for pair in pairs] == [(None, ""), (None, ""), ("neutral", "1#0")]
    assert not skipped


BAD_LINES = [
    ('{"gold_label": ', "not JSON"),
    ("[" * 100_000, "not JSON"),
    ("[1]", "got a JSON list, expected an object"),
    ({**GOOD, "gold_label": "maybe"}, "gold_label: got 'maybe', expected one of entailment, neutral"),
    ({**GOOD, "gold_label": ""}, "gold_label: got '', expected one of"),
    ({**GOOD, "gold_label": None}, "gold_label: got NoneType, expected a string"),
    ({**GOOD, "sentence1_binary_parse": 3}, "sentence1_binary_parse: got int, expected a string"),
    ({**GOOD, "sentence2_binary_parse": "( a"}, "sentence2_binary_parse: token 1 '(': unbalanced"),
    ({**GOOD, "sentence1_binary_parse": "( a ) )"}, "sentence1_binary_parse: token 3 ')': a node with one"),
    ({**GOOD, "sentence1_binary_parse": ""}, "sentence1_binary_parse: an empty parse"),
    ({**GOOD, "sentence1_binary_parse": "\ud800"}, "sentence1_binary_parse: half of a surrogate pair"),
    ({**GOOD, "pairID": 7}, "pairID: got int, expected a string"),
    *(
        ({name: value for name, value in GOOD.items() if name != field}, f"{field}: missing field")
        for field in ("gold_label", "sentence1_binary_parse", "sentence2_binary_parse")
    ),
]


@pytest.mark.parametrize("line, message", BAD_LINES, ids=[message[:50] for _, message in BAD_LINES])
def test_a_bad_line_is_named_or_counted(tmp_path: Path, line: dict[str, Any] | str, message: str) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, line, GOOD)
    with pytest.raises(DataError) as caught:
        list(read_pairs(path))
    assert str(caught.value).startswith(f"{path}:2: {message}")
    assert "\n" not in str(caught.value)
    skipped = Skipped()
    assert len(list(read_pairs(path, skip_bad=True, skipped=skipped))) == 2
    assert skipped.total() == 1


def test_bad_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    write(tmp_path / "dash.jsonl", {**GOOD, "gold_label": "-"})
    for name, message in [
        ("empty.jsonl", "an empty file"),
        ("dash.jsonl", "no examples (1 lines skipped: 1 x gold_label '-')"),
        ("none.jsonl", "no such file"),
        ("none/a.jsonl", "no such folder"),
        (".", "a folder, expected a file"),
    ]:
        for skip_bad in (False, True):
            with pytest.raises(DataError) as caught:
                list(read_pairs(tmp_path / name, skip_bad=skip_bad))
            assert message in str(caught.value)


def test_a_truncated_gz(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    lines = [json.dumps({**GOOD, "pairID": str(i * 2654435761 % 2**32)}) for i in range(2_000)]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert len(list(read_pairs(path))) == 2_000
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz:\d+: truncated"):
        list(read_pairs(path))
    skipped = Skipped()
    pairs = list(read_pairs(path, skip_bad=True, skipped=skipped))
    assert 500 < len(pairs) < 2_000
    assert skipped == {"truncated: the compressed data end early": 1}


def test_the_official_zip(tmp_path: Path) -> None:
    path = tmp_path / "snli_1.0.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for split, label in zip(("train", "dev", "test"), LABELS, strict=True):
            archive.writestr(
                f"snli_1.0/snli_1.0_{split}.jsonl", json.dumps({**GOOD, "gold_label": label}) + "\n"
            )
    for split, label in zip(("train", "dev", "test"), LABELS, strict=True):
        assert [pair.label for pair in read_pairs(path, split=split)] == [label]
    assert os.listdir(tmp_path) == ["snli_1.0.zip"]
    with pytest.raises(DataError, match=r"no snli_1\.0/snli_1\.0_validation\.jsonl in it"):
        list(read_pairs(path, split="validation"))


@pytest.fixture
def pairs(tmp_path: Path) -> list[PairExample]:
    """A few pairs, one without a label, more than one chunk of `to_dataset`."""
    records = [
        GOOD,
        {**GOOD, "sentence2_binary_parse": "( ( é 8\xa01/2 ) ( <pad> dog ) )", "gold_label": "-"},
        {**GOOD, "sentence1_binary_parse": "( A ( b A ) )", "gold_label": "contradiction"},
    ]
    return list(read_pairs(write(tmp_path / "pairs.jsonl", *records), require_label=False)) * 4_000


def test_arrow_and_examples_give_the_same_columns(pairs: list[PairExample]) -> None:
    pytest.importorskip("datasets")
    vocabulary = Vocabulary.build((pair.premise.tokens for pair in pairs), lower=True)
    expected = pair_columns_from_examples(pairs, vocabulary)
    got = pair_columns(to_dataset(iter(pairs)), vocabulary)
    assert_same_columns(got.premises, expected.premises)
    assert_same_columns(got.hypotheses, expected.hypotheses)
    assert got.labels.dtype == expected.labels.dtype == np.int64
    assert got.labels.tolist() == expected.labels.tolist() == [1, NO_LABEL, 2] * 4_000


def test_no_label_is_one_number_outside_of_arrow_and_hf_s_own_in_it(pairs: list[PairExample]) -> None:
    pytest.importorskip("datasets")
    assert UNLABELLED == NO_LABEL
    assert to_dataset(pairs[:3])["label"][:] == [1, -1, 2]


def test_rows_chosen_in_the_dataset_are_the_rows_of_the_columns(pairs: list[PairExample]) -> None:
    pytest.importorskip("datasets")
    vocabulary = Vocabulary.build(pair.premise.tokens for pair in pairs)
    rows = [11_999, 4, 0, 4]
    got = pair_columns(to_dataset(pairs).select(rows), vocabulary)
    expected = pair_columns_from_examples([pairs[row] for row in rows], vocabulary)
    assert_same_columns(got.premises, expected.premises)
    assert_same_columns(got.hypotheses, expected.hypotheses)
    tail = pair_columns(to_dataset(pairs).select(range(11_990, 12_000)), vocabulary)
    assert_same_columns(tail.premises, pair_columns_from_examples(pairs[11_990:], vocabulary).premises)


def test_token_counts_are_those_of_the_sentences(pairs: list[PairExample]) -> None:
    pytest.importorskip("datasets")
    counts = token_counts(to_dataset(pairs))
    sentences = (tree.tokens for pair in pairs for tree in (pair.premise, pair.hypothesis))
    assert Vocabulary.from_counts(counts) == Vocabulary.build(sentences)
    assert counts["8\xa01/2"] == 4_000
    assert counts["A"] == 4_000 * 4


def test_the_dataset_lives_in_memory(pairs: list[PairExample]) -> None:
    pytest.importorskip("datasets")
    dataset = to_dataset(pairs[:3])
    assert dataset.cache_files == []
    assert dataset[2] == {
        "premise_tokens": ["A", "b", "A"],
        "premise_transitions": [0, 0, 0, 1, 1],
        "hypothesis_tokens": ["Run"],
        "hypothesis_transitions": [0],
        "label": 2,
        "pair_id": "1#0",
    }
    assert dataset.features["label"].names == list(LABELS)
    assert to_dataset([]).num_rows == 0
    assert pair_columns(to_dataset([]), Vocabulary.build([])).labels.shape == (0,)


@pytest.mark.parametrize(
    "column, value, message",
    [
        ("label", 3, "example 1: label: got 3, expected -1 to 2"),
        ("premise_transitions", [0, 0, 1], "example 1: premise: got 3 transitions for 3 tokens"),
        ("premise_transitions", [0, 1, 0, 0, 1], "example 1: premise: token 2 'R': a node with one child"),
        ("hypothesis_tokens", [None], "hypothesis_tokens: a null, expected lists of values"),
        ("hypothesis_tokens", None, "hypothesis_tokens: a null, expected lists of values"),
    ],
)
def test_a_dataset_changed_by_hand_is_checked(
    pairs: list[PairExample], column: str, value: Any, message: str
) -> None:
    datasets = pytest.importorskip("datasets")
    rows = to_dataset([pairs[0], pairs[0]])[:]
    rows[column][1] = value
    with pytest.raises(DataError) as caught:
        pair_columns(datasets.Dataset.from_dict(rows), Vocabulary.build([]))
    assert str(caught.value) == message


@pytest.mark.skipif(not SLICE.exists(), reason="needs ../shared")
def test_the_snli_slice() -> None:
    pytest.importorskip("datasets")
    skipped = Skipped()
    pairs = list(read_pairs(SLICE, skipped=skipped))
    assert len(pairs) == 1273
    assert skipped == {"gold_label '-'": 16}
    assert [sum(pair.label == label for pair in pairs) for label in LABELS] == [433, 421, 419]
    assert len(list(read_pairs(SLICE, require_label=False))) == 1289
    dataset = to_dataset(pairs)
    vocabulary = Vocabulary.from_counts(token_counts(dataset), min_count=2)
    got, expected = pair_columns(dataset, vocabulary), pair_columns_from_examples(pairs, vocabulary)
    assert_same_columns(got.premises, expected.premises)
    assert_same_columns(got.hypotheses, expected.hypotheses)
    np.testing.assert_array_equal(got.labels, expected.labels)
