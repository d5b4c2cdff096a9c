"""What torch.compile and Triton's kernels need of a machine beside torch, looked for before a run begins.

Torch and Triton say what they miss by a traceback in the middle of their work.

    on the CPU   the C++ compiler that inductor calls: CXX, else g++ (clang++ on a Mac)
    on CUDA      Triton, and the C compiler with which it builds what launches its kernels: CC, else gcc, else clang
    on both      the headers of Python and of C, which that compiler reads

Usual runtime images have neither compiler nor headers. The rules are those of `torch._inductor.cpp_builder` (torch 2.11
to 2.15) and `triton.runtime.build` (Triton 3.6 to 3.9).
"""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from typing import NamedTuple

import torch

from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.errors import one_line

SECONDS_OF_A_LOOK = 60.0  # a compiler that takes longer to read a header is none
OLDEST_GPU = (7, 0)  # that Triton compiles for


class Missing(NamedTuple):
    """Name something that torch.compile needs and does not find."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what} ({self.remedy})"


def check_compile(device_type: str) -> None:
    """Raise ConfigError where torch.compile cannot work."""
    if (missing := missing_to_compile(device_type)) is not None:
        raise ConfigError(f"compile: {missing}")


def missing_to_compile(device_type: str) -> Missing | None:
    """Find out what torch.compile lacks on this machine, for "cpu" or "cuda"; None if nothing."""
    if device_type == "cuda" and (missing := _missing_triton()) is not None:
        return missing
    if sys.platform == "win32":
        return None  # Triton brings a compiler there, and inductor explains which one it wants
    if device_type == "cuda":
        return _missing_c()
    compiler = cpp_compiler()
    if compiler is None:
        return Missing("no C++ compiler", "apt install g++, or name one in CXX")
    return _missing_headers(compiler, "c++")


@cache
def runs_triton() -> bool:
    """Tell whether kernels can be compiled for CUDA here; looked for once a process."""
    return missing_to_compile("cuda") is None


def cpp_compiler() -> str | None:
    """Find the C++ compiler that inductor would call; None if there is none."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        return get_cpp_compiler()
    except (OSError, RuntimeError):  # CXX may name a folder; torch's own error is a RuntimeError
        return None


def _missing_triton() -> Missing | None:
    try:
        importlib.import_module("triton")
    except Exception as error:  # a broken installation may raise anything
        return Missing(f"Triton cannot be imported: {one_line(error)}", "pip install triton")
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < OLDEST_GPU:
        name = torch.cuda.get_device_name()
        return Missing(f"Triton does not know a GPU as old as {name}", "train without --compile")
    return None


def _missing_c() -> Missing | None:
    named = os.environ.get("CC")
    compiler = (shutil.which("gcc") or shutil.which("clang")) if named is None else shutil.which(named)
    if compiler is not None:
        return _missing_headers(compiler, "c")
    what = "no C compiler, which Triton needs" if named is None else f"no C compiler: CC names {named!r}"
    return Missing(what, "apt install gcc, or name one in CC")


def _missing_headers(compiler: str, language: str) -> Missing | None:
    """Have the compiler read Python.h, which includes the headers of C."""
    scheme = sysconfig.get_default_scheme()
    if scheme == "posix_local":  # Debian's, for what pip installs
        scheme = "posix_prefix"
    folder = sysconfig.get_paths(scheme)["include"]
    words = [compiler] if shutil.which(compiler) else shlex.split(compiler)  # "ccache g++"
    try:
        done = subprocess.run(
            [*words, f"-I{folder}", "-x", language, "-E", "-"],
            input="#include <Python.h>\n",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
            text=True,
            errors="replace",
            timeout=SECONDS_OF_A_LOOK,
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        return Missing(f"{compiler} does not run: {one_line(failure)}", "name another in CC or CXX")
    if done.returncode == 0:
        return None
    said = done.stderr.splitlines() or [""]
    error = next((line for line in said if "error" in line), said[0])
    what = f"{compiler} cannot read Python.h, looked for in {folder}: {one_line(error)}"
    return Missing(
        what, "apt install python3-dev libc6-dev, or the headers of this Python from where it came"
    )
