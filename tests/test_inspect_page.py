"""What `spinn inspect` draws: trees, bars and histograms, in which any text is inert."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinn_tensor.cli import page
from spinn_tensor.cli.inspect import bar, histogram_table
from spinn_tensor.cli.inspect_page import padding_bars, padding_table, samples, tree_at
from spinn_tensor.cli.page import Bars, Figures, bar_plot, escape, tree_svg
from spinn_tensor.data_prep.columns import Corpus, sentence_columns
from spinn_tensor.data_prep.trees import REDUCE, Tree, parse_binary, parse_labelled
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.fixed_shapes import Shape, ShapeUse
from tests.strategies import binary_transitions, tree_of
from tests.test_inspect import words

pytest.importorskip("datasets")


USES = [
    ShapeUse(Shape(8, 1_024, 10, 64), 3, 2_048, 3_072, 24, 30),
    ShapeUse(Shape(8, 2_048, 20, 64), 0, 0, 0, 0, 0),
]


def test_padding_of_a_shape_and_of_all() -> None:
    assert padding_table("forest", USES).rows == [
        ("shape 1", "1,024", "10", "64", "3", "2,048", "33.3%", "20.0%"),
        ("shape 2", "2,048", "20", "64", "0", "0", "–", "–"),
        ("all", "", "", "", "3", "2,048", "33.3%", "20.0%"),
    ]
    bars = padding_bars("forest", USES)
    assert bars.names == ["1,024 × 10", "2,048 × 20"]
    assert bars.shares[0] == pytest.approx(1 / 3)
    assert math.isnan(bars.shares[1])
    ElementTree.fromstring(bar_plot(bars))


@given(st.text())
def test_any_text_is_inert(text: str) -> None:
    parsed = ElementTree.fromstring(f"<text>{escape(text)}</text>")
    assert not list(parsed)
    assert len(parsed.text or "") == len(text)
    assert page.table(Figures((text,), [(text,)])).count("<td>") == 1


def test_control_characters_are_replaced() -> None:
    assert (
        escape("a\x00b\x1b[31m<'\"&\ud800é\u200dの")
        == "a\ufffdb\ufffd[31m&lt;&#x27;&quot;&amp;\ufffdé\u200dの"
    )


def segments(path: str) -> list[tuple[float, float, float, float]]:
    """The straight lines of a tree's edges: a child's up, the bar, the other child's."""
    found = []
    for move in re.findall(r"M(\S+) (\S+?)V(\S+?)H(\S+?)V([\d.]+)", path):
        x1, y1, top, x2, y2 = map(float, move)
        found += [(x1, top, x1, y1), (x1, top, x2, top), (x2, top, x2, y2)]
    return found


@given(binary_transitions(max_tokens=15))
def test_a_tree_is_drawn_without_crossings(transitions: np.ndarray) -> None:
    tree = tree_of(transitions)._replace(labels=np.arange(len(transitions)))
    drawing = ElementTree.fromstring(tree_svg(tree, "a tree"))
    width, height = (float(drawing.get(name, "")) for name in ("width", "height"))
    assert words(drawing) == list(tree.tokens)
    texts = [text for text in drawing.iter("text") if "word" in text.get("class", "")]
    for a, b in pairwise(texts):
        assert float(b.get("x", "")) - float(a.get("x", "")) >= page.WORD * max(
            len(a.text or ""), len(b.text or "")
        )
    assert len({text.get("y") for text in texts}) == 1

    circles = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in drawing.iter("circle")]
    assert len(circles) == len(transitions)
    assert all(0 <= x <= width and 0 <= y <= height for x, y in circles)
    stack: list[tuple[float, float]] = []
    for (x, y), transition in zip(circles, transitions.tolist(), strict=True):
        if transition == REDUCE:
            right, left = stack.pop(), stack.pop()
            assert x == pytest.approx((left[0] + right[0]) / 2, abs=0.11)
            assert y < min(left[1], right[1])
        stack.append((x, y))

    lines = segments("".join(path.get("d", "") for path in drawing.iter("path")))
    assert len(lines) == 3 * tree.n_tokens - 3
    for x, top, _, bottom in (line for line in lines if line[0] == line[2]):
        for start, y, end, _ in (line for line in lines if line[0] != line[2]):
            assert not (start < x < end and top < y < bottom)


def test_unknown_words_are_told_apart() -> None:
    vocabulary = Vocabulary(("<pad>", "<unk>", "a"))
    columns = sentence_columns([parse_binary("( a ( zebra a ) )"), parse_labelled("(1 a)")], vocabulary)
    tree = tree_at(columns, 0, vocabulary)
    assert tree.tokens == ("a", "<unk>", "a")
    drawing = ElementTree.fromstring(tree_svg(tree, "", unknown="<unk>"))
    unknown = [text.text for text in drawing.iter("text") if text.get("class") == "word unknown"]
    assert unknown == ["<unk>"]
    assert tree_at(columns, 1, vocabulary).labels is not None


def test_nodes_without_a_label_are_dots() -> None:
    tree = parse_binary("( a ( b c ) )")._replace(labels=np.array([-100, 1, -100, -100, 0]))
    drawing = ElementTree.fromstring(tree_svg(tree, ""))
    assert [circle.get("class") for circle in drawing.iter("circle")] == ["node", "dot", "node"]
    assert [text.text for text in drawing.iter("text")] == ["a", "1", "b", "c", "0"]


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


@pytest.mark.parametrize("n_sides", [1, 2])
def test_histograms_fit_a_terminal(n_sides: int) -> None:
    from rich.console import Console

    plots = [Bars("hypothesis", ["1–5", "1,006–1,234"], [1.0, 0.0], ["100.0%", "0.0%"], [])] * n_sides
    console = Console(width=80)
    with console.capture() as captured:
        console.print(histogram_table("words", plots))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in captured.get()
    (full,) = (line for line in lines if "100.0%" in line)
    assert full.count("█") > 20 * n_sides
    assert full.count("100.0%") == n_sides
