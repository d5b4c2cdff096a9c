"""Training steps that are compiled, or eager, over batches of every length, and how they are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model
from spinn_tensor.config import GIVEN_KINDS
from spinn_tensor.data_prep.batching import shares
from spinn_tensor.data_prep.columns import Corpus, SentenceColumns, concatenate, select
from spinn_tensor.model.classifiers import Model
from spinn_tensor.training.config import ParsingConfig, TrainingConfig
from spinn_tensor.training.methods import make_method
from spinn_tensor.training.objective import Totals, count_rows
from spinn_tensor.training.optimizer import learning_rate, make_optimizer
from spinn_tensor.training.step import TrainStep
from tests.strategies import columns_of, transitions_from_choices

N_STEPS, N_WORDS = 20, 50
LONGEST = 80  # tokens; SNLI's longest sentence has 82

# every part of the update matters: the rate falls at each step, the gradient is clipped, matrices decay
CONFIG = TrainingConfig(
    batch_size=12, learning_rate=0.01, decay_every=1, decay_unit="step", clip_norm=0.05, weight_decay=0.01
)
COMPILED = dataclasses.replace(CONFIG, compile=True)
ADAMW = dataclasses.replace(CONFIG, optimizer="adamw", embedding_rate=0.1, ema_decay=0.9)


def sentences(rng: np.random.Generator, n_sentences: int, longest: int) -> SentenceColumns:
    """Random trees over random words, the first of them as long as may be."""
    n_tokens = [longest, *rng.integers(1, longest + 1, size=n_sentences - 1)]
    columns = columns_of([transitions_from_choices(n, rng.random(2 * n - 1) < 0.5) for n in n_tokens])
    return columns._replace(token_ids=rng.integers(2, N_WORDS, len(columns.token_ids)).astype(np.int32))


def corpora(task: str = "pair") -> list[Corpus]:
    """Batches of differing sizes and of every length from LONGEST to 1; single sentences with labels on every node."""
    rng = np.random.default_rng(0)
    found = []
    for longest in np.linspace(LONGEST, 1, N_STEPS).astype(int):
        n = int(rng.integers(4, 12))
        if task == "pair":
            sides = [sentences(rng, n, longest) for _ in range(2)]
            found.append(Corpus.of_pairs(*sides, rng.integers(0, 3, n)))
        else:
            trees = sentences(rng, n, longest)
            trees = trees._replace(node_labels=rng.integers(0, 3, len(trees.transitions)))
            found.append(Corpus(trees, rng.integers(0, 3, n)))
    return found


def corpus_of(columns: list[Corpus]) -> tuple[Corpus, list[np.ndarray]]:
    """Batches as one corpus, and the rows of each."""
    ends = np.cumsum([len(batch.labels) for batch in columns])
    rows = [np.arange(end - len(batch.labels), end) for end, batch in zip(ends, columns, strict=True)]
    sides = (concatenate(*parts) for parts in zip(*(batch.sides for batch in columns), strict=True))
    return Corpus.of_pairs(*sides, np.concatenate([batch.labels for batch in columns])), rows


def small_model(task: str, kind: str, n_words: int = N_WORDS) -> Model:
    """A model in float64 without dropout; of sentences, if it gets their trees, with a label for every node."""
    torch.manual_seed(0)
    encoder = EncoderConfig(
        n_words, kind, embedding_dim=6, hidden_dim=8, tracker_dim=4, embedding_dropout=0.0
    )
    classifier = ClassifierConfig(3, mlp_dim=16, mlp_dropout=0.0)
    node_labels = task == "sentence" and kind in GIVEN_KINDS
    config = ModelConfig(task, ("a", "b", "c"), encoder, classifier, node_labels)
    return build_model(config).double().train()


def train_step(
    kind: str,
    config: TrainingConfig,
    n_words: int = N_WORDS,
    device: str = "cpu",
    parsing: ParsingConfig = ParsingConfig(),  # noqa: B008  (it is frozen)
    captures: bool | None = None,
) -> TrainStep:
    """What trains a small model of pairs."""
    model = small_model("pair", kind, n_words).to(device)
    method = make_method(model, parsing, config.compile)
    return TrainStep(method, make_optimizer(model, config), config, captures=captures)


def divided(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
    """Generate no code: divide a graph with gradients into forward and backward, as inductor does, and run others."""
    (outputs,) = graph.graph.output_node().args
    has_gradients = any(node.meta["example_value"].requires_grad for node in outputs)
    return torch._dynamo.lookup_backend("aot_eager" if has_gradients else "eager")(graph, inputs)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run what is to be compiled as it is, inside."""
    with (
        mock.patch("torch.compile", lambda function, **_: function),
        mock.patch("torch.compiler.is_compiling", return_value=True),  # what optimisers ask
    ):
        yield


def same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every draw begin with the same numbers: a padded batch draws more of them than a ragged one."""
    numbers = torch.rand(2, 20_000, generator=torch.Generator().manual_seed(1))

    def rand(*shape: Any, device: Any = None) -> torch.Tensor:
        *rows, n = shape if isinstance(shape[0], int) else shape[0]
        return numbers[: rows[0], :n] if rows else numbers[0, :n]

    monkeypatch.setattr(torch, "rand", rand)


def train(step: TrainStep, corpus: Corpus, batches: list[np.ndarray]) -> list[float]:
    """The losses of a step on each of the batches, warmed up before."""
    step.warm_up(corpus, batches[0])
    return take_steps(step, corpus, batches)


def take_steps(step: TrainStep, corpus: Corpus, batches: list[np.ndarray]) -> list[float]:
    """The losses of a step on each of the batches, as warmed up as it is."""
    counts = count_rows(corpus, node_labels=False)
    losses = []
    for number, rows in enumerate(batches):
        (parts,) = shares(rows, corpus.lengths_key, 1, step.config.accumulate)
        placed = [step.place(step.method.collate(select(corpus, part), number)) for part in parts]
        rate = learning_rate(step.config, number, epoch=0)
        losses.append(step(placed, Totals.of(counts[rows], step.device), number, rate))
    return [loss.item() for loss in losses]


def assert_same_training(got: TrainStep, expected: TrainStep) -> None:
    """Weights, batch norm's statistics, averages and the optimiser's state."""
    pairs = zip(
        got.method.model.state_dict().items(), expected.method.model.state_dict().values(), strict=True
    )
    for (name, ours), theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10, msg=name)
    torch.testing.assert_close(got.average.averages, expected.average.averages, rtol=1e-8, atol=1e-10)
    for ours, theirs in zip(got.parameters, expected.parameters, strict=True):
        torch.testing.assert_close(
            got.optimizer.state[ours],
            expected.optimizer.state[theirs],
            rtol=1e-8,
            atol=1e-10,
            check_device=False,  # `step` is on the CPU and float32, but for a compiled update as the parameter
            check_dtype=False,
        )
