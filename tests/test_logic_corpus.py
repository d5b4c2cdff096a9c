"""The generated corpus: balance, disjoint splits, longer sentences, structure that matters, the same bytes."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinn_tensor.data_prep.corpora.formats import NLI_LABELS, PairFormat
from spinn_tensor.data_prep.corpora.generated import write_generated
from spinn_tensor.data_prep.corpora.generated.draw import Draw
from spinn_tensor.data_prep.corpora.generated.logic import LABELS, LogicConfig, generate
from spinn_tensor.data_prep.corpora.generated.logic.grammar import binary_parse, check_fragment, text, tokens
from spinn_tensor.data_prep.corpora.generated.logic.sampling import Shape, edit, permute, sample_sentence
from spinn_tensor.data_prep.corpora.read import read_line_examples
from spinn_tensor.data_prep.trees import format_binary, parse_binary

Record = dict[str, Any]
CONFIG = LogicConfig(seed=3, n_train=900, n_dev=150, n_test=151, n_long=90)
TINY = LogicConfig(seed=1, n_train=60, n_dev=12, n_test=12, n_long=12)


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[Record]]:
    return generate(CONFIG)


def lengths(record: Record) -> list[int]:
    return [len(record[f"sentence{i}"].split()) for i in (1, 2)]


def test_every_split_is_balanced(corpus: dict[str, list[Record]]) -> None:
    for split, records in corpus.items():
        counts = Counter(record["gold_label"] for record in records)
        assert set(counts) == set(LABELS) == set(NLI_LABELS)
        assert counts.total() == getattr(CONFIG, f"n_{split}")
        assert max(counts.values()) - min(counts.values()) <= 1


def test_no_pair_comes_twice(corpus: dict[str, list[Record]]) -> None:
    pairs = [(record["sentence1"], record["sentence2"]) for records in corpus.values() for record in records]
    assert len(set(pairs)) == len(pairs)
    assert all(premise != hypothesis for premise, hypothesis in pairs)
    identities = [record["pairID"] for records in corpus.values() for record in records]
    assert len(set(identities)) == len(identities)


def test_long_pairs_are_longer_than_any_sentence_in_training(corpus: dict[str, list[Record]]) -> None:
    longest = max(max(lengths(record)) for record in corpus["train"])
    assert longest <= CONFIG.max_tokens
    assert all(longest < max(lengths(record)) <= CONFIG.max_long_tokens for record in corpus["long"])


def test_records_follow_the_schema(corpus: dict[str, list[Record]]) -> None:
    for records in corpus.values():
        for record in records:
            assert record["annotator_labels"] == [record["gold_label"]]
            for i in (1, 2):
                parse = record[f"sentence{i}_binary_parse"]
                tree = parse_binary(parse)
                assert format_binary(tree) == parse
                assert " ".join(tree.tokens) == record[f"sentence{i}"]


def test_structure_tells_pairs_apart(corpus: dict[str, list[Record]]) -> None:
    """A good part of the pairs has a twin of the same words with another label."""
    records = [record for split in ("train", "dev", "test") for record in corpus[split]]
    labels = defaultdict(set)
    bags = [tuple(tuple(sorted(record[f"sentence{i}"].split())) for i in (1, 2)) for record in records]
    for bag, record in zip(bags, records, strict=True):
        labels[bag].add(record["gold_label"])
    assert np.mean([len(labels[bag]) > 1 for bag in bags]) >= 0.95 * CONFIG.contrast


def test_one_sentence_does_not_give_the_label_away(corpus: dict[str, list[Record]]) -> None:
    for i in (1, 2):
        counts: Counter[tuple[str, str]] = Counter()
        for record in corpus["train"]:
            counts[record[f"sentence{i}"].split()[0], record["gold_label"]] += 1
        guessed = sum(
            max(counts[word, name] for name in LABELS) for word in ("all", "some", "no", "not", "two")
        )
        assert guessed / CONFIG.n_train < 0.4


def test_files_are_read_as_snli_and_the_manifest_tells_what_made_them(tmp_path: Path) -> None:
    write_generated("logic", tmp_path, TINY)
    for split, records in generate(TINY).items():
        examples = read_line_examples(tmp_path / f"{split}.jsonl", PairFormat())
        assert [LABELS[example.label] for example in examples] == [record["gold_label"] for record in records]
    manifest = json.loads((tmp_path / "corpus.json").read_text())
    assert LogicConfig(**manifest["config"]) == TINY
    assert manifest["counts"]["train"] == dict.fromkeys(LABELS, 20)


@pytest.mark.parametrize("seed", range(5))
def test_small_and_empty_splits(seed: int) -> None:
    config = LogicConfig(seed=seed, n_train=seed, n_dev=0, n_test=1, n_long=seed % 2)
    assert {split: len(records) for split, records in generate(config).items()} == {
        "train": seed,
        "dev": 0,
        "test": 1,
        "long": seed % 2,
    }


def test_changes_keep_the_grammar_and_permutations_keep_the_words() -> None:
    draw = Draw("changes")
    shape = Shape(adjective=0.4, clause=0.5, object_clause=0.5, transitive=0.6, negated=0.3)
    n_permuted = 0
    for _ in range(300):
        sentence = edit(draw, sample_sentence(draw, shape), 2)
        permuted = permute(draw, sentence)
        for found in (sentence, permuted):
            check_fragment(found)
            assert len(tokens(found)) == len(parse_binary(binary_parse(found)).tokens)
        assert sorted(tokens(sentence)) == sorted(tokens(permuted))
        n_permuted += text(sentence) != text(permuted)
    assert n_permuted > 80
