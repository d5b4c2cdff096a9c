"""A compiled training step against the eager one: time, losses and compilations, in one run.

    python -m benchmarks.compiled               H = 300, batches of 128 pairs of the real slice, some minutes
    python -m benchmarks.compiled --quick       seconds, numbers without meaning: graphs are captured, not compiled

For each model two copies of the same weights train on the same batches, in turn, one eager, one compiled (`spinn train
--compile`). Timed is a step on a batch ready made: encode, classify, loss, backward, clip, optimiser. The ratio is the
median over the batches of eager's seconds over compiled's. Losses are compared over as many steps in float64: in
float32 RMSprop makes of two ways of rounding two different runs. Compiling, before the clock starts, is said apart; it
is shorter where inductor's cache on disk (TORCHINDUCTOR_CACHE_DIR) knows the graphs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from functools import partial
from itertools import chain, count, islice
from typing import Any
from unittest import mock

import torch
from torch._dynamo.utils import counters

from benchmarks import harness
from benchmarks.data import N_CLASSES, Pairs, add_snli, load_pairs
from spinn_tensor.config import ClassifierConfig, EncoderConfig, ModelConfig
from spinn_tensor.data_prep.batching import epoch_batches
from spinn_tensor.data_prep.columns import select
from spinn_tensor.model.classifiers import build_model
from spinn_tensor.training.config import ParsingConfig, TrainingConfig
from spinn_tensor.training.hardware import keep_freed_memory
from spinn_tensor.training.methods import make_method
from spinn_tensor.training.objective import Totals, count_rows
from spinn_tensor.training.optimizer import make_optimizer
from spinn_tensor.training.step import TrainStep

KINDS = ("spinn-pi-nt", "spinn-pi", "spinn")
SEED = 1
RATE = 3e-4  # the published one of SPINN-PI-NT
QUICK = {"dim": 8, "batch": 8, "steps": 4, "backend": "eager"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    kept = not options.quick and keep_freed_memory()  # as `spinn train` does
    pairs = load_pairs(options.snli)
    with mock.patch.object(torch, "compile", partial(torch.compile, backend=options.backend)):
        rows = [measure(kind, pairs, options) for kind in options.kinds]
    result = {
        "machine": {"freed_memory_kept": kept},
        "pairs": {"source": pairs.source, "count": len(pairs.columns.labels)},
        "dim": options.dim,
        "batch_size": options.batch,
        "backend": options.backend,
        "rows": rows,
    }
    notes = [
        f"{pairs.source}: {len(pairs.columns.labels):,} pairs; H = {options.dim}, batches of {options.batch}, "
        f"backend {options.backend}"
    ]
    harness.publish(options, result, notes, [_table(rows)])


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = harness.argument_parser("compiled", __doc__)
    add = parser.add_argument
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    add("--dim", type=int, default=300, help="hidden size and embedding size")
    add("--batch", type=int, default=128, help="pairs of a batch")
    add("--steps", type=int, default=50)
    add("--threads", type=int, default=1)
    add_snli(parser, "--pairs", otherwise="the logic corpus", others=", or 'logic'")
    parser.set_defaults(backend="inductor")
    return harness.parse(parser, arguments, "compiled_cpu", QUICK)


def make_step(
    kind: str, pairs: Pairs, options: argparse.Namespace, compiled: bool, dtype: torch.dtype
) -> TrainStep:
    """Make a freshly initialised model, and what trains it."""
    torch.manual_seed(SEED)
    encoder = EncoderConfig(
        pairs.vocabulary_size, kind, options.dim, options.dim, tracker_dim=64, embedding_dropout=0.0
    )
    classifier = ClassifierConfig(N_CLASSES, mlp_dropout=0.0)
    model = build_model(ModelConfig("pair", ("a", "b", "c"), encoder, classifier)).to(dtype).train()
    config = TrainingConfig(batch_size=options.batch, compile=compiled, learning_rate=RATE, seed=SEED)
    method = make_method(model, ParsingConfig(), compiled)
    return TrainStep(method, make_optimizer(model, config), config)


def measure(kind: str, pairs: Pairs, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the seconds of both steps in float32, and their losses in float64."""
    torch._dynamo.reset()
    counters.clear()
    seconds, _, compiling = train(kind, pairs, options, torch.float32)
    graphs, cache_hits = counters["stats"]["unique_graphs"], counters["inductor"]["fxgraph_cache_hit"]
    _, losses, _ = train(kind, pairs, options, torch.float64)
    return {
        "kind": kind,
        "seconds": seconds,
        "times_eager": harness.ratio(seconds["eager"], seconds["compiled"]),
        "losses": losses,
        "largest_loss_difference": max(
            abs(e - c) / abs(e) for e, c in zip(losses["eager"], losses["compiled"], strict=True)
        ),
        "graphs": graphs,
        "compiling_s": compiling,
        "cache_hits": cache_hits,
    }


def train(
    kind: str, pairs: Pairs, options: argparse.Namespace, dtype: torch.dtype
) -> tuple[dict[str, list[float]], dict[str, list[float]], float]:
    """Take both steps over the same batches, in turn, another one first at each batch.

    Returns the seconds and the losses of each, and the seconds that compiling took.
    """
    steps = {
        name: make_step(kind, pairs, options, name == "compiled", dtype) for name in ("eager", "compiled")
    }
    epochs = (
        epoch_batches(pairs.columns.lengths_key, options.batch, seed=SEED, epoch=epoch) for epoch in count()
    )
    whole = (rows for rows in chain.from_iterable(epochs) if len(rows) == options.batch)
    batches = list(islice(whole, options.steps))
    harness.say(f"{kind}, {dtype}: compiling")
    start = time.perf_counter()
    for step in steps.values():
        step.warm_up(pairs.columns, batches[0])
    compiling = time.perf_counter() - start
    harness.say(f"{kind}, {dtype}: compiled in {compiling:.0f} s; {len(batches)} steps of each")
    counts = count_rows(pairs.columns, node_labels=False)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    for number, rows in enumerate(batches):
        for name in sorted(steps, reverse=bool(number % 2)):
            step = steps[name]
            batch = step.place(step.method.collate(select(pairs.columns, rows), number))
            totals = Totals.of(counts[rows])
            start = time.perf_counter()
            loss = step([batch], totals, number, step.config.learning_rate)
            seconds[name].append(time.perf_counter() - start)
            losses[name].append(loss.item())
    return seconds, losses, compiling


def _table(rows: Sequence[dict[str, Any]]) -> harness.Table:
    names = ["model", "eager, ms", "compiled, ms", "eager / compiled", "losses differ by", "graphs"]
    cells = [
        [
            row["kind"],
            *(f"{1e3 * statistics.median(row['seconds'][name]):.1f}" for name in ("eager", "compiled")),
            f"{row['times_eager']:.2f}",
            f"{row['largest_loss_difference']:.1e}",
            str(row["graphs"]),
            f"{row['compiling_s']:.0f} ({row['cache_hits']} graphs)",
        ]
        for row in rows
    ]
    return harness.Table([*names, "compiling, s (cached)"], cells)


if __name__ == "__main__":
    harness.run(main)
