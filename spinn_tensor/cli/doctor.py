"""`spinn doctor`: what is installed, and what of it would not work."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.table import Table

from spinn_tensor.cli.arguments import CommandParser
from spinn_tensor.cli.report import console

if TYPE_CHECKING:
    from spinn_tensor.export.doctor import Facts

DESCRIPTION = """\
Looks at this machine: versions, what torch and onnxruntime are built for and find here,
CUDA's libraries, threads and cores, what torch.compile needs. Says of each problem what to do. Exit
status 1 where something would fail, such as onnxruntime and onnxruntime-gpu installed
side by side, or a CUDA library that is missing; 0 where something is only slower or absent.
"""

EPILOG = """\
examples:
  spinn doctor
  spinn doctor && spinn export runs/snli --format onnx --output exported/snli
"""


def add_arguments(parser: CommandParser) -> None:
    """Add no argument: the doctor looks at all there is."""


def run(args: argparse.Namespace) -> int:
    from spinn_tensor.export.doctor import gather, problems

    facts = gather()
    out = console()
    out.print(_table(facts))
    found = problems(facts)
    for problem in found:
        out.print(f"{'problem' if problem.breaks else 'note'}: {problem.what}", soft_wrap=True)
        out.print(f"    do: {problem.remedy}", soft_wrap=True)
    if not found:
        out.print("no problem found")
    return int(any(problem.breaks for problem in found))


def _table(facts: Facts) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("Python", f"{facts.python}, {facts.platform}")
    for name, version in facts.versions.items():
        table.add_row(name, version or "-")
    gpu = "sees a GPU" if facts.torch_sees_gpu else "sees no GPU"
    table.add_row("torch's CUDA", f"{facts.torch_cuda or 'none, built for the CPU'}; {gpu}")
    table.add_row("onnxruntime's CUDA", facts.onnxruntime_cuda or "none")
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in facts.providers)
    table.add_row(
        "its providers", f"{providers} (built in; a session may not get them)" if providers else "-"
    )
    table.add_row("NVIDIA driver", "there" if facts.has_driver else "none")
    table.add_row("cores, torch's threads", f"{facts.n_cores}, {facts.n_threads}")
    table.add_row("C++ compiler", facts.compiler or "none")
    return table
