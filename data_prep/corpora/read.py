"""Corpora from their files straight to columns, a block of lines at a time.

A format reads each line (`formats`) and leaves binary parses as text. Those of a block become columns at once, without
a loop over sentences (`parse_chunks`). What is no parse is read once more on its own, which is where its error gets its
reason. So every line is read as `read_line_examples` alone would, which gives them one by one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from spinn_tensor.data_prep.columns import (
    Corpus,
    SentenceColumns,
    WordIds,
    concatenate,
    sentence_columns,
    take,
)
from spinn_tensor.data_prep.corpora.formats import Example, LineExample, LineFormat
from spinn_tensor.data_prep.corpora.records import read_record
from spinn_tensor.data_prep.errors import DataError, NotWanted
from spinn_tensor.data_prep.files import Line, Skipped, StrPath, next_lines
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits
from spinn_tensor.data_prep.parse_chunks import parse_chunk
from spinn_tensor.data_prep.penn import Continued
from spinn_tensor.data_prep.record_files import Lines, name_of, open_lines
from spinn_tensor.data_prep.text import Sentence, Words, tree_of
from spinn_tensor.data_prep.trees import Tree

if TYPE_CHECKING:
    import pyarrow as pa

Source = StrPath | Iterable[Any]  # a path, or an object that has records

BLOCK = 1024  # lines read at a time


class Examples(NamedTuple):
    """Hold n examples."""

    sentences: SentenceColumns  # those of the first example, of the second, ...
    n_sentences: np.ndarray  # (n,) int64, of each example
    labels: np.ndarray  # (n,) int64
    names: pa.Array  # (n,) string
    text_mask: np.ndarray  # (number of sentences,) bool, those without a tree: right-branching here
    lines: np.ndarray  # (n,) int64, of the file each example is from

    def corpus(self) -> Corpus:
        """Return them side after side, n >= 1 with as many sentences each."""
        n_examples = len(self.labels)
        n_sides = int(self.n_sentences[0])
        if n_sides == 1:
            return Corpus(self.sentences, self.labels)
        by_side = np.arange(n_sides * n_examples).reshape(n_examples, n_sides).T.reshape(-1)
        return Corpus(take(self.sentences, by_side), self.labels, n_sides)


class Block(NamedTuple):
    """Hold what became of n lines; m of them are examples."""

    examples: Examples  # m
    first_line: int  # counted from 1
    n_lines: int
    left_out: np.ndarray  # (n - m,) int64, numbers of the lines that gave none: blank, not wanted, or skipped
    continued: np.ndarray  # (k,) int64, numbers of those of them that went to the tree of a line before
    n_blank: int
    skipped: Skipped  # why lines were


@dataclass
class ExampleFile:
    """Read a file by blocks of lines."""

    path: StrPath
    opened: Lines
    skipped: Skipped  # of lines that no block has told of: a broken end
    line_format: LineFormat
    words: WordIds
    skip_bad: bool
    limits: Limits  # of which that on a sentence is kept here

    def __post_init__(self) -> None:
        self.n_lines = 0  # read so far
        self.has_records = self.opened.has_records
        self._failure: DataError | None = None  # that ends it, when the lines before have been given
        self._read_line = _read_line(self.line_format, self.has_records)

    def block(self, n_lines: int) -> Block | None:
        """Read the next lines, at most so many; None at the end.

        Raises DataError naming the first bad line, when those before have been given.
        """
        if self._failure is not None:
            raise self._failure
        lines: list[Line] = []
        try:
            next_lines(self.opened.lines, n_lines, into=lines)
        except DataError as error:
            self._failure = error
        if not lines or not (block := self._block(lines)).n_lines:
            if self._failure is not None:
                raise self._failure
            return None
        self.n_lines += block.n_lines
        return block

    def _block(self, lines: Sequence[Line]) -> Block:
        """Return what became of lines; without `skip_bad` of those before the first bad one, whose error is kept."""
        first_line = self.n_lines + 1
        skipped = Skipped()
        found, errors = self._read(lines, skipped)
        examples, kept = _columns(found, self.words, self.limits)
        for number in itertools.compress(found.lines, ~kept):
            errors[number] = self._error(lines[number - first_line])
        for number, error in sorted(errors.items()):
            bad = error.at(path=self.path, line=number)
            if not self.skip_bad:
                self._failure = bad
                return self._block(lines[: number - first_line])
            skipped.count_error(bad)
        skipped.update(self.skipped)
        self.skipped.clear()
        left_out = np.setdiff1d(first_line + np.arange(len(lines)), examples.lines)
        continued = np.flatnonzero([isinstance(line, Continued) for line in lines])
        n_blank = sum(type(line) is str and (line.isspace() or not line) for line in lines)
        return Block(examples, first_line, len(lines), left_out, first_line + continued, n_blank, skipped)

    def skip(self, n_lines: int) -> int:
        """Pass over the next lines without looking at them; return how many there were, at most n_lines."""
        n_passed = sum(1 for _ in itertools.islice(self.opened.lines, n_lines))
        self.n_lines += n_passed
        if n_passed:
            self.skipped.clear()
        return n_passed

    def _read(self, lines: Sequence[Line], skipped: Skipped) -> tuple[_Found, dict[int, DataError]]:
        """Read the lines up to the first bad one, or all; what is in them, and errors by the number of the line."""
        found = _Found()
        errors: dict[int, DataError] = {}
        for number, line in enumerate(lines, start=self.n_lines + 1):
            if isinstance(line, str) and (line.isspace() or not line):
                continue
            try:
                found.add(number, self._read_line(line))
            except NotWanted as reason:
                skipped.count_error(reason.at(path=self.path, line=number))
            except DataError as error:
                errors[number] = error
                if not self.skip_bad:
                    break
        return found, errors

    def _error(self, line: Line) -> DataError:
        """Return what is wrong with a line of which a sentence is no tree, or too long."""
        try:
            _trees(self._read_line(line), self.limits)
        except DataError as error:
            return error
        raise AssertionError("a parse that is one alone, but none among others")


@contextmanager
def open_examples(
    source: Source,
    line_format: LineFormat,
    words: WordIds,
    *,
    member: str | None = None,  # file inside a .zip
    skip_bad: bool = False,  # leave bad lines out, and count them, instead of raising
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[ExampleFile]:
    """Open a file, or whatever `record_files` reads, by blocks of lines; raises as `open_lines`."""
    skipped = Skipped()
    counts = skipped if skip_bad else None
    with open_lines(source, member=member, skipped=counts, limits=limits, **line_format.takes) as opened:
        yield ExampleFile(name_of(source), opened, skipped, line_format, words, skip_bad, limits)


def read_examples_as_columns(
    source: Source,
    line_format: LineFormat,
    words: WordIds,
    *,
    member: str | None = None,  # file inside a .zip
    skip_bad: bool = False,  # count bad lines by reason instead of raising
    skipped: Skipped | None = None,
    limit: int = 0,  # examples at most; 0 = all
    may_be_empty: bool = False,  # without any example, no error
    on_lines: Callable[[int], object] | None = None,  # told of so many lines when they are read
    limits: Limits = DEFAULT_LIMITS,
) -> Examples:
    """Read all examples of a file, a dataset or a table, whatever `record_files` reads, into columns.

    Raises DataError naming the first bad line or row, and if no example is left.

    >>> reviews = [{"sentence": "( a film )"}, {"sentence_binary_parse": "( ( a film ) . )"}]
    >>> words = Vocabulary.build([["a", "film"]])
    >>> read_examples_as_columns(reviews, SentenceFormat("sentence"), words).sentences.token_ids.tolist()
    [2, 3, 2, 3, 1]
    """
    path = name_of(source)
    parts = [_columns(_Found(), words, limits)[0]]
    n_examples = 0
    with (
        (Skipped() if skipped is None else skipped).of_file(path) as own,
        open_examples(source, line_format, words, member=member, skip_bad=skip_bad, limits=limits) as file,
    ):
        # never more lines than examples that are wanted still: what comes after them is not looked at
        while block := file.block(min(BLOCK, limit - n_examples) if limit else BLOCK):
            own.update(block.skipped)
            parts.append(block.examples)
            n_examples += len(block.examples.labels)
            if on_lines is not None:
                on_lines(block.n_lines)
            if limit and n_examples >= limit:
                break
        own.update(file.skipped)
        if not n_examples and not may_be_empty:
            raise own.no_examples().at(path=path)
    return join(parts)


def read_line_examples(
    source: Source,
    line_format: LineFormat,
    *,
    member: str | None = None,  # file inside a .zip
    skip_bad: bool = False,  # count bad lines by reason instead of raising
    skipped: Skipped | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[Example]:
    """Yield the examples of a file one by one, as they are asked for.

    Blank lines are none, and a Penn tree may go over several. Raises DataError naming the line that is bad, what
    `open_lines` raises, and DataError if no example is left.
    """
    path, n_examples = name_of(source), 0
    with (
        (Skipped() if skipped is None else skipped).of_file(path) as own,
        open_lines(
            source, member=member, skipped=own if skip_bad else None, limits=limits, **line_format.takes
        ) as opened,
    ):
        read = _read_line(line_format, opened.has_records)
        for number, line in enumerate(opened.lines, start=1):
            if isinstance(line, str) and not line.strip():
                continue
            try:
                found = read(line)
                example = Example(_trees(found, limits), found.label, found.name)
            except DataError as error:
                bad = error.at(path=path, line=number)
                if not skip_bad and not isinstance(error, NotWanted):
                    raise bad from None
                own.count_error(bad)
                continue
            n_examples += 1
            yield example
        if not n_examples:
            raise own.no_examples().at(path=path)


def _read_line(line_format: LineFormat, has_records: bool) -> Callable[[Line], LineExample]:
    """Return what reads the lines of a file."""
    if has_records:
        return partial(read_record, read=line_format.read_record)
    return cast(Callable[[Line], LineExample], line_format.read)


def corpus_of(examples: Iterable[Example], words: WordIds) -> Corpus:
    """Return the corpus of examples that are at hand, at least one, with as many trees each.

    Raises DataError naming the example whose transitions or labels do not fit.
    """
    trees, labels, _ = zip(*examples, strict=True)
    sides = [sentence_columns(side, words) for side in zip(*trees, strict=True)]
    return Corpus(concatenate(*sides), np.array(labels, np.int64), len(sides))


def join(parts: Sequence[Examples]) -> Examples:
    """Return all examples, one part after another; at least one part."""
    import pyarrow as pa

    if len(parts) == 1:
        return parts[0]
    return Examples(
        concatenate(*(part.sentences for part in parts)),
        np.concatenate([part.n_sentences for part in parts]),
        np.concatenate([part.labels for part in parts]),
        pa.concat_arrays([part.names for part in parts]),
        np.concatenate([part.text_mask for part in parts]),
        np.concatenate([part.lines for part in parts]),
    )


def _trees(example: LineExample, limits: Limits) -> tuple[Tree, ...]:
    """Return the trees of an example. Raises DataError naming what is wrong with the first bad sentence."""
    trees = tuple(map(tree_of, example.sentences, itertools.cycle(example.fields)))
    limits.check_words(*(tree.tokens for tree in trees))
    return trees


@dataclass(slots=True)
class _Found:
    """Hold what is in n lines, in lists: an object for each line would be the garbage collector's to look after."""

    lines: list[int] = field(default_factory=list)  # (n,) their numbers
    sentences: list[Sentence] = field(default_factory=list)  # of all lines
    n_sentences: list[int] = field(default_factory=list)  # (n,)
    labels: list[int] = field(default_factory=list)  # (n,)
    names: list[str] = field(default_factory=list)  # (n,)

    def add(self, line: int, example: LineExample) -> None:
        """Take what is in a line."""
        self.lines.append(line)
        self.sentences.extend(example.sentences)
        self.n_sentences.append(len(example.sentences))
        self.labels.append(example.label)
        self.names.append(example.name)


