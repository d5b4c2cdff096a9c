"""Test the four notations by round trips over random and real trees, and what each refuses."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.trees import (
    REDUCE,
    SHIFT,
    Tree,
    check_transitions,
    format_binary,
    format_close_bracket,
    format_labelled,
    format_transitions,
    parse_binary,
    parse_close_bracket,
    parse_labelled,
    parse_transitions,
)
from tests.strategies import (
    all_transitions,
    assert_same_tree,
    binary_transitions,
    left_branching,
    right_branching,
    tree_of,
)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
WORDS = st.text(
    st.characters(exclude_characters="() \t\r\n", exclude_categories=["Cs"]), min_size=1, max_size=4
)


@st.composite
def labelled_trees(draw: st.DrawFn) -> Tree:
    transitions = draw(binary_transitions(max_tokens=20))
    n_tokens = (len(transitions) + 1) // 2
    tokens = draw(st.lists(WORDS, min_size=n_tokens, max_size=n_tokens))
    labels = draw(st.lists(st.integers(0, 4), min_size=len(transitions), max_size=len(transitions)))
    return Tree(tuple(tokens), transitions, np.array(labels, dtype=np.int64))


def test_the_notations_of_one_tree() -> None:
    tree = parse_binary("( ( The church ) ( ( has ( cracks ( in ( the ceiling ) ) ) ) . ) )")
    assert tree.tokens == ("The", "church", "has", "cracks", "in", "the", "ceiling", ".")
    assert format_close_bracket(tree) == "The church ) has cracks in the ceiling ) ) ) ) . ) )"
    assert format_transitions(tree) == "S S R S S S S S R R R R S R R"
    assert tree.n_tokens == 8


def test_labels_are_those_of_the_node_each_transition_pushes() -> None:
    tree = parse_labelled("(3 (2 (0 A) (1 b)) (4 c))")
    assert tree.tokens == ("A", "b", "c")
    assert tree.transitions.tolist() == [SHIFT, SHIFT, REDUCE, SHIFT, REDUCE]
    assert tree.labels is not None
    assert tree.labels.tolist() == [0, 1, 2, 4, 3]


@given(labelled_trees())
def test_every_notation_is_lossless(tree: Tree) -> None:
    unlabelled = tree._replace(labels=None)
    assert_same_tree(parse_binary(format_binary(tree)), unlabelled)
    assert_same_tree(parse_close_bracket(format_close_bracket(tree)), unlabelled)
    assert_same_tree(parse_transitions(format_transitions(tree), tree.tokens), unlabelled)
    assert_same_tree(parse_labelled(format_labelled(tree)), tree)


@pytest.mark.parametrize("n_tokens, catalan", [(1, 1), (2, 1), (3, 2), (4, 5), (5, 14), (6, 42)])
def test_every_small_tree_has_a_binary_parse_of_its_own(n_tokens: int, catalan: int) -> None:
    parses = {format_binary(tree_of(transitions)) for transitions in all_transitions(n_tokens)}
    assert len(parses) == catalan
    assert {format_binary(parse_binary(parse)) for parse in parses} == parses


def test_one_token() -> None:
    for tree in (parse_binary("Run"), parse_close_bracket("Run"), parse_transitions("S", ["Run"])):
        assert_same_tree(tree, Tree(("Run",), np.array([SHIFT], dtype=np.int8)))
        assert format_binary(tree) == format_close_bracket(tree) == "Run"
    assert format_labelled(parse_labelled("(3 Run)")) == "(3 Run)"


@pytest.mark.parametrize("branching", [left_branching, right_branching])
def test_a_chain_of_5000_tokens_needs_no_recursion(branching: Callable[[int], np.ndarray]) -> None:
    transitions = branching(5000)
    tree = tree_of(transitions, np.arange(9999) % 5)
    assert_same_tree(parse_binary(format_binary(tree)), tree._replace(labels=None))
    assert_same_tree(parse_labelled(format_labelled(tree)), tree)


def test_a_no_break_space_is_part_of_a_word() -> None:
    assert parse_binary("( 8\xa01/2 hours )").tokens == ("8\xa01/2", "hours")
    assert parse_labelled("(2 (2 8\xa01/2) (2 hours))").tokens == ("8\xa01/2", "hours")


A_LABEL = "expected a label from 0 to 4 (a bracket among words is written -LRB-)"
BAD_PARSES = [
    (parse_binary, "", "an empty parse"),
    (parse_binary, " \t", "an empty parse"),
    (parse_binary, "( )", "token 2 ')': a node with no children"),
    (parse_binary, "( a )", "token 3 ')': a node with one child"),
    (parse_binary, "( a ( b ) )", "token 5 ')': a node with one child"),
    (parse_binary, "( a b c )", "token 5 ')': a node with 3 children"),
    (parse_binary, "( a ( b c )", "token 1 '(': unbalanced: '(' is never closed"),
    (parse_binary, "( a b ) )", "token 5 ')': after the end of the tree"),
    (parse_binary, ") a", "token 1 ')': unbalanced: ')' without its '('"),
    (parse_binary, "( a b ) c", "token 5 'c': after the end of the tree"),
    (parse_binary, "( a b ) ( c d )", "token 5 '(': after the end of the tree"),
    (parse_binary, "a b", "token 2 'b': after the end of the tree"),
    (parse_close_bracket, "", "an empty parse"),
    (parse_close_bracket, ") a", "token 1 ')': a node with no children"),
    (parse_close_bracket, "a )", "token 2 ')': a node with one child"),
    (parse_close_bracket, "a b ) ) c", "token 4 ')': a node with one child"),
    (parse_close_bracket, "a b c )", "token 4 ')': unbalanced: ends with 2 trees, expected one"),
    (parse_close_bracket, "a b ) c", "token 4 'c': unbalanced: ends with 2 trees, expected one"),
    (parse_close_bracket, "a ( b ) )", "token 2 '(': a stray '(' in close-bracket notation"),
    (parse_labelled, "", "an empty parse"),
    (parse_labelled, "(3 (2 a) (2 b)", "token 1 '(': unbalanced: '(' is never closed"),
    (parse_labelled, "(3 (2 a) (2 b)))", "token 12 ')': after the end of the tree"),
    (parse_labelled, ")", "token 1 ')': unbalanced: ')' without its '('"),
    (parse_labelled, "a", "token 1 'a': expected '('"),
    (parse_labelled, "(2 a) (2 b)", "token 5 '(': after the end of the tree"),
    (parse_labelled, "(3 (2 a))", "token 7 ')': a node with one child"),
    (parse_labelled, "(3 (2 a) (2 b) (2 c))", "token 15 ')': a node with 3 children"),
    (parse_labelled, "(3)", "token 3 ')': a node with no children"),
    (parse_labelled, "((2 a) (2 b))", f"token 2 '(': {A_LABEL}"),
    (parse_labelled, "(3 (2 a) ())", f"token 8 ')': {A_LABEL}"),
    (parse_labelled, "(3 (2 a) (b))", f"token 8 'b': {A_LABEL}"),
    (parse_labelled, "(3 (2 a) (5 b))", f"token 8 '5': {A_LABEL}"),
    (parse_labelled, "(3 (2 a) (-1 b))", f"token 8 '-1': {A_LABEL}"),
    (parse_labelled, "(3 (2 a) (03 b))", f"token 8 '03': {A_LABEL}"),
    (parse_labelled, "(3 4 (2 a) (2 b))", "token 3 '4': a stray label or word"),
    (parse_labelled, "(3 (2 a) 4 (2 b))", "token 7 '4': a stray label or word"),
    (parse_labelled, "(3 (2 2 a) (2 b))", "token 6 'a': a stray label or word"),
]


@pytest.mark.parametrize(
    "parse, text, message", BAD_PARSES, ids=[f"{p.__name__}:{t}" for p, t, _ in BAD_PARSES]
)
def test_a_bad_parse_is_refused_by_name_and_place(
    parse: Callable[[str], Tree], text: str, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        parse(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "text, tokens, message",
    [
        ("", ["a"], "an empty parse"),
        ("S X", ["a", "b"], "token 2 'X': expected S or R"),
        ("S S R", ["a"], "token 2 'S': a SHIFT beyond the 1 tokens"),
        ("S S R", ["a", "b", "c"], "token 3 'R': ends after 2 of 3 tokens"),
        ("S R S", ["a", "b"], "token 2 'R': a node with one child"),
        ("S S", ["a", "b"], "token 2 'S': unbalanced: ends with 2 trees, expected one"),
    ],
)
def test_transitions_that_do_not_fit_are_refused(text: str, tokens: list[str], message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_transitions(text, tokens)
    assert str(caught.value) == message


@given(st.lists(st.sampled_from([SHIFT, REDUCE]), min_size=1, max_size=9), st.integers(1, 5))
def test_check_transitions_accepts_exactly_the_trees(transitions: list[int], n_tokens: int) -> None:
    is_tree = any(candidate.tolist() == transitions for candidate in all_transitions(n_tokens))
    if is_tree:
        check_transitions(np.array(transitions, dtype=np.int8), n_tokens)
    else:
        with pytest.raises(DataError):
            check_transitions(np.array(transitions, dtype=np.int8), n_tokens)


@pytest.mark.parametrize(
    "transitions", [np.array([[0]]), np.array([0.0]), np.array([0, 0, 2]), np.array([0, -1])]
)
def test_check_transitions_refuses_other_arrays(transitions: np.ndarray) -> None:
    with pytest.raises(DataError, match="expected"):
        check_transitions(transitions, 1)


@pytest.mark.parametrize("token", ["(", ")", "a b", "a\n", ""])
def test_a_token_that_could_not_be_read_back_is_not_written(token: str) -> None:
    tree = tree_of(right_branching(2), np.array([2, 2, 2]))._replace(tokens=("a", token))
    for write in (format_binary, format_close_bracket, format_labelled):
        with pytest.raises(DataError, match="token 2 "):
            write(tree)


def test_a_tree_without_labels_has_no_labelled_notation() -> None:
    with pytest.raises(DataError, match="got 0 labels, expected one for each of 3 nodes"):
        format_labelled(tree_of(right_branching(2)))


def test_every_parse_of_the_snli_slice_round_trips() -> None:
    path = SHARED / "snli" / "snli_1.0_dev_slice.jsonl.gz"
    if not path.exists():
        pytest.skip("needs ../shared")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    parses = [record[f"sentence{i}_binary_parse"] for record in records for i in (1, 2)]
    assert len(parses) == 2578
    for parse in parses:
        tree = parse_binary(parse)
        assert format_binary(tree) == parse
        assert format_close_bracket(tree) == " ".join(symbol for symbol in parse.split(" ") if symbol != "(")
        assert_same_tree(parse_close_bracket(format_close_bracket(tree)), tree)


@pytest.mark.parametrize("name, n_trees", [("train", 8544), ("dev", 1101)])
def test_every_tree_of_sst_round_trips(name: str, n_trees: int) -> None:
    path = SHARED / "sst" / f"{name}.txt.gz"
    if not path.exists():
        pytest.skip("needs ../shared")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = [line.rstrip("\n") for line in lines]
    assert len(texts) == n_trees
    for text in texts:
        assert format_labelled(parse_labelled(text)) == text
