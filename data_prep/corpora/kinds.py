"""The kinds of corpora: what one learns from, which files it has, what its labels are, and what reads a line of it.

docs/code.md says how to add one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from spinn_tensor.data_prep.corpora.formats import (
    DIGITS,
    NLI_LABELS,
    SST_BINARY_LABELS,
    SST_LABELS,
    LabelledFormat,
    LabelNames,
    LineFormat,
    ListOpsFormat,
    PairFields,
    PairFormat,
    SentenceFields,
    SstFormat,
    TreebankFormat,
    named_fields,
)
from spinn_tensor.data_prep.corpora.generated import GENERATORS
from spinn_tensor.data_prep.text import SentenceReader

if TYPE_CHECKING:
    from spinn_tensor.data_prep.corpora.config import DataConfig

SPLITS = ("train", "dev", "test")


class Kind(NamedTuple):
    """Describe a kind of corpus."""

    task: str  # what a model learns from it: "pair", "sentence" or "parse"
    files: Mapping[str, tuple[str, ...]]  # names that a split's file may have
    labels: Callable[[DataConfig], LabelNames]
    line_format: Callable[[DataConfig, LabelNames, SentenceReader], LineFormat]
    tokenizer: str = "penn"  # what makes words of texts like its sentences, of `token_rules.NAMED`
    folder: str = ""  # that the publisher's archive unpacks to; "" for files that stand alone


def _named(split: str, ending: str, start: str = "") -> tuple[str, ...]:
    """Return the names of a file that people call the split by."""
    names = ("dev", "validation", "valid", "val") if split == "dev" else (split,)
    return tuple(f"{start}{name}{ending}" for name in names)


def _pair_format(data: DataConfig, labels: LabelNames, reader: SentenceReader) -> LineFormat:
    return PairFormat(labels, named_fields(PairFields(), data.fields), reader=reader)


def _nli_labels(data: DataConfig) -> LabelNames:
    return LabelNames(list(NLI_LABELS))


def _own_labels(data: DataConfig) -> LabelNames:
    """Return the labels that are given, or have those of the training examples found."""
    return LabelNames(list(data.labels), grows=not data.labels)


KINDS = {
    "logic": Kind(
        "pair",
        {split: (file,) for split, file in GENERATORS["logic"].files.items()},
        _nli_labels,
        _pair_format,
    ),
    "snli": Kind(
        "pair",
        {split: (f"snli_1.0_{split}.jsonl",) for split in SPLITS},
        _nli_labels,
        _pair_format,
        folder="snli_1.0",
    ),
    "multinli": Kind(
        "pair",
        {
            "train": ("multinli_1.0_train.jsonl",),
            "dev": ("multinli_1.0_dev_matched.jsonl",),
            "mismatched": ("multinli_1.0_dev_mismatched.jsonl",),
        },
        _nli_labels,
        _pair_format,
        folder="multinli_1.0",
    ),
    "sentences": Kind(
        "sentence",
        {split: _named(split, ".jsonl") for split in SPLITS},
        _own_labels,
        lambda data, labels, reader: LabelledFormat(
            labels, named_fields(SentenceFields(), data.fields), reader=reader
        ),
    ),
    "pairs": Kind("pair", {split: _named(split, ".jsonl") for split in SPLITS}, _own_labels, _pair_format),
    "sst": Kind(
        "sentence",
        {split: (f"{split}.txt",) for split in SPLITS},
        lambda data: LabelNames(list(SST_BINARY_LABELS if data.binary else SST_LABELS)),
        lambda data, labels, reader: SstFormat(data.binary),
        folder="trees",
    ),
    "listops": Kind(
        "sentence",
        {
            split: (*_named(split, ".tsv"), f"{split}_d20s.tsv", *_named(split, ".tsv", "basic_"))
            for split in SPLITS
        },
        lambda data: LabelNames(list(DIGITS)),
        lambda data, labels, reader: ListOpsFormat(reader),
        tokenizer="whitespace",
    ),
    "trees": Kind(
        "parse",
        {split: (*_named(split, ".txt"), *_named(split, ".jsonl")) for split in SPLITS},
        lambda data: LabelNames([]),
        lambda data, labels, reader: TreebankFormat(reader),
    ),
}
