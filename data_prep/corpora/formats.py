"""What is in a line of each kind of corpus.

    PairFormat       two sentences and a label, a JSON object a line: SNLI, MultiNLI and files in their schema
    SstFormat        a tree with a sentiment on every node: (3 (2 It) (4 works))
    ListOpsFormat    a value, a tab and a binary parse: 9<tab>( ( ( [MAX 2 ) 9 ) ] )
    TreebankFormat   a tree and nothing else, in any of these forms, or two of a pair
    LabelledFormat   a sentence and a label, a JSON object a line: sentences of one's own
    SentenceFormat   a sentence, as parse or text, of which a model is to say something

`read` looks at a line alone and leaves binary parses as text; `corpora.read` makes columns of those of many lines at
once, and where one is no parse, or `read` raises, names the line. A new kind is a class with `read`, and an entry of
`kinds.KINDS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from spinn_tensor.data_prep.columns import NO_LABEL
from spinn_tensor.data_prep.corpora.records import (
    PAIR,
    SINGLE,
    identifier,
    read_record,
    sentence_fields,
    sentence_in,
    sentence_in_field,
    sentence_names,
    text_or_integer,
)
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.text import PARSE, TREES_ONLY, Sentence, SentenceReader
from spinn_tensor.data_prep.trees import Tree, parse_labelled

NLI_LABELS = ("entailment", "neutral", "contradiction")
NO_GOLD_LABEL = "-"  # the annotators did not agree
NO_OWN_LABELS = (NO_GOLD_LABEL, "-1")  # of files of one's own: HF's datasets have -1 where there is none
SST_LABELS = ("very negative", "negative", "neutral", "positive", "very positive")
SST_BINARY_LABELS = ("negative", "positive")
DIGITS = tuple("0123456789")  # the labels of ListOps

_TO_BINARY = np.array([0, 0, NO_LABEL, 1, 1])
_LABELLED_TREE = re.compile(r"\s*\(\d\s")
_LABEL = re.compile(r"\d\t")


class LineExample(NamedTuple):
    """Hold what is in a line."""

    sentences: tuple[Sentence, ...]  # one, or two
    label: int = NO_LABEL
    name: str = ""  # the example's own, "" where it has none
    fields: tuple[str | None, ...] = (None,)  # that each sentence is from, for errors


class Example(NamedTuple):
    """Hold what is in a line, its parses read."""

    trees: tuple[Tree, ...]  # one, or two
    label: int = NO_LABEL
    name: str = ""

    @property
    def premise(self) -> Tree:
        """Return the first of a pair."""
        return self.trees[0]

    @property
    def hypothesis(self) -> Tree:
        """Return the second of a pair."""
        return self.trees[1]


class LineFormat(Protocol):
    """Read the lines of a format."""

    def read(self, line: str, skipped: Skipped) -> LineExample | None:
        """Return the example; None if it is not wanted, which is counted. Raises DataError."""


class PairFields(NamedTuple):
    """Name the fields of a record."""

    premise: str = PAIR[0]  # its parse is in PREMISE_binary_parse, or in the field itself
    hypothesis: str = PAIR[1]
    label: str = "gold_label"
    pair_id: str = "pairID"

    @property
    def are_snli(self) -> bool:
        """Tell whether `sentence1` is never a parse, as in SNLI, whatever it looks like."""
        return (self.premise, self.hypothesis) == PAIR


SNLI_FIELDS = PairFields()


class SentenceFields(NamedTuple):
    """Name the fields of a record with one sentence."""

    text: str = SINGLE[0]  # its parse is in TEXT_binary_parse, or in the field itself; else in "text"
    label: str = "label"
    sentence_id: str = "sentenceID"


OWN_FIELDS = SentenceFields()
Fields = TypeVar("Fields", PairFields, SentenceFields)


def named_fields(fields: Fields, settings: Iterable[str]) -> Fields:
    """Give parts other names, from "premise=text_a", "label=relation", ...; raises DataError."""
    for setting in settings:
        part, separator, name = setting.partition("=")
        if part not in fields._fields or not separator or not name:
            raise DataError(f"got {setting!r}, expected {', '.join(fields._fields)} = the name of a field")
        fields = fields._replace(**{part: name})
    if len(set(fields)) < len(fields):
        raise DataError(f"got {', '.join(settings)}: two parts of a record in one field")
    return fields


@dataclass
class LabelNames:
    """Hold the labels of a corpus: those known beforehand, or all that come."""

    names: list[str] = field(default_factory=lambda: list(NLI_LABELS))
    grows: bool = False

    def read(self, record: dict[str, Any], field: str, require: bool) -> int:
        """Return the number of a record's label, or NO_LABEL. Raises DataError where one is required and missing."""
        if not require and field not in record:
            return NO_LABEL
        label = text_or_integer(record, field)
        is_nli = not self.grows and tuple(self.names) == NLI_LABELS
        no_labels = (NO_GOLD_LABEL,) if is_nli else NO_OWN_LABELS
        return NO_LABEL if label in no_labels else self.number(label, field)

    def number(self, label: str, name: str) -> int:
        """Return a label's number. Raises DataError naming the field for one that is none of the corpus's."""
        if label in self.names:
            return self.names.index(label)
        if not self.grows:
            raise DataError(f"got {label[:40]!r}, expected one of {', '.join(self.names)} or -", field=name)
        self.names.append(label)
        return len(self.names) - 1


