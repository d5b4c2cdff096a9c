"""Count what the machine launches, and compile it by Triton's own way from the arguments, for an absent device."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from benchmarks.harness import NO_WORK
from spinn_tensor.machine import fused, fused_products, kernels, product_kernels

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Compiled(NamedTuple):
    """Hold a kernel as it was compiled for some launches."""

    kernel: str
    constants: tuple[tuple[str, Any], ...]
    ptx: str
    cubin: bytes
    shared_bytes: int

    def local_bytes(self) -> int:
        """Return the bytes of a thread on its stack: what did not fit into registers."""
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.cubin)
            file.flush()
            command = [str(CUOBJDUMP), "--dump-resource-usage", file.name]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = {name: int(value) for name, value in re.findall(r"(STACK|LOCAL):(\d+)", said)}
        return found["STACK"] + found["LOCAL"]


class _Device:
    """Stand for the driver of a device of NVIDIA's, of a capability such as 90 for 9.0."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return self._capability  # Triton keeps kernels by device

    def get_current_stream(self, device: int) -> int:
        return 0


class _Compiler:
    """Stand for a kernel: compile a launch, and do not launch."""

    def __init__(self, name: str, kernel: Any, found: dict[str, Compiled]) -> None:
        self._name, self._kernel, self._found = name, kernel, found

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **constants: Any) -> None:
            made = self._kernel.run(*arguments, grid=grid, warmup=True, **constants)
            if made.hash not in self._found:
                asm, named = made.asm, tuple(sorted(constants.items()))
                self._found[made.hash] = Compiled(
                    self._name, named, asm["ptx"], asm["cubin"], made.metadata.shared
                )

        return launch


class _Launches(TorchDispatchMode):
    """Count what a device would be given to do: kernels, which are not run, and torch's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return self._launch

    def _launch(self, *arguments: Any, **constants: Any) -> None:
        self.n += 1

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        self.n += function.overloadpacket.__name__ not in NO_WORK
        return function(*arguments, **options or {})


def count_launches(run: Callable[[], Any]) -> int:
    """Count the launches of a run of the machine."""
    launches = _Launches()
    with pytest.MonkeyPatch.context() as patch:
        for module, name, _ in launched_kernels():
            patch.setattr(module, name, launches)
        with launches:
            run()
    return launches.n


def launched_kernels() -> list[tuple[Any, str, Any]]:
    """List the kernels that are no part of another, by module and name."""
    return [
        (module, name, kernel)
        for module in (kernels, product_kernels)
        for name, kernel in vars(module).items()
        if isinstance(kernel, triton.JITFunction) and kernel.do_not_specialize
    ]


def compile_launches(run: Callable[[], Any], capability: int) -> list[Compiled]:
    """Return all kernels that a run on CPU tensors would launch on such a device; none computes anything."""
    found: dict[str, Compiled] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "_active", _Device(capability))
        for module in (fused, fused_products):
            patch.setattr(module, "is_interpreted", lambda like: False)
        for module, name, kernel in launched_kernels():
            patch.setattr(module, name, _Compiler(name, kernel, found))
        run()
    return list(found.values())
