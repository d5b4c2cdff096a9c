"""What people's records have in their fields: withheld labels, missing parses, other names; and files by name."""

from __future__ import annotations

import csv
import datetime
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from spinn_tensor.cli import arguments
from spinn_tensor.cli.main import main
from spinn_tensor.data_prep.columns import NO_LABEL
from spinn_tensor.data_prep.corpora.formats import (
    LabelNames,
    LineFormat,
    ListOpsFormat,
    PairFormat,
    SentenceFormat,
    TreebankFormat,
)
from spinn_tensor.data_prep.corpora.read import read_examples_as_columns
from spinn_tensor.data_prep.corpora.sources import split_sources
from spinn_tensor.data_prep.corpora.splits import load_splits, prepare
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.text import SentenceReader
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.vocabulary import WordList
from spinn_tensor.training.config import DataConfig
from tests.command_line import Spinn
from tests.tiny_runs import NOUNS, VERBS, write_pairs

READER = SentenceReader(Tokenizer().tokenize)
PARSES = {"sentence1_binary_parse": "( a b )", "sentence2_binary_parse": "c"}
Capture = pytest.CaptureFixture[str]


def labels_of(records: list[dict[str, Any]], line_format: LineFormat, skipped: Skipped) -> list[int]:
    found = read_examples_as_columns(records, line_format, WordList(), skipped=skipped, may_be_empty=True)
    return found.labels.tolist()


WITHHELD: list[Any] = ["hidden", "-", -1, "-1", "-1.0", "", None, float("nan"), pd.NA, pd.NaT]


@pytest.mark.parametrize("label", WITHHELD)
def test_a_label_that_is_withheld_is_counted(label: Any) -> None:
    records, skipped = [{"gold_label": label, **PARSES}, {"gold_label": "neutral", **PARSES}], Skipped()
    assert labels_of(records, PairFormat(), skipped) == [1]
    assert skipped.total() == 1
    own = LabelNames([], grows=True)
    assert labels_of(records, PairFormat(own), Skipped()) == [0]
    assert own.names == ["neutral"]


@pytest.mark.parametrize("label", [*WITHHELD, "yes", 7, 7.5, ["neutral"], True])
def test_no_label_stops_a_file_that_needs_none(label: Any) -> None:
    records = [{"gold_label": label, **PARSES}, {"gold_label": "neutral", **PARSES}, PARSES]
    skipped = Skipped()
    assert labels_of(records, PairFormat(require_label=False), skipped) == [NO_LABEL, 1, NO_LABEL]
    assert not skipped


def test_minus_one_is_no_label_unless_it_is_named() -> None:
    records, skipped = [{"gold_label": label, **PARSES} for label in ("-1", "0", "1")], Skipped()
    assert labels_of(records, PairFormat(LabelNames([], grows=True)), skipped) == [0, 1]
    [(reason, count)] = skipped.items()
    assert count == 1
    assert reason.startswith("gold_label '-1' (no label, unless --labels names it")


def test_integers_with_a_point_are_integers() -> None:
    labels = ["5", "5.0", 5.0, "-2.00", "0.0", "5.5", "1.0e3", 2.0**62]
    records, own = [{"gold_label": label, **PARSES} for label in labels], LabelNames([], grows=True)
    assert labels_of(records, PairFormat(own), Skipped()) == [0, 0, 0, 1, 2, 3, 4, 5]
    assert own.names == ["5", "-2", "0", "5.5", "1.0e3", str(2**62)]
    assert labels_of(
        [{"gold_label": "1.0", **PARSES}], PairFormat(LabelNames(["1.0", "2.0"])), Skipped()
    ) == [0]


@pytest.mark.parametrize("cell", [np.array([1, 2]), np.array([]), np.array([1])])
def test_an_array_is_no_label(cell: np.ndarray) -> None:
    records = [{"gold_label": cell, **PARSES}]
    with pytest.raises(DataError, match="gold_label: got ndarray, expected a string"):
        labels_of(records, PairFormat(), Skipped())
    assert labels_of(records, PairFormat(require_label=False), Skipped()) == [NO_LABEL]


@pytest.mark.parametrize("names", [("seen", "hidden"), ("-1", "0", "1")])
def test_labels_that_are_named_are_labels(names: tuple[str, ...]) -> None:
    records, skipped = [{"gold_label": label, **PARSES} for label in names], Skipped()
    assert labels_of(records, PairFormat(LabelNames(list(names))), skipped) == list(range(len(names)))
    assert not skipped


