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
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import candidates, dynamic, harness
from benchmarks.candidates import DYNAMIC, Tables
from benchmarks.data import Setting, add_snli, is_usual, random_transitions, settings, snli_pairs
from spinn_tensor import ForestTables, LaneTables, to_torch
from spinn_tensor.data_prep.pairs import PairFormat
from spinn_tensor.data_prep.tables import forest_tables, lane_tables
from spinn_tensor.training.hardware import keep_freed_memory

UNSHARED, SHARED, BFLOAT16 = "unshared", "shared", "shared, bfloat16"
NAMES = (DYNAMIC, UNSHARED, SHARED, BFLOAT16)
PRODUCT = "product"
PASSES = 3  # forward, and a backward of twice as many products
BFLOAT16_TOLERANCE = 0.05  # of the largest value of an output or a gradient
QUICK = {"dim": 32, "tracker": [0, 8], "batch": [8], "shuffled": 8, "limit": 8, "repeats": 1}

Trees = list[tuple[np.ndarray, Sequence[str]]]  # transitions and words


class Case(NamedTuple):
    """One batch of B sentences."""

    leaves: Tensor  # (V, 2H) states of the distinct words
    token_index: Tensor  # (L,) int64
    transitions: list[list[int]]
    unshared: Tables
    shared: Tables
    root_gradient: Tensor  # (B, H)
    weights: candidates.Weights


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = _parse(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = [
        (tracker, corpus, setting)
        for tracker in options.tracker
        for corpus, trees in _corpora(options.snli, options.quick).items()
        for setting in settings(
            sorted(trees, key=lambda tree: -len(tree[0])), options.batch, options.shuffled, options.limit
        )
    ]
    made = [
        [make_case(batch, options.dim, tracker) for batch in setting.batches] for tracker, _, setting in rows
    ]
    timed = [{name: harness.stopwatch(run) for name, run in _runs(cases).items()} for cases in made]
    seconds = harness.interleaved(timed, range(-1, options.repeats))
    summaries = [
        _summary(*row, batches, measured) for row, batches, measured in zip(rows, made, seconds, strict=True)
    ]
    notes = [
        f"H = {options.dim}; forward + backward; times dynamic batching, medians of ratios within a round"
    ]
    harness.publish(options, {"dim": options.dim, "rows": summaries}, notes, [_table(summaries)])


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = harness.argument_parser("sharing", __doc__)
    add = parser.add_argument
    add("--dim", type=int, default=300, help="hidden size")
    add("--tracker", type=int, nargs="+", default=[0, 64], help="tracker sizes, 0 for none")
    add("--batch", type=int, nargs="+", default=[128, 512], help="sizes of the batches sorted by length")
    add("--shuffled", type=int, default=128, help="size of the batches in random order")
    add("--limit", type=int, default=1024, help="sentences measured of each batch size, about")
    add("--repeats", type=int, default=7, help="recorded rounds")
    add_snli(parser, otherwise="random trees over few words")
    return harness.parse(parser, arguments, "sharing_cpu", QUICK)


def _corpora(snli: str, quick: bool) -> dict[str, Trees]:
    """Load SNLI's sentences, and each of them once; random trees over few words where the slice is not at hand."""
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


def make_case(batch: Trees, n_hidden: int, n_tracker: int) -> Case:
    """Make a batch. Raises RuntimeError where the candidates do not compute the same."""
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
    expected = _run(case, DYNAMIC)
    for name in NAMES[1:]:
        tolerance = BFLOAT16_TOLERANCE if name == BFLOAT16 else candidates.TOLERANCE
        candidates.require_close(name, _run(case, name), expected, tolerance)
    return case


def _encode(case: Case, name: str) -> Tensor:  # (B, H)
    weights = case.weights.compose, case.weights.tracker
    leaves = case.leaves
    if name in (DYNAMIC, UNSHARED):
        leaves = leaves.index_select(0, case.token_index)
    if name == DYNAMIC:
        roots = dynamic.encode_batch(leaves, case.transitions, *weights)
        return roots[:, : case.root_gradient.shape[1]]
    tables = case.unshared if name == UNSHARED else case.shared
    with torch.autocast("cpu", torch.bfloat16, enabled=name == BFLOAT16):
        return candidates.run_tables(leaves, *weights, tables)


def _run(case: Case, name: str) -> tuple[Tensor, ...]:
    """Return the root encodings, and the gradients of the distinct words' states and of all weights."""
    inputs = [case.leaves, *case.weights.spinn()]
    roots = _encode(case, name)
    return roots, *torch.autograd.grad(roots, inputs, case.root_gradient)


def _run_all(cases: Sequence[Case], name: str) -> None:
    for case in cases:
        _run(case, name)


def _runs(cases: Sequence[Case]) -> dict[str, Callable[[], object]]:
    """Return every candidate over all batches of a row, and a large product for each."""
    runs: dict[str, Callable[[], object]] = {name: partial(_run_all, cases, name) for name in NAMES}
    product = harness.product()
    runs[PRODUCT] = lambda: [product() for _ in cases]
    return runs


def products_left(tables: Tables, n_leaves: int, n_hidden: int, n_tracker: int) -> int:
    """Count the floating-point operations of the products of a forward pass over shared tables, each once."""
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
    n_tracker: int, corpus: str, setting: Setting, cases: Sequence[Case], seconds: dict[str, list[float]]
) -> dict[str, Any]:
    n_hidden = cases[0].root_gradient.shape[1]
    left = sum(products_left(case.shared, len(case.leaves), n_hidden, n_tracker) for case in cases)
    whole = sum(harness.encoder_flops(map(np.array, case.transitions), n_hidden, n_tracker) for case in cases)
    per_flop = [time / (len(cases) * harness.product_flops()) for time in seconds[PRODUCT]]
    floor = [PASSES * left * time for time in per_flop]
    return {
        "tracker": n_tracker,
        "corpus": corpus,
        "batching": setting.batching,
        "batch_size": setting.batch_size,
        "n_batches": len(cases),
        "arithmetic_left": left / whole,
        "ms_per_batch": {name: 1e3 * statistics.median(seconds[name]) / len(cases) for name in NAMES},
        "times_dynamic": {name: harness.ratio(seconds[DYNAMIC], seconds[name]) for name in NAMES},
        "shared_over_floor": harness.ratio(seconds[SHARED], floor),
        "bfloat16_times_float32": harness.ratio(seconds[SHARED], seconds[BFLOAT16]),
        "gflops_of_a_large_product": 1e-9 / statistics.median(per_flop),
        "seconds": seconds,
    }


def _table(rows: Sequence[dict[str, Any]]) -> harness.Table:
    names = ["tracker", "sentences", "batch", "dynamic, ms", *NAMES[1:], "bfloat16 / float32"]
    names += ["arithmetic left", "shared / floor of what is left"]
    cells = [
        [
            str(row["tracker"] or "–"),
            row["corpus"],
            f"{row['batch_size']} {row['batching']}",
            f"{row['ms_per_batch'][DYNAMIC]:.0f}",
            *(f"{row['times_dynamic'][name]:.2f}×" for name in NAMES[1:]),
            f"{row['bfloat16_times_float32']:.2f}×",
            f"{row['arithmetic_left']:.0%}",
            f"{row['shared_over_floor']:.2f}",
        ]
        for row in rows
    ]
    return harness.Table(names, cells, 3)


if __name__ == "__main__":
    harness.run(main)
