"""The products of the compose weight with children: those made in the loop, and those hoisted out of it.

    W [h_l; h_r] = W_l h_l + W_r h_r

A product with a leaf is hoisted, that is, made before the loop, once for each distinct leaf and side
(`data_prep.tables.sharing`): `HoistedProducts` holds the rows, of which every composition sums two. In the loop a step
multiplies its composed left children by W_l and its composed right children by W_r; with tables that hoist nothing,
all children at once by W. The backward sums the gradients of all compositions that start from a leaf before they go
through the weight.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spinn_tensor.bundles import ComposeWeights, HoistedLeaves
from spinn_tensor.data_prep.tables.sharing import N_FIXED_STARTS
from spinn_tensor.machine.buffers import Tables, both_children, composition_offsets, counts_of, slices_of
from spinn_tensor.machine.cell import sum_rows
from spinn_tensor.machine.products import product, sum_of_outer_products, transposed, write_product

LEFT, RIGHT, BOTH = 0, 1, 2  # matrices of the compose weight


class StepProduct(NamedTuple):
    """Say which children a step multiplies in one product."""

    rows: slice  # their compositions, among those of the step
    child_index: Tensor  # (m,) int64 rows of states; with BOTH (2m,), left, right, left, right, ...
    half: int  # LEFT, RIGHT or BOTH


class CompositionSteps:
    """List the compositions of tables step after step."""

    def __init__(self, tables: Tables) -> None:
        offsets = composition_offsets(tables)
        self.slots, self.counts = slices_of(offsets), counts_of(offsets)
        self.children = both_children(tables)  # (2C,)
        self.child_index = self.children.split([2 * n for n in self.counts])
        self.is_hoisted = tables.hoisted is not None
        if tables.hoisted is None:
            self.products = [
                [StepProduct(slice(0, n), children, BOTH)]
                for n, children in zip(self.counts, self.child_index, strict=True)
            ]
        else:
            bounds = zip(self.slots, tables.hoisted.kind_offsets.tolist(), strict=True)
            self.products = [_composed_children(tables, slots, *kinds) for slots, kinds in bounds]


def _composed_children(
    tables: Tables, slots: slice, has_left: int, has_both: int, has_right: int
) -> list[StepProduct]:
    """Return the products of one step with children that are compositions: left ones, then right ones."""
    start, stop = slots.start, slots.stop
    found = []
    if has_left < has_right:
        left = tables.left_index[has_left:has_right]
        found.append(StepProduct(slice(has_left - start, has_right - start), left, LEFT))
    if has_both < stop:
        found.append(
            StepProduct(slice(has_both - start, stop - start), tables.right_index[has_both:stop], RIGHT)
        )
    return found


class ComposeMatrices(NamedTuple):
    """Hold the compose weights as the loop multiplies by them, in the type of the products."""

    # indexed by LEFT, RIGHT, BOTH: (H, 5H), (H, 5H), (2H, 5H); in the backward (5H, H), (5H, H), (5H, 2H)
    parts: tuple[Tensor, Tensor, Tensor]
    tracker: Tensor | None  # (K, 5H), or (5H, K)

    @classmethod
    def forward(
        cls,
        weights: ComposeWeights,
        dtype: torch.dtype,
        n_rows: int,  # compositions of the run
    ) -> ComposeMatrices:
        """Transpose the weights, in the way that is fastest to multiply by."""
        both, tracker = transposed(weights.weight.to(dtype), n_rows), weights.tracker_weight
        left, right = both.chunk(2)
        return cls((left, right, both), None if tracker is None else transposed(tracker.to(dtype), n_rows))

    @classmethod
    def backward(cls, weights: ComposeWeights, dtype: torch.dtype) -> ComposeMatrices:
        """Leave them as they are, since the backward multiplies by the transposed ones."""
        both, tracker = weights.weight.to(dtype), weights.tracker_weight
        left, right = both.chunk(2, 1)
        return cls((left, right, both), None if tracker is None else tracker.to(dtype))


class HoistedProducts:
    """Multiply the leaves before the loop: what the gates of a composition start from, with the bias."""

    def __init__(
        self,
        h: Tensor,  # (R, H), leaves filled in
        matrices: ComposeMatrices,
        bias: Tensor,  # (5H,)
        hoisted: HoistedLeaves | None,
    ) -> None:
        self._index = None
        if hoisted is not None:
            n_left, n_right = hoisted.left_leaf_index.shape[0], hoisted.right_leaf_index.shape[0]
            self._rows = h.new_empty(N_FIXED_STARTS + n_left + n_right, bias.shape[0])
            self._rows[0], self._rows[1] = bias, 0
            left, right = self._rows[N_FIXED_STARTS:].split((n_left, n_right))
            write_product(h.index_select(0, hoisted.left_leaf_index), matrices.parts[LEFT], left)
            write_product(h.index_select(0, hoisted.right_leaf_index), matrices.parts[RIGHT], right)
            left += bias
            self._index = hoisted.start_index
            self._offsets = torch.arange(0, 2 * self._index.shape[0], 2, device=h.device)

    def of(
        self,
        slots: slice,  # among all compositions
    ) -> Tensor | None:  # (n, 5H), the caller's to add to; None = the bias alone
        """Return what the gates of these compositions start from."""
        if self._index is None:
            return None
        return sum_rows(self._rows, self._index[slots], self._offsets[: slots.stop - slots.start])


class LeafGradients(NamedTuple):
    """Hold the gradients of the products that were made before the loop, in their type."""

    left: Tensor  # (U_l, 5H)
    right: Tensor  # (U_r, 5H)

    @classmethod
    def collect(cls, grad_gates: Tensor, hoisted: HoistedLeaves) -> LeafGradients:
        """Sum over the compositions that start from each leaf."""
        n_left, n_right = hoisted.left_leaf_index.shape[0], hoisted.right_leaf_index.shape[0]
        if n_left + n_right == 0:
            return cls(grad_gates[:0], grad_gates[:0])
        sums = sum_rows(grad_gates, hoisted.reader_index, hoisted.reader_offsets)
        return cls(*sums.split((n_left, n_right)))

    def add_to_leaves(self, grad_h: Tensor, matrices: ComposeMatrices, hoisted: HoistedLeaves) -> None:
        """Go back through the products, adding to the leaves' rows of grad_h (R, H)."""
        left, right = product(self.left, matrices.parts[LEFT]), product(self.right, matrices.parts[RIGHT])
        grad_h.index_add_(0, hoisted.left_leaf_index, left.to(grad_h.dtype))
        grad_h.index_add_(0, hoisted.right_leaf_index, right.to(grad_h.dtype))


