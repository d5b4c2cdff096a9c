"""Record what kernels the machine launches, with which arguments, and compile them for a device that is not here."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from spinn_tensor.machine import fused, fused_products, kernels, product_kernels

POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64"}
INTEGERS = ("*i64",)  # tables, in which a step begins anywhere; all others begin at multiples of 16 bytes
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Launch(NamedTuple):
    """Hold all that a kernel is compiled for."""

    kernel: str
    types: tuple[str, ...]  # of the arguments that are no constants
    constants: tuple[tuple[str, Any], ...]


class _Recorder:
    """Stand for a kernel and do nothing."""

    def __init__(self, name: str, launches: set[Launch]) -> None:
        self._name, self._launches = name, launches

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, **constants: Any) -> None:
            types = (POINTERS[x.dtype] if isinstance(x, Tensor) else "i32" for x in arguments)
            self._launches.add(Launch(self._name, tuple(types), tuple(sorted(constants.items()))))

        return launch


def record(run: Callable[[], Any]) -> set[Launch]:
    """Return what is launched, in the tiles of CUDA."""
    launches: set[Launch] = set()
    with pytest.MonkeyPatch.context() as patch:
        for module in (fused, fused_products):
            patch.setattr(module, "is_interpreted", lambda like: False)
        for module in (kernels, product_kernels):
            for name, kernel in vars(module).copy().items():
                if isinstance(kernel, triton.JITFunction):
                    patch.setattr(module, name, _Recorder(name, launches))
        run()
    return launches


class Compiled(NamedTuple):
    """Hold what a compiler says of a kernel."""

    ptx: str
    shared_bytes: int
    registers: int
    local_bytes: int  # of a thread, on its stack: what did not fit into registers


def compile_for(launch: Launch, capability: int) -> Compiled:
    """Compile for NVIDIA's devices of a capability, 90 for 9.0."""
    module = product_kernels if hasattr(product_kernels, launch.kernel) else kernels
    kernel, constants = getattr(module, launch.kernel), dict(launch.constants)
    options = {name: constants.pop(name) for name in list(constants) if name not in kernel.arg_names}
    types = iter(launch.types)
    signature = {name: "constexpr" if name in constants else next(types) for name in kernel.arg_names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, kind in enumerate(signature.values())
        if kind.startswith("*") and kind not in INTEGERS
    }
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return Compiled(compiled.asm["ptx"], compiled.metadata.shared, *_resources(compiled.asm["cubin"]))


def _resources(cubin: bytes) -> tuple[int, int]:
    """Return the registers, and the bytes on the stack, of a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}
    return found["REG"], found["STACK"] + found["LOCAL"]
