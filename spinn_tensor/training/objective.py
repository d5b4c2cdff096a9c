"""The losses of one batch, as pure functions: what `--compile` compiles.

    classification   L = -1/n Σ log softmax(logits)[label]     over the n labelled pairs, sentences or nodes
    transitions      L = -1/M Σ log p(gold transition)         over all M transitions; 0 where there is no choice
    supervised       classification + w · transitions          (Bowman et al. 2016, section 3.3)

Under scheduled sampling (Bengio et al. 2015) the states are those of partly own transitions, the targets still the
gold ones of the same step; where a target is not possible, or nothing else is, it is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from data_prep.columns import NO_LABEL
from spinn_tensor.batch import LabelledBatch, PairBatch
from spinn_tensor.classifiers import Model, run_model
from spinn_tensor.machine import Parse


def training_loss(
    model: Model,
    batch: PairBatch | LabelledBatch,
) -> Tensor:  # () float
    """Mean cross entropy; over all labelled nodes where the model was built with `node_labels`."""
    return F.cross_entropy(model(batch), targets(model, batch), ignore_index=NO_LABEL)


def supervised_loss(
    model: Model,
    batch: PairBatch | LabelledBatch,  # with lane tables, or with own tables and noise
    noise: Tensor | None,  # (M,), see `run_own`
    transition_weight: float,
) -> Tensor:  # () float
    """Classification, if the model classifies, and the weighted transition loss."""
    outcome = run_model(model, batch, noise)
    assert outcome.parse is not None
    loss = transition_weight * transition_loss(outcome.parse, batch.sentences.transitions)
    if outcome.logits is None:
        return loss
    return loss + F.cross_entropy(outcome.logits, targets(model, batch), ignore_index=NO_LABEL)


def transition_loss(
    parse: Parse,
    gold: Tensor,  # (M,) int64
) -> Tensor:  # () float
    """Mean over all transitions of -log p(gold)."""
    losses = F.cross_entropy(parse.logits, gold, reduction="none")
    return torch.where(parse.free_mask, losses, 0).mean()


def targets(
    model: Model,
    batch: PairBatch | LabelledBatch,
) -> Tensor:  # (B,) int64, or (2L - B,) with node_labels
    """The labels that belong to the rows of `model(batch)`."""
    if model.config.node_labels and isinstance(batch, LabelledBatch):
        assert batch.node_labels is not None, "a model with node_labels needs a corpus that has them"
        return batch.node_labels
    return batch.labels
