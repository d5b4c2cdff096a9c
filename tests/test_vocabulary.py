"""Words and their numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import DataError
from data_prep.vocabulary import UNKNOWN_ID, Vocabulary

SENTENCES = [["The", "dog", "runs"], ["the", "dog", "sleeps"], ["the", "cat"]]


def test_the_most_frequent_words_come_first_then_the_alphabet() -> None:
    vocabulary = Vocabulary.build(SENTENCES)
    assert vocabulary.tokens == ("<pad>", "<unk>", "dog", "the", "The", "cat", "runs", "sleeps")
    assert len(vocabulary) == 8


def test_min_count_and_lower() -> None:
    assert Vocabulary.build(SENTENCES, min_count=2).tokens == ("<pad>", "<unk>", "dog", "the")
    assert Vocabulary.build(SENTENCES, min_count=3, lower=True).tokens == ("<pad>", "<unk>", "the")


def test_encode() -> None:
    vocabulary = Vocabulary.build(SENTENCES, lower=True)
    ids = vocabulary.encode(["THE", "dog", "barks"])
    assert ids.dtype == np.int32
    assert [vocabulary.tokens[i] for i in ids] == ["the", "dog", "<unk>"]
    assert Vocabulary.build(SENTENCES).encode(["THE"]).tolist() == [UNKNOWN_ID]
    assert vocabulary.encode([]).dtype == np.int32


def test_a_word_spelt_like_the_padding_is_unknown() -> None:
    vocabulary = Vocabulary.build([["<pad>", "<unk>", "a"]])
    assert vocabulary.tokens == ("<pad>", "<unk>", "a")
    assert vocabulary.encode(["<pad>", "<unk>", "a"]).tolist() == [1, 1, 2]


def test_counting_words_gives_the_vocabulary_of_the_sentences() -> None:
    counts = {"The": 1, "dog": 2, "runs": 1, "the": 2, "sleeps": 1, "cat": 1}
    for lower in (False, True):
        assert Vocabulary.from_counts(counts, 2, lower) == Vocabulary.build(SENTENCES, 2, lower)


def test_save_and_load(tmp_path: Path) -> None:
    vocabulary = Vocabulary.build([["é", '"', "\u2028", "8\xa01/2"]], lower=True)
    vocabulary.save(tmp_path / "vocabulary.json")
    loaded = Vocabulary.load(tmp_path / "vocabulary.json")
    assert loaded == vocabulary
    assert loaded.sha256 == vocabulary.sha256


def test_the_digest_tells_order_words_and_casing_apart() -> None:
    words = ("<pad>", "<unk>")
    several = [("a", "b"), ("b", "a"), ("a",), ("a b",), ("ab",)]
    digests = {Vocabulary(words + tokens, lower).sha256 for tokens in several for lower in (False, True)}
    assert len(digests) == 2 * len(several)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object with the fields lower and tokens"),
        ('{"tokens": []}', "expected a JSON object with the fields lower and tokens"),
        ('{"lower": 1, "tokens": []}', "lower: expected true or false"),
        ('{"lower": true, "tokens": [1]}', "tokens: expected a list of strings"),
        ('{"lower": true, "tokens": ["a", "b"]}', "begins with"),
        ('{"lower": true, "tokens": ["<pad>", "<unk>", "a", "a"]}', "once, got 'a' 2 times"),
        ("", "an empty file"),
    ],
)
def test_load_refuses_what_save_does_not_write(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        Vocabulary.load(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_load_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"vocabulary\.json: no such file"):
        Vocabulary.load(tmp_path / "vocabulary.json")
