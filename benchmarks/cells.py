"""Measure what a cell of plain PyTorch costs: the general loop against the hand-written TreeLSTM, and recursion.

    python -m benchmarks.cells              ten minutes
    python -m benchmarks.cells --quick      seconds, numbers without meaning

Forward and backward of the encoder, from leaf states to the gradients of leaves and weights, on batches of SNLI's
slice. The TreeLSTM runs by its hand-written steps, and as any cell by the general loop, which keeps what autograd
saves of each step (`save="all"`) or runs each step once more in the backward (`save="states"`). A gated recursive cell
runs by the latter two. Recursion, over one tree after another, is what one would write without the machine; it runs
every sixteenth sentence. Outputs and gradients are compared before anything is timed.

The peak memory is that of a new process above what it holds with weights, leaves and tables made, after a warm-up.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import candidates, harness
from benchmarks.candidates import FOREST, GIVEN
from benchmarks.data import Setting, load_sentences, random_trees, settings
from benchmarks.harness import Option
from spinn_tensor import GRC, StackMachine, Tracker, TreeLSTM
from spinn_tensor.machine.reference import walk_any

HAND_WRITTEN, ALL, STATES, RECURSION = "hand-written", 'save="all"', 'save="states"', "recursion"
TREELSTM, GATED = "TreeLSTM", "gated recursive cell"
THIN = 16  # recursion runs every so-manieth sentence of a batch
MEMORY_TOKENS = 20
OPTIONS = {
    "dim": Option(300, 8, "hidden size"),
    "tracker": Option([0, 64], [0, 4], "tracker sizes, 0 for none"),
    "batch": Option([128, 512], [8], "sizes of the batches sorted by length"),
    "shuffled": Option(128, 8, "size of the batches in random order"),
    "limit": Option(512, 8, "sentences measured of each batch size, about"),
    "repeats": Option(7, 1, "recorded rounds"),
    "no_memory": Option(False, False, "leave out the peak memory"),
}
_parse = partial(harness.parse, "cells", __doc__, options=OPTIONS, device="cpu", snli="the logic corpus")
Step = Callable[[], tuple[Tensor, ...]]  # output, gradients


class AnyTreeLSTM(TreeLSTM):
    """The TreeLSTM as any cell: of this class the machine knows nothing."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = _parse(arguments)
    harness.as_in_training()
    source, transitions = load_sentences(options.snli)
    rows = []
    for setting in settings(transitions, len, options.batch, options.shuffled, options.limit):
        for n_tracker in options.tracker:
            for cell in (TREELSTM, GATED):
                rows.append(_row(cell, n_tracker, setting, options))
                harness.say(f"{cell}, tracker {n_tracker}, {setting.batch_size} {setting.batching}")
    memory = [] if options.no_memory else _memory(options)
    notes = [f"{source}, H = {options.dim}, {options.repeats} rounds, float32"]
    result = {"sentences": source, "rows": rows, "memory": memory}
    harness.publish(options, result, notes, _tables(rows, memory))


def machines(cell: str, n_hidden: int, n_tracker: int) -> dict[str, StackMachine]:
    """Return the ways to run a cell, all with the same weights."""
    torch.manual_seed(0)
    kind = {TREELSTM: AnyTreeLSTM, GATED: GRC}[cell]
    module = kind(n_hidden, n_tracker or None)
    tracker = Tracker(n_hidden, n_tracker) if n_tracker else None
    made = {
        ALL: StackMachine(module, tracker, save="all"),
        STATES: StackMachine(module, tracker, save="states"),
    }
    if cell == TREELSTM:
        known = TreeLSTM(n_hidden, n_tracker or None)
        known.load_state_dict(module.state_dict())
        made = {HAND_WRITTEN: StackMachine(known, tracker), **made}
    return made


