"""Encoder speed: ours, the known ways to run SPINN, a padded LSTM and the arithmetic floor, in one run.

    python -m benchmarks.encoders                               H = 300, some minutes
    python -m benchmarks.encoders --dim 300 100 --repeats 4 --limit 512     what README's table is made of
    python -m benchmarks.encoders --quick                       seconds, numbers without meaning

Timed are the encoder's forward pass (no gradients kept) and forward + backward (gradients of the leaves and of all
weights) on given leaf states. Every candidate finds its batch ready made: index tables for ours, lists of ints for
dynamic batching and recursion, padding for the LSTM; building our tables is timed beside it. Recursion runs every 16th
sentence of a batch and is scaled to all of them. The floor is the arithmetic of the products alone at the rate of a
large product, measured between the candidates of the same batch. Speeds are medians over the rounds; ratios are taken
within each round and then the median. Before anything is timed, outputs and gradients are compared with the
recursion's.

The peak memory is that of a new process above what it holds with weights, leaves, tables and transitions in place,
after a small warm-up. On Linux the kernel's high-water mark is reset at that point (/proc/self/clear_refs); elsewhere
the peak before counts too. All trees have the same length, T = 2 tokens - 1.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks import candidates, harness
from benchmarks.candidates import BASELINE, DYNAMIC, FOREST, GIVEN, OURS, PADDED_LSTM, RECURSION
from benchmarks.data import (
    Sentences,
    Setting,
    add_snli,
    load_sentences,
    n_tokens_of,
    random_transitions,
    settings,
)
from spinn_tensor.training.hardware import keep_freed_memory

NAME = "encoders_cpu"  # of the results
FORWARD, FORWARD_BACKWARD, TABLES, PRODUCT = "forward", "forward + backward", "tables", "product"
MODES: dict[str, Callable[[candidates.Candidate, candidates.Batch], object]] = {
    FORWARD_BACKWARD: candidates.forward_backward,
    FORWARD: candidates.forward,
}
PASSES = {FORWARD: 1, FORWARD_BACKWARD: 3}  # of the forward's products; a backward has twice as many
N_PRODUCTS = 3  # large products timed with each batch, between the candidates
THIN = 16  # recursion runs every so-manieth sentence of a batch
COLUMNS = (FOREST, GIVEN, DYNAMIC, PADDED_LSTM, RECURSION)
KEYS = ["H", "tracker", "batch"]
MEMORY_TOKENS = (20, 40)  # T = 39 and 79
QUICK = {
    "batch": [4, 8],
    "shuffled": 8,
    "dim": [8],
    "tracker": [0, 4],
    "repeats": 1,
    "limit": 8,
    "memory_batch": 16,
    "max_tokens": 8,
}

Timed = dict[tuple[str, str], Callable[[], float]]  # (what, name) -> function that returns seconds
Seconds = dict[tuple[str, str], list[float]]  # the same keys, one entry a round


class Row(NamedTuple):
    """One width, tracker and way of batching."""

    n_hidden: int
    n_tracker: int  # 0 for none
    setting: Setting
    names: list[str]  # of the candidates
    cases: list[Timed]  # one a batch

    @property
    def keys(self) -> dict[str, Any]:
        """What the report calls it."""
        return _keys(self.n_hidden, self.n_tracker, self.setting)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    kept = not options.quick and keep_freed_memory()  # as `spinn train` does; for every candidate alike
    sentences = load_sentences(options.snli)
    by_length = [codes for codes in sentences.transitions if len(codes) < 2 * options.max_tokens]
    by_length.sort(key=len, reverse=True)
    made = settings(by_length, options.batch, options.shuffled, options.limit)
    if not made:
        raise SystemExit(f"{sentences.source}: {len(by_length)} sentences are too few for a batch")
    result = {"machine": {"freed_memory_kept": kept}, "repeats": options.repeats}
    result["sentences"] = _describe(sentences._replace(transitions=by_length))
    result |= _time(made, options)
    result["operators"] = [
        _operators(setting, options.dim[0], n_tracker)
        for n_tracker in options.tracker
        for setting in _operator_settings(made)
    ]
    if options.memory:
        result["memory"] = [_memory(name, n_tracker, options) for name, n_tracker in _memory_cases(options)]
    _publish(options, result)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = harness.argument_parser("encoders", __doc__)
    add = parser.add_argument
    add("--batch", type=int, nargs="+", default=[32, 128, 512], help="sizes of the batches sorted by length")
    add("--shuffled", type=int, default=128, help="size of the batches in random order")
    add("--dim", type=int, nargs="+", default=[300], help="hidden sizes")
    add("--tracker", type=int, nargs="+", default=[0, 64], help="tracker sizes, 0 for none")
    add("--threads", type=int, default=1)
    add("--repeats", type=int, default=7, help="recorded rounds over everything")
    add("--limit", type=int, default=1024, help="sentences measured of each batch size, about")
    add_snli(parser, "--sentences", otherwise="the logic corpus", others=", or 'random'")
    add("--no-memory", dest="memory", action="store_false", help="leave out the peak memory")
    parser.set_defaults(memory_batch=512, max_tokens=sys.maxsize)
    return harness.parse(parser, arguments, NAME, QUICK)


def _describe(sentences: Sentences) -> dict[str, Any]:
    lengths = n_tokens_of(sentences.transitions)
    return {
        "source": sentences.source,
        "count": len(lengths),
        "mean_tokens": round(float(lengths.mean()), 2),
        "max_tokens": int(lengths.max()),
    }


def _keys(n_hidden: int, n_tracker: int, setting: Setting) -> dict[str, Any]:
    return {
        "dim": n_hidden,
        "tracker": n_tracker,
        "batching": setting.batching,
        "batch_size": setting.batch_size,
    }


def _time(made: Sequence[Setting], options: argparse.Namespace) -> dict[str, Any]:
    """Time every row, and return the report's numbers."""
    rows = [
        prepare(setting, n_hidden, n_tracker)
        for n_hidden in options.dim
        for n_tracker in options.tracker
        for setting in made
    ]
    seconds = iter(
        harness.interleaved([case for row in rows for case in row.cases], range(-1, options.repeats))
    )
    measured = [(row, [next(seconds) for _ in row.cases]) for row in rows]
    rates = [rate for _, of_batches in measured for times in of_batches for rate in _rates(times)]
    return {
        "product_rate": {"best_gflops": max(rates) / 1e9, "median_gflops": statistics.median(rates) / 1e9},
        "speed": [_speed(row, mode, times, max(rates)) for mode in MODES for row, times in measured],
        "tables": [share for row, times in measured for share in _table_shares(row, times)],
    }


