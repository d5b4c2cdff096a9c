"""Files that hold records, in whatever form: the same records, their numbers, and what is said of bad ones."""

from __future__ import annotations

import csv
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from spinn_tensor.data_prep import delimited
from spinn_tensor.data_prep.corpora.formats import (
    LabelNames,
    PairFields,
    PairFormat,
    SentenceFormat,
    SstFormat,
    TreebankFormat,
    named_fields,
)
from spinn_tensor.data_prep.corpora.read import read_examples_as_columns, read_line_examples
from spinn_tensor.data_prep.corpora.store import sha256_of
from spinn_tensor.data_prep.delimited import _unquoted
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import BadLine, Skipped
from spinn_tensor.data_prep.limits import Limits
from spinn_tensor.data_prep.penn import Continued
from spinn_tensor.data_prep.record_files import has_records, open_lines, read_examples
from spinn_tensor.data_prep.text import SentenceReader
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import format_binary
from spinn_tensor.data_prep.words import WordList
from spinn_tensor.training.config import DataConfig
from tests.fuzzing import packed

READER = SentenceReader(Tokenizer().tokenize)
TEXTS = ['He said "no", loudly', "two\nlines; one\tcell", "\u2028é", "", "x"]
RECORDS = [{"sentence": text, "label": str(number % 2), "n": number} for number, text in enumerate(TEXTS)]
AS_TEXT = [{**record, "n": str(record["n"])} for record in RECORDS]


def records_in(source: Any, **options: Any) -> list[Any]:
    """All records, JSON decoded."""
    return list(read_examples(source, lambda record, _: record, **options))


def stream(source: Any, skipped: Skipped | None = None, **options: Any) -> list[Any]:
    """Every line as it comes: a record, or what stands for a line without one."""
    with open_lines(source, skipped=skipped, **options) as opened:
        return [line if isinstance(line, dict) else type(line) for line in opened.lines]


def write_csv(path: Path, **options: Any) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(RECORDS[0]), **options)
        writer.writeheader()
        writer.writerows(RECORDS)
    return path


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def table(**more: Any) -> pa.Table:
    return pa.Table.from_pylist([{**record, **more} for record in RECORDS])


def stream_file(path: Path) -> Path:
    with pa.ipc.new_stream(path, table().schema) as writer:
        writer.write_table(table(), max_chunksize=2)
    return path


def saved(path: Path) -> Path:
    datasets.Dataset.from_list(RECORDS).save_to_disk(str(path))
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "jsonl": lambda folder: write_bytes(folder / "a.jsonl", "\n".join(map(json.dumps, RECORDS)).encode()),
    "ndjson with crlf and a mark": lambda folder: write_bytes(
        folder / "a.ndjson", ("\ufeff" + "\r\n".join(map(json.dumps, RECORDS))).encode()
    ),
    "a list": lambda folder: write_bytes(folder / "a.json", json.dumps(RECORDS).encode()),
    "a list over lines": lambda folder: write_bytes(
        folder / "a.json", json.dumps(RECORDS, indent=4, ensure_ascii=False).encode("utf-8-sig")
    ),
    "a list in UTF-16": lambda folder: write_bytes(folder / "a.json", json.dumps(RECORDS).encode("utf-16")),
    "lines in .json": lambda folder: write_bytes(
        folder / "a.json", "\n".join(map(json.dumps, RECORDS)).encode()
    ),
    "parquet": lambda folder: (
        parquet.write_table(table(), folder / "a.parquet", row_group_size=2) or folder / "a.parquet"
    ),
    "parquet, dictionaries": lambda folder: (
        parquet.write_table(
            table().set_column(0, "sentence", table()["sentence"].dictionary_encode()), folder / "A.PARQUET"
        )
        or folder / "A.PARQUET"
    ),
    "arrow": lambda folder: (
        feather.write_feather(table(), folder / "a.arrow", compression="uncompressed") or folder / "a.arrow"
    ),
    "feather": lambda folder: (
        feather.write_feather(table(), folder / "a.feather", chunksize=2) or folder / "a.feather"
    ),
    "arrow stream": lambda folder: stream_file(folder / "a.arrow"),
    "datasets": lambda folder: saved(folder / "a"),
}
TEXT_WRITERS: dict[str, Callable[[Path], Path]] = {
    "csv": lambda folder: write_csv(folder / "a.csv"),
    "csv, lf, all quoted": lambda folder: write_csv(
        folder / "a.csv", lineterminator="\n", quoting=csv.QUOTE_ALL
    ),
    "csv of a German Excel": lambda folder: write_csv(folder / "a.csv", delimiter=";"),
    "csv with tabs": lambda folder: write_csv(folder / "a.csv", delimiter="\t"),
    "csv with a mark": lambda folder: write_bytes(
        folder / "b.csv", b"\xef\xbb\xbf" + write_csv(folder / "a.csv").read_bytes()
    ),
    "csv of PowerShell": lambda folder: write_bytes(
        folder / "b.csv", write_csv(folder / "a.csv").read_bytes().decode().encode("utf-16")
    ),
    "tsv": lambda folder: write_csv(folder / "a.tsv", delimiter="\t", lineterminator="\n"),
    "tsv, crlf, all quoted": lambda folder: write_csv(
        folder / "a.tsv", delimiter="\t", quoting=csv.QUOTE_ALL
    ),
    "tsv, text quoted": lambda folder: write_csv(
        folder / "a.tsv", delimiter="\t", quoting=csv.QUOTE_NONNUMERIC
    ),
    "tsv of pandas": lambda folder: (
        pd.DataFrame(RECORDS).to_csv(folder / "a.tsv", sep="\t", index=False) or folder / "a.tsv"
    ),
    "tsv as .txt": lambda folder: write_csv(folder / "a.txt", delimiter="\t", lineterminator="\n"),
}


