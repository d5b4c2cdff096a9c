"""One HTML page that needs nothing else: tables, bar plots and trees drawn as SVG, readable in light and dark.

All text goes through `escape`, and the page forbids scripts and whatever comes from elsewhere, so that words of a
corpus are never more than words.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from html import escape as html_escape
from typing import NamedTuple

from spinn_tensor.data_prep.columns import NO_LABEL
from spinn_tensor.data_prep.trees import REDUCE, Tree

ROW, BAR, CHARACTER = (
    20,
    220,
    7,
)  # pixels of a bar plot: height of a row, length of the longest bar, a character
WORD, GAP, LEVEL, TALLEST, RADIUS = (
    8,
    16,
    36,
    480,
    9,
)  # of a tree: a character, between words, a level, all levels
MARGIN = 12

STYLE = """\
:root { color-scheme: light dark; --paper: #fbfaf7; --ink: #24292d; --quiet: #686e73; --line: #dcd9d1;
  --bar: #6d9bab; --mark: #b4562c; --node: #eef3f4; }
@media (prefers-color-scheme: dark) { :root { --paper: #17191b; --ink: #dfe1df; --quiet: #969c9f; --line: #363a3d;
  --bar: #4f8294; --mark: #e59a6f; --node: #25313a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", "Helvetica Neue", sans-serif; }
h1 { font-size: 1.7rem; font-weight: 600; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; font-weight: 600; margin: 3rem 0 .6rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: .95rem; font-weight: 600; margin: 1.4rem 0 .4rem; }
p { margin: .4rem 0; max-width: 44rem; }
.quiet { color: var(--quiet); font-size: .9rem; }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem 1.4rem .25rem 0; text-align: right; vertical-align: top; white-space: nowrap; }
th { font-weight: 600; color: var(--quiet); border-bottom: 1px solid var(--line); }
td { border-bottom: 1px solid color-mix(in srgb, var(--line) 45%, transparent); }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 9rem; overflow-wrap: anywhere; }
.plots { display: flex; flex-wrap: wrap; gap: .5rem 3rem; }
svg { display: block; }
svg text { fill: var(--ink); font: 12px system-ui, "Segoe UI", "Helvetica Neue", sans-serif; }
svg .quiet { fill: var(--quiet); }
svg .bar { fill: var(--bar); }
svg .mark { stroke: var(--mark); stroke-width: 2; }
svg .edge { fill: none; stroke: var(--quiet); stroke-width: 1.2; }
svg .dot { fill: var(--quiet); }
svg .node { fill: var(--node); stroke: var(--quiet); }
svg .word { font-size: 14px; }
svg .unknown { fill: var(--quiet); font-style: italic; }
"""

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


class Figures(NamedTuple):
    """A table."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]  # as many cells each as there are columns
    text_columns: tuple[int, ...] = (0,)  # the others have numbers


class Bars(NamedTuple):
    """A bar plot; shares are numbers from 0 to 1."""

    title: str
    names: list[str]
    shares: list[float]  # of each name; NaN where there is none
    texts: list[str]  # beside each bar
    marks: list[float]  # shares of what it is compared with, or none


def escape(text: str) -> str:
    """Text as it stands in HTML and in XML, where a control character or half of a surrogate pair cannot be."""
    return html_escape(
        "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs", "Cn") else c for c in text)
    )


def page(title: str, parts: Iterable[str]) -> str:
    """The whole file; `parts` is HTML, the title is text."""
    return PAGE.format(title=escape(title), style=STYLE, body="\n".join(parts))


def element(name: str, text: str, css_class: str = "") -> str:
    """Text between tags."""
    attribute = f' class="{css_class}"' if css_class else ""
    return f"<{name}{attribute}>{escape(text)}</{name}>"


def box(css_class: str, parts: Iterable[str]) -> str:
    """HTML in a block of its own."""
    return "\n".join((f'<div class="{css_class}">', *parts, "</div>"))


