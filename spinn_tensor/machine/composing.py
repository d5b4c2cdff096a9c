"""Which children a step multiplies by which half of the weight, and what was multiplied before the loop.

    W [h_l; h_r] = W_l h_l + W_r h_r

A child that is a leaf is multiplied before the loop, each distinct leaf once a side (`data_prep.tables.hoist`): its
products are the rows of `starts`, of which every composition sums two. In the loop a step multiplies its composed left
children by W_l and its composed right children by W_r; with tables that hoist nothing, all children at once by W. The
backward sums the gradients of all compositions that start from a leaf before they go through the weight.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spinn_tensor.bundles import ComposeWeights, HoistedLeaves
from spinn_tensor.data_prep.tables.hoist import N_FIXED_STARTS
from spinn_tensor.machine.buffers import Tables, both_children, composition_offsets, counts_of, slices_of
from spinn_tensor.machine.products import product, sum_of_outer_products, write_product
from spinn_tensor.machine.steps import sum_rows

LEFT, RIGHT, BOTH = 0, 1, 2  # halves of the compose weight


class Multiplied(NamedTuple):
    """Children that a step multiplies in one product."""

    rows: slice  # their compositions, among those of the step
    child_index: Tensor  # (m,) int64 rows of states; with BOTH (2m,), left, right, left, right, ...
    half: int  # LEFT, RIGHT or BOTH


class CompositionSteps:
    """The compositions of tables, step after step."""

    def __init__(self, tables: Tables) -> None:
        offsets = composition_offsets(tables)
        self.slots, self.counts = slices_of(offsets), counts_of(offsets)
        self.children = both_children(tables)  # (2C,)
        self.child_index = self.children.split([2 * n for n in self.counts])
        if tables.hoisted is None:
            self.multiplied = [
                [Multiplied(slice(0, n), children, BOTH)]
                for n, children in zip(self.counts, self.child_index, strict=True)
            ]
        else:
            bounds = zip(self.slots, tables.hoisted.kind_offsets.tolist(), strict=True)
            self.multiplied = [_composed_children(tables, slots, *kinds) for slots, kinds in bounds]


def _composed_children(
    tables: Tables, slots: slice, has_left: int, has_both: int, has_right: int
) -> list[Multiplied]:
    """The children of one step that are compositions: left ones, then right ones."""
    start, stop = slots.start, slots.stop
    found = []
    if has_left < has_right:
        left = tables.left_index[has_left:has_right]
        found.append(Multiplied(slice(has_left - start, has_right - start), left, LEFT))
    if has_both < stop:
        found.append(
            Multiplied(slice(has_both - start, stop - start), tables.right_index[has_both:stop], RIGHT)
        )
    return found


class Halves(NamedTuple):
    """The compose weights in the type of the products."""

    # indexed by LEFT, RIGHT, BOTH: (H, 5H), (H, 5H), (2H, 5H); in the backward (5H, H), (5H, H), (5H, 2H)
    parts: tuple[Tensor, Tensor, Tensor]
    tracker: Tensor | None  # (K, 5H), or (5H, K)

    @classmethod
    def forward(cls, weights: ComposeWeights, dtype: torch.dtype) -> Halves:
        """Transposed in memory, too: a product of few rows is up to twice as fast that way (docs/decisions.md)."""
        both, tracker = weights.weight.to(dtype).t().contiguous(), weights.tracker_weight
        left, right = both.chunk(2)
        return cls((left, right, both), None if tracker is None else tracker.to(dtype).t().contiguous())

    @classmethod
    def backward(cls, weights: ComposeWeights, dtype: torch.dtype) -> Halves:
        both, tracker = weights.weight.to(dtype), weights.tracker_weight
        left, right = both.chunk(2, 1)
        return cls((left, right, both), None if tracker is None else tracker.to(dtype))


class Starts:
    """Gates before the loop adds its products: the bias, and what is known of leaves."""

    def __init__(
        self,
        h: Tensor,  # (R, H), leaves filled in
        halves: Halves,
        bias: Tensor,  # (5H,)
        hoisted: HoistedLeaves | None,
    ) -> None:
        self._index = None
        if hoisted is not None:
            n_left, n_right = hoisted.left_leaf_index.shape[0], hoisted.right_leaf_index.shape[0]
            self._rows = h.new_empty(N_FIXED_STARTS + n_left + n_right, bias.shape[0])
            self._rows[0], self._rows[1] = bias, 0
            left, right = self._rows[N_FIXED_STARTS:].split((n_left, n_right))
            write_product(h.index_select(0, hoisted.left_leaf_index), halves.parts[LEFT], left)
            write_product(h.index_select(0, hoisted.right_leaf_index), halves.parts[RIGHT], right)
            left += bias
            self._index = hoisted.start_index
            self._offsets = torch.arange(0, 2 * self._index.shape[0], 2, device=h.device)

    def of(
        self,
        slots: slice,  # among all compositions
    ) -> Tensor | None:  # (n, 5H), the caller's to add to; None = the bias
        if self._index is None:
            return None
        return sum_rows(self._rows, self._index[slots], self._offsets[: slots.stop - slots.start])


class LeafGradients(NamedTuple):
    """Gradients of the products that were made before the loop, in their type."""

    left: Tensor  # (U_l, 5H)
    right: Tensor  # (U_r, 5H)

    @classmethod
    def collect(cls, grad_gates: Tensor, hoisted: HoistedLeaves) -> LeafGradients:
        """Sums over the compositions that start from each leaf."""
        n_left, n_right = hoisted.left_leaf_index.shape[0], hoisted.right_leaf_index.shape[0]
        if n_left + n_right == 0:
            return cls(grad_gates[:0], grad_gates[:0])
        sums = sum_rows(grad_gates, hoisted.reader_index, hoisted.reader_offsets)
        return cls(*sums.split((n_left, n_right)))

    def add_to_leaves(self, grad_h: Tensor, halves: Halves, hoisted: HoistedLeaves) -> None:
        """Back through the products to the leaves' rows of grad_h (R, H)."""
        left, right = product(self.left, halves.parts[LEFT]), product(self.right, halves.parts[RIGHT])
        grad_h.index_add_(0, hoisted.left_leaf_index, left.to(grad_h.dtype))
        grad_h.index_add_(0, hoisted.right_leaf_index, right.to(grad_h.dtype))


