"""A training step under `torch.compile(fullgraph=True)`: the losses of eager, and few compilations over all lengths."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from benchmarks.data import load_pairs
from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model, make_batch
from spinn_tensor.cli import train as train_command
from spinn_tensor.cli.main import build_parser
from spinn_tensor.config import GIVEN_KINDS, SPINN_KINDS
from spinn_tensor.data_prep.batching import epoch_batches
from spinn_tensor.data_prep.columns import Corpus, concatenate, select
from spinn_tensor.fixed_shapes import MOST_SHAPES
from spinn_tensor.training import training_loss
from spinn_tensor.training.config import ParsingConfig, TrainingConfig
from spinn_tensor.training.methods import make_method
from spinn_tensor.training.objective import Totals, count_rows
from spinn_tensor.training.optimizer import learning_rate, make_optimizer
from spinn_tensor.training.step import TrainStep
from tests.machines import SHARED, needs_shared
from tests.strategies import columns_of, transitions_from_choices

pytestmark = [
    pytest.mark.numerical,
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU"),
]
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
        yield Corpus.of_pairs(*(sentences(rng, n, longest) for _ in range(2)), rng.integers(0, 3, n))


def tree_columns():
    """The same of single sentences with a label on every node."""
    rng = np.random.default_rng(0)
    for longest in np.linspace(LONGEST, 1, N_STEPS).astype(int):
        n = int(rng.integers(4, 12))
        trees = sentences(rng, n, longest)
        trees = trees._replace(node_labels=rng.integers(0, 3, len(trees.transitions)))
        yield Corpus(trees, rng.integers(0, 3, n))


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
        loss = step(model, make_batch(columns, model.encoder.table_kind))
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


# aot_eager captures the same graphs as inductor and only leaves out generating code for them
@pytest.mark.parametrize("task, backend", [("pair", "inductor"), ("sentence", "aot_eager")])
@pytest.mark.parametrize("kind", SPINN_KINDS)
def test_a_compiled_training_step_is_the_eager_one(kind, task, backend) -> None:
    if backend == "inductor" and os.environ.get("ATEN_CPU_CAPABILITY") == "default":
        pytest.skip("what inductor generates does not compile under it (torch 2.13)")
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


def corpus_of(columns: list[Corpus]) -> tuple[Corpus, list[np.ndarray]]:
    """Batches as one corpus, and the rows of each."""
    ends = np.cumsum([len(batch.labels) for batch in columns])
    rows = [np.arange(end - len(batch.labels), end) for end, batch in zip(ends, columns, strict=True)]
    sides = (concatenate(*parts) for parts in zip(*(batch.sides for batch in columns), strict=True))
    return Corpus.of_pairs(*sides, np.concatenate([batch.labels for batch in columns])), rows


def train_step(
    kind: str, config: TrainingConfig, n_words: int = N_WORDS, device: str = "cpu", **options
) -> TrainStep:
    """A small model of pairs, in float64, and what trains it."""
    torch.manual_seed(0)
    encoder = EncoderConfig(
        n_words, kind, embedding_dim=6, hidden_dim=8, tracker_dim=4, embedding_dropout=0.0
    )
    classifier = ClassifierConfig(3, mlp_dim=16, mlp_dropout=0.0)
    model = build_model(ModelConfig("pair", ("a", "b", "c"), encoder, classifier)).double().to(device).train()
    method = make_method(model, ParsingConfig(), config.compile)
    return TrainStep(method, make_optimizer(model, config), config, **options)


def train(step: TrainStep, corpus: Corpus, batches: list[np.ndarray]) -> list[float]:
    """The losses of a step on each of the batches, warmed up before."""
    step.warm_up(corpus, batches[0])
    counts = count_rows(corpus, node_labels=False)
    losses = []
    for number, rows in enumerate(batches):
        batch = step.place(step.method.collate(select(corpus, rows), number))
        rate = learning_rate(step.config, number, epoch=0)
        losses.append(step([batch], Totals.of(counts[rows], step.device), number, rate))
    return [loss.item() for loss in losses]


# every part of the update matters: the rate falls at each step, the gradient is clipped, matrices decay
CONFIG = TrainingConfig(
    batch_size=12, learning_rate=0.01, decay_every=1, decay_unit="step", clip_norm=0.05, weight_decay=0.01
)
COMPILED = dataclasses.replace(CONFIG, compile=True)


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """aot_eager captures the same graphs as inductor and only leaves out generating code for them."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def assert_same_training(got: TrainStep, expected: TrainStep) -> None:
    """Weights, batch norm's statistics and the optimiser's state."""
    pairs = zip(
        got.method.model.state_dict().items(), expected.method.model.state_dict().values(), strict=True
    )
    for (name, ours), theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10, msg=name)
    for ours, theirs in zip(got.parameters, expected.parameters, strict=True):
        torch.testing.assert_close(
            got.optimizer.state[ours],
            expected.optimizer.state[theirs],
            rtol=1e-8,
            atol=1e-10,
            check_device=False,  # RMSprop's `step` is on the CPU, but on the device for a compiled update
        )


