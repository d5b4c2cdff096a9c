"""Brackets of trees as they are, and without punctuation, against a recursion over nested lists; `parse --gold`."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinn_tensor.cli.main import main
from spinn_tensor.data_prep.brackets import bracket_scores, is_punctuation, phrase_scores
from spinn_tensor.data_prep.penn import parse_penn, to_binary
from spinn_tensor.data_prep.text import SentenceReader
from spinn_tensor.data_prep.trees import Tree, parse_binary
from tests.machines import needs_shared
from tests.nested_trees import nested, nltk_phrases, snli_parses
from tests.nested_trees import spans as spans_of
from tests.strategies import binary_transitions

pytest.importorskip("datasets")

Capture = pytest.CaptureFixture[str]
MARKS = [",", ":", "``", "''", "."]


@st.composite
def pairs_of_trees(draw: st.DrawFn) -> tuple[str, str]:
    """Draw two trees over the same words, with labels, unary chains and punctuation."""
    marked = st.sampled_from([("N", "a"), ("V", "b"), (",", ","), (".", "!"), ("``", "``")])
    words = draw(st.lists(marked, min_size=1, max_size=7))
    words.insert(draw(st.integers(0, len(words))), ("N", "c"))  # never of marks alone
    labels = st.sampled_from(["NP", "VP-SBJ", "PRT", "ADVP", "S=1"])

    def tree(first: int, end: int) -> str:
        if end - first == 1 and draw(st.booleans()):
            return "({} {})".format(*words[first])
        label = draw(labels)
        if end - first == 1:
            return "({} ({} {}))".format(label, *words[first])
        cuts = sorted(draw(st.sets(st.integers(first + 1, end - 1), max_size=3)))
        if not cuts and draw(st.booleans()):
            return f"({label} {tree(first, end)})"
        cuts = cuts or [first + 1]
        places = [first, *cuts, end]
        return f"({label} {' '.join(tree(a, b) for a, b in pairwise(places))})"

    return tuple(f"(ROOT {tree(0, len(words))})" for _ in range(2))  # type: ignore[return-value]


def read(text: str) -> list[Any]:
    """A Penn tree as nested lists, by Python's own reader of them."""
    text = re.sub(r"[^\s()]+", lambda word: repr(word[0]) + ",", text)
    return eval(text.replace("(", "[").replace(")", "],"))[0]


def brackets(tree: list[Any], labelled: bool, with_marks: bool, first: int = 0) -> tuple[list[Any], int]:
    """All brackets of a tree over the words that count, and how many words these are up to its end."""
    label, *children = tree
    if isinstance(children[0], str):
        return [], first + (with_marks or label not in MARKS)
    found, end = [], first
    for child in children:
        inside, end = brackets(child, labelled, with_marks, end)
        found += inside
    label = {"PRT": "ADVP"}.get(re.split("[-=]", label)[0], re.split("[-=]", label)[0])
    if not labelled:
        found += [(first, end)] if end - first > 1 else []
    elif end > first and label != "ROOT":
        found.append((label, first, end))
    return found, end


def slow_scores(predicted: list[str], gold: list[str], labelled: bool, with_marks: bool) -> dict[str, float]:
    totals, f1s = np.zeros(3, int), []
    for pair in zip(predicted, gold, strict=True):
        ours, theirs = (brackets(read(text), labelled, with_marks)[0] for text in pair)
        if not labelled:
            ours, theirs = sorted(set(ours)), sorted(set(theirs))
        n_both = sum(min(ours.count(bracket), theirs.count(bracket)) for bracket in set(ours))
        totals += (len(ours), len(theirs), n_both)
        if ours or theirs:
            f1s.append(2 * n_both / (len(ours) + len(theirs)))
    n_ours, n_theirs, n_both = totals.tolist()
    return {
        "n_predicted": n_ours,
        "n_gold": n_theirs,
        "n_matching": n_both,
        "precision": n_both / n_ours if n_ours else math.nan,
        "recall": n_both / n_theirs if n_theirs else math.nan,
        "f1": 2 * n_both / (n_ours + n_theirs) if n_ours + n_theirs else math.nan,
        "sentence_f1": sum(f1s) / len(f1s) if f1s else math.nan,
    }


def penn(text: str) -> Tree:
    tree = SentenceReader().read(text)
    if not isinstance(tree, Tree):  # of one word, which is no sentence by itself
        return to_binary(parse_penn(text))
    return tree


