"""Run a Python program in a process of its own, or a function in a fork of this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
HANGS = 600  # seconds after which what is waited for will not come any more, however busy the machine

finds_processes = pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes by /proc")


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


def forked(function: Callable[[], int]) -> subprocess.Popen[bytes]:
    """Start a function that returns a status, such as a command's main, in a process with all that is loaded here.

    It has pipes and one thread, since OpenMP's threads are not in a fork and are waited for, and trains nothing: torch
    has no gradients in a fork where there is a GPU. One that hangs is ended.
    """

    def run() -> NoReturn:
        status = 1
        try:
            os.closerange(3, 1 << 16)  # also the pipe by whose end Popen knows that it has begun
            sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", 1)
            signal.alarm(HANGS)
            torch.set_num_threads(1)
            status = function()
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    pipe = subprocess.PIPE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12's, of threads
        return subprocess.Popen(
            [sys.executable],
            preexec_fn=run,
            restore_signals=False,  # Python ignores SIGPIPE
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
        )
