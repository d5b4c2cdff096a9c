"""How many workers there are, as each can tell by files in a folder that they share, and the memory one gives back."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path

from spinn_tensor.export.serve.metrics import FOLDER

NAME = "worker_"


def announce() -> None:
    """Say to the other workers that this one is ready."""
    if FOLDER in os.environ:
        (Path(os.environ[FOLDER]) / f"{NAME}{os.getpid()}").touch()


def census() -> dict[str, int]:
    """Count the workers that are ready, and those that died."""
    if FOLDER not in os.environ:
        return {"workers": 1, "died": 0}
    pids = [int(path.name.removeprefix(NAME)) for path in Path(os.environ[FOLDER]).glob(f"{NAME}*")]
    n_alive = sum(map(_is_alive, pids))
    return {"workers": n_alive, "died": len(pids) - n_alive}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # the latter of another's, which took its number
        return False
    return True


def give_back_memory() -> bool:
    """Collect garbage and return what is free to the system, in milliseconds; False where the C library cannot."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return trim is not None and bool(trim(0))
