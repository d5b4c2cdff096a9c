"""SNLI in its own format: pairs of sentences with binary parses, one JSON object a line.

The fields read are `gold_label`, `sentence1_binary_parse` (premise), `sentence2_binary_parse` (hypothesis)
and `pairID`; with a tokenizer, where there is no parse, the text in `sentence1` or `sentence2`. A corpus goes
from the file through an in-memory Arrow table, HF `datasets`' own form, into columns:

    vocabulary = Vocabulary.from_counts(token_counts(dataset := to_dataset(read_pairs(path))))
    columns = pair_columns(dataset, vocabulary)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from data_prep.columns import (
    NO_LABEL,
    PairColumns,
    SentenceColumns,
    check_columns,
    node_offsets,
    sentence_columns,
)
from data_prep.errors import DataError
from data_prep.files import Skipped, StrPath, parse_record, read_examples
from data_prep.records import PAIR, Tokenize, identifier, sentence_tree, text_field
from data_prep.trees import Tree
from data_prep.vocabulary import Vocabulary

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

LABELS = ("entailment", "neutral", "contradiction")
NO_GOLD_LABEL = "-"  # the annotators did not agree
UNLABELLED = NO_LABEL  # of a pair in columns and batches
_ARROW_UNLABELLED = -1  # of a pair in a dataset: what HF's ClassLabel takes for no label

_CHUNK = 10_000  # examples turned into Arrow at a time: the Python strings of no more than these are held


class PairExample(NamedTuple):
    """A premise, a hypothesis, and how the one bears on the other."""

    premise: Tree
    hypothesis: Tree
    label: str | None  # one of LABELS, or None
    pair_id: str  # "" where the file has none


def read_pairs(
    path: StrPath,  # .jsonl, .jsonl.gz, or the official .zip
    *,
    split: str | None = None,  # train, dev or test of the official .zip
    skip_bad: bool = False,  # count bad lines by reason instead of raising
    skipped: Skipped | None = None,  # counts what is left out
    require_label: bool = True,
    tokenize: Tokenize | None = None,  # reads sentences without a parse from their text
) -> Iterator[PairExample]:
    """Pairs of a file, read as they are asked for.

    Sentences read from their text have right-branching trees, which are to be replaced.

    Pairs labelled "-" are left out and counted; without require_label they are given, as are those with no
    gold_label, with the label None. Raises DataError naming line and field; see `files.read_examples`.
    """
    member = None if split is None else f"snli_1.0/snli_1.0_{split}.jsonl"
    skipped = Skipped() if skipped is None else skipped
    parse = partial(_parse_pair, require_label=require_label, skipped=skipped, tokenize=tokenize)
    return read_examples(path, parse, skip_bad=skip_bad, skipped=skipped, member=member)


def to_dataset(examples: Iterable[PairExample]) -> datasets.Dataset:
    """The examples as an in-memory dataset; nothing is written to a cache.

    Columns: {premise,hypothesis}_tokens, lists of strings; {premise,hypothesis}_transitions, lists of int8;
    label, a ClassLabel over LABELS with -1 = unlabelled; pair_id, a string.
    """
    import datasets
    import pyarrow as pa

    features = datasets.Features(
        {
            "premise_tokens": datasets.Sequence(datasets.Value("string")),
            "premise_transitions": datasets.Sequence(datasets.Value("int8")),
            "hypothesis_tokens": datasets.Sequence(datasets.Value("string")),
            "hypothesis_transitions": datasets.Sequence(datasets.Value("int8")),
            "label": datasets.ClassLabel(names=list(LABELS)),
            "pair_id": datasets.Value("string"),
        }
    )
    remaining = iter(examples)
    batches = []
    while chunk := list(islice(remaining, _CHUNK)):
        premises, hypotheses, _, pair_ids = zip(*chunk, strict=True)
        trees = [*_arrow_trees(premises), *_arrow_trees(hypotheses)]
        labels = _label_ids(chunk)
        labels[labels == UNLABELLED] = _ARROW_UNLABELLED
        arrays = [*trees, pa.array(labels), pa.array(pair_ids)]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=features.arrow_schema))
    table = pa.Table.from_batches(batches, schema=features.arrow_schema)
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features))


def token_counts(dataset: datasets.Dataset) -> Counter[str]:
    """How often each token occurs in the premises and hypotheses of a dataset made by `to_dataset`."""
    table = dataset.with_format("arrow")[:]
    counts: Counter[str] = Counter()
    for side in ("premise", "hypothesis"):
        tokens, _ = _list_column(table, f"{side}_tokens")
        values, numbers = tokens.value_counts().flatten()
        counts.update(dict(zip(values.to_pylist(), numbers.to_pylist(), strict=True)))
    return counts


def pair_columns(dataset: datasets.Dataset, vocabulary: Vocabulary) -> PairColumns:
    """Columns of a dataset with the columns of `to_dataset`, taken from its Arrow buffers.

    A label of -1 becomes UNLABELLED. Raises DataError naming column and example where transitions do not
    fit the tokens, and for a label outside of -1, 0, 1, 2.
    """
    table = dataset.with_format("arrow")[:]
    labels = table.column("label").to_numpy().astype(np.int64)
    strange = (labels < _ARROW_UNLABELLED) | (labels >= len(LABELS))
    if strange.any():
        example = int(np.argmax(strange))
        reason = f"got {labels[example]}, expected {_ARROW_UNLABELLED} to {len(LABELS) - 1}"
        raise DataError(reason, example=example, field="label")
    labels[labels == _ARROW_UNLABELLED] = UNLABELLED
    premises, hypotheses = (_sentences(table, side, vocabulary) for side in ("premise", "hypothesis"))
    return PairColumns(premises, hypotheses, labels)


def pair_columns_from_examples(examples: Iterable[PairExample], vocabulary: Vocabulary) -> PairColumns:
    """The same columns straight from the examples, without `datasets`."""
    examples = list(examples)
    return PairColumns(
        premises=sentence_columns((example.premise for example in examples), vocabulary),
        hypotheses=sentence_columns((example.hypothesis for example in examples), vocabulary),
        labels=_label_ids(examples),
    )


def _parse_pair(
    line: str, require_label: bool, skipped: Skipped, tokenize: Tokenize | None
) -> PairExample | None:
    record = parse_record(line)
    label = _gold_label(record, require_label)
    if label is None and require_label:
        skipped[f"gold_label {NO_GOLD_LABEL!r}"] += 1
        return None
    premise, hypothesis = (sentence_tree(record, name, tokenize) for name in PAIR)
    return PairExample(premise, hypothesis, label, identifier(record, "pairID"))


def _gold_label(record: dict[str, Any], require_label: bool) -> str | None:
    if not require_label and "gold_label" not in record:
        return None
    label = text_field(record, "gold_label")
    if label == NO_GOLD_LABEL:
        return None
    if label not in LABELS:
        raise DataError(f"got {label[:40]!r}, expected one of {', '.join(LABELS)} or -", field="gold_label")
    return label


def _label_ids(examples: Sequence[PairExample]) -> np.ndarray:
    """(n,) int64, UNLABELLED where there is none."""
    ids = {None: UNLABELLED} | {label: i for i, label in enumerate(LABELS)}
    return np.array([ids[example.label] for example in examples], dtype=np.int64)


def _arrow_trees(trees: Sequence[Tree]) -> tuple[pa.ListArray, pa.ListArray]:
    """Tokens and transitions, one list a tree."""
    import pyarrow as pa

    n_tokens = np.array([0] + [tree.n_tokens for tree in trees])
    n_nodes = np.array([0] + [len(tree.transitions) for tree in trees])
    tokens = pa.array([token for tree in trees for token in tree.tokens], pa.string())
    transitions = pa.array(np.concatenate([tree.transitions for tree in trees]), pa.int8())
    return (
        pa.ListArray.from_arrays(np.cumsum(n_tokens, dtype=np.int32), tokens),
        pa.ListArray.from_arrays(np.cumsum(n_nodes, dtype=np.int32), transitions),
    )


def _list_column(table: pa.Table, name: str) -> tuple[pa.Array, np.ndarray]:
    """A column of n lists: their values, one list after another, and where each begins, (n + 1,) int64."""
    lists = table.column(name).combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    values = lists.flatten()
    if lists.null_count or values.null_count:
        raise DataError("a null, expected lists of values", field=name)
    return values, offsets - offsets[0]


def _sentences(table: pa.Table, side: str, vocabulary: Vocabulary) -> SentenceColumns:
    tokens, token_offsets = _list_column(table, f"{side}_tokens")
    transitions, transition_offsets = _list_column(table, f"{side}_transitions")
    distinct = tokens.dictionary_encode()  # each word is looked up once
    columns = SentenceColumns(
        token_ids=vocabulary.encode(distinct.dictionary.to_pylist())[distinct.indices.to_numpy()],
        token_offsets=token_offsets,
        transitions=transitions.to_numpy().astype(np.int8),
        node_labels=None,
    )
    wrong = transition_offsets != node_offsets(columns)
    if wrong.any():
        example = int(np.argmax(wrong)) - 1
        n_transitions, n_tokens = np.diff(transition_offsets)[example], np.diff(token_offsets)[example]
        reason = f"got {n_transitions} transitions for {n_tokens} tokens"
        raise DataError(reason, example=example, field=side)
    try:
        check_columns(columns)
    except DataError as error:
        raise error.at(field=side) from None
    return columns