def test_label_is_gold_label_where_there_is_none() -> None:
    both = {"gold_label": "neutral", "label": "entailment", **PARSES}
    assert labels_of([both, {"label": "entailment", **PARSES}], PairFormat(), Skipped()) == [1, 0]
    with pytest.raises(DataError, match=r":1: label: got 'maybe', expected one of 'entailment'"):
        labels_of([{"label": "maybe", **PARSES}], PairFormat(), Skipped())
    with pytest.raises(DataError, match=r":1: gold_label: missing field"):
        labels_of([PARSES], PairFormat(), Skipped())


@pytest.mark.parametrize("missing", [None, "", float("nan")])
@pytest.mark.parametrize(
    "make", [lambda reader: PairFormat(reader=reader), TreebankFormat], ids=["pairs", "trees"]
)
def test_text_is_used_where_there_is_no_parse(missing: Any, make: Any) -> None:
    record = {"gold_label": "neutral", **PARSES, "sentence1_binary_parse": missing, "sentence1": "Dogs bark."}
    found = read_examples_as_columns([record], make(READER), WordList())
    assert found.text_mask.tolist() == [True, False]
    assert len(found.sentences.token_ids) == 4
    skipped = Skipped()
    good = {"gold_label": "neutral", **PARSES}
    read_examples_as_columns(
        [record, good], make(SentenceReader()), WordList(), skip_bad=True, skipped=skipped
    )
    assert list(skipped.values()) == [1]
    assert "sentence1_binary_parse: no parse; sentence1 is text" in str(skipped)
    with pytest.raises(DataError, match=r":1: sentence1_binary_parse: no parse$"):
        read_examples_as_columns([{**record, "sentence1": missing}], make(SentenceReader()), WordList())


def test_a_single_sentence_without_its_parse() -> None:
    record = {"sentence_binary_parse": None, "binary_parse": "( a b )", "sentence": "x"}
    for line_format in (SentenceFormat(None, READER), SentenceFormat("sentence", READER)):
        assert not read_examples_as_columns([record], line_format, WordList()).text_mask.any()
        text = {**record, "binary_parse": ""}
        assert read_examples_as_columns([text], line_format, WordList()).text_mask.all()


LISTOPS = {"Source": "( ( ( [MAX 2 ) 9 ) ] )", "Target": "9"}


@pytest.mark.parametrize(
    "header, rows",
    [
        ("Source\tTarget", ["( ( ( [MAX 2 ) 9 ) ] )\t9"]),
        ("Target\tSource", ["9\t( ( ( [MAX 2 ) 9 ) ] )"]),
        ("n\tTarget\tSource", ["1\t9\t( ( ( [MAX 2 ) 9 ) ] )"]),
        ("Source\tTarget\r", ["( ( ( [MAX 2 ) 9 ) ] )\t9\r"]),
        ("\ufeffSource\tTarget", ["", "( ( ( [MAX 2 ) 9 ) ] )\t9"]),
    ],
)
def test_listops_of_long_range_arena(header: str, rows: list[str], tmp_path: Path) -> None:
    path = tmp_path / "basic_train.tsv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8", newline="")
    words = WordList()
    found = read_examples_as_columns(path, ListOpsFormat(), words)
    assert found.labels.tolist() == [9]
    assert [words.words[i] for i in found.sentences.token_ids] == ["[MAX", "2", "9", "]"]
    for split in ("val", "test"):
        path.with_name(f"basic_{split}.tsv").write_bytes(path.read_bytes())
    sources = split_sources(DataConfig(corpus="listops", data=str(tmp_path)))
    assert {name: source.paths[0].name for name, source in sources.items()} == {
        "train": "basic_train.tsv",
        "dev": "basic_val.tsv",
        "test": "basic_test.tsv",
    }


def test_listops_in_other_tables_and_bad_ones(tmp_path: Path) -> None:
    assert labels_of([{**LISTOPS, "Target": 9}], ListOpsFormat(), Skipped()) == [9]
    for record, message in [
        ({**LISTOPS, "Target": "10"}, "Target: got '10', expected 0 to 9"),
        ({**LISTOPS, "Source": "( a"}, "Source: token 1 '\\(': unbalanced"),
        ({"Target": 3}, "Source: missing field"),
    ]:
        with pytest.raises(DataError, match=f":1: {message}"):
            labels_of([record], ListOpsFormat(), Skipped())


