"""Tiny corpora, models and settings of training runs in Python, and what their logs say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model
from spinn_tensor.bundle import load_weights
from spinn_tensor.cli.main import build_parser
from spinn_tensor.cli.profile import make_trainer
from spinn_tensor.cli.train import new_run
from spinn_tensor.data_prep import PairFormat, SstFormat, corpus_of, read_line_examples
from spinn_tensor.data_prep.columns import Corpus
from spinn_tensor.data_prep.corpora.formats import NLI_LABELS
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.hub import WEIGHTS
from spinn_tensor.training.checkpoint import read_training_state
from spinn_tensor.training.config import DataConfig, RunConfig, TrainingConfig
from spinn_tensor.training.loop import Observer, Task, Trainer
from spinn_tensor.training.metrics_log import read_metrics
from tests.tiny_runs import write_pairs, write_trees

ENCODER = {"embedding_dim": 8, "hidden_dim": 8, "tracker_dim": 4, "embedding_dropout": 0.0}

CLASSIFIER = {"mlp_dim": 16, "mlp_layers": 1, "mlp_dropout": 0.0}


def pairs(folder: Path, n_pairs: int = 40, seed: int = 1) -> tuple[Vocabulary, Corpus]:
    examples = list(read_line_examples(write_pairs(folder / "pairs.jsonl", n_pairs, seed), PairFormat()))
    vocabulary = Vocabulary.build(tree.tokens for example in examples for tree in example.trees)
    return vocabulary, corpus_of(examples, vocabulary)


def trees(folder: Path, n_trees: int = 30) -> tuple[Vocabulary, Corpus]:
    examples = list(read_line_examples(write_trees(folder / "trees.txt", n_trees, seed=1), SstFormat()))
    vocabulary = Vocabulary.build(example.trees[0].tokens for example in examples)
    return vocabulary, corpus_of(examples, vocabulary)


def settings(kind: str = "spinn-pi", **training: object) -> RunConfig:
    config = TrainingConfig(**{"batch_size": 16, "learning_rate": 3e-3, "log_every": 3, **training})  # type: ignore[arg-type]
    return RunConfig("test", DataConfig(), {"kind": kind, **ENCODER}, CLASSIFIER, config)


def pair_model(kind: str, vocabulary: Vocabulary) -> torch.nn.Module:
    torch.manual_seed(0)
    encoder = EncoderConfig(len(vocabulary), kind=kind, **ENCODER)
    return build_model(ModelConfig("pair", NLI_LABELS, encoder, ClassifierConfig(3, **CLASSIFIER)))


def tree_model(vocabulary: Vocabulary, node_labels: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    encoder = EncoderConfig(len(vocabulary), **ENCODER)
    classifier = ClassifierConfig(5, **CLASSIFIER)
    return build_model(ModelConfig("sentence", tuple("abcde"), encoder, classifier, node_labels))


def trainer(
    folder: Path,
    kind: str = "spinn-pi",
    observer: Observer | None = None,
    device: str = "cpu",
    n_pairs: int = 40,
    **training: object,
) -> Trainer:
    vocabulary, corpus = pairs(folder, n_pairs)
    model = pair_model(kind, vocabulary).to(device)
    return Trainer(Task(model, vocabulary, corpus, corpus), settings(kind, **training), folder, observer)


def run_of(*options: str, tell: Callable[[str], object] = str) -> RunConfig:
    """Return what `spinn train` with these options runs; hand on what it notes."""
    return new_run(build_parser().parse_args(["train", *options]), tell)


def trainer_of(arguments: list[str], *options: str) -> Trainer:
    """What `spinn profile` with these arguments trains."""
    run = new_run(build_parser().parse_args([*arguments, *options]))
    return make_trainer(run, "cpu", Skipped())


def log_of(folder: Path, kind: str) -> list[dict]:
    return [line for line in read_metrics(folder) if line["kind"] == kind]


def choosing_model(policy_dim: int = 0):
    """A SPINN over pairs, every choice of which is worth something, in float64 and without what couples samples."""
    torch.manual_seed(1)
    options = {"embedding_dropout": 0.0, "batch_norm": False, "policy_dim": policy_dim}
    classifier = ClassifierConfig(3, mlp_dim=8, mlp_dropout=0.0, batch_norm=False)
    config = ModelConfig("pair", ("a", "b", "c"), EncoderConfig(9, "spinn", 5, 6, 4, **options), classifier)
    model = build_model(config).double()
    with torch.no_grad():
        model.encoder.embedding.weight.normal_()
        if policy_dim:
            model.encoder.policy.embedding.weight.normal_()
        parser = model.encoder.policy or model.encoder
        parser.composer.transition.weight.normal_(std=3.0 if policy_dim else 2.0)
        model.mlp.output.weight.normal_()
    return model


def flat_gradient(loss: torch.Tensor, module: torch.nn.Module) -> torch.Tensor:
    parts = torch.autograd.grad(loss, list(module.parameters()), materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def go_on(trainer: Trainer) -> Trainer:
    """Give a trainer what the last checkpoint in its folder has."""
    load_weights(trainer.task.model, trainer.output / "last" / WEIGHTS)
    trainer.resume(read_training_state(trainer.output / "last"), trainer.output / "last")
    return trainer


class Notes(Observer):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


class Stop(Observer):
    """Asks the run to end after a number of steps, as a signal would."""

    def __init__(self, after: int, signal_number: int = 15) -> None:
        self.left, self.signal_number = after, signal_number

    def trained(self, progress: object, batch_size: int) -> None:
        self.left -= 1

    def pending_signal(self) -> int:
        return 0 if self.left > 0 else self.signal_number
