"""Corpora from their files straight to columns, a block of lines at a time.

A format says what it sees at once in many lines (`peek`): the strings of binary parses, which `parse_chunk` turns into
columns without a loop over sentences, labels and names. Lines that it does not see through, and parses that are none,
are read on their own (`read`), which is where errors get their reason. So every line is read as `read` alone would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from spinn_tensor.data_prep.columns import SentenceColumns, WordIds, concatenate, sentence_columns, take
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped, StrPath, next_lines, open_text, read_counted_examples
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits
from spinn_tensor.data_prep.parse_chunks import parse_chunk
from spinn_tensor.data_prep.trees import Tree

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 2048  # lines read at a time


class LineExample(NamedTuple):
    """What is in a line."""

    trees: tuple[Tree, ...]  # one sentence or two
    label: int  # or NO_LABEL
    name: str = ""  # the example's own, "" where it has none


class Peeked(NamedTuple):
    """What is seen at once in some lines of a block: k of them, each with as many sentences as there are sides."""

    lines: np.ndarray  # (k,) int64, rising, numbers in the block, from 0
    parses: tuple[pa.Array, ...]  # of each side, (k,) string
    labels: np.ndarray  # (k,) int64
    names: pa.Array  # (k,) string
    left_out: np.ndarray  # (l,) int64, other lines, of which no example is wanted
    reason: str = ""  # why


class LineFormat(Protocol):
    """How lines are read."""

    def peek(self, lines: Sequence[str]) -> Peeked | None:
        """What is seen in lines of which none is blank; None if nothing is."""

    def read(self, line: str, skipped: Skipped) -> LineExample | None:
        """The example; None if it is not wanted, which is counted. Raises DataError."""


class Examples(NamedTuple):
    """n examples."""

    sentences: SentenceColumns  # those of the first example, of the second, ...
    n_sentences: np.ndarray  # (n,) int64, of each example
    labels: np.ndarray  # (n,) int64
    names: pa.Array  # (n,) string


def read_line_examples(
    path: StrPath,
    line_format: LineFormat,
    *,
    member: str | None = None,  # file inside a .zip
    skip_bad: bool = False,  # count bad lines by reason instead of raising
    skipped: Skipped | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[LineExample]:
    """Read the examples of a file one by one, as they are asked for; errors as in `files.read_examples`."""
    read = partial(_read_line, line_format, limits=limits)
    return read_counted_examples(path, read, skip_bad=skip_bad, skipped=skipped, member=member, limits=limits)


def read_examples_as_columns(
    path: StrPath,
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
    """All examples of a file; errors as in `files.read_examples`."""
    parts = [_no_examples()]
    n_examples, first_line = 0, 1
    with (
        (Skipped() if skipped is None else skipped).of_file(path) as own,
        open_text(path, member=member, skipped=own if skip_bad else None, limits=limits) as lines,
    ):
        # never more lines than examples that are wanted still: what comes after them is not looked at
        while block := next_lines(lines, min(BLOCK, limit - n_examples) if limit else BLOCK):
            try:
                part = _read_block(block, first_line, line_format, words, skip_bad, own, path, limits)
            except DataError as error:
                raise error.at(path=path) from None
            parts.append(part)
            n_examples += len(part.labels)
            first_line += len(block)
            if on_lines is not None:
                on_lines(len(block))
            if limit and n_examples >= limit:
                break
        if not n_examples and not may_be_empty:
            raise DataError(f"no examples ({own})", path=path)
    return join(parts)


def join(parts: Sequence[Examples]) -> Examples:
    """All examples, one part after another; at least one part."""
    import pyarrow as pa

    if len(parts) == 1:
        return parts[0]
    return Examples(
        concatenate(*(part.sentences for part in parts)),
        np.concatenate([part.n_sentences for part in parts]),
        np.concatenate([part.labels for part in parts]),
        pa.concat_arrays([part.names for part in parts]),
    )


def _read_block(
    block: Sequence[str],
    first_line: int,
    line_format: LineFormat,
    words: WordIds,
    skip_bad: bool,
    skipped: Skipped,
    path: StrPath,
    limits: Limits,
) -> Examples:
    filled = np.array([i for i, line in enumerate(block) if line.strip()], dtype=np.int64)
    peeked = line_format.peek([block[i] for i in filled]) if len(filled) else None
    quick, done = _no_examples(), np.zeros(0, dtype=np.int64)
    quick_lines = done
    if peeked is not None:
        quick, seen = _parse_peeked(peeked, words, limits)
        quick_lines = filled[peeked.lines[seen]]
        done = np.concatenate((quick_lines, filled[peeked.left_out]))
        if len(peeked.left_out):
            skipped[peeked.reason] += len(peeked.left_out)
    slow_lines, slow = [], []
    for i in np.setdiff1d(filled, done).tolist():
        try:
            example = _read_line(line_format, block[i], skipped, limits=limits)
        except DataError as error:
            if not skip_bad:
                raise error.at(line=first_line + i) from None
            skipped.count_error(error.at(path=path, line=first_line + i))
            continue
        if example is not None:
            slow_lines.append(i)
            slow.append(example)
    if not slow:
        return quick
    return _in_order(join([quick, _as_columns(slow, words)]), np.concatenate((quick_lines, slow_lines)))


def _read_line(line_format: LineFormat, line: str, skipped: Skipped, *, limits: Limits) -> LineExample | None:
    example = line_format.read(line, skipped)
    if example is not None:
        limits.check_words(*(tree.tokens for tree in example.trees))
    return example


def _parse_peeked(peeked: Peeked, words: WordIds, limits: Limits) -> tuple[Examples, np.ndarray]:
    """Examples of the lines all of whose parses are parses, and which of the k these are, (m,) int64."""
    import pyarrow as pa

    parsed = [parse_chunk(parses, words, limits.max_words) for parses in peeked.parses]
    good = np.logical_and.reduce([chunk.parse_mask for chunk in parsed])
    sides = [
        take(chunk.columns, np.flatnonzero(good[chunk.parse_mask]))
        if good.sum() < len(chunk.columns.token_offsets) - 1
        else chunk.columns
        for chunk in parsed
    ]
    n_examples, n_sides = int(good.sum()), len(sides)
    sentences = sides[0]
    if n_sides > 1:
        order = np.arange(n_sides * n_examples).reshape(n_sides, n_examples).T.reshape(-1)
        sentences = take(concatenate(*sides), order)
    seen = np.flatnonzero(good)
    names = peeked.names.take(pa.array(seen))
    return Examples(sentences, np.full(n_examples, n_sides), peeked.labels[seen], names), seen


def _as_columns(examples: Sequence[LineExample], words: WordIds) -> Examples:
    import pyarrow as pa

    return Examples(
        sentence_columns((tree for example in examples for tree in example.trees), words),
        np.array([len(example.trees) for example in examples], dtype=np.int64),
        np.array([example.label for example in examples], dtype=np.int64),
        pa.array([example.name for example in examples], pa.string()),
    )


def _no_examples() -> Examples:
    return _as_columns([], _NoWords())


class _NoWords:
    def encode(self, tokens: Iterable[str], /) -> np.ndarray:
        return np.zeros(0, dtype=np.int32)


def _in_order(
    examples: Examples,  # n of them
    lines: np.ndarray,  # (n,) int64, of each
) -> Examples:
    import pyarrow as pa

    order = np.argsort(lines)
    example = np.repeat(np.arange(len(order)), examples.n_sentences)  # of each sentence
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return Examples(
        take(examples.sentences, np.argsort(rank[example], kind="stable")),
        examples.n_sentences[order],
        examples.labels[order],
        examples.names.take(pa.array(order)),
    )
