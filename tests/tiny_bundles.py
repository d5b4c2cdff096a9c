"""Make bundles of small, untrained models, for the tests of what downstream code does with them."""

from __future__ import annotations

from pathlib import Path

import torch

from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, Provenance, build_model
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.model.classifiers import Model
from spinn_tensor.training.checkpoint import train_command
from spinn_tensor.training.config import DataConfig, RunConfig, TrainingConfig
from spinn_tensor.training.presets import run_config

OTHERS = ("The", "the", "A", "a", "big", "old", "dog", "dogs", "cat", "cats", "do", "n't", ".")
WORDS = (*OTHERS, "bark", "barks", "sing", "sings", "sleep")
LABELS = {
    "pair": ("entailment", "neutral", "contradiction"),
    "sentence": ("bad", "so-so", "good"),
    "parse": (),
}
ENCODER = {"embedding_dim": 8, "hidden_dim": 8, "tracker_dim": 4}
CLASSIFIER = {"mlp_dim": 12, "mlp_layers": 1}
METRICS = {"step": 1208, "epoch": 4, "best_dev_score": 0.90632}

FILES = ["README.md", "config.json", "model.safetensors", "tokenizer.json"]  # of a bundle

TEXTS = [
    "The dogs don't bark.",
    "cats",
    "The big old cat sings a dog sings the cats sleep.",
    "An unknown word barks.",
    "A dog sleeps.",
]
PARSES = [
    "( ( The dogs ) ( ( do ( n't bark ) ) . ) )",
    "cats",
    "( ( the ( big cat ) ) sings )",
    "( ( A dog ) ( sings . ) )",
    "( dogs bark )",
]


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    """Tell whether two models have the same parameters and buffers, by name."""
    left, right = first.state_dict(), second.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def tiny_run(corpus: str = "snli", **data: object) -> RunConfig:
    """Return settings that could have made a tiny model, with files in somebody's home."""
    if corpus == "trees":
        files = {"train": ("/home/ann/trees/train.txt",), "dev": ("/home/ann/trees/dev.txt",)}
        return run_config("parser", DataConfig(corpus="trees", **{**files, **data})).changed(**ENCODER)  # type: ignore[arg-type]
    made = DataConfig(corpus=corpus, **{"data": "/home/ann/corpora/snli_1.0", **data})  # type: ignore[arg-type]
    run = run_config("spinn-pi-2017", made).changed(**ENCODER, **CLASSIFIER)
    return run.changed(train_embedding=made.vectors is None)


def tiny_model(
    kind: str = "spinn-pi",
    task: str = "pair",
    run: RunConfig | None = None,
    *,
    cell: str = "treelstm",
    leaf_encoder: str = "projection",
    head: str = "mlp",
    **options: object,
) -> Model:
    """Make a model that knows `WORDS`, in eval mode."""
    torch.manual_seed(0)
    vocabulary = Vocabulary.build([WORDS])
    labels = LABELS[task]
    classifier = ClassifierConfig(len(labels), head=head, **CLASSIFIER) if labels else None
    encoder = EncoderConfig(len(vocabulary), kind=kind, cell=cell, leaf_encoder=leaf_encoder, **ENCODER)
    model = build_model(ModelConfig(task, labels, encoder, classifier, **options))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():  # so that outputs are not all alike
            parameter.add_(0.3 * torch.randn_like(parameter))
    run = run or tiny_run("trees" if task == "parse" else "snli")
    model.provenance = Provenance(vocabulary, run, METRICS, train_command(run))
    return model.eval()


def tiny_bundle(
    folder: Path, kind: str = "spinn-pi", task: str = "pair", run: RunConfig | None = None, **parts: str
) -> Path:
    """Save such a model into the folder, and return it."""
    tiny_model(kind, task, run, **parts).save_pretrained(folder)
    return folder


def own_run() -> RunConfig:
    """Return settings of no preset."""
    return RunConfig("mine", DataConfig(), {"kind": "spinn-pi", **ENCODER}, CLASSIFIER, TrainingConfig())
