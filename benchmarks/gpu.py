"""The GPU record: encoders in every mode and precision, and a training epoch, in one run of at most eight minutes.

    python -m benchmarks.gpu                    on a CUDA device, else on the CPU with small sizes
    python -m benchmarks.gpu --quick            tiny sizes: does it run?
    python -m benchmarks.gpu --pairs 20000      a shorter epoch

Correctness: roots and all gradients against the CPU in float64. Encoders: forward and forward + backward over batches
of like length from SNLI's slice, with given leaf states; eager, compiled (torch.compile around the encoder), and
captured (a CUDA graph over tables of fixed width, as training replays them; on the CPU those tables and no graph), in
float32, TF32 and bfloat16, against dynamic batching in float32 and cuDNN's LSTM over padded words (which autocast to
bfloat16 runs in float16). Kernels are those run for a batch, launches what the host issues for them. The floor is the
larger of the arithmetic at the rate of a large product in the same precision and of the memory traffic at the rate of a
large copy. Epoch: SNLI's 549,367 pairs by repeating the slice, batches made by worker processes, the whole step
captured; the clock runs from the first batch asked for to the last step done. What there is no time for is left out,
the largest first, and said.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import candidates, harness
from benchmarks import gpu_cases as cases
from benchmarks.data import Pairs, add_snli, load_pairs, load_sentences
from benchmarks.gpu_cases import BOTH, CAPTURED, DYNAMIC, FIXED, FORWARD, LSTM, MODES, RAGGED
from spinn_tensor.training.config import PRECISIONS

SNLI_PAIRS = 549_367
EPOCH_RESERVE = 160.0  # seconds kept for the epochs
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "tf32": 2e-2, "bfloat16": 0.1}  # relative to the largest
N_BATCHES = 3  # of each size: a short, a middle and a long one
GRAPHS = 64  # of one function in all precisions, passes and kinds of tables; torch allows 8
POOL = 100_000  # sentences that batches of like length are cut from
QUICK = {
    "batch": [4],
    "dim": 8,
    "tracker": 4,
    "mlp": 16,
    "product": 64,
    "pairs": 40,
    "epoch_batch": 16,
    "backend": "aot_eager",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the record from the command line."""
    options = _parse(arguments)
    device = torch.device(options.device)
    budget = cases.Budget(options.seconds)
    torch.set_num_threads(options.threads)
    transitions = load_sentences(options.snli).transitions
    pairs = load_pairs(options.snli)
    names = PRECISIONS if device.type == "cuda" else ("float32", "bfloat16")  # TF32 is CUDA's
    result: dict[str, Any] = {
        "machine": cases.device_facts(device),
        "sentences": pairs.source,
        "hidden_dim": options.dim,
        "tracker_dim": options.tracker,
    }
    usable, result["precisions_left_out"] = usable_precisions(names, transitions, options, device)
    rates = cases.measure_rates(device, usable, options.product)
    result["rates"] = rates._asdict()
    result["correctness"] = correctness(transitions, options, device, usable)
    with torch._dynamo.config.patch(recompile_limit=GRAPHS):
        result["encoders"] = [
            row for rows in time_encoders(transitions, options, device, usable, rates, budget) for row in rows
        ]
    result["epochs"] = train_epochs(pairs, options, device, budget)
    result |= {"left_out": budget.left_out, "seconds": options.seconds - budget.left}
    passes = dict.fromkeys(row["pass"] for row in result["encoders"])
    tables = [_correctness_table(result["correctness"])]
    tables += [_encoder_table(result["encoders"], of_passes) for of_passes in passes]
    harness.publish(options, result, _notes(result), [*tables, _epoch_table(result["epochs"])])


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    on_cuda = torch.cuda.is_available()
    parser = harness.argument_parser("gpu", __doc__)
    add = parser.add_argument
    add("--device", default="cuda" if on_cuda else "cpu")
    add("--seconds", type=float, default=470.0, help="what all of it may take")
    add("--batch", type=int, nargs="+", help="sentences of a batch (CUDA: 128 512 1024 2048)")
    add("--dim", type=int, default=300)
    add("--tracker", type=int, default=64)
    add("--pairs", type=int, help="of the epoch (CUDA: as many as SNLI has)")
    add("--epoch-batch", type=int, default=512, help="pairs of a batch of the epoch")
    add("--epoch-precision", nargs="+", choices=PRECISIONS, help="CUDA: tf32 bfloat16; CPU: float32")
    add("--workers", type=int, help="processes that make batches (CUDA: as many as cores, up to 12)")
    add("--threads", type=int, default=1, help="of torch on the CPU")
    add_snli(parser, otherwise="the logic corpus")
    parser.set_defaults(backend="inductor", product=None, mlp=1024)
    name = cases.device_facts(torch.device("cuda" if on_cuda else "cpu"))["device"]
    name = re.sub(r"\W+", "_", name).strip("_").lower()
    options = harness.parse(parser, arguments, f"gpu_{name}", QUICK, fixed=("device",))
    on_cuda = options.device.startswith("cuda")
    options.product = options.product or (4096 if on_cuda else 1024)
    options.batch = options.batch or ([128, 512, 1024, 2048] if on_cuda else [128])
    options.pairs = options.pairs or (SNLI_PAIRS if on_cuda else 1024)
    options.epoch_precision = options.epoch_precision or (["tf32", "bfloat16"] if on_cuda else ["float32"])
    if options.workers is None:
        options.workers = min(12, len(os.sched_getaffinity(0))) if on_cuda else 0
    return options


