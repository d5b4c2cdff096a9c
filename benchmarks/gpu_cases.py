"""Make what the GPU record is of: measures of a device, our encoders in every mode and precision, and an epoch."""

from __future__ import annotations

import argparse
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import profile

from benchmarks import candidates, harness
from benchmarks.candidates import BOTH, FORWARD, PASSES, Tables, Weights
from benchmarks.data import N_CLASSES, Pairs, repeated
from spinn_tensor.config import ClassifierConfig, EncoderConfig
from spinn_tensor.data_prep.batching import epoch_batches
from spinn_tensor.data_prep.columns import select
from spinn_tensor.data_prep.tables import count_levels, forest_tables, lane_tables, least_widths
from spinn_tensor.training.capture import CapturedSteps
from spinn_tensor.training.config import PRECISIONS, TrainingConfig
from spinn_tensor.training.feeding import Feed, feeds_of
from spinn_tensor.training.objective import Totals, count_rows
from spinn_tensor.training.step import TrainStep, autocast

ROUNDS = 3  # recorded, of all candidates in turn
ROUND_SECONDS, MOST_CALLS = 0.15, 50  # a round calls a candidate so often that it takes about so long
LAUNCHES = re.compile(r"cu(da)?(Launch|GraphLaunch)")
EAGER, COMPILED, CAPTURED = "eager", "compiled", "captured"
MODES = (EAGER, COMPILED, CAPTURED)
DYNAMIC, LSTM, CAPTURED_LSTM = "dynamic batching", "cuDNN LSTM", "cuDNN LSTM, captured"
DYNAMIC_UP_TO = 1024  # sentences
COUNTED_UP_TO = 512  # sentences: beyond, dynamic batching's launches under the profiler would take minutes
COPIED = 2**30  # bytes that are copied at least on a GPU, many times its cache
# tables; a captured step replays fixed ones: here every step of one width, in training somewhat less
RAGGED, FIXED = "ragged", "fixed"
SEED = 1
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "tf32": 2e-2, "bfloat16": 0.1}  # relative to the largest
LANE_WIDTH = 5 / 8  # of the lanes compose at a step, so that no lane ever waits on SNLI
TRACED = 3  # steps
LOOKED_AT = 20  # steps between two looks at the clock

Transitions = Sequence[np.ndarray]  # (2N - 1,) int8 each


class Rates(NamedTuple):
    """Hold what the device can do, measured on large operands."""

    flops: dict[str, float]  # of a product, by precision, operations a second
    bytes: float  # read and written by a copy, a second


class Budget:
    """Keep the seconds that there are for everything; what would take longer is left out, and said."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.left_out: list[str] = []

    def part(self, share: float) -> Budget:
        """Return a budget of its own of this share of what is left; what that leaves out is said here."""
        part = Budget(share * self.left)
        part.left_out = self.left_out
        return part

    @property
    def left(self) -> float:
        """Return the seconds that are left."""
        return self._end - time.monotonic()

    def allows(self, what: str, seconds: float) -> bool:
        """Return whether there is time for it."""
        if seconds <= self.left:
            return True
        self.left_out.append(f"{what}: about {seconds:.0f} s, of which {max(self.left, 0):.0f} s are left")
        return False


def precisions(device: torch.device) -> list[str]:
    """Return the precisions that a device multiplies in."""
    return [name for name in PRECISIONS if name != "tf32" or device.type == "cuda"]


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Take products of float32 in TF32 or not, inside, as training does; as the settings were, afterwards."""
    settings: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.rnn)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee" if name == "float32" else "tf32"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


