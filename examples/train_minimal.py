"""Train in a loop of your own, from a list of trees to a saved model: python examples/train_minimal.py [--compile]

The sentences call something good or bad, with any number of `not`; what that comes to is their label.
"""

from __future__ import annotations

import sys
from itertools import product

import numpy as np
import torch
from torch.nn import functional as F

from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, SentenceClassifier, make_batch
from spinn_tensor.data_prep import Corpus, Vocabulary, parse_binary, select, sentence_columns

THINGS = ("film", "book", "song", "game", "play")
WORDS = {"good": 1, "fine": 1, "bad": 0, "dull": 0}


def make_corpus(nots: range, vocabulary: Vocabulary | None = None) -> tuple[Corpus, Vocabulary]:
    """Return trees with these numbers of `not` and their labels as arrays, and the words by number."""
    texts, labels = [], []
    for thing, (word, is_good), n in product(THINGS, WORDS.items(), nots):
        texts.append(f"( ( the {thing} ) ( is {'( not ' * n}{word}{' )' * n} ) )")
        labels.append((is_good + n) % 2)
    trees = [parse_binary(text) for text in texts]
    vocabulary = vocabulary or Vocabulary.build(tree.tokens for tree in trees)
    return Corpus(sentence_columns(trees, vocabulary), labels=np.array(labels)), vocabulary


def make_model(vocabulary: Vocabulary) -> SentenceClassifier:
    """Return a small SPINN over given trees."""
    encoder = EncoderConfig(len(vocabulary), "spinn-pi-nt", embedding_dim=16, hidden_dim=32)
    return SentenceClassifier(
        ModelConfig("sentence", ("bad", "good"), encoder, ClassifierConfig(2, mlp_dim=32))
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    train, vocabulary = make_corpus(range(4))
    test, _ = make_corpus(range(4, 6), vocabulary)
    model = make_model(vocabulary)
    run = torch.compile(model, fullgraph=True, dynamic=True) if "--compile" in sys.argv else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(15):
        for rows in np.array_split(rng.permutation(len(train.labels)), 5):
            batch = make_batch(select(train, rows), model.encoder.table_kind)
            loss = F.cross_entropy(run(batch), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    batch = make_batch(test, model.eval().encoder.table_kind)
    accuracy = (model(batch).argmax(1) == batch.labels).float().mean().item()
    print(f"loss {loss.item():.3f}; with four and five nots, of which it saw no example: {accuracy:.0%}")
    model.save_pretrained("runs/minimal", vocabulary=vocabulary, metrics={"accuracy": accuracy})
