"""Labels of the generated corpus against a model checker that lists every model and evaluates the tree with sets."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.logic.grammar import QUANTIFIERS, Nominal, NounPhrase, Sentence, VerbPhrase, binary_parse, content_words
from data_prep.logic.lexicon import CATEGORY, TRANSITIVE, implies
from data_prep.logic.semantics import label, truth_values

Model = dict[str, frozenset]  # a word's elements, or a transitive verb's pairs


def subsets(items: list) -> Iterator[frozenset]:
    for chosen in product((False, True), repeat=len(items)):
        yield frozenset(item for item, keep in zip(items, chosen, strict=True) if keep)


def all_models(words: list[str], size: int) -> Iterator[Model]:
    domain = range(size)
    pairs = [(x, y) for x in domain for y in domain]
    extensions = [list(subsets(pairs if word in TRANSITIVE else list(domain))) for word in words]
    inclusions = [(a, b) for a in words for b in words if a != b and implies(a, b)]
    for choice in product(*extensions):
        model = dict(zip(words, choice, strict=True))
        if all(model[lower] <= model[upper] for lower, upper in inclusions):
            yield model


def quantify(quantifier: str, restrictor: set, scope: set) -> bool:
    common = len(restrictor & scope)
    if quantifier == "all":
        return restrictor <= scope
    if quantifier == "not all":
        return not restrictor <= scope
    return {"some": common >= 1, "no": common == 0, "two": common >= 2}[quantifier]


def nominal_set(nominal: Nominal, model: Model, size: int) -> set:
    found = set(model[nominal.noun])
    for adjective in nominal.adjectives:
        found &= model[adjective]
    for clause in nominal.clauses:
        found &= verb_phrase_set(clause, model, size)
    return found


def verb_phrase_set(phrase: VerbPhrase, model: Model, size: int) -> set:
    if phrase.object is None:
        found = set(model[phrase.verb])
    else:
        objects = nominal_set(phrase.object.nominal, model, size)
        seen = {x: {b for a, b in model[phrase.verb] if a == x} for x in range(size)}
        found = {x for x in range(size) if quantify(phrase.object.quantifier, objects, seen[x])}
    return set(range(size)) - found if phrase.negated else found


def is_true(sentence: Sentence, model: Model, size: int) -> bool:
    subject = nominal_set(sentence.subject.nominal, model, size)
    return quantify(sentence.subject.quantifier, subject, verb_phrase_set(sentence.predicate, model, size))


def slow_truth_values(premise: Sentence, hypothesis: Sentence, size: int) -> set[tuple[bool, bool]]:
    words = sorted({*content_words(premise), *content_words(hypothesis)})
    return {(is_true(premise, m, size), is_true(hypothesis, m, size)) for m in all_models(words, size)}


def nominals(words: tuple[str, ...], clause: st.SearchStrategy) -> st.SearchStrategy:
    return st.builds(
        Nominal,
        st.sampled_from(words),
        st.lists(st.just("brown"), max_size=1).map(tuple),
        st.lists(clause, max_size=2).map(tuple),
    )


def sentences(nouns: tuple[str, ...], verbs: tuple[str, ...], transitive: tuple[str, ...]) -> st.SearchStrategy:
    quantifier = st.sampled_from(QUANTIFIERS)
    plain = st.builds(VerbPhrase, st.sampled_from(verbs), st.booleans(), st.none())
    related = st.builds(
        VerbPhrase,
        st.sampled_from(transitive),
        st.booleans(),
        st.builds(NounPhrase, quantifier, nominals(nouns, plain)),
    )
    clause = st.one_of(plain, related)
    return st.builds(Sentence, st.builds(NounPhrase, quantifier, nominals(nouns, clause)), clause)


def n_models(words: set[str], size: int) -> int:
    return 2 ** sum(size**2 if word in TRANSITIVE else size for word in words)


SMALL = sentences(("dogs", "poodles"), ("run", "sprint"), ("see",))
TWO_VERBS = sentences(("dogs",), ("run",), ("see", "watch"))


@settings(max_examples=100, deadline=None)
@given(SMALL, SMALL, st.sampled_from([2, 3]))
def test_one_relation_agrees_with_listing_every_model(premise: Sentence, hypothesis: Sentence, size: int) -> None:
    words = {*content_words(premise), *content_words(hypothesis)}
    size = size if n_models(words, size) <= 2**13 else 2
    assert truth_values(premise, hypothesis, size) == slow_truth_values(premise, hypothesis, size)


@settings(max_examples=60, deadline=None)
@given(TWO_VERBS, TWO_VERBS)
def test_two_relations_agree_with_listing_every_model(premise: Sentence, hypothesis: Sentence) -> None:
    assert truth_values(premise, hypothesis, 2) == slow_truth_values(premise, hypothesis, 2)