@given(st.lists(pairs_of_trees(), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_scores_are_those_of_a_recursion(
    pairs: list[tuple[str, str]], labelled: bool, with_marks: bool
) -> None:
    predicted, gold = zip(*pairs, strict=True)
    trees = [[parse_penn(text) for text in side] for side in (predicted, gold)]
    left_out = None if with_marks else [is_punctuation(to_binary(tree)) for tree in trees[1]]
    got = phrase_scores(*trees, left_out, labelled=labelled)
    assert got._asdict() == pytest.approx(slow_scores(predicted, gold, labelled, with_marks), nan_ok=True)


@given(st.lists(st.tuples(binary_transitions(), st.randoms()), min_size=1, max_size=4))
def test_binary_trees_without_some_words_are_binary_trees(sentences: list[Any]) -> None:
    """What is left of two trees, against their sets of spans, word numbers and all."""
    expected: Counter[str] = Counter()
    kept_of, sides, lengths = [], ([], []), []
    for transitions, random in sentences:
        n_tokens = (len(transitions) + 1) // 2
        other = np.repeat(np.array([0, 1], np.int8), [n_tokens, n_tokens - 1])
        kept = [random.random() < 0.7 for _ in range(n_tokens)]
        left = []
        for side, tree in zip(sides, (transitions, other), strict=True):
            side.append(tree)
            inside = {tuple(word for word in range(*span) if kept[word]) for span in spans_of(nested(tree))}
            left.append({words for words in inside if len(words) > 1})
        expected["n_brackets"] += len(left[0])
        expected["n_matching"] += len(left[0] & left[1])
        assert len(left[0]) == len(left[1]) == max(0, sum(kept) - 1)
        kept_of += kept
        lengths.append(n_tokens)
    got = bracket_scores(*map(np.concatenate, sides), np.array(lengths), np.array(kept_of))
    assert (got.n_brackets, got.n_matching) == (expected["n_brackets"], expected["n_matching"])


def test_punctuation_is_told_by_tags_else_by_words() -> None:
    tagged = penn("(S (NP (NN .) (NN a)) (: -) (POS '') (NP b ;))")
    assert is_punctuation(tagged) == [False, False, True, False, False, True]
    assert is_punctuation(parse_binary("( a ( -- ( 's ( b ! ) ) ) )")) == [False, True, False, False, True]
    assert is_punctuation(parse_binary("( « ( 狗 ( ， ( é ( ¿a 。 ) ) ) ) )")) == [
        True,
        False,
        True,
        False,
        False,
        True,
    ]
    assert is_punctuation(penn("(IP (NN 狗) (PU 。))")) == [False, True]


# Another parser's trees, the treebank's, and what EVALB counts with COLLINS.prm: brackets that match, predicted, gold.
EVALB = [
    ("(S (A (P w)) (B (Q x) (A (R y) (T z))))", "(S (A (P w)) (B (Q x) (A (R y) (T z))))", (4, 4, 4)),
    ("(S (A (P w)) (B (Q x) (C (R y) (T z))))", "(S (A (P w)) (B (Q x) (A (R y) (T z))))", (3, 4, 4)),
    ("(S (A (P w) (Q x)) (A (R y) (T z)))", "(S (A (P w)) (B (Q x) (A (R y) (T z))))", (2, 3, 4)),
    ("(S (P w) (Q x) (R y) (T z))", "(S (A (P w)) (B (Q x) (A (R y) (T z))))", (1, 1, 4)),
    ("(S (A (P w)) (B (Q x) (A (A (A (R y) (T z))))))", "(S (A (P w)) (B (Q x) (A (R y) (T z))))", (4, 6, 4)),
    (
        "(TOP (S (A (P w)) (B (Q x) (A (R y) (T z)))))",
        "(S (A-SBJ-1 (P w)) (B-X (Q x) (A (R y) (T z))))",
        (4, 4, 4),
    ),
    (
        "(S (A (P w)) (B (Q x) (A (R y) (T z)) (: *)))",
        "(S (A (P w)) (B (Q x) (A (R y) (T z))) (: *))",
        (4, 4, 4),
    ),
]


@pytest.mark.parametrize("predicted, gold, counts", EVALB)
def test_labelled_brackets_as_evalb_counts_them(
    predicted: str, gold: str, counts: tuple[int, int, int]
) -> None:
    left_out = [is_punctuation(penn(gold))]
    got = phrase_scores([parse_penn(predicted)], [parse_penn(gold)], left_out, labelled=True)
    assert (got.n_matching, got.n_predicted, got.n_gold) == counts


@needs_shared
def test_brackets_of_a_treebank_are_those_that_nltk_finds() -> None:
    nltk_tree = pytest.importorskip("nltk.tree")
    for text, _ in snli_parses()[::7]:
        expected = nltk_tree.Tree.fromstring(text)
        n_labelled = sum(label != "ROOT" for label, _, _ in nltk_phrases(expected))
        tree = parse_penn(text)
        got = phrase_scores([tree], [tree], labelled=True)
        assert got.n_matching == got.n_gold == n_labelled


GOLD = """\
(S (NP (DT The) (JJ old) (NN dog)) (VP (VBZ barks)) (. .))
(S (NP (NNS cats)) (VP (VBP sing) (ADVP (RB well)) (ADVP (RB here))))
"""
OTHER = """\
(S (NP (DT The) (JJ old) (NN dog)) (VP (VBZ barks) (. .)))
(S (NP (NNS cats)) (VP (VBP sing) (ADVP (RB well) (RB here))))
"""


def test_gold_of_penn_trees(
    parser_run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # short names, for the tables
    Path("gold.mrg").write_text(GOLD)
    Path("other.mrg").write_text(OTHER)
    assert main(["parse", "--gold", "gold.mrg", "--model", str(parser_run), "--predicted", "other.mrg"]) == 0
    printed = capsys.readouterr().out
    assert "without the 1 words that are punctuation" in printed
    rows = re.findall(r"^ other\.mrg" + 4 * r" +([\d.]+)%" + " *$", printed, re.MULTILINE)
    assert rows[-4:] == [
        ("66.67", "100.00", "80.00", "80.00"),
        ("80.00", "100.00", "88.89", "90.00"),
        ("71.43", "62.50", "66.67", "66.67"),
        ("85.71", "75.00", "80.00", "83.33"),
    ]


def test_labels_of_one_side_are_not_scored(parser_run: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "gold.mrg").write_text(GOLD)
    for gold, tables in (("gold.mrg", 1), ("gold.txt", 0)):
        (tmp_path / "gold.txt").write_text("( a ( b . ) )\n")
        assert main(["parse", "--gold", str(tmp_path / gold), "--model", str(parser_run)]) == 0
        printed = capsys.readouterr().out
        assert printed.count(" brackets as they are") == 2 * tables
        assert "labelled brackets" not in printed