SNLI_TXT = """\
gold_label\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence1\tsentence2\tcaptionID\tpairID\tlabel1
neutral\t( A ( dog barks ) )\t( It '' )\t(ROOT (S x))\tA dog barks\tIt "\t1\tp1\tneutral
-\t( A dog )\t( It )\t(ROOT (S x))\tA dog\tIt\t1\tp2\t
entailment\t( A dog )\t( It is )\t(ROOT (S x))\tA dog\t"It" is\t1\tp3\t
"""


@pytest.mark.parametrize("name", ["snli_1.0_dev.txt", "a.tsv", "no ending"])
def test_snli_in_its_txt(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(SNLI_TXT, encoding="utf-8")
    skipped = Skipped()
    found = read_examples_as_columns(tmp_path / name, PairFormat(), WordList(), skipped=skipped)
    assert found.names.to_pylist() == ["p1", "p3"]
    assert found.labels.tolist() == [1, 0]
    assert skipped == {"gold_label '-'": 1}


def records_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Pairs of one's own, as train, validation and test, each in another form."""
    for split, number in [("train", 1), ("validation", 2), ("test", 3)]:
        write_pairs(tmp_path / "own.jsonl", 20, seed=number)
        frame = pd.DataFrame(records_of(tmp_path / "own.jsonl"))
        if split == "validation":
            frame.to_parquet(tmp_path / "validation.parquet")
        else:
            file, mark = {"train": ("train.csv.gz", ","), "test": ("test.tsv", "\t")}[split]
            frame.to_csv(tmp_path / file, sep=mark, index=False)
    (tmp_path / "own.jsonl").unlink()
    return tmp_path


def test_splits_in_other_forms(tables: Path) -> None:
    data = DataConfig(corpus="pairs", data=str(tables))
    splits = load_splits(data, Skipped())
    assert [len(part.labels) for part in (splits.train, splits.dev, splits.others["test"])] == [20] * 3
    (tables / "validation.parquet").unlink()
    with pytest.raises(DataError, match=r"no dev\.jsonl \(nor .*, nor a table of records\) in it"):
        split_sources(data)


def test_splits_that_datasets_has_saved(tables: Path, tmp_path: Path) -> None:
    parts = {
        "train": datasets.Dataset.from_pandas(pd.read_csv(tables / "train.csv.gz")),
        "validation": datasets.Dataset.from_parquet(str(tables / "validation.parquet")),
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    from_folder = prepare(DataConfig(corpus="pairs", data=str(tmp_path / "saved")), Skipped())
    from_files = prepare(DataConfig(corpus="pairs", data=str(tables)), Skipped())
    assert sorted(from_folder.splits) == ["dev", "train"]
    for name, split in from_folder.splits.items():
        assert split.names.equals(from_files.splits[name].names)
        np.testing.assert_array_equal(split.columns.labels, from_files.splits[name].columns.labels)


def write_inputs(folder: Path) -> dict[str, Path]:
    """The same pairs as jsonl, and in three other forms."""
    plain = write_pairs(folder / "in.jsonl", 7, seed=5)
    frame = pd.DataFrame(records_of(plain)).assign(gold_label="hidden")
    frame.to_csv(folder / "in.csv", index=False, quoting=csv.QUOTE_ALL)
    frame.to_parquet(folder / "in.parquet")
    datasets.Dataset.from_pandas(frame).save_to_disk(str(folder / "in"))
    return {"jsonl": plain} | {name: folder / f"in{name}" for name in (".csv", ".parquet", "")}


def test_predict_encode_and_inspect_read_tables(pair_run: Path, tmp_path: Path, capsys: Capture) -> None:
    predicted, encoded = {}, {}
    for name, path in write_inputs(tmp_path).items():
        output = tmp_path / "out.jsonl"
        assert main(["predict", str(pair_run), "--input", str(path), "--output", str(output)]) == 0
        predicted[name] = [json.loads(line) for line in output.read_text().splitlines()]
        first = 2 if name == ".csv" else 1  # the line after the header
        assert [record.pop("line") for record in predicted[name]] == list(range(first, first + 7))
        arguments = ["encode", str(pair_run), "--input", str(path), "--field", "sentence1"]
        assert main([*arguments, "--output", str(tmp_path / "out.npy")]) == 0
        encoded[name] = np.load(tmp_path / "out.npy")
        assert main([*arguments, "--output", str(tmp_path / f"shards of {path.name}".replace(".", " "))]) == 0
    capsys.readouterr()
    assert len(encoded["jsonl"]) == 7
    for name in encoded:
        assert predicted[name] == predicted["jsonl"]
        np.testing.assert_array_equal(encoded[name], encoded["jsonl"])
    arguments = ["encode", str(pair_run), "--output", str(tmp_path / "x.npy"), "--input"]
    assert main([*arguments, str(tmp_path / "in.csv")]) == 1
    expected = "in.csv:2: sentence_binary_parse: missing field; the record has gold_label"
    assert expected in capsys.readouterr().err


def test_parse_adds_a_field_to_a_table(parser_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    texts = [f"{noun} {verb}\nold" for noun, verb in zip(NOUNS, VERBS, strict=False)]
    pd.DataFrame({"id": range(len(texts)), "text": texts}).to_csv(tmp_path / "in.csv", index=False)
    arguments = ["parse", "--model", str(parser_run), "--input", str(tmp_path / "in.csv"), "--field", "text"]
    records = [json.loads(line) for line in spinn(*arguments).out.splitlines()]
    assert [record["text"] for record in records] == texts
    for record in records:
        words = record["text_binary_parse"].replace("(", "").replace(")", "").split()
        assert words == record["text"].split()
    gold = pd.DataFrame({"sentence_binary_parse": ["( a ( b c ) )", "( a b )"]})
    gold.to_csv(tmp_path / "gold.csv", index=False)
    spinn("parse", "--model", parser_run, "--gold", tmp_path / "gold.csv")
    (tmp_path / "reviews.txt").write_text("text,label\na dog,1\n")
    printed = spinn.fails("parse", "--model", parser_run, "--input", tmp_path / "reviews.txt").err
    assert "reviews.txt:1: CSV: its name should end in .csv" in printed


@pytest.mark.parametrize(
    "text", ["id,text\n1,old dogs bark\n", '{"text": "old dogs bark", "id": "1"}\n'], ids=["csv", "jsonl"]
)
def test_records_from_a_pipe(
    text: str, parser_run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no name: its first line tells what it is."""
    pipe = tmp_path / "stdin"
    os.mkfifo(pipe)
    monkeypatch.setattr(arguments, "STDIN", pipe)
    parse = ["parse", "--model", str(parser_run), "--input", "-", "--field", "text"]
    with ThreadPoolExecutor() as writer:
        writer.submit(pipe.write_text, text)
        assert main(parse) == 0
        (record,) = map(json.loads, capsys.readouterr().out.splitlines())
        assert (record["id"], record["text"]) == ("1", "old dogs bark")
        assert record["text_binary_parse"].count("(") == 2
        writer.submit(pipe.write_text, "old dogs bark\n")
        assert main(parse) == 1
    expected = f"--field goes with a jsonl --input, or another of records; {pipe} is read as text"
    assert expected in capsys.readouterr().err


def test_what_json_has_not_is_written_as_it_can(parser_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    values = {"text": ["dogs bark"], "raw": [b"x"], "score": [np.nan]}
    dataset = datasets.Dataset.from_dict({**values, "day": [datetime.date(2024, 5, 6)]})
    dataset.to_parquet(tmp_path / "in.parquet")
    arguments = ["parse", "--model", str(parser_run), "--input", str(tmp_path / "in.parquet")]
    (record,) = map(json.loads, spinn(*arguments, "--field", "text").out.splitlines())
    assert record == {
        "text": "dogs bark",
        "day": "2024-05-06",
        "raw": "b'x'",
        "score": None,
        "text_binary_parse": "( dogs bark )",
    }


def test_fields_are_named_where_a_model_is_used(pair_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    """Records that call them otherwise than those that it was trained on."""
    usual, other = write_pairs(tmp_path / "usual.jsonl", 9, seed=4), tmp_path / "other.jsonl"
    names = {"sentence1_binary_parse": "a", "sentence2_binary_parse": "b", "gold_label": "y"}
    records = [
        {names.get(name, name): value for name, value in record.items()} for record in records_of(usual)
    ]
    other.write_text("".join(json.dumps(record) + "\n" for record in records))
    said = []
    for path, fields in (
        (usual, ()),
        (other, ("--fields", "premise=a", "hypothesis=b", "--fields", "label=y")),
    ):
        scores = tmp_path / "scores.json"
        spinn("evaluate", pair_run, "--data", path, *fields, "--json", scores)
        printed = spinn("predict", pair_run, "--input", path, *fields).out
        said.append((list(json.loads(scores.read_text()).values()), printed))
    assert said[0] == said[1]
    for command in (["evaluate", str(pair_run), "--data"], ["predict", str(pair_run), "--input"]):
        error = spinn.fails(*command, other).err
        assert re.search(r"missing field; the record has .*a, .*; --fields says what they are called$", error)
        printed = spinn.fails(*command, other, "--fields", "premise=a,hypothesis=b").err
        assert "expected blanks between" in printed
