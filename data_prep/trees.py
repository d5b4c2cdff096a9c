"""Four notations of one binary tree, each converted into the others without loss.

    ( ( The church ) ( is old ) )                   binary parse (SNLI)
    The church ) is old ) )                         close-bracket notation: open brackets dropped
    S   S      R S  S   R R                         transitions, T = 2N-1, beside the N tokens
    (3 (2 (2 The) (2 church)) (3 (2 is) (1 old)))   labelled tree (SST): a label on every node

A sentence of one token has the binary parse `Word` and the transitions `S`. Symbols are separated by blanks,
tabs and line ends only: SST has tokens with a no-break space in them. Everything here is a loop, never a
recursion, so that a tree may be as deep as its sentence is long. Every error is a `DataError` that names a
symbol and its position, counted from 1; brackets, labels and words each count as one symbol.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spinn_tensor.data_prep.errors import DataError, not_text

if TYPE_CHECKING:
    from spinn_tensor.data_prep.penn import PennTree

SHIFT = 0
REDUCE = 1
PADDING = -1

_SYMBOL = re.compile(r"[^ \t\r\n]+")
_LABELLED_SYMBOL = re.compile(r"[()]|[^() \t\r\n]+")
_WORD = re.compile(r"(?![()]\Z)[^ \t\r\n]+")
_LABELLED_WORD = re.compile(r"[^() \t\r\n]+")


class Tree(NamedTuple):
    """Hold a sentence of N tokens and its binary tree."""

    tokens: tuple[str, ...]  # N words
    transitions: np.ndarray  # (2N-1,) int8, SHIFT or REDUCE
    labels: np.ndarray | None = None  # (2N-1,) int64, label of the node that each transition pushes
    penn: PennTree | None = None  # what it was binarised from, without traces

    @property
    def n_tokens(self) -> int:
        """Count the tokens, N."""
        return len(self.tokens)


@dataclass(slots=True)
class Bracket:
    """Hold a bracket, and what is right in it as far as it has been read."""

    position: int
    label: str = ""  # "" where it has none
    n_children: int = 0
    n_words: int = 0  # of these
    word_position: int = 0  # of the last of them


def walk_brackets(symbols: Sequence[str], has_labels: bool) -> Iterator[tuple[int, str, Bracket]]:
    """Yield each bracket and word of a tree with its position, and the bracket that it is, closes or is in.

    Raises DataError, when what is before has been given, for brackets that do not make one tree, and for no tree.
    """
    root = Bracket(0)  # all that is in no bracket
    stack = [root]
    label_position = 0  # of the bracket before
    for position, symbol in enumerate(symbols, start=1):
        inside = stack[-1]
        if inside is root and root.n_children:
            raise symbol_error("after the end of the tree", symbols, position)
        if symbol == "(":
            inside.n_children += 1
            has_label = has_labels and position < len(symbols) and symbols[position] not in ("(", ")")
            label_position = position + 1 if has_label else 0
            stack.append(Bracket(position, symbols[position] if has_label else ""))
            yield position, symbol, stack[-1]
        elif symbol == ")":
            if inside is root:
                raise symbol_error("unbalanced: ')' without its '('", symbols, position)
            yield position, symbol, stack.pop()
        elif position != label_position:
            if inside is root and has_labels:
                raise symbol_error("expected '('", symbols, position)
            inside.n_children += 1
            inside.n_words += 1
            inside.word_position = position
            yield position, symbol, inside
    if stack[-1] is not root:
        raise symbol_error("unbalanced: '(' is never closed", symbols, stack[-1].position)
    if not root.n_children:
        raise DataError("an empty parse")


def parse_binary(text: str) -> Tree:
    """Read a binary parse, `( ( The church ) ( is old ) )`; a lone token is a sentence of one word."""
    symbols = _SYMBOL.findall(text)
    tokens: list[str] = []
    transitions: list[int] = []
    for position, symbol, bracket in walk_brackets(symbols, has_labels=False):
        if symbol == ")":
            if bracket.n_children != 2:
                raise symbol_error(_wrong_children(bracket.n_children), symbols, position)
            transitions.append(REDUCE)
        elif symbol != "(":
            tokens.append(symbol)
            transitions.append(SHIFT)
    return Tree(tuple(tokens), np.array(transitions, dtype=np.int8))


def format_binary(tree: Tree) -> str:
    """Write a tree as a binary parse."""
    _check_writable(tree, _WORD)
    spans = node_spans(tree.transitions)
    n_nodes = Counter(first for first, _ in spans)
    parts = []
    for transition, (first, _) in zip(tree.transitions.tolist(), spans, strict=True):
        if transition == REDUCE:
            parts.append(")")
        else:
            parts += ["("] * (n_nodes[first] - 1) + [tree.tokens[first]]
    return " ".join(parts)


def node_spans(transitions: np.ndarray) -> list[tuple[int, int]]:
    """Return the words [first, end) under the node that each transition of a tree pushes."""
    spans = []
    stack: list[int] = []  # first word of each tree on the stack
    n_words = 0
    for transition in transitions.tolist():
        if transition == REDUCE:
            stack.pop()
        else:
            stack.append(n_words)
            n_words += 1
        spans.append((stack[-1], n_words))
    return spans


def right_branching(tokens: Sequence[str]) -> Tree:
    """Put words under a right-branching tree, which stands in for a parse until there is one."""
    transitions = np.repeat(np.array([SHIFT, REDUCE], dtype=np.int8), [len(tokens), max(len(tokens) - 1, 0)])
    return Tree(tuple(not_text(tokens)), transitions)


def parse_close_bracket(text: str) -> Tree:
    """Read the close-bracket notation, `The church ) is old ) )`: every `)` joins the two trees before it."""
    symbols = _SYMBOL.findall(text)
    if "(" in symbols:
        raise symbol_error("a stray '(' in close-bracket notation", symbols, symbols.index("(") + 1)
    tokens = tuple(symbol for symbol in symbols if symbol != ")")
    transitions = np.array([REDUCE if symbol == ")" else SHIFT for symbol in symbols], dtype=np.int8)
    _check_one_tree(transitions, len(tokens), symbols)
    return Tree(tokens, transitions)


def format_close_bracket(tree: Tree) -> str:
    """Write a tree in the close-bracket notation."""
    _check_writable(tree, _WORD)
    words = iter(tree.tokens)
    return " ".join(")" if transition == REDUCE else next(words) for transition in tree.transitions.tolist())


def parse_transitions(text: str, tokens: Sequence[str]) -> Tree:
    """Read transitions, `S S R S S R R`, over the given tokens."""
    symbols = _SYMBOL.findall(text)
    for position, symbol in enumerate(symbols, start=1):
        if symbol not in ("S", "R"):
            raise symbol_error("expected S or R", symbols, position)
    transitions = np.array([REDUCE if symbol == "R" else SHIFT for symbol in symbols], dtype=np.int8)
    _check_one_tree(transitions, len(tokens), symbols)
    return Tree(tuple(tokens), transitions)


def format_transitions(tree: Tree) -> str:
    """Write a tree's transitions; beside its tokens they are the whole tree."""
    check_transitions(tree.transitions, tree.n_tokens)
    return " ".join(_names(tree.transitions))


