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

from spinn_tensor.data_prep.trees import REDUCE, Tree, format_binary

MOST_WORDS = 1_000  # of a tree that is drawn: N words one below the other have up to N² columns
GAP = 4  # between two drawings


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
    height = max(len(left), len(right))
    pairs = zip(left + [""] * (height - len(left)), right + [""] * (height - len(right)), strict=True)
    return [(a.ljust(width) + b).rstrip() for a, b in pairs]
