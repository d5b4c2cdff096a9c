"""Make untrained models of the smallest sizes, with running statistics and choices as a trained one has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.torch_version import TorchVersion

from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model, make_sentence_batch
from spinn_tensor.batch import SentenceBatch
from spinn_tensor.data_prep.columns import Corpus, SentenceColumns
from spinn_tensor.export.programs import TORCH_OF_LANES
from spinn_tensor.model.classifiers import Model
from spinn_tensor.model.encoder import SentenceEncoder
from spinn_tensor.model.machine import StackMachine
from spinn_tensor.normalization import MaskedBatchNorm
from tests.strategies import columns_of, transitions_from_choices

VOCABULARY_SIZE = 60
MANY_WORDS = 200  # more than `some_columns` has
LSTMS = [("lstm", "projection"), ("bilstm", "projection"), ("spinn-pi", "bilstm")]  # kind, leaf encoder
exports_lanes = pytest.mark.skipif(
    TorchVersion(torch.__version__) < TORCH_OF_LANES, reason="this torch exports no program with a tracker"
)


def tiny_model(
    task: str,
    kind: str,
    *,
    leaf_encoder: str = "projection",
    cell: str = "treelstm",
    seed: int = 0,
    hidden_dim: int = 8,
    tracker_dim: int = 5,
    policy_dim: int = 0,
) -> Model:
    """Make a model, which is in training mode."""
    torch.manual_seed(seed)
    encoder = EncoderConfig(
        VOCABULARY_SIZE,
        kind,
        embedding_dim=6,
        hidden_dim=hidden_dim,
        tracker_dim=tracker_dim,
        leaf_encoder=leaf_encoder,
        cell=cell,
        policy_dim=policy_dim,
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
            if isinstance(module, StackMachine) and module.transition is not None:
                module.transition.weight.normal_(std=4)
                module.transition.bias.normal_(std=0.1)
        if labels:
            model.mlp.output.weight.normal_()
    return model


def pair_model(kind: str = "spinn-pi", **classifier) -> Model:
    """Make a model of pairs without dropout."""
    torch.manual_seed(0)
    settings = {"mlp_dim": 16, "mlp_dropout": 0.0} | classifier
    config = EncoderConfig(MANY_WORDS, kind, 6, 8, 3, embedding_dropout=0.0)
    return build_model(ModelConfig("pair", ("a", "b", "c"), config, ClassifierConfig(3, **settings)))


def some_columns(n_sentences: int = 9, seed: int = 0) -> SentenceColumns:
    """Draw sentences of 1 to 13 tokens, no two words of them the same."""
    rng = np.random.default_rng(seed)
    n_tokens = [1, 2, *rng.integers(1, 14, size=n_sentences - 2)]
    return columns_of([transitions_from_choices(n, rng.random(2 * n - 1) < 0.5) for n in n_tokens])


def some_pairs(n: int = 5) -> Corpus:
    """Draw pairs of such sentences."""
    return Corpus.of_pairs(some_columns(n, seed=1), some_columns(n, seed=2), np.arange(n) % 3)


def encoder_and_batch(kind: str, leaf_encoder: str) -> tuple[SentenceEncoder, SentenceBatch]:
    """Make an encoder and a batch for it."""
    encoder = tiny_model("pair", kind, leaf_encoder=leaf_encoder).encoder.eval()
    assert isinstance(encoder, SentenceEncoder)
    return encoder, make_sentence_batch(some_columns(), encoder.table_kind)