def wait(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(calls: Mapping[Any, Callable[[], Any]], device: torch.device) -> dict[Any, float]:
    """Return the seconds of a call of each, the median over rounds in which all take turns."""

    def timed(function: Callable[[], Any]) -> Callable[[], float]:
        once = _seconds_of_one(function, device, 1)
        n_calls = max(1, min(MOST_CALLS, int(ROUND_SECONDS / max(once, 1e-6))))
        return lambda: _seconds_of_one(function, device, n_calls)

    case = {name: timed(function) for name, function in calls.items()}
    (measured,) = harness.interleaved([case], range(-1, ROUNDS))
    return {name: statistics.median(values) for name, values in measured.items()}


def _seconds_of_one(function: Callable[[], Any], device: torch.device, n_calls: int) -> float:
    wait(device)
    start = time.perf_counter()
    for _ in range(n_calls):
        function()
    wait(device)
    return (time.perf_counter() - start) / n_calls


def measure_rates(device: torch.device, size: int) -> Rates:
    """Measure the rates of a product [size, size] x [size, size] and of a copy, of 1 GiB or more on a GPU."""
    left, right = torch.randn(2, size, size, device=device).unbind()
    flops = {}
    for name in precisions(device):
        dtype = torch.bfloat16 if name == "bfloat16" else torch.float32  # cast before the clock runs
        product = partial(torch.mm, left.to(dtype), right.to(dtype))
        with precision(name):
            flops[name] = 2 * size**3 / seconds_of({name: product}, device)[name]
    n_bytes = max(left.nbytes, COPIED if device.type == "cuda" else 0)
    source = torch.zeros(n_bytes, dtype=torch.uint8, device=device)
    copied = torch.empty_like(source)
    seconds = seconds_of({"copy": lambda: copied.copy_(source)}, device)["copy"]
    return Rates(flops, 2 * n_bytes / seconds)


def count_kernels(function: Callable[[], Any], device: torch.device) -> tuple[int, int | None]:
    """Count the kernels that a call runs and the launches that it takes; on the CPU operators, and None."""
    if device.type != "cuda":
        return harness.count_operators(function), None
    function()
    wait(device)
    with profile(acc_events=True) as profiler:
        function()
        wait(device)
    events = profiler.events()
    assert events is not None
    kernels = [event for event in events if event.device_type == DeviceType.CUDA and "Mem" not in event.name]
    launches = [event for event in events if LAUNCHES.match(event.name)]
    return len(kernels), len(launches)


def peak_mb(function: Callable[[], Any], device: torch.device) -> float | None:
    """Return the device memory in MB above what was there before, at the most, during a call; None on the CPU."""
    if device.type != "cuda":
        return None
    function()
    wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    function()
    wait(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def device_facts(device: torch.device) -> dict[str, Any]:
    """Return what the device and its libraries are."""
    if device.type != "cuda":
        return {"device": "cpu"}
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": torch.cuda.get_device_name(device),
        "device_memory": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def make_tree_batch(
    transitions: Transitions, hidden_dim: int, tracked: bool, device: torch.device, dtype: torch.dtype
) -> candidates.Batch:
    """Make a batch with both kinds of tables, of lanes for a tracker, else of the forest."""
    ragged = lane_tables if tracked else forest_tables

    def fixed(flat: np.ndarray, lengths: np.ndarray) -> Any:
        if tracked:
            most = max(1, round(LANE_WIDTH * len(lengths)))
            widths = np.array([0, 0, most])  # no stack has two entries before
            return lane_tables(flat, lengths, width=widths, padded=True)
        levels = count_levels(flat, lengths)
        width = max(1, int(least_widths(levels, np.array([len(levels)]))[0]))
        return forest_tables(flat, lengths, width=width, padded=True)

    return candidates.make_batch(transitions, hidden_dim, {RAGGED: ragged, FIXED: fixed}, device, dtype)


@cache
def compiled(backend: str) -> Callable[..., Tensor]:
    """Compile our encoder, whose graphs are as many as there are precisions, passes and kinds of tables."""
    return torch.compile(candidates.run_tables, fullgraph=True, dynamic=True, backend=backend)


def ours(
    batch: candidates.Batch, weights: Weights, mode: str, passes: str, name: str, backend: str
) -> Callable[[], Any]:
    """Return a call of our encoder in one mode and precision. Raises what a precision that is not there does."""
    function = compiled(backend) if mode == COMPILED else candidates.run_tables

    def step(tables: Tables) -> Tensor:
        return _call(lambda leaves: function(leaves, *weights[:2], tables), batch, weights, passes, name)[0]

    if mode != CAPTURED:
        return partial(step, batch.tables[RAGGED])
    return _captured(step, batch.tables[FIXED], batch.leaves.device)


def _captured(step: Callable[[Any], Tensor], given: Any, device: torch.device) -> Callable[[], Tensor]:
    captured = CapturedSteps(step, lambda: [], device)
    captured.record(given)
    return partial(captured, given)


def outputs(batch: candidates.Batch, weights: Weights, tables: str, name: str) -> tuple[Tensor, ...]:
    """Compute the roots and the gradients of leaves and weights, to compare."""
    run = candidates.run_tables
    return _call(lambda leaves: run(leaves, *weights[:2], batch.tables[tables]), batch, weights, BOTH, name)


def baselines(
    batch: candidates.Batch, weights: Weights, passes: str, names: Sequence[str]
) -> dict[tuple[str, str], Callable[[], Any]]:
    """Return calls of dynamic batching, in float32, and of the LSTM in every precision, by what it is and how.

    Without dynamic batching where the batch is too large for it.
    """
    lists = partial(candidates.run_lists, batch=batch, weights=weights)
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    if len(batch.lengths) <= DYNAMIC_UP_TO:
        calls[DYNAMIC, names[0]] = partial(_call, lists, batch, weights, passes, names[0])
    for name in names:
        calls |= {(kind, name): call for kind, call in lstms(batch, weights, passes, name).items()}
    return calls


def lstms(batch: candidates.Batch, weights: Weights, passes: str, name: str) -> dict[str, Callable[[], Any]]:
    """Return calls of the LSTM, launched and captured."""
    lstm = partial(candidates.run_lstm, batch=batch, weights=weights)
    call = partial(_call, lstm, batch, weights, passes, name)
    return {LSTM: call, CAPTURED_LSTM: _captured(lambda _: call()[0], (), batch.leaves.device)}


def _call(
    function: Callable[[Tensor], Tensor], batch: candidates.Batch, weights: Weights, passes: str, name: str
) -> tuple[Tensor, ...]:
    """Compute roots and, unless only the forward is asked for, the gradients of all that they depend on."""
    weights.lstm.train(passes == BOTH)
    with precision(name):
        if passes == FORWARD:
            with torch.no_grad(), autocast(name, batch.leaves.device.type):
                return (function(batch.leaves),)
        leaves = batch.leaves.detach().requires_grad_()
        inputs = [leaves, *weights.spinn(), *weights.lstm.parameters()]
        with autocast(name, leaves.device.type):
            roots = function(leaves)
        gradient = batch.root_gradient.to(roots.dtype)
        gradients = torch.autograd.grad(roots, inputs, gradient, allow_unused=True)
        return roots.detach(), *(gradient for gradient in gradients if gradient is not None)


def floor_seconds(
    transitions: Transitions, hidden_dim: int, tracker_dim: int, passes: str, flops: float, bandwidth: float
) -> float:
    """Return what no implementation in float32 states can go below: products at the device's rate, or memory traffic.

    Traffic is counted once a use: of each composition its children's and its own h and c, of each tracker entry its
    three reads and both states; for a backward three times that, and the gates written and read. Weights, which stay in
    the cache, count once a pass.
    """
    n_entries = sum(map(len, transitions))
    n_compositions = (n_entries - len(transitions)) // 2
    numbers = 6 * hidden_dim * n_compositions
    weights = (2 * hidden_dim + tracker_dim) * 5 * hidden_dim
    gates = 5 * hidden_dim * n_compositions
    if tracker_dim:
        numbers += (3 * hidden_dim + 4 * tracker_dim) * n_entries
        weights += (3 * hidden_dim + tracker_dim) * 4 * tracker_dim
        gates += 4 * tracker_dim * n_entries
    numbers = (numbers + weights) * PASSES[passes] + (2 * gates if passes == BOTH else 0)
    n_flops = PASSES[passes] * harness.encoder_flops(transitions, hidden_dim, tracker_dim)
    return max(n_flops / flops, 4 * numbers / bandwidth)


def run_epoch(
    kind: str,
    precision: str,
    options: argparse.Namespace,
    pairs: Pairs,
    budget: Budget,
    share: float,  # of what is left of the budget when the model is ready to train
    trace: Path | None = None,  # of some steps, to be written when the clock has stopped
) -> dict[str, Any]:
    """Train an epoch of a model of the published shape, or as much as there is time for, and say how long it took."""
    device = torch.device(options.device)
    size, dim = options.epoch_batch, options.dim
    columns = repeated(pairs.columns, options.pairs)
    rows = epoch_batches(columns.lengths_key, size, seed=SEED, epoch=1)
    encoder = EncoderConfig(
        pairs.vocabulary_size, kind, dim, dim, tracker_dim=options.tracker, train_embedding=False
    )
    config = TrainingConfig(batch_size=size, compile=device.type == "cuda", seed=SEED, precision=precision)
    step = candidates.make_step(encoder, ClassifierConfig(N_CLASSES, mlp_dim=options.mlp), config, device)
    start = time.perf_counter()
    step.warm_up(columns, rows[0])
    if step.captured is None:  # the same batches all the same
        step.method.plan(columns, size, SEED)
    wait(device)
    warm_up = time.perf_counter() - start

    def make(numbered: tuple[int, np.ndarray]) -> Feed:
        number, of_step = numbered
        return Feed(of_step, [step.method.collate(select(columns, of_step), number)], True)

    named = {"kind": kind, "precision": precision, "batch_size": size, "n_pairs": options.pairs}
    counts = count_rows(columns, node_labels=False)
    trained = _train(step, make, rows, counts, budget.part(share))
    if trace is not None:
        _trace(step, [make((number, rows[number])) for number in range(TRACED)], counts, trace)
    n_shapes = sum(map(len, step.method.shapes.values())) or None
    return {**named, "warm_up_s": warm_up, "n_shapes": n_shapes} | trained


def _train(
    step: TrainStep,
    make: Callable[[tuple[int, np.ndarray]], Feed],
    rows: list[np.ndarray],
    counts: np.ndarray,  # (n, 3), see `count_rows`
    budget: Budget,
) -> dict[str, Any]:
    device = step.device
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    n_pairs = n_ragged = 0
    losses, waited = [], 0.0
    start = asked = time.perf_counter()
    with feeds_of(make, enumerate(rows), step, step.config.prefetch) as feeds:
        for number, feed in enumerate(feeds):
            waited += time.perf_counter() - asked
            losses.append(_take(step, number, feed, counts))
            n_pairs += len(feed.rows)
            n_ragged += feed.batches[0].row_mask is None
            if number % LOOKED_AT == LOOKED_AT - 1 and budget.left < 0:
                break
            asked = time.perf_counter()
        wait(device)
        seconds = time.perf_counter() - start
    mean_loss = torch.stack(losses).mean().item()
    assert math.isfinite(mean_loss)
    return {
        "seconds": seconds,
        "n_trained": n_pairs,
        "pairs_per_s": n_pairs / seconds,
        "whole_epoch_s": seconds * len(counts) / n_pairs,
        "waited_for_data_s": waited,
        "n_steps": len(losses),
        "n_ragged_steps": n_ragged,
        "mean_loss": mean_loss,
        "peak_mb": torch.cuda.max_memory_reserved(device) / 1e6 if on_cuda else None,
    }


def _take(step: TrainStep, number: int, feed: Feed, counts: np.ndarray) -> Tensor:
    totals = Totals.of(counts[feed.rows], step.device)
    return step([step.place(feed.batches[0])], totals, number, step.config.learning_rate)


def _trace(step: TrainStep, feeds: Sequence[Feed], counts: np.ndarray, path: Path) -> None:
    """Write what steps run, and when, as Chrome and Perfetto read it."""
    with profile(acc_events=True) as profiler:  # of the CPU, and of the GPU if there is one
        for number, feed in enumerate(feeds):
            _take(step, number, feed, counts)
        wait(step.device)
    profiler.export_chrome_trace(str(path))
