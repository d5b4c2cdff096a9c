"""The machine's matrix products, perhaps in a narrower type than what they read and write (bfloat16 under autocast).

A product takes the type of its weight, which is cast once a run; states, sums, gates and gradients of states keep
theirs. On the CPU the kernel of a bfloat16 product is generated for its shape, which takes as long as dozens of
products, and few of the shapes of ragged steps come twice: the rows are therefore rounded up.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS_OF_A_COPY = 32  # that a weight multiplies in about the time in which it is copied
FEW_ROWS = 256  # up to which rows are rounded to multiples of the first number below, beyond it of the second
ROUNDED_TO = 32, 128


def takes_tf32() -> bool:
    """Tell whether products of float32 are in TF32, on a device that has it."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


def transposed(
    weight: Tensor,  # (k, m)
    n_rows: int,  # that it will multiply, in all steps
) -> Tensor:  # (m, k)
    """Return Wᵀ, on the CPU in its own memory: a product of few rows is up to twice as fast so (docs/decisions.md).

    Not for a sentence or two, for which the copy takes longer than what it saves.
    """
    copies = weight.device.type == "cpu" and n_rows >= ROWS_OF_A_COPY
    return weight.t().contiguous() if copies else weight.t()


def product(
    x: Tensor,  # (n, k)
    weight: Tensor,  # (k, m)
) -> Tensor:  # (n, m) in the type of the weight
    """Return x W in the type of the weight."""
    return _rounded(x, weight.dtype).mm(weight)[: x.shape[0]]


def write_product(
    x: Tensor,  # (n, k)
    weight: Tensor,  # (k, m)
    out: Tensor,  # (n, m) written
) -> None:
    """Write out = x W, the product in the type of the weight."""
    if out.dtype == weight.dtype:
        torch.mm(x, weight, out=out)
    else:
        out.copy_(product(x, weight))


def add_product(
    x: Tensor,  # (n, k)
    weight: Tensor,  # (k, m)
    out: Tensor,  # (n, m) added to
) -> None:
    """Add out += x W, the product in the type of the weight."""
    if out.dtype == weight.dtype:
        out.addmm_(x, weight)
    else:
        out.add_(product(x, weight))


def biased_product(
    x: Tensor,  # (n, k)
    weight: Tensor,  # (k, m)
    bias: Tensor,  # (m,)
) -> Tensor:  # (n, m) in the type of the bias
    """Return x W + b, the product in the type of the weight."""
    if bias.dtype == weight.dtype:
        return torch.addmm(bias, x, weight)
    return bias + product(x, weight)


def sum_of_outer_products(
    left: Tensor,  # (n, k)
    right: Tensor,  # (n, m)
    dtype: torch.dtype,  # of the product
) -> Tensor:  # (k, m) in the type of `right`
    """Return leftᵀ right: a weight's gradient over n rows."""
    return _rounded(left, dtype).t().mm(_rounded(right, dtype)).to(right.dtype)


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:  # (n or a few more, k), zeros below
    """Cast the rows, and round their number up where a product's kernel is generated for it."""
    n, k = x.shape
    missing = -n % ROUNDED_TO[n > FEW_ROWS]
    if dtype != torch.bfloat16 or x.device.type != "cpu" or missing == 0:
        return x.to(dtype)
    rows = x.new_empty(n + missing, k, dtype=dtype)
    rows[:n].copy_(x)
    rows[n:] = 0
    return rows