def weight_gradients(
    grad_gates: Tensor,  # (C, 5H) in the type of the products
    h: Tensor,  # (R, H)
    steps: CompositionSteps,
    hoisted: HoistedLeaves | None,
    leaf_gradients: LeafGradients | None,
) -> tuple[Tensor, Tensor]:  # (5H, 2H); (n, 5H), the rows whose sum is the bias's gradient
    """One product over everything that was multiplied, or one a half."""
    if hoisted is None or leaf_gradients is None:
        children = h.index_select(0, steps.children).view(-1, 2 * h.shape[1])
        return sum_of_outer_products(grad_gates, children, grad_gates.dtype), grad_gates
    parts = []
    for half, leaf_index in ((LEFT, hoisted.left_leaf_index), (RIGHT, hoisted.right_leaf_index)):
        rows, index = [leaf_gradients[half]], [leaf_index]
        for slots, multiplied in zip(steps.slots, steps.multiplied, strict=True):
            for part in multiplied:
                if part.half == half:
                    rows.append(grad_gates[slots][part.rows])
                    index.append(part.child_index)
        parts.append((torch.cat(rows), torch.cat(index)))
    dtype = grad_gates.dtype
    halves = [sum_of_outer_products(rows, h.index_select(0, index), dtype) for rows, index in parts]
    return torch.cat(halves, 1), parts[LEFT][0]  # every composition has a left child, hoisted or not
