"""How far two results of one model may lie apart that were computed in another order of the same sums.

Equality is shown in float64, by bounds of 1e-10 where the tests say so. What is float32, because a file or a command
holds float32, may differ by FLOAT32 of the largest value: 84 units in the last place, where sentences of up to 40
words differ by 9 on the processors and under the arithmetics that were tried (docs/decisions.md). Artefacts have
bounds of their own that grow with the length of a sentence: `export.parity`.
"""

from __future__ import annotations

import numpy as np
import torch

from export.parity import Tolerance

FLOAT64 = 1e-10
FLOAT32 = 1e-5  # of the largest value, or of 1 where all are smaller
FLOAT16 = 1e-3  # of values that were rounded to half precision once, which costs 5e-4
EXACT = Tolerance(FLOAT64)  # of an artefact in float64


def assert_close(
    got: np.ndarray | torch.Tensor,
    expected: np.ndarray | torch.Tensor,  # of the same shape
    bound: float = FLOAT32,
) -> None:
    """Fail where values differ by more than `bound` of the largest that is expected."""
    got, expected = (
        array.detach().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
        for array in (got, expected)
    )
    largest = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound * largest)
