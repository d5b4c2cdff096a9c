"""Run a Python program in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run_program(
    program: str,
    *arguments: object,
    folder: Path = ROOT,  # that it runs in
    paths: Iterable[Path] = (ROOT,),  # before everything that is installed
    stdin: str = "",
    **environment: str,
) -> str:
    """Return what a program prints that ends well."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), **environment},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
