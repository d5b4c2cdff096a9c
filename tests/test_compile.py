"""A training step under `torch.compile(fullgraph=True)`: the losses of eager, and few compilations over all lengths."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
from collections.abc import Callable
from functools import partial, wraps
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from benchmarks.data import load_pairs
from spinn_tensor import make_batch
from spinn_tensor.cli import train as train_command
from spinn_tensor.cli.main import main
from spinn_tensor.config import SPINN_KINDS
from spinn_tensor.data_prep.batching import epoch_batches
from spinn_tensor.data_prep.columns import Corpus, select
from spinn_tensor.fixed_shapes import MOST_SHAPES
from spinn_tensor.model.cells import Sum
from spinn_tensor.model.classifiers import Model
from spinn_tensor.normalization import synchronise
from spinn_tensor.training.config import OPTIMIZERS, ParsingConfig, TrainingConfig
from spinn_tensor.training.methods import make_method
from spinn_tensor.training.objective import training_loss
from spinn_tensor.training.step import TrainStep
from tests.command_line import assert_one_error
from tests.compiled_steps import (
    ADAMW,
    COMPILED,
    CONFIG,
    assert_same_training,
    corpora,
    corpus_of,
    divided,
    small_model,
    take_steps,
    train,
    train_step,
)
from tests.machines import needs_shared
from tests.processes import run_program
from tests.tiny_runs import PRESET, pair_arguments
from tests.tiny_training import run_of

pytestmark = [
    pytest.mark.numerical,
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU"),
]
FEW = 4  # every so many of the batches, without those of single words, which are another graph


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def by_backend(backend: str | Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Compile without generating code: both sides of what is compared then have the same kernels, of any processor."""

    def decorated(test: Callable[..., None]) -> Callable[..., None]:
        @wraps(test)
        def run(*arguments: Any, **options: Any) -> None:
            with mock.patch.object(torch, "compile", partial(torch.compile, backend=backend)):
                test(*arguments, **options)

        return pytest.mark.once(run)

    return decorated


quickly = by_backend(divided)  # the same graphs as inductor, forward and backward
quickest = by_backend("eager")  # the forward's alone, with the gradients of torch's own


def assert_few_graphs(least: int = 1) -> None:
    assert not counters["graph_break"]
    assert not counters["recompile_limit"]
    assert least <= counters["stats"]["unique_graphs"] <= 7


def losses(
    model: Model, loss_of: Callable[[Corpus, int], torch.Tensor], batches: list[Corpus]
) -> list[float]:
    """The losses of training steps, numbered from 1."""
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, eps=1e-6)
    values = []
    for step, columns in enumerate(batches, 1):
        optimizer.zero_grad()
        loss = loss_of(columns, step)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


def training_losses(task: str, kind: str, backend: str | None, every: int) -> list[float]:
    """The losses of steps over batches of every length or of some, eager without a backend."""
    model = small_model(task, kind)
    step = training_loss
    if backend is not None:
        step = torch.compile(training_loss, fullgraph=True, dynamic=True, backend=backend)
    table_kind = model.encoder.table_kind
    batches = corpora(task)[::every]
    return losses(model, lambda columns, _: step(model, make_batch(columns, table_kind)), batches)


QUICK = [("pair", "spinn-pi", "inductor", FEW), ("sentence", "spinn-pi-nt", "aot_eager", 1)]
SLOW = [
    (task, kind, backend, 1)
    for task, backend in (("pair", "inductor"), ("sentence", "aot_eager"))
    for kind in SPINN_KINDS
    if (task, kind) != QUICK[1][:2]
]


