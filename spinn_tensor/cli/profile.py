"""`spinn profile`: where the time of a training step goes."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from spinn_tensor.cli.arguments import CommandParser, add_device, check_outputs, choose_device, positive
from spinn_tensor.cli.report import console, plain_table, print_skipped, shorten
from spinn_tensor.cli.train import add_preset, add_run_settings, new_run, read_once
from spinn_tensor.data_prep.files import Skipped, atomic_write
from spinn_tensor.toolchain import check_compile
from spinn_tensor.training.config import RunConfig
from spinn_tensor.training.hardware import processor
from spinn_tensor.training.loop import Task, Trainer
from spinn_tensor.training.presets import without_vectors
from spinn_tensor.training.profiling import Operator, Profiler, StepProfile
from spinn_tensor.training.run import make_model
from spinn_tensor.training.step import check_precision

N_OPERATORS = 10  # that are printed
LONGEST_NAME = 60  # letters of those of kernels, which are C++ types

DESCRIPTION = """\
Builds the model and reads the data of `spinn train` with the same options, trains a few steps
and says where their time went; no run is kept. The first table has the phases of a step, from
choosing examples to new weights, of up to ten steps that torch.profiler watches: to tell them
apart the program waits for the device between them. The step's time is that of other steps,
without waits. Logging, evaluation and checkpoints are no part of it. The second table has the
most expensive operators of the watched steps, those inside the stack machine too, each with its
own time, without that of operators that it calls: for the stack machine itself that is Python's.
(On a GPU it has kernels.) Notes at the end come from measurements as well.
"""

EPILOG = """\
examples:
  spinn profile
      a step of the preset for the generated corpus, which is generated into a temporary folder

  spinn profile --corpus snli --data snli_1.0.zip --preset spinn-pi-nt --batch-size 512 --threads 1
      another preset, on SNLI; --limit 20000 would read less of it

  spinn profile --data runs/logic/corpus --compile --steps 100 --trace step.json.gz
      the compiled step, and a trace to look at on https://ui.perfetto.dev or chrome://tracing

`spinn train --help` lists the presets.
"""


def add_arguments(parser: CommandParser) -> None:
    group = parser.add_argument_group("the profile")
    add_preset(group, "`spinn presets` lists them")
    group.add_argument(
        "--steps", type=positive, default=30, metavar="N", help="steps that are timed (default: %(default)s)"
    )
    group.add_argument(
        "--warmup", type=positive, default=5, metavar="N", help="steps before them (default: %(default)s)"
    )
    group.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="write what ran when, for Chrome or Perfetto; .gz if so named",
    )
    group.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    add_device(parser)
    add_run_settings(parser, generated="a temporary folder")


def run(args: argparse.Namespace) -> int:
    notes: list[str] = []
    settings, device, skipped = new_run(args, notes.append), choose_device(args), Skipped()
    check_outputs((args.trace, args.json), settings.data.files)
    if settings.training.compile:
        check_compile(device)
    check_precision(settings.training.precision, device)
    with ExitStack() as files:  # opened first, so that a folder that is not there costs no training
        trace = None if args.trace is None else files.enter_context(atomic_write(args.trace, "wb"))
        report = None if args.json is None else files.enter_context(atomic_write(args.json))
        folder = Path(files.enter_context(tempfile.TemporaryDirectory()))
        trainer = make_trainer(settings, device, skipped)
        print_skipped(skipped)
        for note in notes:
            print(f"note: {note}")
        if (lacking := without_vectors(settings)) is not None:
            print(lacking)
        written = None if trace is None else folder / args.trace.name
        profiled = Profiler(trainer).measure(args.steps, args.warmup, written)
        if trace is not None and written is not None:
            trace.write(written.read_bytes())
        if report is not None:
            figures = {
                "run": trainer.run.to_dict(),
                "machine": _machine(device),
                "steps": args.steps,
                "warmup": args.warmup,
                **profiled._asdict(),
                "operators": [operator._asdict() for operator in profiled.operators],
            }
            json.dump(figures, report, indent=1)
            report.write("\n")
    _print(args, trainer, device, profiled)
    for path in (args.trace, args.json):
        if path is not None:
            print(f"wrote {path}")
    return 0


def make_trainer(settings: RunConfig, device: str, skipped: Skipped) -> Trainer:
    """Make what trains a new run, for steps that nobody keeps."""
    splits = read_once(settings, device, skipped)
    torch.manual_seed(settings.training.seed)
    model = make_model(settings, splits).to(device)
    task = Task(model, splits.vocabulary, splits.train, splits.dev, splits.rules)
    return Trainer(task, settings, Path(os.devnull))  # a folder that it only writes to in `fit`


def _machine(device: str) -> dict[str, Any]:
    return {
        "device": device,
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _print(args: argparse.Namespace, trainer: Trainer, device: str, profiled: StepProfile) -> None:
    out = console()
    machine, run = _machine(device), trainer.run
    unit = "pairs" if trainer.task.train.n_sides == 2 else "sentences"
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    where = machine["gpu"] or f"{machine['processor']}, {threads}"
    how = ", ".join((*(["compiled"] if run.training.compile else []), run.training.precision))
    print(f"{run.preset}: {args.steps} steps of {run.training.batch_size} {unit}, {how}")
    print(f"{where}; torch {machine['torch']}, Python {machine['python']}")
    out.print(_phase_table(profiled))
    memory = "of the GPU" if device == "cuda" else "of the program"
    print(
        f"a step undisturbed: {profiled.step_ms:,.2f} ms, "
        f"{profiled.examples_per_second:,.0f} {unit}/s; memory {memory}: "
        f"{_megabytes(profiled.bytes_before)} before the first step, at most {_megabytes(profiled.peak_bytes)}"
    )
    out.print(_operator_table(profiled, device == "cuda"))
    for hint in profiled.hints:
        print(f"note: {hint}")


def _phase_table(profiled: StepProfile) -> Table:
    table = plain_table("phase of a step", "ms", "share")
    total = sum(profiled.phases_ms.values())
    for name, milliseconds in {**profiled.phases_ms, "sum": total}.items():
        if name == "sum":
            table.add_section()
        table.add_row(name, f"{milliseconds:,.2f}", f"{milliseconds / total:.1%}")
    return table


def _operator_table(profiled: StepProfile, of_gpu: bool) -> Table:
    what, kind = ("kernels", "GPU") if of_gpu else ("operators", "CPU")
    rest = profiled.operators[N_OPERATORS:]
    sums = [sum(figures) for figures in zip(*(one[1:] for one in rest), strict=True)]
    others = [Operator(f"{len(rest)} others", *sums)] if rest else []
    rows = [
        (
            shorten(one.name, LONGEST_NAME),
            f"{one.ms_a_step:,.2f}",
            f"{one.share:.1%}",
            f"{one.calls_a_step:,.0f}",
        )
        for one in [*profiled.operators[:N_OPERATORS], *others]
    ]
    return plain_table(f"most expensive {what}", f"{kind} ms a step", "share", "calls a step", rows=rows)


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.0f} MB"
