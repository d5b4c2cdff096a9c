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

from data_prep.trees import REDUCE, Tree


def tree_lines(tree: Tree) -> list[str]:
    """One line a token; nested from the transitions without recursion, so depth is no limit."""
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
    """The branches of a node: a bar goes from the left child's first line down to the right child's."""
    return [
        "┬─" + left[0],
        *("│ " + line for line in left[1:]),
        "└─" + right[0],
        *("  " + line for line in right[1:]),
    ]


def side_by_side(left: list[str], right: list[str], gap: int = 4) -> list[str]:
    """Two drawings beside each other."""
    width = max(map(len, left)) + gap
    height = max(len(left), len(right))
    pairs = zip(left + [""] * (height - len(left)), right + [""] * (height - len(right)), strict=True)
    return [(a.ljust(width) + b).rstrip() for a, b in pairs]
