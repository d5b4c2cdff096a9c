"""Many processes optimise as one does: gradients, batch norm, the loss curve."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from hypothesis import given
from hypothesis import strategies as st

from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model
from spinn_tensor.data_prep.batching import shares
from spinn_tensor.data_prep.columns import NO_LABEL, select
from spinn_tensor.data_prep.errors import Interrupted
from spinn_tensor.normalization import MaskedBatchNorm, synchronise, uncounted
from spinn_tensor.training.config import ParsingConfig, RunConfig, TrainingConfig
from spinn_tensor.training.distributed import ALONE, Ranks, SignalPoll, process_group
from spinn_tensor.training.loop import Task, Trainer
from spinn_tensor.training.methods import make_method
from spinn_tensor.training.objective import Totals, count_rows
from spinn_tensor.training.optimizer import make_optimizer
from spinn_tensor.training.step import TrainStep
from tests.compiled_steps import uncompiled
from tests.parting import n_gloo_threads, n_left
from tests.tiny_training import CLASSIFIER, ENCODER, log_of, pairs, settings, trees

pytestmark = pytest.mark.numerical

KINDS = ("spinn-pi", "spinn-pi-nt", "spinn", "nodes")  # of the models below
# some of them, microbatches of each rank, and whether it has batch norm, which microbatches would see one by one
CAPTURED = [("spinn-pi", 1, True), ("spinn", 1, False), ("spinn", 3, False)]
# rows are all, some of them padding, or stand for several equal ones; the rank whose rows do not count
NORMS = [("all", None), ("masked", None), ("counted", None), ("masked", 1), ("counted", 1)]
N_EXAMPLES, N_STEPS = 92, 16


def task(kind: str, folder: Path, batch_norm: bool = True) -> Task:
    """Pairs, a third of them without a label; or trees, a third of whose nodes are without."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, corpus = trees(folder, N_EXAMPLES) if kind == "nodes" else pairs(folder, N_EXAMPLES)
    labels = corpus.sentences.node_labels if kind == "nodes" else corpus.labels
    labels[np.random.default_rng(0).random(len(labels)) < 0.3] = NO_LABEL
    encoder = {"kind": "spinn-pi" if kind == "nodes" else kind, "batch_norm": batch_norm, **ENCODER}
    classifier = ClassifierConfig(5 if kind == "nodes" else 3, **CLASSIFIER, batch_norm=batch_norm)
    name, classes = ("sentence", "abcde") if kind == "nodes" else ("pair", "abc")
    torch.manual_seed(0)
    config = EncoderConfig(len(vocabulary), **encoder)
    model = build_model(ModelConfig(name, tuple(classes), config, classifier, kind == "nodes"))
    return Task(model, vocabulary, corpus, corpus)


def run_config(**parsing: Any) -> RunConfig:
    """Batches of 13 of 92 examples: the last one, of a single example, leaves all ranks but one without any."""
    return settings("spinn", batch_size=13, epochs=N_STEPS // 8, log_every=1).changed(**parsing)


def trained(job: Task, output: Path, ranks: Ranks, run: RunConfig) -> dict[str, Any]:
    """The loss of each step, where it is logged, and what is left at the end."""
    output.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(job, run, output, ranks=ranks)
    score = trainer.fit().best_score
    losses = [line["loss"] for line in log_of(output, "train")] if ranks.is_first else []
    state = {**job.model.state_dict(), **trainer.method.tensors()}
    return {"losses": losses, "score": score, "state": state}


def gradients(job: Task, ranks: Ranks, accumulate: int, captures: bool = False) -> dict[str, torch.Tensor]:
    """Of one step on 17 examples in float64, its loss, and batch norm's running statistics.

    With `captures` as it is captured on the first rank, but for compiler and graph; the others' parts fit no shape.
    """
    model = job.model.double().train()
    if ranks.size > 1:
        synchronise(model)
    config = TrainingConfig(batch_size=17, clip_norm=0, accumulate=accumulate, compile=captures)
    method = make_method(model, ParsingConfig())
    rows = np.arange(17)
    parts = shares(rows, job.train.lengths_key, ranks.size, accumulate)[ranks.rank]
    totals = Totals.of(count_rows(job.train, model.config.node_labels)[rows])
    with uncompiled() if captures else nullcontext():
        step = TrainStep(method, make_optimizer(model, config), config, ranks, captures)
        step.warm_up(job.train, rows)
        if ranks.rank:
            method.shapes = {}  # so that this rank's parts are ragged, beside another's replays
        loss = step([method.collate(select(job.train, part), 0) for part in parts], totals, 0, 0.1)
    assert (step.captured is not None) == captures
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss, **found, **dict(model.named_buffers())}


