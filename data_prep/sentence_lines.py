"""Files with a sentence a line, as columns, a block of lines at a time.

    *.jsonl, *.jsonl.gz     a record a line: the field NAME, or the sentence's own (see `records`)
    any other text          ( ( The church ) ( is old ) )   a binary parse a line, or with a tokenizer text

A line that begins like a parse goes through `parse_chunk`, with all others of its block. What that refuses, and every
other line, is read on its own, which is where errors get their reason. A sentence read from its text has a
right-branching tree, which is to be replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from spinn_tensor.data_prep.columns import SentenceColumns, concatenate, sentence_columns, take
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped, StrPath, is_jsonl, next_lines, open_text, parse_record
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits
from spinn_tensor.data_prep.parse_chunks import parse_chunk
from spinn_tensor.data_prep.records import (
    PARSE,
    SINGLE,
    Tokenize,
    identifier,
    sentence_fields,
    sentence_tree,
    text_field,
)
from spinn_tensor.data_prep.treebank import BEGINS_PARSE, parse_or_tokenize
from spinn_tensor.data_prep.trees import Tree
from spinn_tensor.data_prep.vocabulary import Vocabulary


class LineReader(NamedTuple):
    """How a line is read."""

    read: Callable[[str], Tree]  # raises DataError
    peek: Callable[[str], str | None]  # the binary parse in it, where that is all that `read` would look at


class SentenceBlock(NamedTuple):
    """What became of n lines; m of them are sentences."""

    columns: SentenceColumns  # m sentences
    first_line: int  # counted from 1
    n_lines: int
    left_out: np.ndarray  # (n - m,) int64, numbers of the lines that gave none: blank, or skipped
    skipped: Skipped  # why bad lines were


class SentenceFile:
    """A file that is being read, by blocks of lines."""

    def __init__(
        self,
        path: StrPath,
        lines: Iterator[str],  # of the file
        skipped: Skipped,  # to which `lines` adds what it leaves out itself
        reader: LineReader,
        vocabulary: Vocabulary,
        skip_bad: bool,
        limits: Limits,  # of which that on a sentence is kept here
    ) -> None:
        self.n_lines = 0  # read so far
        self.skipped = skipped  # of lines that no block has told of: a broken end
        self._path, self._lines, self._reader = path, lines, reader
        self._vocabulary, self._skip_bad, self._limits = vocabulary, skip_bad, limits

    def block(self, n_lines: int) -> SentenceBlock | None:
        """The next lines, at most so many; None at the end. Raises DataError naming the first bad line."""
        lines = next_lines(self._lines, n_lines)
        if not lines:
            return None
        first_line = self.n_lines + 1
        self.n_lines += len(lines)
        columns, rows, skipped = self._sentences(lines, first_line)
        skipped.update(self.skipped)
        self.skipped.clear()
        left_out = first_line + np.setdiff1d(np.arange(len(lines)), rows)
        return SentenceBlock(columns, first_line, len(lines), left_out, skipped)

    def skip(self, n_lines: int) -> int:
        """Pass over the next lines without looking at them; returns how many there were, at most n_lines."""
        n_passed = sum(1 for _ in islice(self._lines, n_lines))
        self.n_lines += n_passed
        if n_passed:
            self.skipped.clear()
        return n_passed

    def _sentences(
        self, lines: Sequence[str], first_line: int
    ) -> tuple[SentenceColumns, np.ndarray, Skipped]:
        """Sentences, and of which lines they are, (m,) int64."""
        import pyarrow as pa

        filled = [i for i, line in enumerate(lines) if line.strip()]
        peeked = [self._reader.peek(lines[i]) for i in filled]
        parses = pa.array([parse for parse in peeked if parse is not None], pa.string())
        parsed = parse_chunk(parses, self._vocabulary, self._limits.max_words)
        quick = np.array([i for i, parse in zip(filled, peeked, strict=True) if parse is not None], np.int64)
        quick = quick[parsed.parse_mask]
        slow: list[int] = []
        trees: list[Tree] = []
        skipped = Skipped()
        for i in np.setdiff1d(filled, quick).astype(np.int64).tolist():
            try:
                tree = self._reader.read(lines[i])
                self._limits.check_words(tree.tokens)
                trees.append(tree)
                slow.append(i)
            except DataError as error:
                bad = error.at(path=self._path, line=first_line + i)
                if not self._skip_bad:
                    raise bad from None
                skipped.count_error(bad)
        if not slow:
            return parsed.columns, quick, skipped
        rows = np.concatenate((quick, slow))
        columns = concatenate(parsed.columns, sentence_columns(trees, self._vocabulary))
        return take(columns, np.argsort(rows)), np.sort(rows), skipped


@contextmanager
def open_sentences(
    path: StrPath,
    reader: LineReader,
    vocabulary: Vocabulary,
    *,
    skip_bad: bool = False,  # leave a bad line out, and count it, instead of raising
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[SentenceFile]:
    """A file of sentences, plain or .gz; raises as `open_text`."""
    skipped = Skipped()
    with open_text(path, skipped=skipped if skip_bad else None, limits=limits) as lines:
        yield SentenceFile(path, lines, skipped, reader, vocabulary, skip_bad, limits)


def line_reader(
    path: StrPath,  # whose name says what its lines are
    field: str | None,  # of records: that with the parse or text, with or without its ending `_binary_parse`
    tokenize: Tokenize | None,  # reads text without a parse
) -> LineReader:
    """How the lines of a file are read."""
    if is_jsonl(path):
        read = partial(_read_record, field=field, tokenize=tokenize)
        return LineReader(read, partial(_peek_record, field=field))
    return LineReader(partial(parse_or_tokenize, tokenize=tokenize), _if_parse)


def record_tree(record: dict[str, Any], field: str | None, tokenize: Tokenize | None) -> Tree:
    """The tree of `sentence`, or of the field that is named, which may have a parse or text whatever its name.

    Raises DataError naming the field.
    """
    if field is None:
        return sentence_tree(record, *SINGLE, tokenize)
    names = sentence_places(field)
    name = next((name for name in names if name in record), None)
    if name is None:
        raise DataError(f"missing field, expected {' or '.join(names)}")
    text = text_field(record, name)
    try:
        return parse_or_tokenize(text, None if name.endswith(PARSE) else tokenize)
    except DataError as error:
        raise error.at(field=name) from None


def sentence_record(line: str) -> dict[str, Any]:
    """The record of a line, whose identifier, if there is one, is text. Raises DataError."""
    record = parse_record(line)
    identifier(record, "sentenceID", "pairID")
    return record


def sentence_places(field: str) -> tuple[str, ...]:
    """Where the sentence of this name may be, the first place first."""
    return (field,) if field.endswith(PARSE) else sentence_fields(field)


def _read_record(line: str, field: str | None, tokenize: Tokenize | None) -> Tree:
    return record_tree(sentence_record(line), field, tokenize)


def _peek_record(line: str, field: str | None) -> str | None:
    names = sentence_fields(*SINGLE)[:-1] if field is None else sentence_places(field)
    try:
        record = sentence_record(line)
        name = next((name for name in names if name in record), None)
        return None if name is None else _if_parse(text_field(record, name))
    except DataError:
        return None  # `read` says what is wrong


def _if_parse(text: str) -> str | None:
    return text if text.startswith(BEGINS_PARSE) else None
