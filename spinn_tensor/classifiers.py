"""Classifiers over encodings: pairs of sentences (SNLI) and single sentences, or every node of them (SST).

Pairs, after Mou et al. 2016 and Bowman et al. 2016, section 4: the MLP reads [p; q; p - q; p ∘ q].
"""

from __future__ import annotations

from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn

from spinn_tensor.batch import LabelledBatch, PairBatch
from spinn_tensor.config import ClassifierConfig, ModelConfig
from spinn_tensor.encoder import SentenceEncoder
from spinn_tensor.leaves import he_linear
from spinn_tensor.normalization import MaskedBatchNorm

SOFTMAX_RANGE = 0.005  # of the softmax layer's uniform initialisation (Bowman et al. 2016, section 4)


def build_model(config: ModelConfig) -> PairClassifier | SentenceClassifier:
    """A freshly initialised model."""
    return PairClassifier(config) if config.task == "pair" else SentenceClassifier(config)


class PairClassifier(nn.Module):
    """Premise and hypothesis to a relation."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = SentenceEncoder(config.encoder)
        self.mlp = MLP(4 * self.encoder.output_dim, config.classifier)

    def forward(self, batch: PairBatch) -> Tensor:  # (B, n_classes) logits
        encodings = self.encoder(batch.sentences)
        premise, hypothesis = rearrange(encodings, "(side b) d -> side b d", side=2).unbind(0)
        features = (premise, hypothesis, premise - hypothesis, premise * hypothesis)
        return self.mlp(torch.cat(features, dim=1))


class SentenceClassifier(nn.Module):
    """One sentence to a class, or with `config.node_labels` every node of its tree."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = SentenceEncoder(config.encoder)
        self.mlp = MLP(self.encoder.output_dim, config.classifier)

    def forward(self, batch: LabelledBatch) -> Tensor:  # (B, n_classes) logits, or (2L - B, n_classes)
        """With `node_labels` the nodes in the order of the transitions: a sentence's root is its last."""
        if self.config.node_labels:
            return self.mlp(self.encoder.node_states(batch.sentences))
        return self.root_logits(batch)

    def root_logits(self, batch: LabelledBatch) -> Tensor:  # (B, n_classes)
        """Logits of the whole sentences, whatever the model was trained on."""
        return self.mlp(self.encoder(batch.sentences))


class MLP(nn.Module):
    """Batch norm and dropout on the features and after every ReLU layer, then a linear layer (section 4)."""

    def __init__(self, input_dim: int, config: ClassifierConfig) -> None:
        super().__init__()
        dims = [input_dim, *[config.mlp_dim] * config.mlp_layers]
        self.hidden = nn.ModuleList(he_linear(n_in, n_out) for n_in, n_out in pairwise(dims))
        self.norms = nn.ModuleList(MaskedBatchNorm(dim) for dim in dims if config.batch_norm)
        self.dropout = nn.Dropout(config.mlp_dropout)
        self.output = nn.Linear(dims[-1], config.n_classes)
        nn.init.uniform_(self.output.weight, -SOFTMAX_RANGE, SOFTMAX_RANGE)
        nn.init.zeros_(self.output.bias)

    def forward(self, features: Tensor) -> Tensor:  # (n, input_dim) to (n, n_classes)
        x = self._regularise(features, 0)
        for number, layer in enumerate(self.hidden, start=1):
            x = self._regularise(layer(x).relu(), number)
        return self.output(x)

    def _regularise(self, x: Tensor, number: int) -> Tensor:
        return self.dropout(self.norms[number](x) if len(self.norms) else x)
