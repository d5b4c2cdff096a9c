"""Trees as a picture: one SVG file that loads nothing, its words beside each other below the root."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from xml.sax.saxutils import escape

from spinn_tensor.data_prep.tree_view import too_long, tree_grid
from spinn_tensor.data_prep.trees import Tree

# of a fixed width at 14 px; between words; of a node; around a tree
LETTER, GAP, LEVEL, MARGIN = 8.4, 18, 30, 14
STYLE = "text{font:14px monospace;fill:#24292d}path{fill:none;stroke:#6d9bab;stroke-width:1.5}"


def svg(trees: Iterable[Tree]) -> str:
    """Return the text of a picture of trees, one below the other."""
    parts, top, width = [], 0.0, 0.0
    for tree in trees:
        elements, tree_width, height = _drawing(tree)
        parts.append(f'<g transform="translate(0 {top:g})">{elements}</g>')
        top, width = top + height, max(width, tree_width)
    size = f'width="{width:g}" height="{top:g}" viewBox="0 0 {width:g} {top:g}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{STYLE}</style>\n{body}\n</svg>\n'


def _drawing(tree: Tree) -> tuple[str, float, float]:  # and its width and height
    if note := too_long(tree):
        return _text(MARGIN, LEVEL, note, anchor="start"), 2 * MARGIN + LETTER * len(note), 2 * LEVEL
    levels, nodes = tree_grid(tree)
    x = float(MARGIN)
    middles = []  # of the words
    for token in tree.tokens:
        middles.append(x + LETTER * _width(token) / 2)
        x += LETTER * _width(token) + GAP
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
    return "".join(elements), x - GAP + MARGIN, 2 * MARGIN + LEVEL * levels + 20


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(printable(text))}</text>'


def printable(text: str) -> str:
    """Replace what cannot be in XML, control characters and halves of surrogate pairs."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs", "Cn") else c for c in text)


def _width(text: str) -> int:
    """Count the letters, those of East Asia twice."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
