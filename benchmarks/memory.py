"""Peak memory of one forward + backward pass, in a process of its own.

    python -m benchmarks.memory --candidate "given transitions" --tokens 40 --batch 512 --dim 300 --tracker 64

The peak is the resident memory above that of the process with weights, leaves, index tables and transitions
in place, after a small warm-up has loaded everything that is loaded once. On Linux the kernel's high-water
mark is reset at that point (/proc/self/clear_refs); elsewhere the growth of `ru_maxrss` is taken, which is
the same unless something before has peaked higher. All trees have the same length, T = 2 tokens - 1.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def measure(
    candidate: str, n_tokens: int, batch_size: int, n_hidden: int, n_tracker: int, threads: int
) -> int:
    """Bytes, measured in a new process."""
    options = {
        "candidate": candidate,
        "tokens": n_tokens,
        "batch": batch_size,
        "dim": n_hidden,
        "tracker": n_tracker,
        "threads": threads,
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.memory", *arguments]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1])["peak_bytes"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure in this process and print the bytes as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candidate", default="given transitions")
    for name, default in (("tokens", 40), ("batch", 512), ("dim", 300), ("tracker", 64), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(arguments)
    peak = _measure_here(
        options.candidate, options.tokens, options.batch, options.dim, options.tracker, options.threads
    )
    print(json.dumps({"peak_bytes": peak}))


def _measure_here(
    name: str, n_tokens: int, batch_size: int, n_hidden: int, n_tracker: int, threads: int
) -> int:
    import numpy as np
    import torch

    from benchmarks import candidates
    from benchmarks.sentences import random_transitions

    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    weights = candidates.make_weights(n_hidden, n_tracker)
    candidate = next(c for c in candidates.make_candidates(weights) if c.name == name)
    warm_up = candidates.make_batch([random_transitions(3, rng) for _ in range(2)], n_hidden)
    batch = candidates.make_batch([random_transitions(n_tokens, rng) for _ in range(batch_size)], n_hidden)
    candidates.forward_backward(candidate, warm_up)
    gc.collect()
    _return_free_memory()
    before = _restart_peak()
    gradients = candidates.forward_backward(candidate, batch)
    highest = peak()
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    return highest - before


def _return_free_memory() -> None:
    """Give back what the allocator keeps of freed memory, or the pass would use it unseen."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _restart_peak() -> int:
    """Resident bytes now; from here on the kernel keeps a new peak, where it can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return peak()
    return peak()


def peak() -> int:
    """Highest resident bytes so far."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
