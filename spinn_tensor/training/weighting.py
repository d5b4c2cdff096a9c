"""Weights of the classes in the loss, for corpora in which some are rare.

    L = Σ w[label] (-log softmax(logits)[label]) / Σ w[label]        over the labelled examples of a step

as torch's cross entropy has it. "balanced" is scikit-learn's: w[c] = n / (C n_c), where n_c of the n labels are c and C
classes occur.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from spinn_tensor.data_prep.columns import NO_LABEL, Corpus
from spinn_tensor.data_prep.settings import ConfigError, did_you_mean

BALANCED = "balanced"


def as_entries(value: str | Mapping[str, float] | Sequence[str]) -> tuple[str, ...]:
    """Return the setting as "balanced" alone or entries LABEL=WEIGHT, whichever way it was given.

    Raises ConfigError for anything else.
    """
    if isinstance(value, Mapping):
        value = [f"{label}={weight}" for label, weight in value.items()]
    entries = tuple(value) if isinstance(value, list | tuple) else (value,)
    if entries != (BALANCED,):
        _by_label(entries)
    return entries


def class_weights(
    entries: Sequence[str],  # the setting; () = all classes weigh the same
    labels: Sequence[str],  # C of them
    corpus: Corpus,  # the training examples
    node_labels: bool,  # whether the model learns the label of every node
) -> np.ndarray | None:  # (C,) float64
    """Return the weight of each class; None without the setting. Raises ConfigError for a label that there is not."""
    if not entries:
        return None
    weights = np.ones(len(labels))
    if tuple(entries) == (BALANCED,):
        from sklearn.utils.class_weight import compute_class_weight

        found = corpus.sentences.node_labels if node_labels else corpus.labels
        assert found is not None, "a model with node_labels needs a corpus that has them"
        found = found[found != NO_LABEL]
        classes = np.unique(found)
        weights[classes] = compute_class_weight(BALANCED, classes=classes, y=found)
        return weights
    for label, weight in _by_label(entries).items():
        if label not in labels:
            known = did_you_mean(label, labels) or f"; the labels are {', '.join(labels)}"
            raise ConfigError(f"class_weights: unknown label {label!r}{known}")
        weights[list(labels).index(label)] = weight
    return weights


def _by_label(entries: Sequence[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for entry in entries:
        label, _, text = str(entry).rpartition("=")
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not label or not 0 < weight < math.inf:
            raise ConfigError(f"class_weights: expected {BALANCED} alone or LABEL=WEIGHT, got {entry!r}")
        if label in weights:
            raise ConfigError(f"class_weights: got {label!r} twice")
        weights[label] = weight
    return weights
