"""Run the numerical tests under other arithmetic than that which this processor takes by itself.

    python -m tests.portable                 every setting that the processor has, one after another
    python -m tests.portable oldest threads  these alone
    python -m tests.portable --list          the names

Torch, MKL and oneDNN read the environment once, so each setting is a pytest process of its own. Other arithmetic adds
up in another order, which stands in for processors that are not at hand. Exits with 1 if a setting failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

import torch

CAPABILITIES = ("default", "avx2", "avx512")  # of ATen's own kernels on x86, the oldest first
SETTINGS = {
    "default": {"ATEN_CPU_CAPABILITY": "default"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512"},
    "mkl": {"MKL_CBWR": "COMPATIBLE"},  # MKL's products as on a processor with SSE2
    "onednn": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "oldest": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "threads": {"OMP_NUM_THREADS": "2"},
}


def settings_here() -> dict[str, dict[str, str]]:
    """Return the settings that this processor can run: asking ATen for instructions that it lacks kills a process."""
    here = torch.backends.cpu.get_cpu_capability().lower()
    lacking = CAPABILITIES[CAPABILITIES.index(here) + 1 :] if here in CAPABILITIES else CAPABILITIES[1:]
    return {name: setting for name, setting in SETTINGS.items() if name not in lacking}


def run(setting: dict[str, str], workers: int) -> int:
    """Run the numerical tests and return pytest's exit status."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "numerical and not once and not slow and not gpu and not network",
    ]
    command += ["--numprocesses", str(workers), "--dist", "loadfile", "--no-loadscope-reorder"]
    with (
        tempfile.TemporaryDirectory() as cache
    ):  # inductor's key does not name the instructions: NaN from another's code
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": cache, **setting}
        return subprocess.run(command, env=environment, check=False).returncode


def main() -> int:
    """Run the settings that are asked for and print how each ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.portable", description=__doc__.split("\n")[0])
    parser.add_argument(
        "settings", nargs="*", metavar="SETTING", help=f"of {', '.join(SETTINGS)}; all by default"
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="test processes (default: 2)")
    parser.add_argument("--list", action="store_true", help="print what this processor can run, and stop")
    arguments = parser.parse_args()
    here = settings_here()
    if unknown := sorted(set(arguments.settings) - set(SETTINGS)):
        parser.error(f"no such setting: {', '.join(unknown)}; there are {', '.join(SETTINGS)}")
    lines, failed = [], False  # a setting that is asked for and not here has failed
    for name in arguments.settings or here:
        asked = " ".join(f"{key}={value}" for key, value in SETTINGS[name].items())
        if arguments.list or name not in here:
            lines.append(f"{name:10} {asked if name in here else 'not on this processor'}")
            failed |= name not in here
            continue
        print(f"\n{name}: {asked}", flush=True)
        start = time.monotonic()
        status = run(SETTINGS[name], arguments.workers)
        failed |= status != 0
        lines.append(
            f"{name:10} {'FAILED' if status else 'passed'} in {time.monotonic() - start:.0f} s   {asked}"
        )
    print("", *lines, sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
