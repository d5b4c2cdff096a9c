"""Predictions and scores of a model on a corpus, batches sorted by length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spinn_tensor.batch import Batch, make_batch, make_sentence_batch, move
from spinn_tensor.data_prep.batching import epoch_batches
from spinn_tensor.data_prep.brackets import ParseScores, score_parses
from spinn_tensor.data_prep.columns import (
    NO_LABEL,
    Corpus,
    SentenceColumns,
    lengths,
    select,
    take,
)
from spinn_tensor.model.classifiers import Model
from spinn_tensor.model.encoder import SentenceEncoder
from spinn_tensor.training.metrics import Scores, add_to_confusion
from spinn_tensor.training.objective import targets

EVALUATION_BATCH = 256  # sentences or pairs; no gradient is kept, so there may be many
TOKENS = 16_384  # of a batch: what bounds memory, since sentences may have any length


class Evaluation(NamedTuple):
    """Scores of the sentences or pairs, of all nodes where the model learnt their labels, and of its own trees."""

    scores: Scores | None  # None for a model that only parses
    node_scores: Scores | None
    parse_scores: ParseScores | None  # against the trees of the corpus; None for encoders that do not parse
    loss: float | None  # mean over the labelled sentences or pairs, or nodes; None where nothing is labelled

    def criterion(self, name: str) -> float:
        """What makes an evaluation the best: "accuracy" where there are classes, or "f1" of the trees."""
        if self.scores is None or (name == "f1" and self.parse_scores is not None):
            assert self.parse_scores is not None
            return self.parse_scores.gold.sentence_f1
        return self.scores.accuracy

    def to_dict(self) -> dict[str, Any]:
        """Scores as JSON values."""
        values: dict[str, Any] = {} if self.loss is None else {"loss": self.loss}
        if self.scores is not None:
            values |= self.scores.to_dict()
        if self.node_scores is not None:
            values["nodes"] = self.node_scores.to_dict()
        if self.parse_scores is not None:
            values["parse"] = self.parse_scores.to_dict()
        return values


class _Tally:
    """Counts over the batches of an evaluation."""

    def __init__(self, model: Model) -> None:
        self.model, self.labels = model, model.config.labels
        device = next(model.parameters()).device
        self.confusion = torch.zeros(len(self.labels), len(self.labels), dtype=torch.int64, device=device)
        self.node_confusion = torch.zeros_like(self.confusion)
        self.losses: list[Tensor] = []
        self.parses: list[Tensor] = []
        self.gold: list[Tensor] = []
        self.lengths: list[np.ndarray] = []

    def add(self, corpus: Corpus, rows: np.ndarray, batch: Batch) -> None:
        outcome = self.model.run(batch)
        if outcome.parse is not None:
            self.parses.append(outcome.parse.transitions)
            self.gold.append(batch.sentences.transitions)
            self.lengths.append(lengths(select(corpus, rows).sentences))
        if (logits := outcome.logits) is None:
            return
        gold = targets(self.model, batch)
        self.losses.append(_summed_loss(logits, gold))
        if self.model.config.node_labels:
            add_to_confusion(self.node_confusion, gold, logits.argmax(1))
            logits = logits[root_rows(corpus.lengths_key[rows]).to(logits.device)]
        add_to_confusion(self.confusion, batch.labels, logits.argmax(1))

    def evaluation(self) -> Evaluation:
        scores = Scores(self.labels, self.confusion.tolist()) if self.labels else None
        has_nodes = self.model.config.node_labels
        node_scores = Scores(self.labels, self.node_confusion.tolist()) if has_nodes else None
        counted = node_scores or scores
        n_labels = 0 if counted is None else counted.n_examples
        loss = float(torch.stack(self.losses).sum()) / n_labels if n_labels else None
        return Evaluation(scores, node_scores, self._parse_scores(), loss)

    def _parse_scores(self) -> ParseScores | None:
        if not self.parses:
            return None
        predicted, gold = (
            torch.cat(parts).to(torch.int8).cpu().numpy() for parts in (self.parses, self.gold)
        )
        return score_parses(predicted, gold, np.concatenate(self.lengths))


def evaluate(
    model: Model,
    corpus: Corpus,
    batch_size: int = EVALUATION_BATCH,
) -> Evaluation:
    """Accuracy, confusion matrix and trees. Puts the model in eval mode for the time; draws no random number."""
    tally = _Tally(model)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for rows, batch in batches(model, corpus, batch_size):
                tally.add(corpus, rows, batch)
    finally:
        model.train(was_training)
    return tally.evaluation()


def predict_probabilities(
    model: Model,
    corpus: Corpus,
    batch_size: int = EVALUATION_BATCH,
) -> np.ndarray:  # (n, C) float32, in the order of the corpus
    """Probabilities of the labels; those of the root where the model labels every node."""
    device = next(model.parameters()).device
    result = np.empty((len(corpus.labels), len(model.config.labels)), dtype=np.float32)
    n_tokens = corpus.lengths_key
    model.eval()
    with torch.inference_mode():
        for rows, batch in batches(model, corpus, batch_size):
            logits = model.run(batch).logits
            assert logits is not None, "a model that only parses predicts no labels"
            if model.config.node_labels:
                logits = logits[root_rows(n_tokens[rows]).to(device)]
            result[rows] = logits.float().softmax(1).cpu().numpy()
    return result


def predict_transitions(
    encoder: SentenceEncoder,  # of kind "spinn"
    sentences: SentenceColumns,
    on_batch: Callable[[int], object] | None = None,  # told the size of each batch, when it is done
) -> np.ndarray:  # (M,) int8, sentence after sentence
    """The trees that the encoder finds, in the order of the columns, whose own trees are not looked at.

    Raises TypeError for an encoder that does not parse.
    """
    device = next(encoder.parameters()).device
    order, parses = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int8)]
    encoder.eval()
    with torch.inference_mode():
        for rows in sentence_batches(lengths(sentences)):
            batch = move(make_sentence_batch(take(sentences, rows), "own", share="projections"), device)
            order.append(rows)
            parses.append(encoder.parse(batch).transitions.to(torch.int8).cpu().numpy())
            if on_batch is not None:
                on_batch(len(rows))
    rows = np.concatenate(order)
    parsed = take(sentences, rows)._replace(transitions=np.concatenate(parses), node_labels=None)
    return take(parsed, np.argsort(rows)).transitions


def sentence_batches(
    n_tokens: np.ndarray,  # (n,) int64 tokens of each sentence, or pair
    batch_size: int = EVALUATION_BATCH,  # at most
) -> Iterator[np.ndarray]:
    """Rows of each batch, (B,) int64, longest first; with more than `TOKENS` tokens only by its last sentence."""
    for rows in epoch_batches(n_tokens, batch_size, seed=0, epoch=0, shuffle=False):
        n_before = np.cumsum(n_tokens[rows]) - n_tokens[rows]
        yield from np.split(rows, np.flatnonzero(np.diff(n_before // TOKENS)) + 1)


def batches(
    model: Model,
    corpus: Corpus,
    batch_size: int,
) -> Iterator[tuple[np.ndarray, Batch]]:
    """(rows of the corpus, batch on the model's device), longest first, each row once; see `sentence_batches`."""
    device = next(model.parameters()).device
    kind = model.encoder.table_kind
    # both sides of a pair count as the longer one
    for rows in sentence_batches(corpus.n_sides * corpus.lengths_key, batch_size):
        batch = make_batch(select(corpus, rows), kind, share=model.encoder.sharing(kind))
        yield rows, move(batch, device)


def root_rows(n_tokens: np.ndarray) -> Tensor:  # (B,) int64 from (B,) int64
    """Rows of the roots among all nodes in transition order: the last transition of every sentence."""
    return torch.from_numpy(np.cumsum(2 * n_tokens - 1) - 1)


def _summed_loss(logits: Tensor, gold: Tensor) -> Tensor:  # () float64
    """Cross entropy summed over the rows with a label."""
    return F.cross_entropy(logits.float(), gold, ignore_index=NO_LABEL, reduction="sum").double()
