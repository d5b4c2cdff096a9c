"""Make the GPU record: encoders in every mode and precision, and a training epoch, in one run of eight minutes.

    python -m benchmarks.gpu                    on a CUDA device, else on the CPU with small sizes
    python -m benchmarks.gpu --quick            tiny sizes: does it run?
    python -m benchmarks.gpu --pairs 20000      a shorter epoch
    python -m benchmarks.gpu --trace step.json.gz       and a trace of captured steps

Correctness: roots and all gradients against the CPU in float64. Encoders: forward and forward + backward over batches
of like length from SNLI's slice, with given leaf states; eager, compiled (torch.compile around the encoder), and
captured (a CUDA graph over tables of fixed width, as training replays them; on the CPU those tables and no graph), in
float32, TF32 and bfloat16, against dynamic batching in float32 and cuDNN's LSTM over padded words (which autocast to
bfloat16 runs in float16). Kernels are those run for a batch, launches what the host issues for them. The floor is the
larger of the arithmetic at the rate of a large product in the same precision and of the memory traffic at the rate of a
large copy. Kernels (--kernels off cells steps): what may run the machine's steps, forward + backward captured, and the
lines that make `spinn_tensor.machine.choice` choose the fastest on this device, as what follows does. Dynamic batching
is timed up to 1,024 sentences; what is captured is held against the captured LSTM. Epochs: SNLI's 549,367 pairs by
repeating the slice, fed as `spinn train` feeds itself, the whole step captured; the clock runs from the first batch
asked for to the last step done, when all is planned, compiled and captured. What there is no time for is left out, the
largest first, and said.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks import candidates, harness
from benchmarks import gpu_cases as cases
from benchmarks import gpu_kernels as kernels
from benchmarks.candidates import BOTH, FORWARD
from benchmarks.data import Pairs, load_pairs, load_sentences
from benchmarks.gpu_cases import CAPTURED, CAPTURED_LSTM, DYNAMIC, FIXED, LSTM, MODES, RAGGED
from benchmarks.harness import Option
from spinn_tensor.machine.choice import CHOICES, MEASURED
from spinn_tensor.training.config import PRECISIONS

SNLI_PAIRS = 549_367
EPOCHS_SHARE = 0.5  # of the time, for the epochs
N_BATCHES = 3  # of each size: a short, a middle and a long one
GRAPHS = 64  # of one function in all precisions, passes and kinds of tables; torch allows 8
POOL = 100_000  # sentences that batches of like length are cut from
OPTIONS = {
    "device": Option("cuda" if torch.cuda.is_available() else "cpu", "cpu"),
    "seconds": Option(470.0, 470.0, "what all of it may take"),
    "batch": Option([128, 512, 1024, 2048], [4], "sentences of a batch (CPU: 128)"),
    "dim": Option(300, 8),
    "tracker": Option(64, 4),
    "mlp": Option(1024, 16, "width of the classifier"),
    "product": Option(4096, 64, "size of the product that gives the rate (CPU: 1024)"),
    "pairs": Option(SNLI_PAIRS, 40, "of the epoch (CPU: 1024)"),
    "epoch_batch": Option(512, 16, "pairs of a batch of the epoch"),
    "epoch_precision": Option(["tf32", "bfloat16"], ["float32"], "of the epochs (CPU: float32)", PRECISIONS),
    "trace": Option(None, None, "file for what three steps of SPINN-PI run, for https://ui.perfetto.dev"),
    "kernels": Option(["off"], ["off"], "what may run the machine's steps, to compare", CHOICES),
    "modes": Option(list(MODES), list(MODES), "of our encoders", MODES),
    "threads": Option(1, 1, "of torch on the CPU"),
    "backend": Option("inductor", "aot_eager", "what compiles the encoder"),
}
ENCODERS = {
    "batch": "{batch_size}",
    "tracker": "{tracker}",
    "encoder": "{mode}",
    "precision": "{precision}",
    "ms a batch": "{ms_per_batch:.3f}",
    "sentences/s": "{sentences_per_s:,.0f}",
    "× dynamic": "{times_dynamic:.2f}",
    "time / LSTM's": "{times_lstm:.2f}",
    "share of floor": "{share_of_floor:.1%}",
    "kernels": "{kernels:,}",
    "launches": "{launches:,}",
    "peak MB": "{peak_mb:,.0f}",
}
EPOCHS = {
    "model": "{kind}",
    "precision": "{precision}",
    "batch": "{batch_size}",
    "pairs": "{n_trained:,} of {n_pairs:,}",
    "seconds": "{seconds:.1f}",
    "pairs/s": "{pairs_per_s:,.0f}",
    "seconds for all": "{whole_epoch_s:.1f}",
    "waiting for data, s": "{waited_for_data_s:.1f}",
    "warm-up, s": "{warm_up_s:.1f}",
    "shapes": "{n_shapes}",
    "ragged steps": "{n_ragged_steps} of {n_steps}",
    "reserved MB": "{peak_mb:,.0f}",
}
ON_CPU = {
    "batch": [128],
    "product": 1024,
    "pairs": 1024,
    "epoch_precision": ["float32"],
    "kernels": ["off"],
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the record from the command line."""
    options = _parse(arguments)
    device = torch.device(options.device)
    budget = cases.Budget(options.seconds)
    torch.set_num_threads(options.threads)
    _, transitions = load_sentences(options.snli)
    pairs = load_pairs(options.snli)
    result: dict[str, Any] = {"machine": cases.device_facts(device), "sentences": pairs.source}
    rates = cases.measure_rates(device, options.product)
    result["rates"] = rates._asdict()
    result["correctness"] = correctness(transitions, options)
    middles = [batches_of(transitions, size)[N_BATCHES // 2] for size in sorted(options.batch)]
    result["kernels"] = kernels.time_kernels(middles, options, budget)
    MEASURED.update(kernels.measured(result["kernels"]))
    result["epochs"] = train_epochs(pairs, options, budget.part(EPOCHS_SHARE))
    with torch._dynamo.config.patch(recompile_limit=GRAPHS):
        result["encoders"] = list(time_encoders(transitions, options, rates, budget))
    result |= {"left_out": budget.left_out, "seconds": options.seconds - budget.left}
    harness.publish(options, result, _notes(result), _tables(result))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    name = cases.device_facts(torch.device(OPTIONS["device"].default))["device"]
    name = re.sub(r"\W+", "_", name).strip("_").lower()
    options = harness.parse(
        "gpu", __doc__, arguments, OPTIONS, name, snli="the logic corpus", fixed=["device"]
    )
    if options.device == "cpu":
        for option, value in ON_CPU.items():
            if getattr(options, option) == OPTIONS[option].default:
                setattr(options, option, value)
    return options


def correctness(transitions: list[np.ndarray], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the largest relative errors against the CPU in float64; raise RuntimeError for one above its tolerance."""
    rows, device = [], torch.device(options.device)
    some = transitions[:: max(1, len(transitions) // 32)][:32]
    for tracker_dim in (0, options.tracker):
        cpu = torch.device("cpu")
        exact = cases.make_tree_batch(some, options.dim, bool(tracker_dim), cpu, torch.float64)
        weights = candidates.make_weights(options.dim, tracker_dim, cpu, torch.float64)
        expected = cases.outputs(exact, weights, RAGGED, "float32")
        for name in ("float64", *cases.precisions(device)):
            dtype = torch.float64 if name == "float64" else torch.float32
            batch = cases.make_tree_batch(some, options.dim, bool(tracker_dim), device, dtype)
            on_device = candidates.make_weights(options.dim, tracker_dim, device, dtype)
            for tables in (RAGGED, FIXED):
                setting = "float32" if name == "float64" else name
                got = cases.outputs(batch, on_device, tables, setting)
                error = max(map(candidates.relative_error, got, expected))
                rows.append(
                    {"tracker": tracker_dim or None, "precision": name, "tables": tables, "error": error}
                )
                if not error <= cases.TOLERANCE[name]:
                    raise RuntimeError(f"wrong results, relative to the largest: {rows[-1]}")
    return rows


def batches_of(transitions: list[np.ndarray], size: int) -> list[list[np.ndarray]]:
    """Cut batches of like length, from the middles of equal parts of the sorted sentences."""
    n_copies = max(1, -(-max(POOL, N_BATCHES * size) // len(transitions)))
    lengths = np.repeat([len(codes) for codes in transitions], n_copies)
    # shuffled, or a batch would be one tree many times over
    shuffled = np.random.default_rng(0).permutation(len(lengths))
    order = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    middles = [int((part + 0.5) * len(order) / N_BATCHES) for part in range(N_BATCHES)]
    starts = [min(max(middle - size // 2, 0), len(order) - size) for middle in middles]
    return [[transitions[row // n_copies] for row in order[start : start + size]] for start in starts]


def time_encoders(
    transitions: list[np.ndarray], options: argparse.Namespace, rates: cases.Rates, budget: cases.Budget
) -> Iterator[dict[str, Any]]:
    """Give the rows of each size, tracker and pass, smallest first, while there is time."""
    last = {tracker_dim: (0.0, 1) for tracker_dim in (0, options.tracker)}  # seconds taken, and for what size
    for size in sorted(options.batch):
        made = batches_of(transitions, size)
        for tracker_dim in (0, options.tracker):
            seconds, of_size = last[tracker_dim]
            what = f"encoders, batches of {size}, tracker {tracker_dim}"
            if not budget.allows(what, seconds * max(1.0, 0.7 * size / of_size)):
                continue
            start = time.perf_counter()
            for passes in (FORWARD, BOTH):
                yield from _time_setting(made, tracker_dim, passes, options, rates)
            last[tracker_dim] = time.perf_counter() - start, size
            if torch.device(options.device).type == "cuda":
                torch.cuda.empty_cache()


def _time_setting(
    made: list[list[np.ndarray]],
    tracker_dim: int,
    passes: str,
    options: argparse.Namespace,
    rates: cases.Rates,
) -> list[dict[str, Any]]:
    device = torch.device(options.device)
    names = cases.precisions(device)
    weights = candidates.make_weights(options.dim, tracker_dim, device)
    batches = [
        cases.make_tree_batch(batch, options.dim, bool(tracker_dim), device, torch.float32) for batch in made
    ]
    calls: dict[tuple[str, str], list[Callable[[], Any]]] = {}
    for batch in batches:
        for key, call in cases.baselines(batch, weights, passes, names).items():
            calls.setdefault(key, []).append(call)
        for mode in options.modes:
            for name in names:
                call = cases.ours(batch, weights, mode, passes, name, options.backend)
                calls.setdefault((mode, name), []).append(call)
    together = {key: partial(_in_turn, of_batches) for key, of_batches in calls.items()}
    seconds = cases.seconds_of(together, device)
    n_sentences, dynamic = sum(map(len, made)), seconds.get((DYNAMIC, names[0]))
    captured = (CAPTURED, CAPTURED_LSTM)
    rows = []
    for (mode, name), taken in seconds.items():
        floor = sum(
            cases.floor_seconds(batch, options.dim, tracker_dim, passes, rates.flops[name], rates.bytes)
            for batch in made
        )
        kernels = launches = None
        if mode != DYNAMIC or len(made[0]) <= cases.COUNTED_UP_TO:
            kernels, launches = cases.count_kernels(calls[mode, name][1], device)
        rows.append(
            {
                "batch_size": len(made[0]),
                "tracker": tracker_dim or None,
                "pass": passes,
                "mode": mode,
                "precision": name,
                "ms_per_batch": 1e3 * taken / len(made),
                "sentences_per_s": n_sentences / taken,
                "times_dynamic": None if dynamic is None else dynamic / taken,
                "times_lstm": taken / seconds[CAPTURED_LSTM if mode in captured else LSTM, name],
                "share_of_floor": None if mode in (LSTM, CAPTURED_LSTM) else floor / taken,
                "kernels": kernels,
                "launches": launches,
                # a graph's memory is its own, whether it runs or not
                "peak_mb": None if mode in captured else cases.peak_mb(together[mode, name], device),
            }
        )
    return rows


def _in_turn(calls: Sequence[Callable[[], Any]]) -> None:
    for call in calls:
        call()


def train_epochs(pairs: Pairs, options: argparse.Namespace, budget: cases.Budget) -> list[dict[str, Any]]:
    """Train SPINN-PI and SPINN-PI-NT in each precision, in equal shares of the time that is left."""
    rows = []
    models = [(kind, name) for name in options.epoch_precision for kind in ("spinn-pi", "spinn-pi-nt")]
    for number, (kind, name) in enumerate(models):
        if budget.allows(f"epoch of {kind} in {name}", 10.0):
            share, trace = 1 / (len(models) - number), None if number else options.trace
            rows.append(cases.run_epoch(kind, name, options, pairs, budget, share, trace))
    return rows


def _notes(result: dict[str, Any]) -> list[str]:
    rates, facts = result["rates"], result["machine"]
    products = ", ".join(f"{name} {rate / 1e12:.2f}" for name, rate in rates["flops"].items())
    return [
        f"{facts['device']}; CUDA {facts.get('cuda', '–')}, cuDNN {facts.get('cudnn', '–')}; {result['sentences']}",
        f"large products, TFLOP/s: {products}; copy, GB/s read and written: {rates['bytes'] / 1e9:.0f}",
        f"took {result['seconds']:.0f} s",
        *(f"for choice.MEASURED: {line}" for line in kernels.as_source(kernels.measured(result["kernels"]))),
        *(f"left out for want of time: {what}" for what in result["left_out"]),
    ]


def _tables(result: dict[str, Any]) -> list[harness.Table]:
    passes = dict.fromkeys(row["pass"] for row in result["encoders"])
    return [
        harness.Table(
            {name: f"{{{name}}}" for name in ("tracker", "precision", "tables")} | {"error": "{error:.1e}"},
            result["correctness"],
            3,
            "Largest error of roots and gradients against the CPU in float64",
        ),
        *(
            harness.Table(
                ENCODERS, [row for row in result["encoders"] if row["pass"] == one], 4, f"Encoders, {one}"
            )
            for one in passes
        ),
        harness.Table(
            kernels.COLUMNS, result["kernels"], 3, "Kernels of the steps, forward + backward captured"
        ),
        harness.Table(EPOCHS, result["epochs"], 3, "Training epoch"),
    ]


if __name__ == "__main__":
    harness.run(main)
