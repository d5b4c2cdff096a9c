"""Whatever holds records, or lines of text, as one stream of them, at a bounded memory.

    .jsonl .ndjson         a JSON object a line
    .json                  a list of objects, or an object a line
    .csv .tsv              a header and rows, see `delimited`
    .parquet               rows; so have .arrow and .feather, either of Arrow's forms
    a folder               of `datasets.save_to_disk`, one dataset
    hf://NAME:SPLIT        a split of a dataset of the Hugging Face Hub; hf://NAME/CONFIG:SPLIT of a configuration
    an object              `datasets.Dataset`, pandas or Arrow table, or any iterable of dicts
    any other name         text; if it begins with a header of known fields between tabs, as SNLI's .txt, that table;
                           without an ending, as a pipe, whatever the first line shows

A file may be compressed (.gz, .bz2, .xz, or alone in a .zip), and its text be UTF-16 or UTF-32 with a byte order mark.
The name says what it is and the content is held against it: JSON or CSV under another name is an error that says so.

Lines and rows are counted from 1, rows where there are no lines. Labels of `datasets`' ClassLabel come by name.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

from spinn_tensor.data_prep.archives import (
    UNREADABLE,
    first_bytes,
    in_utf8,
    open_bytes,
    unpacked_name,
    unreadable,
)
from spinn_tensor.data_prep.delimited import DELIMITERS, read_csv, read_tsv
from spinn_tensor.data_prep.errors import DataError, DataWarning, NeededLine
from spinn_tensor.data_prep.files import (
    NOT_UTF_8,
    BadLine,
    Line,
    Record,
    Skipped,
    StrPath,
    text_lines,
)
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits
from spinn_tensor.data_prep.penn import Continued, join_trees
from spinn_tensor.data_prep.row_sources import is_dataset_folder, is_hub_name, rows_in_arrow, rows_of

Form = Literal["text", "jsonl", "json", "csv", "tsv", "arrow", "rows"]

FORMS: dict[str, Form] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "arrow",
    ".arrow": "arrow",
    ".feather": "arrow",
}
# fields of which a header has one, in small letters, where the name does not say that there is a header
HEADER = {"gold_label", "label", "sentence", "sentence1", "sentence2", "text", "premise", "hypothesis"}
HEADER |= {"source", "target", "sentence1_binary_parse", "sentence_binary_parse", "binary_parse"}
_ARROW_MARKS = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")
_NAME_IN_CSV = re.compile(r'"?[\w .-]{1,40}"?')
_BEGINS_JSON = re.compile(r'\s*(\[?)\s*\{\s*"')  # of a list, or of an object a line
_LABEL_AND_TREE = re.compile(r"[^\t]*\t\s*\(\s")  # a line of ListOps, whose files end in .tsv, too
_COLUMNS = re.compile(r"[^\t(]+\t(?!\s*([(\[]|\d$))")  # what follows is no tree, and no expression of ListOps
_NO_SENTENCES = {  # what text begins with that has no sentence or tree a line
    "a table of CoNLL or NEGRA, a word a line": re.compile(
        r"(#.*\n)*1(-\d+)?\t[^\s]+(\t[^\t\n]*){4,}|-DOCSTART-\s|#begin document|(%%.*\n)?#(FORMAT|BO[ST])\b"
    ),
    "XML, SGML or HTML": re.compile(
        r"\s*<(\?xml|!doctype|html|(doc|text|corpus|body|p|s)\b[^<>\n]*>\s*\n)", re.IGNORECASE
    ),
}
_CHUNK = 1 << 16
# of a JSON list: what is before its first value, before any other, and after the last
_BEGIN, _BETWEEN, _END = re.compile(r"\s*"), re.compile(r"\s*,\s*"), re.compile(r"\s*\]")


class Lines(NamedTuple):
    """Hold what is read: every line of a file, or every row."""

    lines: Iterator[Line]
    form: Form

    @property
    def has_records(self) -> bool:
        """Tell whether each line is a record, or the JSON of one; else it is text."""
        return self.form != "text"


@contextmanager
def open_lines(
    source: StrPath | Iterable[Any],  # a path, a name of the hub, or an object that has rows
    *,
    member: str | None = None,  # file inside a .zip; needed where there are several
    skipped: Skipped | None = None,  # counts bad lines, not raising
    limits: Limits = DEFAULT_LIMITS,  # of which that on a line is kept
    takes_text: bool = True,  # if not, a name that says nothing stands for jsonl
    takes_records: bool = True,
    joins_trees: bool = True,  # a Penn tree of several lines of text is one of them
) -> Iterator[Lines]:
    """Open whatever holds lines or records; they are read as they are asked for.

    A line that is left out is given as a blank one. Raises DataError as `open_text` does, for a file that is not what
    its name says, and for one that holds what is not taken.
    """
    if not isinstance(source, (str, os.PathLike)) or is_hub_name(source) or is_dataset_folder(source):
        if not takes_records:
            raise DataError("holds records, expected lines of text", path=name_of(source))
        yield Lines(_checked(rows_of(source), name_of(source), skipped, limits), "rows")
        return
    with open_bytes(source, member) as file:
        name = file.name if Path(source).suffix == ".zip" else os.fspath(source)
        try:
            opened = _opened(file, name, source, skipped, limits, (takes_text, takes_records))
            if joins_trees and opened.form == "text":
                opened = opened._replace(
                    lines=join_trees(cast(Iterator[str], opened.lines), limits.max_line_bytes)
                )
        except DataError as error:
            raise error.at(path=source) from error.__cause__
        except UNREADABLE as error:
            raise DataError(unreadable(error), path=source, line=1) from error
        yield opened


def name_of(source: Any) -> StrPath:
    """Return what an error calls a source: its path, or the type of an object."""
    return source if isinstance(source, (str, os.PathLike)) else f"<{type(source).__name__}>"


def has_records(source: StrPath) -> bool:
    """Tell whether a file holds records; of a pipe, which cannot be read twice, by its name. Raises DataError."""
    if Path(source).exists() and not (Path(source).is_file() or Path(source).is_dir()):
        return form_by_name(os.fspath(source)) not in (None, "text")
    with open_lines(source) as opened:
        return opened.has_records


def _opened(
    file: IO[bytes],
    name: str,
    path: StrPath,
    skipped: Skipped | None,
    limits: Limits,
    takes: tuple[bool, bool],  # text, and records
) -> Lines:
    if not (head := first_bytes(file)):
        raise DataError("an empty file")
    by_name = form_by_name(name)
    if head.startswith(_ARROW_MARKS) and by_name != "arrow":
        raise DataError("Parquet or Arrow: its name should end in .parquet or .arrow")
    if by_name is not None and not takes[1]:
        if by_name != "tsv":
            raise DataError("holds records by its name, expected lines of text")
        by_name = None
    if by_name == "arrow":
        return Lines(_checked(rows_in_arrow(file, head), path, skipped, limits), "arrow")
    file = in_utf8(file)
    # no line is read yet: it may have no end
    begin = first_bytes(file).decode("utf-8", "ignore").removeprefix("\ufeff")
    form = _form(by_name, begin, not os.path.splitext(unpacked_name(name))[1], *takes)
    if form == "json":
        if begin.lstrip().startswith("["):
            return Lines(_checked(_json_list(file, limits), path, skipped, limits), "json")
        form = "jsonl"
    if form == "text" and _COLUMNS.match(begin.partition("\n")[0].strip()):
        text = f"{name_of(path)}:1: a tab in a line of text, which is a blank there; cut -f takes a column of a table"
        warnings.warn(text, DataWarning, stacklevel=2)
    lines = text_lines(file, path, skipped, limits)
    if form == "csv" or form == "tsv":
        read = read_csv if form == "csv" else read_tsv
        return Lines(_checked(read(lines, limits), path, skipped, limits), form)
    return Lines(lines, form)


def form_by_name(name: str) -> Form | None:
    """Tell what a file of this name holds, compressed or not; None where the name does not say it."""
    return FORMS.get(os.path.splitext(unpacked_name(name))[1].lower())


def _form(by_name: Form | None, begin: str, is_pipe: bool, takes_text: bool, takes_records: bool) -> Form:
    """Tell the form of a text by its name and its beginning. Raises DataError if these do not fit.

    Where a name has no ending, as that of a pipe, the beginning tells.
    """
    first, json_begins = begin.partition("\n")[0].rstrip("\r"), _BEGINS_JSON.match(begin)
    if by_name == "jsonl" and json_begins and json_begins[1]:
        raise NeededLine("a JSON list: its name should end in .json", line=1)
    if by_name in ("json", "jsonl") and json_begins and first.strip() == "{":
        expected = "expected a list of them in a .json, or an object a line, as jq -c writes it"
        raise NeededLine(f"a JSON object over several lines; {expected}", line=1)
    if by_name is not None and (by_name != "tsv" or not (takes_text and _LABEL_AND_TREE.match(first))):
        return by_name
    for delimiter in DELIMITERS:
        cells = first.split(delimiter)
        if not _is_header(cells):
            continue
        if delimiter == "\t" and takes_records:
            return "tsv"
        if delimiter != "\t" and all(map(_NAME_IN_CSV.fullmatch, cells)):
            if is_pipe and takes_records:
                return "csv"
            raise NeededLine("CSV: its name should end in .csv", line=1)
    if json_begins:
        if (is_pipe or not takes_text) and takes_records:
            return "json" if json_begins[1] else "jsonl"
        raise NeededLine("JSON: its name should end in .jsonl, or .json if it is a list", line=1)
    if kind := next((kind for kind, beginning in _NO_SENTENCES.items() if beginning.match(begin)), None):
        raise NeededLine(f"{kind}; expected a sentence or a tree a line", line=1)
    if not takes_text and "\t" in first:  # the header of a table, if anything
        return "tsv"
    if not takes_text and begin.strip() and "{" not in begin:
        expected = "records (JSON lines, CSV, TSV or Parquet), as pairs and labelled sentences are"
        raise NeededLine(f"text, expected {expected}", line=1)
    return "text" if takes_text else "jsonl"


def _is_header(cells: list[str]) -> bool:
    names = [cell.strip().strip('"').lower() for cell in cells]
    return len(names) > 1 and len(set(names)) == len(names) and not HEADER.isdisjoint(names)


def _checked(
    rows: Iterable[Line | DataError],  # with the errors of bad ones
    path: StrPath,
    skipped: Skipped | None,
    limits: Limits,
) -> Iterator[Line]:
    """Yield rows, of which none has a longer text than a line may have; bad ones are counted, or raised.

    Raises DataError where they cannot be read.
    """
    number = 0
    try:
        for number, row in enumerate(rows, start=1):
            if isinstance(row, dict):
                if any(isinstance(cell, str) and len(cell) > limits.max_line_bytes for cell in row.values()):
                    row = limits.long_line()
            elif not isinstance(row, Continued | BadLine | DataError):
                raise DataError(f"got {type(row).__name__}, expected a dict", line=number)
            if isinstance(row, DataError):
                bad = row.at(path=path, line=number)
                if skipped is None:
                    raise bad
                skipped.count_error(bad)
                row = BadLine("\n")
            yield row
    except DataError as error:
        raise error.at(path=path) from error.__cause__
    except UNREADABLE as error:
        raise DataError(unreadable(error), path=path, line=number + 1) from error
    if not number:
        raise DataError("no rows", path=path)


def _json_list(file: IO[bytes], limits: Limits) -> Iterator[Record]:
    """Yield the objects of a JSON list. Raises DataError."""
    number = 0
    try:
        for number, value in enumerate(_values(file, limits), start=1):
            if not isinstance(value, dict):
                raise DataError(f"got a JSON {type(value).__name__}, expected an object", line=number)
            yield value
    except UnicodeDecodeError as error:
        raise DataError(NOT_UTF_8, line=number + 1) from error
    except DataError as error:
        raise error.at(line=number + 1) from error.__cause__
    except (ValueError, RecursionError) as error:
        raise DataError("not JSON, expected a list of objects", line=number + 1) from error


def _values(file: IO[bytes], limits: Limits) -> Iterator[Any]:
    """Yield the values of a list whose bracket is there. Raises ValueError; DataError for a long one and for more."""
    decoder, start, before = json.JSONDecoder(), 1, _BEGIN
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    buffer = decode(file.read(_CHUNK)).lstrip()
    while True:
        if end := _END.match(buffer, start):
            break
        try:
            if not (between := before.match(buffer, start)):
                raise ValueError("no comma")
            value, start = decoder.raw_decode(buffer, between.end())
        except ValueError:
            buffer, start = buffer[start:], 0
            if len(buffer) > limits.max_line_bytes:
                raise limits.long_line() from None
            more = file.read(_CHUNK)
            buffer += decode(more, not more)
            if not more:
                raise
            continue
        before = _BETWEEN
        yield value
    rest = buffer[end.end() :]
    while not rest.strip():
        if not (more := file.read(_CHUNK)):
            return
        rest = decode(more)
    raise DataError("something follows the JSON list, expected one list in a file")
