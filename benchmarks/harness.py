"""How things are measured: interleaved timing, the arithmetic floor, counted operators, the machine; and reported."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import atomic_write
from spinn_tensor.training.hardware import processor

RESULTS = Path(__file__).parent / "results"  # the committed ones

Key = TypeVar("Key")

PRODUCT_SIZE = 1024  # the product that gives the machine's rate is [1024, 1024] x [1024, 1024]

# Operators that compute nothing: views, allocation and metadata. They are left out of the count of operators.
_NO_WORK = """
    alias as_strided as_strided_ broadcast_to chunk contiguous conj detach detach_ diagonal empty empty_like
    empty_permuted empty_strided expand expand_as flatten is_nonzero item _local_scalar_dense lift_fresh
    movedim narrow new_empty new_empty_strided numpy_T permute pin_memory is_pinned record_stream
    _reshape_alias reshape reshape_as resize_ resize_as_ resolve_conj resolve_neg result_type select set_
    slice split split_with_sizes squeeze squeeze_ swapaxes t t_ tensor_split to transpose transpose_ unbind
    unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze unsqueeze_ _unsafe_view view
    view_as
"""
NO_WORK = frozenset(_NO_WORK.split())
WRAPPERS = ("autograd", "torch")  # namespaces of events that only wrap operators


def argument_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """A parser of a benchmark's command line; its description is the module's docstring, line by line."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_out(parser: argparse.ArgumentParser, name: str) -> None:
    """--out; see `report_file`."""
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"write the report here as JSON, and as .md beside it (default: {RESULTS.name}/{name}.json beside the "
        "benchmarks for a whole run on the usual data; else it is only printed)",
    )


def report_file(
    out: Path | None,  # what --out says
    name: str,  # of the committed results
    is_whole: bool,  # whether the run is like the one that they are of
) -> Path | None:
    """Where the report goes; None: it is only printed. Committed results are replaced by a whole run alone."""
    return RESULTS / f"{name}.json" if out is None and is_whole else out


def publish(result: dict[str, Any], text: str, out: Path | None) -> None:
    """Print a report, and write it; see `write_report`."""
    print(text)
    write_report(result, text, out)


def write_report(
    result: dict[str, Any],
    text: str,  # Markdown
    out: Path | None,  # of `report_file`
) -> None:
    """The result as JSON, and the text as .md beside it, each whole or not at all; says on stderr where they are."""
    if out is None:
        print("not written; --out FILE would", file=sys.stderr)
        return
    write_json(out, result)
    write_text(out.with_suffix(".md"), text)
    print(f"written: {out} and {out.with_suffix('.md').name} beside it", file=sys.stderr)


def run(main: Callable[[], None]) -> None:
    """A benchmark as a program: data that are not there, or cannot be read, are one line on stderr and status 1."""
    try:
        main()
    except DataError as error:
        sys.exit(f"error: {error}")


def interleaved(
    cases: Sequence[Mapping[Key, Callable[[], float]]],  # of each case, named functions that return seconds
    rounds: Iterable[int],  # their numbers; a round below 0 warms up and is not recorded
) -> list[dict[Key, list[float]]]:  # of each case, name -> seconds of each round
    """Time every function of every case once a round, beginning with another one each round.

    What disturbs a machine for a while thus falls on all of them alike, and ratios are taken within a round.
    The garbage collector runs between cases only.
    """
    seconds: list[dict[Key, list[float]]] = [{name: [] for name in case} for case in cases]
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()  # what is alive now stays: collecting between cases is then cheap
    try:
        for round_number in rounds:
            for case, record in zip(cases, seconds, strict=True):
                names = list(case)
                first = round_number % len(names)
                gc.enable()
                gc.collect()
                gc.disable()
                for name in names[first:] + names[:first]:
                    elapsed = case[name]()
                    if round_number >= 0:
                        record[name].append(elapsed)
    finally:
        gc.unfreeze()
        (gc.enable if enabled else gc.disable)()
    return seconds


def stopwatch(function: Callable[[], Any], scale: float = 1.0) -> Callable[[], float]:
    """The same call, returning the seconds that it took, times `scale`."""

    def timed() -> float:
        start = time.perf_counter()
        function()
        return (time.perf_counter() - start) * scale

    return timed


def product() -> Callable[[], float]:
    """A function that times one large float32 matrix product: `product_flops` over its seconds is the
    machine's rate."""
    left, right = torch.randn(PRODUCT_SIZE, PRODUCT_SIZE), torch.randn(PRODUCT_SIZE, PRODUCT_SIZE)
    result = torch.empty(PRODUCT_SIZE, PRODUCT_SIZE)
    return stopwatch(lambda: torch.mm(left, right, out=result))


def product_flops() -> int:
    """Floating-point operations of `product`."""
    return 2 * PRODUCT_SIZE**3


def encoder_flops(transitions: Iterable[np.ndarray], n_hidden: int, n_tracker: int) -> int:
    """Floating-point operations of the products of one forward pass over these trees; backward takes twice as
    many.

    A REDUCE is [2H] x [2H, 5H], with a tracker [K] x [K, 5H] besides, and the tracker steps at every
    transition: [3H + K] x [3H + K, 4K]. Nothing else is counted, so that this is what no implementation of
    the same arithmetic can go below.
    """
    n_transitions = n_reduces = 0
    for codes in transitions:
        n_transitions += len(codes)
        n_reduces += len(codes) // 2
    of_reduce = 2 * (2 * n_hidden + n_tracker) * 5 * n_hidden
    of_tracker = 2 * (3 * n_hidden + n_tracker) * 4 * n_tracker
    return n_reduces * of_reduce + n_transitions * of_tracker


def count_operators(function: Callable[[], Any]) -> int:
    """Operators dispatched by a call that do work, those inside custom operators, autograd Functions and
    backward too.

    The profiler records every operator that passes the dispatcher, nested as it was called. Counted are the
    innermost ones that compute something: an operator counts if it is none of NO_WORK (views, allocation,
    metadata) and nothing within it counts. So `linear`, which calls `addmm`, is one; a custom operator is as
    many as its kernel calls; `slice_backward` is two, a fill and a copy; and an opaque kernel is one. The
    second call is the one counted.
    """
    function()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler writes two lines to stderr at every use
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        function()
    events = profiler.events()
    assert events is not None
    return sum(_working_operators(event) for event in events if event.cpu_parent is None)


def _working_operators(event: FunctionEvent) -> int:
    within = sum(_working_operators(child) for child in event.cpu_children)
    if within:
        return within
    namespace, separator, name = event.name.partition("::")
    return int(bool(separator) and namespace not in WRAPPERS and name not in NO_WORK)


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over the rounds of the ratio within each round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkl": torch.backends.mkl.is_available(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(text)


def write_json(path: Path, value: object) -> None:
    """Write a report as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")