def test_gradients_keep_their_types_where_what_is_summed_is_wider() -> None:
    single, double = torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(1).double())
    loss, observed, wide = torch.ones(()), torch.full((2,), 2.0), torch.tensor([0.1], dtype=torch.float64)
    summed = TrainStep._laid_out(loss, observed, [torch.full((2, 2), 0.25), wide])
    before = TrainStep._taken_apart(summed, [single, double])
    assert before.tolist() == [1.0, 2.0, 2.0]
    assert torch.equal(single.grad, torch.full((2, 2), 0.25))
    assert torch.equal(double.grad, wide)


def normalised(ranks: Ranks, n_ranks: int, mode: str, idle: int | None) -> dict[str, torch.Tensor]:
    """Batch norm of 12 rows in float64, dealt out unevenly to ranks, one of which may not count; with its gradients."""
    generator = torch.Generator().manual_seed(3)
    x, weights = (torch.randn(12, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(12, generator=generator) < 0.6
    counts = torch.randint(1, 4, (12,), generator=generator)
    owner = torch.arange(12).square() % 7 % n_ranks
    own = owner == ranks.rank if ranks.size > 1 else owner != (-1 if idle is None else idle)
    norm = MaskedBatchNorm(5).double()
    with torch.no_grad():
        norm.weight.uniform_(1, 2, generator=generator)
    if ranks.size > 1:
        synchronise(norm)
    rows = x[own].requires_grad_()
    is_idle = ranks.rank == idle and ranks.size > 1
    with uncounted(norm) if is_idle else nullcontext():
        y = norm(
            rows,
            mask[own] if mode == "masked" else None,
            counts[own] if mode == "counted" else None,
        )
    (y * weights[own] * (not is_idle)).sum().backward()
    of_x = torch.zeros_like(x)
    of_x[own] = rows.grad
    return {
        "x": ranks.summed(of_x),
        "weight": ranks.summed(norm.weight.grad),
        "bias": ranks.summed(norm.bias.grad),
        "mean": norm.running_mean,
        "variance": norm.running_var,
        "n": norm.num_batches_tracked,
    }


def everything(ranks: Ranks, n_ranks: int, folder: Path) -> dict[Any, Any]:
    """All that is compared, of this rank or of one process alone; `n_ranks` are those it is compared with."""
    data = folder / f"rank{ranks.rank}"
    found: dict[Any, Any] = {}
    for mode, idle in NORMS:
        found["norm", mode, idle] = normalised(ranks, n_ranks, mode, idle)
    for kind, accumulate in product(KINDS, (1, 3)):
        found[kind, accumulate] = gradients(task(kind, data, accumulate == 1), ranks, accumulate)
    for kind, accumulate, batch_norm in CAPTURED:
        job = task(kind, data, batch_norm)
        found[kind, accumulate, "captured"] = gradients(job, ranks, accumulate, captures=ranks.size > 1)
    for kind in KINDS:
        found[kind] = trained(task(kind, data), folder / kind, ranks, run_config())
    run = run_config(learning="reinforce", warmup_steps=3, n_samples=2, baseline="mean")
    found["reinforce"] = trained(task("spinn", data), folder / "reinforce", ranks, run)
    return found


def be_rank(rank: int, n_ranks: int, folder: Path) -> None:
    """Body of a process of its own."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    with process_group(torch.distributed.FileStore(str(folder / "store"), n_ranks), rank, n_ranks):
        torch.save(everything(Ranks(rank, n_ranks), n_ranks, folder), folder / f"{rank}.pt")


def start_ranks(function: Callable[..., None], arguments: tuple[Any, ...], n_ranks: int) -> None:
    """Start a process for each rank where what all of them load is loaded: here, or once, if the system can."""
    methods = torch.multiprocessing.get_all_start_methods()
    method = "forkserver" if "forkserver" in methods else "spawn"
    # a fork has no thread of OpenMP's, no gradients beside a GPU, and on macOS not all of the system's libraries
    if sys.platform == "linux" and torch.get_num_threads() == 1 and not torch.cuda.is_available():
        method = "fork"
    loaded = [__name__, "torch._dynamo", "datasets"]  # optimisers load dynamo
    if method == "forkserver":
        torch.multiprocessing.get_context(method).set_forkserver_preload(loaded)
    if method == "fork":
        list(map(import_module, loaded))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12's, of threads
        torch.multiprocessing.start_processes(function, arguments, n_ranks, start_method=method)


class Comparison(NamedTuple):
    alone: dict[Any, Any]
    of_rank: list[dict[Any, Any]]


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def compared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """What two or three processes compute together, and what one does."""
    n_ranks, folder = request.param, tmp_path_factory.mktemp("ranks")
    start_ranks(be_rank, (n_ranks, folder), n_ranks)
    of_rank = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(n_ranks)]
    return Comparison(everything(ALONE, n_ranks, tmp_path_factory.mktemp("alone")), of_rank)


@pytest.mark.parametrize("mode, idle", NORMS)
def test_batch_norm_is_that_of_all_rows(mode: str, idle: int | None, compared: Comparison) -> None:
    expected = compared.alone["norm", mode, idle]
    for found in compared.of_rank:
        torch.testing.assert_close(found["norm", mode, idle], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_has_the_gradient_of_one_process(kind: str, accumulate: int, compared: Comparison) -> None:
    """Labels and nodes are missing in unequal parts; with several parts a rank there is no batch norm."""
    expected = compared.alone[kind, accumulate]
    for found in compared.of_rank:
        torch.testing.assert_close(found[kind, accumulate], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind, accumulate", [case[:2] for case in CAPTURED])
def test_a_rank_that_replays_and_one_that_does_not_take_one_step(
    kind: str, accumulate: int, compared: Comparison
) -> None:
    """What either sums over ranks, and in which order, is the same, so that they need not agree what they run."""
    expected = compared.alone[kind, accumulate, "captured"]
    for found in compared.of_rank:
        torch.testing.assert_close(found[kind, accumulate, "captured"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_gradients_are_those_of_one_batch(kind: str, tmp_path: Path) -> None:
    whole, parts = (gradients(task(kind, tmp_path, batch_norm=False), ALONE, n) for n in (1, 3))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_curve_is_that_of_one_process(kind: str, compared: Comparison) -> None:
    expected, found = compared.alone[kind], compared.of_rank[0][kind]
    assert len(found["losses"]) == N_STEPS
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    assert found["score"] == expected["score"]
    torch.testing.assert_close(found["state"], expected["state"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", [*KINDS, "reinforce"])
def test_ranks_stay_equal_to_the_last_bit(kind: str, compared: Comparison) -> None:
    """With reinforcement, too, whose noise is each rank's own and whose running moments are everyone's."""
    first, *others = (found[kind] for found in compared.of_rank)
    assert all(torch.isfinite(value).all() for value in first["state"].values())
    for other in others:
        assert other["score"] == first["score"]
        torch.testing.assert_close(other["state"], first["state"], rtol=0, atol=0)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 7), st.integers(1, 5))
def test_shares_are_a_partition_of_like_parts(sizes: list[int], n_ranks: int, n_parts: int) -> None:
    lengths = np.array(sizes)
    rows = np.random.default_rng(0).permutation(len(sizes))
    dealt = shares(rows, lengths, n_ranks, n_parts)
    parts = [part for parts in dealt for part in parts]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(sizes)))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    if len(sizes) >= n_ranks:
        assert {len(parts) for parts in dealt} == {min(n_parts, len(sizes) // n_ranks)}
        longest = [max(lengths[part].max() for part in parts) for parts in dealt]
        assert min(longest) >= np.sort(lengths)[-n_ranks]  # the longest ones are with different ranks
    else:
        assert [len(parts) for parts in dealt] == [1] * len(sizes) + [0] * (n_ranks - len(sizes))


def test_rows_are_counted_as_the_losses_count_them(tmp_path: Path) -> None:
    for kind in ("spinn", "nodes"):
        job = task(kind, tmp_path)
        method = make_method(job.model, ParsingConfig())
        rows = np.arange(3, 20)
        batch = method.collate(select(job.train, rows), 0)
        labels = batch.node_labels if kind == "nodes" else batch.labels
        totals = Totals.of(count_rows(job.train, kind == "nodes")[rows])
        assert [int(n) for n in totals] == [17, int((labels >= 0).sum()), len(batch.sentences.transitions)]


def test_alone_a_signal_is_seen_at_once() -> None:
    poll = SignalPoll(ALONE)
    assert [poll.agreed(number) for number in (0, 15, 0)] == [0, 15, 0]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads by /proc")
@pytest.mark.parametrize("ending", ["done", "interrupted", "failed", "caused"])
def test_no_thread_outlives_its_group(ending: str) -> None:
    """Check that an error which is still looked at keeps no group by torch's functions that it passed through."""
    errors = {
        "interrupted": pytest.raises(Interrupted),
        "failed": pytest.raises(RuntimeError, match="size"),
        "caused": pytest.raises(OSError, match="torch"),
    }
    with errors.get(ending, nullcontext()), process_group(torch.distributed.HashStore(), 0, 1):
        torch.distributed.all_reduce(torch.zeros(1))  # by a thread, which has its name then
        assert n_gloo_threads() > 0
        if ending == "interrupted":
            raise Interrupted(signal.SIGTERM, "")
        try:
            if ending in ("failed", "caused"):
                torch.distributed.all_gather([torch.zeros(2)], torch.zeros(1))
        except RuntimeError as error:
            if ending == "caused":
                raise OSError("torch failed") from error
            raise
    assert n_left() == 0
