"""Triton's kernels: right in the interpreter, compiled for absent devices, chosen where they were measured."""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from spinn_tensor import toolchain
from spinn_tensor.machine import choice
from spinn_tensor.machine.buffers import Tape, counts_of
from spinn_tensor.machine.choice import Case, choose_bodies
from spinn_tensor.machine.compose import CompositionSteps
from spinn_tensor.machine.loop import TORCH, run_backward, run_forward
from spinn_tensor.machine.schedule import GivenSchedule
from spinn_tensor.toolchain import Missing
from spinn_tensor.training.step import matmul_precision
from tests.machines import TABLES, random_leaves, random_transitions, random_weights

ROOT = Path(__file__).resolve().parents[1]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed (the extra kernels)"
)
TENSOR_CORES = re.compile(r"\b(mma\.sync|wgmma\.mma_async|tcgen05\.mma)")
NARROW_COPIES = re.compile(r"cp\.async\.ca\.shared\.global \[[^]]*\], \[[^]]*\], 0x4\b")  # 4 bytes at a time
SHARED_BYTES = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}  # that a block may have on A100, H100 and B200

LAUNCHED = {
    ("cells", False): {"gather_inputs", "cell_forward", "cell_backward", "scatter_inputs"},
    ("cells", True): {"gather_inputs", "cell_forward", "cell_backward", "scatter_inputs"},
    ("steps", False): {"product_forward", "cell_backward", "product_backward"},
    ("steps", True): {"product_forward", "cell_backward", "product_backward", "gather_inputs"},
}


@pytest.fixture
def batch() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [random_transitions(rng, n) for n in (1, 9, 30, 4, 17, 2, 30)]


@needs_triton
@pytest.mark.slow
def test_in_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/interpreted.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


def passes_of(
    kernels: str, tracker_dim: int | None, dtype: torch.dtype, batch
) -> tuple[Callable[[bool], Tape], Callable[[Tape], Any]]:
    """Return a forward, which may save what the backward needs, and the backward, of the published sizes."""
    leaves = random_leaves(batch, 300, torch.float32).detach()
    compose, tracker = random_weights(300, tracker_dim, torch.float32)
    compose, tracker = (
        weights and type(weights)(*(weight if weight is None else weight.detach() for weight in weights))
        for weights in (compose, tracker)
    )
    tables = TABLES["given" if tracker_dim else "forest"](batch)
    bodies = choice._bodies(kernels)

    def forward(save: bool) -> Tape:
        schedule = GivenSchedule(tables, 1 + leaves.shape[0] + tables.left_index.shape[0])
        entries = tables if tracker_dim else None
        return run_forward(leaves, compose, tracker, schedule, entries, save, dtype, bodies)

    def backward(tape: Tape) -> Any:
        grad = torch.zeros(len(batch), 300)
        return run_backward(grad, tables.root_index, compose, tracker, tables, tape, dtype, None, bodies)

    return forward, backward


def run_once(kernels: str, tracker_dim: int | None, dtype: torch.dtype, batch) -> None:
    """Run an inference, and a forward and backward."""
    forward, backward = passes_of(kernels, tracker_dim, dtype, batch)
    forward(False)
    backward(forward(True))


@needs_triton
@pytest.mark.parametrize(
    "kernels, tracker_dim, expected",
    [("cells", None, (3, 3)), ("cells", 61, (6, 6)), ("steps", None, (1, 2)), ("steps", 61, (2, 4))],
)
def test_launches_of_a_step(kernels, tracker_dim, expected) -> None:
    """Forward and backward: what longer sentences launch more, of which one or the other composes at every step."""
    from tests.launches import count_launches

    counts = []
    for n in (5, 15):
        early, late = [0, 0] + [1, 0] * (n - 2) + [1], [0, 0, 0] + [1, 0] * (n - 3) + [1, 1]
        batch = [np.array(transitions, dtype=np.int8) for transitions in (early, late)]
        forward, backward = passes_of(kernels, tracker_dim, torch.float32, batch)
        tapes: list[Tape] = []
        counts.append(
            (
                count_launches(lambda forward=forward, tapes=tapes: tapes.append(forward(True))),
                count_launches(lambda backward=backward, tapes=tapes: backward(tapes[0])),
            )
        )
    n_steps = 10 * (1 if tracker_dim is None else 2)
    assert tuple((more - less) / n_steps for less, more in zip(*counts, strict=True)) == expected


DEVICES = [
    pytest.param(
        *case, marks=[] if case[0] == 90 or case[1:] == ("steps", 61, torch.bfloat16) else [pytest.mark.slow]
    )
    for case in itertools.product(
        SHARED_BYTES, choice.CHOICES[1:], (None, 61, 64), (torch.float32, torch.bfloat16)
    )
]


