"""A tree as JSON: an object with its tokens and spans, or nested lists of its words."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import orjson

from spinn_tensor.data_prep.penn import PennTree
from spinn_tensor.data_prep.tokenizer import Offsets
from spinn_tensor.data_prep.trees import Tree, format_binary


def tree_object(
    tree: Tree,
    text: str,  # that the tokens are of; "": they were given
    offsets_in: Callable[[str], Offsets],  # of the tokens of a text
    log_probability: float | None,  # of the tree
) -> dict[str, Any]:
    """Return the tokens of a tree, their offsets in the text, and its spans of words and of characters."""
    offsets = offsets_in(text) if text else _joined(tree.tokens)
    return {
        "text": text or " ".join(tree.tokens),
        "tokens": tree.tokens,
        "offsets": offsets,
        "tree": format_binary(tree),
        "spans": [
            {"words": (start, end), "characters": (offsets[start][0], offsets[end - 1][1])}
            for _, start, end in PennTree.of_binary(tree).phrases[1:]  # the first is the whole once more
        ],
        "log_probability": None if log_probability is None else round(log_probability, 6),
    }


def nested(tree: Tree) -> str:
    """Return a tree as the text of nested JSON lists, which are as deep as the tree is.

    >>> from spinn_tensor.data_prep.trees import parse_binary
    >>> nested(parse_binary("( ( The dog ) barks )"))
    '[["The","dog"],"barks"]'
    """
    parts = [""]
    for symbol in format_binary(tree).split(" "):
        if symbol != ")" and parts[-1] not in ("", "["):
            parts.append(",")
        parts.append({"(": "[", ")": "]"}.get(symbol) or orjson.dumps(symbol).decode())
    return "".join(parts)


def _joined(tokens: tuple[str, ...]) -> Offsets:
    """Return the offsets of tokens that blanks join."""
    starts = accumulate((len(token) + 1 for token in tokens), initial=0)
    return [(start, start + len(token)) for start, token in zip(starts, tokens, strict=False)]
