"""Measure encoder speed: ours, the known ways to run SPINN, a padded LSTM and the arithmetic floor, in one run.

    python -m benchmarks.encoders                               H = 300, some minutes
    python -m benchmarks.encoders --dim 300 100 --repeats 4 --limit 512     what the table of docs/results.md is made of
    python -m benchmarks.encoders --quick                       seconds, numbers without meaning

Timed are the encoder's forward pass (no gradients kept) and forward + backward (gradients of the leaves and of all
weights) on given leaf states. Every candidate finds its batch ready made: index tables for ours, lists of ints for
dynamic batching and recursion, padding for the LSTM; building our tables is timed beside it. Recursion runs every 16th
sentence of a batch and is scaled to all of them. The floor is the arithmetic of the products alone at the rate of a
large product, measured between the candidates. Speeds are medians over the rounds; ratios are taken
within each round and then the median. Before anything is timed, outputs and gradients are compared with the
recursion's.

The peak memory is that of a new process above what it holds with weights, leaves, tables and transitions made, after a
small warm-up. All trees have the same length, T = 2 tokens - 1.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks import candidates, harness
from benchmarks.candidates import (
    BASELINE,
    BOTH,
    DYNAMIC,
    FOREST,
    FORWARD,
    GIVEN,
    OURS,
    PADDED_LSTM,
    PASSES,
    RECURSION,
)
from benchmarks.data import Setting, load_sentences, n_tokens_of, random_trees, settings
from benchmarks.harness import Option
from spinn_tensor import to_torch

TABLES = "tables of "
MODES: dict[str, Callable[[candidates.Candidate, candidates.Batch], object]] = {
    BOTH: candidates.forward_backward,
    FORWARD: candidates.forward,
}
THIN = 16  # recursion runs every so-manieth sentence of a batch
KEYS = {"H": "{dim}", "tracker": "{tracker}", "batch": "{batch_size} {batching}"}
COLUMNS = (FOREST, GIVEN, DYNAMIC, PADDED_LSTM, RECURSION)
MEMORY_TOKENS = (20, 40)  # T = 39 and 79
OPTIONS = {
    "batch": Option([32, 128, 512], [4, 8], "sizes of the batches sorted by length"),
    "shuffled": Option(128, 8, "size of the batches in random order"),
    "dim": Option([300], [8], "hidden sizes"),
    "tracker": Option([0, 64], [0, 4], "tracker sizes, 0 for none"),
    "threads": Option(1, 1),
    "repeats": Option(7, 1, "recorded rounds over everything"),
    "limit": Option(1024, 8, "sentences measured of each batch size, about"),
    "longest": Option(1000, 8, "tokens of a sentence, at the most"),
    "memory_batch": Option(512, 16, "sentences of the batch whose peak memory is measured"),
    "no_memory": Option(False, False, "leave out the peak memory"),
}
_parse = partial(harness.parse, "encoders", __doc__, options=OPTIONS, device="cpu", snli="the logic corpus")


class Row(NamedTuple):
    """Hold one width, tracker and way of batching."""

    keys: dict[str, Any]  # what the report calls it
    n_sentences: int
    n_flops: int  # of the products of the forward pass
    runs: dict[str, dict[str, Callable[[], float]]]  # mode -> name -> what times it over all batches


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = _parse(arguments)
    kept = harness.as_in_training(options.threads)  # for every candidate alike
    source, transitions = load_sentences(options.snli)
    some = [codes for codes in transitions if len(codes) < 2 * options.longest]
    made = settings(some, len, options.batch, options.shuffled, options.limit)
    if not made:
        raise SystemExit(f"{source}: {len(some)} sentences are too few for a batch")
    speed = _time(made, options)
    operators = [
        _operators(setting, options.dim[0], n_tracker)
        for n_tracker in options.tracker
        for setting in _operator_settings(made)
    ]
    memory = [] if options.no_memory else _memory(options)
    rate = statistics.median(record["product_gflops"] for record in speed)
    lengths = n_tokens_of(some)
    notes = [
        f"{source}: {len(lengths)} sentences, {lengths.mean():.2f} tokens on average, {lengths.max()} at "
        f"most; {options.repeats} rounds",
        f"float32 product rate: median {rate:.1f} GFLOP/s; a round's floor is taken at the rate of that round",
    ]
    result = {
        "machine": {"freed_memory_kept": kept},
        "sentences": source,
        "speed": speed,
        "operators": operators,
        "memory": memory,
    }
    harness.publish(options, result, notes, _tables(speed, operators, memory))


def _keys(n_hidden: int, n_tracker: int, setting: Setting) -> dict[str, Any]:
    of_batch = {"batching": setting.batching, "batch_size": setting.batch_size}
    return {"dim": n_hidden, "tracker": n_tracker or None, **of_batch}


def _time(made: Sequence[Setting], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time every row in every mode, and return the report's records."""
    rows = [
        prepare(setting, n_hidden, n_tracker)
        for n_hidden in options.dim
        for n_tracker in options.tracker
        for setting in made
    ]
    cases = [(mode, row) for mode in MODES for row in rows]
    flops = [PASSES[mode] * row.n_flops for mode, row in cases]
    measured = harness.time_rows([row.runs[mode] for mode, row in cases], flops, BASELINE, options.repeats)
    records = []
    for (mode, row), record in zip(cases, measured, strict=True):
        seconds = record["median_seconds"]
        records.append(
            {
                **row.keys,
                **record,
                "mode": mode,
                "sentences_per_s": {name: row.n_sentences / seconds[name] for name in seconds},
                "floor_sentences_per_s": row.n_sentences / record["floor_seconds"],
                "best_over_floor": min(record["over_floor"][name] for name in OURS if name in seconds),
                "ms_of_tables": {
                    name: 1e3 * seconds[TABLES + name] * row.keys["batch_size"] / row.n_sentences
                    for name in OURS
                    if TABLES + name in seconds
                },
            }
        )
    return records


