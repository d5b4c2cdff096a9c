"""A training step under `torch.compile(fullgraph=True)`: the losses of eager, and few compilations over all lengths."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from data_prep.columns import LabelledColumns, PairColumns
from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model, collate
from spinn_tensor.config import SPINN_KINDS
from spinn_tensor.training import training_loss
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


def make_batches(task: str, kind: str):
    """Batches of differing sizes and of every length from 1 to LONGEST."""
    rng = np.random.default_rng(0)
    table_kind = "forest" if kind == "spinn-pi-nt" else "lanes"
    for longest in np.linspace(LONGEST, 1, N_STEPS).astype(int):
        n = int(rng.integers(4, 12))
        if task == "pair":
            columns = PairColumns(*(sentences(rng, n, longest) for _ in range(2)), rng.integers(0, 3, n))
        else:
            trees = sentences(rng, n, longest)
            trees = trees._replace(node_labels=rng.integers(0, 3, len(trees.transitions)))
            columns = LabelledColumns(trees, rng.integers(0, 3, n))
        yield collate(columns, table_kind)


def losses(task: str, kind: str, backend: str | None) -> list[float]:
    """The losses of N_STEPS training steps in float64, eager without a backend."""
    torch.manual_seed(0)
    encoder = EncoderConfig(
        N_WORDS, kind, embedding_dim=6, hidden_dim=8, tracker_dim=4, embedding_dropout=0.0
    )
    classifier = ClassifierConfig(3, mlp_dim=16, mlp_dropout=0.0)
    config = ModelConfig(task, ("a", "b", "c"), encoder, classifier, node_labels=task == "sentence")
    model = build_model(config).double()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, eps=1e-6)
    step = training_loss
    if backend is not None:
        step = torch.compile(training_loss, fullgraph=True, dynamic=True, backend=backend)
    values = []
    for batch in make_batches(task, kind):
        optimizer.zero_grad()
        loss = step(model, batch)
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
