"""Sentences with their parses from a jsonl file, for `predict` and `encode`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from data_prep.errors import DataError
from data_prep.files import Skipped, parse_record, read_examples
from data_prep.snli import identifier, parse_field
from data_prep.trees import Tree, parse_binary

FIELDS = ("sentence_binary_parse", "binary_parse")


class Sentence(NamedTuple):
    """A line of the file."""

    tree: Tree
    sentence_id: str  # of the field sentenceID, or pairID; "" where neither is there


def read_sentences(path: Path, field: str | None, skip_bad: bool, skipped: Skipped) -> list[Sentence]:
    """Every line's sentence. `field` names that with the parse, with or without its ending `_binary_parse`.

    Raises DataError naming line and field.
    """
    names = FIELDS if field is None else (f"{field}_binary_parse", field)
    return list(read_examples(path, lambda line: _sentence(line, names), skip_bad=skip_bad, skipped=skipped))


def parse_argument(text: str, name: str) -> Tree:
    """A binary parse given on the command line. Raises DataError naming the option."""
    try:
        return parse_binary(text)
    except DataError as error:
        raise error.at(field=name) from None


def _sentence(line: str, names: tuple[str, ...]) -> Sentence:
    record = parse_record(line)
    name = next((name for name in names if name in record), None)
    if name is None:
        raise DataError(f"missing field, expected {' or '.join(names)}")
    return Sentence(parse_field(record, name), identifier(record, "sentenceID", "pairID"))
