"""What `spinn inspect` draws: trees, plots and histograms, in which any text is inert."""

from __future__ import annotations

import base64
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from spinn_tensor.cli.inspect import bar, histogram_table
from spinn_tensor.cli.inspect_page import Plot, bars, histogram, samples, tree_at
from spinn_tensor.cli.inspect_tables import padding_table
from spinn_tensor.data_prep.columns import Corpus, sentence_columns
from spinn_tensor.data_prep.statistics import Distribution
from spinn_tensor.data_prep.tree_view import printable, tree_grid
from spinn_tensor.data_prep.trees import REDUCE, Tree, parse_binary, parse_labelled
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.fixed_shapes import Shape, ShapeUse
from tests.strategies import binary_transitions, tree_of

USES = [
    ShapeUse(Shape(8, 1_024, (64,) * 10), 3, 2_048, 3_072, 24, 30),
    ShapeUse(Shape(8, 2_048, (64,) * 20), 0, 0, 0, 0, 0),
]
COUNTS = {"train": Distribution(np.array([0, 3, 1])), "dev": Distribution(np.array([0, 0, 0, 0, 1]))}


def test_padding_of_a_shape_and_of_all() -> None:
    assert padding_table("forest", USES).rows == [
        ("1", "1,024", "10", "64", "3", "2,048", "33.3%", "20.0%"),
        ("2", "2,048", "20", "64", "0", "0", "–", "–"),
        ("all", "", "", "", "3", "2,048", "33.3%", "20.0%"),
    ]


def picture(plot: Plot) -> ElementTree.Element:
    kind, data = plot.source.split(",")
    assert kind == "data:image/svg+xml;base64"
    return ElementTree.fromstring(base64.b64decode(data))


@pytest.mark.parametrize("name", ["$x^2$", "a\x00b", "\ud800", "日本語", "w" * 1_000, "<b>&"])
def test_any_name_is_drawn(name: str) -> None:
    assert picture(bars("shares", ["no", name], [0.2, float("nan")], [0.3, 0.7])).get("viewBox")


def test_a_histogram_is_the_same_each_time() -> None:
    first, again = (histogram("premise", "words", COUNTS) for _ in range(2))
    assert first == again
    assert picture(first).get("viewBox")


@given(st.text())
def test_what_html_cannot_hold_is_replaced(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert printable("a\x00b\x1b[31m<'\ud800é\u200dの") == "a\ufffdb\ufffd[31m<'\ufffdé\u200dの"


@given(binary_transitions(max_tokens=15))
def test_a_node_is_over_its_words_and_above_its_children(transitions: np.ndarray) -> None:
    tree = tree_of(transitions)._replace(labels=np.arange(len(transitions)))
    levels, nodes = tree_grid(tree)
    words = [node for node in nodes if node.word]
    assert [node.word for node in words] == list(tree.tokens)
    assert {node.level for node in words} == {levels + 1}
    assert [(node.first, node.end) for node in words] == [(i, i + 1) for i in range(1, tree.n_tokens + 1)]
    assert [node.label for node in nodes] == list(range(len(transitions)))
    stack = []
    for node, transition in zip(nodes, transitions.tolist(), strict=True):
        if transition == REDUCE:
            right, left = stack.pop(), stack.pop()
            assert (node.first, node.end) == (left.first, right.end)
            assert node.level < min(left.level, right.level)
        stack.append(node)
    assert stack[0].level == 1


def test_unknown_words_are_told_apart() -> None:
    vocabulary = Vocabulary(("<pad>", "<unk>", "a"))
    columns = sentence_columns([parse_binary("( a ( zebra a ) )"), parse_labelled("(1 a)")], vocabulary)
    tree = tree_at(columns, 0, vocabulary)
    assert tree.tokens == ("a", "<unk>", "a")
    _, nodes = tree_grid(tree, unknown="<unk>")
    assert [node.word for node in nodes if node.kind == "word unknown"] == ["<unk>"]
    assert tree_at(columns, 1, vocabulary).labels is not None


def test_nodes_without_a_label_have_none() -> None:
    tree = parse_binary("( a ( b c ) )")._replace(labels=np.array([-100, 1, -100, -100, 0]))
    assert [node.label for node in tree_grid(tree)[1]] == [None, 1, None, None, 0]


def test_samples_are_drawn_once_each() -> None:
    vocabulary = Vocabulary(("<pad>", "<unk>", *"abcdefgh"))
    sentences = sentence_columns([Tree((word,), np.zeros(1, np.int8)) for word in "abcdefgh"], vocabulary)
    corpus = Corpus(sentences, np.array([0, 1, -100] * 3)[:8])
    drawn = samples(corpus, ("no", "yes"), vocabulary, 5, seed=1)
    rows = [sample.row for sample in drawn]
    assert rows == sorted(set(rows))
    assert len(rows) == 5
    assert [sample.trees["sentence"].tokens[0] for sample in drawn] == ["abcdefgh"[row] for row in rows]
    assert [sample.label for sample in drawn] == [("no", "yes", "")[row % 3] for row in rows]
    assert [one.row for one in samples(corpus, ("no", "yes"), vocabulary, 5, seed=2)] != rows
    assert [sample.row for sample in samples(corpus, (), vocabulary, 99, seed=1)] == list(range(8))


@pytest.mark.parametrize(
    "part, expected",
    [(0, ""), (1e-9, "▏"), (1 / 16, "▌"), (0.5, "████"), (0.999, "████████"), (1, "████████")],
)
def test_a_bar_of_eight_characters(part: float, expected: str) -> None:
    assert bar(part, 8) == expected


@pytest.mark.parametrize("sides", [["sentence"], ["premise", "hypothesis"]])
def test_histograms_fit_a_terminal(sides: list[str]) -> None:
    counts = np.zeros(1_235, dtype=np.int64)
    counts[3], counts[1_234] = 1, 1
    only_short = Distribution(np.array([0, 0, 0, 7]))
    parts = {"train": only_short, "dev": Distribution(counts)}
    console = Console(width=80)
    with console.capture() as captured:
        console.print(histogram_table("words", dict.fromkeys(sides, parts)))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in captured.get()
    (full,) = (line for line in lines if "100.0%" in line)
    assert full.count("█") > 20 * len(sides)
    assert full.count("100.0%") == len(sides)
