"""The bodies of a step by Triton's kernels with the products in them.

A step of the compositions or of the trackers is one launch forward and two backward: the cells' gradients, then
product and scatter. Where products are hoisted it is `machine.fused` that runs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime import driver

from spinn_tensor.machine import product_kernels
from spinn_tensor.machine.fused import (
    CHILDREN,
    OPTIONS,
    READS,
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
from spinn_tensor.machine.tracker import Reads

FEW_SLOTS = 160  # up to which a program takes few of them, so that there are programs enough
LEAST = 16  # rows and columns of an operand of `tl.dot`
NAMES = "BM", "BD", "BK", "num_warps", "num_stages"
# By pass, whether slots are few, and bytes of a number of the products: slots, units, depth, warps, stages. A program
# waits for memory longer than it multiplies; these were the fastest of a dozen each on an H200 (docs/decisions.md)
TILES = {
    ("forward", True, 4): (LEAST, 16, 64, 2, 4),
    ("forward", True, 2): (LEAST, 16, 64, 4, 6),
    ("forward", False, 4): (64, 16, 32, 4, 4),
    ("forward", False, 2): (64, 16, 64, 4, 4),
    ("backward", True, 4): (LEAST, 32, 32, 4, 8),
    ("backward", True, 2): (LEAST, 32, 64, 4, 8),
    ("backward", False, 4): (64, 64, 32, 4, 4),
    ("backward", False, 2): (64, 64, 64, 4, 4),
}
BLACKWELL = 100  # where the backward's tile of many slots would not fit into registers
ON_BLACKWELL = {("backward", False, 4): (64, 32, 32, 8, 3), ("backward", False, 2): (64, 32, 64, 8, 3)}


def _tile(which: str, like: Tensor, n: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return slots, units and depth of a program, how many warps run it and how many stages are on their way."""
    if is_interpreted(like):
        return {"BM": LEAST, "BD": 128, "BK": 128}
    key = which, n <= FEW_SLOTS, dtype.itemsize
    of_device = ON_BLACKWELL if driver.active.get_current_target().arch >= BLACKWELL else {}
    return dict(zip(NAMES, of_device.get(key, TILES[key]), strict=True))


def _precision(dtype: torch.dtype) -> str:
    return "tf32" if dtype == torch.float32 and takes_tf32() else "ieee"


def _transposed(weight: Tensor) -> Tensor:
    """Copy a weight so that the backward's product, too, runs along its rows."""
    return aligned(weight, weight.shape[1], weight.shape[0], weight.dtype).copy_(weight.t())


def _multiply_back(
    n: int,
    grad_gates: Tensor,  # (C, G)
    slot: int,  # row of the first of n
    weight: Tensor,  # (2H + K, G)
    grad_h: Tensor,  # (R, H) added to
    child_index: Tensor,  # (n, 2), pairs `every` apart
    every: int,
    grad_tracker_h: Tensor | None,  # (1 + A, K) added to
    tracker_index: Tensor | None,  # (n,)
) -> None:
    """Multiply gradients of gates by their weight, and add the product to what the forward had read."""
    hidden_dim = grad_h.shape[1]
    tracker_dim = weight.shape[0] - 2 * hidden_dim
    tile = _tile("backward", weight, n, weight.dtype)
    n_tiles = 2 * triton.cdiv(hidden_dim, tile["BD"]) + triton.cdiv(tracker_dim, tile["BD"])
    product_kernels.product_backward[triton.cdiv(n, tile["BM"]), n_tiles](
        grad_gates,
        weight,
        child_index,
        child_index if tracker_index is None else tracker_index,
        grad_h,
        grad_h if grad_tracker_h is None else grad_tracker_h,
        n,
        slot,
        EVERY=every,
        H=hidden_dim,
        K=tracker_dim,
        G=weight.shape[1],
        STRIDE=grad_gates.stride(0),
        W_STRIDE=weight.stride(0),
        PRECISION=_precision(weight.dtype),
        **tile,
        **OPTIONS,
    )