@needs_triton
@pytest.mark.parametrize("capability, kernels, tracker_dim, dtype", DEVICES)
def test_compiled_without_a_device(capability, kernels, tracker_dim, dtype, batch) -> None:
    """Nothing spills, shared memory is enough, tensor cores multiply, and a kernel is one, whatever the step."""
    from tests.launches import compile_launches

    def run() -> None:
        for n in (1, 40):  # few slots in a step, and many
            run_once(kernels, tracker_dim, dtype, n * batch)

    with matmul_precision("tf32"):
        compiled = compile_launches(run, capability)
    for kernel in compiled:
        assert kernel.local_bytes() == 0, kernel[:2]
        assert kernel.shared_bytes <= SHARED_BYTES[capability], kernel[:2]
        constants = dict(kernel.constants)
        # a tracker of 61 ends within a group of 4
        is_even = kernel.kernel != "product_forward" or constants["K"] % 4 == 0 or dtype == torch.bfloat16
        assert not (is_even and NARROW_COPIES.search(kernel.ptx)), kernel[:2]
        is_product = "PRECISION" in constants
        assert is_product == bool(TENSOR_CORES.search(kernel.ptx)), kernel[:2]
    assert {kernel.kernel for kernel in compiled} == LAUNCHED[kernels, tracker_dim is not None]
    n_alignments = (
        2 if tracker_dim == 61 else 1
    )  # of c, which follows h in one memory: an odd number of numbers
    assert len(compiled) <= n_alignments * len({kernel[:2] for kernel in compiled})


@pytest.mark.parametrize("name", [name for name in TABLES if not name.startswith("own")])
def test_in_tables_that_share_nothing_a_row_has_one_reader_a_step(name, batch) -> None:
    """So that gradients which kernels add by atomics have one order, and the same bits every time."""
    tables = TABLES[name](batch)
    steps = CompositionSteps(tables)
    reads = [list(steps.child_index)]
    if hasattr(tables, "entry_offsets"):
        reads.append(tables.tracker_index.split(steps.counts))
        counts = counts_of(tables.entry_offsets)
        both = torch.stack((tables.stack2_index, tables.stack1_index), 1)  # which one launch adds to
        for index in (both, tables.buffer_index, tables.previous_index):
            reads.append(index.split(counts))
    for step in (step for of_steps in reads for step in of_steps):
        rows = step[step > 0]
        assert len(rows.unique()) == len(rows)


def on_cuda(dtype: torch.dtype = torch.float32) -> Any:
    """Stand for states on a device."""
    return SimpleNamespace(device=torch.device("cuda"), dtype=dtype)


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a machine with Triton and an H100 that was measured, and choose by name."""
    fastest = (("cells", 128), ("off", math.inf))
    monkeypatch.delenv("SPINN_KERNELS", raising=False)
    monkeypatch.setattr(choice, "_bodies", lambda name: name)
    monkeypatch.setattr(choice, "MEASURED", {Case((9, 0), "tf32", True): fastest})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(choice, "runs_triton", lambda: True)


@pytest.mark.usefixtures("h100")
def test_a_device_runs_what_was_fastest_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with matmul_precision("tf32"):
        assert choose_bodies(on_cuda(), torch.float32, True, 128) == "cells"
        assert choose_bodies(on_cuda(), torch.float32, True, 129) == "off"
        assert choose_bodies(on_cuda(), torch.float32, False, 128) == "off"
        assert choose_bodies(on_cuda(), torch.bfloat16, True, 128) == "off"
    assert choose_bodies(on_cuda(), torch.float32, True, 128) == "off"
    with matmul_precision("tf32"):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
        assert choose_bodies(on_cuda(), torch.float32, True, 128) == "off"


@pytest.mark.usefixtures("h100")
def test_where_triton_or_a_compiler_is_missing_a_device_runs_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "runs_triton", toolchain.runs_triton.__wrapped__)
    monkeypatch.setattr(toolchain, "_missing_triton", lambda: None)
    monkeypatch.setenv("CC", "/nowhere/cc")
    with matmul_precision("tf32"):
        assert choose_bodies(on_cuda(), torch.float32, True, 128) == "off"
        monkeypatch.setattr(toolchain, "_missing_c", lambda: None)
        assert choose_bodies(on_cuda(), torch.float32, True, 128) == "cells"
        monkeypatch.setattr(toolchain, "_missing_triton", lambda: Missing("Triton cannot be imported", ""))
        assert choose_bodies(on_cuda(), torch.float32, True, 128) == "off"


@pytest.mark.usefixtures("h100")
def test_a_device_of_another_maker_runs_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    with matmul_precision("tf32"):
        assert choose_bodies(on_cuda(), torch.float32, True, 128) == TORCH


@pytest.mark.usefixtures("h100")
@pytest.mark.parametrize("asked", choice.CHOICES)
def test_what_is_asked_for_is_run_where_kernels_can(asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINN_KERNELS", asked)
    expected = TORCH if asked == "off" else asked
    for products in (torch.float32, torch.bfloat16):
        assert choose_bodies(on_cuda(), products, False, 4000) == expected
    for states in (torch.float64, torch.bfloat16):
        assert choose_bodies(on_cuda(states), states, False, 4000) == TORCH


def test_the_cpu_runs_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for asked in (*choice.CHOICES, None):
        if asked is None:
            monkeypatch.delenv("SPINN_KERNELS", raising=False)
        else:
            monkeypatch.setenv("SPINN_KERNELS", asked)
        assert choose_bodies(torch.zeros(1), torch.float32, True, 100) is TORCH


def test_an_unknown_choice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINN_KERNELS", "on")
    with pytest.raises(ValueError, match=r"SPINN_KERNELS: expected one of off, cells.*, got 'on'"):
        choose_bodies(torch.zeros(1), torch.float32, True, 100)