@pytest.mark.parametrize(
    "task, kind, backend, every", [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_a_compiled_training_step_is_the_eager_one(task: str, kind: str, backend: str, every: int) -> None:
    if backend == "inductor" and os.environ.get("ATEN_CPU_CAPABILITY") == "default":
        pytest.skip("what inductor generates does not compile under it (torch 2.13)")
    expected = training_losses(task, kind, None, every)
    got = training_losses(task, kind, backend, every)
    np.testing.assert_allclose(got, expected, rtol=1e-8)
    assert_few_graphs()


def parsing_losses(learning: str, compiled: bool, batches: list[Corpus]) -> list[float]:
    """The losses of steps that parse, under the noise of one seed."""
    model = small_model("pair", "spinn")
    config = ParsingConfig(learning=learning, n_samples=3, scheduled_sampling=0.5, scheduled_steps=1)
    method = make_method(model, config, compiled)
    return losses(model, lambda columns, step: method.loss(method.collate(columns, step), step), batches)


def check_parsing(learning: str, batches: list[Corpus]) -> None:
    expected, got = (parsing_losses(learning, compiled, batches) for compiled in (False, True))
    np.testing.assert_allclose(got, expected, rtol=1e-8)
    assert_few_graphs()


@quickly
@pytest.mark.parametrize("learning", ["supervised", pytest.param("reinforce", marks=pytest.mark.slow)])
def test_a_compiled_parsing_step_is_the_eager_one(learning: str) -> None:
    """By scheduled sampling, or by samples."""
    check_parsing(learning, corpora()[::FEW])


@pytest.mark.slow
@pytest.mark.parametrize("learning", ["supervised", "reinforce"])
def test_a_compiled_parsing_step_is_the_eager_one_with_generated_code(learning: str) -> None:
    check_parsing(learning, corpora())


def check_warming_up(step: TrainStep, corpus: Corpus, rows: np.ndarray) -> None:
    """Asserts that nothing is changed by it."""
    weights, averages = copy.deepcopy((step.method.model.state_dict(), step.average.averages))
    generator = torch.get_rng_state()
    step.warm_up(corpus, rows)
    for name, value in step.method.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert all(map(torch.equal, step.average.averages, averages))
    assert torch.equal(torch.get_rng_state(), generator)
    states = step.optimizer.state.values()
    assert len(states) == len(step.parameters)
    assert not any(value.any() for state in states for value in state.values())
    assert not any(value.any() for value in step.method.tensors().values())
    assert all(parameter.grad is None for parameter in step.parameters)


def check_compiled_run(
    kind: str, batches: list[Corpus], captures: bool = False, config: TrainingConfig = CONFIG
) -> TrainStep:
    """Trains compiled as eager; gives the compiled step."""
    corpus, rows = corpus_of(batches)
    compiled = dataclasses.replace(config, compile=True)
    eager, step = train_step(kind, config), train_step(kind, compiled, captures=captures)
    check_warming_up(step, corpus, rows[0])
    expected, got = train(eager, corpus, rows), train(step, corpus, rows)
    np.testing.assert_allclose(got, expected, rtol=1e-8)
    assert_same_training(step, eager)
    assert_few_graphs(least=2)
    return step


@quickest
def test_compiled_training_is_eager_training() -> None:
    """As the whole step is; the losses above and the steps below have graphs of the backward, too."""
    check_compiled_run("spinn-pi-nt", corpora()[::FEW])


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPINN_KINDS)
def test_compiled_training_is_eager_training_with_generated_code(kind: str) -> None:
    check_compiled_run(kind, corpora())


def check_captured_run(kind: str, config: TrainingConfig, every: int = 1) -> None:
    """All of capturing but the graph, which takes a GPU."""
    step = check_compiled_run(kind, corpora()[::every], captures=True, config=config)
    assert 1 <= step.captured.n_recordings <= MOST_SHAPES


@pytest.mark.slow
@quickly
@pytest.mark.parametrize("kind", SPINN_KINDS)
def test_a_step_on_buffers_of_few_shapes_is_the_eager_one(kind: str) -> None:
    """In every run the two tests below show it by Dynamo, and test_operators that AOT takes padded tables."""
    check_captured_run(kind, CONFIG)


@quickest
@pytest.mark.parametrize(
    "name",
    ["adamw", *(pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS if name != "adamw")],
)
def test_every_optimiser_and_the_average_are_part_of_the_graph(name: str) -> None:
    check_captured_run("spinn-pi", dataclasses.replace(ADAMW, optimizer=name), FEW)


@quickest
@pytest.mark.parametrize("kind", ["spinn-pi-nt", pytest.param("spinn", marks=pytest.mark.slow)])
def test_microbatches_on_buffers_are_those_of_an_eager_step(kind: str) -> None:
    """Loss and backward of each are captured, and the update; batches of two and three, some of one."""
    step = check_compiled_run(kind, corpora()[::FEW], True, dataclasses.replace(CONFIG, accumulate=3))
    assert step.captured.n_recordings


@quickest
def test_what_no_captured_shape_holds_compiles_nothing() -> None:
    """On a GPU every further graph is a stall of up to a minute."""
    corpus, rows = corpus_of(corpora()[::FEW])
    shorter, rows_of_shorter = corpus_of(corpora()[FEW::FEW])
    eager, step = train_step("spinn-pi", CONFIG), train_step("spinn-pi", COMPILED, captures=True)
    step.warm_up(shorter, rows_of_shorter[0])
    n_graphs = counters["stats"]["unique_graphs"]
    longest = step.method.collate(select(corpus, rows[0]), 0)
    assert longest.row_mask is None
    got = take_steps(step, corpus, rows)
    assert counters["stats"]["unique_graphs"] == n_graphs
    np.testing.assert_allclose(got, train(eager, corpus, rows), rtol=1e-8)
    assert_same_training(step, eager)


def test_a_compiled_step_sums_over_ranks_what_an_eager_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same order, forward and backward: a rank whose batch no shape holds is eager beside the others."""
    sums: list[Tensor] = []

    def as_two(total: Tensor) -> None:
        sums.append(total.clone())
        total.mul_(2)

    monkeypatch.setattr(torch.distributed, "all_reduce", as_two)
    model, batch = small_model("pair", "spinn-pi"), make_batch(corpora()[FEW], "lanes")
    synchronise(model)
    training_loss(model, batch).backward()
    expected = sums.copy()
    sums.clear()
    # which divides the graph as inductor does
    compiled = torch.compile(
        training_loss, fullgraph=True, dynamic=False, backend="aot_eager_decomp_partition"
    )
    compiled(model, batch).backward()
    assert len(expected) > 8
    torch.testing.assert_close(sums, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@quickly
def test_warming_up_leaves_the_moments_of_rewards() -> None:
    corpus, rows = corpus_of(corpora())
    parsing = ParsingConfig(learning="reinforce", n_samples=2)
    check_warming_up(train_step("spinn", COMPILED, parsing=parsing), corpus, rows[0])


@pytest.mark.slow
@needs_shared
@quickly
@pytest.mark.parametrize("kind", SPINN_KINDS)
def test_an_epoch_over_the_slice_compiles_at_most_seven_times(kind: str) -> None:
    """Whole steps; a quick test of the loss alone is in test_promises."""
    pairs = load_pairs()
    config = dataclasses.replace(COMPILED, batch_size=32, clip_norm=5.0)
    step = train_step(kind, config, n_words=pairs.vocabulary_size)
    batches = epoch_batches(pairs.columns.lengths_key, 32, seed=1, epoch=0)
    assert np.isfinite(train(step, pairs.columns, batches)).all()
    assert_few_graphs()


TWICE = """
import numpy as np
from torch._dynamo.utils import counters
from tests.compiled_steps import COMPILED, corpora, corpus_of, train, train_step
corpus, batches = corpus_of(corpora())
train(train_step("spinn-pi", COMPILED), corpus, batches[:2])
print(counters["inductor"]["fxgraph_cache_miss"], counters["inductor"]["fxgraph_cache_hit"])
"""


@pytest.mark.slow
def test_a_second_process_finds_the_first_ones_code(tmp_path) -> None:
    """In inductor's cache, which lies where TORCHINDUCTOR_CACHE_DIR says."""
    outcomes = []
    for _ in range(2):
        environment = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
        said = run_program(TWICE, **environment, PYTHONWARNINGS="ignore")
        outcomes.append(tuple(map(int, said.split())))
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
    assert run_of(*options).training.compile == compiles


@quickest
def test_a_cell_that_draws_is_told_the_ways_out(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*pair_arguments(tmp_path), *PRESET, "--cell", f"{__name__}:Dropping"]
    arguments += ["--output", str(tmp_path / "run"), "--epochs", "1"]
    capsys.readouterr()
    assert main([*arguments, "--compile"]) == 1
    assert_one_error(capsys, "draws random numbers.*--no-compile, or --compose-dropout")
    assert main([*arguments, "--no-compile", "--overwrite"]) == 0


class Dropping(Sum):
    """A cell with dropout of its own."""

    def forward(self, left: Tensor, right: Tensor, tracker: Tensor | None = None) -> Tensor:
        return nn.functional.dropout(left + right, 0.5, self.training)
