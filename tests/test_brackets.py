"""Hold bracket scores against sets of spans from a recursion over nested tuples, one tree at a time."""

from __future__ import annotations

import json
import math
from itertools import combinations, product
from statistics import mean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinn_tensor.data_prep.brackets import (
    average_depth,
    bracket_scores,
    bracket_spans,
    score_parses,
    self_f1,
    transition_accuracy,
)
from spinn_tensor.data_prep.branching import branching_transitions
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.trees import SHIFT, parse_binary
from tests.nested_trees import depths, nested, spans
from tests.strategies import (
    all_transitions,
    batches_of_transitions,
    left_branching,
    right_branching,
    transitions_from_choices,
)


def lengths_of(batch: list[np.ndarray]) -> np.ndarray:
    return np.array([(len(transitions) + 1) // 2 for transitions in batch])


def mean_or_nan(values: list[float]) -> float:
    return mean(values) if values else math.nan


def brute_force(predicted: list[np.ndarray], gold: list[np.ndarray]) -> dict[str, float]:
    """Compute the fields of BracketScores from sets."""
    scores: dict[str, float] = {
        "n_sentences": len(gold),
        "n_trivial": sum(len(transitions) < 5 for transitions in gold),
    }
    for whole, (n_all, n_both, pooled, averaged) in {
        True: ("n_brackets", "n_matching", "f1", "sentence_f1"),
        False: ("n_inner", "n_inner_matching", "inner_f1", "inner_sentence_f1"),
    }.items():
        found = []
        for a, b in zip(predicted, gold, strict=True):
            left_out = set() if whole else {(0, (len(b) + 1) // 2)}
            found.append((spans(nested(a)) - left_out, spans(nested(b)) - left_out))
        scores[n_all] = sum(len(b) for _, b in found)
        scores[n_both] = sum(len(a & b) for a, b in found)
        scores[pooled] = scores[n_both] / scores[n_all] if scores[n_all] else math.nan
        scores[averaged] = mean_or_nan([2 * len(a & b) / (len(a) + len(b)) for a, b in found if b])
    return scores


@st.composite
def parsed_batches(draw: st.DrawFn, n_parses: int = 2, max_tokens: int = 20) -> list[list[np.ndarray]]:
    """Draw a batch of sentences and several parses of it, n_parses lists of (2N-1,) int8; some trees are the same."""
    first = draw(batches_of_transitions(max_tokens=max_tokens))
    parses = [first]
    for _ in range(n_parses - 1):
        batch = []
        for transitions in first:
            n_steps = len(transitions)
            choices = draw(st.none() | st.lists(st.booleans(), min_size=n_steps, max_size=n_steps))
            other = None if choices is None else transitions_from_choices((n_steps + 1) // 2, choices)
            batch.append(transitions if other is None else other)
        parses.append(batch)
    return parses


def assert_brute_force(predicted: list[np.ndarray], gold: list[np.ndarray]) -> None:
    got = bracket_scores(np.concatenate(predicted), np.concatenate(gold), lengths_of(gold))
    assert got._asdict() == pytest.approx(brute_force(predicted, gold), nan_ok=True)


def test_an_example_by_hand() -> None:
    """( ( The old ) ( man sleeps ) ) against ( The ( ( old man ) sleeps ) ): of 3 brackets 1, of 2 inner ones 0.

    ( ( a b ) ( c ( d e ) ) ) against ( ( a b ) ( ( c d ) e ) ): of 4 brackets 3, of 3 inner ones 2.
    """
    predicted = [parse_binary("( ( The old ) ( man sleeps ) )"), parse_binary("( ( a b ) ( c ( d e ) ) )")]
    gold = [parse_binary("( The ( ( old man ) sleeps ) )"), parse_binary("( ( a b ) ( ( c d ) e ) )")]
    trees = [[tree.transitions for tree in side] for side in (predicted, gold)]
    one, two = [np.array([SHIFT], np.int8)], [right_branching(2)]
    flat = [np.concatenate(side + one + two) for side in trees]
    scores = score_parses(*flat, np.array([4, 5, 1, 2]))
    assert scores.gold._asdict() == pytest.approx(
        {
            "n_sentences": 4,
            "n_trivial": 2,
            "n_brackets": 8,
            "n_matching": 5,
            "n_inner": 5,
            "n_inner_matching": 2,
            "f1": 5 / 8,
            "inner_f1": 2 / 5,
            "sentence_f1": (1 / 3 + 3 / 4 + 1) / 3,
            "inner_sentence_f1": (0 + 2 / 3) / 2,
        }
    )
    # S S R S S R R against S S S R S R R; S S R S S S R R R against S S R S S R S R R
    assert scores.transition_accuracy == (5 + 7 + 1 + 3) / (7 + 9 + 1 + 3)
    # of the words 2 2 2 2 | 2 2 2 3 3 | 0 | 1 1, and 1 3 3 2 | 2 2 3 3 2 | 0 | 1 1
    assert scores.average_depth == pytest.approx((2 + 12 / 5 + 0 + 1) / 4)
    assert scores.gold_average_depth == pytest.approx((9 / 4 + 12 / 5 + 0 + 1) / 4)


@pytest.mark.parametrize("n_tokens", range(1, 7))
def test_the_spans_of_every_small_tree(n_tokens: int) -> None:
    trees = list(all_transitions(n_tokens))
    found = bracket_spans(np.concatenate(trees), np.full(len(trees), n_tokens))
    expected = [(s, span) for s, tree in enumerate(trees) for span in spans(nested(tree))]
    got = zip(
        found.sentence.tolist(),
        zip(
            (found.start - n_tokens * found.sentence).tolist(),
            (found.end - n_tokens * found.sentence).tolist(),
            strict=True,
        ),
        strict=True,
    )
    assert sorted(got) == sorted(expected)


@pytest.mark.parametrize("n_tokens", range(1, 7))
def test_every_small_tree_against_every_other(n_tokens: int) -> None:
    pairs = list(product(all_transitions(n_tokens), repeat=2))
    predicted, gold = ([pair[side] for pair in pairs] for side in (0, 1))
    assert_brute_force(predicted, gold)
    for a, b in pairs if n_tokens <= 5 else pairs[::41]:
        assert_brute_force([a], [b])


@given(parsed_batches())
def test_scores_are_those_of_sets_of_spans(parses: list[list[np.ndarray]]) -> None:
    assert_brute_force(*parses)


@given(parsed_batches(), st.randoms())
def test_scores_do_not_depend_on_order_or_side(parses: list[list[np.ndarray]], random) -> None:
    predicted, gold = parses
    scores = bracket_scores(np.concatenate(predicted), np.concatenate(gold), lengths_of(gold))
    order = random.sample(range(len(gold)), len(gold))
    predicted, gold = [predicted[row] for row in order], [gold[row] for row in order]
    for a, b in ((predicted, gold), (gold, predicted)):
        again = bracket_scores(np.concatenate(a), np.concatenate(b), lengths_of(gold))
        assert again._asdict() == pytest.approx(scores._asdict(), nan_ok=True)


@given(batches_of_transitions(max_tokens=30))
def test_average_depth_is_that_of_a_recursion(batch: list[np.ndarray]) -> None:
    expected = mean(mean(depths(nested(transitions))) for transitions in batch)
    assert average_depth(np.concatenate(batch), lengths_of(batch)) == pytest.approx(expected)


@pytest.mark.parametrize("n_tokens", [1, 2, 3, 8, 32])
def test_average_depths_that_are_known(n_tokens: int) -> None:
    chain = (n_tokens - 1) * (n_tokens + 2) / (2 * n_tokens)
    for branching in (left_branching, right_branching):
        assert average_depth(branching(n_tokens), np.array([n_tokens])) == pytest.approx(chain)
    if n_tokens != 3:
        full = branching_transitions(np.array([n_tokens]), "balanced")
        assert average_depth(full, np.array([n_tokens])) == pytest.approx(math.log2(n_tokens))


@given(st.integers(2, 5).flatmap(parsed_batches), st.booleans())
def test_self_f1_is_the_mean_over_all_pairs(parses: list[list[np.ndarray]], whole: bool) -> None:
    measure = "sentence_f1" if whole else "inner_sentence_f1"
    expected = mean(brute_force(a, b)[measure] for a, b in combinations(parses, 2))
    got = self_f1([np.concatenate(batch) for batch in parses], lengths_of(parses[0]), whole=whole)
    assert got == pytest.approx(expected, nan_ok=True)


def test_runs_that_agree_and_runs_that_do_not() -> None:
    lengths = np.array([6, 4, 2])
    left, right = (branching_transitions(lengths, kind) for kind in ("left", "right"))
    assert self_f1([left, left, left], lengths) == 1
    assert self_f1([left, right], lengths) == 0
    assert self_f1([left, right, right], lengths) == pytest.approx(1 / 3)
    assert self_f1([left, right], lengths, whole=True) == pytest.approx((1 / 5 + 1 / 3 + 1) / 3)


def test_all_scores_of_a_parser() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 25, size=50)
    predicted, gold = (branching_transitions(lengths, "random", seed) for seed in (1, 2))
    scores = score_parses(predicted, gold, lengths)
    assert scores.transition_accuracy == transition_accuracy(predicted, gold) == (predicted == gold).mean()
    assert scores.gold == bracket_scores(predicted, gold, lengths)
    for kind, found in (("left", scores.left), ("right", scores.right), ("balanced", scores.balanced)):
        assert found == bracket_scores(predicted, branching_transitions(lengths, kind), lengths)
    assert scores.average_depth == average_depth(predicted, lengths)
    assert scores.gold_average_depth == average_depth(gold, lengths)

    plain = scores.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["gold"]["inner_f1"] == scores.gold.inner_f1
    assert plain["average_depth"] == scores.average_depth


def test_sentences_without_brackets_have_no_score() -> None:
    one = np.array([SHIFT, SHIFT], np.int8)
    scores = score_parses(one, one, np.array([1, 1]))
    assert scores.gold.n_trivial == scores.gold.n_sentences == 2
    assert all(math.isnan(score) for score in scores.gold[-4:])
    assert scores.average_depth == 0
    plain = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert plain["gold"]["f1"] is None
    assert plain["transition_accuracy"] == 1
    assert math.isnan(self_f1([one, one], np.array([1, 1])))
    two = bracket_scores(right_branching(2), right_branching(2), np.array([2]))
    assert (two.f1, two.sentence_f1, two.n_trivial) == (1, 1, 1)
    assert math.isnan(two.inner_f1)


def test_transitions_that_are_no_tree_are_refused_by_name() -> None:
    lengths = np.array([1, 2])
    good, bad = np.array([0, 0, 0, 1], np.int8), np.array([0, 0, 1, 0], np.int8)
    message = "example 1: {}: token 2 'R': a node with one child"
    for call, name in (
        (lambda: bracket_scores(bad, good, lengths), "predicted"),
        (lambda: bracket_scores(good, bad, lengths), "gold"),
        (lambda: score_parses(good, bad, lengths), "gold"),
        (lambda: self_f1([good, bad], lengths), "run 1"),
    ):
        with pytest.raises(DataError) as caught:
            call()
        assert str(caught.value) == message.format(name)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got predicted transitions of shape \(3,\), expected \(1,\)"):
        transition_accuracy(right_branching(2), right_branching(1))
    with pytest.raises(ValueError, match="got 1 runs, expected two or more"):
        self_f1([right_branching(2)], np.array([2]))