@pytest.mark.parametrize("form", WRITERS)
def test_forms_with_types(form: str, tmp_path: Path) -> None:
    path = WRITERS[form](tmp_path)
    assert records_in(path) == RECORDS
    assert has_records(path)


@pytest.mark.parametrize("form", TEXT_WRITERS)
def test_forms_of_text(form: str, tmp_path: Path) -> None:
    assert records_in(TEXT_WRITERS[form](tmp_path)) == AS_TEXT


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz"])
@pytest.mark.parametrize(
    "form", ["jsonl", "a list", "parquet", "feather", "arrow stream", "csv", "tsv", "tsv as .txt"]
)
def test_compressed(form: str, ending: str, tmp_path: Path) -> None:
    plain = (WRITERS | TEXT_WRITERS)[form](tmp_path)
    path = plain.with_name(plain.name + ending)
    path.write_bytes(packed(plain.read_bytes(), path.name))
    assert records_in(path) == records_in(plain)


@pytest.mark.parametrize("form", ["jsonl", "parquet", "csv"])
def test_the_only_file_of_a_zip(form: str, tmp_path: Path) -> None:
    plain = (WRITERS | TEXT_WRITERS)[form](tmp_path)
    archive = tmp_path / "any name.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.write(plain, f"folder/{plain.name}")
        writer.writestr("__MACOSX/._a", "x")
    assert records_in(archive) == records_in(plain)
    with zipfile.ZipFile(archive, "a") as writer:
        writer.writestr("README", "x")
    assert records_in(archive, member=f"folder/{plain.name}") == records_in(plain)
    with pytest.raises(DataError, match=r"any name\.zip: say which file of it to read; it holds folder/"):
        records_in(archive)


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    """A row comes in the place of its first line; header and further lines have none, blank lines are no rows."""
    path = write_bytes(tmp_path / "a.csv", b'text,label\n"a\n\nb",1\n\nc,\n"d"e,2\nf,3,4\ng,\xff\nh,5\n')
    skipped = Skipped()
    a, c, h = ({"text": text, "label": label} for text, label in [("a\n\nb", "1"), ("c", ""), ("h", "5")])
    assert stream(path, skipped) == [
        *(Continued, a, Continued, Continued),
        *(Continued, c, BadLine, BadLine, BadLine, h),
    ]
    assert sorted(place for places in skipped.places.values() for place in places) == [
        f"{path}:{line}" for line in (7, 8, 9)
    ]
    with pytest.raises(DataError, match=r"a\.csv:7: not CSV"):
        stream(path)
    with pytest.raises(DataError, match=r"a\.csv:6: label: got '', expected"):
        list(read_examples(path, _labelled))


def _labelled(record: dict[str, str], _: Skipped) -> str:
    if not record["label"]:
        raise DataError("got '', expected a label", field="label")
    return record["label"]


UNQUOTED = [
    ('"I see," he said', "0"),
    ('"Hello."', "1"),
    ('"never closed', "0"),
    ('closed" never opened', "1"),
    ('a "word" and ""two""', "0"),
    ('"a" and "b"', "1"),
]


