"""Figures of a corpus against slow Python loops over one sentence at a time."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise, product
from statistics import mean, median_low

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinn_tensor.data_prep import statistics
from spinn_tensor.data_prep.brackets import average_depth
from spinn_tensor.data_prep.columns import NO_LABEL, Corpus, SentenceColumns, sentence_columns
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.statistics import (
    Coverage,
    Distribution,
    Overlap,
    SplitStatistics,
    bin_edges,
    binned,
    coverage,
    example_keys,
    overlap,
    sentence_keys,
    split_statistics,
)
from spinn_tensor.data_prep.trees import Tree, parse_binary, parse_labelled
from spinn_tensor.data_prep.vocabulary import UNKNOWN_ID, Vocabulary
from tests.nested_trees import Nested, depths, nested
from tests.strategies import all_transitions, binary_transitions, left_branching, right_branching

WORDS = ("<pad>", "<unk>", "a", "b", "c")
VOCABULARY = Vocabulary(WORDS)
Example = tuple[list[Tree], int]  # a sentence or a pair, and its label


@st.composite
def trees(draw: st.DrawFn, max_tokens: int = 6) -> Tree:
    """A random tree over few words, one of them unknown to the vocabulary, so that sentences come twice."""
    transitions = draw(binary_transitions(max_tokens=max_tokens))
    words = st.sampled_from(["a", "a", "b", "c", "unheard"])
    n_tokens = (len(transitions) + 1) // 2
    return Tree(tuple(draw(st.lists(words, min_size=n_tokens, max_size=n_tokens))), transitions)


def splits(n_sides: int) -> st.SearchStrategy[list[Example]]:
    sentences = st.lists(trees(max_tokens=3) | trees(), min_size=n_sides, max_size=n_sides)
    return st.lists(st.tuples(sentences, st.sampled_from([NO_LABEL, 0, 1, 2])), min_size=1, max_size=12)


def columns(examples: list[Example]) -> Corpus:
    labels = np.array([label for _, label in examples], dtype=np.int64)
    sides = zip(*(sentences for sentences, _ in examples), strict=True)
    sentences = [sentence_columns(side, VOCABULARY) for side in sides]
    return Corpus.of_pairs(*sentences, labels) if len(sentences) == 2 else Corpus(*sentences, labels)


def nodes(tree: Nested) -> list[tuple[Nested, Nested]]:
    return [] if isinstance(tree, int) else [tree, *nodes(tree[0]), *nodes(tree[1])]


def ids(tree: Tree) -> tuple[int, ...]:
    """The words as a vocabulary sees them."""
    return tuple(WORDS.index(token) if token in WORDS else UNKNOWN_ID for token in tree.tokens)


def assert_side(got: statistics.SideStatistics, side: list[Tree]) -> None:
    shapes = [nested(tree.transitions) for tree in side]
    assert got.lengths.counts.tolist() == counted([tree.n_tokens for tree in side])
    assert got.heights.counts.tolist() == counted([max(depths(shape)) for shape in shapes])
    assert got.average_depth == pytest.approx(mean(mean(depths(shape)) for shape in shapes))
    wide = [node for shape in shapes for node in nodes(shape) if len(depths(node)) > 2]
    assert got.n_wide == len(wide)
    assert got.n_right == sum(isinstance(left, int) for left, _ in wide)
    assert got.n_left == sum(isinstance(right, int) for _, right in wide)


def counted(values: list[int]) -> list[int]:
    return [values.count(value) for value in range(max(values) + 1)]


def assert_split(got: SplitStatistics, examples: list[Example]) -> None:
    words = [tuple(map(ids, sentences)) for sentences, _ in examples]
    sentences = [sentence for example in words for sentence in example]
    tokens = Counter(token for sentence in sentences for token in sentence)
    labels = [label for _, label in examples]
    assert (got.n_examples, got.n_sentences) == (len(examples), len(sentences))
    assert got.n_distinct_sentences == len(set(sentences))
    assert got.word_counts.tolist() == [tokens[i] for i in range(len(WORDS))]
    assert got.n_tokens == sum(map(len, sentences))
    assert got.n_unknown == tokens[UNKNOWN_ID]
    assert got.n_distinct_words == len(tokens.keys() - {UNKNOWN_ID})
    assert got.label_counts.tolist() == [labels.count(label) for label in range(3)]
    assert got.n_unlabelled == labels.count(NO_LABEL)
    assert got.n_repeated == sum(example in words[:i] for i, example in enumerate(words))
    assert got.n_ambiguous == sum(
        any(
            word == other and label != other_label and other_label != NO_LABEL
            for other, other_label in zip(words, labels, strict=True)
        )
        for word, label in zip(words, labels, strict=True)
        if label != NO_LABEL
    )


@pytest.mark.parametrize("n_sides", [1, 2])
@given(data=st.data(), block=st.integers(1, 15))
def test_a_split_counted_one_example_at_a_time(n_sides: int, data: st.DataObject, block: int) -> None:
    examples = data.draw(splits(n_sides))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_BLOCK", block)
        got = split_statistics(columns(examples), 3, len(WORDS))
    assert_split(got, examples)
    assert list(got.sides) == (["sentence"] if n_sides == 1 else ["premise", "hypothesis"])
    for i, side in enumerate(got.sides.values()):
        assert_side(side, [sentences[i] for sentences, _ in examples])
    assert got.node_label_counts is None


@pytest.mark.parametrize("n_sides", [1, 2])
@given(data=st.data())
def test_overlap_found_one_example_at_a_time(n_sides: int, data: st.DataObject) -> None:
    train, dev = data.draw(splits(n_sides)), data.draw(splits(n_sides))
    trained = [tuple(map(ids, sentences)) for sentences, _ in train]
    asked = [tuple(map(ids, sentences)) for sentences, _ in dev]
    known = {sentence for example in trained for sentence in example}
    assert overlap(columns(train), columns(dev)) == Overlap(
        sum(example in trained for example in asked),
        sum(sentence in known for example in asked for sentence in example),
    )


@pytest.mark.parametrize("n_tokens", range(1, 7))
def test_every_tree_of_up_to_six_words(n_tokens: int) -> None:
    side = [Tree(("a",) * n_tokens, transitions) for transitions in all_transitions(n_tokens)]
    corpus = columns([([tree], 0) for tree in side])
    got = split_statistics(corpus, 1, len(WORDS)).sides["sentence"]
    assert_side(got, side)
    assert got.average_depth == pytest.approx(
        average_depth(corpus.sentences.transitions, np.full(len(side), n_tokens))
    )


def test_chains_branch_to_one_side() -> None:
    for make, expected in ((right_branching, (3, 3, 0)), (left_branching, (3, 0, 3))):
        corpus = columns([([Tree(tuple("abcab"), make(5))], 0)])
        side = split_statistics(corpus, 1, len(WORDS)).sides["sentence"]
        assert (side.n_wide, side.n_right, side.n_left) == expected
        assert side.heights.largest == 4


def test_labels_of_nodes_are_counted() -> None:
    tree = parse_labelled("(3 (2 a) (3 (3 b) (1 c)))")
    corpus = Corpus(sentence_columns([tree], VOCABULARY), np.array([3]))
    got = split_statistics(corpus, 5, len(WORDS))
    assert got.node_label_counts is not None
    assert got.node_label_counts.tolist() == [0, 1, 1, 3, 0]
    assert got.label_counts.tolist() == [0, 0, 0, 1, 0]


def test_a_corpus_without_labels() -> None:
    got = split_statistics(columns([([parse_binary("( a b )")], NO_LABEL)] * 2), 0, len(WORDS))
    assert got.label_counts.tolist() == []
    assert (got.n_unlabelled, got.n_repeated, got.n_ambiguous) == (2, 1, 0)


def test_an_empty_split_is_refused() -> None:
    none = sentence_columns([], VOCABULARY)
    with pytest.raises(DataError, match="without examples"):
        split_statistics(Corpus(none, np.zeros(0, np.int64)), 2, len(WORDS))


def of_words(sentences: list[tuple[int, ...]]) -> SentenceColumns:
    """Sentences of which only the words are looked at."""
    offsets = np.concatenate([[0], np.cumsum([len(sentence) for sentence in sentences])])
    return SentenceColumns(np.concatenate(sentences).astype(np.int32), offsets, np.zeros(0, np.int8), None)


def test_different_sentences_have_different_keys() -> None:
    """All of up to seven words of a vocabulary of five, and all pairs of those of up to three."""
    sentences = [words for n in range(1, 8) for words in product(range(5), repeat=n)]
    assert len(np.unique(sentence_keys(of_words(sentences)))) == len(sentences)
    short = [words for n in range(1, 4) for words in product(range(5), repeat=n)]
    premises, hypotheses = zip(*product(short, short), strict=True)
    pairs = Corpus.of_pairs(of_words(premises), of_words(hypotheses), np.zeros(len(premises)))
    assert len(np.unique(example_keys(pairs))) == len(premises)


numbers = st.lists(st.integers(0, 300), min_size=1, max_size=60)


@given(numbers, st.integers(1, 100))
def test_a_distribution(values: list[int], percent: int) -> None:
    got = Distribution(np.bincount(values))
    assert (got.total, got.largest) == (len(values), max(values))
    assert got.mean == pytest.approx(mean(values))
    assert got.percentile(50) == median_low(values)
    in_order = sorted(values)
    assert got.percentile(percent) == in_order[-(-percent * len(values) // 100) - 1]


@given(numbers, st.integers(1, 20), st.integers(0, 1))
def test_bins_hold_every_value_once(values: list[int], most: int, start: int) -> None:
    values = [max(value, start) for value in values]
    counts = np.bincount(values)
    edges = bin_edges(counts, most, start)
    assert edges[0] == start
    assert 1 <= len(edges) - 1 <= most
    assert edges[-1] > max(values)
    widths = set(np.diff(edges)[:-1].tolist())
    assert len(widths) <= 1
    assert all(str(width).rstrip("0") in ("1", "2", "5") for width in widths)
    assert sum(value >= edges[-2] for value in values) >= 1
    expected = [sum(first <= value < last for value in values) for first, last in pairwise(edges.tolist())]
    assert binned(counts, edges).tolist() == expected
    assert sum(expected) == len(values)


def test_one_very_long_sentence_does_not_make_the_others_one_bin() -> None:
    counts = np.bincount([*range(1, 21)] * 10 + [5_000])
    edges = bin_edges(counts, 10, 1)
    assert edges.tolist() == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 5_001]
    assert binned(counts, edges).tolist() == [20] * 9 + [21]


def test_other_values_than_those_that_bins_were_made_for() -> None:
    edges = bin_edges(np.array([0, 1, 1]), 5, 1)
    assert binned(np.array([7, 1, 0, 9]), edges).tolist() == [1, 0]
    assert Distribution(np.array([0, 2])).mean == 1


def test_coverage_leaves_special_tokens_out_of_the_words() -> None:
    found = np.array([True, True, True, False, True])
    assert coverage(np.array([0, 3, 5, 2, 0]), found) == Coverage(2, 1, 10, 5)


def test_a_share_of_nothing() -> None:
    assert math.isnan(statistics.share(0, 0))
    assert statistics.share(1, 4) == 0.25
