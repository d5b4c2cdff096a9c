"""Pairs of sentences with a label, one JSON object a line: SNLI, MultiNLI, and any file in their schema.

The fields read are `gold_label`, `sentence1_binary_parse` (premise), `sentence2_binary_parse` (hypothesis)
and `pairID`; with a tokenizer, where there is no parse, the text in `sentence1` or `sentence2`. Other files
have other names for them (`PairFields`), and labels of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spinn_tensor.data_prep.columns import NO_LABEL, Corpus, WordIds, sentence_columns, take
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped, StrPath, parse_record
from spinn_tensor.data_prep.json_lines import JsonFields, read_json_lines
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits
from spinn_tensor.data_prep.reading import Examples, LineExample, Peeked, read_line_examples
from spinn_tensor.data_prep.records import PAIR, Tokenize, identifier, sentence_tree, text_field
from spinn_tensor.data_prep.sentence_lines import record_tree, sentence_places
from spinn_tensor.data_prep.treebank import BEGINS_PARSE
from spinn_tensor.data_prep.trees import Tree

if TYPE_CHECKING:
    import pyarrow as pa

LABELS = ("entailment", "neutral", "contradiction")
NO_GOLD_LABEL = "-"  # the annotators did not agree
NO_OWN_LABELS = (NO_GOLD_LABEL, "-1")  # of files of one's own: HF's datasets have -1 where there is none
UNLABELLED = NO_LABEL  # of a pair in columns and batches
_UNREAD = -1  # instead of a label's number: to be read from the line


class PairExample(NamedTuple):
    """A premise, a hypothesis, and how the one bears on the other."""

    premise: Tree
    hypothesis: Tree
    label: str | None  # None where there is none
    pair_id: str  # "" where the file has none


class PairFields(NamedTuple):
    """What the fields of a record are called."""

    premise: str = PAIR[0]  # its parse is in PREMISE_binary_parse, or in the field itself
    hypothesis: str = PAIR[1]
    label: str = "gold_label"
    pair_id: str = "pairID"

    @property
    def are_snli(self) -> bool:
        """Whether `sentence1` is never a parse, as in SNLI, whatever it looks like."""
        return (self.premise, self.hypothesis) == PAIR

    @classmethod
    def named(cls, settings: Iterable[str]) -> PairFields:
        """From "premise=text_a", "label=relation", ...; raises DataError."""
        fields = cls()
        for setting in settings:
            part, separator, name = setting.partition("=")
            if part not in cls._fields or not separator or not name:
                raise DataError(f"got {setting!r}, expected {', '.join(cls._fields)} = the name of a field")
            fields = fields._replace(**{part: name})
        if len(set(fields)) < len(fields):
            raise DataError(f"got {', '.join(settings)}: two parts of a pair in one field")
        return fields


SNLI_FIELDS = PairFields()


@dataclass
class LabelNames:
    """The labels of a corpus: those known beforehand, or all that come."""

    names: list[str] = field(default_factory=lambda: list(LABELS))
    grows: bool = False

    @property
    def are_snli(self) -> bool:
        return tuple(self.names) == LABELS

    def number(self, label: str, name: str) -> int:
        """Raises DataError naming the field for a label that is none of the corpus's."""
        if label in self.names:
            return self.names.index(label)
        if not self.grows:
            raise DataError(f"got {label[:40]!r}, expected one of {', '.join(self.names)} or -", field=name)
        self.names.append(label)
        return len(self.names) - 1