def test_quotes_of_glue_are_words(tmp_path: Path) -> None:
    lines = ["sentence\tlabel", *map("\t".join, UNQUOTED)]
    path = write_bytes(tmp_path / "a.tsv", "\n".join(lines).encode())
    assert [tuple(record.values()) for record in records_in(path)] == UNQUOTED


def test_a_short_row_of_glue_takes_no_others(tmp_path: Path) -> None:
    content = 'sentence\tlabel\n"only a cell\nx\t1\n"y\t0\n"last\n'
    path, skipped = write_bytes(tmp_path / "a.tsv", content.encode()), Skipped()
    x, y = {"sentence": "x", "label": "1"}, {"sentence": '"y', "label": "0"}
    assert stream(path, skipped) == [Continued, BadLine, x, y, BadLine]
    assert skipped.total() == 2
    closed = write_bytes(tmp_path / "b.tsv", b'sentence\tlabel\n"open\nx\t1\nclosed"\t0\n')
    assert stream(closed, Skipped())[:3] == [Continued, BadLine, x]
    with pytest.raises(DataError, match=r"a\.tsv:2: 1 cells, expected 2 as in the header: sentence, label"):
        stream(path)


def test_quotes_that_balance_end_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def unquoted(row: str, n_names: int) -> list[str] | None:
        read.append(len(row))
        return _unquoted(row, n_names)

    monkeypatch.setattr(delimited, "_unquoted", unquoted)
    content = b"id\tsentence\tlabel\n" + b'1\t"so\n' * 300 + b'say "a"\n' * 300 + b'2\t"a\nb"\t1\n'
    skipped = Skipped()
    records = records_in(write_bytes(tmp_path / "a.tsv", content), skip_bad=True, skipped=skipped)
    assert records == [{"id": "2", "sentence": "a\nb", "label": "1"}]
    assert skipped.total() == 600
    assert sum(read) < 2 * len(content)


def test_a_quote_that_is_never_closed_is_bounded(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "a.csv", b'text,label\nx,1\n"open,2\n' + b"y,3\n" * 100)
    skipped = Skipped()
    lines = stream(path, skipped, limits=Limits(max_line_bytes=40))
    assert len(lines) == 103
    assert lines[:3] == [Continued, {"text": "x", "label": "1"}, BadLine]
    assert lines[-1] == {"text": "y", "label": "3"}
    assert skipped.total() == 1
    with pytest.raises(
        DataError, match=r"a\.csv:3: a quote that is not closed, in this line or the 100 after it"
    ):
        stream(path)


def test_long_cells(tmp_path: Path) -> None:
    """Of more characters than `csv` takes by default."""
    long = "dog " * 50_000
    assert records_in(write_bytes(tmp_path / "a.csv", f"text,label\n{long},1\n".encode())) == [
        {"text": long, "label": "1"}
    ]
    parquet.write_table(pa.table({"text": [long, "x"]}), tmp_path / "a.parquet")
    skipped, limits = Skipped(), Limits(max_line_bytes=1_000)
    assert stream(tmp_path / "a.parquet", skipped, limits=limits) == [BadLine, {"text": "x"}]
    with pytest.raises(DataError, match=r"a\.parquet:1: a line of more than 1,000 bytes"):
        stream(tmp_path / "a.parquet", limits=limits)


NOT_AS_NAMED: list[tuple[str, bytes, str]] = [
    ("a.txt", b'{"sentence": "x"}\n', ":1: JSON: its name should end in .jsonl"),
    ("a.txt", b"text,label\nx,1\n", ":1: CSV: its name should end in .csv"),
    ("a.mrg", b'id,"sentence"\nx,1\n', ":1: CSV: its name should end in .csv"),
    ("a.txt", b"PAR1....", ": Parquet or Arrow: its name should end in"),
    ("a.csv", b"ARROW1..", ": Parquet or Arrow: its name should end in"),
    ("a.parquet", b"text,label\nx,1\n", ": not a whole file of Parquet or Arrow"),
    ("a.parquet", b"PAR1", ": not a whole file of Parquet or Arrow"),
    ("a.jsonl", b"text,label\nx,1\n", ":1: not JSON"),
    ("a.json", b'{"a": 1,\n"b": 2}', ":1: not JSON"),
    ("a.json", b'[{"a": 1}, [2]]', ":2: got a JSON list, expected an object"),
    ("a.json", b'[{"a": 1}, {"b', ":2: not JSON, expected a list of objects"),
    ("a.json", b"[]", ": no rows"),
    ("a.json", b'[{"a": 1}]\n[{"a": 2}]', ":2: something follows the JSON list"),
    ("a.json", b'[{"a": 1}]' + b" " * 70_000 + b"x", ":2: something follows the JSON list"),
    ("a.json", b'[{"a": 1} {"a": 2}]', ":2: not JSON"),
    ("a.json", b'[{"a": 1}, , {"a": 2}]', ":2: not JSON"),
    ("a.json", b'[{"a": 1}, {"a": 2},,]', ":3: not JSON"),
    ("a.txt", b"text;label\nx;1\n", ":1: CSV: its name should end in .csv"),
    ("a.txt", b'[{"text": "x"}]', ":1: JSON: its name should end in"),
    ("a.txt", b'[\n  {"text": "x"}\n]', ":1: JSON: its name should end in"),
    ("a.csv", b"text,text\nx,1\n", ":1: two columns 'text'"),
    ("a.csv", b"\n\n", ":1: no header"),
    ("a.csv", b"", ": an empty file"),
    ("a.csv", b"text,label\n", ": no examples"),
    ("a.txt", "The dog\n".encode("utf-16-le"), ":1: UTF-16 without a byte order mark"),
    ("a.txt", b"\xff\xfeT\x00h", ":1: not UTF-16 text"),
]