def parse_labelled(text: str, n_labels: int = 5) -> Tree:
    """Read a labelled tree, `(3 (2 It) (4 works))`, with labels from 0 to n_labels - 1."""
    symbols = _LABELLED_SYMBOL.findall(text)
    label_of = {str(label): label for label in range(n_labels)}
    tokens: list[str] = []
    transitions: list[int] = []
    labels: list[int] = []
    for position, symbol, bracket in walk_brackets(symbols, has_labels=True):
        if symbol == "(":
            if bracket.label not in label_of and position < len(symbols):
                reason = f"expected a label from 0 to {n_labels - 1} (a bracket among words is written -LRB-)"
                raise symbol_error(reason, symbols, position + 1)
        elif symbol != ")":
            if bracket.n_children > 1:
                raise symbol_error("a stray label or word", symbols, position)
        else:
            if bracket.n_words and bracket.n_children > 1:
                raise symbol_error("a stray label or word", symbols, bracket.word_position)
            if not bracket.n_words and bracket.n_children != 2:
                raise symbol_error(_wrong_children(bracket.n_children), symbols, position)
            if bracket.n_words:
                tokens.append(symbols[bracket.word_position - 1])
            transitions.append(SHIFT if bracket.n_words else REDUCE)
            labels.append(label_of[bracket.label])
    return Tree(tuple(tokens), np.array(transitions, dtype=np.int8), np.array(labels, dtype=np.int64))


def format_labelled(tree: Tree) -> str:
    """Write a tree with its labels; raises DataError where it has none."""
    _check_writable(tree, _LABELLED_WORD)
    if tree.labels is None or len(tree.labels) != len(tree.transitions):
        n_labels = 0 if tree.labels is None else len(tree.labels)
        raise DataError(f"got {n_labels} labels, expected one for each of {len(tree.transitions)} nodes")
    spans = node_spans(tree.transitions)
    opens: list[list[str]] = [[] for _ in tree.tokens]  # of each word, the innermost first
    for label, (first, _) in zip(tree.labels.tolist(), spans, strict=True):
        opens[first].append(f" ({label}")
    parts = []
    for transition, (first, _) in zip(tree.transitions.tolist(), spans, strict=True):
        parts += [")"] if transition == REDUCE else [*reversed(opens[first]), f" {tree.tokens[first]})"]
    return "".join(parts).lstrip()