@dataclass
class PairFormat:
    """How the lines of a file of pairs are read; see `reading`."""

    labels: LabelNames = field(default_factory=LabelNames)
    fields: PairFields = SNLI_FIELDS
    require_label: bool = True  # leave out pairs without a gold label
    tokenize: Tokenize | None = None  # reads sentences without a parse from their text

    def read(self, line: str, skipped: Skipped) -> LineExample | None:
        """The pair in a line; None if it has no gold label and needs one, which is counted. Raises DataError."""
        record = parse_record(line)
        label = self._gold_label(record)
        if label is None and self.require_label:
            skipped[self._left_out] += 1
            return None
        number = UNLABELLED if label is None else self.labels.number(label, self.fields.label)
        trees = tuple(self.tree(record, name) for name in (self.fields.premise, self.fields.hypothesis))
        return LineExample(trees, number, identifier(record, self.fields.pair_id))

    def peek(self, lines: Sequence[str]) -> Peeked | None:
        """The pairs that have a parse of both sentences, by Arrow."""
        sides = [self._places(name) for name in (self.fields.premise, self.fields.hypothesis)]
        wanted = [self.fields.label, self.fields.pair_id, *sides[0], *sides[1]]
        if len(set(wanted)) < len(wanted):
            return None
        found = read_json_lines(lines, wanted, integers=(self.fields.label, self.fields.pair_id))
        if found is None:
            return None
        labels, is_left_out = self._label_numbers(found)
        parses = [self._parses(found, places) for places in sides]
        names = found.texts[self.fields.pair_id].fill_null("")
        seen = ~(found.unsure_mask | is_left_out | (labels == _UNREAD))
        for column in parses:
            seen &= column.is_valid().to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(seen)
        return Peeked(
            rows,
            (parses[0].take(_index(rows)), parses[1].take(_index(rows))),
            labels[rows],
            names.take(_index(rows)),
            np.flatnonzero(is_left_out & ~found.unsure_mask),
            self._left_out,
        )

    @property
    def _no_labels(self) -> tuple[str, ...]:
        return (NO_GOLD_LABEL,) if self.labels.are_snli else NO_OWN_LABELS

    @property
    def _left_out(self) -> str:
        return f"{self.fields.label} {NO_GOLD_LABEL!r}"

    def _gold_label(self, record: dict[str, Any]) -> str | None:
        name = self.fields.label
        if not self.require_label and name not in record:
            return None
        value = record.get(name)
        is_number = isinstance(value, int) and not isinstance(value, bool)
        label = str(value) if is_number else text_field(record, name)
        return None if label in self._no_labels else label

    def tree(self, record: dict[str, Any], name: str) -> Tree:
        """The tree of the sentence that the record has under this name. Raises DataError."""
        read = sentence_tree if self.fields.are_snli else record_tree
        return read(record, name, self.tokenize)

    def _label_numbers(self, found: JsonFields) -> tuple[np.ndarray, np.ndarray]:
        """(n,) int64, _UNREAD where the line has to be looked at, and a mask of those without a gold label."""
        column = found.texts[self.fields.label].dictionary_encode()
        distinct = column.dictionary.to_pylist()
        numbers = np.full(len(distinct) + 1, _UNREAD, dtype=np.int64)  # the last for null
        for i, label in enumerate(distinct):
            if label in self._no_labels:
                numbers[i] = UNLABELLED
            elif label in self.labels.names or self.labels.grows:
                numbers[i] = self.labels.number(label, self.fields.label)
        if not self.require_label:
            numbers[-1] = UNLABELLED
        labels = numbers[column.indices.fill_null(len(distinct)).to_numpy()]
        return labels, (labels == UNLABELLED) & self.require_label

    def _places(self, name: str) -> tuple[str, ...]:
        """Fields that may hold the parse of a sentence, the first place first."""
        places = sentence_places(name)
        return places[:1] if self.fields.are_snli else places

    def _parses(self, found: JsonFields, places: Sequence[str]) -> pa.Array:
        """(n,) string, null where the sentence has to be read from its line."""
        import pyarrow.compute as pc

        if len(places) == 1:
            return found.texts[places[0]]
        *parses, other = (found.texts[place] for place in places)
        looks_right = pc.starts_with(other, BEGINS_PARSE)
        return pc.coalesce(*parses, pc.if_else(looks_right, other, None))


def read_pairs(
    path: StrPath,  # .jsonl, .jsonl.gz, or with a member .zip
    line_format: PairFormat | None = None,
    *,
    member: str | None = None,  # file inside a .zip
    skip_bad: bool = False,  # count bad lines by reason instead of raising
    skipped: Skipped | None = None,  # counts what is left out
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[PairExample]:
    """Pairs of a file one by one, read as they are asked for.

    Sentences read from their text have right-branching trees, which are to be replaced.

    Pairs labelled "-" are left out and counted, unless the format does not require labels: these and those with no
    field for it then have the label None. Raises DataError naming line and field; see `files.read_examples`.
    """
    line_format = PairFormat() if line_format is None else line_format
    examples = read_line_examples(
        path, line_format, member=member, skip_bad=skip_bad, skipped=skipped, limits=limits
    )
    for example in examples:
        label = None if example.label == UNLABELLED else line_format.labels.names[example.label]
        premise, hypothesis = example.trees
        yield PairExample(premise, hypothesis, label, example.name)


def pair_columns(examples: Examples) -> Corpus:
    """Columns of what `reading` gave: every second sentence is a hypothesis."""
    by_side = np.arange(2 * len(examples.labels)).reshape(-1, 2).T.reshape(-1)
    return Corpus(take(examples.sentences, by_side), examples.labels, n_sides=2)


def pair_columns_from_examples(
    examples: Iterable[PairExample], vocabulary: WordIds, labels: Sequence[str] = LABELS
) -> Corpus:
    """Columns of pairs that are at hand."""
    examples = list(examples)
    ids = {None: UNLABELLED} | {label: i for i, label in enumerate(labels)}
    return Corpus.of_pairs(
        premises=sentence_columns((example.premise for example in examples), vocabulary),
        hypotheses=sentence_columns((example.hypothesis for example in examples), vocabulary),
        labels=np.array([ids[example.label] for example in examples], dtype=np.int64),
    )


def _index(rows: np.ndarray) -> pa.Array:
    import pyarrow as pa

    return pa.array(rows, pa.int64())