def table(figures: Figures) -> str:
    head = "".join(element("th", name) for name in figures.columns)
    rows = ("".join(element("td", cell) for cell in row) for row in figures.rows)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return box("wide", [f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"])


def bar_plot(bars: Bars) -> str:
    """A bar a name, one below the other, and a stroke where what it is compared with ends."""
    left = CHARACTER * max(map(text_width, bars.names), default=0) + MARGIN
    right = CHARACTER * max(map(text_width, bars.texts), default=0) + MARGIN
    longest = max((share for share in (*bars.shares, *bars.marks) if not math.isnan(share)), default=0.0)
    scale = BAR / longest if longest else 0.0
    rows: list[str] = []
    for i, (name, share, text) in enumerate(zip(bars.names, bars.shares, bars.texts, strict=True)):
        top = i * ROW
        length = 0.0 if math.isnan(share) else share * scale
        rows.append(_text(left - 8, top + 14, name, "quiet", "end"))
        rows.append(f'<rect class="bar" x="{left}" y="{top + 3}" width="{length:.1f}" height="{ROW - 6}"/>')
        if bars.marks and not math.isnan(bars.marks[i]):
            x = left + bars.marks[i] * scale
            rows.append(f'<path class="mark" d="M{x:.1f} {top + 1}V{top + ROW - 1}"/>')
        rows.append(_text(left + BAR + 8, top + 14, text, "quiet"))
    return svg(bars.title, left + BAR + right, ROW * len(bars.names), rows)


def tree_svg(
    tree: Tree,  # N tokens
    title: str,
    unknown: str = "",  # a token that stands for words that are not known
) -> str:
    """Words at the bottom, each node above the middle of its two children; labels on the nodes if they have any."""
    x, heights, children = _layout(tree)
    level = min(LEVEL, TALLEST / max(1, max(heights)))
    bottom = MARGIN + RADIUS + max(heights) * level
    y = [bottom - height * level for height in heights]
    # Down from a bar as high as the node: above a child there is nothing but its own node, so that no lines cross.
    edges = "".join(
        f"M{x[left]:.1f} {y[left]:.1f}V{y[node]:.1f}H{x[right]:.1f}V{y[right]:.1f}"
        for node, (left, right) in children.items()
    )
    parts = [f'<path class="edge" d="{edges}"/>'] if edges else []
    tokens = iter(tree.tokens)
    for node in range(len(x)):
        if tree.labels is not None and tree.labels[node] != NO_LABEL:
            parts.append(f'<circle class="node" cx="{x[node]:.1f}" cy="{y[node]:.1f}" r="{RADIUS}"/>')
            parts.append(_text(x[node], y[node] + 4, str(int(tree.labels[node])), "", "middle"))
        elif node in children:
            parts.append(f'<circle class="dot" cx="{x[node]:.1f}" cy="{y[node]:.1f}" r="2.5"/>')
        if node not in children:
            word = next(tokens)
            css_class = "word unknown" if word == unknown else "word"
            parts.append(_text(x[node], bottom + RADIUS + 14, word, css_class, "middle"))
    width = GAP + sum(_word_width(word) for word in tree.tokens)
    return svg(title, width, bottom + RADIUS + 14 + MARGIN, parts)


def svg(title: str, width: float, height: float, parts: Iterable[str]) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return "\n".join((f'<svg role="img" {size}>', element("title", title), *parts, "</svg>"))


def text_width(text: str) -> int:
    """In characters of usual width; those of East Asian scripts take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _word_width(word: str) -> int:
    return max(WORD * text_width(word), 2 * RADIUS) + GAP


def _layout(tree: Tree) -> tuple[list[float], list[int], dict[int, tuple[int, int]]]:
    """Of each transition's node: where it stands and how high above the words; and both children of those with any."""
    x: list[float] = []
    heights: list[int] = []
    children: dict[int, tuple[int, int]] = {}
    stack: list[int] = []
    tokens, end = iter(tree.tokens), GAP / 2
    for node, transition in enumerate(tree.transitions.tolist()):
        if transition == REDUCE:
            right, left = stack.pop(), stack.pop()
            x.append((x[left] + x[right]) / 2)
            heights.append(1 + max(heights[left], heights[right]))
            children[node] = left, right
        else:
            width = _word_width(next(tokens))
            x.append(end + width / 2)
            end += width
            heights.append(0)
        stack.append(node)
    return x, heights, children


def _text(x: float, y: float, text: str, css_class: str = "", anchor: str = "start") -> str:
    attribute = f' class="{css_class}"' if css_class else ""
    return f'<text{attribute} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
