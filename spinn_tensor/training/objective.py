"""The loss of one batch, as a pure function: what `--compile` compiles.

    loss = -1/n Σ log softmax(logits)[label]

over the n labelled pairs, sentences or nodes of the batch.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from data_prep.columns import NO_LABEL
from spinn_tensor.batch import LabelledBatch, PairBatch
from spinn_tensor.classifiers import PairClassifier, SentenceClassifier


def training_loss(
    model: PairClassifier | SentenceClassifier,
    batch: PairBatch | LabelledBatch,
) -> Tensor:  # () float
    """Mean cross entropy; over all labelled nodes where the model was built with `node_labels`."""
    return F.cross_entropy(model(batch), targets(model, batch), ignore_index=NO_LABEL)


def targets(
    model: PairClassifier | SentenceClassifier,
    batch: PairBatch | LabelledBatch,
) -> Tensor:  # (B,) int64, or (2L - B,) with node_labels
    """The labels that belong to the rows of `model(batch)`."""
    if model.config.node_labels and isinstance(batch, LabelledBatch):
        assert batch.node_labels is not None, "a model with node_labels needs a corpus that has them"
        return batch.node_labels
    return batch.labels
