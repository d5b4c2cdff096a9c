"""Measure what it brings to run equal words, subtrees and beginnings once, and to multiply in bfloat16.

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

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import candidates, harness
from benchmarks.candidates import BOTH, DYNAMIC, PASSES
from benchmarks.data import Setting, is_usual, load_trees, settings
from benchmarks.harness import Option
from spinn_tensor import ForestTables, LaneTables
from spinn_tensor.data_prep.tables import forest_tables, lane_tables
from spinn_tensor.data_prep.trees import Tree

UNSHARED, SHARED, BFLOAT16 = "unshared", "shared", "shared, bfloat16"
NAMES = (DYNAMIC, UNSHARED, SHARED, BFLOAT16)
BFLOAT16_TOLERANCE = 0.05  # of the largest value of an output or a gradient
OPTIONS = {
    "dim": Option(300, 32, "hidden size"),
    "tracker": Option([0, 64], [0, 8], "tracker sizes, 0 for none"),
    "batch": Option([128, 512], [8], "sizes of the batches sorted by length"),
    "shuffled": Option(128, 8, "size of the batches in random order"),
    "limit": Option(1024, 8, "sentences measured of each batch size, about"),
    "repeats": Option(7, 1, "recorded rounds"),
}
_parse = partial(harness.parse, "sharing", __doc__, options=OPTIONS, device="cpu", snli="the logic corpus")
COLUMNS = {
    "tracker": "{tracker}",
    "sentences": "{corpus}",
    "batch": "{batch_size} {batching}",
    "dynamic, ms": "{dynamic_ms:.0f}",
    **{name: f"{{times_baseline[{name}]:.2f}}×" for name in NAMES[1:]},
    "bfloat16 / float32": "{bfloat16_times_float32:.2f}×",
    "arithmetic left": "{arithmetic_left:.0%}",
    "shared / floor of what is left": f"{{over_floor[{SHARED}]:.2f}}",
}


class Case(NamedTuple):
    """Hold one batch of B sentences."""

    batch: candidates.Batch  # with the tables of either kind
    leaves: Tensor  # (V, 2H) states of the distinct words
    token_index: Tensor  # (L,) int64
    weights: candidates.Weights


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = _parse(arguments)
    harness.as_in_training()
    source, trees = load_trees(options.snli)
    name = "slice" if is_usual(options.snli) else source
    once = {(tree.transitions.tobytes(), tree.tokens): tree for tree in trees}.values()
    rows = [
        (tracker, corpus, setting)
        for tracker in options.tracker
        for corpus, some in {name: trees, "each sentence once": once}.items()
        for setting in settings(
            some, lambda tree: len(tree.transitions), options.batch, options.shuffled, options.limit
        )
    ]
    made = [
        [make_case(batch, options.dim, tracker) for batch in setting.batches] for tracker, _, setting in rows
    ]
    timed = [
        {name: harness.stopwatch(*(partial(_run, case, name) for case in cases)) for name in NAMES}
        for cases in made
    ]
    left = [sum(map(flops_left, cases)) for cases in made]
    measured = harness.time_rows(timed, [PASSES[BOTH] * n for n in left], DYNAMIC, options.repeats)
    records = [
        _record(options.dim, *row, n_left, record)
        for row, n_left, record in zip(rows, left, measured, strict=True)
    ]
    notes = [
        f"H = {options.dim}; forward + backward; times dynamic batching, medians of ratios within a round"
    ]
    harness.publish(options, {"rows": records}, notes, [harness.Table(COLUMNS, records, 3)])


def make_case(batch: Sequence[Tree], n_hidden: int, n_tracker: int) -> Case:
    """Make a batch. Raises RuntimeError where the candidates do not compute the same."""
    distinct, token_index = np.unique([word for tree in batch for word in tree.tokens], return_inverse=True)
    build = lane_tables if n_tracker else forest_tables
    builders = {UNSHARED: build, SHARED: partial(build, leaf_index=token_index)}
    made = candidates.make_batch([tree.transitions for tree in batch], n_hidden, builders)
    leaves = made.leaves.detach()[: len(distinct)].requires_grad_()
    case = Case(made, leaves, torch.from_numpy(token_index), candidates.make_weights(n_hidden, n_tracker))
    expected = _run(case, DYNAMIC)
    for name in NAMES[1:]:
        tolerance = BFLOAT16_TOLERANCE if name == BFLOAT16 else candidates.TOLERANCE
        candidates.require_close(name, _run(case, name), expected, tolerance)
    return case


def _encode(case: Case, name: str) -> Tensor:  # (B, H)
    leaves = case.leaves
    if name in (DYNAMIC, UNSHARED):
        leaves = leaves.index_select(0, case.token_index)
    if name == DYNAMIC:
        return candidates.run_lists(leaves, case.batch, case.weights)
    tables = case.batch.tables[UNSHARED if name == UNSHARED else SHARED]
    with torch.autocast("cpu", torch.bfloat16, enabled=name == BFLOAT16):
        return candidates.run_tables(leaves, case.weights.compose, case.weights.tracker, tables)


def _run(case: Case, name: str) -> tuple[Tensor, ...]:
    """Return the root encodings, and the gradients of the distinct words' states and of all weights."""
    inputs = [case.leaves, *case.weights.spinn()]
    return candidates.with_gradients(partial(_encode, case, name), inputs, case.batch.root_gradient)


def flops_left(case: Case) -> int:
    """Count the floating-point operations of the products of a forward pass over shared tables, each once."""
    tables, n_leaves = case.batch.tables[SHARED], len(case.leaves)
    n_hidden = case.batch.root_gradient.shape[1]
    tracker = case.weights.tracker
    assert tables.hoisted is not None
    offsets = tables.step_offsets if isinstance(tables, ForestTables) else tables.reduce_offsets
    has_left, has_both, has_right = tables.hoisted.kind_offsets.tensor.t()
    n_multiplied = int((has_right - has_left).sum() + (offsets.tensor[1:] - has_both).sum())
    n_multiplied += len(tables.hoisted.left_leaf_index) + len(tables.hoisted.right_leaf_index)
    flops = n_multiplied * 2 * n_hidden * 5 * n_hidden
    if tracker is not None and isinstance(tables, LaneTables):
        n_tracker = tracker.weight_hidden.shape[1]
        n_composed, n_entries = len(tables.left_index), len(tables.previous_index)
        flops += n_composed * 2 * n_tracker * 5 * n_hidden + n_entries * 2 * n_tracker * 4 * n_tracker
        flops += (2 * n_composed + 3 * (1 + n_leaves)) * 2 * n_hidden * 4 * n_tracker
    return flops


def _record(
    n_hidden: int, n_tracker: int, corpus: str, setting: Setting, n_left: int, measured: dict[str, Any]
) -> dict[str, Any]:
    transitions = [tree.transitions for batch in setting.batches for tree in batch]
    seconds = measured["seconds"]
    return {
        "tracker": n_tracker or None,
        "corpus": corpus,
        "batching": setting.batching,
        "batch_size": setting.batch_size,
        "arithmetic_left": n_left / harness.encoder_flops(transitions, n_hidden, n_tracker),
        "dynamic_ms": 1e3 * measured["median_seconds"][DYNAMIC] / len(setting.batches),
        "bfloat16_times_float32": harness.ratio(seconds[SHARED], seconds[BFLOAT16]),
        **measured,
    }


if __name__ == "__main__":
    harness.run(main)
