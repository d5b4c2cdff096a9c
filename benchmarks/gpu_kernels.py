"""Compare what may run the machine's steps on a device: what fills the table of `spinn_tensor.machine.choice`."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks import candidates
from benchmarks import gpu_cases as cases
from benchmarks.candidates import BOTH
from benchmarks.gpu_cases import CAPTURED, CAPTURED_LSTM, FIXED, LSTM
from spinn_tensor.bundles import LaneTables
from spinn_tensor.machine.choice import VARIABLE, Case

SECONDS = 20.0  # that comparing one batch takes, with the compilation of its kernels
COLUMNS = {
    "batch": "{batch_size}",
    "tracker": "{tracker}",
    "precision": "{precision}",
    "slots of a step": "{widest}",
    **{f"{name}, ms": f"{{ms[{name}]:.3f}}" for name in ("off", "cells", "steps")},
    "fastest": "{fastest}",
    "cuDNN LSTM, ms": "{lstm_ms:.3f}",
    "fastest / LSTM's": "{times_lstm:.2f}",
}


def time_kernels(
    batches: Sequence[list[np.ndarray]],  # of growing size
    options: argparse.Namespace,
    budget: cases.Budget,
) -> list[dict[str, Any]]:
    """Time captured forward + backward passes by every choice; raise RuntimeError for wrong results."""
    rows = []
    for transitions in batches:
        for tracker_dim in (0, options.tracker):
            what = f"kernels, a batch of {len(transitions)}, tracker {tracker_dim}"
            if len(options.kernels) > 1 and budget.allows(what, SECONDS):
                rows += _compare(transitions, tracker_dim, options)
    return rows


def _compare(
    transitions: list[np.ndarray], tracker_dim: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    device = torch.device(options.device)
    batch = cases.make_tree_batch(transitions, options.dim, bool(tracker_dim), device, torch.float32)
    weights = candidates.make_weights(options.dim, tracker_dim, device)
    tables = batch.tables[FIXED]
    offsets = tables.reduce_offsets if isinstance(tables, LaneTables) else tables.step_offsets
    named = {
        "capability": torch.cuda.get_device_capability(device) if device.type == "cuda" else None,
        "batch_size": len(transitions),
        "tracker": tracker_dim or None,
        "widest": int(offsets.tensor.diff().max()),
    }
    rows = []
    for name in cases.precisions(device):
        calls, expected = {}, None
        for choice in options.kernels:
            with mock.patch.dict(os.environ, {VARIABLE: choice}):
                got = cases.outputs(batch, weights, FIXED, name)
                calls[choice] = cases.ours(batch, weights, CAPTURED, BOTH, name, options.backend)
            expected = expected or got
            error = max(map(candidates.relative_error, got, expected))
            if not error <= cases.TOLERANCE[name]:
                raise RuntimeError(f"{choice} is wrong by {error:.1e} of the largest: {named}, {name}")
        lstm = cases.lstms(batch, weights, BOTH, name)[CAPTURED_LSTM]
        ms = {choice: 1e3 * taken for choice, taken in cases.seconds_of(calls | {LSTM: lstm}, device).items()}
        lstm_ms = ms.pop(LSTM)
        fastest = min(ms, key=lambda choice: ms[choice])
        of_lstm = {"lstm_ms": lstm_ms, "times_lstm": ms[fastest] / lstm_ms}
        rows.append(named | {"precision": name, "ms": ms, "fastest": fastest} | of_lstm)
    return rows


def measured(
    rows: Sequence[dict[str, Any]],  # of `time_kernels`
) -> dict[Case, tuple[tuple[str, float], ...]]:
    """Return the entries of `choice.MEASURED`: a choice holds up to the widest step that it was the fastest for."""
    found: dict[Case, list[tuple[str, float]]] = {}
    for row in sorted(rows, key=lambda row: row["widest"]):
        if row["capability"] is None:
            continue
        case = Case(row["capability"], row["precision"], row["tracker"] is not None)
        of_case = found.setdefault(case, [])
        if of_case and of_case[-1][0] == row["fastest"]:
            of_case.pop()
        of_case.append((row["fastest"], row["widest"]))
    return {case: (*choices[:-1], (choices[-1][0], math.inf)) for case, choices in found.items()}


def as_source(entries: dict[Case, tuple[tuple[str, float], ...]]) -> list[str]:
    """Write entries as `choice.py` holds them, a line each."""
    return [
        f'`Case({case.capability}, "{case.products}", {case.tracked}): '
        f"{str(choices).replace('inf', 'math.inf').replace(chr(39), chr(34))},`"
        for case, choices in entries.items()
    ]
