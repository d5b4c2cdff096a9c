"""Less arithmetic: what it brings to run equal words, subtrees and beginnings once, and to multiply in bfloat16.

    python -m benchmarks.sharing                    some minutes
    python -m benchmarks.sharing --quick            seconds, numbers without meaning

Timed is the encoder's forward + backward (gradients of the states of the distinct words, and of all weights), from
the states of the distinct words of the batch, on SNLI's slice. Its premises come three times each, as SNLI's do, and
sorting by length brings equal ones together; so the same is timed on its sentences taken once each. Every candidate
computes the same, which is checked before anything is timed:

    dynamic batching    one stack an example, in Python lists; every token has a row of its own
    unshared            ours, every token by itself
    shared              ours, what is equal once (`share="states"`)
    shared, bfloat16    the same with its products under autocast

The floor is the arithmetic of the products that are left, at the rate of a large float32 product of the same round.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from benchmarks import candidates, dynamic, harness
from benchmarks.sentences import add_snli, is_usual, random_transitions, snli_pairs
from spinn_tensor import ForestTables, LaneTables, run_forest, run_given, to_torch
from spinn_tensor.data_prep.pairs import PairFormat
from spinn_tensor.data_prep.tables import forest_tables, lane_tables
from spinn_tensor.training.hardware import keep_freed_memory

UNSHARED, SHARED, BFLOAT16 = "unshared", "shared", "shared, bfloat16"
NAMES = (candidates.DYNAMIC, UNSHARED, SHARED, BFLOAT16)
NAME = "sharing_cpu"  # of the results
PRODUCT = "product"
PASSES = 3  # forward, and a backward of twice as many products
BFLOAT16_TOLERANCE = 0.05  # of the largest value of an output or a gradient

Trees = list[tuple[np.ndarray, Sequence[str]]]  # transitions and words


class Case(NamedTuple):
    """One batch of B sentences."""

    leaves: Tensor  # (V, 2H) states of the distinct words
    token_index: Tensor  # (L,) int64
    transitions: list[list[int]]
    unshared: ForestTables | LaneTables
    shared: ForestTables | LaneTables
    root_gradient: Tensor  # (B, H)
    weights: candidates.Weights


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    cases = [
        (tracker, corpus, batching, size, batches)
        for tracker in options.tracker
        for corpus, trees in _corpora(options.snli, options.quick).items()
        for batching, size, batches in _settings(trees, options)
    ]
    made = [[_case(batch, options.dim, case[0]) for batch in case[4]] for case in cases]
    timed = [{name: harness.stopwatch(run) for name, run in _runs(row).items()} for row in made]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        rounds = progress.track(range(-1, options.repeats), description="timing")
        seconds = harness.interleaved(timed, rounds)
    rows = [
        _summary(*case[:4], row, of_rounds) for case, row, of_rounds in zip(cases, made, seconds, strict=True)
    ]
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.sharing", *arguments]),
        "machine": harness.machine(),
        "dim": options.dim,
        "rows": rows,
    }
    harness.publish(result, _markdown(result), options.out)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = harness.argument_parser("benchmarks.sharing", __doc__)
    add = parser.add_argument
    add("--dim", type=int, default=300, help="hidden size")
    add("--tracker", type=int, nargs="+", default=[0, 64], help="tracker sizes, 0 for none")
    add("--batch", type=int, nargs="+", default=[128, 512], help="sizes of the batches sorted by length")
    add("--shuffled", type=int, default=128, help="size of the batches in random order")
    add("--limit", type=int, default=1024, help="sentences measured of each batch size, about")
    add("--repeats", type=int, default=7, help="recorded rounds")
    add_snli(parser, otherwise="random trees over few words")
    harness.add_out(parser, NAME)
    add("--quick", action="store_true", help="tiny sizes and one round: does it run?")
    options = parser.parse_args(arguments)
    options.out = harness.report_file(options.out, NAME, not options.quick and is_usual(options.snli))
    if options.quick:
        options.dim, options.tracker, options.batch, options.shuffled = 32, [0, 8], [8], 8
        options.limit, options.repeats = 8, 1
    return options


def _corpora(snli: str, quick: bool) -> dict[str, Trees]:
    """SNLI's sentences, and each of them once; random trees over few words where the slice is not at hand."""
    if quick or (snli == "auto" and not is_usual(snli)):
        rng = np.random.default_rng(0)
        lengths = rng.integers(1, 12 if quick else 40, 64 if quick else 1024)
        return {"random": [(random_transitions(int(n), rng), list(rng.integers(0, 20, n))) for n in lengths]}
    pairs = snli_pairs(snli, PairFormat(require_label=False))
    trees: Trees = [
        (tree.transitions, tree.tokens) for pair in pairs for tree in (pair.premise, pair.hypothesis)
    ]
    once: Trees = list({(codes.tobytes(), tuple(words)): (codes, words) for codes, words in trees}.values())
    return {"slice" if snli == "auto" else Path(snli).name: trees, "each sentence once": once}


