"""What is in a line of each kind of corpus.

    PairFormat       two sentences and a label in a record: SNLI, MultiNLI and files in their schema
    SstFormat        a tree with a sentiment on every node: (3 (2 It) (4 works))
    ListOpsFormat    a value, a tab and a binary parse: 9<tab>( ( ( [MAX 2 ) 9 ) ] ); or fields Source and Target
    TreebankFormat   a tree and nothing else, in any of these forms, or two of a pair
    LabelledFormat   a sentence and a label in a record: sentences of one's own
    SentenceFormat   a sentence, as parse or text, of which a model is to say something

`read` looks at a line of text alone, `read_record` at a record, whatever it is from; binary parses are left as text.
`corpora.read` makes columns of those of many lines at once, and where one is no parse, or a method raises, names the
line. docs/code.md says how to add one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np

from spinn_tensor.data_prep.columns import NO_LABEL
from spinn_tensor.data_prep.corpora.records import (
    PAIR,
    SINGLE,
    identifier,
    is_missing,
    sentence_fields,
    sentence_in,
    sentence_in_field,
    sentence_names,
    text_field,
    text_or_integer,
)
from spinn_tensor.data_prep.errors import DataError, NotWanted
from spinn_tensor.data_prep.files import MissingCell, Record
from spinn_tensor.data_prep.text import TREES_ONLY, Sentence, SentenceReader
from spinn_tensor.data_prep.trees import Tree, parse_labelled

NLI_LABELS = ("entailment", "neutral", "contradiction")
# of none: the annotators did not agree, HF's datasets have none, MultiNLI's are withheld; and what pandas takes so
_PANDAS = ("NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "NULL", "null", "None", "NaN", "-NaN", "nan", "-nan")
NO_LABELS = ("-", "-1", "hidden", *_PANDAS)
SST_LABELS = ("very negative", "negative", "neutral", "positive", "very positive")
SST_BINARY_LABELS = ("negative", "positive")
DIGITS = tuple("0123456789")  # the labels of ListOps

_TO_BINARY = np.array([0, 0, NO_LABEL, 1, 1])
_SECOND = re.compile(r"[,\s]\w+=")  # PART= of another setting
_LABELLED_TREE = re.compile(r"\s*\(\d\s")
_LABEL = re.compile(r"\d\t")
_INTEGER = re.compile(r"(0|-?[1-9][0-9]*)\.0+")  # as pandas writes integers, some of which are missing


class LineExample(NamedTuple):
    """Hold what is in a line."""

    sentences: tuple[Sentence, ...]  # one, or two
    label: int = NO_LABEL
    name: str = ""  # the example's own, "" where it has none
    fields: tuple[str | None, ...] = (None,)  # that each sentence is from, for errors

    @classmethod
    def of_fields(
        cls, found: Iterable[tuple[Sentence, str]], label: int = NO_LABEL, name: str = ""
    ) -> LineExample:
        """Return the example of sentences that come with their fields."""
        sentences, fields = zip(*found, strict=True)
        return cls(sentences, label, name, fields)


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


class LineFormat:
    """Read the lines, or records, of a format: one of the two methods, or both."""

    reader: SentenceReader = TREES_ONLY

    @property
    def takes(self) -> dict[str, bool]:
        """Tell which lines there may be, as `open_lines` asks: those that a method reads, and parts of a Penn tree."""
        return {
            "takes_text": type(self).read is not LineFormat.read,
            "takes_records": type(self).read_record is not LineFormat.read_record,
            "joins_trees": self.reader.notation != "text",
        }

    def read(self, line: str) -> LineExample:
        """Return the example in a line of text. Raises NotWanted for what is none, DataError for a bad one."""
        raise NotImplementedError

    def read_record(self, record: Record) -> LineExample:
        """Return the example in a record, as `read` does."""
        raise NotImplementedError


class PairFields(NamedTuple):
    """Name the fields of a record."""

    premise: str = PAIR[0]  # its parse is in PREMISE_binary_parse, or in the field itself
    hypothesis: str = PAIR[1]
    label: str = "gold_label"
    pair_id: str = "pairID"


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
        if _SECOND.search(name):
            raise DataError(f"fields: got {setting!r}, expected blanks between PART=NAME and PART=NAME")
        if part not in fields._fields or not separator or not name:
            raise DataError(
                f"fields: got {setting!r}, expected {', '.join(fields._fields)} = the name of a field"
            )
        fields = fields._replace(**{part: name})
    if len(set(fields)) < len(fields):
        raise DataError(f"fields: got {', '.join(settings)}: two parts of a record in one field")
    return fields


@dataclass
class LabelNames:
    """Hold the labels of a corpus: those known beforehand, or all that come."""

    names: list[str] = field(default_factory=lambda: list(NLI_LABELS))
    grows: bool = False

    def __post_init__(self) -> None:
        self._are_found = self.grows  # also when all are known and it grows no more

    def read(self, record: Record, field: str, is_needed: bool = True) -> int:
        """Return the number of a record's label; of none NO_LABEL, unless it is needed.

        Blanks around it are none of it. `gold_label` stands for `label`, too, where there is no `gold_label`. If a
        label is needed, raises NotWanted where there is none, and DataError naming the field, of one that is none of
        the corpus's, too.
        """
        if field == SNLI_FIELDS.label and field not in record and OWN_FIELDS.label in record:
            field = OWN_FIELDS.label
        given = record.get(field)
        if isinstance(given, str) and (number := self._find(given)) is not None:
            return number
        if not is_needed:
            return NO_LABEL
        is_there = field not in record or not is_missing(given)
        label = text_or_integer(record, field).strip() if is_there else ""
        if label not in self.names and (integer := _INTEGER.fullmatch(label)):
            label = integer[1]
        if label and (label not in NO_LABELS or (label in self.names and not self.grows)):
            if label not in self.names:
                if not self.grows:
                    expected = ", ".join(map(repr, self.names))
                    raise DataError(f"got {label[:40]!r}, expected one of {expected} or '-'", field=field)
                self.names.append(label)
            return self.names.index(label)
        why = " (no label, unless --labels names it)" if label and self._are_found else ""
        said = given if isinstance(given, MissingCell) else label
        raise NotWanted(f"{field} {said!r}{why}")

    def _find(self, text: str) -> int | None:
        """Return the number of a label that is known by this text, or without the blanks around it; else None."""
        if text in self.names:
            return None if self.grows and text in NO_LABELS else self.names.index(text)
        bare = text.strip()
        found = (number for number, name in enumerate(self.names) if name.strip() == bare)
        return next(found, None)


@dataclass
class PairFormat(LineFormat):
    """Read pairs of SNLI's schema, or with fields and labels of one's own."""

    labels: LabelNames = field(default_factory=LabelNames)
    fields: PairFields = SNLI_FIELDS
    # leave out pairs without a gold label; else no label is looked at that is not known
    require_label: bool = True
    reader: SentenceReader = TREES_ONLY

    def __post_init__(self) -> None:
        # SNLI's `sentence1` is never a parse, whatever it looks like
        self._sentence = sentence_in if self.fields[:2] == PAIR else sentence_in_field

    def read_record(self, record: Record) -> LineExample:
        """Return the pair in a record. Raises NotWanted if it has no gold label and needs one, and DataError."""
        premise_name, hypothesis_name, label_name, pair_id = self.fields
        number = self.labels.read(record, label_name, self.require_label)
        premise, premise_field = self._sentence(record, premise_name, self.reader)
        hypothesis, hypothesis_field = self._sentence(record, hypothesis_name, self.reader)
        name = identifier(record, pair_id, "id")
        return LineExample((premise, hypothesis), number, name, (premise_field, hypothesis_field))


@dataclass
class LabelledFormat(LineFormat):
    """Read sentences of one's own with a label each; those without one are not wanted."""

    labels: LabelNames
    fields: SentenceFields = OWN_FIELDS
    reader: SentenceReader = TREES_ONLY

    def read_record(self, record: Record) -> LineExample:
        """Return the sentence in a record. Raises NotWanted if it has no label, and DataError."""
        text, label_name, sentence_id = self.fields
        number = self.labels.read(record, label_name)
        found = sentence_in_field(record, _text_field(record, text), self.reader)
        return LineExample.of_fields([found], number, identifier(record, sentence_id, "id"))


