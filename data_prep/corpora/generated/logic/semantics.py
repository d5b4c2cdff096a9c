"""Labels of premise-hypothesis pairs, by looking at every model.

A model is a domain of elements, the set of elements each noun, adjective and intransitive verb is true of, and the set
of pairs each transitive verb is true of. Hyponyms denote subsets of their hypernyms; nothing else is assumed. The
readings, N being the set a nominal denotes and V the set a verb phrase denotes:

    some N V  N and V meet                            no N V        not (some N V)
    all N V   N within V (true if N is empty)         not all N V   not (all N V)
    two N V   N and V have at least two elements in common

Adjectives and relative clauses intersect. Negation covers the whole verb phrase (`do not see all cats` is not (see all
cats)), and of two quantifiers the left one is outside. The hypothesis is entailed if it is true in every model of the
premise, contradicted if it is true in none of them, else neutral. A pair has no label if one of its sentences is true
in every model or in none.

**Normal form.** All five quantifiers say that some number of elements meets some conditions, or deny it: `all N V` says
that no element is N and not V. So a sentence is a `Claim`, [not] (at least 1 or 2 elements are *hits*), where a hit
meets a set of conditions on words (`dogs`, not `run`) and on relations (`see some cats`). A relation's own condition on
its object is a claim as well: at least so many elements are in the object's set and are (or are not) related to.

**Enumeration.** Models have `domain_size` elements and the signature is the pair's own words. Smaller domains are
covered too: an element of which nothing is true is in no nominal, so it counts for nothing. Models are grouped, without
loss, by what the pair can see of an element x:

  1. which objects' nominals x is in: x's *place*;
  2. whether the words true of x allow x to be a hit of the premise, of the hypothesis;
  3. whether x's relations allow it. Each relation links x to a set of elements; what counts of this set is how many of
     them are in an object's nominal, which depends on everybody's place and on nothing else, because objects' nominals
     hold no transitive verb (`grammar.check_fragment`).

So once the multiset of places is fixed, every element takes its words (2) and its relations (3) independently of the
others. For every multiset all words and all relations of every element are enumerated, and the reachable numbers of
hits of the two sentences, counted up to 2, are added up element by element.

Without transitive verbs four elements are enough for any pair: a model of `premise and not hypothesis` survives
dropping all elements but two witnesses of each. With them the bound is empirical; the tests compare sizes 4 and 5.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import combinations_with_replacement, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spinn_tensor.data_prep.corpora.generated.logic.grammar import (
    ALL,
    NO,
    NOT_ALL,
    TWO,
    NounPhrase,
    Sentence,
    VerbPhrase,
    ancestors,
    check_fragment,
    implies,
)

DOMAIN_SIZE = 4

Masks = NDArray[np.int64]
Condition = tuple[str, bool, int, bool, int]  # a Relation with the number of its object


class Literal(NamedTuple):
    """State that a noun, adjective or intransitive verb is, or is not, true of an element."""

    word: str
    positive: bool


class Relation(NamedTuple):
    """State a transitive verb phrase: [not] at least `at_least` elements of the object are (not) related to."""

    verb: str
    positive: bool
    at_least: int
    related: bool
    object: frozenset[Literal]


class Hit(NamedTuple):
    """State that at least `at_least` elements meet all of these conditions."""

    at_least: int
    literals: frozenset[Literal]
    relations: tuple[Relation, ...]


class Claim(NamedTuple):
    """State a sentence: the hit, or its denial."""

    positive: bool
    hit: Hit


def label(premise: Sentence, hypothesis: Sentence, domain_size: int = DOMAIN_SIZE) -> str | None:
    """Return `entailment`, `contradiction` or `neutral`; None if either sentence is a tautology or contradiction."""
    reached = truth_values(premise, hypothesis, domain_size)
    if len({value for value, _ in reached}) < 2 or len({value for _, value in reached}) < 2:
        return None
    if (True, False) not in reached:
        return "entailment"
    return "neutral" if (True, True) in reached else "contradiction"


def truth_values(premise: Sentence, hypothesis: Sentence, domain_size: int) -> set[tuple[bool, bool]]:
    """Return the truth values (premise, hypothesis) that some model of `domain_size` elements gives."""
    first, second = claim(premise), claim(hypothesis)
    return {
        (met_first == first.positive, met_second == second.positive)
        for met_first, met_second in _hits_met(first.hit, second.hit, domain_size)
    }


@lru_cache(maxsize=1_000)
def claim(sentence: Sentence) -> Claim:
    """Return the normal form. Raises ValueError if an object holds a transitive verb."""
    check_fragment(sentence)
    subject, predicate = sentence
    quantifier, literals = subject.quantifier, _literals(subject)
    relations = [_relation(clause, clause.object) for clause in subject.clauses if clause.object is not None]
    met = quantifier not in (ALL, NOT_ALL)  # whether a hit's predicate is true of it
    if predicate.object is None:
        literals |= {Literal(predicate.verb, predicate.negated != met)}
    else:
        relation = _relation(predicate, predicate.object)
        relations.append(relation._replace(positive=relation.positive == met))
    hit = Hit(2 if quantifier == TWO else 1, literals, tuple(dict.fromkeys(relations)))
    return Claim(quantifier not in (ALL, NO), hit)


def _literals(phrase: NounPhrase) -> frozenset[Literal]:
    words = [Literal(word, True) for word in (phrase.noun, *phrase.adjectives)]
    clauses = [Literal(clause.verb, not clause.negated) for clause in phrase.clauses if clause.object is None]
    return frozenset(words + clauses)


def _relation(phrase: VerbPhrase, target: NounPhrase) -> Relation:
    quantifier = target.quantifier
    return Relation(
        verb=phrase.verb,
        positive=(quantifier in (ALL, NO)) == phrase.negated,
        at_least=2 if quantifier == TWO else 1,
        related=quantifier not in (ALL, NOT_ALL),
        object=_literals(target),
    )


@lru_cache(maxsize=20_000)
def _hits_met(first: Hit, second: Hit, domain_size: int) -> frozenset[tuple[bool, bool]]:
    """Return which pairs of (first is met, second is met) some model gives."""
    objects = list(dict.fromkeys(relation.object for hit in (first, second) for relation in hit.relations))
    places, word_hits = _places(objects, first.literals, second.literals)
    conditions = [
        tuple((*relation[:-1], objects.index(relation.object)) for relation in hit.relations)
        for hit in (first, second)
    ]
    reached = _numbers_of_hits(conditions[0], conditions[1], places, word_hits, domain_size)
    return frozenset(
        (count // 3 >= first.at_least, count % 3 >= second.at_least)
        for count in range(9)
        if reached >> count & 1
    )


@lru_cache(maxsize=20_000)
def _numbers_of_hits(
    first: tuple[Condition, ...],
    second: tuple[Condition, ...],
    places: tuple[int, ...],  # that occur
    word_hits: tuple[int, ...],  # the set of hit pairs that words allow at each place
    domain_size: int,
) -> int:
    """Return the set of the pairs of numbers of hits, each up to 2, that some model gives; (p, h) is bit 3p + h.

    Nothing else of the words of a pair matters, so that few pairs of a corpus have to be enumerated anew.
    """
    multisets = _multisets(len(places), domain_size)  # (D, domain_size) positions in `places`
    relation_hits = _relation_hits(first, second, np.array(places)[multisets])  # (D,)
    hits = _BOTH[np.array(word_hits)[multisets], relation_hits[:, None]]  # (D, domain_size)
    counts = np.ones(len(multisets), dtype=np.int64)  # at first nobody is a hit
    for element in range(domain_size):
        counts = _ADD[counts, hits[:, element]]
    return int(np.bitwise_or.reduce(counts))


def _places(
    objects: list[frozenset[Literal]], first: frozenset[Literal], second: frozenset[Literal]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the places that occur, bit j for object j, and for each the set of hit pairs that words allow there.

    An element's type says which words are true of it. A set of types is an integer, one bit a type.
    """
    words = sorted({word for literals in (*objects, first, second) for word, _ in literals})
    true_of = dict(zip(words, _columns(len(words)), strict=True))
    allowed = (1 << (1 << len(words))) - 1
    for word in words:
        for other in ancestors(word):
            if other in true_of:
                allowed &= ~true_of[word] | true_of[other]

    def meeting(literals: frozenset[Literal]) -> int:
        """Return the types that meet all of them."""
        found = allowed
        for word, positive in literals:
            found &= true_of[word] if positive else ~true_of[word]
        return found

    regions = {0: allowed}
    for j, members in enumerate(map(meeting, objects)):
        without = {place: inside & ~members for place, inside in regions.items()}
        within = {place | 1 << j: inside & members for place, inside in regions.items()}
        regions = {place: inside for place, inside in (without | within).items() if inside}
    in_first, in_second = meeting(first), meeting(second)
    word_hits = []
    for inside in regions.values():
        yes, no = inside & in_first, inside & ~in_first
        pairs = (no & ~in_second, no & in_second, yes & ~in_second, yes & in_second)
        word_hits.append(sum(1 << pair for pair, found in enumerate(pairs) if found))
    return tuple(regions), tuple(word_hits)


