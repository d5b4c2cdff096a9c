"""A sentence in a text: a binary parse, or words where there is a tokenizer for them."""

from __future__ import annotations

import re
from collections.abc import Callable

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.trees import Tree, parse_binary, right_branching

PARSE = "binary_parse"  # what the name of a field with a parse ends in
WITHOUT_PARSE = "text without a parse: make parses with spinn parse, or choose --branching"
Tokenize = Callable[[str], tuple[str, ...]]  # as `Tokenizer.tokenize`
Sentence = (
    str | Tree
)  # a binary parse that is still text (many are read at once by `parse_chunks`), or what it is
_BEGINS_PARSE = re.compile(r"\s*\(\s")


def parse_or_words(text: str, tokenize: Tokenize | None, field: str | None = None) -> Sentence:
    """Return the parse that a text is; with a tokenizer, text that does not begin like one, with "( ", is words.

    Raises DataError naming the field.
    """
    if tokenize is None or text.startswith("( ") or _BEGINS_PARSE.match(text) is not None:
        return text
    return words_of(text, tokenize, field)


def words_of(text: str, tokenize: Tokenize, field: str | None = None) -> Tree:
    """Return the words of a text under a right-branching tree, which is to be replaced.

    Raises DataError naming the field.
    """
    try:
        return right_branching(tokenize(text))
    except DataError as error:
        raise error.at(field=field) from None


def tree_of(sentence: Sentence, field: str | None = None) -> Tree:
    """Return the tree of a sentence. Raises DataError naming the field, and saying what to do about text."""
    if not isinstance(sentence, str):
        return sentence
    try:
        return parse_binary(sentence)
    except DataError as error:
        is_text = not (field or "").endswith(PARSE) and _BEGINS_PARSE.match(sentence) is None
        reason = f"{error.reason}; {WITHOUT_PARSE}" if is_text else error.reason
        raise DataError(reason, field=field, token=error.token) from None


def parse_or_tokenize(text: str, tokenize: Tokenize | None) -> Tree:
    """Return the tree of a text, read as `parse_or_words` says. Raises DataError."""
    return tree_of(parse_or_words(text, tokenize))
