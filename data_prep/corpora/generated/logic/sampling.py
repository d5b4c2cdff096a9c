"""Random sentences, and random changes that make a related sentence of one.

A change takes the random numbers and a sentence and gives the new sentence, or the same where it does not apply. Two
kinds are kept apart: an *edit* changes words (another quantifier, a hyponym, one adjective more, a negation), a
*permutation* puts exactly the same words into another structure (`all dogs that run sing`, `all dogs that sing run`),
which no bag of words can see. Neither knows what it does to the label: `semantics` finds out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from spinn_tensor.data_prep.corpora.generated.draw import Draw
from spinn_tensor.data_prep.corpora.generated.logic.grammar import (
    ADJECTIVES,
    ALL,
    CATEGORY,
    INTRANSITIVE,
    NO,
    NOT_ALL,
    NOUNS,
    QUANTIFIERS,
    RELATED,
    SOME,
    TRANSITIVE,
    TWO,
    NounPhrase,
    Sentence,
    VerbPhrase,
)

OBJECT_QUANTIFIERS = (ALL, SOME, NO, TWO)  # `see not all dogs` is left to negation: `do not see all dogs`
OPPOSITE = {ALL: NOT_ALL, NOT_ALL: ALL, SOME: NO, NO: SOME, TWO: NO}
# all N V = no N (not V), some N V = not all N (not V)
DUAL = {ALL: NO, NO: ALL, SOME: NOT_ALL, NOT_ALL: SOME}
MAX_ADJECTIVES = 2
MAX_CLAUSES = 2

Phrase = TypeVar("Phrase", NounPhrase, VerbPhrase)
Put = Callable[..., Sentence]  # the sentence with another phrase in the place of one


class Shape(NamedTuple):
    """Say how large the sampled sentences are: the chance of each optional part."""

    adjective: float  # of another adjective in front of a noun
    clause: float  # of another relative clause on the subject
    object_clause: float  # of a relative clause on an object
    transitive: float  # of an object, for the predicate or a clause of the subject
    negated: float  # of a verb phrase's negation


def sample_sentence(draw: Draw, shape: Shape) -> Sentence:
    subject = _sample_noun_phrase(draw, shape)
    for _ in range(MAX_CLAUSES):
        if draw.chance(shape.clause):
            subject = subject._replace(clauses=(*subject.clauses, _sample_verb_phrase(draw, shape)))
    subject = subject._replace(quantifier=draw.choice(QUANTIFIERS))
    return Sentence(subject, _sample_verb_phrase(draw, shape))


def _sample_noun_phrase(draw: Draw, shape: Shape) -> NounPhrase:
    """Draw a noun and its adjectives; the quantifier is drawn last, when the clauses are there."""
    phrase = NounPhrase("", draw.choice(NOUNS))
    for _ in range(MAX_ADJECTIVES):
        if draw.chance(shape.adjective):
            phrase = _with_adjective(draw, phrase)
    return phrase


def _sample_verb_phrase(draw: Draw, shape: Shape) -> VerbPhrase:
    negated = draw.chance(shape.negated)
    if not draw.chance(shape.transitive):
        return VerbPhrase(draw.choice(INTRANSITIVE), negated)
    target = _sample_noun_phrase(draw, shape)
    if draw.chance(shape.object_clause):
        clause = VerbPhrase(draw.choice(INTRANSITIVE), draw.chance(shape.negated))
        target = target._replace(clauses=(clause,))
    verb = draw.choice(TRANSITIVE)
    return VerbPhrase(verb, negated, target._replace(quantifier=draw.choice(OBJECT_QUANTIFIERS)))


def _with_adjective(draw: Draw, phrase: NounPhrase) -> NounPhrase:
    others = [word for word in ADJECTIVES if word not in phrase.adjectives]
    return phrase._replace(adjectives=(draw.choice(others), *phrase.adjectives))


def phrases(sentence: Sentence, kind: type[Phrase]) -> list[tuple[Phrase, Put]]:
    """Return the noun phrases or the verb phrases, outer ones before those inside them, and what puts another there."""
    found: list[tuple[Any, Put]] = []
    _collect_nouns(sentence.subject, lambda phrase: sentence._replace(subject=phrase), found)
    _collect_verbs(sentence.predicate, lambda phrase: sentence._replace(predicate=phrase), found)
    return [(phrase, put) for phrase, put in found if isinstance(phrase, kind)]


def _collect_nouns(node: NounPhrase, put: Put, found: list[tuple[Any, Put]]) -> None:
    found.append((node, put))
    for i, clause in enumerate(node.clauses):
        _collect_verbs(clause, lambda phrase, i=i: put(_with_clause(node, i, phrase)), found)


def _collect_verbs(node: VerbPhrase, put: Put, found: list[tuple[Any, Put]]) -> None:
    found.append((node, put))
    if node.object is not None:
        _collect_nouns(node.object, lambda phrase: put(node._replace(object=phrase)), found)


def _with_clause(node: NounPhrase, i: int, clause: VerbPhrase) -> NounPhrase:
    return node._replace(clauses=(*node.clauses[:i], clause, *node.clauses[i + 1 :]))


def requantify(draw: Draw, sentence: Sentence) -> Sentence:
    phrase, put = draw.choice(phrases(sentence, NounPhrase))
    choices = QUANTIFIERS if phrase is sentence.subject else OBJECT_QUANTIFIERS
    return put(phrase._replace(quantifier=draw.choice(choices)))


def rename_noun(draw: Draw, sentence: Sentence) -> Sentence:
    phrase, put = draw.choice(phrases(sentence, NounPhrase))
    return put(phrase._replace(noun=_other_word(draw, phrase.noun)))


def rename_verb(draw: Draw, sentence: Sentence) -> Sentence:
    phrase, put = draw.choice(phrases(sentence, VerbPhrase))
    return put(phrase._replace(verb=_other_word(draw, phrase.verb)))


def _other_word(draw: Draw, word: str) -> str:
    """Draw mostly a hypernym or hyponym, sometimes any word of the category."""
    near = RELATED[word]
    return draw.choice(near) if near and draw.chance(0.8) else draw.choice(CATEGORY[word])


def change_adjectives(draw: Draw, sentence: Sentence) -> Sentence:
    """Add an adjective or drop one, or both, which replaces it."""
    phrase, put = draw.choice(phrases(sentence, NounPhrase))
    if phrase.adjectives and draw.chance(0.6):
        dropped = draw.choice(phrase.adjectives)
        phrase = phrase._replace(adjectives=tuple(word for word in phrase.adjectives if word != dropped))
    if len(phrase.adjectives) < MAX_ADJECTIVES and draw.chance(0.4):
        phrase = _with_adjective(draw, phrase)
    return put(phrase)


def change_clauses(draw: Draw, sentence: Sentence) -> Sentence:
    """Add a relative clause or drop one."""
    phrase, put = draw.choice(phrases(sentence, NounPhrase))
    clauses = phrase.clauses
    if len(clauses) < MAX_CLAUSES and draw.chance(0.5):
        clauses = (*clauses, VerbPhrase(draw.choice(INTRANSITIVE), draw.chance(0.2)))
    elif clauses:
        dropped = draw.choice(range(len(clauses)))
        clauses = clauses[:dropped] + clauses[dropped + 1 :]
    return put(phrase._replace(clauses=clauses))


def negate(draw: Draw, sentence: Sentence) -> Sentence:
    phrase, put = draw.choice(phrases(sentence, VerbPhrase))
    return put(phrase._replace(negated=not phrase.negated))


def dualise(draw: Draw, sentence: Sentence) -> Sentence:
    """Say the same with the dual quantifier and the predicate's negation turned round."""
    subject, predicate = sentence
    if subject.quantifier not in DUAL:
        return sentence
    dual = subject._replace(quantifier=DUAL[subject.quantifier])
    return Sentence(dual, predicate._replace(negated=not predicate.negated))