def _settings(trees: Trees, options: argparse.Namespace) -> list[tuple[str, int, list[Trees]]]:
    by_length = sorted(trees, key=lambda tree: -len(tree[0]))
    shuffled = [trees[i] for i in np.random.default_rng(0).permutation(len(trees))]
    orders = [("sorted", size, by_length) for size in options.batch] + [
        ("shuffled", options.shuffled, shuffled)
    ]
    found = []
    for batching, size, order in orders:
        cut = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
        count = min(len(cut), max(1, options.limit // size))
        found.append((batching, size, [cut[int((part + 0.5) * len(cut) / count)] for part in range(count)]))
    return found


def _case(batch: Trees, n_hidden: int, n_tracker: int) -> Case:
    generator = torch.Generator().manual_seed(1)
    flat = np.concatenate([codes for codes, _ in batch]).astype(np.int8)
    lengths = np.array([len(words) for _, words in batch])
    distinct, token_index = np.unique([word for _, words in batch for word in words], return_inverse=True)
    leaves = 0.5 * torch.randn(len(distinct), 2 * n_hidden, generator=generator)
    build = lane_tables if n_tracker else forest_tables
    case = Case(
        leaves=leaves.requires_grad_(),
        token_index=torch.from_numpy(token_index),
        transitions=[codes.tolist() for codes, _ in batch],
        unshared=to_torch(build(flat, lengths)),
        shared=to_torch(build(flat, lengths, leaf_index=token_index)),
        root_gradient=torch.randn(len(batch), n_hidden, generator=generator),
        weights=candidates.make_weights(n_hidden, n_tracker),
    )
    _check(case)
    return case


def _encode(case: Case, name: str) -> Tensor:  # (B, H)
    weights = case.weights
    if name == candidates.DYNAMIC:
        leaves = case.leaves.index_select(0, case.token_index)
        roots = dynamic.encode_batch(leaves, case.transitions, weights.compose, weights.tracker)
        return roots[:, : case.root_gradient.shape[1]]
    leaves = case.leaves.index_select(0, case.token_index) if name == UNSHARED else case.leaves
    tables = case.unshared if name == UNSHARED else case.shared
    with torch.autocast("cpu", torch.bfloat16, enabled=name == BFLOAT16):
        if isinstance(tables, ForestTables):
            return run_forest(leaves, weights.compose, tables)
        return run_given(leaves, weights.compose, weights.tracker, tables)


def _gradients(case: Case, name: str) -> tuple[Tensor, ...]:
    inputs = [case.leaves, *case.weights.spinn()]
    return torch.autograd.grad(_encode(case, name), inputs, case.root_gradient)


def _all_gradients(row: Sequence[Case], name: str) -> None:
    for case in row:
        _gradients(case, name)


def _check(case: Case) -> None:
    """Refuse to time what is wrong. Raises RuntimeError."""
    expected = (_encode(case, candidates.DYNAMIC), *_gradients(case, candidates.DYNAMIC))
    for name in NAMES[1:]:
        tolerance = BFLOAT16_TOLERANCE if name == BFLOAT16 else candidates.TOLERANCE
        for got, right in zip((_encode(case, name), *_gradients(case, name)), expected, strict=True):
            difference = (got - right).detach().abs().max()
            if not difference <= tolerance * right.detach().abs().max():
                raise RuntimeError(f"{name}: off by {float(difference):.1e}")


def _runs(row: Sequence[Case]) -> dict[str, Callable[[], object]]:
    """Every candidate over all batches of a row, and a large product for each."""
    runs: dict[str, Callable[[], object]] = {name: partial(_all_gradients, row, name) for name in NAMES}
    product = harness.product()
    runs[PRODUCT] = lambda: [product() for _ in row]
    return runs


def products_left(
    tables: ForestTables | LaneTables,
    n_leaves: int,
    n_hidden: int,
    n_tracker: int,
) -> int:
    """Floating-point operations of the products of a forward pass over shared tables, each counted where it is made."""
    assert tables.hoisted is not None
    offsets = tables.step_offsets if isinstance(tables, ForestTables) else tables.reduce_offsets
    has_left, has_both, has_right = tables.hoisted.kind_offsets.t()
    n_multiplied = int((has_right - has_left).sum() + (offsets[1:] - has_both).sum())
    n_multiplied += len(tables.hoisted.left_leaf_index) + len(tables.hoisted.right_leaf_index)
    flops = n_multiplied * 2 * n_hidden * 5 * n_hidden
    if isinstance(tables, LaneTables):
        n_composed, n_entries = len(tables.left_index), len(tables.previous_index)
        flops += n_composed * 2 * n_tracker * 5 * n_hidden + n_entries * 2 * n_tracker * 4 * n_tracker
        flops += (2 * n_composed + 3 * (1 + n_leaves)) * 2 * n_hidden * 4 * n_tracker
    return flops


def _summary(
    n_tracker: int,
    corpus: str,
    batching: str,
    size: int,
    row: Sequence[Case],
    seconds: dict[str, list[float]],
) -> dict[str, Any]:
    n_hidden = row[0].root_gradient.shape[1]
    left = sum(products_left(case.shared, len(case.leaves), n_hidden, n_tracker) for case in row)
    whole = sum(harness.encoder_flops(map(np.array, case.transitions), n_hidden, n_tracker) for case in row)
    per_flop = [time / (len(row) * harness.product_flops()) for time in seconds[PRODUCT]]
    floor = [PASSES * left * time for time in per_flop]
    dynamic_seconds = seconds[candidates.DYNAMIC]
    return {
        "tracker": n_tracker,
        "corpus": corpus,
        "batching": batching,
        "batch_size": size,
        "n_batches": len(row),
        "arithmetic_left": left / whole,
        "ms_per_batch": {name: 1e3 * statistics.median(seconds[name]) / len(row) for name in NAMES},
        "times_dynamic": {name: harness.ratio(dynamic_seconds, seconds[name]) for name in NAMES},
        "shared_over_floor": harness.ratio(seconds[SHARED], floor),
        "bfloat16_times_float32": harness.ratio(seconds[SHARED], seconds[BFLOAT16]),
        "gflops_of_a_large_product": 1e-9 / statistics.median(per_flop),
        "seconds": seconds,
    }


def _markdown(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"`{result['command']}`",
        "",
        f"- {machine['processor']}, 1 thread, torch {machine['torch']}, {machine['cpu_capability']}, "
        f"commit {machine['commit']}, {machine['date']}, load {machine['load_average']}",
        f"- H = {result['dim']}; forward + backward; times dynamic batching, medians of ratios within a round",
        "",
        "| tracker | sentences | batch | dynamic, ms | unshared | shared | shared, bfloat16 "
        "| bfloat16 / float32 | arithmetic left | shared / floor of what is left |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        times = row["times_dynamic"]
        lines.append(
            f"| {row['tracker'] or '–'} | {row['corpus']} | {row['batch_size']} {row['batching']} "
            f"| {row['ms_per_batch'][candidates.DYNAMIC]:.0f} | {times[UNSHARED]:.2f}× | {times[SHARED]:.2f}× "
            f"| {times[BFLOAT16]:.2f}× | {row['bfloat16_times_float32']:.2f}× | {row['arithmetic_left']:.0%} "
            f"| {row['shared_over_floor']:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    harness.run(main)
