"""Run `spinn` as torchrun starts it, and say how many of gloo's threads are left, which could abort Python at its end.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.parting train …

A rank 0 that does not end well stays until torchrun ends it.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from spinn_tensor.cli.main import main
from spinn_tensor.training import distributed
from tests.processes import HANGS


def n_gloo_threads() -> int:
    """Return how many of them this process has; Linux alone tells."""
    n = 0
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # it ended meanwhile
            n += "gloo" in path.read_text()
    return n


def n_left() -> int:
    """Return how many stay; one that was waited for is listed for a moment still."""
    end = time.monotonic() + HANGS
    while n_gloo_threads() and time.monotonic() < end:
        time.sleep(0.01)
    return n_gloo_threads()


if __name__ == "__main__":
    rank, tell_torchrun = os.environ["RANK"], distributed._tell_torchrun

    def tell_and_stay(error: Exception) -> None:
        tell_torchrun(error)
        if rank == "0":
            time.sleep(HANGS)

    distributed._tell_torchrun = tell_and_stay
    status = main()
    print(f"rank {rank}: {n_left()} threads left", flush=True)
    sys.exit(status)