def check_transitions(transitions: np.ndarray, n_tokens: int) -> None:
    """Check that transitions (T,), integers, make one binary tree over n_tokens tokens, T = 2 * n_tokens - 1.

    Raises DataError naming the first transition that does not fit.
    """
    is_array = isinstance(transitions, np.ndarray)
    if not is_array or transitions.ndim != 1 or transitions.dtype.kind not in "iu":
        got = f"{transitions.dtype} of shape {transitions.shape}" if is_array else type(transitions).__name__
        raise DataError(f"got transitions as {got}, expected one row of integers")
    strange = np.flatnonzero((transitions != SHIFT) & (transitions != REDUCE))
    if strange.size:
        position = int(strange[0])
        raise DataError("expected 0 (SHIFT) or 1 (REDUCE)", token=(position + 1, str(transitions[position])))
    _check_one_tree(transitions, n_tokens, _names(transitions))


def check_lengths(lengths: np.ndarray) -> None:
    """Raise DataError naming the first sentence without tokens."""
    if (lengths < 1).any():
        raise DataError("a sentence without tokens", example=int(np.argmax(lengths < 1)))


def check_all_transitions(transitions: np.ndarray, lengths: np.ndarray) -> None:
    """Check transitions (M,) of sentences of so many tokens (B,), one sentence after another, all at once.

    Every tree leaves one entry on the stack. On one stack for them all, sentence b thus starts at depth b, stays
    above it, and ends at b + 1. Raises DataError naming the first example that is no tree, and where.
    """
    check_lengths(lengths)
    ends = np.cumsum(2 * lengths - 1)
    n_expected = int(ends[-1]) if len(ends) else 0
    if transitions.shape != (n_expected,):
        raise DataError(f"got transitions of shape {transitions.shape}, expected ({n_expected},)")
    sentence = np.repeat(np.arange(len(lengths)), 2 * lengths - 1)
    depth = np.cumsum(np.where(transitions == REDUCE, -1, 1)) - sentence  # (M,) within the sentence
    bad = (transitions < SHIFT) | (transitions > REDUCE) | (depth < 1)
    bad[ends - 1] |= depth[ends - 1] != 1
    if bad.any():
        example = int(sentence[np.argmax(bad)])
        end = int(ends[example])
        try:
            check_transitions(transitions[end - 2 * int(lengths[example]) + 1 : end], int(lengths[example]))
        except DataError as error:
            raise error.at(example=example) from None


def _check_one_tree(transitions: np.ndarray, n_tokens: int, symbols: Sequence[str]) -> None:
    """Check as check_transitions does; symbols (T,) are what errors quote."""
    if not transitions.size:
        raise DataError("an empty parse")
    depth = np.cumsum(np.where(transitions == REDUCE, -1, 1))  # (T,) trees on the stack after each
    short = np.flatnonzero(depth < 1)
    if short.size:
        position = int(short[0])
        raise symbol_error(_wrong_children(int(depth[position]) + 1), symbols, position + 1)
    shift_index = np.flatnonzero(transitions == SHIFT)
    if shift_index.size > n_tokens:
        raise symbol_error(f"a SHIFT beyond the {n_tokens} tokens", symbols, int(shift_index[n_tokens]) + 1)
    if shift_index.size < n_tokens:
        raise symbol_error(f"ends after {shift_index.size} of {n_tokens} tokens", symbols, len(symbols))
    if depth[-1] != 1:
        raise symbol_error(f"unbalanced: ends with {depth[-1]} trees, expected one", symbols, len(symbols))


def _check_writable(tree: Tree, word: re.Pattern[str]) -> None:
    """Check that the tree is one, and that its tokens can be read back from the notation."""
    check_transitions(tree.transitions, tree.n_tokens)
    for position, token in enumerate(tree.tokens, start=1):
        if not word.fullmatch(token):
            raise DataError("this notation cannot hold such a token", token=(position, token))


def _names(transitions: np.ndarray) -> list[str]:
    return ["R" if transition == REDUCE else "S" for transition in transitions.tolist()]


def _wrong_children(n_children: int) -> str:
    count = {0: "no children", 1: "one child"}.get(n_children, f"{n_children} children")
    return f"a node with {count}"


def symbol_error(reason: str, symbols: Sequence[str], position: int) -> DataError:
    return DataError(reason, token=(position, symbols[position - 1]))