@pytest.mark.parametrize("name, content, message", NOT_AS_NAMED)
def test_content_is_held_against_the_name(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = write_bytes(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        records_in(path)
    assert str(caught.value).startswith(f"{path}{message}")


@pytest.mark.parametrize(
    "content",
    [
        b"text,label\nx,1\n",
        b"text;label\nx;1\n",
        b"text\tlabel\nx\t1\n",
        b'{"text": "x", "label": "1"}\n',
        b'[{"text": "x", "label": "1"}]\n',
        b'\n[\n  {\n "text": "x",\n "label": "1"}\n]\n\n',
    ],
)
def test_without_an_ending_the_content_tells(content: bytes, tmp_path: Path) -> None:
    assert records_in(write_bytes(tmp_path / "fd", content)) == [{"text": "x", "label": "1"}]


def test_a_pipe(tmp_path: Path) -> None:
    ends = os.pipe()
    os.write(ends[1], b"text,label\nx,1\n")
    os.close(ends[1])
    assert records_in(f"/dev/fd/{ends[0]}") == [{"text": "x", "label": "1"}]
    os.close(ends[0])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("content", ["( a b )\r\n", "( a b )\n( é \u2028 )\n", "( a b )"])
def test_text_of_other_encodings(encoding: str, content: str, tmp_path: Path) -> None:
    marked = content if encoding in ("utf-16", "utf-32", "utf-8-sig") else "\ufeff" + content
    path = write_bytes(tmp_path / "a.txt", marked.encode(encoding))
    found = [format_binary(example.trees[0]) for example in read_line_examples(path, TreebankFormat())]
    assert found == content.split("\n")[: len(found)] or found == [
        line.strip() for line in content.split("\n") if line
    ]
    packed_path = tmp_path / "a.txt.gz"
    packed_path.write_bytes(packed(path.read_bytes(), packed_path.name))
    assert len(list(read_line_examples(packed_path, TreebankFormat()))) == len(found)


def test_long_lines_of_utf_16(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "a.txt", f"a\n{'x' * 500}\nb\n".encode("utf-16"))
    skipped = Skipped()
    assert stream(path, skipped, limits=Limits(max_line_bytes=100)) == [str, BadLine, str]
    assert skipped == {"a line of more than 100 bytes": 1}


def test_trees_of_text_alone_refuse_records(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"a\.csv: holds records by its name"):
        list(read_line_examples(path, SstFormat()))


CLASSES = datasets.ClassLabel(names=["neg", "pos"])
LABELLED = datasets.Dataset.from_dict(
    {"text": ["a", "b", "c", "d"], "label": [1, 0, -1, None]},
    features=datasets.Features({"text": datasets.Value("string"), "label": CLASSES}),
)


def sources_of_classes(folder: Path) -> dict[str, Any]:
    LABELLED.save_to_disk(str(folder / "saved"))
    LABELLED.to_parquet(folder / "a.parquet")
    datasets.DatasetDict({"train": LABELLED}).save_to_disk(str(folder / "several"))
    return {
        "folder": folder / "saved",
        "parquet": folder / "a.parquet",
        "object": LABELLED,
        "stream": LABELLED.to_iterable_dataset(),
        "arrow table": LABELLED.data.table,
        "of several": folder / "several" / "train",
        "a selection": LABELLED.select(range(4)),
    }


def test_names_of_classes(tmp_path: Path) -> None:
    sources = sources_of_classes(tmp_path)
    for name, source in sources.items():
        assert [record["label"] for record in records_in(source)] == ["pos", "neg", None, None], name
    assert sha256_of(tmp_path / "saved") != sha256_of(tmp_path / "several")
    with pytest.raises(DataError, match="several: holds several datasets, train: name one"):
        records_in(tmp_path / "several")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none: a folder, expected a file"):
        records_in(tmp_path / "none")


def test_names_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the network: what is asked of `datasets` comes from a folder."""
    asked: list[Any] = []

    def load(*names: Any, **options: Any) -> datasets.Dataset:
        asked.append((*names, options))
        if "nobody/none" in names:
            raise ConnectionError("no network\nhere")
        return LABELLED

    monkeypatch.setattr(datasets, "load_dataset", load)
    for name in ("hf://glue/sst2:train", "hf://owner/name/some.config:validation", Path("hf://imdb:test")):
        assert len(records_in(name)) == 4
    assert asked == [
        ("glue/sst2", None, {"split": "train"}),
        ("owner/name", "some.config", {"split": "validation"}),
        ("imdb", None, {"split": "test"}),
    ]
    with pytest.raises(DataError, match=r"hf:/+nobody/none:train: cannot be loaded: no network$"):
        records_in("hf://nobody/none:train")
    with pytest.raises(DataError, match="expected hf://NAME:SPLIT"):
        records_in("hf://owner/name")
    data = DataConfig(corpus="pairs", train=("hf://imdb:train", "a.csv"), dev=("hf://imdb:test",))
    absolute = data.with_absolute_paths()
    assert absolute.train == ("hf://imdb:train", os.path.abspath("a.csv"))
    assert len(sha256_of(Path("hf://imdb:test"))) == 64


FRAME = pd.DataFrame(
    {"sentence1": ["( a b )", None], "sentence2": ["c", "d"], "label": [1.0, float("nan")], "pairID": [7, 8]}
)
OBJECTS: dict[str, Any] = {
    "pandas": FRAME,
    "pandas, of categories": FRAME.astype({"label": "category"}),
    "pandas of Arrow": FRAME.convert_dtypes(dtype_backend="pyarrow"),
    "dicts": FRAME.astype(object).where(FRAME.notna(), None).to_dict("records"),
    "a generator": None,
    "arrow": pa.Table.from_pandas(FRAME),
    "datasets": datasets.Dataset.from_pandas(FRAME),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_of_python(kind: str) -> None:
    source = OBJECTS[kind] if kind != "a generator" else (dict(row) for row in OBJECTS["dicts"])
    own = PairFormat(LabelNames([], grows=True), named_fields(PairFields(), ["label=label"]), reader=READER)
    skipped = Skipped()
    examples = read_examples_as_columns(source, own, WordList(), skipped=skipped)
    assert examples.names.to_pylist() == ["7"]
    assert own.labels.names == ["1"]
    assert skipped == {"label ''": 1}


@pytest.mark.parametrize(
    "source", [3, {"sentence": ["a"]}, datasets.DatasetDict({"train": LABELLED}), ["a b"]]
)
def test_objects_that_are_no_table(source: Any) -> None:
    with pytest.raises(DataError, match=r"^<\w+>(:1)?: got \w+, expected"):
        read_examples_as_columns(source, SentenceFormat(), WordList())


def test_a_column_of_pandas() -> None:
    assert records_in(pd.Series(AS_TEXT)) == AS_TEXT
    with pytest.raises(DataError, match="<Series>:1: got str, expected a dict"):
        records_in(pd.Series(["a b"]))


@pytest.mark.parametrize("value, kind", [(2**62, pa.timestamp("s")), (b"\xff", pa.string())])
def test_a_value_that_python_has_not_is_named(value: Any, kind: pa.DataType, tmp_path: Path) -> None:
    cells = pa.array([value], pa.binary() if kind == pa.string() else pa.int64()).view(kind)
    column = pa.concat_arrays([pa.nulls(1500, kind), cells])
    path = tmp_path / "a.arrow"
    feather.write_feather(pa.table({"text": ["x"] * 1501, "on": column}), path)
    with pytest.raises(DataError) as caught:
        records_in(path)
    assert str(caught.value).startswith(f"{path}:1501: on: cannot be read")


def test_an_object_has_rows_in_errors() -> None:
    with pytest.raises(DataError, match=r"^<list>:2: sentence_binary_parse: missing field$"):
        read_examples_as_columns([{"sentence_binary_parse": "a"}, {}], SentenceFormat(), WordList())
