"""A parse drawn with box characters: one line a word, one column a level, whatever the width of the terminal.

    ┬─┬───── the
    │ └───── church
    └─┬─┬─── has
      │ └─── cracks
      └───── .

A vertical bar joins the two children of a node; words stand in one column, so that the
sentence reads downwards. `svg` draws trees as one picture that loads nothing, words beside each other below the root.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from html import escape
from itertools import zip_longest
from typing import NamedTuple

from spinn_tensor.data_prep.columns import NO_LABEL
from spinn_tensor.data_prep.trees import REDUCE, Tree, format_binary, node_spans

MOST_WORDS = 1_000  # of a tree that is drawn: N words one below the other have up to N² columns
GAP = 4  # between two drawings
# of a fixed width at 14 px; between words; of a node; around a tree
LETTER, BETWEEN, LEVEL, MARGIN = 8.4, 18, 30, 14
STYLE = "text{font:14px monospace;fill:#24292d}path{fill:none;stroke:#6d9bab;stroke-width:1.5}"


class Node(NamedTuple):
    """Place a word, or a bracket over the words of a constituent, in a grid with a place for each word."""

    level: int  # from 1, the root's; all words are on the last one
    first: int  # place of its first word, from 1
    end: int  # the place behind its last one
    kind: str  # of CSS
    label: int | None
    word: str = ""


def drawn(tree: Tree) -> list[str]:
    """Draw a tree; one that is too long becomes a line that says so, and the parse."""
    return [note, format_binary(tree)] if (note := too_long(tree)) else tree_lines(tree)


def too_long(tree: Tree) -> str:
    """Say that a tree has too many words to be drawn; "" where it has not."""
    if tree.n_tokens <= MOST_WORDS:
        return ""
    return f"not drawn: {tree.n_tokens:,} words, at most {MOST_WORDS:,} are drawn"


def tree_lines(tree: Tree) -> list[str]:
    """Draw a line for each token, nested from the transitions without recursion, so that depth is no limit."""
    stack: list[list[str]] = []
    for transition in tree.transitions:
        if transition == REDUCE:
            right, left = stack.pop(), stack.pop()
            stack.append(_joined(left, right))
        else:
            stack.append([""])
    branches = stack[0]
    width = max(map(len, branches))
    return [
        branch + "─" * (width - len(branch) + 1) + " " + token
        for branch, token in zip(branches, tree.tokens, strict=True)
    ]


def _joined(left: list[str], right: list[str]) -> list[str]:
    """Join the branches of a node: a bar goes from the left child's first line down to the right child's."""
    return [
        "┬─" + left[0],
        *("│ " + line for line in left[1:]),
        "└─" + right[0],
        *("  " + line for line in right[1:]),
    ]


def side_by_side(left: list[str], right: list[str]) -> list[str]:
    """Put two drawings beside each other."""
    width = max(map(len, left)) + GAP
    return [(a.ljust(width) + b).rstrip() for a, b in zip_longest(left, right, fillvalue="")]


def tree_grid(
    tree: Tree,  # N tokens
    unknown: str = "",  # a token that stands for words that are not known
) -> tuple[int, list[Node]]:
    """Place a tree in a grid of N places: return the levels above the words, and all nodes by their transitions."""
    heights: list[int] = []  # above the words, of each node
    stack: list[int] = []
    for transition in tree.transitions.tolist():
        height = 1 + max(stack.pop(), stack.pop()) if transition == REDUCE else 0
        stack.append(height)
        heights.append(height)
    spans = node_spans(tree.transitions)
    labels = [NO_LABEL] * len(spans) if tree.labels is None else tree.labels.tolist()
    top, nodes = heights[-1], []
    for height, (first, end), label in zip(heights, spans, labels, strict=True):
        word = tree.tokens[first] if height == 0 else ""
        kind = "node" if height else "word unknown" if word == unknown else "word"
        shown = None if label == NO_LABEL else label
        nodes.append(Node(top - height + 1, first + 1, end + 1, kind, shown, word))
    return top, nodes


def svg(trees: Iterable[Tree]) -> str:
    """Return the text of a picture of trees, one below the other."""
    parts, top, width = [], 0.0, 0.0
    for tree in trees:
        elements, tree_width, height = _svg_of(tree)
        parts.append(f'<g transform="translate(0 {top:g})">{elements}</g>')
        top, width = top + height, max(width, tree_width)
    size = f'width="{width:g}" height="{top:g}" viewBox="0 0 {width:g} {top:g}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{STYLE}</style>\n{body}\n</svg>\n'


def _svg_of(tree: Tree) -> tuple[str, float, float]:  # and its width and height
    if note := too_long(tree):
        return _text(MARGIN, LEVEL, note, anchor="start"), 2 * MARGIN + LETTER * len(note), 2 * LEVEL
    levels, nodes = tree_grid(tree)
    x = float(MARGIN)
    middles = []  # of the words
    for token in tree.tokens:
        middles.append(x + LETTER * _width(token) / 2)
        x += LETTER * _width(token) + BETWEEN
    places: list[tuple[float, float]] = []  # of the nodes whose parents are still to come
    elements = []
    for node in nodes:
        y = MARGIN + LEVEL * (node.level - 1)
        if node.end - node.first == 1:
            here = (middles[node.first - 1], MARGIN + LEVEL * levels)
            elements.append(_text(here[0], here[1] + 14, node.word))
        else:
            right, left = places.pop(), places.pop()
            here = ((left[0] + right[0]) / 2, y)
            elements.append(
                f'<path d="M{left[0]:g} {left[1]:g}L{here[0]:g} {y:g}L{right[0]:g} {right[1]:g}"/>'
            )
        places.append(here)
    return "".join(elements), x - BETWEEN + MARGIN, 2 * MARGIN + LEVEL * levels + 20


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(printable(text), quote=False)}</text>'


def printable(text: str) -> str:
    """Replace what cannot be in XML, control characters and halves of surrogate pairs."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs", "Cn") else c for c in text)


def _width(text: str) -> int:
    """Count the letters, those of East Asia twice."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
