"""The Stanford Sentiment Treebank (Socher et al., EMNLP 2013): labelled binary trees, a sentiment on every node.

Five classes, or two: then "very" is dropped, neutral nodes have no label and neutral sentences are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from spinn_tensor.data_prep.columns import (
    NO_LABEL,
    Corpus,
    SentenceColumns,
    WordIds,
    lengths,
    node_offsets,
    ragged_arange,
    sentence_columns,
)
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped, StrPath
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits
from spinn_tensor.data_prep.reading import LineExample, Peeked, read_line_examples
from spinn_tensor.data_prep.tables.trace import NONE, trace_stack
from spinn_tensor.data_prep.trees import SHIFT, Tree, parse_labelled

LABELS = ("very negative", "negative", "neutral", "positive", "very positive")
BINARY_LABELS = ("negative", "positive")
_TO_BINARY = np.array([0, 0, NO_LABEL, 1, 1])


@dataclass
class SstFormat:
    """How the lines of a file are read; see `reading`."""

    binary: bool = False

    def peek(self, lines: Sequence[str]) -> Peeked | None:
        """Nothing: every node of a tree has a label, which `parse_labelled` reads."""
        return None

    def read(self, line: str, skipped: Skipped) -> LineExample | None:
        """The tree in a line; None for a neutral sentence where there are two classes. Raises DataError."""
        tree = parse_labelled(line, n_labels=len(LABELS))
        labels = tree.labels
        assert labels is not None, "labels of all nodes"
        if self.binary:
            labels = _TO_BINARY[labels]
        root = int(labels[-1])
        if root == NO_LABEL:
            skipped["a neutral sentence"] += 1
            return None
        return LineExample((tree._replace(labels=labels),), root)


def read_trees(
    path: StrPath,
    *,
    skip_bad: bool = False,
    skipped: Skipped | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[Tree]:
    """Trees of a file, plain or .gz, with labels 0 to 4; errors as in `files.read_examples`."""
    examples = read_line_examples(path, SstFormat(), skip_bad=skip_bad, skipped=skipped, limits=limits)
    return (example.trees[0] for example in examples)


def labelled_columns(trees: Iterable[Tree], vocabulary: WordIds) -> Corpus:
    """Columns of the trees, each labelled as its root; raises DataError naming an example without labels."""
    sentences = sentence_columns(trees, vocabulary)
    roots = node_offsets(sentences)[1:] - 1  # the last transition of a sentence pushes its root
    if sentences.node_labels is None:
        labels = np.full(roots.shape, NO_LABEL, dtype=np.int64)
    else:
        labels = sentences.node_labels[roots]
    if (labels == NO_LABEL).any():
        raise DataError("a tree without labels", example=int(np.argmax(labels == NO_LABEL)))
    return Corpus(sentences, labels)


def phrases(corpus: Corpus) -> Corpus:
    """Every labelled node of the trees as a sentence of its own, words among them, in the order of the transitions."""
    sentences = corpus.sentences
    assert sentences.node_labels is not None, "trees with labels"
    n_tokens = lengths(sentences)
    trace = trace_stack(sentences.transitions, n_tokens)
    shifts = np.flatnonzero(sentences.transitions == SHIFT)  # of each word
    # a state begins after what lies beneath it on the stack
    first_word = np.where(
        trace.below == NONE, sentences.token_offsets[trace.sentence], trace.shifted[trace.below]
    )
    nodes = np.flatnonzero(sentences.node_labels != NO_LABEL)
    starts = shifts[first_word[nodes]]  # the transitions of a node's tree are those from its first word on
    n_nodes = nodes + 1 - starts
    token_index = ragged_arange(first_word[nodes], (n_nodes + 1) // 2)
    node_index = ragged_arange(starts, n_nodes)
    columns = SentenceColumns(
        sentences.token_ids[token_index],
        np.concatenate(([0], np.cumsum((n_nodes + 1) // 2))),
        sentences.transitions[node_index],
        sentences.node_labels[node_index],
    )
    return Corpus(columns, sentences.node_labels[nodes])
