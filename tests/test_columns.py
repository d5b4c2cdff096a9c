"""Hold columns against plain loops over the sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinn_tensor.data_prep.columns import (
    NO_LABEL,
    Corpus,
    SentenceColumns,
    check_columns,
    concatenate,
    lengths,
    n_sentences,
    node_offsets,
    select,
    sentence_columns,
    take,
)
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.trees import REDUCE, SHIFT, Tree
from spinn_tensor.data_prep.vocabulary import Vocabulary
from tests.strategies import batches_of_transitions, columns_of, left_branching, right_branching, tree_of

DTYPES = (np.int32, np.int64, np.int8, np.int64)


def with_labels(columns: SentenceColumns) -> SentenceColumns:
    return columns._replace(node_labels=np.arange(len(columns.transitions), dtype=np.int64) % 7)


def sentences(columns: SentenceColumns) -> list[tuple[list[int], list[int], list[int] | None]]:
    """Return each sentence's ids, transitions and labels, by the offsets that the docstring states."""
    parts = []
    for s in range(len(columns.token_offsets) - 1):
        start, end = (int(offset) for offset in columns.token_offsets[s : s + 2])
        nodes = slice(2 * start - s, 2 * end - (s + 1))
        labels = None if columns.node_labels is None else columns.node_labels[nodes].tolist()
        parts.append((columns.token_ids[start:end].tolist(), columns.transitions[nodes].tolist(), labels))
    return parts


def assert_dtypes(columns: SentenceColumns) -> None:
    for values, dtype in zip(columns, DTYPES, strict=True):
        assert values is None or values.dtype == dtype


@given(batches_of_transitions(min_batch=0))
def test_sentence_columns_hold_each_tree_in_its_place(batch: list[np.ndarray]) -> None:
    trees = [tree_of(transitions, np.arange(len(transitions))) for transitions in batch]
    vocabulary = Vocabulary.build(tree.tokens for tree in trees)
    columns = sentence_columns(iter(trees), vocabulary)
    assert n_sentences(columns) == len(batch)
    assert lengths(columns).tolist() == [tree.n_tokens for tree in trees]
    expected = [
        (
            vocabulary.encode(tree.tokens).tolist(),
            tree.transitions.tolist(),
            list(range(len(tree.transitions))),
        )
        for tree in trees
    ]
    assert sentences(columns) == expected
    assert_dtypes(columns)
    check_columns(columns)


def test_a_tree_without_labels_among_labelled_ones() -> None:
    tree = tree_of(left_branching(2))
    vocabulary = Vocabulary.build([tree.tokens])
    assert sentence_columns([tree, tree], vocabulary).node_labels is None
    mixed = sentence_columns([tree, tree._replace(labels=np.array([1, 2, 3])), tree], vocabulary)
    assert mixed.node_labels is not None
    assert mixed.node_labels.tolist() == [NO_LABEL] * 3 + [1, 2, 3] + [NO_LABEL] * 3


@pytest.mark.parametrize(
    "bad, message",
    [
        (Tree(("a", "b"), np.array([0, 0], dtype=np.int8)), "example 1: token 2 'S': unbalanced"),
        (Tree(("a",), np.array([0], dtype=np.int8), np.array([1, 2])), "example 1: got labels of shape"),
        (Tree(("a",), [0]), "example 1: got transitions as list, expected one row of integers"),
        ("( a b )", "example 1: got str, expected a Tree, as parse_binary and its like make"),
    ],
)
def test_a_tree_that_does_not_fit_is_refused(bad: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        sentence_columns([tree_of(left_branching(3)), bad], Vocabulary.build([]))
    assert message in str(caught.value)


@given(batches_of_transitions(), st.booleans(), st.data())
def test_take_gathers_what_a_loop_does(batch: list[np.ndarray], labelled: bool, data: st.DataObject) -> None:
    columns = with_labels(columns_of(batch)) if labelled else columns_of(batch)
    rows = data.draw(st.lists(st.integers(0, len(batch) - 1), max_size=12))
    taken = take(columns, np.array(rows, dtype=np.int64))
    parts = sentences(columns)
    assert sentences(taken) == [parts[row] for row in rows]
    assert_dtypes(taken)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([0, -1], "expected 0 to 1"),
        ([0, 2], "expected 0 to 1"),
        ([False, True], "got bool, expected integers; of a mask np.flatnonzero"),
        ([0.0, 1.0], "got float64, expected integers"),
    ],
)
def test_rows_that_are_not_there_are_refused(rows: list, message: str) -> None:
    columns = columns_of([left_branching(3), right_branching(2)])
    for use in (take, lambda columns, rows: select(Corpus(columns, np.array([0, 1])), rows)):
        with pytest.raises(IndexError, match=message):
            use(columns, np.array(rows))


