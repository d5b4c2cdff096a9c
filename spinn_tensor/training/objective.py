"""The losses of one batch, as pure functions: what `--compile` compiles.

    classification   L = -1/n Σ log softmax(logits)[label]     over the n labelled pairs, sentences or nodes; with
                                                               weights of the classes see `weighting`; smoothed as
                                                               torch's cross entropy has it (Szegedy et al. 2016)
    transitions      L = -1/M Σ log p(gold transition)         over all M transitions; 0 where there is no choice
    supervised       classification + w · transitions          (Bowman et al. 2016, section 3.3)

Under scheduled sampling (Bengio et al. 2015) the states are those of partly own transitions, the targets still the
gold ones of the same step; where a target is not possible, or nothing else is, it is left out.

Where a batch is a part of a step, n and M are those of the whole step: `Totals`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spinn_tensor.batch import Batch
from spinn_tensor.data_prep.columns import NO_LABEL, Corpus, node_offsets
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.machine import Parse
from spinn_tensor.model.classifiers import Model


class Totals(NamedTuple):
    """Count what the means of a step's losses are over: all its examples, in all microbatches on all ranks."""

    examples: Tensor  # () float
    labels: Tensor  # () float, labelled pairs, sentences or nodes, by the weights of their classes; 1 if there are none
    transitions: Tensor  # () float

    @classmethod
    def of(cls, counts: np.ndarray, device: torch.device | str = "cpu") -> Totals:
        """Add up (3,) or (n, 3) counts, see `count_rows`."""
        sums = counts.reshape(-1, 3).sum(0)
        sums = np.where(sums > 0, sums, 1)
        return cls(*(torch.full((), float(n), device=device) for n in sums))  # filled: nothing waits


def count_rows(
    corpus: Corpus,
    node_labels: bool,  # of the model: a label of every node
    class_weights: np.ndarray | None = None,  # (C,) float64, None = all 1
) -> np.ndarray:  # (n, 3) int64, with weights float64
    """Count for each row of the corpus what `Totals` adds up: 1, its labels by their weights, its transitions."""
    n_transitions = 2 * corpus.n_tokens - corpus.n_sides
    n_labels = _weights(corpus.labels, class_weights)
    if node_labels and corpus.sentences.node_labels is not None:
        weights = _weights(corpus.sentences.node_labels, class_weights)
        n_labels = np.diff(np.concatenate(([0], np.cumsum(weights)))[node_offsets(corpus.sentences)])
    return np.stack((np.ones_like(n_labels), n_labels, n_transitions), axis=1)


def _weights(labels: np.ndarray, class_weights: np.ndarray | None) -> np.ndarray:
    """Return what each label weighs: 0 where there is none."""
    is_label = labels != NO_LABEL
    if class_weights is None:
        return is_label.astype(np.int64)
    return np.where(is_label, class_weights[np.where(is_label, labels, 0)], 0.0)


def training_loss(
    model: Model,
    batch: Batch,
    totals: Totals | None = None,  # None = of this batch
    class_weights: Tensor | None = None,  # (C,) float, None = all 1
    label_smoothing: float = 0.0,
) -> Tensor:  # () float
    """Return the mean cross entropy; over all labelled nodes where the model was built with `node_labels`."""
    return classification_loss(model(batch), targets(model, batch), totals, class_weights, label_smoothing)


def classification_loss(
    logits: Tensor,  # (n, n_classes)
    gold: Tensor,  # (n,) int64, NO_LABEL = none
    totals: Totals | None = None,
    class_weights: Tensor | None = None,  # (C,) float, None = all 1
    label_smoothing: float = 0.0,
) -> Tensor:  # () float
    """Return the weighted mean cross entropy over the labels; 0 where there are none."""
    total = _total_weight(gold, class_weights) if totals is None else totals.labels
    loss = F.cross_entropy(
        logits,
        gold,
        class_weights,
        ignore_index=NO_LABEL,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return loss / total


def _total_weight(gold: Tensor, class_weights: Tensor | None) -> Tensor:  # ()
    """Return the sum of the weights of the labels; 1 where there are none."""
    is_label = gold != NO_LABEL
    if class_weights is None:
        return is_label.sum().clamp(min=1)
    weight = torch.where(is_label, class_weights[gold.clamp(min=0)], 0).sum()
    return torch.where(weight > 0, weight, 1)


def supervised_loss(
    model: Model,
    batch: Batch,  # with lane tables, or with own tables and noise
    noise: Tensor | None,  # (M,), see `run_own`
    transition_weight: float,
    totals: Totals | None = None,  # None = of this batch
    class_weights: Tensor | None = None,  # (C,) float, None = all 1
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    # () float, and (2,) its parts, detached: classification (0 without classes), transitions
    """Return the classification loss, if the model classifies, plus the weighted transition loss."""
    outcome = model.run(batch, noise)
    assert outcome.parse is not None
    gold = batch.sentences.transitions
    of_transitions = transition_loss(outcome.parse, gold)
    if totals is not None:
        of_transitions = of_transitions * gold.shape[0] / totals.transitions
    task = torch.zeros_like(of_transitions)
    if outcome.logits is not None:
        labels = targets(model, batch)
        task = classification_loss(outcome.logits, labels, totals, class_weights, label_smoothing)
    return transition_weight * of_transitions + task, torch.stack((task, of_transitions)).detach()


def transition_loss(
    parse: Parse,
    gold: Tensor,  # (M,) int64
) -> Tensor:  # () float
    """Return the mean over all transitions of -log p(gold)."""
    losses = F.cross_entropy(parse.logits, gold, reduction="none")
    return torch.where(parse.free_mask, losses, 0).mean()


def targets(
    model: Model,
    batch: Batch,
) -> Tensor:  # (B,) int64, or (2L - B,) with node_labels
    """Return the labels that belong to the rows of `model(batch)`. Raises DataError for a batch that has none."""
    if model.config.node_labels:
        if batch.node_labels is None:
            raise DataError("a model with node_labels needs a corpus that has them")
        return batch.node_labels
    return batch.labels