@lru_cache(maxsize=32)
def _columns(n_words: int) -> tuple[int, ...]:
    """Return for every word the set of types of elements that it is true of: type t has word i if bit i of t is set."""
    columns = []
    for i in range(n_words):
        block = ((1 << (1 << i)) - 1) << (1 << i)  # 2 ** i types without the word, then as many with it
        repeat = sum(1 << start for start in range(0, 1 << n_words, 2 << i))
        columns.append(block * repeat)
    return tuple(columns)


@lru_cache(maxsize=64)
def _multisets(n_kinds: int, size: int) -> Masks:
    """List (D, size) every multiset of `size` of the kinds 0 ... n_kinds - 1."""
    return np.array(list(combinations_with_replacement(range(n_kinds), size)), dtype=np.int64).reshape(
        -1, size
    )


def _relation_hits(first: tuple[Condition, ...], second: tuple[Condition, ...], places: Masks) -> Masks:
    """Return (D,) the sets of hit pairs that an element's relations allow, given everybody's place (D, domain_size).

    Verbs that the lexicon does not connect are independent of each other.
    """
    domain_size = places.shape[1]
    elements = 1 << np.arange(domain_size)
    possible = np.full(len(places), 1 << 3)
    for family in _families({verb for verb, *_ in first + second}):
        pair = np.zeros((1, 1), dtype=np.int64)
        for weight, conditions in ((2, first), (1, second)):
            met = np.ones((1, 1), dtype=bool)
            for verb, positive, at_least, related, j in conditions:
                if verb in family:
                    truth = _relation_truth(family, verb, at_least, related, domain_size)
                    members = (places >> j & 1) @ elements  # (D,) sets of elements
                    met = met & (truth[members] == positive)
            pair = pair + weight * met  # (D, R)
        possible = _BOTH[possible, np.bitwise_or.reduce(1 << pair, axis=1)]
    return possible


