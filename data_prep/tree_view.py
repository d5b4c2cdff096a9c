"""A parse drawn with box characters: one line a word, one column a level, whatever the width of the terminal.

    ┬─┬───── the
    │ └───── church
    └─┬─┬─── has
      │ └─── cracks
      └───── .

A vertical bar joins the two children of a node; words stand in one column, so that the
sentence reads downwards.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import NamedTuple

from spinn_tensor.data_prep.columns import NO_LABEL
from spinn_tensor.data_prep.trees import REDUCE, Tree, format_binary, node_spans

MOST_WORDS = 1_000  # of a tree that is drawn: N words one below the other have up to N² columns
GAP = 4  # between two drawings


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
