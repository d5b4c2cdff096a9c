"""Which child of an English phrase is its head: the rules of Collins (1999, "Head-Driven Statistical Models for
Natural Language Parsing", appendix A), for the labels of the Penn Treebank.

A phrase has a direction and a list of labels, the best first. For each label in turn the children are searched in that
direction, and the first with it is the head; without any it is the first child in that direction.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

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
_NOUN_PHRASES = ("NP", "NX")
_OF_NOUN_PHRASES = (  # from the right or not; each search is for any of its labels
    (True, ("NN", "NNP", "NNPS", "NNS", "NX", "POS", "JJR")),
    (False, ("NP",)),
    (True, ("$", "ADJP", "PRN")),
    (True, ("CD",)),
    (True, ("JJ", "JJS", "RB", "QP")),
)


def _table(text: str) -> dict[str, list[str]]:
    return {phrase: labels for phrase, *labels in map(str.split, text.strip().splitlines())}


_FROM_LEFT, _FROM_RIGHT = _table(_LEFT), _table(_RIGHT)


def head_child(label: str, children: Sequence[str]) -> int:
    """Return the place of the head among the children, which are given by their labels; functions count for nothing."""
    names = [plain_label(child) for child in children]
    label = plain_label(label)
    if label in _NOUN_PHRASES:
        head = _of_noun_phrase(names)
    elif label in _FROM_RIGHT:
        head = _first(names, _FROM_RIGHT[label], from_right=True)
    else:
        head = _first(names, _FROM_LEFT.get(label, []), from_right=False)
    if head > 1 and names[head - 1] in ("CC", "CONJP"):  # of a coordination, the conjunct before
        head -= 2
    return head


def plain_label(label: str) -> str:
    """Return a label without its functions and indices: NP of NP-SBJ-1; -LRB- stays as it is."""
    return label if label.startswith("-") else re.split("[-=|]", label, maxsplit=1)[0]


def _first(names: list[str], wanted: Sequence[str], from_right: bool) -> int:
    found = (_search(names, (label,), from_right) for label in wanted)
    return next((place for place in found if place is not None), len(names) - 1 if from_right else 0)


def _of_noun_phrase(names: list[str]) -> int:
    if names[-1] == "POS":
        return len(names) - 1
    found = (_search(names, labels, from_right) for from_right, labels in _OF_NOUN_PHRASES)
    return next((place for place in found if place is not None), len(names) - 1)


def _search(names: list[str], wanted: Sequence[str], from_right: bool) -> int | None:
    """Return the place of the first child that has any of these labels."""
    places = range(len(names) - 1, -1, -1) if from_right else range(len(names))
    return next((place for place in places if names[place] in wanted), None)
