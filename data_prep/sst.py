"""The Stanford Sentiment Treebank: one labelled binary tree a line, a sentiment on every node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from data_prep.columns import NO_LABEL, LabelledColumns, node_offsets, sentence_columns
from data_prep.errors import DataError
from data_prep.files import Skipped, StrPath, read_examples
from data_prep.trees import Tree, parse_labelled
from data_prep.vocabulary import Vocabulary

LABELS = ("very negative", "negative", "neutral", "positive", "very positive")


def read_trees(path: StrPath, *, skip_bad: bool = False, skipped: Skipped | None = None) -> Iterator[Tree]:
    """Trees of a file, plain or .gz, with labels 0 to 4; errors as in `files.read_examples`."""
    parse = partial(parse_labelled, n_labels=len(LABELS))
    return read_examples(path, parse, skip_bad=skip_bad, skipped=skipped)


def labelled_columns(trees: Iterable[Tree], vocabulary: Vocabulary) -> LabelledColumns:
    """Columns of the trees, each labelled as its root; raises DataError naming an example without labels."""
    sentences = sentence_columns(trees, vocabulary)
    roots = node_offsets(sentences)[1:] - 1  # the last transition of a sentence pushes its root
    if sentences.node_labels is None:
        labels = np.full(roots.shape, NO_LABEL, dtype=np.int64)
    else:
        labels = sentences.node_labels[roots]
    if (labels == NO_LABEL).any():
        raise DataError("a tree without labels", example=int(np.argmax(labels == NO_LABEL)))
    return LabelledColumns(sentences, labels)
