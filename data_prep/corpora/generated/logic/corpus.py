"""The corpus: pairs of sentences drawn, labelled by `semantics`, balanced, and written in SNLI's jsonl schema.

A hypothesis is an edited premise (or the premise an edited hypothesis), now and then an unrelated sentence. A part of
the corpus, `contrast`, comes in sets of two pairs with the same words, one neutral and one not: the words are put into
another structure (`sampling.permute`) until the label changes, so that only structure tells the two apart.

Labels are balanced in each split, and, up to a small `SLACK`, among the pairs whose premise, or whose hypothesis, has
the same quantifiers, negation or number of modifiers: one sentence alone must not give the label away. No two pairs
read the same, word for word, so the splits are disjoint.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from spinn_tensor.data_prep.corpora.formats import NLI_LABELS
from spinn_tensor.data_prep.corpora.generated.draw import Draw
from spinn_tensor.data_prep.corpora.generated.logic.grammar import (
    NounPhrase,
    Sentence,
    binary_parse,
    text,
    tokens,
)
from spinn_tensor.data_prep.corpora.generated.logic.sampling import (
    Shape,
    edit,
    oppose,
    permute,
    phrases,
    sample_sentence,
)
from spinn_tensor.data_prep.corpora.generated.logic.semantics import DOMAIN_SIZE, label
from spinn_tensor.data_prep.settings import NOT_NEGATIVE, Allowed, ConfigError, Settings, setting

VERSION = 1  # of the generator: another version gives other examples for the same configuration
LABELS = ENTAILMENT, NEUTRAL, CONTRADICTION = NLI_LABELS
SPLITS = ("train", "dev", "test", "long")
SHORT = Shape(adjective=0.25, clause=0.35, object_clause=0.15, transitive=0.35, negated=0.2)
LONG = Shape(adjective=0.5, clause=0.6, object_clause=0.5, transitive=0.6, negated=0.2)
UNRELATED = 0.04  # of the pairs drawn
PERMUTED = 0.2  # of the pairs drawn
OPPOSED = 0.4  # of the pairs drawn
N_EDITS = (0, 1, 1, 1, 2, 2)  # one of these at random
SLACK = 0.004  # of a pool: how far a label may be ahead of another among pairs with the same feature


@dataclass(frozen=True)
class LogicConfig(Settings):
    """Say what is generated; the same configuration gives the same examples."""

    seed: int = 0
    n_train: int = setting(18_000, "pairs", NOT_NEGATIVE)
    n_dev: int = setting(1_200, "pairs", NOT_NEGATIVE)
    n_test: int = setting(1_200, "pairs", NOT_NEGATIVE)
    n_long: int = setting(1_200, "pairs", NOT_NEGATIVE)
    max_tokens: int = setting(
        9,
        "of a sentence in train, dev and test; in each pair of long a sentence has more",
        Allowed("at least 6", lambda value: value >= 6),
    )
    max_long_tokens: int = 20
    contrast: float = setting(
        0.35,
        "of the pairs are in sets of two with the same words and different labels",
        Allowed("in [0, 0.6]", lambda value: 0 <= value <= 0.6),  # half is neutral, and a third of the corpus
    )
    domain_size: int = setting(
        DOMAIN_SIZE, "of the models that are checked", Allowed("2 to 5", lambda value: 2 <= value <= 5)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_long_tokens < self.max_tokens + 2:
            raise ConfigError(
                f"max_long_tokens: expected at least max_tokens + 2, got {self.max_long_tokens}"
            )


class Pair(NamedTuple):
    premise: Sentence
    hypothesis: Sentence
    label: str


class _Range(NamedTuple):
    """Select the pairs of a pool: the longer sentence has more than `above` and at most `up_to` tokens."""

    above: int
    up_to: int
    shape: Shape

    def holds(self, premise: Sentence, hypothesis: Sentence) -> bool:
        length = max(len(tokens(premise)), len(tokens(hypothesis)))
        fits = premise != hypothesis and self.above < length <= self.up_to
        return fits and not _repeats(premise) and not _repeats(hypothesis)


def _repeats(sentence: Sentence) -> bool:
    """Tell whether it says something like `dogs that run that run`."""
    clauses = [phrase.clauses for phrase, _ in phrases(sentence, NounPhrase)]
    return any(len(set(found)) < len(found) for found in clauses)


def generate(config: LogicConfig) -> dict[str, list[dict[str, Any]]]:
    """Generate records in SNLI's schema by split."""
    sizes = {split: _label_counts(getattr(config, f"n_{split}")) for split in SPLITS}
    seen: set[tuple[str, str]] = set()
    draw = Draw(f"logic-{VERSION}-{config.seed}")
    short = {split: size for split, size in sizes.items() if split != "long"}
    wanted = sum(short.values(), Counter[str]())
    pairs = _collect(draw, config, _Range(0, config.max_tokens, SHORT), wanted, seen)
    pairs_long = _collect(
        draw, config, _Range(config.max_tokens, config.max_long_tokens, LONG), sizes["long"], seen
    )
    splits = _cut(draw.shuffled(pairs), short)
    splits["long"] = draw.shuffled(pairs_long)
    return {split: [_record(split, i, pair) for i, pair in enumerate(splits[split])] for split in SPLITS}


