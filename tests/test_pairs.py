"""SNLI's jsonl: what is read, what is refused, and files with fields of other names."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.pairs import LABELS, LabelNames, PairFields, PairFormat, read_pairs
from spinn_tensor.data_prep.trees import format_binary

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
    pairs = list(read_pairs(path, PairFormat(require_label=False), skipped=skipped))
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
    ({**GOOD, "pairID": 7.5}, "pairID: got float, expected a string"),
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
        assert [pair.label for pair in read_pairs(path, member=f"snli_1.0/snli_1.0_{split}.jsonl")] == [label]
    assert os.listdir(tmp_path) == ["snli_1.0.zip"]
    with pytest.raises(DataError, match=r"no snli_1\.0/snli_1\.0_validation\.jsonl in it"):
        list(read_pairs(path, member="snli_1.0/snli_1.0_validation.jsonl"))


def test_fields_and_labels_of_one_s_own(tmp_path: Path) -> None:
    """Text that begins like a parse is one; numbers are labels, too; "-" is none."""
    records = [
        {"text": "( a b )", "claim": "( c d )", "verdict": 1},
        {"text_binary_parse": "( a b )", "text": "A b.", "claim": "c", "verdict": 0},
        {"text": "a", "claim": "b", "verdict": "-"},
    ]
    fields = PairFields.named(["premise=text", "hypothesis=claim", "label=verdict", "pair_id=key"])
    line_format = PairFormat(LabelNames([], grows=True), fields)
    skipped = Skipped()
    pairs = list(read_pairs(write(tmp_path / "own.jsonl", *records), line_format, skipped=skipped))
    assert [(format_binary(p.premise), format_binary(p.hypothesis), p.label) for p in pairs] == [
        ("( a b )", "( c d )", "1"),
        ("( a b )", "c", "0"),
    ]
    assert skipped == {"verdict '-'": 1}


@pytest.mark.parametrize(
    "settings, message",
    [
        (["premise"], "got 'premise', expected premise, hypothesis, label, pair_id = the name of a field"),
        (
            ["sentence=x"],
            "got 'sentence=x', expected premise, hypothesis, label, pair_id = the name of a field",
        ),
        (["premise=x", "label=x"], "got premise=x, label=x: two parts of a pair in one field"),
    ],
)
def test_names_of_fields_are_checked(settings: list[str], message: str) -> None:
    with pytest.raises(DataError) as caught:
        PairFields.named(settings)
    assert str(caught.value) == message


@pytest.mark.skipif(not SLICE.exists(), reason="needs ../shared")
def test_the_snli_slice() -> None:
    skipped = Skipped()
    pairs = list(read_pairs(SLICE, skipped=skipped))
    assert len(pairs) == 1273
    assert skipped == {"gold_label '-'": 16}
    assert [sum(pair.label == label for pair in pairs) for label in LABELS] == [433, 421, 419]
    assert len(list(read_pairs(SLICE, PairFormat(require_label=False)))) == 1289
