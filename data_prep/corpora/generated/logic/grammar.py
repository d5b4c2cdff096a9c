"""Sentences of the generated corpus as trees, their words and binary parses, and what words say about each other.

    Sentence   -> NounPhrase VerbPhrase                       all dogs | run
    NounPhrase -> Quantifier Nominal                          not all | brown dogs that run
    Nominal    -> Adjective* Noun ("that" VerbPhrase)*        clauses one after another all restrict the same noun
    VerbPhrase -> ["do" "not"] (Verb | Verb NounPhrase)       do not see some cats

The binary parse follows the syntax: `( ( all ( ( brown dogs ) ( that run ) ) ) ( ( do not ) ( see ( some cats ) ) ) )`.
`dogs that see cats that run` has two readings, `dogs [that see [cats that run]]` and `[dogs that see cats] that run`:
the words are the same and only the parse tells them apart. An object's nominal holds no transitive verb of its own
(checked by `check_fragment`); what that buys is explained in `semantics`.

`HYPERNYM[word]` is the next more general word of the same category; every model of the corpus's logic makes the
extension of a word a subset of its hypernym's. No two words exclude each other. Nouns and verbs are plural throughout,
so that `do not` needs no agreement.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import NamedTuple

ALL, SOME, NO, NOT_ALL, TWO = QUANTIFIERS = ("all", "some", "no", "not all", "two")
NOUNS = ("animals", "dogs", "poodles", "beagles", "cats", "kittens", "people", "children", "girls")
ADJECTIVES = ("brown", "hungry", "tame", "wet")
INTRANSITIVE = ("move", "run", "sprint", "walk", "sing", "sleep", "doze")
TRANSITIVE = ("see", "watch", "touch", "hug")

HYPERNYM: dict[str, str] = {
    "dogs": "animals",
    "poodles": "dogs",
    "beagles": "dogs",
    "cats": "animals",
    "kittens": "cats",
    "children": "people",
    "girls": "children",
    "run": "move",
    "sprint": "run",
    "walk": "move",
    "doze": "sleep",
    "watch": "see",
    "hug": "touch",
}

CATEGORY: dict[str, tuple[str, ...]] = {
    word: words for words in (NOUNS, ADJECTIVES, INTRANSITIVE, TRANSITIVE) for word in words
}


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


@cache
def ancestors(word: str) -> tuple[str, ...]:
    """Return all hypernyms of a word, nearest first."""
    found = []
    while word in HYPERNYM:
        word = HYPERNYM[word]
        found.append(word)
    return tuple(found)


def implies(word: str, other: str) -> bool:
    """Tell whether everything `word` is true of, `other` is true of, by the lexicon alone."""
    return word == other or other in ancestors(word)


# The hypernyms and hyponyms of every word.
RELATED = {
    word: tuple(other for other in words if other != word and (implies(word, other) or implies(other, word)))
    for word, words in CATEGORY.items()
}