def line(record: dict[str, Any]) -> tuple[str, str]:
    """Return the label of a record, and its line."""
    return record["gold_label"], json.dumps(record) + "\n"


def _label_counts(n_pairs: int) -> Counter[str]:
    """Share the examples among the labels as equally as possible."""
    return Counter({name: (n_pairs + 2 - i) // 3 for i, name in enumerate(LABELS)})


def _cut(pairs: list[Pair], missing: dict[str, Counter[str]]) -> dict[str, list[Pair]]:
    """Deal the pairs to the splits: each goes to the first one that misses its label, which counts down."""
    splits: dict[str, list[Pair]] = {split: [] for split in missing}
    for pair in pairs:
        split = next(name for name, counts in missing.items() if counts[pair.label])
        missing[split][pair.label] -= 1
        splits[split].append(pair)
    return splits


class _Pool:
    """Collect new pairs until every label has its number of single pairs and of pairs from contrast sets."""

    def __init__(self, config: LogicConfig, wanted: Counter[str], seen: set[tuple[str, str]]) -> None:
        n_sets = int(config.contrast * wanted.total() / 4)  # with each of the two other labels
        self.missing_sets = Counter({ENTAILMENT: n_sets, CONTRADICTION: n_sets})
        self.missing = wanted - Counter({ENTAILMENT: n_sets, NEUTRAL: 2 * n_sets, CONTRADICTION: n_sets})
        self.pairs: list[Pair] = []
        self._seen = seen
        self._slack = int(SLACK * wanted.total()) + 2
        self._counts: Counter[tuple[Hashable, str]] = Counter()

    def offer(self, found: Sequence[Pair]) -> None:
        """Take a contrast set as a whole, or else the first pair alone, if they are wanted and new."""
        if len(found) == 2 and self._wants(found, self.missing_sets, (ENTAILMENT, CONTRADICTION)):
            self._take(found, self.missing_sets)
        elif found and self._wants(found[:1], self.missing, LABELS):
            self._take(found[:1], self.missing)

    def _wants(self, pairs: Sequence[Pair], missing: Counter[str], rivals: Sequence[str]) -> bool:
        return missing[pairs[0].label] > 0 and self._balanced(pairs[0], rivals) and self._new(pairs)

    def _balanced(self, pair: Pair, rivals: Sequence[str]) -> bool:
        """Tell whether no rival label is too far behind among the pairs that share a feature with this one."""
        return all(
            self._counts[feature, pair.label] - self._slack <= self._counts[feature, rival]
            for feature in _features(pair)
            for rival in rivals
        )

    def _new(self, pairs: Sequence[Pair]) -> bool:
        """Tell whether the words are new; two sentences may differ in nothing but the parse, which is not enough."""
        words = {_words(pair) for pair in pairs}
        distinct = len(words) == len(pairs) and all(premise != hypothesis for premise, hypothesis in words)
        return distinct and words.isdisjoint(self._seen)

    def _take(self, pairs: Sequence[Pair], missing: Counter[str]) -> None:
        missing[pairs[0].label] -= 1
        for pair in pairs:
            self._seen.add(_words(pair))
            self._counts.update((feature, pair.label) for feature in _features(pair))
        self.pairs += pairs


def _words(pair: Pair) -> tuple[str, str]:
    return text(pair.premise), text(pair.hypothesis)


def _collect(
    draw: Draw,
    config: LogicConfig,
    range_: _Range,
    wanted: Counter[str],  # pairs of each label
    seen: set[tuple[str, str]],  # the words of pairs that must not come again; grows
) -> list[Pair]:
    pool = _Pool(config, wanted, seen)
    while any(pool.missing.values()) or any(pool.missing_sets.values()):
        premise, hypothesis = _draw_pair(draw, range_)
        if not range_.holds(premise, hypothesis):
            continue
        pairs = _labelled(config, premise, hypothesis)
        if pairs and pairs[0].label != NEUTRAL and pool.missing_sets[pairs[0].label]:
            pairs += _neutral_permutation(draw, config, range_, pairs[0])
        pool.offer(pairs)
    return pool.pairs


def _features(pair: Pair) -> list[Hashable]:
    """Describe what each sentence alone looks like."""
    found: list[Hashable] = []
    for role, sentence in (("premise", pair.premise), ("hypothesis", pair.hypothesis)):
        subject, predicate = sentence
        target = predicate.object
        n_modifiers = sum(
            len(noun.adjectives) + len(noun.clauses) for noun, _ in phrases(sentence, NounPhrase)
        )
        found.append((role, subject.quantifier, predicate.negated, target is None))
        found.append((role, target.quantifier if target else None))
        found.append((role, min(n_modifiers, 3)))
    return found


def _draw_pair(draw: Draw, range_: _Range) -> tuple[Sentence, Sentence]:
    sentence = sample_sentence(draw, range_.shape)
    while len(tokens(sentence)) > range_.up_to:
        sentence = sample_sentence(draw, range_.shape)
    if draw.chance(UNRELATED):
        return sentence, sample_sentence(draw, range_.shape)
    other = edit(draw, sentence, draw.choice(N_EDITS))
    if draw.chance(PERMUTED):
        other = permute(draw, other)
    if draw.chance(OPPOSED):
        other = oppose(draw, other)
    return (sentence, other) if draw.chance(0.5) else (other, sentence)


def _labelled(config: LogicConfig, premise: Sentence, hypothesis: Sentence) -> list[Pair]:
    name = label(premise, hypothesis, config.domain_size)
    return [] if name is None else [Pair(premise, hypothesis, name)]


def _neutral_permutation(draw: Draw, config: LogicConfig, range_: _Range, pair: Pair) -> list[Pair]:
    """Look for a neutral pair with the same words."""
    for _ in range(6):
        premise, hypothesis = pair.premise, pair.hypothesis
        if draw.chance(0.5):
            premise = permute(draw, premise)
        else:
            hypothesis = permute(draw, hypothesis)
        if range_.holds(premise, hypothesis):
            found = _labelled(config, premise, hypothesis)
            if found and found[0].label == NEUTRAL:
                return found
    return []


def _record(split: str, i: int, pair: Pair) -> dict[str, Any]:
    return {
        "annotator_labels": [pair.label],
        "gold_label": pair.label,
        "pairID": f"logic-{split}-{i}",
        "sentence1": text(pair.premise),
        "sentence1_binary_parse": binary_parse(pair.premise),
        "sentence2": text(pair.hypothesis),
        "sentence2_binary_parse": binary_parse(pair.hypothesis),
    }
