"""A training step under `torch.compile(fullgraph=True)`: the losses of eager, and few compilations over all lengths."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from data_prep.columns import LabelledColumns, PairColumns
from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model, collate
from spinn_tensor.config import GIVEN_KINDS, SPINN_KINDS
from spinn_tensor.training import training_loss
from spinn_tensor.training.config import ParsingConfig
from spinn_tensor.training.methods import make_method
from tests.strategies import columns_of, transitions_from_choices

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU"
)
N_STEPS, N_WORDS = 20, 50
LONGEST = 80  # tokens; SNLI's longest sentence has 82


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def sentences(rng: np.random.Generator, n_sentences: int, longest: int):
    n_tokens = [longest, *rng.integers(1, longest + 1, size=n_sentences - 1)]
    columns = columns_of([transitions_from_choices(n, rng.random(2 * n - 1) < 0.5) for n in n_tokens])
    return columns._replace(token_ids=rng.integers(2, N_WORDS, len(columns.token_ids)).astype(np.int32))


def pair_columns():
    """Pairs for batches of differing sizes and of every length from 1 to LONGEST."""
    rng = np.random.default_rng(0)
    for longest in np.linspace(LONGEST, 1, N_STEPS).astype(int):
        n = int(rng.integers(4, 12))
        yield PairColumns(*(sentences(rng, n, longest) for _ in range(2)), rng.integers(0, 3, n))


def tree_columns():
    """The same of single sentences with a label on every node."""
    rng = np.random.default_rng(0)
    for longest in np.linspace(LONGEST, 1, N_STEPS).astype(int):
        n = int(rng.integers(4, 12))
        trees = sentences(rng, n, longest)
        trees = trees._replace(node_labels=rng.integers(0, 3, len(trees.transitions)))
        yield LabelledColumns(trees, rng.integers(0, 3, n))


def losses(task: str, kind: str, backend: str | None) -> list[float]:
    """The losses of N_STEPS training steps in float64, eager without a backend."""
    torch.manual_seed(0)
    encoder = EncoderConfig(
        N_WORDS, kind, embedding_dim=6, hidden_dim=8, tracker_dim=4, embedding_dropout=0.0
    )
    classifier = ClassifierConfig(3, mlp_dim=16, mlp_dropout=0.0)
    has_nodes = task == "sentence" and kind in GIVEN_KINDS
    config = ModelConfig(task, ("a", "b", "c"), encoder, classifier, node_labels=has_nodes)
    model = build_model(config).double()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, eps=1e-6)
    step = training_loss
    if backend is not None:
        step = torch.compile(training_loss, fullgraph=True, dynamic=True, backend=backend)
    values = []
    for columns in pair_columns() if task == "pair" else tree_columns():
        optimizer.zero_grad()
        loss = step(model, collate(columns, model.encoder.table_kind))
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


# aot_eager captures the same graphs as inductor and only leaves out generating code for them
@pytest.mark.parametrize("task, backend", [("pair", "inductor"), ("sentence", "aot_eager")])
@pytest.mark.parametrize("kind", SPINN_KINDS)
def test_a_compiled_training_step_is_the_eager_one(kind, task, backend) -> None:
    expected = losses(task, kind, backend=None)
    got = losses(task, kind, backend)
    np.testing.assert_allclose(got, expected, rtol=1e-8)
    assert not counters["graph_break"]
    assert not counters["recompile_limit"]
    assert 1 <= counters["stats"]["unique_graphs"] <= 7


def parsing_losses(learning: str, backend: str | None) -> list[float]:
    """The losses of steps that parse, in float64, under the noise of one seed."""
    torch.manual_seed(0)
    encoder = EncoderConfig(
        N_WORDS, "spinn", embedding_dim=6, hidden_dim=8, tracker_dim=4, embedding_dropout=0.0
    )
    classifier = ClassifierConfig(3, mlp_dim=16, mlp_dropout=0.0)
    model = build_model(ModelConfig("pair", ("a", "b", "c"), encoder, classifier)).double()
    config = ParsingConfig(learning=learning, n_samples=3, scheduled_sampling=0.5, scheduled_steps=1)
    method = make_method(model, config)
    if backend is not None:
        for name in ("_supervised", "_reinforced"):
            if hasattr(method, name):
                step = getattr(method, name)
                setattr(method, name, torch.compile(step, fullgraph=True, dynamic=True, backend=backend))
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, eps=1e-6)
    values = []
    for step, columns in enumerate(pair_columns()):
        optimizer.zero_grad()
        loss = method.loss(method.collate(columns, step), step)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


@pytest.mark.parametrize(
    "learning, backend",
    [
        ("supervised", "aot_eager"),
        ("reinforce", "aot_eager"),
        pytest.param("reinforce", "inductor", marks=pytest.mark.slow),
    ],
)
def test_a_compiled_parsing_step_is_the_eager_one(learning, backend) -> None:
    """Teacher forcing at the first step, scheduled sampling after it; or samples all along."""
    expected = parsing_losses(learning, backend=None)
    got = parsing_losses(learning, backend)
    np.testing.assert_allclose(got, expected, rtol=1e-8)
    assert not counters["graph_break"]
    assert not counters["recompile_limit"]
    assert 1 <= counters["stats"]["unique_graphs"] <= 7
