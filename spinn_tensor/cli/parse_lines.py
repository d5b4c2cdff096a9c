"""The sentences of `spinn parse`, a block of lines at a time, the trees over them, and what is written of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from spinn_tensor.answers import Parsed, as_written, those_found, under_trees
from spinn_tensor.cli.report import json_line
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep import files
from spinn_tensor.data_prep.branching import with_branching
from spinn_tensor.data_prep.columns import sentence_columns
from spinn_tensor.data_prep.corpora.records import (
    sentence_fields,
    sentence_in,
    sentence_in_field,
    sentence_names,
    text_field,
)
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import BLANK, BadLine, Skipped, StrPath, parse_record
from spinn_tensor.data_prep.limits import Limits
from spinn_tensor.data_prep.penn import Continued
from spinn_tensor.data_prep.record_files import open_lines
from spinn_tensor.data_prep.stream import line_blocks
from spinn_tensor.data_prep.text import Sentence, SentenceReader, Words, tree_of
from spinn_tensor.data_prep.tokenizer import Offsets
from spinn_tensor.data_prep.tree_json import tree_object
from spinn_tensor.data_prep.tree_view import drawn
from spinn_tensor.data_prep.trees import Tree
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.inference import predict_beams, predict_parses
from spinn_tensor.model.classifiers import Checkpoint

# of each format what a line without a sentence becomes, and the ending of the field of records that has the tree
EMPTY = {"binary": "", "penn": "", "json": "null", "draw": ""}
FIELDS = {"binary": "binary_parse", "penn": "parse", "json": "tree"}
FORMATS = (*EMPTY, "svg")


class Given(NamedTuple):
    """Hold a sentence as it was given."""

    tree: Tree  # right-branching where there was none
    text: str = ""  # that the tokens are of; "": they were given


Composed = tuple[Given, Parsed | list[Parsed]]  # a sentence, and its tree, or its likeliest ones
RANKED = "trees"  # the ending of the field of records that has several


class Line(NamedTuple):
    """Hold a line of the input, or a sentence given as an argument."""

    sentences: tuple[Given, ...] = ()  # none, one or more
    fields: tuple[str, ...] = ()  # of the record that they come from, or should have come from
    record: dict[str, Any] | None = None  # None for text


@dataclass(frozen=True)
class Sentences:
    """Read sentences, of text lines and of records. Every method raises DataError naming the field."""

    reader: SentenceReader  # without a tokenizer: trees are to be kept
    limits: Limits
    field: str | None = None  # of records: that with the sentence

    def of_text(self, text: str) -> Given:
        """Return the sentence of a line."""
        text = text.rstrip("\r\n")
        return self._given(self.reader.read(text), text, None)

    def names(self, record: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of a record's sentences, as those of the fields that their trees go to begin."""
        if self.field is None:
            return sentence_names(record)
        return (self.field.removesuffix("_binary_parse").removesuffix("_parse"),)

    def of_record(self, record: dict[str, Any]) -> tuple[Given, ...]:
        """Return the sentences of a record: their texts, or, where there are none or trees are kept, their trees."""
        names = self.names(record)
        if not names:
            expected = "sentence1 and sentence2, or sentence"
            raise DataError(f"missing field, expected {expected}", there=tuple(record))
        return tuple(self._of_field(record, name) for name in names)

    def _of_field(self, record: dict[str, Any], name: str) -> Given:
        place = self.field or name
        if self.reader.tokenize is not None and place in record and not place.endswith("parse"):
            text = text_field(record, place)
            read = self.reader.words if self.field is None else self.reader.read
            return self._given(read(text, place), text, place)
        if not any(field in record for field in (place, *sentence_fields(name))):
            raise DataError("missing field", field=place, there=tuple(record))
        if self.field is None:
            sentence, place = sentence_in(record, name, self.reader)
        else:
            sentence, place = sentence_in_field(record, self.field, self.reader)
        return self._given(sentence, "", place)

    def _given(self, sentence: Sentence, text: str, field: str | None) -> Given:
        tree = tree_of(sentence, field)
        self.limits.check_words(tree.tokens)
        return Given(tree, text if isinstance(sentence, Words) else "")


