"""Untrained models of the smallest sizes, with running statistics and choices as a trained one has them."""

from __future__ import annotations

import pytest
import torch
from torch.torch_version import TorchVersion

from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model
from spinn_tensor.export.programs import TORCH_OF_LANES
from spinn_tensor.model.classifiers import Model
from spinn_tensor.model.encoder import ParsingMachine
from spinn_tensor.normalization import MaskedBatchNorm

VOCABULARY_SIZE = 60
exports_lanes = pytest.mark.skipif(
    TorchVersion(torch.__version__) < TORCH_OF_LANES, reason="this torch exports no program with a tracker"
)


def tiny_model(
    task: str,
    kind: str,
    *,
    leaf_encoder: str = "projection",
    seed: int = 0,
    hidden_dim: int = 8,
    tracker_dim: int = 5,
) -> Model:
    """A model in training mode, as it is made."""
    torch.manual_seed(seed)
    encoder = EncoderConfig(
        VOCABULARY_SIZE,
        kind,
        embedding_dim=6,
        hidden_dim=hidden_dim,
        tracker_dim=tracker_dim,
        leaf_encoder=leaf_encoder,
    )
    labels = () if task == "parse" else ("entailment", "neutral", "contradiction")
    classifier = ClassifierConfig(len(labels), mlp_dim=12) if labels else None
    model = build_model(ModelConfig(task, labels, encoder, classifier))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.5)
        for module in model.modules():
            if isinstance(module, MaskedBatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
            if isinstance(module, ParsingMachine):
                module.transition.weight.normal_(std=4)
                module.transition.bias.normal_(std=0.1)
        if labels:
            model.mlp.output.weight.normal_()
    return model