@given(batches_of_transitions(min_batch=0), batches_of_transitions(min_batch=0), st.booleans(), st.booleans())
def test_concatenate(a: list[np.ndarray], b: list[np.ndarray], a_labelled: bool, b_labelled: bool) -> None:
    first = with_labels(columns_of(a)) if a_labelled else columns_of(a)
    second = with_labels(columns_of(b)) if b_labelled else columns_of(b)
    joined = concatenate(first, second)
    assert_dtypes(joined)
    parts = sentences(first) + sentences(second)
    if a_labelled or b_labelled:  # then those without a label say so
        parts = [(ids, nodes, labels or [NO_LABEL] * len(nodes)) for ids, nodes, labels in parts]
    assert sentences(joined) == parts


@given(batches_of_transitions())
def test_node_offsets_bound_the_transitions(batch: list[np.ndarray]) -> None:
    expected = np.cumsum([0] + [len(transitions) for transitions in batch])
    np.testing.assert_array_equal(node_offsets(columns_of(batch)), expected)


@given(batches_of_transitions(), st.data())
def test_check_columns_names_the_first_sentence_that_is_no_tree(
    batch: list[np.ndarray], data: st.DataObject
) -> None:
    columns = columns_of(batch)
    check_columns(columns)
    place = data.draw(st.integers(0, len(columns.transitions) - 1))
    value = data.draw(st.sampled_from([-1, 2, 1 - int(columns.transitions[place])]))
    columns.transitions[place] = value
    example = int(np.searchsorted(node_offsets(columns), place, side="right")) - 1
    with pytest.raises(DataError) as caught:
        check_columns(columns)
    assert caught.value.example == example
    assert caught.value.token is not None


def test_check_columns_sees_a_stack_that_runs_empty_on_the_way() -> None:
    columns = columns_of([left_branching(3), np.array([SHIFT, REDUCE, SHIFT], dtype=np.int8)])
    with pytest.raises(DataError, match="example 1: token 2 'R': a node with one child"):
        check_columns(columns)


def test_check_columns_compares_the_sizes() -> None:
    columns = columns_of([left_branching(3)])
    with pytest.raises(DataError, match="got 2 tokens, expected 3"):
        check_columns(columns._replace(token_ids=columns.token_ids[:2]))
    with pytest.raises(DataError, match="example 0: a sentence without tokens"):
        check_columns(columns._replace(token_offsets=np.array([0, 0, 3])))


def test_select_and_the_key_to_batch_by() -> None:
    premises = columns_of([left_branching(3), left_branching(1), right_branching(2)])
    hypotheses = columns_of([left_branching(1), right_branching(4), right_branching(2)])
    pairs = Corpus.of_pairs(premises, hypotheses, np.array([2, -1, 0]))
    assert pairs.lengths_key.tolist() == [3, 4, 2]
    rows = np.array([2, 0])
    chosen = select(pairs, rows)
    assert sentences(chosen.sides[0]) == sentences(take(premises, rows))
    assert sentences(chosen.sides[1]) == sentences(take(hypotheses, rows))
    assert chosen.labels.tolist() == [0, 2]

    for parts in ((premises, take(hypotheses, rows), pairs.labels), (premises, hypotheses, rows)):
        with pytest.raises(DataError, match=r"got 3 premises, [23] hypotheses and [23] labels"):
            Corpus.of_pairs(*parts)

    labelled = Corpus(hypotheses, np.array([4, 0, 1]))
    assert labelled.lengths_key.tolist() == [1, 4, 2]
    assert select(labelled, rows).labels.tolist() == [1, 4]
    assert sentences(select(labelled, rows).sentences) == sentences(take(hypotheses, rows))