@dataclass
class LineFile:
    """Read the lines of a file, and count those without a sentence."""

    path: StrPath
    sentences: Sentences
    on_error: str  # "raise", "skip", or "empty"
    takes_records: bool
    skipped: Skipped = field(default_factory=Skipped)
    _unread: Skipped = field(default_factory=Skipped)  # which another thread may count
    _has_records: bool = False

    def blocks(self) -> Iterator[list[Line]]:
        """Yield the lines; with "skip" but those with a sentence.

        Raises DataError naming the first bad line, when those before have been given, and if no line has a sentence.
        """
        number, n_sentences = 0, 0
        for block in line_blocks(self.path, self._open):
            found: list[Line] = []
            bad = None
            for text in block:
                number += 1
                try:
                    line = self._line(text)
                except DataError as error:
                    bad = error.at(path=self.path, line=number)
                    if self.on_error == "raise":
                        break
                    self.skipped.count_error(bad)
                    line, bad = self._without_sentence(text), None
                if line is not None and (line.sentences or self.on_error != "skip"):
                    found.append(line)
            n_sentences += sum(len(line.sentences) for line in found)
            yield found
            if bad is not None:
                raise bad
        self.skipped.update(self._unread)
        if not n_sentences:
            raise self.skipped.no_examples().at(path=self.path)

    @contextmanager
    def _open(self) -> Iterator[Iterator[files.Line]]:
        unread = None if self.on_error == "raise" else self._unread
        with open_lines(
            self.path,
            skipped=unread,
            limits=self.sentences.limits,
            takes_records=self.takes_records,
            joins_trees=self.sentences.reader.notation != "text",
        ) as opened:
            self._has_records = opened.has_records
            if self.sentences.field is not None and not self._has_records:
                reason = "--field goes with a jsonl --input, or another of records"
                raise ConfigError(f"{reason}; {self.path} is read as text")
            yield opened.lines

    def _line(self, text: files.Line) -> Line | None:
        """Return what is in a line; None for one that went to the tree of a line before it."""
        if isinstance(text, Continued):
            return None
        if isinstance(text, str) and not text.strip():
            if not isinstance(text, BadLine):  # which is counted
                self.skipped[BLANK] += 1
            return Line()
        if isinstance(text, str) and not self._has_records:
            return Line((self.sentences.of_text(text),))
        record = parse_record(text) if isinstance(text, str) else text
        return Line(self.sentences.of_record(record), self.sentences.names(record), record)

    def _without_sentence(self, text: files.Line) -> Line:
        """Return a bad line: of records with their fields, if it is one."""
        if isinstance(text, str) and not self._has_records:
            return Line()
        try:
            record = parse_record(text) if isinstance(text, str) else text
        except DataError:
            return Line()
        return Line((), self.sentences.names(record), record)


@dataclass
class TreeParser:
    """Put sentences under trees: a model's, those of a branching, or those that were given."""

    model: Checkpoint | None
    branching: str  # where there is no model: one of BRANCHINGS, or "none"
    advance: Callable[[int], object]  # told of the sentences just parsed
    k: int | None  # trees of a sentence; None: the one that is composed by
    n_sentences: int = 0

    def __call__(self, lines: list[Line]) -> list[tuple[Line, list[Composed]]]:
        """Return the lines, each with its sentences under their trees."""
        given = [sentence for line in lines for sentence in line.sentences]
        parsed = iter(zip(given, self._parsed([sentence.tree for sentence in given]), strict=True))
        self.n_sentences += len(given)
        return [(line, [next(parsed) for _ in line.sentences]) for line in lines]

    def _parsed(self, trees: list[Tree]) -> Sequence[Parsed | list[Parsed]]:
        if self.model is None and self.branching == "none":
            return list(map(Parsed, trees))
        if self.model is None:  # other random trees for every block
            columns = sentence_columns(trees, Vocabulary.build([]))
            made = with_branching(columns, self.branching, self.n_sentences)
            return under_trees(trees, columns, False, made.transitions, None)
        columns = sentence_columns(trees, self.model.vocabulary)
        encoder, under = self.model.model.encoder, partial(under_trees, trees, columns, False)
        if self.k is None:
            return under(*predict_parses(encoder, columns, self.advance))
        *found, sums = predict_beams(encoder, columns, self.k, self.advance)
        return those_found(map(under, *found), sums)


def written(
    line: Line,
    composed: list[Composed],  # its sentences
    form: str,  # one of EMPTY
    offsets_in: Callable[[str], Offsets],  # of the tokens of a text
) -> str:
    """Return the line of the output, with its end."""
    values = [_value(*sentence, form, offsets_in) for sentence in composed]
    if line.record is not None:
        made = dict.fromkeys(line.fields) | dict(zip(line.fields, values, strict=False))
        ending = RANKED if any(isinstance(found, list) for _, found in composed) else FIELDS[form]
        return json_line({**line.record, **{f"{name}_{ending}": made[name] for name in made}})
    if not values:
        return EMPTY[form] + "\n"
    if isinstance(values[0], list):
        return _lines(values[0], form)
    return json_line(values[0]) if form == "json" else values[0] + "\n"


def _lines(
    ranked: list[dict[str, Any]],  # trees of a sentence, the best first
    form: str,
) -> str:
    if form == "json":
        shared = ("text", "tokens", "offsets")
        own = [{name: tree[name] for name in tree if name not in shared} for tree in ranked]
        return json_line({**{name: ranked[0][name] for name in shared}, RANKED: own})
    return "".join(
        f"{rank}\t{math.exp(tree['log_probability']):.6f}\t{tree['tree']}\n"
        for rank, tree in enumerate(ranked, start=1)
    )


def _value(
    given: Given, parsed: Parsed | list[Parsed], form: str, offsets_in: Callable[[str], Offsets]
) -> Any:
    if isinstance(parsed, list) and form == "json":
        return [_value(given, one, form, offsets_in) for one in parsed]
    if isinstance(parsed, list):
        return [scored._asdict() for scored in as_written(parsed, form)]
    if form == "draw":
        return "\n".join([*drawn(parsed.tree), ""])
    if form == "json":
        return tree_object(parsed.tree, given.text, offsets_in, parsed.log_probability)
    return as_written(parsed, form)
