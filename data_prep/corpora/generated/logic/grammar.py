"""Sentences of the generated corpus as trees, and their words and binary parses.

    Sentence   -> NounPhrase VerbPhrase                       all dogs | run
    NounPhrase -> Quantifier Nominal                          not all | brown dogs that run
    Nominal    -> Adjective* Noun ("that" VerbPhrase)*        clauses one after another all restrict the same noun
    VerbPhrase -> ["do" "not"] (Verb | Verb NounPhrase)       do not see some cats

The binary parse follows the syntax: `( ( all ( ( brown dogs ) ( that run ) ) ) ( ( do not ) ( see ( some cats ) ) ) )`.
`dogs that see cats that run` has two readings, `dogs [that see [cats that run]]` and `[dogs that see cats] that run`:
the words are the same and only the parse tells them apart. An object's nominal holds no transitive verb of its own
(checked by `check_fragment`); what that buys is explained in `semantics`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

ALL, SOME, NO, NOT_ALL, TWO = QUANTIFIERS = ("all", "some", "no", "not all", "two")


class VerbPhrase(NamedTuple):
    verb: str
    negated: bool = False
    object: NounPhrase | None = None


class NounPhrase(NamedTuple):
    quantifier: str  # one of QUANTIFIERS
    noun: str
    adjectives: tuple[str, ...] = ()
    clauses: tuple[VerbPhrase, ...] = ()


class Sentence(NamedTuple):
    subject: NounPhrase
    predicate: VerbPhrase


def check_fragment(sentence: Sentence) -> None:
    """Raise ValueError if a transitive verb stands inside the object of another."""
    for phrase in (*sentence.subject.clauses, sentence.predicate):
        inner = phrase.object.clauses if phrase.object is not None else ()
        if any(clause.object is not None for clause in inner):
            raise ValueError(f"{text(sentence)!r}: the object of {phrase.verb!r} contains a transitive verb")


def binary_parse(sentence: Sentence) -> str:
    """Write the sentence in SNLI's notation, for instance `( ( all dogs ) run )`."""
    return f"( {_noun_phrase(sentence.subject)} {_verb_phrase(sentence.predicate)} )"


def _noun_phrase(phrase: NounPhrase) -> str:
    nominal = phrase.noun
    for adjective in reversed(phrase.adjectives):
        nominal = f"( {adjective} {nominal} )"
    for clause in phrase.clauses:
        nominal = f"( {nominal} ( that {_verb_phrase(clause)} ) )"
    quantifier = "( not all )" if phrase.quantifier == NOT_ALL else phrase.quantifier
    return f"( {quantifier} {nominal} )"


def _verb_phrase(phrase: VerbPhrase) -> str:
    parse = phrase.verb if phrase.object is None else f"( {phrase.verb} {_noun_phrase(phrase.object)} )"
    return f"( ( do not ) {parse} )" if phrase.negated else parse


@lru_cache(maxsize=1_000)
def tokens(sentence: Sentence) -> tuple[str, ...]:
    """Return the words from left to right."""
    return tuple(binary_parse(sentence).replace("( ", "").replace(" )", "").split())


def text(sentence: Sentence) -> str:
    """Return the words, separated by single spaces."""
    return " ".join(tokens(sentence))
