"""The bodies of a step by Triton's kernels with the products in them.

A step is one launch forward and two backward: the cells' gradients, then product and scatter. What was composed is
projected for the trackers by torch's product. Where products are hoisted, and for the forward of trackers wider than a
tile, it is `machine.fused` that runs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from spinn_tensor.machine import product_kernels
from spinn_tensor.machine.fused import (
    OPTIONS,
    FusedComposeBackward,
    FusedComposeForward,
    FusedTrackerBackward,
    FusedTrackerForward,
    aligned,
    is_interpreted,
)
from spinn_tensor.machine.loop import Bodies
from spinn_tensor.machine.products import takes_tf32
from spinn_tensor.machine.schedule import Compositions

FEW_SLOTS = 160  # up to which a program takes few of them, so that there are programs enough
DEPTH_BYTES = 128  # of an operand's row that a program copies at once
WIDEST_TRACKER = 128  # units of which a program holds the gates
LEAST = 16  # rows and columns of an operand of `tl.dot`


def _tile(like: Tensor, n: int, dtype: torch.dtype, is_backward: bool = False) -> dict[str, Any]:
    """Return slots, units and depth of a program, and how many warps run it: what an H200 was fastest with."""
    if is_interpreted(like):
        return {"BM": LEAST, "BD": 128, "BK": 128}
    depth = DEPTH_BYTES // dtype.itemsize
    if is_backward:
        tile = (LEAST, 32, depth, 4, 4) if n <= FEW_SLOTS else (128, 32, depth, 8, 4)
    else:
        tile = (LEAST, 32, 64, 4, 3) if n <= FEW_SLOTS else (64, 32, depth, 8, 3)
    return dict(zip(("BM", "BD", "BK", "num_warps", "num_stages"), tile, strict=True))


def _precision(dtype: torch.dtype) -> str:
    return "tf32" if dtype == torch.float32 and takes_tf32() else "ieee"


def _transposed(weight: Tensor) -> Tensor:
    """Copy a weight so that the backward's product, too, runs along its rows."""
    return aligned(weight, weight.shape[1], weight.shape[0], weight.dtype).copy_(weight.t())


def _multiply_back(
    n: int,
    grad_gates: Tensor,  # (C, G)
    slot: int,  # row of the first of n
    weight: Tensor,  # (2H + K, G), or (K, G) without children
    grad_h: Tensor | None,  # (R, H) added to
    child_index: Tensor,  # (2n,)
    grad_tracker_h: Tensor,  # (1 + A, K) added to; with K = 0 anything
    tracker_index: Tensor,  # (n,)
) -> None:
    """Multiply gradients of gates by their weight, and add the product to what the forward had read."""
    n_children, hidden_dim = (0, 1) if grad_h is None else (2, grad_h.shape[1])
    tracker_dim = weight.shape[0] - n_children * hidden_dim
    tile = _tile(weight, n, weight.dtype, is_backward=True)
    n_tiles = n_children * triton.cdiv(hidden_dim, tile["BD"]) + triton.cdiv(tracker_dim, tile["BD"])
    product_kernels.product_backward[triton.cdiv(n, tile["BM"]), n_tiles](
        grad_gates,
        weight,
        child_index,
        tracker_index,
        grad_tracker_h if grad_h is None else grad_h,
        grad_tracker_h,
        n,
        slot,
        N_CHILDREN=n_children,
        H=hidden_dim,
        K=tracker_dim,
        G=weight.shape[1],
        STRIDE=grad_gates.stride(0),
        W_STRIDE=weight.stride(0),
        PRECISION=_precision(weight.dtype),
        **tile,
        **OPTIONS,
    )


class ProductComposeForward(FusedComposeForward):
    """Make the compositions of each step in one launch."""

    def advance(self, now: Compositions) -> Tensor:
        """Compose what this step composes; return the new h."""
        if self._is_hoisted:
            return super().advance(now)
        slot, n, hidden_dim = now.slots.start, now.slots.stop - now.slots.start, self.h.shape[1]
        weight = self.weight
        tile = _tile(self.h, n, weight.dtype)
        product_kernels.compose_forward[triton.cdiv(n, tile["BM"]), triton.cdiv(hidden_dim, tile["BD"])](
            self.h,
            self.c,
            self.h if self.trackers is None else self.trackers.memory[0],
            now.child_index,
            now.child_index if now.tracker_index is None else now.tracker_index,
            weight,
            self.bias,
            self.h if self.gates.if_saved is None else self.gates.if_saved,
            n,
            self.first + slot,
            slot,
            H=hidden_dim,
            K=weight.shape[1] - 2 * hidden_dim,
            STRIDE=weight.stride(0),
            SAVE=self.gates.if_saved is not None,
            PRECISION=_precision(weight.dtype),
            **tile,
            **OPTIONS,
        )
        return self.made_h[now.slots]


class ProductComposeBackward(FusedComposeBackward):
    """Undo what `ProductComposeForward` did, step by step."""

    def _prepare(self) -> None:
        super()._prepare()
        if not self.steps.is_hoisted:
            self._weight = _transposed(self._weight)

    def _go_through_product(self, step: int) -> None:
        child_index, trackers = self.steps.child_index[step], self.trackers
        _multiply_back(
            self.steps.counts[step],
            self.grad_gates,
            self.steps.slots[step].start,
            self._weight,
            self._grad_h,
            child_index,
            self._grad_h if trackers is None else trackers.grad_memory[0],
            child_index if trackers is None else trackers.tracker_index[step],
        )


class ProductTrackerForward(FusedTrackerForward):
    """Run the trackers of all lanes through the steps, one launch each and one for what was composed."""

    def advance(self, step: int, read_index: Tensor) -> Tensor:
        """Step the trackers of all lanes that have a transition now; return their new h."""
        slot, h = self.entries[step].start, self.h_rows[step]
        n, tracker_dim = h.shape
        if tracker_dim > WIDEST_TRACKER:
            return super().advance(step, read_index)
        depth = max(LEAST, triton.next_power_of_2(tracker_dim))
        tile = {"BM": LEAST, "BD": min(32, depth), "BK": depth}
        grid = triton.cdiv(n, tile["BM"]), triton.cdiv(tracker_dim, tile["BD"])
        product_kernels.track_forward[grid](
            self.memory[0],
            self.memory[1],
            self._previous_of[step],
            self.weights.hidden,
            self.weights.bias,
            self.projections,
            read_index,
            self.memory if self.gates.if_saved is None else self.gates.if_saved,
            n,
            1 + slot,
            slot,
            K=tracker_dim,
            SAVE=self.gates.if_saved is not None,
            PRECISION=_precision(self.weights.hidden.dtype),
            **tile,
            **OPTIONS,
        )
        return h


class ProductTrackerBackward(FusedTrackerBackward):
    """Undo what `ProductTrackerForward` did, step by step."""

    def _prepare(self, counts: list[int]) -> None:
        """Make what the steps write, and arrange the weight."""
        super()._prepare(counts)
        self._hidden = _transposed(self.weights.hidden)

    def _go_through_product(self, step: int) -> None:
        grad_h, previous, slot = self.grad_memory[0], self._previous_of[step], self._entries[step].start
        _multiply_back(
            previous.shape[0], self.grad_gates, slot, self._hidden, None, previous, grad_h, previous
        )


STEPS = Bodies(ProductComposeForward, ProductComposeBackward, ProductTrackerForward, ProductTrackerBackward)
