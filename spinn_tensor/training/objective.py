"""The losses of one batch, as pure functions: what `--compile` compiles.

    classification   L = -1/n Σ log softmax(logits)[label]     over the n labelled pairs, sentences or nodes
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
from spinn_tensor.machine import Parse
from spinn_tensor.model.classifiers import Model


class Totals(NamedTuple):
    """Counts what the means of a step's losses are over: all its examples, in all microbatches on all ranks."""

    examples: Tensor  # () float
    labels: Tensor  # () float, labelled pairs, sentences or nodes; 1 if there are none
    transitions: Tensor  # () float

    @classmethod
    def of(cls, counts: np.ndarray, device: torch.device | str = "cpu") -> Totals:
        """Add up (3,) or (n, 3) counts, see `count_rows`."""
        sums = np.maximum(counts.reshape(-1, 3).sum(0), 1)
        return cls(*(torch.full((), float(n), device=device) for n in sums))  # filled: nothing waits


def count_rows(
    corpus: Corpus,
    node_labels: bool,  # of the model: a label of every node
) -> np.ndarray:  # (n, 3) int64
    """Count for each row of the corpus what `Totals` adds up: 1, its labels, its transitions."""
    n_transitions = 2 * corpus.n_tokens - corpus.n_sides
    n_labels = (corpus.labels != NO_LABEL).astype(np.int64)
    if node_labels and corpus.sentences.node_labels is not None:
        running = np.concatenate(([0], np.cumsum(corpus.sentences.node_labels != NO_LABEL)))
        n_labels = np.diff(running[node_offsets(corpus.sentences)])
    return np.stack((np.ones_like(n_labels), n_labels, n_transitions), axis=1)


def training_loss(
    model: Model,
    batch: Batch,
    totals: Totals | None = None,  # None = of this batch
) -> Tensor:  # () float
    """Return the mean cross entropy; over all labelled nodes where the model was built with `node_labels`."""
    return classification_loss(model(batch), targets(model, batch), totals)


def classification_loss(
    logits: Tensor,  # (n, n_classes)
    gold: Tensor,  # (n,) int64, NO_LABEL = none
    totals: Totals | None = None,
) -> Tensor:  # () float
    """Return the mean cross entropy over the labels; 0 where there are none."""
    n_labels = (gold != NO_LABEL).sum().clamp(min=1) if totals is None else totals.labels
    return F.cross_entropy(logits, gold, ignore_index=NO_LABEL, reduction="sum") / n_labels


def supervised_loss(
    model: Model,
    batch: Batch,  # with lane tables, or with own tables and noise
    noise: Tensor | None,  # (M,), see `run_own`
    transition_weight: float,
    totals: Totals | None = None,  # None = of this batch
) -> Tensor:  # () float
    """Return the classification loss, if the model classifies, plus the weighted transition loss."""
    outcome = model.run(batch, noise)
    assert outcome.parse is not None
    gold = batch.sentences.transitions
    loss = transition_weight * transition_loss(outcome.parse, gold)
    if totals is not None:
        loss = loss * gold.shape[0] / totals.transitions
    if outcome.logits is None:
        return loss
    return loss + classification_loss(outcome.logits, targets(model, batch), totals)


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
    """Return the labels that belong to the rows of `model(batch)`."""
    if model.config.node_labels:
        assert batch.node_labels is not None, "a model with node_labels needs a corpus that has them"
        return batch.node_labels
    return batch.labels