def _step_forward(
    n: int,
    h: Tensor,  # (R, H) of the machine
    tracker_h: Tensor | None,  # (1 + A, K)
    child_index: Tensor,  # (n, 2), pairs `every` apart
    every: int,
    tracker_index: Tensor | None,  # (n,)
    weight: Tensor,  # (G D, 2H + K)
    bias: Tensor,  # (G D,)
    memory: Tensor,  # (2, R, D) written
    first: int,  # row of the first state of the step
    c_index: Tensor,  # ((G - 3) n,)
    gates: Tensor | None,  # (C, G D)
    slot: int,  # row of the gates of that state
    words: Tensor | None = None,  # (1 + L, G D) projections
    word_index: Tensor | None = None,  # (n,), `every` apart
) -> None:
    """Run one step in one launch."""
    (new_h, c), width = memory.unbind(0), memory.shape[2]
    tile = _tile("forward", h, n, weight.dtype)
    product_kernels.product_forward[triton.cdiv(n, tile["BM"]), triton.cdiv(width, tile["BD"])](
        h,
        h if tracker_h is None else tracker_h,
        child_index,
        child_index if tracker_index is None else tracker_index,
        weight,
        bias,
        h if words is None else words,
        c_index if word_index is None else word_index,
        new_h,
        c,
        c_index,
        h if gates is None else gates,
        n,
        first,
        slot,
        H=h.shape[1],
        K=weight.shape[1] - 2 * h.shape[1],
        D=width,
        G=bias.shape[0] // width,
        STRIDE=weight.stride(0),
        EVERY=every,
        READS=words is not None,
        SAVE=gates is not None,
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
        slot, n = now.slots.start, now.slots.stop - now.slots.start
        tracker_h = None if self.trackers is None else self.trackers.memory[0]
        children, first, saved = now.child_index, self.first + slot, self.gates.if_saved
        _step_forward(
            n, self.h, tracker_h, children, CHILDREN, now.tracker_index, self.weight, self.bias, self.memory, first,
            children, saved, slot,
        )  # fmt: skip
        return self.made_h[now.slots]


class ProductComposeBackward(FusedComposeBackward):
    """Undo what `ProductComposeForward` did, step by step."""

    def _prepare(self) -> None:
        super()._prepare()
        if not self.steps.is_hoisted:
            self._weight = _transposed(self._weight)

    def _go_through_product(self, step: int) -> None:
        child_index, trackers, slot = (
            self.steps.child_index[step],
            self.trackers,
            self.steps.slots[step].start,
        )
        grad_tracker_h = None if trackers is None else trackers.grad_memory[0]
        tracker_index = None if trackers is None else trackers.tracker_index[step]
        _multiply_back(
            self.steps.counts[step], self.grad_gates, slot, self._weight, self._grad_h, child_index, CHILDREN,
            grad_tracker_h, tracker_index,
        )  # fmt: skip


class ProductTrackerForward(FusedTrackerForward):
    """Run the trackers of all lanes through the steps, one launch each."""

    def advance(self, step: int, reads: Reads) -> Tensor:
        """Step the trackers of all lanes that have a transition now; return their new h."""
        slot, h, previous = self.entries[step].start, self.h_rows[step], self.previous_of[step]
        rows = reads.rows(step).flatten()
        _step_forward(
            h.shape[0], self.machine_h, self.memory[0], rows, READS, previous, self.weight, self.weights.bias,
            self.memory, 1 + slot, previous, self.gates.if_saved, slot, self.words, rows[CHILDREN:],
        )  # fmt: skip
        return h


class ProductTrackerBackward(FusedTrackerBackward):
    """Undo what `ProductTrackerForward` did, step by step."""

    def _prepare(self, counts: list[int], reduce_counts: list[int]) -> None:
        super()._prepare(counts, reduce_counts)
        self._transposed = _transposed(self.weight)

    def _go_through_product(self, step: int) -> None:
        previous, slot = self.previous_of[step], self.entries[step].start
        _multiply_back(
            previous.shape[0], self.grad_gates, slot, self._transposed, self.grad_h, self.read_of[step], READS,
            self.grad_memory[0], previous,
        )  # fmt: skip


STEPS = Bodies(ProductComposeForward, ProductComposeBackward, ProductTrackerForward, ProductTrackerBackward)
