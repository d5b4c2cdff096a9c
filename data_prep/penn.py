r"""Trees of the Penn Treebank: phrases with labels, any number of children, and words with tags.

    (ROOT (S (NP (DT The) (NN dog)) (VP (VBZ barks)) (. .)))

The outermost bracket may have no label, as in the Treebank's own files, and a word no tag; a tree may go over several
lines. A `PennTree` holds all of it: the words with their tags, and the phrases, outermost first. It is written back as
it was; what becomes of it on the way to a binary tree is told by `to_binary`.

Which child of an English phrase is its head say the rules of Collins (1999, "Head-Driven Statistical Models for Natural
Language Parsing", appendix A), for the labels of the Penn Treebank: a phrase has a direction and a list of labels, the
best first. For each label in turn the children are searched in that direction, and the first with it is the head;
without any it is the first child in that direction.

Everything here is a loop, never a recursion. Errors name a symbol and its position, as those of `trees`.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.trees import REDUCE, SHIFT, Tree, node_spans, symbol_error, walk_brackets

BINARIZE = ("head", "right", "left")
DEFAULT_BINARIZE = BINARIZE[0]
WITHOUT_WORD = "a bracket without a word (those of words are written -LRB- and -RRB-)"
TRACE = "-NONE-"  # the tag of a word that is not there: what was moved, or left out

LABEL = r"[A-Z0-9$.,:`'#-][^\s()]*"
# the outer bracket, which may be without a label, and what follows it in its line
_BEGINS_TREE = re.compile(rf"\((?:\s*$|(?:\s*\()?{LABEL}\s*(?:\(|$))")
_AT_BRACKET = re.compile(r"\(|[^\s()]+\)")
_WORD = re.compile(rf"\({LABEL}[ \t]+[^\s()]+\)")  # with its tag
_SYMBOL = re.compile(r"[()]|[^() \t\r\n]+")
_ROOT, _UNLABELLED = "ROOT", "X"  # of binary trees, when they are written


class Phrase(NamedTuple):
    """Hold a phrase over the words [start, end)."""

    label: str  # "" for an outer bracket without one
    start: int
    end: int


class PennTree(NamedTuple):
    """Hold a sentence of N words, their tags and P phrases, each before those inside it, from left to right."""

    tokens: tuple[str, ...]  # N words
    tags: tuple[str, ...]  # N; "" where a word has none
    phrases: tuple[Phrase, ...]  # P

    @property
    def has_labels(self) -> bool:
        """Tell whether any phrase has a label that is not there for the want of one."""
        return any(phrase.label not in ("", _ROOT, _UNLABELLED) for phrase in self.phrases)

    @classmethod
    def of_binary(cls, tree: Tree, given: PennTree | None = None) -> PennTree:
        """Return a binary tree as phrases that are all labelled X, under a ROOT; words keep their tags, else X."""
        spans = [(start, end) for start, end in node_spans(tree.transitions) if end - start > 1]
        spans.sort(key=lambda span: (span[0], -span[1]))
        phrases = [Phrase(_ROOT, 0, tree.n_tokens), *(Phrase(_UNLABELLED, *span) for span in spans)]
        tags = ("",) * tree.n_tokens if given is None else given.tags
        return cls(tree.tokens, tuple(tag or _UNLABELLED for tag in tags), tuple(phrases))

    def opening(self) -> list[list[Phrase]]:
        """List the phrases that begin at each word, the outermost first."""
        found: list[list[Phrase]] = [[] for _ in self.tokens]
        for phrase in self.phrases:
            found[phrase.start].append(phrase)
        return found


def parse_penn(text: str) -> PennTree:
    """Read one tree. Raises DataError naming the symbol where it is none."""
    symbols = _SYMBOL.findall(text)
    tokens: list[str] = []
    tags: list[str] = []
    phrases: list[Phrase] = []
    open_phrases: list[int] = []  # their places
    for position, symbol, bracket in walk_brackets(symbols, has_labels=True):
        if symbol == "(":
            open_phrases.append(len(phrases))
            phrases.append(Phrase(bracket.label, len(tokens), 0))
        elif symbol != ")":
            tokens.append(symbol)
            tags.append("")
        else:
            place = open_phrases.pop()
            if len(tokens) == phrases[place].start:
                raise symbol_error(WITHOUT_WORD, symbols, position)
            if bracket.label and bracket.n_children == bracket.n_words == 1:
                tags[-1] = bracket.label
                phrases.pop()
            else:
                phrases[place] = phrases[place]._replace(end=len(tokens))
    return PennTree(tuple(tokens), tuple(tags), tuple(phrases))


def format_penn(tree: PennTree) -> str:
    """Write a tree in one line, as `parse_penn` reads it."""
    n_closes = Counter(phrase.end for phrase in tree.phrases)
    parts = []
    words = zip(tree.tokens, tree.tags, tree.opening(), strict=True)
    for end, (token, tag, phrases) in enumerate(words, start=1):
        word = token.replace("(", "-LRB-").replace(")", "-RRB-")
        parts += [f" ({phrase.label}" for phrase in phrases]
        parts += [f" ({tag} {word})" if tag else f" {word}", ")" * n_closes[end]]
    return "".join(parts).lstrip()


def without_traces(tree: PennTree) -> PennTree:
    """Return the tree without the words that are not there, and without the phrases of nothing else.

    Raises DataError for a tree of nothing but traces.
    """
    kept = [tag != TRACE for tag in tree.tags]
    if all(kept):
        return tree
    if not any(kept):
        raise DataError("a tree of traces alone, without a word")
    places = [0, *itertools.accumulate(kept)]  # of each word among those kept, and the end
    phrases = (Phrase(label, places[start], places[end]) for label, start, end in tree.phrases)
    return PennTree(
        tuple(itertools.compress(tree.tokens, kept)),
        tuple(itertools.compress(tree.tags, kept)),
        tuple(phrase for phrase in phrases if phrase.start < phrase.end),
    )


def to_binary(tree: PennTree, binarize: str = DEFAULT_BINARIZE) -> Tree:
    """Return the words of a tree, traces left out, under a binary tree; labels and tags are dropped.

    Phrases over the same words are one. Of more than two children

        right     all but the first are joined first:   ( a ( b ( c d ) ) )
        left      all but the last are:                 ( ( ( a b ) c ) d )
        head      the head is joined with what follows it, then with what comes before: ( a ( ( h c ) d ) ),
                  as the trees of SNLI and SST were made

    the head being that of Collins's rules (`head_child`). Raises DataError for a tree of traces alone,
    ValueError for another way.
    """
    if binarize not in BINARIZE:
        raise ValueError(f"unknown way to binarise {binarize!r}, expected one of {', '.join(BINARIZE)}")
    tree = without_traces(tree)
    root = _joined(tree)
    transitions: list[int] = []
    todo: list[_Node | None] = [root]  # the next last; None: a REDUCE
    while todo:
        node = todo.pop()
        if node is None:
            transitions.append(REDUCE)
        elif not node.children:
            transitions.append(SHIFT)
        else:
            todo += reversed(_steps(node, binarize))
    return Tree(tree.tokens, np.array(transitions, dtype=np.int8), penn=tree)


@dataclass(slots=True)
class _Node:
    """Join all phrases over the same words, and the tag of a word with those over it alone."""

    top: str  # the outermost label: what it is to others
    bottom: str  # the innermost: what its children make
    start: int
    end: int
    children: list[_Node] = field(default_factory=list)  # of a word none


def _joined(tree: PennTree) -> _Node:
    root = _Node("", "", 0, len(tree.tokens))
    stack = [root]
    for word, (tag, phrases) in enumerate(zip(tree.tags, tree.opening(), strict=True)):
        for label, start, end in (*phrases, Phrase(tag, word, word + 1)):
            if (stack[-1].start, stack[-1].end) == (start, end):
                stack[-1].bottom = label
                continue
            node = _Node(label, label, start, end)
            stack[-1].children.append(node)
            stack.append(node)
        while len(stack) > 1 and stack[-1].end == word + 1:
            stack.pop()
    return root


def _steps(node: _Node, binarize: str) -> list[_Node | None]:
    """Return the children in their order, and None for each two that are joined."""
    n = len(node.children)
    head = n - 1 if binarize == "right" else 0
    if binarize == "head" and n > 2:
        head = head_child(node.bottom, [child.top for child in node.children])
    steps: list[_Node | None] = [*node.children[: head + 1]]
    for child in node.children[head + 1 :]:
        steps += [child, None]
    return steps + [None] * head


_LEFT = """
    ADJP    NNS QP NN $ ADVP JJ VBN VBG ADJP JJR NP JJS DT FW RBR RBS SBAR RB
    NAC     NN NNS NNP NNPS NP NAC EX $ CD QP PRP VBG JJ JJS JJR ADJP FW
    QP      $ IN NNS NN JJ RB DT CD NCD QP JJR JJS
    S       TO IN VP S SBAR ADJP UCP NP
    SBAR    WHNP WHPP WHADVP WHADJP IN DT S SQ SINV SBAR FRAG
    SBARQ   SQ S SINV SBARQ FRAG
    SINV    VBZ VBD VBP VB MD VP S SINV ADJP NP
    SQ      VBZ VBD VBP VB MD VP SQ
    VP      TO VBD VBN MD VBZ VB VBG VBP VP ADJP NN NNS NP
    WHADJP  CC WRB JJ ADJP
    WHNP    WDT WP WP$ WHADJP WHPP WHNP
