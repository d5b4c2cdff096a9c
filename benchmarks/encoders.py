"""Encoder speed: ours, the known ways to run SPINN, a padded LSTM and the arithmetic floor, in one run.

    python -m benchmarks.encoders                               H = 300, some minutes
    python -m benchmarks.encoders --dim 300 100 --repeats 4 --limit 768     what README's table is made of
    python -m benchmarks.encoders --quick                       seconds, numbers without meaning

Timed are the encoder's forward pass (no gradients kept) and forward + backward (gradients of the leaves and
of all weights) on given leaf states. Every candidate finds its batch ready made: index tables for ours, lists
of ints for dynamic batching and recursion, padding for the LSTM; building our tables is timed beside it.
Recursion runs every 16th sentence of a batch and is scaled to all of them. The floor is the arithmetic of the
products alone at the rate of a large product, measured between the candidates of the same batch. Speeds are
medians over the rounds; ratios are taken within each round and then the median. Before anything is timed,
outputs and gradients are compared with the recursion's.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks import candidates as encoders
from benchmarks import harness, memory, report, speed
from benchmarks.sentences import (
    Sentences,
    Setting,
    add_snli,
    is_usual,
    load_sentences,
    no_longer_than,
    settings,
)
from spinn_tensor.training.hardware import keep_freed_memory

NAME = "encoders_cpu"  # of the results
SHUFFLED_SIZE = 128
N_SENTENCES, MAX_BATCHES = 1024, 12  # measured of each batch size
MEMORY_TOKENS, MEMORY_BATCH = (20, 40), 512  # T = 39 and 79


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    memory_kept = (
        not options.quick and keep_freed_memory()
    )  # as `spinn train` does; for every candidate alike
    console = Console()
    sentences = load_sentences(options.snli)
    if options.max_tokens is not None:
        sentences = no_longer_than(sentences, options.max_tokens)
    made = settings(sentences, options.batch, options.shuffled, options.limit, MAX_BATCHES)
    if not made:
        raise SystemExit(
            f"{sentences.source}: {len(sentences.transitions)} sentences are too few for a batch"
        )
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.encoders", *arguments]),
        "machine": harness.machine() | {"freed_memory_kept": memory_kept},
        "sentences": _describe(sentences),
        "repeats": options.repeats,
    }
    console.print("\n".join(report.header(result)))
    result |= _time(made, options, console)
    result["operators"] = [
        _operators(setting, options.dim[0], n_tracker)
        for n_tracker in options.tracker
        for setting in _operator_settings(made)
    ]
    if options.memory:
        result["memory"] = [_memory(name, n_tracker, options) for name, n_tracker in _memory_cases(options)]
    report.print_tables(console, result)
    harness.write_report(result, report.markdown(result), options.out)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = harness.argument_parser("benchmarks.encoders", __doc__)
    add = parser.add_argument
    add("--batch", type=int, nargs="+", default=[32, 128, 512], help="sizes of the batches sorted by length")
    add("--shuffled", type=int, default=SHUFFLED_SIZE, help="size of the batches in random order")
    add("--dim", type=int, nargs="+", default=[300], help="hidden sizes")
    add("--tracker", type=int, nargs="+", default=[0, 64], help="tracker sizes, 0 for none")
    add("--threads", type=int, default=1)
    add("--repeats", type=int, default=7, help="recorded rounds over everything")
    add("--limit", type=int, default=N_SENTENCES, help="sentences measured of each batch size, about")
    add_snli(parser, "--sentences", otherwise="the logic corpus", others=", or 'random'")
    add("--no-memory", dest="memory", action="store_false", help="leave out the peak memory")
    harness.add_out(parser, NAME)
    add("--quick", action="store_true", help="tiny sizes and one round: does it run?")
    options = parser.parse_args(arguments)
    options.out = harness.report_file(options.out, NAME, not options.quick and is_usual(options.snli))
    options.memory_batch, options.memory_dim, options.max_tokens = MEMORY_BATCH, max(options.dim), None
    if options.quick:
        options.batch, options.shuffled, options.dim, options.tracker = [4, 8], 8, [8], [0, 4]
        options.repeats, options.limit, options.memory_batch, options.memory_dim = 1, 8, 16, 32
        options.max_tokens = 8
    return options


def _describe(sentences: Sentences) -> dict[str, Any]:
    lengths = [(len(codes) + 1) // 2 for codes in sentences.transitions]
    mean = round(statistics.mean(lengths), 2)
    return {
        "source": sentences.source,
        "count": len(lengths),
        "mean_tokens": mean,
        "max_tokens": max(lengths),
    }


def _time(made: Sequence[Setting], options: argparse.Namespace, console: Console) -> dict[str, Any]:
    rows = [
        speed.prepare(setting, n_hidden, n_tracker)
        for n_hidden in options.dim
        for n_tracker in options.tracker
        for setting in made
    ]
    with Progress(console=console, transient=True) as progress:
        rounds = progress.track(range(-1, options.repeats), description="timing")
        seconds = harness.interleaved([case for row in rows for case in row.cases], rounds)
    return speed.summarise(rows, seconds)


def _operator_settings(made: Sequence[Setting]) -> list[Setting]:
    """The middle batch of every sorted size, and that of the middle size repeated to the largest.

    Real batches of different sizes differ in length too; the repeated one differs in nothing but its size.
    """
    by_size = [setting for setting in made if setting.batching == "sorted"]
    middles = [s._replace(batches=[s.batches[len(s.batches) // 2]]) for s in by_size]
    if len(middles) < 2:
        return middles
    small, large = middles[-2:]
    repeats = large.batch_size // small.batch_size
    return [*middles, Setting("repeated", repeats * small.batch_size, [small.batches[0] * repeats])]


def _operators(setting: Setting, n_hidden: int, n_tracker: int) -> dict[str, Any]:
    """Operators of forward + backward of the setting's first batch."""
    batch = encoders.make_batch(setting.batches[0], n_hidden)
    counts = {
        candidate.name: harness.count_operators(partial(encoders.forward_backward, candidate, batch))
        for candidate in encoders.make_candidates(encoders.make_weights(n_hidden, n_tracker))
        if candidate.name != encoders.RECURSION
    }
    name = {
        "dim": n_hidden,
        "tracker": n_tracker,
        "batching": setting.batching,
        "batch_size": setting.batch_size,
    }
    steps = {
        "n_transitions": int(2 * batch.lengths.max() - 1),
        "n_forest_steps": len(batch.forest.step_offsets) - 1,
    }
    return {**name, **steps, "counts": counts}


def _memory_cases(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Candidates and tracker sizes: what is promised is the executor with the tracker; the others are beside
    it."""
    cases = [(encoders.GIVEN, max(options.tracker)), (encoders.DYNAMIC, max(options.tracker))]
    return [*cases, (encoders.FOREST, 0)] if 0 in options.tracker else cases


def _memory(name: str, n_tracker: int, options: argparse.Namespace) -> dict[str, Any]:
    peaks = [
        memory.measure(name, n_tokens, options.memory_batch, options.memory_dim, n_tracker, options.threads)
        for n_tokens in MEMORY_TOKENS
    ]
    return {
        "candidate": name,
        "batch_size": options.memory_batch,
        "dim": options.memory_dim,
        "tracker": n_tracker,
        "n_transitions": [2 * n_tokens - 1 for n_tokens in MEMORY_TOKENS],
        "peak_bytes": peaks,
    }


if __name__ == "__main__":
    harness.run(main)
