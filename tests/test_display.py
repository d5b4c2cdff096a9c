"""What a notebook shows: a line that says what something is, not all of its numbers."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from spinn_tensor import EncoderConfig, Provenance, SentenceEncoder, load_checkpoint, make_batch
from spinn_tensor.data_prep import Corpus, Tokenizer, Vocabulary, display
from spinn_tensor.data_prep.columns import sentence_columns
from spinn_tensor.data_prep.trees import right_branching
from tests.tiny_bundles import tiny_bundle

WORDS = tuple(f"w{number}" for number in range(300))


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Make two sentences of 300 words."""
    columns = sentence_columns([right_branching(WORDS)] * 2, Vocabulary.build([WORDS]))
    return Corpus(columns, np.array([0, 1]))


def test_its_example() -> None:
    assert doctest.testmod(display).failed == 0


@pytest.mark.parametrize("kind", ["forest", "lanes", "own", "sequence"])
def test_batches_and_corpora(kind, corpus) -> None:
    assert repr(corpus) == (
        "Corpus(sentences=SentenceColumns(token_ids=int32 (600,), token_offsets=int64 (3,), "
        "transitions=int8 (1198,), node_labels=None), labels=int64 (2,), n_sides=1)"
    )
    batch = make_batch(corpus, kind)
    text = repr(batch)
    assert text.startswith("Batch(sentences=SentenceBatch(token_ids=int64 (600,), token_mask=None, ")
    assert "tensor(" not in text
    assert "\n" not in text
    assert len(text) < 1500


def test_a_parse(corpus) -> None:
    encoder = SentenceEncoder(EncoderConfig(302, "spinn", 4, 4, 4))
    text = repr(encoder.parse(make_batch(corpus, "own").sentences))
    assert text.startswith(
        "Parse(encodings=float32 (2, 4), transitions=int64 (1198,), logits=float32 (1198, 2), "
    )


def test_words_and_checkpoints(tmp_path) -> None:
    vocabulary = Vocabulary.build([WORDS])
    assert repr(vocabulary) == "Vocabulary(302 words)"
    assert repr(Vocabulary.build([WORDS], lower=True)) == "Vocabulary(302 words, in lower case)"
    assert repr(Tokenizer(vocabulary)) == "Tokenizer(penn, 302 words)"
    provenance = Provenance(vocabulary, {"data": {"train": ["x" * 900]}}, {"accuracy": 0.5})
    checkpoint = load_checkpoint(tiny_bundle(tmp_path / "bundle"))
    for text in (repr(provenance), repr(checkpoint)):
        assert len(text) < 1500
        assert "\n" not in text
    assert repr(checkpoint).startswith(
        "Checkpoint(model=PairClassifier(...), vocabulary=Vocabulary(20 words), "
    )
