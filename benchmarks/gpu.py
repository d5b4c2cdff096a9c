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
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import gpu_encoders as encoders
from benchmarks import gpu_measure as measure
from benchmarks import gpu_report, harness
from benchmarks.gpu_encoders import BOTH, CAPTURED, DYNAMIC, FORWARD, LSTM, MODES
from benchmarks.gpu_epoch import Setting, run_epoch
from benchmarks.gpu_pairs import Pairs, load_pairs
from benchmarks.sentences import add_snli, is_usual, load_sentences
from spinn_tensor.training.config import PRECISIONS

SNLI_PAIRS = 549_367
EPOCH_RESERVE = 160.0  # seconds kept for the epochs
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "tf32": 2e-2, "bfloat16": 0.1}  # relative to the largest
N_BATCHES = 3  # of each size: a short, a middle and a long one
GRAPHS = 64  # of one function in all precisions, passes and kinds of tables; torch allows 8
POOL = 100_000  # sentences that batches of like length are cut from


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the record from the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    device = torch.device(options.device)
    budget = measure.Budget(options.seconds)
    torch.set_num_threads(options.threads)
    transitions = load_sentences(options.snli).transitions
    pairs = load_pairs(options.snli)
    names = PRECISIONS if device.type == "cuda" else ("float32", "bfloat16")  # TF32 is CUDA's
    result: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.gpu", *arguments]),
        "machine": measure.describe(device),
        "sentences": pairs.source,
        "hidden_dim": options.dim,
        "tracker_dim": options.tracker,
    }
    usable, result["precisions_left_out"] = usable_precisions(names, transitions, options, device)
    rates = measure.measure_rates(device, usable, options.product)
    result["rates"] = rates._asdict()
    result["correctness"] = correctness(transitions, options, device, usable)
    with torch._dynamo.config.patch(recompile_limit=GRAPHS):
        result["encoders"] = [
            row for rows in time_encoders(transitions, options, device, usable, rates, budget) for row in rows
        ]
    result["epochs"] = train_epochs(pairs, options, device, budget)
    result |= {"left_out": budget.left_out, "seconds": options.seconds - budget.left}
    harness.publish(result, gpu_report.markdown(result), options.out)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = harness.argument_parser("benchmarks.gpu", __doc__)
    add = parser.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
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
    harness.add_out(parser, "gpu_DEVICE")
    add("--quick", action="store_true", help="tiny sizes: does it run?")
    options = parser.parse_args(arguments)
    on_cuda = options.device.startswith("cuda")
    options.backend, options.product, options.mlp = "inductor", 4096 if on_cuda else 1024, 1024
    options.batch = options.batch or ([128, 512, 1024, 2048] if on_cuda else [128])
    options.pairs = options.pairs or (SNLI_PAIRS if on_cuda else 1024)
    options.epoch_precision = options.epoch_precision or (["tf32", "bfloat16"] if on_cuda else ["float32"])
    if options.workers is None:
        options.workers = min(12, len(os.sched_getaffinity(0))) if on_cuda else 0
    if options.quick:
        options.batch, options.dim, options.tracker, options.mlp, options.product = [4], 8, 4, 16, 64
        options.pairs, options.epoch_batch, options.backend = 40, 16, "aot_eager"
    name = re.sub(r"\W+", "_", measure.device_name(torch.device(options.device))).strip("_").lower()
    is_whole = not options.quick and is_usual(options.snli)
    options.out = harness.report_file(options.out, f"gpu_{name}", is_whole)
    return options