def _columns(
    found: _Found,
    words: WordIds,
    limits: Limits,
) -> tuple[Examples, np.ndarray]:  # (n,) bool
    """Return the columns of the examples all of whose sentences are good, and which these are."""
    import pyarrow as pa

    sentences = found.sentences
    parses = [sentence for sentence in sentences if isinstance(sentence, str)]
    parsed = parse_chunk(pa.array(parses, pa.string()), words, limits.max_words)
    lists = found.n_sentences, found.labels, found.lines
    n_sentences, labels, lines = (np.array(values, np.int64) for values in lists)
    names = pa.array(found.names, pa.string())
    kept = np.ones(len(labels), dtype=bool)
    if len(parses) == len(sentences) and parsed.parse_mask.all():  # as nearly always
        text_mask = np.zeros(len(sentences), dtype=bool)
        return Examples(parsed.columns, n_sentences, labels, names, text_mask, lines), kept
    trees = [tree_of(sentence) for sentence in sentences if not isinstance(sentence, str)]
    text_mask = np.array([isinstance(sentence, Words) for sentence in sentences], dtype=bool)
    is_parse = np.array([isinstance(sentence, str) for sentence in sentences], dtype=bool)
    good = np.empty(len(sentences), dtype=bool)
    good[is_parse] = parsed.parse_mask
    good[~is_parse] = [tree.n_tokens <= limits.max_words for tree in trees]
    example_index = np.repeat(np.arange(len(labels)), n_sentences)
    kept[example_index[~good]] = False
    column_index = np.empty(len(sentences), dtype=np.int64)  # of a sentence, among good parses and all trees
    column_index[is_parse & good] = np.arange(parsed.parse_mask.sum())
    column_index[~is_parse] = parsed.parse_mask.sum() + np.arange(len(trees))
    columns = concatenate(parsed.columns, sentence_columns(trees, words))
    wanted = kept[example_index]
    columns, names = take(columns, column_index[wanted]), names.filter(pa.array(kept))
    n_sentences, labels, lines = n_sentences[kept], labels[kept], lines[kept]
    return Examples(columns, n_sentences, labels, names, text_mask[wanted], lines), kept