def oppose(draw: Draw, sentence: Sentence) -> Sentence:
    """Deny the sentence by its quantifier."""
    subject = sentence.subject
    return sentence._replace(subject=subject._replace(quantifier=OPPOSITE[subject.quantifier]))


def exchange_field(draw: Draw, sentence: Sentence) -> Sentence:
    """Exchange the quantifiers, nouns, adjectives, verbs or negations of two phrases."""
    field = draw.choice(("quantifier", "noun", "adjectives", "verb", "negated"))
    if field == "quantifier" and sentence.subject.quantifier == NOT_ALL:
        return sentence
    kind: Any = VerbPhrase if field in VerbPhrase._fields else NounPhrase
    found = phrases(sentence, kind)
    i, j = draw.choice(range(len(found))), draw.choice(range(len(found)))
    phrase, other = found[i][0], found[j][0]
    if i == j or (field == "verb" and (phrase.object is None) != (other.object is None)):
        return sentence
    for place, donor in ((i, other), (j, phrase)):  # one may be inside the other, and have changed with it
        node, put = phrases(sentence, kind)[place]
        sentence = put(node._replace(**{field: getattr(donor, field)}))
    return sentence


def exchange_clause(draw: Draw, sentence: Sentence) -> Sentence:
    """Make a relative clause of the subject the predicate, and the predicate that clause."""
    subject, predicate = sentence
    clauses = subject.clauses
    if not clauses:
        return sentence
    i = draw.choice(range(len(clauses)))
    return Sentence(_with_clause(subject, i, predicate), clauses[i])


def reattach(draw: Draw, sentence: Sentence) -> Sentence:
    """Move a relative clause from an object to the subject or from the subject to an object."""
    objects = phrases(sentence, NounPhrase)[1:]
    if not objects:
        return sentence
    target, put = draw.choice(objects)
    if target.clauses:
        moved = target.clauses[0]
        shorter = put(target._replace(clauses=target.clauses[1:]))
        subject = shorter.subject
        return shorter._replace(subject=subject._replace(clauses=(*subject.clauses, moved)))
    clauses = sentence.subject.clauses
    if not clauses or clauses[-1].object is not None:
        return sentence
    longer = put(target._replace(clauses=clauses[-1:]))
    subject = longer.subject
    return longer._replace(subject=subject._replace(clauses=subject.clauses[:-1]))


Change = Callable[[Draw, Sentence], Sentence]
EDITS: tuple[Change, ...] = (
    requantify,
    rename_noun,
    rename_verb,
    change_adjectives,
    change_clauses,
    negate,
    dualise,
)
PERMUTATIONS: tuple[Change, ...] = (exchange_field, exchange_field, exchange_clause, reattach)


def edit(draw: Draw, sentence: Sentence, n_edits: int) -> Sentence:
    for _ in range(n_edits):
        sentence = draw.choice(EDITS)(draw, sentence)
    return sentence


def permute(draw: Draw, sentence: Sentence) -> Sentence:
    return draw.choice(PERMUTATIONS)(draw, sentence)