def usable_precisions(
    names: Sequence[str], transitions: list[np.ndarray], options: argparse.Namespace, device: torch.device
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Those that the encoder runs in, and why it does not run in the others."""
    usable, left_out = [], {}
    weights = encoders.weights_on(options.dim, options.tracker, device, torch.float32)
    batch = encoders.make_batch(transitions[:4], options.dim, True, device, torch.float32)
    for name in names:
        try:
            encoders.outputs(batch, weights, batch.ragged, name)
            usable.append(name)
        except TypeError as error:
            left_out[name] = str(error)
    return tuple(usable), left_out


def correctness(
    transitions: list[np.ndarray], options: argparse.Namespace, device: torch.device, names: Sequence[str]
) -> list[dict[str, Any]]:
    """The largest relative errors against the CPU in float64. Raises RuntimeError for one above its tolerance."""
    rows = []
    some = transitions[:: max(1, len(transitions) // 32)][:32]
    for tracker_dim in (0, options.tracker):
        cpu = torch.device("cpu")
        exact = encoders.make_batch(some, options.dim, bool(tracker_dim), cpu, torch.float64)
        weights = encoders.weights_on(options.dim, tracker_dim, cpu, torch.float64)
        expected = encoders.outputs(exact, weights, exact.ragged, "float32")
        for name in ("float64", *names):
            dtype = torch.float64 if name == "float64" else torch.float32
            batch = encoders.make_batch(some, options.dim, bool(tracker_dim), device, dtype)
            on_device = encoders.weights_on(options.dim, tracker_dim, device, dtype)
            for tables in ("ragged", "fixed"):
                setting = "float32" if name == "float64" else name
                got = encoders.outputs(batch, on_device, getattr(batch, tables), setting)
                error = max(map(_relative_error, got, expected))
                rows.append({"tracker": tracker_dim, "precision": name, "tables": tables, "error": error})
                if not error <= TOLERANCE[name]:
                    raise RuntimeError(f"wrong results, relative to the largest: {rows[-1]}")
    return rows


def _relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    difference = (got.detach().cpu().double() - expected.detach()).abs().max()
    return float(difference / expected.detach().abs().max().clamp(min=1e-30))


def batches_of(transitions: list[np.ndarray], size: int) -> list[list[np.ndarray]]:
    """Batches of like length, from the middles of equal parts of the sorted sentences."""
    n_copies = max(1, -(-max(POOL, N_BATCHES * size) // len(transitions)))
    lengths = np.repeat([len(codes) for codes in transitions], n_copies)
    shuffled = np.random.default_rng(0).permutation(
        len(lengths)
    )  # or a batch would be one tree many times over
    order = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    middles = [int((part + 0.5) * len(order) / N_BATCHES) for part in range(N_BATCHES)]
    starts = [min(max(middle - size // 2, 0), len(order) - size) for middle in middles]
    return [[transitions[row // n_copies] for row in order[start : start + size]] for start in starts]


def time_encoders(
    transitions: list[np.ndarray],
    options: argparse.Namespace,
    device: torch.device,
    names: Sequence[str],
    rates: measure.Rates,
    budget: measure.Budget,
) -> Iterator[list[dict[str, Any]]]:
    """Rows of each size, tracker and pass, smallest first, while there is time."""
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
    rates: measure.Rates,
) -> list[dict[str, Any]]:
    weights = encoders.weights_on(options.dim, tracker_dim, device, torch.float32)
    batches = [
        encoders.make_batch(batch, options.dim, bool(tracker_dim), device, torch.float32) for batch in made
    ]
    calls: dict[tuple[str, str], list[Callable[[], Any]]] = {}
    for batch in batches:
        for key, call in encoders.baselines(batch, weights, passes, names).items():
            calls.setdefault(key, []).append(call)
        for mode in MODES:
            for name in names:
                call = encoders.ours(batch, weights, mode, passes, name, device, options.backend)
                calls.setdefault((mode, name), []).append(call)
    together = {key: _in_turn(of_batches) for key, of_batches in calls.items()}
    seconds = measure.seconds_of(together, device)
    n_sentences = sum(map(len, made))
    rows = []
    for (mode, name), taken in seconds.items():
        floor = sum(
            encoders.floor_seconds(batch, options.dim, tracker_dim, passes, rates.flops[name], rates.bytes)
            for batch in made
        )
        kernels, launches = measure.count_kernels(calls[mode, name][1], device)
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
                "peak_bytes": None if mode == CAPTURED else measure.peak_bytes(together[mode, name], device),
            }
        )
    return rows


def _in_turn(calls: Sequence[Callable[[], Any]]) -> Callable[[], None]:
    def all_of_them() -> None:
        for call in calls:
            call()

    return all_of_them


def train_epochs(
    pairs: Pairs, options: argparse.Namespace, device: torch.device, budget: measure.Budget
) -> list[dict[str, Any]]:
    """SPINN-PI and SPINN-PI-NT in each precision, in equal shares of the time that is left."""
    rows = []
    cases = [(kind, name) for name in options.epoch_precision for kind in ("spinn-pi", "spinn-pi-nt")]
    for number, (kind, name) in enumerate(cases):
        setting = Setting(
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
            share = measure.Budget(budget.left / (len(cases) - number))
            rows.append(run_epoch(setting, pairs, device, share))
    return rows


if __name__ == "__main__":
    harness.run(main)