@dataclass
class PairFormat:
    """Reads pairs of SNLI's schema, or with fields and labels of one's own."""

    labels: LabelNames = field(default_factory=LabelNames)
    fields: PairFields = SNLI_FIELDS
    require_label: bool = True  # leave out pairs without a gold label
    reader: SentenceReader = TREES_ONLY

    def __post_init__(self) -> None:
        self._sentence = sentence_in if self.fields.are_snli else sentence_in_field

    def read(self, line: str, skipped: Skipped) -> LineExample | None:
        """Return the pair in a line; None if it has no gold label and needs one. Raises DataError."""
        return read_record(line, self._example, skipped)

    def _example(self, record: dict[str, Any], skipped: Skipped) -> LineExample | None:
        premise_name, hypothesis_name, label_name, pair_id = self.fields
        number = self.labels.read(record, label_name, self.require_label)
        if number == NO_LABEL and self.require_label:
            skipped[f"{label_name} {NO_GOLD_LABEL!r}"] += 1
            return None
        premise, premise_field = self._sentence(record, premise_name, self.reader)
        hypothesis, hypothesis_field = self._sentence(record, hypothesis_name, self.reader)
        name = text_or_integer(record, pair_id) if pair_id in record else ""
        return LineExample((premise, hypothesis), number, name, (premise_field, hypothesis_field))


@dataclass
class LabelledFormat:
    """Read sentences of one's own with a label each."""

    labels: LabelNames
    fields: SentenceFields = OWN_FIELDS
    require_label: bool = True  # leave out sentences without one
    reader: SentenceReader = TREES_ONLY

    def read(self, line: str, skipped: Skipped) -> LineExample | None:
        """Return the sentence in a line; None if it has no label and needs one. Raises DataError."""
        return read_record(line, self._example, skipped)

    def _example(self, record: dict[str, Any], skipped: Skipped) -> LineExample | None:
        _, label_name, sentence_id = self.fields
        number = self.labels.read(record, label_name, self.require_label)
        if number == NO_LABEL and self.require_label:
            skipped[f"{label_name} {NO_GOLD_LABEL!r}"] += 1
            return None
        sentence, place = sentence_in_field(record, _text_field(record, self.fields.text), self.reader)
        return LineExample((sentence,), number, identifier(record, sentence_id, "id"), (place,))