def weight_gradients(
    grad_gates: Tensor,  # (C, 5H) in the type of the products
    h: Tensor,  # (R, H)
    steps: CompositionSteps,
    hoisted: HoistedLeaves | None,
    leaf_gradients: LeafGradients | None,
) -> tuple[Tensor, Tensor]:  # (5H, 2H); (n, 5H), the rows whose sum is the bias's gradient
    """Return the weight's gradient from one product over all steps, or with hoisted leaves from one a half."""
    if hoisted is None or leaf_gradients is None:
        children = h.index_select(0, steps.children).view(-1, 2 * h.shape[1])
        return sum_of_outer_products(grad_gates, children, grad_gates.dtype), grad_gates
    parts = []
    for half, leaf_index in ((LEFT, hoisted.left_leaf_index), (RIGHT, hoisted.right_leaf_index)):
        rows, index = [leaf_gradients[half]], [leaf_index]
        for slots, products in zip(steps.slots, steps.products, strict=True):
            for part in products:
                if part.half == half:
                    rows.append(grad_gates[slots][part.rows])
                    index.append(part.child_index)
        parts.append((torch.cat(rows), torch.cat(index)))
    dtype = grad_gates.dtype
    halves = [sum_of_outer_products(rows, h.index_select(0, index), dtype) for rows, index in parts]
    return torch.cat(halves, 1), parts[LEFT][0]  # every composition has a left child, hoisted or not
