"""Test words and their numbers."""

from __future__ import annotations

import numpy as np
import pytest

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.trees import right_branching
from spinn_tensor.data_prep.vocabulary import UNKNOWN_ID, Vocabulary, lower_case

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


def test_a_list_of_words_is_as_good() -> None:
    tokens = ("<pad>", "<unk>", "a")
    assert Vocabulary(list(tokens)) == Vocabulary(tokens)


def test_a_word_spelt_like_the_padding_is_unknown() -> None:
    vocabulary = Vocabulary.build([["<pad>", "<unk>", "a"]])
    assert vocabulary.tokens == ("<pad>", "<unk>", "a")
    assert vocabulary.encode(["<pad>", "<unk>", "a"]).tolist() == [1, 1, 2]


def test_a_text_is_not_taken_for_words() -> None:
    """Its characters would be the vocabulary, or unknown words."""
    vocabulary = Vocabulary.build(SENTENCES)
    for use in (lambda text: Vocabulary.build([text]), vocabulary.encode, right_branching):
        with pytest.raises(DataError, match="got a text, 'the dog', expected a list of words"):
            use("the dog")


def test_counting_words_gives_the_vocabulary_of_the_sentences() -> None:
    counts = {"The": 1, "dog": 2, "runs": 1, "the": 2, "sleeps": 1, "cat": 1}
    for lower in (False, True):
        assert Vocabulary.from_counts(counts, 2, lower) == Vocabulary.build(SENTENCES, 2, lower)


def test_lower_case_looks_at_one_character_at_a_time() -> None:
    """As `tokenizers` does; `str.lower` has another sigma at the end of a word."""
    assert [lower_case(word) for word in ("-LRB-", "İÉ", "ΟΔΟΣ", "Σ'Σ")] == ["-lrb-", "i̇é", "οδοσ", "σ'σ"]
    vocabulary = Vocabulary.build([["ΟΔΟΣ", "οδοσ"]], lower=True)
    assert vocabulary.tokens == ("<pad>", "<unk>", "οδοσ")
    assert vocabulary.encode(["Οδοσ", "ΟΔΟΣ", "οδος"]).tolist() == [2, 2, UNKNOWN_ID]


@pytest.mark.parametrize("lower", [False, True])
def test_half_of_a_surrogate_pair_is_in_no_vocabulary(lower: bool) -> None:
    with pytest.raises(DataError, match="half of a surrogate pair"):
        Vocabulary.build([["a", "\ud83d", "\ude00"]], lower=lower)
    assert Vocabulary.build([["a"]], lower=lower).encode(["É\ud83d", "a"]).tolist() == [UNKNOWN_ID, 2]


@pytest.mark.parametrize(
    "tokens, message",
    [
        ((), "begins with"),
        (("a", "b"), "begins with"),
        (("<unk>", "<pad>"), "begins with"),
        (("<pad>", "<unk>", "a", "a"), "once, got 'a' 2 times"),
    ],
)
def test_what_is_no_vocabulary_is_refused(tokens: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Vocabulary(tokens)


def test_the_digest_tells_order_words_and_casing_apart() -> None:
    words = ("<pad>", "<unk>")
    several = [("a", "b"), ("b", "a"), ("a",), ("a b",), ("ab",)]
    digests = {Vocabulary(words + tokens, lower).sha256 for tokens in several for lower in (False, True)}
    assert len(digests) == 2 * len(several)