def check_compiled_run(kind: str, captures: bool) -> TrainStep:
    """Trains compiled as eager; gives the compiled step."""
    corpus, batches = corpus_of(list(pair_columns()))
    eager = train_step(kind, CONFIG)
    expected = train(eager, corpus, batches)
    step = train_step(kind, COMPILED, captures=captures)
    got = train(step, corpus, batches)
    np.testing.assert_allclose(got, expected, rtol=1e-8)
    assert_same_training(step, eager)
    assert not counters["graph_break"]
    assert not counters["recompile_limit"]
    assert 2 <= counters["stats"]["unique_graphs"] <= 7
    return step


@pytest.mark.usefixtures("quick_compiler")
def test_compiled_training_is_eager_training() -> None:
    check_compiled_run("spinn", captures=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPINN_KINDS)
def test_compiled_training_is_eager_training_with_generated_code(kind) -> None:
    check_compiled_run(kind, captures=False)


@pytest.mark.usefixtures("quick_compiler")
@pytest.mark.parametrize("kind", GIVEN_KINDS)
def test_a_step_on_buffers_of_few_shapes_is_the_eager_one(kind) -> None:
    """All of capturing but the graph, which takes a GPU."""
    step = check_compiled_run(kind, captures=True)
    assert 1 <= step.n_captured <= MOST_SHAPES


@pytest.mark.usefixtures("quick_compiler")
def test_warming_up_changes_nothing() -> None:
    corpus, batches = corpus_of(list(pair_columns()))
    step = train_step("spinn-pi", COMPILED, captures=True)
    weights = copy.deepcopy(step.method.model.state_dict())
    generator = torch.get_rng_state()
    step.warm_up(corpus, batches[0])
    for name, value in step.method.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert torch.equal(torch.get_rng_state(), generator)
    states = step.optimizer.state.values()
    assert len(states) == len(step.parameters)
    assert not any(value.any() for state in states for value in state.values())
    assert all(parameter.grad is None for parameter in step.parameters)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiler")
def test_warming_up_leaves_the_moments_of_rewards() -> None:
    corpus, batches = corpus_of(list(pair_columns()))
    step = train_step("spinn", COMPILED)
    step.method = make_method(
        step.method.model, ParsingConfig(learning="reinforce", n_samples=2), compiled=True
    )
    step.warm_up(corpus, batches[0])
    assert not any(value.any() for value in step.method.tensors().values())


@needs_shared
@pytest.mark.usefixtures("quick_compiler")
@pytest.mark.parametrize(
    "kind",
    [kind if kind == "spinn-pi" else pytest.param(kind, marks=pytest.mark.slow) for kind in SPINN_KINDS],
)
def test_an_epoch_over_the_slice_compiles_at_most_seven_times(kind) -> None:
    pairs = load_pairs(str(SHARED / "snli" / "snli_1.0_dev_slice.jsonl.gz"))
    config = dataclasses.replace(COMPILED, batch_size=32, clip_norm=5.0)
    step = train_step(kind, config, n_words=pairs.vocabulary_size)
    batches = epoch_batches(pairs.columns.lengths_key, 32, seed=1, epoch=0)
    losses = train(step, pairs.columns, batches)
    assert np.isfinite(losses).all()
    assert not counters["recompile_limit"]
    assert counters["stats"]["unique_graphs"] <= 7


TWICE = """
import numpy as np
from torch._dynamo.utils import counters
from tests.test_compile import COMPILED, corpus_of, pair_columns, train, train_step
corpus, batches = corpus_of(list(pair_columns()))
train(train_step("spinn-pi", COMPILED), corpus, batches[:2])
print(counters["inductor"]["fxgraph_cache_miss"], counters["inductor"]["fxgraph_cache_hit"])
"""


@pytest.mark.slow
def test_a_second_process_finds_the_first_ones_code(tmp_path) -> None:
    """In inductor's cache, which lies where TORCHINDUCTOR_CACHE_DIR says."""
    outcomes = []
    for _ in range(2):
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-c", TWICE]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        outcomes.append(tuple(map(int, done.stdout.split())))
    (missed, _), (missed_again, found) = outcomes
    assert missed >= 3  # forward, backward, update
    assert (missed_again, found) == (0, missed)


@pytest.mark.parametrize(
    "options, device, compiles",
    [
        ([], "cpu", False),
        (["--compile"], "cpu", True),
        ([], "cuda", True),
        (["--no-compile"], "cuda", False),
        (["--set", "compile=false"], "cuda", False),
        (["--preset", "logic-lstm"], "cuda", False),
        (["--preset", "logic-lstm", "--set", "kind=spinn-pi"], "cuda", True),
    ],
)
def test_compiling_is_the_default_on_cuda(options, device, compiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_command, "choose_device", lambda _: device)
    monkeypatch.setattr(train_command, "missing_to_compile", lambda _: None)
    arguments = build_parser().parse_args(["train", *options])
    assert train_command.new_run(arguments).training.compile == compiles
