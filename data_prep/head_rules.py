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
