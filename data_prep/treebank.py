"""Sentences with their trees and nothing else: what a parser learns from, in whatever form the trees come.

    *.jsonl, *.jsonl.gz     the fields sentence1_binary_parse and sentence2_binary_parse (SNLI: two sentences a
                            line, labelled or not), or sentence_binary_parse, or binary_parse (see `records`)
    any other text          ( ( The church ) ( is old ) )                   a binary parse a line
                            (3 (2 (2 The) (2 church)) (3 (2 is) (1 old)))   or a labelled tree (SST)
                            9<tab>( ( ( [MAX 2 ) 9 ) ] )                    or a labelled parse (ListOps)

Labels are dropped. A sentence that comes twice is two sentences. With a tokenizer, text that has no parse is read as
well: the fields sentence1 and sentence2, or sentence, and lines that are no parses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from spinn_tensor.data_prep.columns import NO_LABEL, Corpus, WordIds, n_sentences, sentence_columns
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped, StrPath, is_jsonl, parse_record
from spinn_tensor.data_prep.json_lines import read_json_lines
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits
from spinn_tensor.data_prep.reading import LineExample, Peeked, read_line_examples
from spinn_tensor.data_prep.records import PAIR, PARSE, WITHOUT_PARSE, Tokenize, sentence_names, sentence_tree
from spinn_tensor.data_prep.trees import Tree, parse_binary, parse_labelled, right_branching

BEGINS_PARSE = "( "
_PARSE_WITH_BRACKETS = re.compile(r"\s*\(\s")
_LABELLED_TREE = re.compile(r"\s*\(\d\s")
_LABEL = re.compile(r"\d\t")


@dataclass
class TreebankFormat:
    """How the lines of a file are read; see `reading`. Two sentences of a line are one example."""

    is_jsonl: bool
    tokenize: Tokenize | None = None  # reads sentences without a parse from their text

    def peek(self, lines: Sequence[str]) -> Peeked | None:
        """The lines that are parses, or the records with a parse of both sentences of a pair."""
        return self._peek_pairs(lines) if self.is_jsonl else self._peek_parses(lines)

    def read(self, line: str, skipped: Skipped) -> LineExample:
        """The sentence, or the two sentences, in a line. Raises DataError."""
        parse = _parse_record if self.is_jsonl else _parse_line
        return LineExample(parse(line, self.tokenize), NO_LABEL)

    def _peek_parses(self, lines: Sequence[str]) -> Peeked:
        seen = [i for i, line in enumerate(lines) if line.startswith(BEGINS_PARSE)]
        return self._peeked(seen, [[lines[i] for i in seen]])

    def _peek_pairs(self, lines: Sequence[str]) -> Peeked | None:
        found = read_json_lines(lines, [f"{name}_{PARSE}" for name in PAIR])
        if found is None:
            return None
        sides = list(found.texts.values())
        seen = ~found.unsure_mask
        for side in sides:
            seen &= side.is_valid().to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(seen)
        return self._peeked(rows, [side.take(rows) for side in sides])

    def _peeked(self, rows: Sequence[int] | np.ndarray, sides: Sequence[Any]) -> Peeked:
        import pyarrow as pa

        return Peeked(
            np.asarray(rows, dtype=np.int64),
            tuple(pa.array(side, pa.string()) for side in sides),
            np.full(len(rows), NO_LABEL),
            pa.array([""] * len(rows), pa.string()),
            np.zeros(0, dtype=np.int64),
        )


def read_treebank(
    path: StrPath,  # plain or .gz
    *,
    skip_bad: bool = False,  # count bad lines by reason instead of raising
    skipped: Skipped | None = None,
    tokenize: Tokenize | None = None,  # reads sentences without a parse from their text
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[Tree]:
    """Trees of a file, one or two a line; errors as in `files.read_examples`.

    Sentences read from their text have right-branching trees, which are to be replaced.
    """
    line_format = TreebankFormat(is_jsonl(path), tokenize)
    examples = read_line_examples(path, line_format, skip_bad=skip_bad, skipped=skipped, limits=limits)
    return chain.from_iterable(example.trees for example in examples)


def treebank_columns(trees: Iterable[Tree], vocabulary: WordIds) -> Corpus:
    """Columns of the trees, without labels."""
    sentences = sentence_columns((tree._replace(labels=None) for tree in trees), vocabulary)
    return Corpus(sentences, np.full(n_sentences(sentences), NO_LABEL, dtype=np.int64))


def parse_or_tokenize(text: str, tokenize: Tokenize | None) -> Tree:
    """The tree of a binary parse; with a tokenizer, text that does not begin like one, with "( ", is words.

    Raises DataError.
    """
    has_brackets = _PARSE_WITH_BRACKETS.match(text) is not None
    if tokenize is not None and not has_brackets:
        return right_branching(tokenize(text))
    try:
        return parse_binary(text)
    except DataError as error:
        if has_brackets:
            raise
        raise DataError(f"{error.reason}; {WITHOUT_PARSE}", token=error.token) from None


def _parse_record(line: str, tokenize: Tokenize | None) -> tuple[Tree, ...]:
    record = parse_record(line)
    names = sentence_names(record)
    if not names:
        expected = "sentence1_binary_parse, sentence_binary_parse or binary_parse"
        raise DataError(f"missing field, expected {expected}")
    return tuple(sentence_tree(record, name, tokenize) for name in names)


def _parse_line(line: str, tokenize: Tokenize | None) -> tuple[Tree, ...]:
    if _LABELLED_TREE.match(line):
        return (parse_labelled(line, n_labels=10)._replace(labels=None),)
    if label := _LABEL.match(line):
        return (parse_binary(line[label.end() :]),)
    return (parse_or_tokenize(line, tokenize),)
