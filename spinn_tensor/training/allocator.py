"""Keep the memory of one training step for the next.

glibc maps blocks of more than 32 MB anew each time and gives them back when freed, so that every step faults in, and
the kernel clears, all of its large buffers again: 5 to 9 % of forward + backward at B = 512, H = 300
(docs/decisions.md).
"""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # <malloc.h>
NEVER = 2**31 - 1  # bytes that may lie free before any are given back


def keep_freed_memory() -> bool:
    """Have this process reuse freed memory instead of returning it; False where the C library is not glibc.

    A setting of the whole process, so for programs to make, not for importing a module to do.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, NEVER))
