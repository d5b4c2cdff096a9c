"""The rows of the speed table: what is timed for each width, tracker and way of batching, and the ratios."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks import candidates as encoders
from benchmarks import harness
from benchmarks.sentences import Setting

FORWARD, FORWARD_BACKWARD, TABLES, PRODUCT = "forward", "forward + backward", "tables", "product"
MODES: dict[str, Callable[[encoders.Candidate, encoders.Batch], object]] = {
    FORWARD: encoders.forward,
    FORWARD_BACKWARD: encoders.forward_backward,
}
PASSES = {
    FORWARD: 1,
    FORWARD_BACKWARD: 3,
}  # of the forward products; those of a backward pass are twice as many
N_PRODUCTS = 3  # large products timed with each batch, between the candidates
THIN = 16  # recursion runs every so-manieth sentence of a batch

Timed = dict[tuple[str, str], Callable[[], float]]  # (what, name) -> function that returns seconds
Seconds = dict[tuple[str, str], list[float]]  # the same keys, one entry a round


class Row(NamedTuple):
    """One width, tracker and way of batching."""

    n_hidden: int
    n_tracker: int  # 0 for none
    setting: Setting
    names: list[str]  # of the candidates
    cases: list[Timed]  # one a batch


def prepare(setting: Setting, n_hidden: int, n_tracker: int) -> Row:
    """Everything that is timed of one row, after a check that all candidates compute the same."""
    weights = encoders.make_weights(n_hidden, n_tracker)
    made = encoders.make_candidates(weights)
    few = setting.batches[0][:: max(1, setting.batch_size // 8)]
    encoders.check_agreement(made, encoders.make_batch(few, n_hidden))
    cases = [_timed(transitions, weights, made) for transitions in setting.batches]
    return Row(n_hidden, n_tracker, setting, [candidate.name for candidate in made], cases)


def _timed(
    transitions: Sequence[np.ndarray], weights: encoders.Weights, made: Sequence[encoders.Candidate]
) -> Timed:
    n_hidden = weights.lstm.hidden_size
    whole = encoders.make_batch(transitions, n_hidden)
    part = encoders.make_batch(transitions[::THIN], n_hidden)
    scale = len(whole.flat_transitions) / len(part.flat_transitions)
    case: Timed = {}
    for number, candidate in enumerate(made):
        if number < N_PRODUCTS:
            case[PRODUCT, str(number)] = harness.product()
        for mode, run in MODES.items():
            if candidate.name == encoders.RECURSION:
                case[mode, candidate.name] = harness.stopwatch(partial(run, candidate, part), scale)
            else:
                case[mode, candidate.name] = harness.stopwatch(partial(run, candidate, whole))
    for name, build in encoders.table_builders(whole, weights).items():
        case[TABLES, name] = harness.stopwatch(build)
    return case


def summarise(rows: Sequence[Row], seconds: Sequence[Seconds]) -> dict[str, Any]:
    """The report's numbers from the seconds of every case of every row, in the order of the rows."""
    cases = iter(seconds)
    measured = [(row, [next(cases) for _ in row.cases]) for row in rows]
    rates = [rate for _, of_batches in measured for times in of_batches for rate in _rates(times)]
    return {
        "product_rate": {"best_gflops": max(rates) / 1e9, "median_gflops": statistics.median(rates) / 1e9},
        "speed": [_speed(row, mode, times, max(rates)) for row, times in measured for mode in MODES],
        "tables": [share for row, times in measured for share in _table_shares(row, times)],
    }


def _rates(times: Seconds) -> list[float]:
    """Floating-point operations a second of the large product in each round of one batch."""
    products = [of_rounds for (what, _), of_rounds in times.items() if what == PRODUCT]
    return [harness.product_flops() / statistics.median(round_) for round_ in zip(*products, strict=True)]


def _speed(row: Row, mode: str, of_batches: Sequence[Seconds], best_rate: float) -> dict[str, Any]:
    """Rates and ratios of one row; the seconds of a round are those of all its batches together."""
    n_sentences = row.setting.batch_size * len(of_batches)
    flops = [
        PASSES[mode] * harness.encoder_flops(transitions, row.n_hidden, row.n_tracker)
        for transitions in row.setting.batches
    ]
    floor = _sum_rounds(
        [[flop / rate for rate in _rates(times)] for flop, times in zip(flops, of_batches, strict=True)]
    )
    seconds = {name: _sum_rounds([times[mode, name] for times in of_batches]) for name in row.names}
    baseline = seconds[encoders.BASELINE]
    return {
        **_name(row),
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
                "times_baseline": harness.ratio(baseline, of_rounds),
                "over_floor": harness.ratio(of_rounds, floor),
            }
            for name, of_rounds in seconds.items()
        },
    }


def _table_shares(row: Row, of_batches: Sequence[Seconds]) -> list[dict[str, Any]]:
    """Time to build the tables of each of our executors over its forward + backward time."""
    shares = []
    for what, name in of_batches[0]:
        if what == TABLES:
            building = _sum_rounds([times[TABLES, name] for times in of_batches])
            running = _sum_rounds([times[FORWARD_BACKWARD, name] for times in of_batches])
            milliseconds = 1e3 * statistics.median(building) / len(of_batches)
            share = {"ms_per_batch": milliseconds, "share": harness.ratio(building, running)}
            shares.append({**_name(row), "candidate": name, **share})
    return shares


def _sum_rounds(of_batches: Sequence[Sequence[float]]) -> list[float]:
    """Seconds of all batches together in each round."""
    return [sum(round_) for round_ in zip(*of_batches, strict=True)]


def _name(row: Row) -> dict[str, Any]:
    return {
        "dim": row.n_hidden,
        "tracker": row.n_tracker,
        "batching": row.setting.batching,
        "batch_size": row.setting.batch_size,
    }
