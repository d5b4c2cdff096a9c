"""Corpora as columns: all sentences one after another in a few arrays, of which a batch is an indexing.

Sentence s of n has N_s tokens and 2 N_s - 1 transitions. With token_offsets the running sum of the N_s, its
tokens lie in

    [token_offsets[s], token_offsets[s + 1])

and its transitions in [2 token_offsets[s] - s, 2 token_offsets[s + 1] - (s + 1)): no second row of offsets is
needed. M is the number of tokens of all sentences.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np

from spinn_tensor.data_prep.display import in_short
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.segments import ragged_arange
from spinn_tensor.data_prep.tables.trace import trace_stack
from spinn_tensor.data_prep.trees import SHIFT, Tree, check_all_transitions, check_lengths, check_transitions

NO_LABEL = -100  # of a node; what torch's cross entropy leaves out
SIDES = {1: ("sentence",), 2: ("premise", "hypothesis")}  # what the sentences of an example are called


class WordIds(Protocol):
    """Say what numbers words: a `Vocabulary`, or a `WordList`."""

    def encode(self, tokens: Iterable[str], /) -> np.ndarray:
        """Number the tokens, (number of tokens,) int32."""


@in_short
class SentenceColumns(NamedTuple):
    """Hold n sentences of M tokens in all."""

    token_ids: np.ndarray  # (M,) int32
    token_offsets: np.ndarray  # (n + 1,) int64
    transitions: np.ndarray  # (2M - n,) int8
    node_labels: np.ndarray | None  # (2M - n,) int64, of the node each pushes, or NO_LABEL


@in_short
class Corpus(NamedTuple):
    """Hold n examples, of one sentence or of two, with a label each.

    Of pairs the sentences are all n premises, then all n hypotheses.
    """

    sentences: SentenceColumns  # n_sides * n sentences, side after side
    labels: np.ndarray  # (n,) int64, NO_LABEL = unlabelled
    n_sides: int = 1  # sentences of an example: 1, or 2 for pairs

    @classmethod
    def of_pairs(cls, premises: SentenceColumns, hypotheses: SentenceColumns, labels: np.ndarray) -> Corpus:
        """Return the corpus of n pairs, from n premises and n hypotheses; raises DataError for unequal numbers."""
        n_rows = n_sentences(premises), n_sentences(hypotheses), len(labels)
        if len(set(n_rows)) > 1:
            raise DataError("got {} premises, {} hypotheses and {} labels".format(*n_rows))
        return cls(concatenate(premises, hypotheses), labels, n_sides=2)

    @property
    def sides(self) -> list[SentenceColumns]:
        """Split the sentences by side, n each: all, or premises and hypotheses."""
        rows = np.arange(len(self.labels))
        if self.n_sides == 1:
            return [self.sentences]
        return [take(self.sentences, rows + side * len(rows)) for side in range(self.n_sides)]

    @property
    def lengths_key(self) -> np.ndarray:
        """Return the length to batch by, that of an example's longest sentence: (n,) int64."""
        return lengths(self.sentences).reshape(self.n_sides, -1).max(0)

    @property
    def n_tokens(self) -> np.ndarray:
        """Count the tokens of all sentences of each example, (n,) int64."""
        return lengths(self.sentences).reshape(self.n_sides, -1).sum(0)


def sentence_columns(trees: Iterable[Tree], vocabulary: WordIds) -> SentenceColumns:
    """Make columns of the trees; raises DataError naming an example whose transitions or labels do not fit."""
    tokens: list[str] = []
    n_tokens = [0]
    transitions = [np.zeros(0, dtype=np.int8)]
    node_labels = [np.zeros(0, dtype=np.int64)]
    labelled = False
    for example, tree in enumerate(trees):
        if not isinstance(tree, Tree):
            what = f"got {type(tree).__name__}, expected a Tree, as parse_binary and its like make"
            raise DataError(what, example=example)
        try:
            check_transitions(tree.transitions, tree.n_tokens)
        except DataError as error:
            raise error.at(example=example) from None
        if tree.labels is not None and tree.labels.shape != tree.transitions.shape:
            got, expected = tree.labels.shape, tree.transitions.shape
            raise DataError(f"got labels of shape {got}, expected {expected}", example=example)
        tokens.extend(tree.tokens)
        n_tokens.append(tree.n_tokens)
        transitions.append(tree.transitions)
        node_labels.append(_labels_of(tree.transitions, tree.labels))
        labelled = labelled or tree.labels is not None
    return SentenceColumns(
        token_ids=vocabulary.encode(tokens),
        token_offsets=np.cumsum(n_tokens, dtype=np.int64),
        transitions=np.concatenate(transitions, dtype=np.int8, casting="unsafe"),
        node_labels=np.concatenate(node_labels, dtype=np.int64) if labelled else None,
    )


def n_sentences(columns: SentenceColumns) -> int:
    """Count the sentences."""
    return len(columns.token_offsets) - 1


def lengths(columns: SentenceColumns) -> np.ndarray:
    """Count the tokens of each sentence, (n,) int64."""
    return np.diff(columns.token_offsets)


def checked_lengths(columns: SentenceColumns) -> np.ndarray:
    """Return `lengths`; raises DataError where they do not add up to the tokens, and for a sentence without any."""
    n_tokens = lengths(columns)
    if len(columns.token_ids) != n_tokens.sum():
        raise DataError(f"got {len(columns.token_ids)} tokens, expected {n_tokens.sum()}")
    check_lengths(n_tokens)
    return n_tokens