def _families(verbs: Iterable[str]) -> list[tuple[str, ...]]:
    """Group the verbs by their most general hypernym."""
    families: dict[str, list[str]] = {}
    for verb in sorted(verbs):
        families.setdefault((verb, *ancestors(verb))[-1], []).append(verb)
    return [tuple(family) for family in families.values()]


@lru_cache(maxsize=64)
def _rows(family: tuple[str, ...], domain_size: int) -> Masks:
    """List (R, verbs of the family) every way one element can be related to all, as one set of elements a verb."""
    rows = np.indices((1 << domain_size,) * len(family)).reshape(len(family), -1).T
    allowed = np.ones(len(rows), dtype=bool)
    for lower, verb in enumerate(family):
        for upper, other in enumerate(family):
            if implies(verb, other):
                allowed &= (rows[:, lower] & ~rows[:, upper]) == 0
    return rows[allowed]


@lru_cache(maxsize=256)
def _relation_truth(
    family: tuple[str, ...], verb: str, at_least: int, related: bool, domain_size: int
) -> NDArray[np.bool_]:
    """Tell (2 ** domain_size, R) of an object's set of elements whether a row has so many (un)related ones."""
    row = _rows(family, domain_size)[:, family.index(verb)]
    size = np.array([members.bit_count() for members in range(1 << domain_size)])
    members = np.arange(1 << domain_size)[:, None]
    return size[members & (row if related else ~row)] >= at_least


def _combined(n_left: int, n_right: int, combine: Callable[[int, int], int]) -> Masks:
    """Return (2 ** n_left, 2 ** n_right) what becomes of two sets, bits of integers, member with member."""
    table = np.zeros((1 << n_left, 1 << n_right), dtype=np.int64)
    left, right = np.arange(1 << n_left)[:, None], np.arange(1 << n_right)
    for a, b in product(range(n_left), range(n_right)):
        table |= (left >> a & right >> b & 1) << combine(a, b)
    return table


# Hit pair (p, h), whether an element can be a hit of the premise, of the hypothesis, is bit 2p + h of a set: those that
# two conditions allow together, from the sets of those that each allows.
_BOTH = _combined(4, 4, operator.and_)
# Numbers of hits (p, h), each up to 2, are bit 3p + h of a set: those with one more element, from those before and its
# possible hit pairs.
_ADD = _combined(9, 4, lambda n, pair: 3 * min(n // 3 + pair // 2, 2) + min(n % 3 + pair % 2, 2))
