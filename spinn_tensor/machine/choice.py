"""Choose what runs the steps of the machine: torch's operators, or Triton's kernels where measured to be faster.

`off` is torch (`loop.TORCH`), the reference, which serves every device and dtype. `cells` puts kernels around
torch's products (`machine.fused`), `steps` puts the products into kernels (`machine.fused_products`). A device that
nobody has measured runs torch, and so does a machine where Triton cannot compile its kernels, without a C compiler
for one (`toolchain`). The environment variable SPINN_KERNELS names one of them for all runs that kernels can make: of
states in float32 on CUDA, with products in float32, TF32 or bfloat16, and, where Triton interprets its kernels
(TRITON_INTERPRET=1), of states in float32 or float64 on the CPU.
"""

from __future__ import annotations

import math
import os
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from spinn_tensor.machine.loop import TORCH, Bodies
from spinn_tensor.machine.products import takes_tf32
from spinn_tensor.toolchain import runs_triton

VARIABLE = "SPINN_KERNELS"
CHOICES = ("off", "cells", "steps")


class Case(NamedTuple):
    """Name what a measurement is of."""

    capability: tuple[int, int]  # of the device
    products: str  # "float32", "tf32" or "bfloat16"
    tracked: bool


# Of each case the choices and up to which width of the widest step they are the fastest, as
# `python -m benchmarks.gpu` prints them; the last one has no bound
MEASURED: dict[Case, tuple[tuple[str, float], ...]] = {  # on an H200: benchmarks/results/gpu_nvidia_h200.md
    Case((9, 0), "float32", True): (("cells", math.inf),),
    Case((9, 0), "tf32", True): (("steps", 80), ("cells", math.inf)),
    Case((9, 0), "bfloat16", True): (("steps", math.inf),),
    Case((9, 0), "float32", False): (("cells", math.inf),),
    Case((9, 0), "tf32", False): (("cells", math.inf),),
    Case((9, 0), "bfloat16", False): (("cells", 128), ("steps", math.inf)),
}


def choose_bodies(
    states: Tensor,  # of the device and dtype of the states
    dtype: torch.dtype,  # of the products
    tracked: bool,
    widest: int,  # slots of the widest step
) -> Bodies:
    """Return what runs the steps.

    Raises:
        ValueError: for a choice that there is not.
        ImportError: where SPINN_KERNELS asks for kernels and Triton is missing.
    """
    asked = os.environ.get(VARIABLE)
    if asked is not None and asked not in CHOICES:
        raise ValueError(f"{VARIABLE}: expected one of {', '.join(CHOICES)}, got {asked!r}")
    if asked == "off" or not _can_run(states, dtype):
        return TORCH
    return _bodies(asked or _fastest(states, dtype, tracked, widest))


def _can_run(states: Tensor, dtype: torch.dtype) -> bool:
    if states.device.type == "cuda" and torch.version.hip is None:  # no GPU of AMD's, whose (9, 0) is another
        return states.dtype == torch.float32 and dtype in (torch.float32, torch.bfloat16)
    is_interpreted = states.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    return is_interpreted and states.dtype in (torch.float32, torch.float64)


def _fastest(states: Tensor, dtype: torch.dtype, tracked: bool, widest: int) -> str:
    if states.device.type != "cuda" or not runs_triton():
        return "off"
    is_tf32 = dtype == torch.float32 and takes_tf32()
    products = "tf32" if is_tf32 else str(dtype).removeprefix("torch.")
    case = Case(torch.cuda.get_device_capability(states.device), products, tracked)
    return next((choice for choice, most in MEASURED.get(case, ()) if widest <= most), "off")


@cache
def _bodies(choice: str) -> Bodies:
    if choice == "off":
        return TORCH
    from spinn_tensor.machine import fused, fused_products  # which import Triton

    return {"cells": fused.CELLS, "steps": fused_products.STEPS}[choice]