@dataclass
class SstFormat:
    """Reads the Stanford Sentiment Treebank (Socher et al., EMNLP 2013): labelled binary trees.

    Five classes, or two: then "very" is dropped, neutral nodes have no label and neutral sentences are left out.
    """

    binary: bool = False

    def read(self, line: str, skipped: Skipped) -> LineExample | None:
        """Return the tree in a line; None for a neutral sentence where there are two classes. Raises DataError."""
        tree = parse_labelled(line, n_labels=len(SST_LABELS))
        labels = tree.labels
        assert labels is not None, "labels of all nodes"
        if self.binary:
            labels = _TO_BINARY[labels]
        root = int(labels[-1])
        if root == NO_LABEL:
            skipped["a neutral sentence"] += 1
            return None
        return LineExample((tree._replace(labels=labels),), root)


class ListOpsFormat:
    """Reads ListOps: a value and the binary parse of an expression, with any words in it."""

    def read(self, line: str, skipped: Skipped) -> LineExample:
        """Return the expression in a line. Raises DataError."""
        label, tab, parse = line.partition("\t")
        if not tab:
            raise DataError("no tab, expected a label, a tab and a binary parse")
        if label not in DIGITS:
            raise DataError(f"got {label[:40]!r}, expected 0 to 9", field="label")
        return LineExample((parse,), int(label), fields=(PARSE,))


@dataclass
class TreebankFormat:
    """Reads sentences with their trees and nothing else: what a parser learns from, in whatever form the trees come.

    Of records those of SNLI's schema, or with one sentence; two sentences of a line are one example. Labels are
    dropped, and a sentence that comes twice is two sentences.
    """

    is_jsonl: bool
    reader: SentenceReader = TREES_ONLY

    def read(self, line: str, skipped: Skipped) -> LineExample:
        """Return the sentence, or the two sentences, in a line. Raises DataError."""
        if self.is_jsonl:
            return read_record(line, self._example, skipped)
        if _LABELLED_TREE.match(line):
            return LineExample((parse_labelled(line, n_labels=10)._replace(labels=None),))
        if label := _LABEL.match(line):
            return LineExample((line[label.end() :],), fields=(PARSE,))
        return LineExample((self.reader.read(line),))

    def _example(self, record: dict[str, Any], skipped: Skipped) -> LineExample:
        names = sentence_names(record)
        if not names:
            expected = "sentence1_binary_parse, sentence_binary_parse or binary_parse"
            raise DataError(f"missing field, expected {expected}")
        found = [sentence_in(record, name, self.reader) for name in names]
        return LineExample(
            tuple(sentence for sentence, _ in found), fields=tuple(place for _, place in found)
        )


@dataclass
class SentenceFormat:
    """Reads a sentence a line: a record's, named by sentenceID or pairID, or a binary parse or text itself."""

    is_jsonl: bool
    field: str | None = (
        None  # of records: that with the parse or text, with or without its ending `_binary_parse`
    )
    reader: SentenceReader = TREES_ONLY

    def read(self, line: str, skipped: Skipped) -> LineExample:
        """Return the sentence in a line. Raises DataError."""
        if self.is_jsonl:
            return read_record(line, self._example, skipped)
        return LineExample((self.reader.read(line),))

    def _example(self, record: dict[str, Any], skipped: Skipped) -> LineExample:
        name = identifier(record, "sentenceID", "pairID")
        field = _text_field(record, self.field or SINGLE[0])
        if field == SINGLE[0]:
            sentence, place = sentence_in(record, field, self.reader)
        else:
            sentence, place = sentence_in_field(record, field, self.reader)
        return LineExample((sentence,), name=name, fields=(place,))


def _text_field(record: dict[str, Any], field: str) -> str:
    """Return the field with the sentence; of one's own it is often "text", where it has the usual name otherwise."""
    is_missing = field == SINGLE[0] and not any(name in record for name in sentence_fields(field))
    return "text" if is_missing and "text" in record else field