def usable_precisions(
    names: Sequence[str], transitions: list[np.ndarray], options: argparse.Namespace, device: torch.device
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the precisions that the encoder runs in, and why it does not run in the others."""
    usable, left_out = [], {}
    weights = candidates.make_weights(options.dim, options.tracker, device)
    batch = cases.make_tree_batch(transitions[:4], options.dim, True, device, torch.float32)
    for name in names:
        try:
            cases.outputs(batch, weights, RAGGED, name)
            usable.append(name)
        except TypeError as error:
            left_out[name] = str(error)
    return tuple(usable), left_out


def correctness(
    transitions: list[np.ndarray], options: argparse.Namespace, device: torch.device, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the largest relative errors against the CPU in float64; raise RuntimeError for one above its tolerance."""
    rows = []
    some = transitions[:: max(1, len(transitions) // 32)][:32]
    for tracker_dim in (0, options.tracker):
        cpu = torch.device("cpu")
        exact = cases.make_tree_batch(some, options.dim, bool(tracker_dim), cpu, torch.float64)
        weights = candidates.make_weights(options.dim, tracker_dim, cpu, torch.float64)
        expected = cases.outputs(exact, weights, RAGGED, "float32")
        for name in ("float64", *names):
            dtype = torch.float64 if name == "float64" else torch.float32
            batch = cases.make_tree_batch(some, options.dim, bool(tracker_dim), device, dtype)
            on_device = candidates.make_weights(options.dim, tracker_dim, device, dtype)
            for tables in (RAGGED, FIXED):
                setting = "float32" if name == "float64" else name
                got = cases.outputs(batch, on_device, tables, setting)
                error = max(map(candidates.relative_error, got, expected))
                rows.append({"tracker": tracker_dim, "precision": name, "tables": tables, "error": error})
                if not error <= TOLERANCE[name]:
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
    transitions: list[np.ndarray],
    options: argparse.Namespace,
    device: torch.device,
    names: Sequence[str],
    rates: cases.Rates,
    budget: cases.Budget,
) -> Iterator[list[dict[str, Any]]]:
    """Give the rows of each size, tracker and pass, smallest first, while there is time."""
    last = {tracker_dim: (0.0, 1) for tracker_dim in (0, options.tracker)}  # seconds taken, and for what size
    for size in sorted(options.batch):
        made = batches_of(transitions, size)
        for tracker_dim in (0, options.tracker):
            seconds, of_size = last[tracker_dim]
            what = f"encoders, batches of {size}, tracker {tracker_dim}"
            if not budget.allows(what, seconds * max(1.0, 0.7 * size / of_size), EPOCH_RESERVE):
                continue
            start = time.perf_counter()
            yield from (
                _time_setting(made, tracker_dim, passes, options, device, names, rates)
                for passes in (FORWARD, BOTH)
            )
            last[tracker_dim] = time.perf_counter() - start, size
            if device.type == "cuda":
                torch.cuda.empty_cache()


def _time_setting(
    made: list[list[np.ndarray]],
    tracker_dim: int,
    passes: str,
    options: argparse.Namespace,
    device: torch.device,
    names: Sequence[str],
    rates: cases.Rates,
) -> list[dict[str, Any]]:
    weights = candidates.make_weights(options.dim, tracker_dim, device)
    batches = [
        cases.make_tree_batch(batch, options.dim, bool(tracker_dim), device, torch.float32) for batch in made
    ]
    calls: dict[tuple[str, str], list[Callable[[], Any]]] = {}
    for batch in batches:
        for key, call in cases.baselines(batch, weights, passes, names).items():
            calls.setdefault(key, []).append(call)
        for mode in MODES:
            for name in names:
                call = cases.ours(batch, weights, mode, passes, name, options.backend)
                calls.setdefault((mode, name), []).append(call)
    together = {key: _in_turn(of_batches) for key, of_batches in calls.items()}
    seconds = cases.seconds_of(together, device)
    n_sentences = sum(map(len, made))
    rows = []
    for (mode, name), taken in seconds.items():
        floor = sum(
            cases.floor_seconds(batch, options.dim, tracker_dim, passes, rates.flops[name], rates.bytes)
            for batch in made
        )
        kernels, launches = cases.count_kernels(calls[mode, name][1], device)
        rows.append(
            {
                "batch_size": len(made[0]),
                "tracker": tracker_dim,
                "pass": passes,
                "mode": mode,
                "precision": name,
                "ms_per_batch": 1e3 * taken / len(made),
                "sentences_per_s": n_sentences / taken,
                "times_dynamic": seconds[DYNAMIC, names[0]] / taken,
                "times_lstm": taken / seconds[LSTM, name],
                "share_of_floor": None if mode == LSTM else floor / taken,
                "kernels": kernels,
                "launches": launches,
                # a graph's memory is its own, whether it runs or not
                "peak_bytes": None if mode == CAPTURED else cases.peak_bytes(together[mode, name], device),
            }
        )
    return rows


def _in_turn(calls: Sequence[Callable[[], Any]]) -> Callable[[], None]:
    def all_of_them() -> None:
        for call in calls:
            call()

    return all_of_them


def train_epochs(
    pairs: Pairs, options: argparse.Namespace, device: torch.device, budget: cases.Budget
) -> list[dict[str, Any]]:
    """Train SPINN-PI and SPINN-PI-NT in each precision, in equal shares of the time that is left."""
    rows = []
    models = [(kind, name) for name in options.epoch_precision for kind in ("spinn-pi", "spinn-pi-nt")]
    for number, (kind, name) in enumerate(models):
        setting = cases.Setting(
            kind=kind,
            hidden_dim=options.dim,
            tracker_dim=options.tracker,
            mlp_dim=options.mlp,
            n_pairs=options.pairs,
            batch_size=options.epoch_batch,
            compile=device.type == "cuda",
            precision=name,
            n_workers=options.workers,
        )
        if budget.allows(f"epoch of {kind} in {name}", 10.0):
            share = cases.Budget(budget.left / (len(models) - number))
            rows.append(cases.run_epoch(setting, pairs, device, share))
    return rows


def _notes(result: dict[str, Any]) -> list[str]:
    rates, facts = result["rates"], result["machine"]
    products = ", ".join(f"{name} {rate / 1e12:.2f}" for name, rate in rates["flops"].items())
    return [
        f"{facts['device']}; CUDA {facts.get('cuda', '–')}, cuDNN {facts.get('cudnn', '–')}",
        f"{result['sentences']}; H = {result['hidden_dim']}, tracker {result['tracker_dim']}",
        f"large products, TFLOP/s: {products}; copy, GB/s read and written: {rates['bytes'] / 1e9:.0f}",
        f"took {result['seconds']:.0f} s",
        *(f"left out: {name}: {why}" for name, why in result["precisions_left_out"].items()),
        *(f"left out for want of time: {what}" for what in result["left_out"]),
    ]


def _correctness_table(rows: Sequence[dict[str, Any]]) -> harness.Table:
    cells = [
        [str(row["tracker"] or "–"), row["precision"], row["tables"], f"{row['error']:.1e}"] for row in rows
    ]
    title = "Largest error of roots and gradients against the CPU in float64"
    return harness.Table(["tracker", "precision", "tables", "error"], cells, 3, title)


def _encoder_table(rows: Sequence[dict[str, Any]], passes: str) -> harness.Table:
    names = ["batch", "tracker", "encoder", "precision", "ms a batch", "sentences/s", "× dynamic"]
    names += ["time / LSTM's", "share of floor", "kernels", "launches", "peak MB"]
    cells = [
        [
            str(row["batch_size"]),
            str(row["tracker"] or "–"),
            row["mode"],
            row["precision"],
            f"{row['ms_per_batch']:.3f}",
            f"{row['sentences_per_s']:,.0f}",
            f"{row['times_dynamic']:.2f}",
            f"{row['times_lstm']:.2f}",
            _or_dash(row["share_of_floor"], "{:.1%}"),
            f"{row['kernels']:,}",
            _or_dash(row["launches"], "{:,}"),
            _megabytes(row["peak_bytes"]),
        ]
        for row in rows
        if row["pass"] == passes
    ]
    return harness.Table(names, cells, 4, f"Encoders, {passes}")


def _epoch_table(rows: Sequence[dict[str, Any]]) -> harness.Table:
    names = ["model", "precision", "batch", "pairs", "seconds", "pairs/s", "seconds for all"]
    names += ["waiting for data, s", "warm-up, s", "shapes", "ragged steps", "reserved MB"]
    cells = [
        [
            row["kind"],
            row["precision"],
            str(row["batch_size"]),
            f"{row['n_trained']:,} of {row['n_pairs']:,}",
            f"{row['seconds']:.1f}",
            f"{row['pairs_per_s']:,.0f}",
            f"{row['whole_epoch_s']:.1f}",
            f"{row['waited_for_data_s']:.1f}",
            f"{row['warm_up_s']:.1f}",
            str(row["n_shapes"] or "–"),
            f"{row['n_ragged_steps']} of {row['n_steps']}",
            _megabytes(row["peak_bytes"]),
        ]
        for row in rows
    ]
    return harness.Table(names, cells, 3, "Training epoch")


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _megabytes(n_bytes: int | None) -> str:
    return "–" if n_bytes is None else f"{n_bytes / 1e6:,.0f}"


if __name__ == "__main__":
    harness.run(main)
