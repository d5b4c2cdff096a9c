"""Hold trees without a parser against loops over one sentence, and random ones against what uniform means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import ceil, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinn_tensor.data_prep import TreebankFormat, read_line_examples
from spinn_tensor.data_prep.brackets import bracket_scores
from spinn_tensor.data_prep.branching import (
    BRANCHINGS,
    FINAL_MARKS,
    baseline_transitions,
    branched,
    branching_transitions,
    right_period_transitions,
    with_branching,
)
from spinn_tensor.data_prep.columns import Corpus, check_columns, lengths, node_offsets
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.trees import REDUCE, SHIFT, Tree, check_all_transitions, format_binary
from tests.machines import SHARED, needs_shared
from tests.strategies import (
    all_transitions,
    batches_of_transitions,
    columns_of,
    left_branching,
    right_branching,
)

BATCHES_OF_LENGTHS = st.lists(st.integers(1, 40), max_size=12)
CHI_SQUARE_13 = 34.53  # of 13 degrees of freedom: a uniform draw exceeds it once in a thousand times


def halves(n_tokens: int) -> list[int]:
    """Return the transitions of the balanced tree, the odd word on the left."""
    if n_tokens == 1:
        return [SHIFT]
    n_right = n_tokens // 2
    return [*halves(n_tokens - n_right), *halves(n_right), REDUCE]


def height(transitions: np.ndarray) -> int:
    stack: list[int] = []
    for transition in transitions.tolist():
        stack.append(0 if transition == SHIFT else 1 + max(stack.pop(), stack.pop()))
    return stack[0]


def one_by_one(batch: list[int], tree: Callable[[int], np.ndarray | list[int]]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int8), *(np.array(tree(n), np.int8) for n in batch)])


@pytest.mark.parametrize(
    "kind, tree", [("left", left_branching), ("right", right_branching), ("balanced", halves)]
)
@given(batch=BATCHES_OF_LENGTHS)
def test_a_batch_is_its_sentences_one_by_one(
    kind: str, tree: Callable[[int], np.ndarray | list[int]], batch: list[int]
) -> None:
    transitions = branching_transitions(np.array(batch, dtype=np.int64), kind)
    assert transitions.dtype == np.int8
    np.testing.assert_array_equal(transitions, one_by_one(batch, tree))


def right_period(n_tokens: int) -> list[int]:
    """Return the transitions of the right-branching tree over all words but the last, which is joined at the root."""
    return [*right_branching(n_tokens - 1).tolist(), SHIFT, REDUCE] if n_tokens > 1 else [SHIFT]


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=12))
def test_final_marks_are_the_right_child_of_the_root(batch: list[tuple[int, bool]]) -> None:
    lengths_, final_mark = [n for n, _ in batch], [mark for _, mark in batch]
    transitions = right_period_transitions(
        np.array(lengths_, dtype=np.int64), np.array(final_mark, dtype=bool)
    )
    assert transitions.dtype == np.int8
    expected = [right_period(n) if mark else right_branching(n).tolist() for n, mark in batch]
    np.testing.assert_array_equal(transitions, np.concatenate([np.zeros(0, np.int8), *expected]))


def test_the_baselines_over_a_sentence_with_a_mark_and_one_without() -> None:
    """Whatever trees the words came with."""
    trees = [Tree(tuple(words), left_branching(len(words))) for words in ("abcd.", "abcde")]
    found = baseline_transitions(trees)
    parses = {
        name: [format_binary(Tree(trees[i].tokens, transitions[9 * i : 9 * i + 9])) for i in (0, 1)]
        for name, transitions in found.items()
    }
    np.testing.assert_array_equal(found["random"], branching_transitions(np.array([5, 5]), "random"))
    del parses["random"]
    assert parses == {
        "left-branching": ["( ( ( ( a b ) c ) d ) . )", "( ( ( ( a b ) c ) d ) e )"],
        "right-branching": ["( a ( b ( c ( d . ) ) ) )", "( a ( b ( c ( d e ) ) ) )"],
        "right-branching, final mark at the root": [
            "( ( a ( b ( c d ) ) ) . )",
            "( a ( b ( c ( d e ) ) ) )",
        ],
        "balanced": ["( ( ( a b ) c ) ( d . ) )", "( ( ( a b ) c ) ( d e ) )"],
    }


@needs_shared
def test_final_marks_in_the_slice_of_snli() -> None:
    """The share of SNLI's brackets that right-branching trees have, as the module says."""
    path = SHARED / "snli" / "snli_1.0_dev_slice.jsonl.gz"
    trees = [tree for example in read_line_examples(path, TreebankFormat()) for tree in example.trees]
    gold = np.concatenate([tree.transitions for tree in trees])
    n_tokens = np.array([tree.n_tokens for tree in trees])
    final_mark = np.array([tree.tokens[-1] in FINAL_MARKS for tree in trees])
    guesses = branching_transitions(n_tokens, "right"), right_period_transitions(n_tokens, final_mark)
    f1 = [round(bracket_scores(guess, gold, n_tokens).sentence_f1, 3) for guess in guesses]
    assert f1 == [0.262, 0.549]


