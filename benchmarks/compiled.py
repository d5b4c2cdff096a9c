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
import shlex
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch._dynamo.utils import counters

from benchmarks import harness
from benchmarks.gpu_pairs import N_CLASSES, Pairs, load_pairs
from benchmarks.sentences import add_snli, is_usual
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
NAME = "compiled_cpu"  # of the results
SEED = 1
RATE = 3e-4  # the published one of SPINN-PI-NT


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    kept = not options.quick and keep_freed_memory()  # as `spinn train` does
    pairs = load_pairs(options.snli)
    with _backend(options.backend):
        rows = [measure(kind, pairs, options) for kind in options.kinds]
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.compiled", *arguments]),
        "machine": harness.machine() | {"freed_memory_kept": kept},
        "pairs": {"source": pairs.source, "count": len(pairs.columns.labels)},
        "dim": options.dim,
        "batch_size": options.batch,
        "backend": options.backend,
        "rows": rows,
    }
    harness.publish(result, markdown(result), options.out)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = harness.argument_parser("benchmarks.compiled", __doc__)
    add = parser.add_argument
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    add("--dim", type=int, default=300, help="hidden size and embedding size")
    add("--batch", type=int, default=128, help="pairs of a batch")
    add("--steps", type=int, default=50)
    add("--threads", type=int, default=1)
    add_snli(parser, "--pairs", otherwise="the logic corpus", others=", or 'logic'")
    harness.add_out(parser, NAME)
    add("--quick", action="store_true", help="tiny sizes and few steps: does it run?")
    options = parser.parse_args(arguments)
    options.out = harness.report_file(options.out, NAME, not options.quick and is_usual(options.snli))
    options.backend = "inductor"
    if options.quick:
        options.dim, options.batch, options.steps, options.backend = 8, 8, 4, "eager"
    return options


@contextmanager
def _backend(name: str) -> Iterator[None]:
    """What torch.compile, where nothing else is said, compiles with."""
    with mock.patch.object(torch, "compile", partial(torch.compile, backend=name)):
        yield


def make_step(
    kind: str, pairs: Pairs, options: argparse.Namespace, compiled: bool, dtype: torch.dtype
) -> TrainStep:
    """A freshly initialised model, and what trains it."""
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
    """Seconds of both steps in float32, losses of both in float64."""
    torch._dynamo.reset()
    counters.clear()
    seconds, _, compiling = train(kind, pairs, options, torch.float32)
    graphs, cache_hits = counters["stats"]["unique_graphs"], counters["inductor"]["fxgraph_cache_hit"]
    _, losses, _ = train(kind, pairs, options, torch.float64)
    ratios = [e / c for e, c in zip(seconds["eager"], seconds["compiled"], strict=True)]
    off = max(abs(e - c) / abs(e) for e, c in zip(losses["eager"], losses["compiled"], strict=True))
    return {
        "kind": kind,
        "seconds": seconds,
        "times_eager": statistics.median(ratios),
        "losses": losses,
        "largest_loss_difference": off,
        "graphs": graphs,
        "compiling_s": compiling,
        "cache_hits": cache_hits,
    }


def train(
    kind: str, pairs: Pairs, options: argparse.Namespace, dtype: torch.dtype
) -> tuple[dict[str, list[float]], dict[str, list[float]], float]:
    """Both steps over the same batches, in turn, another one first at each batch.

    Returns the seconds and the losses of each, and the seconds that compiling took.
    """
    steps = {
        name: make_step(kind, pairs, options, name == "compiled", dtype) for name in ("eager", "compiled")
    }
    batches = _batches(pairs, options)
    _say(f"{kind}, {dtype}: compiling")
    start = time.perf_counter()
    for step in steps.values():
        step.warm_up(pairs.columns, batches[0])
    compiling = time.perf_counter() - start
    _say(f"{kind}, {dtype}: compiled in {compiling:.0f} s; {len(batches)} steps of each")
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


def _say(text: str) -> None:
    """How far it is: compiling takes minutes."""
    print(text, file=sys.stderr, flush=True)


def _batches(pairs: Pairs, options: argparse.Namespace) -> list[np.ndarray]:
    """Whole batches of as many epochs as it takes."""
    batches: list[np.ndarray] = []
    epoch = 0
    while len(batches) < options.steps:
        made = epoch_batches(pairs.columns.lengths_key, options.batch, seed=SEED, epoch=epoch)
        batches += [rows for rows in made if len(rows) == options.batch]
        epoch += 1
    return batches[: options.steps]


def markdown(result: dict[str, Any]) -> str:
    """All results, with the command that made them."""
    machine, pairs = result["machine"], result["pairs"]
    lines = [
        f"`{result['command']}`\n",
        f"- {machine['processor']}, {machine['threads']} thread(s), torch {machine['torch']}, commit "
        f"{machine['commit']}, {machine['date']}, load {machine['load_average']}",
        f"- {pairs['source']}: {pairs['count']:,} pairs; H = {result['dim']}, batches of {result['batch_size']}, "
        f"backend {result['backend']}\n",
        "| model | eager, ms | compiled, ms | eager / compiled | losses differ by | graphs | compiling, s (cached) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        eager, compiled = (1e3 * statistics.median(row["seconds"][name]) for name in ("eager", "compiled"))
        compiling = f"{row['compiling_s']:.0f} ({row['cache_hits']} graphs)"
        lines.append(
            f"| {row['kind']} | {eager:.1f} | {compiled:.1f} | {row['times_eager']:.2f} | "
            f"{row['largest_loss_difference']:.1e} | {row['graphs']} | {compiling} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    harness.run(main)
