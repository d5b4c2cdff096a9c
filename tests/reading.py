"""What comes of a file of examples, as plain values: by blocks of lines, and a line at a time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest.mock import patch

import numpy as np

from spinn_tensor.data_prep.columns import SentenceColumns, sentence_columns
from spinn_tensor.data_prep.corpora import records
from spinn_tensor.data_prep.corpora.formats import LineFormat, PairFields, named_fields
from spinn_tensor.data_prep.corpora.read import read_examples_as_columns, read_line_examples
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.trees import parse_binary
from spinn_tensor.data_prep.vocabulary import Vocabulary

VOCABULARY = Vocabulary.build(
    [["A", "dog", "runs", "é", "w1", "1", "]", "[MAX", "old", "dogs", "bark", "n't"]]
)
CHUNK_VOCABULARY = Vocabulary.build([["w1", "w2", "w3", "a\u00a0b", "é", "((", "Dog", "dog"]])
OWN = named_fields(PairFields(), ["premise=text", "hypothesis=claim", "label=verdict", "pair_id=key"])


def outcome(path: Path, line_format: LineFormat, skip_bad: bool, limit: int = 0, **options: Any) -> Any:
    """What came of the file by blocks of lines, or the error."""
    skipped = Skipped()
    try:
        found = read_examples_as_columns(
            path, line_format, VOCABULARY, skip_bad=skip_bad, skipped=skipped, limit=limit, **options
        )
    except DataError as error:
        return str(error)
    labels, names = found.labels.tolist(), found.names.to_pylist()
    return (
        *_plain(found.sentences),
        found.n_sentences.tolist(),
        labels,
        names,
        dict(skipped),
        skipped.places,
    )


def by_the_line(path: Path, line_format: LineFormat, skip_bad: bool, limit: int = 0, **options: Any) -> Any:
    """The same of the reader that gives examples one by one, with Python's JSON in place of orjson."""
    skipped = Skipped()
    try:
        with patch.object(records, "orjson", SimpleNamespace(loads=_refuse)):
            examples = read_line_examples(path, line_format, skip_bad=skip_bad, skipped=skipped, **options)
            found = list(islice(examples, limit or None))
            examples.close()  # counts what was left out
    except DataError as error:
        return str(error)
    trees = [tree for example in found for tree in example.trees]
    labels, names = [example.label for example in found], [example.name for example in found]
    n_sentences = [len(example.trees) for example in found]
    columns = sentence_columns(trees, VOCABULARY)
    return (*_plain(columns), n_sentences, labels, names, dict(skipped), skipped.places)


def _refuse(_: str) -> NoReturn:
    raise ValueError


def assert_as_by_the_line(path: Path, make: Callable[[], LineFormat], limit: int = 0) -> Any:
    """Both ways give the same, with bad lines skipped and not; returns what there is without them."""
    for skip_bad in (False, True):
        got = outcome(path, make(), skip_bad, limit)
        assert got == by_the_line(path, make(), skip_bad, limit)
    return got


def _plain(columns: SentenceColumns) -> tuple[Any, ...]:
    return tuple(None if values is None else values.tolist() for values in columns)


def assert_chunk_as_slowly(
    texts: list[str], vocabulary: Vocabulary = CHUNK_VOCABULARY, array: object = None
) -> None:
    """`parse_chunk` gives what one string at a time gives."""
    import pyarrow as pa

    from spinn_tensor.data_prep.parse_chunks import parse_chunk

    columns, parse_mask = _slowly(texts, vocabulary)
    got = parse_chunk(pa.array(texts, pa.string()) if array is None else array, vocabulary)
    np.testing.assert_array_equal(got.parse_mask, parse_mask)
    for name, value in columns._asdict().items():
        np.testing.assert_array_equal(getattr(got.columns, name), value, err_msg=name)
        if value is not None:
            assert getattr(got.columns, name).dtype == value.dtype


def _slowly(texts: list[str], vocabulary: Vocabulary) -> tuple[SentenceColumns, np.ndarray]:
    """The columns of binary parses, and which strings are some, one string at a time."""
    trees, parse_mask = [], []
    for text in texts:
        try:
            trees.append(parse_binary(text))
            parse_mask.append(True)
        except DataError:
            parse_mask.append(False)
    return sentence_columns(trees, vocabulary), np.array(parse_mask, dtype=bool)