@pytest.mark.parametrize("n_tokens", range(1, 70))
def test_a_balanced_tree_is_as_low_as_a_binary_tree_can_be(n_tokens: int) -> None:
    assert height(branching_transitions(np.array([n_tokens]), "balanced")) == ceil(log2(n_tokens))


@given(BATCHES_OF_LENGTHS, st.integers(0, 2**32))
def test_random_trees_are_trees_and_the_seeds_own(batch: list[int], seed: int) -> None:
    n_tokens = np.array(batch, dtype=np.int64)
    transitions = branching_transitions(n_tokens, "random", seed)
    assert transitions.dtype == np.int8
    check_all_transitions(transitions, n_tokens)
    np.testing.assert_array_equal(transitions, branching_transitions(n_tokens, "random", seed))


def test_another_seed_gives_other_trees() -> None:
    n_tokens = np.full(20, 12)
    assert not np.array_equal(*(branching_transitions(n_tokens, "random", seed) for seed in (0, 1)))


@pytest.mark.parametrize("seed", range(3))
def test_random_trees_are_uniform(seed: int) -> None:
    """Chi-square over the 14 trees of 5 leaves, between sentences of other lengths."""
    n_draws = 14_000
    drawn = branching_transitions(np.tile([3, 5, 8], n_draws), "random", seed).reshape(n_draws, 5 + 9 + 15)
    counts = Counter(map(tuple, drawn[:, 5:14].tolist()))
    trees = [tuple(transitions.tolist()) for transitions in all_transitions(5)]
    assert set(counts) == set(trees)
    expected = n_draws / len(trees)
    assert sum((counts[tree] - expected) ** 2 / expected for tree in trees) < CHI_SQUARE_13


def test_random_trees_of_neighbours_are_independent() -> None:
    """Chi-square over the 2 * 5 pairs of trees of 3 and of 4 leaves."""
    n_draws = 10_000
    drawn = branching_transitions(np.tile([3, 4], n_draws), "random").reshape(n_draws, 5 + 7)
    counts = Counter(map(tuple, drawn.tolist()))
    assert len(counts) == 10
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < CHI_SQUARE_13


@pytest.mark.parametrize("kind", BRANCHINGS)
def test_no_sentences_and_sentences_of_one_word(kind: str) -> None:
    assert branching_transitions(np.zeros(0, np.int64), kind).shape == (0,)
    assert branching_transitions(np.array([1, 1]), kind).tolist() == [SHIFT, SHIFT]


@pytest.mark.parametrize("kind", BRANCHINGS)
@pytest.mark.parametrize("length", [0, -3])
def test_a_sentence_without_words_is_refused_by_name(kind: str, length: int) -> None:
    with pytest.raises(DataError) as caught:
        branching_transitions(np.array([2, 1, length, 0]), kind)
    assert str(caught.value) == "example 2: a sentence without tokens"


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    message = r"unknown branching 'rigth', expected one of left, right, balanced, random"
    with pytest.raises(ValueError, match=message):
        branching_transitions(np.array([2]), "rigth")


@pytest.mark.parametrize("kind", BRANCHINGS)
@given(batch=batches_of_transitions(min_batch=0))
def test_the_words_stay_and_the_labels_of_the_nodes_go(kind: str, batch: list[np.ndarray]) -> None:
    columns = columns_of(batch)
    labelled = columns._replace(node_labels=np.arange(len(columns.transitions)))
    other = with_branching(labelled, kind, seed=5)
    assert other.node_labels is None
    assert other.token_ids is labelled.token_ids
    assert other.token_offsets is labelled.token_offsets
    check_columns(other)
    np.testing.assert_array_equal(node_offsets(other), node_offsets(columns))
    np.testing.assert_array_equal(other.transitions, branching_transitions(lengths(columns), kind, 5))
    np.testing.assert_array_equal(labelled.transitions, columns.transitions)


@pytest.mark.parametrize("kind", BRANCHINGS)
@pytest.mark.parametrize("n_sides, labels", [(2, [2, -1, 0]), (1, [4, 0, 1, -1, 0, 2])])
def test_a_corpus_keeps_the_labels_of_its_examples(kind: str, n_sides: int, labels: list[int]) -> None:
    sentences = columns_of([left_branching(n) for n in (3, 1, 6, 2, 4, 5)])
    found = branched(Corpus(sentences, np.array(labels), n_sides), kind, seed=3)
    assert (found.labels.tolist(), found.n_sides) == (labels, n_sides)
    for values, expected in zip(found.sentences, with_branching(sentences, kind, seed=3), strict=True):
        np.testing.assert_array_equal(values, expected)


def test_premises_and_hypotheses_have_random_trees_of_their_own() -> None:
    sentences = columns_of([left_branching(9)] * 20)
    pairs = branched(Corpus.of_pairs(sentences, sentences, np.zeros(20, np.int64)), "random")
    assert not np.array_equal(pairs.sides[0].transitions, pairs.sides[1].transitions)
