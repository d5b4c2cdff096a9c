"""A record, or the JSON of one, and the sentences in it: which fields are looked at, in one order for all.

    sentence1, sentence2    of a record that has a field of either: a pair
    sentence                of any other

The sentence NAME is in the first of these fields that has something, not null nor "":

    NAME_binary_parse       its tree
    binary_parse            its tree, if NAME is `sentence`
    NAME_parse              its tree, as in the Penn Treebank
    NAME                    its text, for which a tokenizer is needed
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import numpy as np
import orjson

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Line, MissingCell, Record, parse_record
from spinn_tensor.data_prep.text import PARSE, WITHOUT_PARSE, Sentence, SentenceReader

NO_PARSE = "no parse"  # in a field that is there
PAIR, SINGLE = ("sentence1", "sentence2"), ("sentence",)

Result = TypeVar("Result")


def read_record(line: Line, read: Callable[[Record], Result]) -> Result:
    """Return what `read` makes of a record, or of the JSON of one. Raises DataError.

    orjson is quick, but takes integers of more than 64 bits for floats and refuses NaN and halves of surrogate pairs.
    So it is believed where all is well; else Python's `json` reads the line again, and says what is wrong.
    """
    if isinstance(line, dict):
        return read(line)
    try:
        record = orjson.loads(line)
        if isinstance(record, dict):
            return read(record)
    except ValueError:  # of orjson, or a DataError
        pass
    return read(parse_record(line))


def is_missing(value: Any) -> bool:
    """Tell whether a field has nothing in it: null, an empty string, or NaN, NaT or NA, as tables have it."""
    if value is None or isinstance(value, str):
        return not value or isinstance(value, MissingCell)
    differs = value != value  # as NaN does from itself; of pandas' NA it is NA, of an array another one
    return bool(differs) if isinstance(differs, (bool, np.bool_)) else differs is value


def text_field(record: dict[str, Any], field: str) -> str:
    """Return the text of a field. Raises DataError naming the field if it is missing or no text."""
    value = record.get(field)
    if type(value) is str and value.isascii():  # as nearly all are
        return value
    if field not in record:
        raise DataError("missing field", field=field, there=tuple(record))
    if not isinstance(value, str) or isinstance(value, MissingCell):
        got = f"a missing value ({value})" if is_missing(value) else type(value).__name__
        raise DataError(f"got {got}, expected a string", field=field)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON's \ud800 makes a string that no file or Arrow column can hold
        raise DataError("half of a surrogate pair", field=field) from error
    return value


def text_or_integer(record: dict[str, Any], field: str) -> str:
    """Return the text of a field, which may be an integer, True or False. Raises DataError naming the field."""
    value = record.get(field)
    if type(value) is str and value.isascii():
        return value
    # as pandas has integers, some of which are missing; of more than 64 bits they are orjson's, without the last digits
    if isinstance(value, float) and value.is_integer() and -(2**63) <= value < 2**64:
        value = int(value)
    return str(value) if isinstance(value, int) else text_field(record, field)


def identifier(record: dict[str, Any], *fields: str) -> str:
    """Return the text, or integer, of the first of these fields that is there; "" if none is. Raises DataError."""
    for field in fields:
        if not is_missing(record.get(field)):
            return text_or_integer(record, field)
    return ""


def sentence_names(record: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the record's sentences; () if it has none of their fields."""
    for names in (PAIR, SINGLE):
        if any(field in record for name in names for field in sentence_fields(name)):
            return names
    return ()


@cache
def sentence_fields(name: str) -> tuple[str, ...]:
    """Return where the sentence NAME may be, the first place first; the last one has its text."""
    return (f"{name}_{PARSE}", *((PARSE,) if name in SINGLE else ()), f"{name}_parse", name)


def sentence_in(
    record: dict[str, Any], name: str, reader: SentenceReader
) -> tuple[Sentence, str]:  # and the field that it is from
    """Return the parse of the sentence NAME or, with a tokenizer, its words. Raises DataError naming the field."""
    fields = sentence_fields(name)
    for field in fields[:-1]:
        if not is_missing(record.get(field)):
            return reader.read_parse(text_field(record, field), field), field
    lacks = NO_PARSE if fields[0] in record else "missing field"
    if is_missing(record.get(name)) and (name not in record or reader.tokenize is None):
        raise DataError(lacks, field=fields[0], there=() if lacks == NO_PARSE else tuple(record))
    if reader.tokenize is None:
        raise DataError(f"{lacks}; {name} is {WITHOUT_PARSE}", field=fields[0])
    return reader.words(text_field(record, name), name), name


def sentence_in_field(
    record: dict[str, Any], field: str, reader: SentenceReader
) -> tuple[Sentence, str]:  # and the field that it is from
    """Return the sentence in a field of the user's own, which may have a parse or text whatever its name.

    Raises DataError naming the field.
    """
    places = (field,) if field.endswith("parse") else sentence_fields(field)
    there = [place for place in places if place in record]
    if not there:
        raise DataError(f"missing field, expected {' or '.join(places)}", there=tuple(record))
    place = next((place for place in there if not is_missing(record[place])), there[-1])
    read = reader.read_parse if place.endswith("parse") else reader.read
    return read(text_field(record, place), place), place
