"""A sentence in a text: a tree in its notation, or words where there is a tokenizer for them.

    ( ( A dog ) barks )                     a binary parse: begins with a bracket and a blank; or a lone word
    (S (NP (DT A) (NN dog)) (VP barks))     a tree as in the Penn Treebank: begins with two brackets and their labels,
                                            the outermost may have none; SST's trees are of this form, too
    A dog (really) barks.                   text: all else, also where the bracket that it begins with is closed and no
                                            other ends it: ( Laughs ) That is funny .

This rule holds wherever a sentence is read; `notation` says "text" or "parses" where it is wrong. A text that is
written as a tree in all but its labels, which begin with small letters, is an error until `notation` says what it is;
where text is refused it is a tree. A label, or an invisible mark, and a tree are an error, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.penn import BINARIZE, DEFAULT_BINARIZE, LABEL, parse_penn, to_binary
from spinn_tensor.data_prep.settings import ConfigError
from spinn_tensor.data_prep.trees import Tree, parse_binary, right_branching

PARSE = "binary_parse"  # what the name of a field with a parse ends in
# the models that come with the package: a parser, and NLI
PACKAGED, PACKAGED_NLI = "packaged", "packaged-nli"
WITHOUT_PARSE = "text without a parse: --parser packaged or --branching makes trees"
PERHAPS_TEXT = "if it is no tree, notation says text"
Tokenize = Callable[[str], tuple[str, ...]]  # as `Tokenizer.tokenize`
NOTATIONS = ("auto", "text", "parses")

# the outer bracket, the first label, and a second bracket with its label; brackets of binary parses stand alone
_PENN = re.compile(rf"\((?:\s*\()?{LABEL}\s*\({LABEL}[\s(]")
_LABELLED = re.compile(r"\s*\((?:\s*\()*[^\s()]")  # of what is known to be a tree, as one of a single word
_BRACKETS = re.compile(r"[()\s]+\Z")  # a piece of a tree, never words
_INVISIBLE = re.compile("[\ufeff\u200b-\u200f\u202a-\u202e\u2060-\u2069]+")
_BEFORE_BRACKET = re.compile(r"(?:[^()\t]*+\t|\s*+[^\s()]++)\s*+(?=\()")
_BLANKS = (" ", "\t", "\r", "\n")


class Words(NamedTuple):
    """Hold a sentence that has no tree yet."""

    tokens: tuple[str, ...]  # N > 0


Sentence = str | Tree | Words  # a binary parse may still be text: many are read at once by `parse_chunks`


def notation_of(text: str) -> Literal["binary", "penn", "text"]:
    """Tell what a text is, as the top of this module says."""
    if not text.startswith("("):
        text = text.lstrip()
        if not text.startswith(("(", ")")):
            return "text"
    if _PENN.match(text) or _BRACKETS.match(text):
        return "penn"
    if text.startswith(")"):
        return "text"
    is_binary = text[1:2] in _BLANKS and (text.rstrip().endswith(")") or not _closes(text))
    return "binary" if is_binary else "text"


def _closes(text: str) -> bool:
    """Tell whether the bracket that a text begins with is closed in it, brackets being those that stand alone."""
    depth = 0
    for symbol in text.split():
        depth += (symbol == "(") - (symbol == ")")
        if not depth:
            return True
    return False


def _is_tree(text: str) -> bool:
    """Tell whether a text is written as a Penn tree of two words or more, whatever its labels begin with."""
    if _LABELLED.match(text) is None:
        return False
    try:
        tree = parse_penn(text)
    except DataError:
        return False
    return len(tree.tokens) > 1 and all(tree.tags)


def _is_labelled(before: str, text: str) -> bool:
    """Tell whether what comes before the first bracket of a text stands before a tree."""
    rest = text[len(before) :]
    is_apart = "\t" in before.lstrip() or _INVISIBLE.fullmatch(before.strip())
    return (is_apart and notation_of(rest) != "text") or _is_tree(rest)


@dataclass(frozen=True)
class SentenceReader:
    """Read sentences: trees, binarised where they are not, and text where there is a tokenizer."""

    tokenize: Tokenize | None = None  # None: text is refused
    binarize: str = DEFAULT_BINARIZE
    notation: str = "auto"  # one of NOTATIONS: "text" or "parses" where `notation_of` is not asked

    def __post_init__(self) -> None:
        for name, value, known in (
            ("notation", self.notation, NOTATIONS),
            ("binarize", self.binarize, BINARIZE),
        ):
            if value not in known:
                raise ConfigError(f"{name}: expected one of {', '.join(known)}, got {value!r}")

    def read(self, text: str, field: str | None = None) -> Sentence:
        """Return a tree, a binary parse as it is, or words. Raises DataError naming the field."""
        found = notation_of(text) if self.notation == "auto" else self.notation
        if found == "penn" or (found == "parses" and _LABELLED.match(text)):
            return self._binarized(text, field)
        is_unsure = found == "text" and self.notation == "auto"
        if is_unsure and (before := _BEFORE_BRACKET.match(text)) and _is_labelled(before[0], text):
            reason = (
                f"a label, or an invisible mark, and a tree? Give the tree alone (cut -f 2); {PERHAPS_TEXT}"
            )
            raise DataError(reason, field=field)
        if is_unsure and _is_tree(text):
            if self.tokenize is None:
                return self._binarized(text, field)
            reason = "a tree with labels in small letters, or text? Say so: notation parses, or text"
            raise DataError(reason, field=field)
        if found == "text" and self.tokenize is not None:
            return self.words(text, field)
        return text

    def read_parse(self, text: str, field: str | None = None) -> Sentence:
        """Return what `read` does of a field that has parses, never text."""
        is_binary = (field or "").endswith(PARSE)
        is_penn = _PENN.match(text.lstrip()) if is_binary else _LABELLED.match(text)
        return self._binarized(text, field) if is_penn else text

    def words(self, text: str, field: str | None = None) -> Words:
        """Return the words of a text, whatever it looks like. Raises DataError naming the field."""
        assert self.tokenize is not None, "callers look whether text is read"
        try:
            return Words(self.tokenize(text))
        except DataError as error:
            raise error.at(field=field) from None

    def _binarized(self, text: str, field: str | None) -> Tree:
        try:
            return to_binary(parse_penn(text), self.binarize)
        except DataError as error:
            raise error.at(field=field) from None


TREES_ONLY = SentenceReader()  # refuses text


def tree_of(sentence: Sentence, field: str | None = None) -> Tree:
    """Return the tree of a sentence. Raises DataError naming the field, and saying what to do about text."""
    if isinstance(sentence, Words):
        return right_branching(sentence.tokens)
    if not isinstance(sentence, str):
        return sentence
    try:
        return parse_binary(sentence)
    except DataError as error:
        is_parse = (field or "").endswith(PARSE)
        is_text = not is_parse and notation_of(sentence) == "text"
        is_over = not is_parse and error.reason.startswith("after the end")  # as of ( Applause ) ( Laughter )
        hint = WITHOUT_PARSE if is_text else PERHAPS_TEXT if is_over else ""
        reason = f"{error.reason}; {hint}" if hint else error.reason
        raise DataError(reason, field=field, token=error.token) from None
