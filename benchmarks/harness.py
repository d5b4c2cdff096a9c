"""Measure and report, as every benchmark does: options, interleaved timing, the machine, the arithmetic floor, counted
operators, peak memory, and the report as JSON with Markdown beside it.

torch is imported where it is used, so that a process that measures its memory need not load it.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from benchmarks.data import is_usual
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import atomic_write, write_json

if TYPE_CHECKING:
    from torch.autograd.profiler_util import FunctionEvent

WHERE = (
    "{processor}, {threads} thread(s) of {cores} cores, {system}, {cpu_capability}, Python {python}, "
    "torch {torch}, NumPy {numpy}, commit {commit}, {date}, load {load_average}"
)
RESULTS = Path(__file__).parent / "results"  # the committed ones

Key = TypeVar("Key")
Result = TypeVar("Result")

PRODUCT, PRODUCT_SIZE = "product", 1024  # [1024, 1024] x [1024, 1024], which gives the machine's rate
PRODUCT_FLOPS = 2 * PRODUCT_SIZE**3

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


class Option(NamedTuple):
    """Hold one option of a benchmark; the type of its default is its type, and a list takes one or more."""

    default: Any
    quick: Any  # what --quick makes of it
    help: str = ""
    choices: Sequence[str] | None = None


class Table(NamedTuple):
    """Hold one table of a report, a row for each record."""

    columns: Mapping[
        str, str
    ]  # name -> format of a record, as "{batch_size} {batching}"; what is not there is a dash
    records: Collection[Mapping[str, Any]]
    n_left: int = 1  # columns that are aligned to the left
    title: str = ""


def parse(
    name: str,  # of the benchmark, and how the name of its committed results begins
    description: str | None,  # the module's docstring
    arguments: Sequence[str] | None,  # None: the command line's
    options: Mapping[str, Option],
    device: str = "",  # how the name of the results ends
    snli: str = "",  # what is measured on where there is no SNLI; "" for a benchmark that needs none
    fixed: Sequence[str] = (),  # options that a run must leave as they are to replace the committed results
    is_usual_otherwise: bool = True,  # whether what it reads besides is what the committed results are of
) -> argparse.Namespace:
    """Parse a benchmark's command line; `command` says it again, `out` where the report goes, None to be only printed.

    The committed results are replaced by a whole run on the usual data alone: not a quick one, and of no other data.
    """
    results = RESULTS / ("_".join(filter(None, (name, device))) + ".json")
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option, (default, _, text, choices) in options.items():
        several = isinstance(default, list)
        kind = Path if default is None else type(default[0] if several else default)
        of_kind: dict[str, Any] = {"action": "store_true"} if kind is bool else {"type": kind}
        if several:
            of_kind["nargs"] = "+"
        if choices is not None:
            of_kind["choices"] = choices
        parser.add_argument(
            "--" + option.replace("_", "-"), default=default, help=text.replace("%", "%%"), **of_kind
        )
    if snli:
        text = (
            "SNLI's snli_1.0_dev.jsonl, plain or .gz, or snli_1.0.zip, whose dev file is read; or 'random' trees "
            f"(default: auto = the slice of it that the committed results are of, if it is there, else {snli})"
        )
        parser.add_argument("--snli", "--sentences", dest="snli", default="auto", metavar="FILE", help=text)
    out = f"write the report here, and as .md beside it (default: {results.name} for a whole run, else none)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=out)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: does it run?")
    arguments = sys.argv[1:] if arguments is None else arguments
    parsed = parser.parse_args(arguments)
    is_whole = not parsed.quick and is_usual_otherwise and (not snli or is_usual(parsed.snli))
    is_whole &= all(getattr(parsed, option) == options[option].default for option in fixed)
    if parsed.out is None and is_whole:
        parsed.out = results
    if parsed.quick:
        for option, (default, quick, *_) in options.items():
            if getattr(parsed, option) == default:
                setattr(parsed, option, quick)
    parsed.command = shlex.join(["python", "-m", f"benchmarks.{name}", *arguments])
    return parsed


def publish(
    options: argparse.Namespace,  # of `parse`
    result: Mapping[str, Any],
    notes: Sequence[str],  # lines of Markdown about what was measured
    tables: Iterable[Table],
) -> None:
    """Print the report as Markdown, and where `options.out` says so write it and the numbers, whole or not at all."""
    of_machine = machine() | result.get("machine", {})
    settings = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()
    }
    parts = [
        f"`{options.command}`",
        "\n".join(f"- {line}" for line in (WHERE.format(**of_machine), *notes)),
        *(_markdown(table) for table in tables if table.records),
    ]
    text = "\n\n".join(parts) + "\n"
    print(text)
    if options.out is None:
        say("not written; --out FILE would")
        return
    beside = options.out.with_suffix(".md")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"command": options.command, "options": settings, **result, "machine": of_machine}
    write_json(options.out, report)
    with atomic_write(beside) as file:
        file.write(text)
    say(f"written: {options.out} and {beside.name} beside it")


def _cell(form: str, record: Mapping[str, Any]) -> str:
    try:
        return form.format(**{name: value for name, value in record.items() if value is not None})
    except (KeyError, TypeError):  # or what is None within
        return "–"


def _markdown(table: Table) -> str:
    rows = [[_cell(form, record) for form in table.columns.values()] for record in table.records]
    rule = ["---"] * table.n_left + ["---:"] * (len(table.columns) - table.n_left)
    lines = ["| " + " | ".join(cells) + " |" for cells in (table.columns, rule, *rows)]
    return "\n".join([f"**{table.title}**\n", *lines] if table.title else lines)


def say(text: str) -> None:
    """Print to stderr how far a benchmark is."""
    print(text, file=sys.stderr, flush=True)


def run(main: Callable[[], None]) -> None:
    """Run a benchmark as a program: data that are not there, or cannot be read, are one line on stderr and status 1."""
    try:
        main()
    except DataError as error:
        sys.exit(f"error: {error}")


def in_a_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function of a module in a new process, whose memory and imports are its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


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


def stopwatch(*functions: Callable[[], Any], scale: float = 1.0) -> Callable[[], float]:
    """Make a function that makes the same calls in turn and returns the seconds that they took, times `scale`."""

    def timed() -> float:
        start = time.perf_counter()
        for function in functions:
            function()
        return (time.perf_counter() - start) * scale

    return timed


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median over the rounds of the ratio within each round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def compare(
    batches: Sequence[Mapping[str, Sequence[float]]],  # of each batch, name -> seconds of each round
    baseline: str,
) -> dict[str, dict[str, float]]:
    """Return the milliseconds of a batch, and the ratio to the baseline within each round, both as medians."""
    seconds = {
        name: [sum(of_round) for of_round in zip(*(batch[name] for batch in batches), strict=True)]
        for name in batches[0]
    }
    return {
        "milliseconds": {name: 1e3 * statistics.median(s) / len(batches) for name, s in seconds.items()},
        "ratio": {name: ratio(s, seconds[baseline]) for name, s in seconds.items()},
    }


def time_rows(
    rows: Sequence[Mapping[str, Callable[[], float]]],  # of each row, named functions that return seconds
    flops: Sequence[float],  # of the products of each row, that no implementation can go below
    baseline: str,
    repeats: int,  # rounds that are recorded
) -> list[dict[str, Any]]:
    """Time all functions of all rows in turn, and with each row a large product, which gives the rate for its floor."""
    timed = [{PRODUCT: product()} | dict(row) for row in rows]
    measured = []
    for seconds, n_flops in zip(interleaved(timed, range(-1, repeats)), flops, strict=True):
        products = seconds.pop(PRODUCT)
        floor = [n_flops * s / PRODUCT_FLOPS for s in products]
        measured.append(
            {
                "seconds": seconds,
                "median_seconds": {name: statistics.median(s) for name, s in seconds.items()},
                "times_baseline": {name: ratio(seconds[baseline], s) for name, s in seconds.items()},
                "over_floor": {name: ratio(s, floor) for name, s in seconds.items()},
                "floor_seconds": statistics.median(floor),
                "product_gflops": PRODUCT_FLOPS / statistics.median(products) / 1e9,
            }
        )
    return measured


def compared(names: Iterable[str]) -> dict[str, str]:
    """Return the columns of a table of `compare`."""
    return {name: f"{{milliseconds[{name}]:.1f}} ({{ratio[{name}]:.2f}}×)" for name in names}


def product() -> Callable[[], float]:
    """Make a function that times one large float32 matrix product: PRODUCT_FLOPS over its seconds is the rate."""
    import torch

    left, right, result = torch.randn(3, PRODUCT_SIZE, PRODUCT_SIZE)
    timed = stopwatch(lambda: torch.mm(left, right, out=result))
    return lambda: statistics.median(timed() for _ in range(3))


def encoder_flops(transitions: Iterable[np.ndarray], n_hidden: int, n_tracker: int) -> int:
    """Count the floating-point operations of the products of one forward pass over these trees; backward takes twice
    as many.

    A REDUCE is [2H] x [2H, 5H], with a tracker [K] x [K, 5H] besides, and the tracker steps at every transition:
    [3H + K] x [3H + K, 4K]. Nothing else is counted, so that this is what no implementation of the same arithmetic can
    go below.
    """
    lengths = [len(codes) for codes in transitions]
    of_reduce = 2 * (2 * n_hidden + n_tracker) * 5 * n_hidden
    of_tracker = 2 * (3 * n_hidden + n_tracker) * 4 * n_tracker
    return sum(n // 2 for n in lengths) * of_reduce + sum(lengths) * of_tracker


def count_operators(function: Callable[[], Any]) -> int:
    """Count the operators that do work in a call, those inside custom operators, autograd Functions and backward too.

    The profiler records every operator that passes the dispatcher, nested as it was called. Counted are the innermost
    ones that compute something: an operator counts if it is none of NO_WORK (views, allocation, metadata) and nothing
    within it counts. So `linear`, which calls `addmm`, is one; a custom operator is as many as its kernel calls;
    `slice_backward` is two, a fill and a copy; and an opaque kernel is one. The second call is the one counted.
    """
    from torch.profiler import ProfilerActivity, profile

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


def peak(now: bool = False) -> int:
    """Return the highest resident bytes of this process so far, or where Linux tells the resident bytes of now."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return next(
        int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:" if now else "VmHWM:")
    )


def peak_of(step: Callable[[], Any]) -> int:
    """Return the bytes that a call takes at its peak, above what is there; for a process of its own, warmed up."""
    gc.collect()
    before = peak(now=True)
    step()
    return peak() - before


def as_in_training(n_threads: int = 1) -> bool:
    """Have this process compute and keep freed memory as `spinn train` does; return whether it can keep it."""
    import torch

    from spinn_tensor.training.hardware import keep_freed_memory

    torch.set_num_threads(n_threads)
    return keep_freed_memory()


def machine() -> dict[str, Any]:
    """Return what the numbers depend on besides the code."""
    import torch

    from spinn_tensor.training.hardware import processor

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