"""
_RIGHT = """
    ADVP    RB RBR RBS FW ADVP TO CD JJR JJ IN NP JJS NN
    CONJP   CC RB IN
    FRAG
    LST     LS :
    PP      IN TO VBG VBN RP FW
    PRT     RP
    RRC     VP NP ADVP ADJP PP
    UCP
    WHADVP  CC WRB
    WHPP    IN TO FW
    X
"""
Search = tuple[bool, tuple[str, ...]]  # from the right or not, for any of these labels
_OF_NOUN_PHRASES: list[Search] = [
    (True, ("NN", "NNP", "NNPS", "NNS", "NX", "POS", "JJR")),
    (False, ("NP",)),
    (True, ("$", "ADJP", "PRN")),
    (True, ("CD",)),
    (True, ("JJ", "JJS", "RB", "QP")),
]


def _table(text: str, from_right: bool) -> dict[str, list[Search]]:
    rows = map(str.split, text.strip().splitlines())
    return {phrase: [(from_right, (label,)) for label in labels] for phrase, *labels in rows}


_FROM_LEFT = _table(_LEFT, from_right=False)
_FROM_RIGHT = _table(_RIGHT, from_right=True) | dict.fromkeys(("NP", "NX"), _OF_NOUN_PHRASES)


def head_child(label: str, children: Sequence[str]) -> int:
    """Return the place of the head among the children, which are given by their labels; functions count for nothing."""
    names = [plain_label(child) for child in children]
    label = plain_label(label)
    searches = _FROM_RIGHT.get(label) or _FROM_LEFT.get(label, [])
    if label in ("NP", "NX") and names[-1] == "POS":
        searches = []
    found = (_search(names, labels, from_right) for from_right, labels in searches)
    otherwise = len(names) - 1 if label in _FROM_RIGHT else 0
    head = next((place for place in found if place is not None), otherwise)
    if head > 1 and names[head - 1] in ("CC", "CONJP"):  # of a coordination, the conjunct before
        head -= 2
    return head


def plain_label(label: str) -> str:
    """Return a label without its functions and indices: NP of NP-SBJ-1; -LRB- stays as it is."""
    return label if label.startswith("-") else re.split("[-=|]", label, maxsplit=1)[0]


def _search(names: list[str], wanted: Sequence[str], from_right: bool) -> int | None:
    """Return the place of the first child that has any of these labels."""
    places = range(len(names) - 1, -1, -1) if from_right else range(len(names))
    return next((place for place in places if names[place] in wanted), None)


class Continued(str):
    """Stand for a line that went to the tree of a line before it, so that the others keep their numbers."""


def join_trees(lines: Iterable[str], max_characters: int) -> Iterator[str]:
    """Yield lines, those of a tree that goes over several as one, and `Continued` for the others of it.

    Until its brackets are closed, a tree goes on in lines that begin with a blank, a closing bracket or a word with
    its tag, and in those that begin with a bracket, or a word at one, and close more brackets than they open: all
    others begin anew, so that a tree that is never closed takes no text with it. What is longer than the limit is left
    as it is then. Blank lines after a tree of several lines set it apart from the next one, and are `Continued`, too.
    """
    is_after_tree = False  # of several lines
    for first, *others in _trees_and_lines(_without_blank_beginning(lines), max_characters):
        if is_after_tree and type(first) is str and first.isspace():  # and no bad line
            yield Continued(first)
            continue
        is_after_tree = bool(others)
        yield " ".join(line.strip() for line in (first, *others)) + "\n" if others else first
        yield from itertools.repeat(Continued("\n"), len(others))


def _trees_and_lines(lines: Iterable[str], max_characters: int) -> Iterator[list[str]]:
    """Yield the lines of each tree, and every other line alone."""
    tree: list[str] = []
    depth = n_characters = 0
    for line in lines:
        goes_on = not line.isspace() and (
            line[:1] in (" ", "\t", ")")
            or _WORD.match(line) is not None
            or (_AT_BRACKET.match(line) is not None and line.count(")") > line.count("("))
        )
        if tree and not (goes_on and n_characters < max_characters):
            yield tree
            tree = []
        if not tree and not _BEGINS_TREE.match(line):
            yield [line]
            continue
        if not tree:
            depth = n_characters = 0
        tree.append(line)
        depth += line.count("(") - line.count(")")
        n_characters += len(line)
        if depth <= 0:  # it is whole: who waits for it need not wait for the line after it
            yield tree
            tree = []
    if tree:
        yield tree


def _without_blank_beginning(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines, but `Continued` for blank ones before the first, where a tree begins there that goes on after it."""
    blank, rest = 0, iter(lines)
    for line in rest:
        if line.isspace() and type(line) is str:
            blank += 1
            continue
        is_tree = _BEGINS_TREE.match(line) is not None and line.count("(") > line.count(")")
        yield from [Continued("\n") if is_tree else "\n"] * blank
        yield line
        yield from rest
        return
    yield from ["\n"] * blank
