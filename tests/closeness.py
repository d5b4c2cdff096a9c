"""Say how far results of one model may lie apart that were computed in another order of the same sums.

Equality is shown in float64, by bounds of 1e-10 where the tests say so. What is float32, because a file or a command
holds float32, may differ by what `export.parity` allows artefacts, which says why.
"""

from __future__ import annotations

import numpy as np
import torch

from spinn_tensor.export.parity import TOLERANCES, Tolerance

FLOAT64 = 1e-10
FLOAT32 = TOLERANCES["float32"].at(16)  # 1.1e-5, for sentences of up to 16 words
FLOAT16 = 1e-3  # of values that were rounded to half precision once, which costs 5e-4
EXACT = Tolerance(FLOAT64)  # of an artefact in float64


def assert_close(
    got: np.ndarray | torch.Tensor,
    expected: np.ndarray | torch.Tensor,  # of the same shape
    bound: float = FLOAT32,
) -> None:
    """Fail where values differ by more than `bound` of the largest that is expected, or of 1 where all are smaller."""
    got, expected = (
        array.detach().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
        for array in (got, expected)
    )
    largest = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound * largest)
