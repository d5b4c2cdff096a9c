"""Sentences as a program holds them: strings, lists of words, columns of tables, documents and trees of other packages.

    "A dog barks."                a string: text, or a tree in its notation
    ["A", "dog", "barks"]         words as they are, in a list or array among others; brackets as -LRB-, -RRB-
    a Doc or Span of spaCy        its words as they are; its whitespace is none
    a Tree of nltk                its words under that tree

Nothing of these packages is imported: what they make is known by what it has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.penn import PennTree, Phrase
from spinn_tensor.data_prep.text import Words
from spinn_tensor.data_prep.token_rules import TREEBANK_BRACKETS
from spinn_tensor.data_prep.trees import Tree

_WORD = re.compile(r"[^ \t\r\n]+")


def is_document(given: Any) -> bool:
    """Tell whether it is a spaCy `Doc` or `Span`: tokens, over a vocabulary."""
    return hasattr(given, "vocab") and hasattr(given, "text") and hasattr(given, "__iter__")


def is_nltk_tree(given: Any) -> bool:
    """Tell whether it is an nltk `Tree`: a list with a label."""
    return isinstance(given, list) and hasattr(given, "label") and hasattr(given, "leaves")


def is_one(given: Any) -> bool:
    """Tell whether it is one sentence, or a missing one; a list of strings is as many, and words only among others."""
    is_missing = given is None or isinstance(given, float)
    is_read = isinstance(given, Tree | Words)
    return isinstance(given, str) or is_missing or is_read or is_document(given) or is_nltk_tree(given)


def sentences_of(given: Any) -> list[Any]:
    """Return the sentences of a list, column or other iterable, in order. Raises DataError for what has no order."""
    what = type(given).__name__
    if is_one(given):
        return [given]
    if isinstance(given, Mapping) or len(getattr(given, "columns", ())):
        raise DataError(f"got a table ({what}), expected one of its columns")
    if isinstance(given, Set):
        raise DataError(f"got a {what}, whose sentences have no order; expected a list")
    if isinstance(given, bytes) or getattr(given, "ndim", 1) == 0 or not isinstance(given, Iterable):
        raise DataError(f"got {what}, expected a sentence or a list of them")
    return given.to_pylist() if hasattr(given, "to_pylist") else list(given)  # Arrow's values are no strings


def words_of(given: Any) -> tuple[str, ...] | None:
    """Return the words of a sentence that is words; None for any other. Raises DataError."""
    if is_document(given):
        words: Sequence[Any] = [token.text for token in given if not token.text.isspace()]
    elif isinstance(given, list | tuple) or getattr(given, "ndim", 0) == 1:
        words = list(given)
    else:
        return None
    if not words:
        raise DataError("a sentence without words")
    return tuple(_word(word, position) for position, word in enumerate(words, start=1))


def _word(word: Any, position: int) -> str:
    if not isinstance(word, str):
        raise DataError(f"got {_named(word)} among words, expected a string", token=(position, str(word)))
    if not _WORD.fullmatch(word):
        raise DataError("expected a word without blanks", token=(position, word))
    if not word.isascii() and any("\ud800" <= character <= "\udfff" for character in word):
        raise DataError("half of a surrogate pair", token=(position, word))
    return TREEBANK_BRACKETS.get(word, str(word))  # one of NumPy's is shown as such


def penn_tree(tree: Any) -> PennTree:
    """Return an nltk tree, whose leaves are words or (word, tag), as a Penn tree. Raises DataError."""
    tokens: list[str] = []
    tags: list[str] = []
    phrases: list[Phrase] = []
    todo: list[tuple[Any, int]] = [(tree, -1)]  # the next last; or, for the end of a phrase, its number
    while todo:
        node, ended = todo.pop()
        if ended >= 0:
            label, first, _ = phrases[ended]
            if first == len(tokens):
                raise DataError(f"a phrase without a word, {label!r}")
            phrases[ended] = Phrase(label, first, len(tokens))
            continue
        word, tag = node, ""
        if is_nltk_tree(node):
            label = str(node.label() or "")
            if len(node) != 1 or is_nltk_tree(node[0]) or not label:
                phrases.append(Phrase(label, len(tokens), 0))
                todo += [(None, len(phrases) - 1), *((child, -1) for child in reversed(node))]
                continue
            word, tag = node[0], label
        if isinstance(word, tuple) and len(word) == 2:
            word, tag = word[0], tag or str(word[1])
        tokens.append(_word(word, len(tokens) + 1))
        tags.append(tag)
    return PennTree(tuple(tokens), tuple(tags), tuple(phrases))


def nltk_tree(tree: PennTree) -> Any:
    """Return a Penn tree as nltk's. Raises ImportError where nltk is not installed."""
    try:
        from nltk import Tree as NltkTree
    except ImportError as error:
        raise ImportError("trees of nltk need it: pip install nltk") from error
    root = NltkTree("", [])
    stack = [(root, len(tree.tokens) + 1)]  # with the place where each ends
    words = zip(tree.tokens, tree.tags, tree.opening(), strict=True)
    for place, (word, tag, phrases) in enumerate(words):
        for label, _, end in phrases:
            node = NltkTree(label, [])
            stack[-1][0].append(node)
            stack.append((node, end))
        stack[-1][0].append(NltkTree(tag, [word]) if tag else word)
        while stack[-1][1] == place + 1:
            stack.pop()
    return root[0] if len(root) == 1 and is_nltk_tree(root[0]) else root


def not_a_sentence(given: Any) -> DataError:
    """Return the error for what is no sentence, a missing value of a table among it."""
    return DataError(f"got {_named(given)}, expected a string")


def _named(value: Any) -> str:
    missing = isinstance(value, float) and value != value
    return "a missing value (NaN)" if missing else type(value).__name__
