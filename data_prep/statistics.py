"""What a corpus is like, counted on its columns: lengths, trees, classes, repetitions, overlap of splits.

**Depth and height.** A word lies as deep as there are brackets around it, the whole sentence included (`brackets`).
With the words of all sentences counted through from 0, that is a running sum,

    depth[w] = number of brackets that start at w or before it, less those that end there or before,

and a tree is as high as its deepest word lies: 0 for one word, N-1 for a chain. The height is also the number of steps
that a forest schedule takes at least.

**Branching.** A node over three words or more is right-branching where its left child is a single word, left-branching
where its right child is one. All nodes of `( a ( b ( c d ) ) )` over three words or more are right-branching.

**Keys.** Sentences are told apart by 64-bit numbers of their words and places, whatever their trees,

    key = sum over i of mix(token_ids[i] + i * c)    modulo 2^64,

so that comparing splits is sorting numbers. Different sentences get the same key by chance alone: among a million, with
a probability of 3e-8. Words that the vocabulary lacks have one id, so sentences that differ in nothing else are equal.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from spinn_tensor.data_prep.columns import SIDES, Corpus, SentenceColumns, lengths, node_offsets
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.segments import mixed_bits, places, starts
from spinn_tensor.data_prep.tables.trace import trace_stack
from spinn_tensor.data_prep.vocabulary import UNKNOWN_ID

_BLOCK = 1 << 16  # sentences whose stacks are followed at a time: the trace takes some 150 bytes a transition
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_WIDTHS = (1, 2, 5)  # of a histogram's bins, times a power of ten


class Distribution(NamedTuple):
    """Count how often each whole number comes."""

    counts: np.ndarray  # (largest + 1,) int64

    @property
    def total(self) -> int:
        """Count the numbers."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        return float(self.counts @ np.arange(len(self.counts)) / self.counts.sum())

    @property
    def largest(self) -> int:
        return len(self.counts) - 1

    def percentile(self, percent: int) -> int:
        """Return the smallest number that so many percent of the numbers do not exceed; 50 gives the (lower) median."""
        return int(np.searchsorted(100 * np.cumsum(self.counts), percent * self.total))


class SideStatistics(NamedTuple):
    """Describe the sentences of one side of a split: all its premises, say."""

    lengths: Distribution  # words of a sentence
    heights: Distribution  # of the trees
    average_depth: float  # mean over the sentences of the mean depth of their words, as of `ParseScores`
    n_wide: int  # nodes over three words or more
    n_right: int  # of these, right-branching
    n_left: int  # of these, left-branching


class SplitStatistics(NamedTuple):
    """Describe one split of a corpus."""

    n_examples: int
    n_sentences: int
    n_distinct_sentences: int
    word_counts: np.ndarray  # (V,) int64, how often each word comes
    label_counts: np.ndarray  # (number of classes,) int64
    n_unlabelled: int
    node_label_counts: np.ndarray | None  # (number of classes,) int64, of all nodes, where nodes have labels
    n_repeated: int  # examples that are equal to one before them
    n_ambiguous: int  # examples of which an equal one has another label
    sides: dict[str, SideStatistics]  # premises and hypotheses, or sentences

    @property
    def n_tokens(self) -> int:
        return int(self.word_counts.sum())

    @property
    def n_unknown(self) -> int:
        """Count the tokens that are not in the vocabulary."""
        return int(self.word_counts[UNKNOWN_ID])

    @property
    def n_distinct_words(self) -> int:
        """Count the words of the vocabulary that come at all."""
        return int(np.count_nonzero(self.word_counts[UNKNOWN_ID + 1 :]))


class Overlap(NamedTuple):
    """Count what of a split is in another one as well."""

    n_examples: int
    n_sentences: int  # of both sides, of a pair corpus in whichever side of the other


class Coverage(NamedTuple):
    """Count for how much of a split there are word vectors."""

    n_words: int  # distinct words, of the vocabulary
    n_words_found: int
    n_tokens: int  # unknown ones included
    n_tokens_found: int


def bin_edges(
    counts: np.ndarray,  # (largest + 1,) integers, of which one at least is not 0
    most: int,  # bins
    start: int,  # the smallest value there can be
) -> np.ndarray:  # (bins + 1,) int64
    """Choose the edges of a histogram: bin k has the values from edges[k] to edges[k + 1] - 1.

    All bins are 1, 2 or 5 times a power of ten wide, the smallest that gives at most so many, but for the last one,
    which has the largest hundredth of the values wherever these lie.
    """
    whole = Distribution(counts)
    usual = max(whole.percentile(99), start)
    width = next(
        width * 10**power
        for power in range(20)
        for width in _WIDTHS
        if (usual - start) // (width * 10**power) < most
    )
    edges = np.arange(start, usual + width + 1, width)
    edges[-1] = max(edges[-1], whole.largest + 1)
    return edges


def binned(
    counts: np.ndarray,  # (largest + 1,) integers
    edges: np.ndarray,  # (bins + 1,) int64
) -> np.ndarray:  # (bins,) integers
    """Count the values in each bin; those below the first edge or from the last one on are in none."""
    before = np.concatenate([[0], np.cumsum(counts)])
    return np.diff(before[np.minimum(edges, len(counts))])


