"""Labels against a model checker that lists every model and reads the binary parse with sets; classic inferences."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spinn_tensor.data_prep.corpora.generated.logic import LogicConfig, generate
from spinn_tensor.data_prep.corpora.generated.logic.grammar import (
    ADJECTIVES,
    CATEGORY,
    HYPERNYM,
    QUANTIFIERS,
    TRANSITIVE,
    NounPhrase,
    Sentence,
    VerbPhrase,
    binary_parse,
    implies,
    text,
)
from spinn_tensor.data_prep.corpora.generated.logic.semantics import label, truth_values

Model = dict[str, frozenset[Any]]  # a word's elements, or a transitive verb's pairs of elements
Parse = Any  # a word, or the list of a node's two children


def read_parse(parse: str) -> Parse:
    stack: list[list[Parse]] = [[]]
    for token in parse.split():
        if token == "(":
            stack.append([])
        elif token == ")":
            node = stack.pop()
            stack[-1].append(node)
        else:
            stack[-1].append(token)
    (root,) = stack[0]
    return root


def subsets(items: list[Any]) -> list[frozenset[Any]]:
    choices = product((False, True), repeat=len(items))
    return [frozenset(item for item, keep in zip(items, chosen, strict=True) if keep) for chosen in choices]


def all_models(words: list[str], size: int) -> Iterator[Model]:
    elements = list(range(size))
    pairs = list(product(elements, elements))
    extensions = [subsets(pairs if word in TRANSITIVE else elements) for word in words]
    inclusions = [(a, b) for a in words for b in words if a != b and implies(a, b)]
    for choice in product(*extensions):
        model = dict(zip(words, choice, strict=True))
        if all(model[lower] <= model[upper] for lower, upper in inclusions):
            yield model


def quantify(quantifier: Parse, restrictor: set[int], scope: set[int]) -> bool:
    if quantifier == "all":
        return restrictor <= scope
    if quantifier == ["not", "all"]:
        return not restrictor <= scope
    return (
        {"some": 1, "two": 2}.get(quantifier, 0)
        <= len(restrictor & scope)
        <= (0 if quantifier == "no" else 99)
    )


def things(nominal: Parse, model: Model, size: int) -> set[int]:
    if isinstance(nominal, str):
        return set(model[nominal])
    left, right = nominal
    if left in ADJECTIVES:
        return things(right, model, size) & model[left]
    assert right[0] == "that"
    return things(left, model, size) & doers(right[1], model, size)


def doers(verb_phrase: Parse, model: Model, size: int) -> set[int]:
    if isinstance(verb_phrase, str):
        return set(model[verb_phrase])
    left, right = verb_phrase
    if left == ["do", "not"]:
        return set(range(size)) - doers(right, model, size)
    quantifier, nominal = right
    objects = things(nominal, model, size)
    return {x for x in range(size) if quantify(quantifier, objects, {b for a, b in model[left] if a == x})}


def is_true(sentence: Parse, model: Model, size: int) -> bool:
    (quantifier, nominal), verb_phrase = sentence
    return quantify(quantifier, things(nominal, model, size), doers(verb_phrase, model, size))


def words_of(*parses: str) -> list[str]:
    return sorted({token for parse in parses for token in parse.split() if token in CATEGORY})


def n_models(words: list[str], size: int) -> int:
    return 2 ** sum(size**2 if word in TRANSITIVE else size for word in words)


def listed_truth_values(premise: str, hypothesis: str, size: int) -> set[tuple[bool, bool]]:
    first, second = read_parse(premise), read_parse(hypothesis)
    models = all_models(words_of(premise, hypothesis), size)
    return {(is_true(first, model, size), is_true(second, model, size)) for model in models}


def sentences(nouns: tuple[str, ...], adjectives: tuple[str, ...], transitive: tuple[str, ...]) -> Any:
    chosen = st.lists(st.sampled_from(adjectives), max_size=1) if adjectives else st.just([])
    start = st.sampled_from(QUANTIFIERS), st.sampled_from(nouns), chosen.map(tuple)
    plain = st.builds(VerbPhrase, st.sampled_from(("run", "sprint")), st.booleans(), st.none())
    target = st.builds(NounPhrase, *start, st.lists(plain, max_size=2).map(tuple))
    clause = plain | st.builds(VerbPhrase, st.sampled_from(transitive), st.booleans(), target)
    subject = st.builds(NounPhrase, *start, st.lists(clause, max_size=2).map(tuple))
    return st.builds(Sentence, subject, clause)


ONE_RELATION = sentences(("dogs", "poodles"), ("brown",), ("see",))
TWO_RELATIONS = sentences(("dogs",), (), ("see", "watch"))


@given(ONE_RELATION, ONE_RELATION)
def test_one_relation_agrees_with_listing_every_model(premise: Sentence, hypothesis: Sentence) -> None:
    parses = binary_parse(premise), binary_parse(hypothesis)
    size = 3 if n_models(words_of(*parses), 3) <= 2**12 else 2
    assert truth_values(premise, hypothesis, size) == listed_truth_values(*parses, size)


@settings(max_examples=25)
@given(TWO_RELATIONS, TWO_RELATIONS)
def test_two_relations_agree_with_listing_every_model(premise: Sentence, hypothesis: Sentence) -> None:
    parses = binary_parse(premise), binary_parse(hypothesis)
    assert truth_values(premise, hypothesis, 2) == listed_truth_values(*parses, 2)


def test_labels_and_parses_of_the_corpus_agree_with_listing_every_model() -> None:
    config = LogicConfig(n_train=300, n_dev=0, n_test=0, n_long=0, domain_size=2)
    checked = 0
    for record in generate(config)["train"]:
        parses = record["sentence1_binary_parse"], record["sentence2_binary_parse"]
        if n_models(words_of(*parses), 2) > 2**10:
            continue
        values = listed_truth_values(*parses, 2)
        assert len({first for first, _ in values}) == len({second for _, second in values}) == 2
        expected = "neutral" if {(True, True), (True, False)} <= values else "contradiction"
        assert record["gold_label"] == ("entailment" if (True, False) not in values else expected), record
        checked += 1
    assert checked > 80


def noun_phrase(words: str) -> NounPhrase:
    """`all brown dogs`, with the quantifier and adjectives spelt as in the corpus."""
    quantifier = next(q for q in sorted(QUANTIFIERS, key=len, reverse=True) if words.startswith(q + " "))
    *adjectives, noun = words[len(quantifier) :].split()
    return NounPhrase(quantifier, noun, tuple(adjectives))


def sentence(subject: str, predicate: str, *clauses: str) -> Sentence:
    said = tuple(verb_phrase(clause) for clause in clauses)
    return Sentence(noun_phrase(subject)._replace(clauses=said), verb_phrase(predicate))


def verb_phrase(words: str) -> VerbPhrase:
    verb, *target = words.removeprefix("do not ").split(maxsplit=1)
    return VerbPhrase(verb, words.startswith("do not "), noun_phrase(target[0]) if target else None)


E, N, C = "entailment", "neutral", "contradiction"
CLASSICS = [
    (("all dogs", "run"), ("all poodles", "run"), E),
    (("all poodles", "run"), ("all dogs", "run"), N),
    (("all dogs", "sprint"), ("all dogs", "move"), E),
    (("some poodles", "sprint"), ("some animals", "run"), E),
    (("no animals", "move"), ("no poodles", "sprint"), E),
    (("no dogs", "run"), ("some poodles", "run"), C),
    (("some dogs", "run"), ("no dogs", "run"), C),
    (("some dogs", "run"), ("no dogs", "sprint"), N),
    (("all dogs", "run"), ("some dogs", "run"), N),  # there may be no dogs
    (("all dogs", "run"), ("no dogs", "run"), N),
    (("not all poodles", "run"), ("not all dogs", "run"), E),
    (("not all dogs", "run"), ("some dogs", "do not run"), E),
    (("not all dogs", "run"), ("all dogs", "run"), C),
    (("no dogs", "run"), ("all dogs", "do not run"), E),
    (("two dogs", "run"), ("some dogs", "run"), E),
    (("some dogs", "run"), ("two dogs", "run"), N),
    (("two dogs", "run"), ("two dogs", "do not run"), N),  # there may be four
    (("two dogs", "run"), ("no animals", "move"), C),
    (("some brown dogs", "run"), ("some dogs", "run"), E),
    (("all dogs", "run"), ("all brown dogs", "run"), E),
    (("all brown dogs", "run"), ("all dogs", "run"), N),
    (("some dogs", "sing", "run"), ("some dogs", "run", "sing"), E),
    (("all dogs", "sing", "run"), ("all dogs", "run", "sing"), N),
    (("no dogs", "sing", "run"), ("no dogs", "run", "sing"), E),
    (("all dogs", "sing"), ("all dogs", "sing", "run"), E),
    (("some dogs", "sing", "do not run"), ("all dogs", "run", "sing"), C),
    (("all dogs", "see some poodles"), ("all dogs", "see some animals"), E),
    (("all dogs", "watch all animals"), ("all poodles", "see all cats"), E),
    (("all dogs", "see all cats"), ("all dogs", "see some cats"), N),
    (("some dogs", "see all cats"), ("some dogs", "do not see all cats"), N),
    (("all dogs", "see no cats"), ("some dogs", "see some kittens"), C),
    (("all dogs", "do not see some cats"), ("all dogs", "see no cats"), E),
    (("some dogs", "see two cats"), ("some dogs", "see some cats"), E),
    (("some dogs", "see some cats"), ("some cats", "see some dogs"), N),
    (("some dogs", "run", "see all cats"), ("some dogs", "run", "see all kittens"), E),
    (("all dogs", "run", "see all cats"), ("all dogs", "run", "see all kittens"), N),
    (("all dogs", "run", "see all kittens"), ("all dogs", "run", "see all cats"), E),
    (("some dogs", "do not watch some cats"), ("some dogs", "do not see some cats"), N),
    (("no dogs", "see some cats"), ("some dogs", "watch two kittens"), C),
]


@pytest.mark.parametrize("premise, hypothesis, expected", CLASSICS)
def test_classic_inferences(premise: tuple[str, ...], hypothesis: tuple[str, ...], expected: str) -> None:
    assert label(sentence(*premise), sentence(*hypothesis)) == expected


def test_a_clause_inside_the_object_is_not_a_clause_beside_it() -> None:
    runs = (VerbPhrase("run"),)
    see_cats_that_run = VerbPhrase("see", object=NounPhrase("some", "cats", (), runs))
    nested = Sentence(NounPhrase("all", "dogs", (), (see_cats_that_run,)), VerbPhrase("sing"))
    stacked = sentence("all dogs", "sing", "see some cats", "run")
    assert text(nested) == text(stacked) == "all dogs that see some cats that run sing"
    assert label(nested, stacked) == "neutral"
    assert label(sentence("all dogs", "sing", "see some cats"), nested) == "entailment"
    assert label(sentence("all dogs", "sing", "run"), stacked) == "entailment"
    assert label(sentence("all dogs", "sing", "run"), nested) == "neutral"


def test_tautologies_and_contradictions_have_no_label() -> None:
    contingent = sentence("some dogs", "run")
    for constant in (
        sentence("all dogs", "run", "run"),
        sentence("all dogs", "move", "sprint"),
        sentence("some dogs", "do not run", "sprint"),
        sentence("no dogs", "do not see some cats", "watch some kittens"),
    ):
        assert label(constant, contingent) is None
        assert label(contingent, constant) is None


def test_the_domain_is_large_enough() -> None:
    """The same pairs are drawn and get the same labels with one element more; with one less they do not."""
    config = LogicConfig(seed=5, n_train=600, n_dev=0, n_test=0, n_long=24)
    four = generate(config)
    assert generate(LogicConfig(**{**vars(config), "domain_size": 5})) == four
    pair = sentence("two dogs", "run"), sentence("two dogs", "do not run")
    assert [label(*pair, size) for size in (3, 4, 5)] == ["contradiction", "neutral", "neutral"]


def test_an_object_with_a_transitive_verb_is_refused() -> None:
    inner = VerbPhrase("touch", object=noun_phrase("all cats"))
    seen = NounPhrase("some", "dogs", (), (inner,))
    nested = Sentence(noun_phrase("all dogs"), VerbPhrase("see", object=seen))
    with pytest.raises(ValueError, match="the object of 'see' contains a transitive verb"):
        label(nested, sentence("all dogs", "run"))


def test_hypernyms_stay_within_their_category_and_end() -> None:
    for word, hypernym in HYPERNYM.items():
        assert CATEGORY[word] is CATEGORY[hypernym]
        assert implies(word, hypernym)
        assert not implies(hypernym, word)
