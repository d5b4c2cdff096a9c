"""Scores of a model on a corpus."""

from __future__ import annotations

from math import isfinite, isnan
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spinn_tensor.batch import Batch
from spinn_tensor.data_prep.brackets import ParseScores, score_parses
from spinn_tensor.data_prep.columns import NO_LABEL, Corpus, lengths, select
from spinn_tensor.inference import EVALUATION_BATCH, corpus_batches, root_rows
from spinn_tensor.model.classifiers import Model
from spinn_tensor.training.objective import targets


class ClassScores(NamedTuple):
    """Tell how well one class was found; None where there is nothing to divide by."""

    precision: float | None  # of the examples predicted so
    recall: float | None  # of the examples with this gold label
    f1: float | None  # harmonic mean of both; None for a class that is neither gold nor predicted
    n_examples: int  # with this gold label


class Scores(NamedTuple):
    """Tell how often the model was right, from counts of (gold label, predicted label)."""

    labels: tuple[str, ...]
    confusion: list[list[int]]  # [gold][predicted]

    @property
    def n_examples(self) -> int:
        """Count the examples with a label."""
        return sum(map(sum, self.confusion))

    @property
    def accuracy(self) -> float:
        """Return the share of right predictions; 0 for no examples."""
        return sum(row[i] for i, row in enumerate(self.confusion)) / max(self.n_examples, 1)

    @property
    def by_class(self) -> dict[str, ClassScores]:
        """Return precision, recall and F1 of each class, as scikit-learn computes them."""
        from sklearn.metrics import precision_recall_fscore_support

        if not self.n_examples:  # which scikit-learn refuses
            return {label: ClassScores(None, None, None, 0) for label in self.labels}
        counts = np.array(self.confusion)
        gold, predicted = (classes.reshape(-1) for classes in np.indices(counts.shape))
        figures = precision_recall_fscore_support(
            gold,
            predicted,
            labels=range(len(self.labels)),
            sample_weight=counts.reshape(-1),  # each cell stands for all its examples
            zero_division=np.nan,
        )
        scores = {}
        for label, row in zip(self.labels, np.transpose(figures).tolist(), strict=True):
            precision, recall, f1 = (None if isnan(share) else share for share in row[:3])
            scores[label] = ClassScores(precision, recall, f1, int(row[3]))
        return scores

    @property
    def macro_f1(self) -> float:
        """Return the mean F1 of the classes that are gold or predicted at all; 0 for no examples."""
        f1s = [scores.f1 for scores in self.by_class.values() if scores.f1 is not None]
        return fmean(f1s) if f1s else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as JSON values."""
        return {
            "accuracy": self.accuracy,
            "n_examples": self.n_examples,
            "macro_f1": self.macro_f1,
            "classes": {label: scores._asdict() for label, scores in self.by_class.items()},
            "labels": list(self.labels),
            "confusion": self.confusion,
        }


class Evaluation(NamedTuple):
    """Hold the scores of the examples, of all nodes where the model learnt their labels, and of its own trees."""

    scores: Scores | None  # None for a model that only parses
    node_scores: Scores | None
    parse_scores: ParseScores | None  # against the trees of the corpus; None for encoders that do not parse
    loss: float | None  # mean over the labelled sentences or pairs, or nodes; None where nothing is labelled

    def criterion(self, name: str) -> float:
        """Return what makes an evaluation the best, by its name in `select_by`; of a parser "f1" of its trees."""
        if self.scores is None or (name == "f1" and self.parse_scores is not None):
            assert self.parse_scores is not None
            return self.parse_scores.gold.sentence_f1
        return self.scores.macro_f1 if name == "macro_f1" else self.scores.accuracy

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as JSON values."""
        values: dict[str, Any] = (
            {} if self.loss is None else {"loss": self.loss if isfinite(self.loss) else None}
        )
        if self.scores is not None:
            values |= self.scores.to_dict()
        if self.node_scores is not None:
            values["nodes"] = self.node_scores.to_dict()
        if self.parse_scores is not None:
            values["parse"] = self.parse_scores.to_dict()
        return values


class _Tally:
    """Add up the batches of an evaluation."""

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
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        self.losses.append(F.cross_entropy(wide, gold, ignore_index=NO_LABEL, reduction="sum").double())
        if self.model.config.node_labels:
            add_to_confusion(self.node_confusion, gold, logits.argmax(1))
            logits = logits[root_rows(batch)]
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
    """Return accuracy, confusion matrix and trees. The model is in eval mode meanwhile; no random number is drawn."""
    tally = _Tally(model)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for rows, batch in corpus_batches(model, corpus, batch_size):
                tally.add(corpus, rows, batch)
    finally:
        model.train(was_training)
    return tally.evaluation()


def add_to_confusion(
    confusion: Tensor,  # (C, C) int64, [gold, predicted]; changed in place
    gold: Tensor,  # (n,) int64, NO_LABEL (negative) = none
    predicted: Tensor,  # (n,) int64
) -> None:
    """Count a batch without a host sync."""
    cell = gold.clamp(min=0) * len(confusion) + predicted
    confusion.view(-1).index_add_(0, cell, (gold >= 0).to(confusion))