@dataclass
class SstFormat(LineFormat):
    """Read the Stanford Sentiment Treebank (Socher et al., EMNLP 2013): labelled binary trees.

    Five classes, or two: then "very" is dropped, neutral nodes have no label and neutral sentences are left out.
    """

    binary: bool = False

    def read(self, line: str) -> LineExample:
        """Return the tree in a line. Raises NotWanted if it is neutral where there are two classes, and DataError."""
        tree = parse_labelled(line, n_labels=len(SST_LABELS))
        labels = tree.labels
        assert labels is not None, "labels of all nodes"
        if self.binary:
            labels = _TO_BINARY[labels]
        root = int(labels[-1])
        if root == NO_LABEL:
            raise NotWanted("a neutral sentence")
        return LineExample((tree._replace(labels=labels),), root)


@dataclass
class ListOpsFormat(LineFormat):
    """Read ListOps: a value and the binary parse of an expression, or its words; any words will do."""

    reader: SentenceReader = TREES_ONLY

    def read(self, line: str) -> LineExample:
        """Return the expression in a line. Raises DataError."""
        label, tab, parse = line.partition("\t")
        if not tab:
            raise DataError("no tab, expected a label, a tab and a binary parse")
        return self._example(label, parse, "label")

    def read_record(self, record: Record) -> LineExample:
        """Return the expression in a record, as Long Range Arena names its fields. Raises DataError."""
        return self._example(
            text_or_integer(record, "Target"), text_field(record, "Source"), "Target", "Source"
        )

    def _example(
        self, label: str, expression: str, label_field: str, field: str | None = None
    ) -> LineExample:
        if (label := label.strip()) not in DIGITS:
            raise DataError(f"got {label[:40]!r}, expected 0 to 9", field=label_field)
        return LineExample((self.reader.read(expression, field),), int(label), fields=(field,))


