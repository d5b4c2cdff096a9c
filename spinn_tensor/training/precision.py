"""In which arithmetic a training step multiplies matrices; all else, evaluation included, is in float32.

    float32     as is
    tf32        NVIDIA's TensorFloat-32: float32 whose factors are rounded to 10 bits of mantissa
    bfloat16    factors of 8 bits, the sums in float32 (`torch.autocast`); states, batch norm and losses are float32,
                and so are the products of words' projections, of transitions' scores and of LSTMs

Weights, gradients, optimiser and checkpoints are float32 in each of them. (cuDNN's LSTM, of the baselines, uses TF32
under all three, as it does by torch's default.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from spinn_tensor.config import ConfigError


def check_precision(precision: str, device_type: str) -> None:
    """Raises ConfigError for a precision that the device does not know."""
    if precision == "tf32" and device_type != "cuda":
        raise ConfigError(f"precision: tf32 is a way in which GPUs multiply; this run is on {device_type}")


def autocast(precision: str, device_type: str) -> AbstractContextManager[Any]:
    """For the forward pass, loss included."""
    return torch.autocast(device_type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Sets it for the whole step; torch's setting, which is the process's, is afterwards what it was.

    Under tf32 torch refuses to read its older settings, which inductor does where TORCHINDUCTOR_MAX_AUTOTUNE is set.
    """
    if precision != "tf32":
        yield
        return
    matmul = torch.backends.cuda.matmul  # not torch's older settings, which it refuses to mix with this one
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision = before