def split_statistics(
    corpus: Corpus,
    n_labels: int,  # classes; 0 where there are none
    vocabulary_size: int,  # V
) -> SplitStatistics:
    """Compute all figures of a split. Raises DataError if it is empty or naming the sentence that has no tree."""
    n_examples = len(corpus.labels)
    if not n_examples:
        raise DataError("a split without examples")
    sides = corpus_sides(corpus)
    keys = example_keys(corpus)
    node_labels = corpus.sentences.node_labels
    label_counts, n_unlabelled = _count_labels(corpus.labels, n_labels)
    return SplitStatistics(
        n_examples=n_examples,
        n_sentences=n_examples * len(sides),
        n_distinct_sentences=len(np.unique(sentence_keys(corpus.sentences))),
        word_counts=np.bincount(corpus.sentences.token_ids, minlength=vocabulary_size),
        label_counts=label_counts,
        n_unlabelled=n_unlabelled,
        node_label_counts=None if node_labels is None else _count_labels(node_labels, n_labels)[0],
        n_repeated=n_examples - len(np.unique(keys)),
        n_ambiguous=_count_ambiguous(keys, corpus.labels),
        sides={name: _side_statistics(side) for name, side in sides.items()},
    )


def corpus_sides(corpus: Corpus) -> dict[str, SentenceColumns]:
    """Return the sentences of a corpus, by what they are called."""
    return dict(zip(SIDES[corpus.n_sides], corpus.sides, strict=True))


def sentence_keys(columns: SentenceColumns) -> np.ndarray:
    """Number each sentence, (n,) uint64, equal for equal words in equal order."""
    place = places(lengths(columns)).astype(np.uint64)
    keys = mixed_bits(columns.token_ids.astype(np.uint64) + place * _GOLDEN)
    return np.add.reduceat(keys, columns.token_offsets[:-1])


def example_keys(corpus: Corpus) -> np.ndarray:
    """Number each example, (n,) uint64, whatever its label; a pair has another one the other way round."""
    *first, last = sentence_keys(corpus.sentences).reshape(corpus.n_sides, -1)
    return last + mixed_bits(first[0]) if first else last


def overlap(
    train: Corpus,
    other: Corpus,
) -> Overlap:
    """Count examples and sentences of `other` that are in `train` as well."""
    examples = np.isin(example_keys(other), example_keys(train))
    sentences = np.isin(sentence_keys(other.sentences), sentence_keys(train.sentences))
    return Overlap(int(examples.sum()), int(sentences.sum()))


def coverage(
    word_counts: np.ndarray,  # (V,) integers
    found_mask: np.ndarray,  # (V,) bool, whether a word has a vector
) -> Coverage:
    """Count words and tokens that have a vector."""
    words = np.arange(len(word_counts)) > UNKNOWN_ID
    words &= word_counts > 0
    found = words & found_mask
    return Coverage(
        n_words=int(words.sum()),
        n_words_found=int(found.sum()),
        n_tokens=int(word_counts.sum()),
        n_tokens_found=int(word_counts[found].sum()),
    )


def share(part: float, whole: float) -> float:
    """Return part / whole, NaN of nothing."""
    return float(part / whole) if whole else math.nan


def _count_labels(labels: np.ndarray, n_labels: int) -> tuple[np.ndarray, int]:
    """Count how often each label comes, and how many have none."""
    labelled = labels[labels >= 0]
    return np.bincount(labelled, minlength=n_labels), len(labels) - len(labelled)


def _count_ambiguous(keys: np.ndarray, labels: np.ndarray) -> int:
    """Count labelled examples of which an equal one has another label."""
    keys, labels = keys[labels >= 0], labels[labels >= 0]
    if not len(keys):
        return 0
    order = np.argsort(keys, kind="stable")
    keys, labels = keys[order], labels[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    differs = np.minimum.reduceat(labels, starts) != np.maximum.reduceat(labels, starts)
    return int(np.diff(starts, append=len(keys))[differs].sum())


def _side_statistics(columns: SentenceColumns) -> SideStatistics:
    nodes, n_tokens = node_offsets(columns), lengths(columns)
    shapes = []
    for first in range(0, len(n_tokens), _BLOCK):
        last = min(first + _BLOCK, len(n_tokens))
        shapes.append(_shapes(columns.transitions[nodes[first] : nodes[last]], n_tokens[first:last]))
    heights, mean_depths, branching = zip(*shapes, strict=True)
    n_wide, n_right, n_left = map(int, np.sum(branching, axis=0))
    return SideStatistics(
        lengths=Distribution(np.bincount(n_tokens)),
        heights=Distribution(np.bincount(np.concatenate(heights))),
        average_depth=float(np.concatenate(mean_depths).mean()),
        n_wide=n_wide,
        n_right=n_right,
        n_left=n_left,
    )


def _shapes(
    transitions: np.ndarray,  # of n trees
    n_tokens: np.ndarray,  # (n,)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return heights (n,) int64, mean depths of the words (n,) float64, and n_wide, n_right and n_left (3,) int64."""
    trace = trace_stack(transitions, n_tokens)
    start = trace.first_words(trace.reduces)
    # of each bracket, between its children
    middle, end = trace.shifted[trace.left], trace.shifted[trace.reduces]
    n_words = int(trace.lengths.sum())
    opened, closed = (np.bincount(words, minlength=n_words + 1) for words in (start, end))
    depth = np.cumsum(opened - closed)[:n_words]
    wide = end - start > 2
    return (
        np.maximum.reduceat(depth, starts(trace.lengths)),
        np.add.reduceat(depth, starts(trace.lengths)) / trace.lengths,
        np.array([wide, wide & (middle - start == 1), wide & (end - middle == 1)]).sum(axis=1),
    )
