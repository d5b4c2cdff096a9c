"""Records, what writes them in several forms, and what reads them as they come."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from spinn_tensor.data_prep.corpora.formats import LineExample, LineFormat
from spinn_tensor.data_prep.corpora.read import read_line_examples
from spinn_tensor.data_prep.files import Record, Skipped
from spinn_tensor.data_prep.record_files import open_lines
from spinn_tensor.data_prep.text import SentenceReader
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import right_branching

WORD = right_branching(["word"])
READER = SentenceReader(Tokenizer().tokenize)
TEXTS = ['He said "no", loudly', "two\nlines; one\tcell", "\u2028é", "", "x"]
RECORDS = [{"sentence": text, "label": str(number % 2), "n": number} for number, text in enumerate(TEXTS)]
AS_TEXT = [{**record, "n": str(record["n"])} for record in RECORDS]


def records_in(source: Any, **options: Any) -> list[Any]:
    """All records, JSON decoded."""
    records: list[Record] = []

    class Kept(LineFormat):
        def read(self, line: str) -> LineExample:
            raise NotImplementedError("text is taken, but there is none")

        def read_record(self, record: Record) -> LineExample:
            records.append(record)
            return LineExample((WORD,))

    list(read_line_examples(source, Kept(), **options))
    return records


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
