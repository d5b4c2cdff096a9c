"""Predictions and scores of a model on a corpus, batches sorted by length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data_prep.batching import epoch_batches
from data_prep.columns import NO_LABEL, LabelledColumns, PairColumns, select
from spinn_tensor.batch import LabelledBatch, PairBatch, collate, move
from spinn_tensor.classifiers import PairClassifier, SentenceClassifier
from spinn_tensor.training.metrics import Scores, add_to_confusion
from spinn_tensor.training.objective import targets

EVALUATION_BATCH = 256  # sentences or pairs; no gradient is kept, so memory is no concern


class Evaluation(NamedTuple):
    """Scores of the sentences or pairs and, where the model learnt the label of every node, of all nodes."""

    scores: Scores
    node_scores: Scores | None
    loss: float  # mean over the labelled sentences or pairs, or nodes; 0 for none


def evaluate(
    model: PairClassifier | SentenceClassifier,
    corpus: PairColumns | LabelledColumns,
    batch_size: int = EVALUATION_BATCH,
) -> Evaluation:
    """Accuracy and confusion matrix. Puts the model in eval mode for the time; draws no random number."""
    labels = model.config.labels
    device = next(model.parameters()).device
    confusion = torch.zeros(len(labels), len(labels), dtype=torch.int64, device=device)
    node_confusion = torch.zeros_like(confusion)
    n_tokens = corpus.lengths_key
    losses = []
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for rows, batch in batches(model, corpus, batch_size):
                logits = model(batch)
                losses.append(_summed_loss(logits, targets(model, batch)))
                if model.config.node_labels:
                    add_to_confusion(node_confusion, targets(model, batch), logits.argmax(1))
                    logits = logits[root_rows(n_tokens[rows]).to(device)]
                add_to_confusion(confusion, batch.labels, logits.argmax(1))
    finally:
        model.train(was_training)
    scores = Scores(labels, confusion.tolist())
    node_scores = Scores(labels, node_confusion.tolist()) if model.config.node_labels else None
    n_labels = (node_scores or scores).n_examples
    loss = float(torch.stack(losses).sum()) / n_labels if n_labels else 0.0
    return Evaluation(scores, node_scores, loss)


def predict_probabilities(
    model: PairClassifier | SentenceClassifier,
    corpus: PairColumns | LabelledColumns,
    batch_size: int = EVALUATION_BATCH,
) -> np.ndarray:  # (n, C) float32, in the order of the corpus
    """Probabilities of the labels; those of the root where the model labels every node."""
    device = next(model.parameters()).device
    result = np.empty((len(corpus.labels), len(model.config.labels)), dtype=np.float32)
    n_tokens = corpus.lengths_key
    model.eval()
    with torch.inference_mode():
        for rows, batch in batches(model, corpus, batch_size):
            logits = model(batch)
            if model.config.node_labels:
                logits = logits[root_rows(n_tokens[rows]).to(device)]
            result[rows] = logits.float().softmax(1).cpu().numpy()
    return result


def batches(
    model: PairClassifier | SentenceClassifier,
    corpus: PairColumns | LabelledColumns,
    batch_size: int,
) -> Iterator[tuple[np.ndarray, PairBatch | LabelledBatch]]:
    """(rows of the corpus, batch on the model's device), longest first, each row once."""
    device = next(model.parameters()).device
    for rows in epoch_batches(corpus.lengths_key, batch_size, seed=0, epoch=0, shuffle=False):
        yield rows, move(collate(select(corpus, rows), model.encoder.table_kind), device)


def root_rows(n_tokens: np.ndarray) -> Tensor:  # (B,) int64 from (B,) int64
    """Rows of the roots among all nodes in transition order: the last transition of every sentence."""
    return torch.from_numpy(np.cumsum(2 * n_tokens - 1) - 1)


def _summed_loss(logits: Tensor, gold: Tensor) -> Tensor:  # () float64
    """Cross entropy summed over the rows with a label."""
    return F.cross_entropy(logits.float(), gold, ignore_index=NO_LABEL, reduction="sum").double()