def _steps(cell: str, n_tracker: int, transitions: Sequence[np.ndarray], n_hidden: int) -> dict[str, Step]:
    """Return forward and backward of one batch, under each way to run it, and last by recursion."""
    kind = GIVEN if n_tracker else FOREST
    batch = candidates.make_batch(transitions, n_hidden, {kind: candidates.BUILDERS[kind]})
    ways = machines(cell, n_hidden, n_tracker)
    width = n_hidden * (2 if cell == TREELSTM else 1)
    leaves = batch.leaves.detach()[:, :width].contiguous().requires_grad_()
    general, lengths = ways[ALL], batch.lengths.tolist()

    def recursion() -> Tensor:
        words = leaves.split(lengths)
        walks = (
            walk_any(general.compose, general.tracker, *pair) for pair in zip(words, transitions, strict=True)
        )
        return torch.stack([pushed[-1] for pushed, _ in walks])[:, :n_hidden]

    def step(run: Callable[[], Tensor], machine: StackMachine) -> Step:
        return partial(candidates.with_gradients, run, [leaves, *machine.parameters()], batch.root_gradient)

    steps = {
        name: step(partial(machine, leaves, batch.tables[kind]), machine) for name, machine in ways.items()
    }
    return steps | {RECURSION: step(recursion, general)}


def _row(cell: str, n_tracker: int, setting: Setting, options: argparse.Namespace) -> dict[str, Any]:
    """Time all batches of a setting, and compare with the hand-written steps, or with what keeps all."""
    cases = []
    for transitions in setting.batches:
        steps, some = (
            _steps(cell, n_tracker, trees, options.dim) for trees in (transitions, transitions[::THIN])
        )
        first, *others = (step for name, step in steps.items() if name != RECURSION)
        for other in others:
            candidates.require_close(cell, other(), first())
        candidates.require_close(RECURSION, some[RECURSION](), some[ALL]())
        timed = {name: harness.stopwatch(step) for name, step in steps.items()}
        timed[RECURSION] = harness.stopwatch(
            some[RECURSION], scale=len(transitions) / len(transitions[::THIN])
        )
        cases.append(timed)
    seconds = harness.interleaved(cases, range(-1, options.repeats))
    keys = {
        "cell": cell,
        "tracker": n_tracker or None,
        "size": setting.batch_size,
        "batching": setting.batching,
    }
    return keys | harness.compare(seconds, next(iter(cases[0])))


def _memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    found = []
    for n_tracker in options.tracker:
        sizes = options.dim, n_tracker, max(options.batch)
        peaks = {
            name: harness.in_a_process(peak_memory, name, *sizes) / 1e6
            for name in (HAND_WRITTEN, ALL, STATES)
        }
        ratio = {name: peak / max(peaks[HAND_WRITTEN], 1e-9) for name, peak in peaks.items()}
        found.append({"tracker": n_tracker or None, "size": max(options.batch), "mb": peaks, "ratio": ratio})
    return found


def peak_memory(name: str, n_hidden: int, n_tracker: int, batch_size: int) -> int:
    """Return the bytes that forward + backward of the TreeLSTM takes at its peak; for a process of its own."""
    torch.set_num_threads(1)
    warm_up, step = (
        _steps(TREELSTM, n_tracker, random_trees(np.full(n_trees, n_tokens)), n_hidden)[name]
        for n_tokens, n_trees in ((3, 2), (MEMORY_TOKENS, batch_size))
    )
    warm_up()
    return harness.peak_of(step)


def _tables(rows: Sequence[dict[str, Any]], memory: Sequence[dict[str, Any]]) -> list[harness.Table]:
    keys = {"tracker": "{tracker}", "batch": "{size} {batching}"}
    tables = []
    for cell in (TREELSTM, GATED):
        some = [row for row in rows if row["cell"] == cell]
        title = f"{cell}, forward + backward: ms a batch, and times the first"
        tables.append(harness.Table({**keys, **harness.compared(some[0]["ratio"])}, some, 2, title))
    peaks = {name: f"{{mb[{name}]:,.0f}} ({{ratio[{name}]:.2f}}×)" for name in (HAND_WRITTEN, ALL, STATES)}
    title = f"TreeLSTM, {MEMORY_TOKENS} words a sentence: peak memory above model and inputs, MB"
    return [*tables, harness.Table({"tracker": "{tracker}", "batch": "{size}", **peaks}, memory, 2, title)]


if __name__ == "__main__":
    harness.run(main)
