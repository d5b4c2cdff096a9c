"""The texts in some fields of many JSON lines at once, by Arrow.

Arrow's reader finds records where it likes: two on a line, or one on two lines. And it does not tell a field that is
null from one that is missing. So a block of lines is only taken from it where each line can be but one record, and
`unsure_mask` marks the values that only a look at the line itself can tell. What Arrow refuses, and what Python perhaps
does, is `None`: whoever asked reads the lines one by one, and finds which of them is wrong, and why.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import parse_record

if TYPE_CHECKING:
    import pyarrow as pa

_SURROGATE = "\\ud"  # how JSON spells half of a pair; Arrow and Python do not agree on lone ones
_MOST_BRACKETS = 400  # of a line: what is nested deeper may be too deep for Python, which is recursive
_MOST_DIGITS = 4300  # of a number: Python takes no more
_LONG_NUMBER = re.compile(rf"(?<![0-9])[0-9]{{{_MOST_DIGITS + 1}}}")
_INFINITY = re.compile(r"Inf\s*[],}]")  # as Arrow knows it, and nobody else
_ESCAPE_IN_NAME = re.compile(r'\\.[^"\\]*"\s*:')


class JsonFields(NamedTuple):
    """Fields of n records."""

    texts: Mapping[str, pa.Array]  # (n,) string each, null where there is none
    unsure_mask: np.ndarray  # (n,) bool, records with a null that is perhaps no missing field


def read_json_lines(
    lines: Sequence[str],  # n of them, none blank
    fields: Sequence[str],
    integers: Sequence[str] = (),  # fields that may be integers in all of the lines; they become text
) -> JsonFields | None:
    """The fields' texts, or None where the lines have to be read one by one."""
    import pyarrow as pa
    from pyarrow import json

    text = "".join(line if line.endswith("\n") else line + "\n" for line in lines)
    if (
        not lines
        or not all(map(_is_one_record, lines))
        or _SURROGATE in text.lower()
        or _INFINITY.search(text)
    ):
        return None
    content = text.encode("utf-8")
    numbers = _integers_of(lines[0]) & set(integers)
    schema = pa.schema([(field, pa.int64() if field in numbers else pa.string()) for field in fields])
    options = json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    size = json.ReadOptions(use_threads=False, block_size=len(content) + 1)
    try:
        table = json.read_json(io.BytesIO(content), size, options)
    except pa.ArrowException:
        return None
    return _fields(table, fields, text) if table.num_rows == len(lines) else None


def _integers_of(line: str) -> set[str]:
    """Names of the fields of a record that are integers."""
    try:
        record = parse_record(line)
    except DataError:
        return set()
    return {name for name, value in record.items() if isinstance(value, int) and not isinstance(value, bool)}


def _fields(table: pa.Table, fields: Sequence[str], text: str) -> JsonFields:
    import pyarrow as pa

    texts: dict[str, pa.Array] = {}
    unsure = np.zeros(table.num_rows, dtype=bool)
    for field in fields:
        column = table.column(field).cast(pa.string()).combine_chunks()
        texts[field] = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if column.null_count and (f'"{field}"' in text or _ESCAPE_IN_NAME.search(text)):
            unsure |= column.is_null().to_numpy(zero_copy_only=False)
    return JsonFields(texts, unsure)


def _is_one_record(line: str) -> bool:
    """Whether the line, if it is JSON at all, is one object, or more, and no part of one."""
    stripped = line.strip(" \t\r\n")
    brackets = stripped.count("[") + stripped.count("{")
    has_long_number = len(line) > _MOST_DIGITS and _LONG_NUMBER.search(line) is not None
    return stripped[:1] == "{" and stripped[-1:] == "}" and brackets < _MOST_BRACKETS and not has_long_number