@dataclass
class TreebankFormat(LineFormat):
    """Read sentences with their trees and nothing else: what a parser learns from, in whatever form the trees come.

    Of records those of SNLI's schema, or one of its sentences; two sentences of a line are one example. Labels are
    dropped, and a sentence that comes twice is two sentences.
    """

    reader: SentenceReader = TREES_ONLY

    def read(self, line: str) -> LineExample:
        """Return the sentence, or the two sentences, in a line. Raises DataError."""
        if _LABELLED_TREE.match(line):
            return LineExample((parse_labelled(line, n_labels=10)._replace(labels=None),))
        if label := _LABEL.match(line):
            line = line[label.end() :]
        return LineExample((self.reader.read(line),))

    def read_record(self, record: Record) -> LineExample:
        """Return the sentence, or the two sentences, in a record. Raises DataError."""
        names = sentence_names(record)
        if not names:
            expected = "sentence1_binary_parse, sentence_binary_parse or binary_parse"
            raise DataError(f"missing field, expected {expected}", there=tuple(record))
        there = [name for name in names if any(field in record for field in sentence_fields(name))]
        return LineExample.of_fields(sentence_in(record, name, self.reader) for name in there)


@dataclass
class SentenceFormat(LineFormat):
    """Read a sentence a line: a record's, or a binary parse or text itself."""

    # of records: that with the parse or text, with or without its ending `_binary_parse`
    field: str | None = None
    reader: SentenceReader = TREES_ONLY
    sentence_id: str = OWN_FIELDS.sentence_id  # of records: that with its name; else "pairID" or "id"
    is_listops: bool = False  # lines may begin with a label and a tab, which are dropped

    def read(self, line: str) -> LineExample:
        """Return the sentence in a line. Raises DataError."""
        if self.is_listops and (label := _LABEL.match(line)):
            line = line[label.end() :]
        return LineExample((self.reader.read(line),))

    def read_record(self, record: Record) -> LineExample:
        """Return the sentence in a record. Raises DataError."""
        name = identifier(record, self.sentence_id, "pairID", "id")
        field = _text_field(record, self.field or SINGLE[0])
        find = sentence_in if field == SINGLE[0] else sentence_in_field
        return LineExample.of_fields([find(record, field, self.reader)], name=name)


def _text_field(record: Record, field: str) -> str:
    """Return the field with the sentence; of one's own it is often "text", where it has the usual name otherwise."""
    is_own = field == SINGLE[0] and not any(name in record for name in sentence_fields(field))
    return "text" if is_own and "text" in record else field
