"""Measure a compiled training step against the eager one: time, losses and compilations, in one run.

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
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, count, islice
from typing import Any
from unittest import mock

import torch
from torch._dynamo.utils import counters

from benchmarks import harness
from benchmarks.candidates import make_step
from benchmarks.data import N_CLASSES, Pairs, load_pairs
from benchmarks.harness import Option
from spinn_tensor.config import ClassifierConfig, EncoderConfig
from spinn_tensor.data_prep.batching import epoch_batches
from spinn_tensor.data_prep.columns import select
from spinn_tensor.training.config import TrainingConfig
from spinn_tensor.training.objective import Totals, count_rows

KINDS = ("spinn-pi-nt", "spinn-pi", "spinn")
SEED = 1
RATE = 3e-4  # the published one of SPINN-PI-NT
OPTIONS = {
    "kinds": Option(list(KINDS), list(KINDS), "of encoders", KINDS),
    "dim": Option(300, 8, "hidden size and embedding size"),
    "batch": Option(128, 8, "pairs of a batch"),
    "steps": Option(50, 4),
    "threads": Option(1, 1),
    "backend": Option("inductor", "eager", "what compiles the graphs"),
}
_parse = partial(harness.parse, "compiled", __doc__, options=OPTIONS, device="cpu", snli="the logic corpus")
COLUMNS = {
    "model": "{kind}",
    "eager, ms": "{milliseconds[eager]:.1f}",
    "compiled, ms": "{milliseconds[compiled]:.1f}",
    "eager / compiled": "{times_eager:.2f}",
    "losses differ by": "{largest_loss_difference:.1e}",
    "graphs": "{graphs}",
    "compiling, s (cached)": "{compiling_s:.0f} ({cache_hits} graphs)",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = _parse(arguments)
    kept = harness.as_in_training(options.threads)
    pairs = load_pairs(options.snli)
    with mock.patch.object(torch, "compile", partial(torch.compile, backend=options.backend)):
        rows = [measure(kind, pairs, options) for kind in options.kinds]
    count = len(pairs.columns.labels)
    result = {
        "machine": {"freed_memory_kept": kept},
        "pairs": {"source": pairs.source, "count": count},
        "rows": rows,
    }
    of_model = f"H = {options.dim}, batches of {options.batch}, backend {options.backend}"
    notes = [f"{pairs.source}: {count:,} pairs; {of_model}"]
    harness.publish(options, result, notes, [harness.Table(COLUMNS, rows)])


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
        "milliseconds": harness.compare([seconds], "eager")["milliseconds"],
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
    encoder = EncoderConfig(
        pairs.vocabulary_size, kind, options.dim, options.dim, tracker_dim=64, embedding_dropout=0.0
    )
    classifier = ClassifierConfig(N_CLASSES, mlp_dropout=0.0)
    config = TrainingConfig(batch_size=options.batch, learning_rate=RATE, seed=SEED)
    steps = {
        name: make_step(encoder, classifier, replace(config, compile=name == "compiled"), dtype=dtype)
        for name in ("eager", "compiled")
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


if __name__ == "__main__":
    harness.run(main)
