"""Files that hold records, in whatever form: the same records, their numbers, and what is said of bad ones."""

from __future__ import annotations

import bz2
import csv
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from spinn_tensor.data_prep import delimited
from spinn_tensor.data_prep.corpora.formats import SentenceFormat, SstFormat, TreebankFormat
from spinn_tensor.data_prep.corpora.read import read_line_examples
from spinn_tensor.data_prep.delimited import _unquoted
from spinn_tensor.data_prep.errors import DataError, DataWarning
from spinn_tensor.data_prep.files import BadLine, Skipped
from spinn_tensor.data_prep.limits import Limits
from spinn_tensor.data_prep.penn import Continued
from spinn_tensor.data_prep.record_files import has_records, open_lines
from spinn_tensor.data_prep.trees import format_binary
from tests.fuzzing import packed
from tests.records import (
    AS_TEXT,
    RECORDS,
    records_in,
    saved,
    stream,
    stream_file,
    table,
    write_bytes,
    write_csv,
)

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
    "csv with bars": lambda folder: write_csv(folder / "a.csv", delimiter="|"),
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
    with pytest.raises(
        DataError, match=r"any name\.zip: say which file of it to read, or unpack it; it holds folder/"
    ):
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
    with pytest.raises(DataError, match=r"a\.csv:6: label: an empty parse"):
        list(read_line_examples(path, SentenceFormat("label")))


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
    ("a.jsonl", b'[\n {"a": 1}\n]', ":1: a JSON list: its name should end in .json"),
    (
        "a.conllu",
        b"# text = A dog\n1\tA\ta\tDET\tDT\t_\t2\n2\tdog\tdog\tNOUN\tNN\t_\t0\n",
        ":1: a table of CoNLL",
    ),
    ("a.conllu", b"# newdoc\n1-2\tIt's" + b"\t_" * 8 + b"\n1\tIt\tit", ":1: a table of CoNLL"),
    ("a.txt", b"-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\n", ":1: a table of CoNLL"),
    ("a.export", b"%% word\ttag\n#FORMAT 3\n#BOS 1 1 98 1\n", ":1: a table of CoNLL or NEGRA"),
    ("a.fid", b"<DOC>\n<S ID=1>\n( (IP (NN a) (VV b)))\n", ":1: XML, SGML or HTML"),
    ("a.nw", b"<S ID=1>\n( (IP (NN a) (VV b)))\n</S>\n", ":1: XML, SGML or HTML"),
    ("a.vrt", b'<text id="1">\n<s>\nThe\tDT\n', ":1: XML, SGML or HTML"),
    ("a.xml", b'\xef\xbb\xbf<?xml version="1.0"?>\n<corpus>\n', ":1: XML, SGML or HTML"),
    ("a.txt", rb"{\rtf1\ansi The dog.}", ": RTF, expected text"),
    ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ": a document of an office program"),
    ("a.model", b"\x80\x04\x95gensim", ": a pickle of Python, which is not read"),
    ("a.tar", b"a.txt".ljust(257, b"\0") + b"ustar\x0000\nThe dog .\n", ": a tar archive: unpack it"),
    ("a.jsonl", b'{"text": "x"},\n', ":1: not JSON: Extra data"),
    ("a.jsonl", b"{'text': 'x'}\n", ":1: not JSON: Expecting property name"),
    ("a.json", b'{\n "data": [{"text": "x"}]\n}', ":1: a JSON object over several lines"),
    ("a.parquet", b"", ": an empty file"),
    ("a.txt", b"A dog runs.\rTwo men sit.\r", ":1: a carriage return and no line end (lines of an old Mac?"),
    ("a.json", b'{"a": 1,\n"b": 2}', ":1: not JSON"),
    ("a.json", b'[{"a": 1}, [2]]', ":2: got a JSON list, expected an object"),
    ("a.json", b'[{"a": 1}, {"b', ":2: not JSON, expected a list of objects"),
    ("a.json", b'[{"a": "\xff"}]', ":1: not UTF-8 text"),
    ("a.json", b'[{"a": "' + b"x" * 2_000_000, ":1: a line of more than 1,000,000 bytes"),
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
    ("a.csv", b"sep=;\ntext;text\nx;1\n", ":2: two columns 'text'"),
    ("a.csv", b"text,label\nx,1\n\xef\xbb\xbftext,label\ny,2\n", ":3: the header again"),
    ("a.tsv", b"text\tlabel\nx\t1\ntext\tlabel\r\ny\t2\n", ":3: the header again"),
    ("a.csv", b"text,label\nx\ry,1\n", ":2: a carriage return outside of quotes"),
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


def test_where_no_text_is_taken_a_first_line_with_tabs_is_a_header(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "SICK.txt", b"sentence_A\tsentence_B\tjudgment\na dog\ta cat\tNO\n")
    with open_lines(path, takes_text=False) as opened:
        assert list(opened.lines)[1:] == [{"sentence_A": "a dog", "sentence_B": "a cat", "judgment": "NO"}]
    with pytest.warns(DataWarning, match=r"SICK\.txt:1: a tab in a line of text"), open_lines(path) as opened:
        assert not opened.has_records


def test_excel_says_what_is_between_cells(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "a.csv", b'sep=;\r\ntext;label\r\n"a, b";1\r\nc\r\n')
    found = stream(path, skipped := Skipped())
    assert found == [Continued, Continued, {"text": "a, b", "label": "1"}, BadLine]
    assert [place for places in skipped.places.values() for place in places] == [f"{path}:4"]


def test_a_text_may_begin_as_an_archive_nearly_does(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "a.txt", b"BZh is a word .\n")
    assert stream(path) == [str]
    path = write_bytes(path, bz2.compress(b"a\n"))
    with pytest.raises(DataError, match=r"packed by bzip2: its name should end in \.bz2"):
        stream(path)


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
