"""Blocks of lines against the reading of one line at a time: sentences, errors by line, and what is left out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spinn_tensor.data_prep.columns import concatenate, sentence_columns
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped, read_examples
from spinn_tensor.data_prep.sentence_lines import LineReader, SentenceBlock, line_reader, open_sentences
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import Tree
from spinn_tensor.data_prep.vocabulary import Vocabulary

pytest.importorskip("pyarrow")

VOCABULARY = Vocabulary.build([["old", "dogs", "bark", "do", "n't", "cats"]])
PARSES = ["( dogs bark )", "( ( old dogs ) bark )", "dogs", " ( old\tdogs ) "]
WRONG = ["( a )", "( a b", "a b", "", "( ( a b ) )", "don't bark"]
TEXTS = st.sampled_from([*PARSES, *WRONG, "\ud800"])
NAMES = ["sentence", "sentence_binary_parse", "binary_parse", "sentence1", "sentence1_binary_parse"]
VALUES = st.one_of(TEXTS, st.just(3))
RECORDS = st.dictionaries(st.sampled_from([*NAMES, "sentenceID", "pairID"]), VALUES, max_size=3)
RECORD_LINES = st.one_of(RECORDS.map(json.dumps), st.sampled_from(["", "  ", "{", "[1]"]))
TEXT_LINES = st.one_of(TEXTS.filter(lambda text: text != "\ud800"), st.just(" "))
FIELDS = st.sampled_from([None, "sentence", "sentence1", "sentence1_binary_parse", "binary_parse"])


def blocks_of(
    path: Path, reader: LineReader, size: int, skip_bad: bool
) -> tuple[list[SentenceBlock], Skipped]:
    """All blocks of a file, and everything that was skipped."""
    with open_sentences(path, reader, VOCABULARY, skip_bad=skip_bad) as file:
        blocks = list(iter(lambda: file.block(size), None))
        skipped = Skipped(file.skipped)
    for block in blocks:
        skipped.update(block.skipped)
    return blocks, skipped


def by_the_line(path: Path, reader: LineReader, skip_bad: bool, skipped: Skipped) -> list[Tree] | DataError:
    """The trees of a file, or its first error; a file without any is none here."""
    try:
        return list(read_examples(path, reader.read, skip_bad=skip_bad, skipped=skipped))
    except DataError as error:
        return [] if "no examples" in error.reason else error


def assert_as_by_the_line(path: Path, reader: LineReader, size: int, skip_bad: bool) -> None:
    skipped = Skipped()
    trees = by_the_line(path, reader, skip_bad, skipped)
    if isinstance(trees, DataError):
        with pytest.raises(DataError) as found:
            blocks_of(path, reader, size, skip_bad)
        assert str(found.value) == str(trees)
        return
    blocks, found_skipped = blocks_of(path, reader, size, skip_bad)
    assert found_skipped == skipped
    expected, got = sentence_columns(trees, VOCABULARY), sentence_columns([], VOCABULARY)
    for block in blocks:
        got = concatenate(got, block.columns)
        assert len(block.left_out) == block.n_lines - (len(block.columns.token_offsets) - 1)
    for name, value in expected._asdict().items():
        np.testing.assert_array_equal(getattr(got, name), value, err_msg=name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the file is written anew each time
@given(
    st.lists(RECORD_LINES, min_size=1, max_size=6), FIELDS, st.integers(1, 4), st.booleans(), st.booleans()
)
def test_records(
    tmp_path: Path, lines: list[str], field: str | None, size: int, text: bool, skip_bad: bool
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    reader = line_reader(path, field, Tokenizer().tokenize if text else None)
    assert_as_by_the_line(path, reader, size, skip_bad)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXT_LINES, min_size=1, max_size=6), st.integers(1, 4), st.booleans(), st.booleans())
def test_lines_of_text(tmp_path: Path, lines: list[str], size: int, text: bool, skip_bad: bool) -> None:
    path = tmp_path / "in.txt"
    path.write_text("".join(line + "\n" for line in lines))
    reader = line_reader(path, None, Tokenizer().tokenize if text else None)
    assert_as_by_the_line(path, reader, size, skip_bad)


def test_lines_without_a_sentence_are_named(tmp_path: Path) -> None:
    path = tmp_path / "in.txt.gz"
    lines = [b"( a b )\n", b"\n", b"( a )\n", b"dogs\n", b"\xff\n", b"( old dogs )"]
    path.write_bytes(gzip.compress(b"".join(lines)))
    reader = line_reader(path, None, None)
    blocks, skipped = blocks_of(path, reader, 4, skip_bad=True)
    assert [(block.first_line, block.n_lines, block.left_out.tolist()) for block in blocks] == [
        (1, 4, [2, 3]),
        (5, 2, [5]),
    ]
    assert skipped == {"a node with one child": 1, "not UTF-8 text": 1}
    assert_as_by_the_line(path, reader, 4, skip_bad=True)
    assert_as_by_the_line(path, reader, 4, skip_bad=False)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_broken_end_is_counted_once_wherever_the_blocks_end(size: int, tmp_path: Path) -> None:
    path = tmp_path / "in.txt.gz"
    path.write_bytes(gzip.compress(b"( old dogs )\n" * 6, 0)[:-8])  # its last bytes, a checksum, are missing
    blocks, skipped = blocks_of(path, line_reader(path, None, None), size, skip_bad=True)
    assert sum(block.n_lines for block in blocks) == 6
    assert skipped == {"truncated: the compressed data end early": 1}


def test_lines_that_are_skipped_are_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"( a )\n" * 2 + b"\xff\n" + b"( old dogs )\n" + b"( a )\n" * 2)
    with open_sentences(path, line_reader(path, None, None), VOCABULARY, skip_bad=True) as file:
        assert file.skip(3) == 3
        block = file.block(1)
        assert block is not None
        assert (block.first_line, block.n_lines, len(block.columns.token_ids), block.skipped) == (4, 1, 2, {})
        assert [file.skip(3), file.skip(3)] == [2, 0]
        assert not file.skipped
