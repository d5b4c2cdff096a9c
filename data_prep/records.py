"""The sentences in the record of a jsonl file: which fields are looked at, in one order for every reader.

    sentence1, sentence2    of a record that has a field of either: a pair
    sentence                of any other

The sentence NAME is in the first of these fields that the record has:

    NAME_binary_parse       its tree
    binary_parse            its tree, if NAME is `sentence`
    NAME                    its text, for which a tokenizer is needed
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.trees import Tree, parse_binary, right_branching

PAIR, SINGLE = ("sentence1", "sentence2"), ("sentence",)
PARSE = "binary_parse"  # what the name of a field with a parse ends in

WITHOUT_PARSE = "text without a parse: make parses with spinn parse, or choose --branching"
Tokenize = Callable[[str], tuple[str, ...]]  # as `Tokenizer.tokenize`


def sentence_names(record: dict[str, Any]) -> tuple[str, ...]:
    """The names of the record's sentences; () if it has none of their fields."""
    for names in (PAIR, SINGLE):
        if any(field in record for name in names for field in sentence_fields(name)):
            return names
    return ()


def sentence_fields(name: str) -> tuple[str, ...]:
    """Where the sentence NAME may be, the first place first; the last one has its text."""
    return (f"{name}_{PARSE}", *((PARSE,) if name in SINGLE else ()), name)


def sentence_tree(record: dict[str, Any], name: str, tokenize: Tokenize | None) -> Tree:
    """The tree of the sentence NAME or, with a tokenizer, the words of its text under a right-branching one.

    Raises DataError naming the field.
    """
    *parse_fields, _ = sentence_fields(name)
    for field in parse_fields:
        if field in record:
            return parse_field(record, field)
    if name not in record:
        raise DataError("missing field", field=parse_fields[0])
    if tokenize is None:
        raise DataError(f"missing field; {name} is {WITHOUT_PARSE}", field=parse_fields[0])
    return right_branching(tokenize_field(record, name, tokenize))


def tokenize_field(record: dict[str, Any], field: str, tokenize: Tokenize) -> tuple[str, ...]:
    """The words of a field with text. Raises DataError naming the field."""
    try:
        return tokenize(text_field(record, field))
    except DataError as error:
        raise error.at(field=field) from None


def parse_field(record: dict[str, Any], field: str) -> Tree:
    """The tree of a field with a binary parse. Raises DataError naming the field."""
    try:
        return parse_binary(text_field(record, field))
    except DataError as error:
        raise error.at(field=field) from None


def identifier(record: dict[str, Any], *fields: str) -> str:
    """The text, or integer, of the first of these fields that the record has; "" if it has none. Raises DataError."""
    for field in fields:
        if field in record:
            value = record[field]
            is_number = isinstance(value, int) and not isinstance(value, bool)
            return str(value) if is_number else text_field(record, field)
    return ""


def text_field(record: dict[str, Any], field: str) -> str:
    """The text of a field. Raises DataError naming the field if it is missing or no text."""
    if field not in record:
        raise DataError("missing field", field=field)
    value = record[field]
    if not isinstance(value, str):
        raise DataError(f"got {type(value).__name__}, expected a string", field=field)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON's \ud800 makes a string that no file or Arrow column can hold
        raise DataError("half of a surrogate pair", field=field) from error
    return value
