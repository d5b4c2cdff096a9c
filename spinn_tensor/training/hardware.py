"""What this machine is called, how it keeps memory, and whether its GPU multiplies in TF32.

`keep_freed_memory` keeps the memory of one training step for the next: glibc maps blocks of more than 32 MB anew each
time and gives them back when freed, so that every step faults in, and the kernel clears, all of its large buffers
again: 5 to 9 % of forward + backward at B = 512, H = 300 (docs/decisions.md).
"""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # <malloc.h>
NEVER = 2**31 - 1  # bytes that may lie free before any are given back


def processor() -> str:
    """Return the CPU's name, for reports of times."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def keep_freed_memory() -> bool:
    """Have this process reuse freed memory instead of returning it; False where the C library is not glibc.

    A setting of the whole process, so for programs to make, not for importing a module to do.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, NEVER))


def multiplies_in_tf32() -> bool:
    """Tell whether this GPU can take products in TF32, and inductor goes with torch's setting of it.

    That reads torch's older setting where it tunes products, which torch refuses once the newer one is in use.
    """
    import torch

    tunes = any(os.environ.get(f"TORCHINDUCTOR_MAX_AUTOTUNE{part}", "0") == "1" for part in ("", "_GEMM"))
    return torch.cuda.is_tf32_supported() and not tunes