def prepare(setting: Setting, n_hidden: int, n_tracker: int) -> Row:
    """Make everything that is timed of one row, after a check that all candidates compute the same."""
    weights = candidates.make_weights(n_hidden, n_tracker)
    made = candidates.make_candidates(weights)
    few = setting.batches[0][:: max(1, setting.batch_size // 8)]
    candidates.check_agreement(made, candidates.make_batch(few, n_hidden))
    cases = [_timed(transitions, weights, made) for transitions in setting.batches]
    return Row(n_hidden, n_tracker, setting, [candidate.name for candidate in made], cases)


def _timed(
    transitions: Sequence[np.ndarray], weights: candidates.Weights, made: Sequence[candidates.Candidate]
) -> Timed:
    n_hidden = weights.lstm.hidden_size
    whole = candidates.make_batch(transitions, n_hidden)
    part = candidates.make_batch(transitions[::THIN], n_hidden)
    scale = len(whole.flat_transitions) / len(part.flat_transitions)
    case: Timed = {}
    for number, candidate in enumerate(made):
        if number < N_PRODUCTS:
            case[PRODUCT, str(number)] = harness.product()
        for mode, run in MODES.items():
            if candidate.name == RECURSION:
                case[mode, candidate.name] = harness.stopwatch(partial(run, candidate, part), scale)
            else:
                case[mode, candidate.name] = harness.stopwatch(partial(run, candidate, whole))
    for name, build in candidates.table_builders(whole, weights).items():
        case[TABLES, name] = harness.stopwatch(build)
    return case


def _rates(times: Seconds) -> list[float]:
    """Return the floating-point operations a second of the large product in each round of one batch."""
    products = [of_rounds for (what, _), of_rounds in times.items() if what == PRODUCT]
    return [harness.product_flops() / statistics.median(round_) for round_ in zip(*products, strict=True)]


def _speed(row: Row, mode: str, of_batches: Sequence[Seconds], best_rate: float) -> dict[str, Any]:
    """Return the rates and ratios of one row; the seconds of a round are those of all its batches together."""
    n_sentences = row.setting.batch_size * len(of_batches)
    flops = [
        PASSES[mode] * harness.encoder_flops(transitions, row.n_hidden, row.n_tracker)
        for transitions in row.setting.batches
    ]
    floor = harness.sum_rounds(
        [flop / rate for rate in _rates(times)] for flop, times in zip(flops, of_batches, strict=True)
    )
    seconds = {name: harness.sum_rounds(times[mode, name] for times in of_batches) for name in row.names}
    return {
        **row.keys,
        "mode": mode,
        "n_batches": len(of_batches),
        "n_sentences": n_sentences,
        "mflop_per_sentence": sum(flops) / n_sentences / 1e6,
        "floor": {
            "seconds": floor,
            "sentences_per_s": n_sentences / statistics.median(floor),
            "sentences_per_s_at_best_rate": n_sentences * best_rate / sum(flops),
        },
        "candidates": {
            name: {
                "seconds": of_rounds,
                "sentences_per_s": n_sentences / statistics.median(of_rounds),
                "times_baseline": harness.ratio(seconds[BASELINE], of_rounds),
                "over_floor": harness.ratio(of_rounds, floor),
            }
            for name, of_rounds in seconds.items()
        },
    }


def _table_shares(row: Row, of_batches: Sequence[Seconds]) -> list[dict[str, Any]]:
    """Return the time to build the tables of each of our executors over its forward + backward time."""
    shares = []
    for what, name in of_batches[0]:
        if what == TABLES:
            building = harness.sum_rounds(times[TABLES, name] for times in of_batches)
            running = harness.sum_rounds(times[FORWARD_BACKWARD, name] for times in of_batches)
            milliseconds = 1e3 * statistics.median(building) / len(of_batches)
            share = {"ms_per_batch": milliseconds, "share": harness.ratio(building, running)}
            shares.append({**row.keys, "candidate": name, **share})
    return shares


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
    counts = {
        candidate.name: harness.count_operators(partial(candidates.forward_backward, candidate, batch))
        for candidate in candidates.make_candidates(candidates.make_weights(n_hidden, n_tracker))
        if candidate.name != RECURSION
    }
    return {**_keys(n_hidden, n_tracker, setting), "counts": counts}


def _memory_cases(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Return candidates and tracker sizes: what is promised is the executor with the tracker; the others are beside
    it."""
    cases = [(GIVEN, max(options.tracker)), (DYNAMIC, max(options.tracker))]
    return [*cases, (FOREST, 0)] if 0 in options.tracker else cases


def _memory(name: str, n_tracker: int, options: argparse.Namespace) -> dict[str, Any]:
    sizes = options.memory_batch, max(options.dim), n_tracker, options.threads
    return {
        "candidate": name,
        "batch_size": options.memory_batch,
        "dim": max(options.dim),
        "tracker": n_tracker,
        "n_transitions": [2 * n_tokens - 1 for n_tokens in MEMORY_TOKENS],
        "peak_bytes": [
            harness.in_a_process(peak_memory, name, n_tokens, *sizes) for n_tokens in MEMORY_TOKENS
        ],
    }


def peak_memory(
    name: str, n_tokens: int, batch_size: int, n_hidden: int, n_tracker: int, n_threads: int
) -> int:
    """Return the bytes that forward + backward of a candidate takes at its peak; for a process of its own."""
    torch.set_num_threads(n_threads)
    rng = np.random.default_rng(0)
    made = candidates.make_candidates(candidates.make_weights(n_hidden, n_tracker))
    candidate = next(candidate for candidate in made if candidate.name == name)
    warm_up = candidates.make_batch([random_transitions(3, rng) for _ in range(2)], n_hidden)
    batch = candidates.make_batch([random_transitions(n_tokens, rng) for _ in range(batch_size)], n_hidden)
    candidates.forward_backward(candidate, warm_up)
    gc.collect()
    before = _restart_peak()
    gradients = candidates.forward_backward(candidate, batch)
    highest = harness.peak()
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    return highest - before


def _restart_peak() -> int:
    """Return the resident bytes now; from here on the kernel keeps a new peak, where it can.

    What the allocator keeps of freed memory is given back before, or the pass would use it unseen.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return harness.peak()


def _publish(options: argparse.Namespace, result: dict[str, Any]) -> None:
    on_what = "{source}: {count} sentences, {mean_tokens} tokens on average, {max_tokens} at most"
    rate = result["product_rate"]
    notes = [
        f"{on_what.format(**result['sentences'])}; {result['repeats']} rounds",
        f"float32 product rate: median {rate['median_gflops']:.1f}, best {rate['best_gflops']:.1f} GFLOP/s; "
        "a round's floor is taken at the rate of that round",
    ]
    tables = [_speed_table(result, mode) for mode in MODES]
    tables += [_table_table(result["tables"]), _operator_table(result["operators"])]
    harness.publish(
        options, result, notes, [*tables, *map(_memory_table, [result["memory"]] if options.memory else [])]
    )


def _speed_table(result: dict[str, Any], mode: str) -> harness.Table:
    rows = []
    for record in result["speed"]:
        measured = record["candidates"]
        rates = [
            f"{measured[name]['sentences_per_s']:,.0f} {measured[name]['times_baseline']:.2f}×"
            if name in measured
            else "–"
            for name in COLUMNS
        ]
        best = min(measured[name]["over_floor"] for name in OURS if name in measured)
        if record["mode"] == mode:
            rows.append(
                [*_cells(record), *rates, f"{record['floor']['sentences_per_s']:,.0f}", f"{best:.2f}"]
            )
    title = f"Encoder, {mode}: sentences/s, and times {BASELINE}; last, the best of ours over the floor"
    return harness.Table([*KEYS, *COLUMNS, "floor", "ours / floor"], rows, 3, title)


def _table_table(records: Sequence[dict[str, Any]]) -> harness.Table:
    rows = [
        [*_cells(row), row["candidate"], f"{row['ms_per_batch']:.2f}", f"{100 * row['share']:.1f} %"]
        for row in records
    ]
    names = [*KEYS, "tables of", "ms a batch", "share of forward + backward"]
    return harness.Table(names, rows, 4, "Building the index tables")


def _operator_table(records: Sequence[dict[str, Any]]) -> harness.Table:
    columns = [name for name in COLUMNS if name != RECURSION]
    rows = []
    for record in records:
        counts = record["counts"]
        cells = [
            f"{counts[name]:,} (1/{counts[BASELINE] / counts[name]:.1f})" if name in counts else "–"
            for name in columns
        ]
        rows.append([*_cells(record), *cells])
    title = f"Operators dispatched in forward + backward of one batch, and as a part of {BASELINE}'s"
    return harness.Table([*KEYS, *columns], rows, 3, title)


def _memory_table(records: Sequence[dict[str, Any]]) -> harness.Table:
    steps = records[0]["n_transitions"]
    rows = []
    for record in records:
        peaks = record["peak_bytes"]
        cells = [*_cells(record), record["candidate"], *(f"{peak / 1e6:,.0f}" for peak in peaks)]
        rows.append([*cells, f"{peaks[-1] / max(1, peaks[0]):.2f}×"])
    names = [*KEYS, "encoder", *[f"T = {t}" for t in steps], f"growth (of T: {steps[-1] / steps[0]:.2f})"]
    return harness.Table(names, rows, 4, "Peak memory of forward + backward above model and inputs, MB")


def _cells(record: dict[str, Any]) -> list[str]:
    batch = f"{record['batch_size']} {record.get('batching', '')}".strip()
    return [str(record["dim"]), str(record["tracker"] or "–"), batch]


if __name__ == "__main__":
    harness.run(main)