def node_offsets(columns: SentenceColumns) -> np.ndarray:
    """Return where the transitions of each sentence begin and, last, where they all end, (n + 1,) int64."""
    return 2 * columns.token_offsets - np.arange(len(columns.token_offsets))


def check_columns(columns: SentenceColumns) -> None:
    """Check all sentences at once; raises DataError naming the first one that is not a tree."""
    check_all_transitions(columns.transitions, checked_lengths(columns))


def take(columns: SentenceColumns, rows: np.ndarray) -> SentenceColumns:
    """Return the sentences rows (m,), integers in [0, n), in that order, with repeats; raises IndexError otherwise."""
    rows = _numbers(rows)
    if rows.size and (rows.min() < 0 or rows.max() >= n_sentences(columns)):
        raise IndexError(f"rows from {rows.min()} to {rows.max()}, expected 0 to {n_sentences(columns) - 1}")
    starts = columns.token_offsets[rows]  # (m,)
    n_tokens = columns.token_offsets[rows + 1] - starts  # (m,)
    token_index = ragged_arange(starts, n_tokens)
    node_index = ragged_arange(2 * starts - rows, 2 * n_tokens - 1)  # `node_offsets` of these alone
    return SentenceColumns(
        token_ids=columns.token_ids[token_index],
        token_offsets=np.concatenate([[0], np.cumsum(n_tokens)]),
        transitions=columns.transitions[node_index],
        node_labels=None if columns.node_labels is None else columns.node_labels[node_index],
    )


def put_transitions(
    columns: SentenceColumns,
    rows: np.ndarray,  # (m,) int64, different ones
    transitions: np.ndarray,  # of these sentences, one after another
) -> SentenceColumns:
    """Put some of the sentences under other trees."""
    nodes = node_offsets(columns)
    places = ragged_arange(nodes[rows], nodes[rows + 1] - nodes[rows])
    changed = columns.transitions.copy()
    changed[places] = transitions
    return columns._replace(transitions=changed)


def renumber(
    columns: SentenceColumns,
    new_ids: np.ndarray,  # (V,) integers, the new number of each word
) -> SentenceColumns:
    """Give the words of the same sentences other numbers."""
    return columns._replace(token_ids=new_ids.astype(np.int32)[columns.token_ids])


def number_distinct(corpus: Corpus) -> np.ndarray:  # (n,) int64
    """Number the examples of which the words of all sentences differ; those of the same words have the same number."""
    ids, offsets, n_examples = corpus.sentences.token_ids, corpus.sentences.token_offsets, len(corpus.labels)
    words = [ids[start:end].tobytes() for start, end in pairwise(offsets.tolist())]
    numbers: dict[tuple[bytes, ...], int] = {}
    examples = (tuple(words[example::n_examples]) for example in range(n_examples))
    return np.fromiter(
        (numbers.setdefault(example, len(numbers)) for example in examples), np.int64, n_examples
    )


def concatenate(*parts: SentenceColumns) -> SentenceColumns:
    """Join the sentences of the first part, then those of the next, and so forth; at least one part."""
    node_labels = None
    if any(part.node_labels is not None for part in parts):
        node_labels = np.concatenate([_labels_of(part.transitions, part.node_labels) for part in parts])
    ends = np.cumsum([0, *(part.token_offsets[-1] for part in parts)])
    offsets = [part.token_offsets[1:] + end for part, end in zip(parts, ends, strict=False)]
    return SentenceColumns(
        token_ids=np.concatenate([part.token_ids for part in parts]),
        token_offsets=np.concatenate([parts[0].token_offsets[:1], *offsets]),
        transitions=np.concatenate([part.transitions for part in parts]),
        node_labels=node_labels,
    )


def select(corpus: Corpus, rows: np.ndarray) -> Corpus:
    """Return the examples rows (m,) of a corpus, as `take` does for sentences."""
    starts = len(corpus.labels) * np.arange(corpus.n_sides)
    rows = _numbers(rows)
    of_sides = (rows + starts[:, None]).reshape(-1)
    return Corpus(take(corpus.sentences, of_sides), corpus.labels[rows], corpus.n_sides)


def phrases(corpus: Corpus) -> Corpus:
    """Return every labelled node of the trees as a sentence of its own, words among them, in the transitions' order."""
    sentences = corpus.sentences
    assert sentences.node_labels is not None, "trees with labels"
    n_tokens = lengths(sentences)
    trace = trace_stack(sentences.transitions, n_tokens)
    shifts = np.flatnonzero(sentences.transitions == SHIFT)  # of each word
    nodes = np.flatnonzero(sentences.node_labels != NO_LABEL)
    first_word = trace.first_words(nodes)
    starts = shifts[first_word]  # the transitions of a node's tree are those from its first word on
    n_nodes = nodes + 1 - starts
    token_index = ragged_arange(first_word, (n_nodes + 1) // 2)
    node_index = ragged_arange(starts, n_nodes)
    columns = SentenceColumns(
        sentences.token_ids[token_index],
        np.concatenate(([0], np.cumsum((n_nodes + 1) // 2))),
        sentences.transitions[node_index],
        sentences.node_labels[node_index],
    )
    return Corpus(columns, sentences.node_labels[nodes])


def _numbers(rows: np.ndarray) -> np.ndarray:  # int64
    rows = np.asarray(rows)
    if rows.size and rows.dtype.kind not in "iu":  # a mask's False and True would be rows 0 and 1
        raise IndexError(
            f"rows: got {rows.dtype}, expected integers; of a mask np.flatnonzero(mask) gives them"
        )
    return rows.astype(np.int64, copy=False)


def _labels_of(transitions: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    return np.full(transitions.shape, NO_LABEL, dtype=np.int64) if labels is None else labels