def prepare(setting: Setting, n_hidden: int, n_tracker: int) -> Row:
    """Make everything that is timed of one row, after a check that all candidates compute the same."""
    made = candidates.make_candidates(candidates.make_weights(n_hidden, n_tracker))
    few = setting.batches[0][:: max(1, setting.batch_size // 8)]
    candidates.check_agreement(made, candidates.make_batch(few, n_hidden))
    whole = [candidates.make_batch(transitions, n_hidden) for transitions in setting.batches]
    parts = [candidates.make_batch(transitions[::THIN], n_hidden) for transitions in setting.batches]
    n_parts, n_whole = (sum(len(batch.flat_transitions) for batch in some) for some in (parts, whole))

    def timed(run: Callable[[candidates.Batch], object], thin: bool = False) -> Callable[[], float]:
        calls = [partial(run, batch) for batch in (parts if thin else whole)]
        return harness.stopwatch(*calls, scale=n_whole / n_parts if thin else 1.0)

    runs = {
        mode: {
            name: timed(partial(run, candidate), thin=name == RECURSION) for name, candidate in made.items()
        }
        for mode, run in MODES.items()
    }
    for name in OURS:
        if name in made:
            runs[BOTH][TABLES + name] = timed(partial(_build_tables, name))
    n_flops = sum(harness.encoder_flops(trees, n_hidden, n_tracker) for trees in setting.batches)
    return Row(_keys(n_hidden, n_tracker, setting), sum(map(len, setting.batches)), n_flops, runs)


def _build_tables(name: str, batch: candidates.Batch) -> candidates.Tables:
    """Build the tables of one of our executors from the transitions, as for every batch of training."""
    return to_torch(candidates.BUILDERS[name](batch.flat_transitions, batch.lengths))


def _operator_settings(made: Sequence[Setting]) -> list[Setting]:
    """Return the middle batch of every sorted size, and that of the middle size repeated to the largest.

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
    """Count the operators of forward + backward of the setting's first batch."""
    batch = candidates.make_batch(setting.batches[0], n_hidden)
    made = candidates.make_candidates(candidates.make_weights(n_hidden, n_tracker))
    counts = {
        name: harness.count_operators(partial(candidates.forward_backward, candidate, batch))
        for name, candidate in made.items()
        if name != RECURSION
    }
    fewer = {name: counts[BASELINE] / count for name, count in counts.items()}
    return {**_keys(n_hidden, n_tracker, setting), "counts": counts, "times_fewer": fewer}


def _memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure what is promised, the executor with the tracker, and others beside it."""
    dim, tracker = max(options.dim), max(options.tracker)
    untracked = [(FOREST, 0)] if 0 in options.tracker else []
    found = []
    for name, n_tracker in [(GIVEN, tracker), (DYNAMIC, tracker), *untracked]:
        sizes = options.memory_batch, dim, n_tracker, options.threads
        peaks = [harness.in_a_process(peak_memory, name, n, *sizes) / 1e6 for n in MEMORY_TOKENS]
        keys = {"dim": dim, "tracker": n_tracker or None, "batch_size": options.memory_batch}
        growth = peaks[1] / peaks[0] if peaks[0] else None
        found.append({**keys, "candidate": name, "peak_mb": peaks, "growth": growth})
    return found


def peak_memory(
    name: str, n_tokens: int, batch_size: int, n_hidden: int, n_tracker: int, n_threads: int
) -> int:
    """Return the bytes that forward + backward of a candidate takes at its peak; for a process of its own."""
    torch.set_num_threads(n_threads)
    candidate = candidates.make_candidates(candidates.make_weights(n_hidden, n_tracker))[name]
    warm_up = candidates.make_batch(random_trees(np.full(2, 3)), n_hidden)
    batch = candidates.make_batch(random_trees(np.full(batch_size, n_tokens)), n_hidden)
    candidates.forward_backward(candidate, warm_up)
    computed: list[torch.Tensor] = []
    highest = harness.peak_of(lambda: computed.extend(candidates.forward_backward(candidate, batch)))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in computed)
    return highest


def _tables(
    speed: Sequence[dict[str, Any]], operators: Sequence[dict[str, Any]], memory: Sequence[dict[str, Any]]
) -> list[harness.Table]:
    rates = {name: f"{{sentences_per_s[{name}]:,.0f}} {{times_baseline[{name}]:.2f}}×" for name in COLUMNS}
    columns = {
        **KEYS,
        **rates,
        "floor": "{floor_sentences_per_s:,.0f}",
        "ours / floor": "{best_over_floor:.2f}",
    }
    tables = [
        harness.Table(
            columns,
            [record for record in speed if record["mode"] == mode],
            3,
            f"Encoder, {mode}: sentences/s, and times {BASELINE}; last, the best of ours over the floor",
        )
        for mode in MODES
    ]
    building = [
        {
            **record,
            "name": name,
            "ms": milliseconds,
            "share": record["median_seconds"][TABLES + name] / record["median_seconds"][name],
        }
        for record in speed
        for name, milliseconds in record["ms_of_tables"].items()
    ]
    shares = {"tables of": "{name}", "ms a batch": "{ms:.2f}", "share of forward + backward": "{share:.1%}"}
    counts = {name: f"{{counts[{name}]:,}} (1/{{times_fewer[{name}]:.1f}})" for name in COLUMNS[:-1]}
    title = f"Operators dispatched in forward + backward of one batch, and as a part of {BASELINE}'s"
    tables += [
        harness.Table({**KEYS, **shares}, building, 4, "Building the index tables"),
        harness.Table({**KEYS, **counts}, operators, 3, title),
    ]
    short, long = (2 * n_tokens - 1 for n_tokens in MEMORY_TOKENS)
    peaks = {
        **KEYS,
        "batch": "{batch_size}",
        "encoder": "{candidate}",
        f"T = {short}": "{peak_mb[0]:,.0f}",
        f"T = {long}": "{peak_mb[1]:,.0f}",
        f"growth (of T: {long / short:.2f})": "{growth:.2f}×",
    }
    return [
        *tables,
        harness.Table(peaks, memory, 4, "Peak memory of forward + backward above model and inputs, MB"),
    ]


if __name__ == "__main__":
    harness.run(main)
