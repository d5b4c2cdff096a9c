"""Whole steps of the machine in Triton, as `spinn_tensor.machine.fused_products` launches them.

A program makes all gates of some units of some slots, so that they meet in registers: rows are gathered by their
numbers straight into the product's operand, the cell follows it, and nothing in between is written. Backward, the
gradients of the gates are multiplied by the weight, and the columns of the product added to the rows that they belong
to. Weights lie so that products run along their rows, (gates, inputs), and backward (inputs, gates): wgmma has TF32 so
alone, and otherwise they would be copied 4 bytes at a time. Products are in the type of the weight, TF32 if PRECISION
says so, and summed in the type of the states. The rest is as in `spinn_tensor.machine.kernels`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from spinn_tensor.machine.kernels import of_steps, sigmoid, tanh


@triton.jit
def multiply(x, w, ok, total, PRECISION: tl.constexpr):
    """Add x W to a tile."""
    return tl.dot(x, tl.load(w, mask=ok, other=0), total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def multiply_gates(x, w, ok, a, i, f, f2, o, GATE: tl.constexpr, G: tl.constexpr, PRECISION: tl.constexpr):
    """Add x W to the tiles of all gates."""
    x = x.to(w.dtype.element_ty)
    a = multiply(x, w, ok, a, PRECISION)
    i = multiply(x, w + GATE, ok, i, PRECISION)
    f = multiply(x, w + 2 * GATE, ok, f, PRECISION)
    if G == 5:
        f2 = multiply(x, w + 3 * GATE, ok, f2, PRECISION)
    return a, i, f, f2, multiply(x, w + (G - 1) * GATE, ok, o, PRECISION)


@of_steps
def product_forward(
    h,  # (R, H) of the machine
    tracker_h,  # (1 + A, K)
    child_index,  # (n, 2) rows of h, pairs EVERY apart
    tracker_index,  # (n,) rows of tracker_h
    w,  # (G D, 2H + K), rows STRIDE apart, zeros between, in the type of the products
    bias,  # (G D,)
    words,  # (1 + L, G D) projections
    word_index,  # (n,) rows of them, EVERY apart, to be added
    new_h,  # (R, D) written in rows first, first + 1, ...; of compositions h itself, of trackers tracker_h
    c,  # (R, D) written there, and read in the rows of `c_index`
    c_index,  # ((G - 3) n,) what the forget gates multiply
    gates,  # (C, G D) written from row `slot` on, activated
    n,
    first,
    slot,
    H: tl.constexpr,
    K: tl.constexpr,  # 0 without trackers
    D: tl.constexpr,
    G: tl.constexpr,  # gates: 5, or 4 of the trackers
    STRIDE: tl.constexpr,
    EVERY: tl.constexpr,
    READS: tl.constexpr,  # whether there are words
    SAVE: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
    BK: tl.constexpr,
):
    """Gather, multiply, run the cells and write: the compositions of one step, or its trackers.

    One loop goes through all that a slot reads, so that the copies of later tiles are on their way all the time, and
    another one through the trackers where their rows do not begin at multiples of 16 bytes. What is read beyond the
    end of an operand's row is zero, and what of the weight it meets is finite.
    """
    GATE: tl.constexpr = D * STRIDE
    TILES: tl.constexpr = (H + BK - 1) // BK
    TRACKER_TILES: tl.constexpr = (K + BK - 1) // BK
    TOGETHER: tl.constexpr = K % 4 == 0
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    unit = tl.program_id(1) * BD + tl.arange(0, BD)
    depth = tl.arange(0, BK)
    live, inside = row < n, unit < D
    ok = live[:, None] & inside[None, :]
    left = h + tl.load(child_index + EVERY * row, mask=live, other=0) * H
    right = h + tl.load(child_index + EVERY * row + 1, mask=live, other=0) * H
    tracker = tracker_h + tl.load(tracker_index + row, mask=live, other=0) * K
    w += unit[None, :] * STRIDE
    zero = tl.zeros((BM, BD), dtype=bias.dtype.element_ty)
    a = zero + tl.load(bias + unit, mask=inside, other=0)[None, :]
    i = zero + tl.load(bias + D + unit, mask=inside, other=0)[None, :]
    f = zero + tl.load(bias + 2 * D + unit, mask=inside, other=0)[None, :]
    f2 = zero
    if G == 5:
        f2 += tl.load(bias + 3 * D + unit, mask=inside, other=0)[None, :]
    o = zero + tl.load(bias + (G - 1) * D + unit, mask=inside, other=0)[None, :]
    for tile in range(2 * TILES + (TRACKER_TILES if TOGETHER else 0)):
        part = tl.minimum(tile // TILES, 2)
        k = (tile - part * TILES) * BK + depth
        source, width = tl.where(part == 0, left, right), H
        if K > 0 and TOGETHER:
            source, width = tl.where(part == 2, tracker, source), tl.where(part == 2, K, H)
        if H % 4 == 0:
            source = tl.multiple_of(source, 16)  # bytes, which Triton does not see of a choice of pointers
        x = tl.load(source[:, None] + k[None, :], mask=live[:, None] & (k < width)[None, :], other=0)
        column = (part * H + k)[:, None]
        some = (column < STRIDE) & inside[None, :]
        a, i, f, f2, o = multiply_gates(x, w + column, some, a, i, f, f2, o, GATE, G, PRECISION)
    if not TOGETHER:
        for tile in range(TRACKER_TILES):
            k = tile * BK + depth
            x = tl.load(tracker[:, None] + k[None, :], mask=live[:, None] & (k < K)[None, :], other=0)
            column = (2 * H + k)[:, None]
            some = (column < STRIDE) & inside[None, :]
            a, i, f, f2, o = multiply_gates(x, w + column, some, a, i, f, f2, o, GATE, G, PRECISION)
    if READS:
        word = (
            words + tl.load(word_index + EVERY * row, mask=live, other=0)[:, None] * (G * D) + unit[None, :]
        )
        a += tl.load(word, mask=ok, other=0)
        i += tl.load(word + D, mask=ok, other=0)
        f += tl.load(word + 2 * D, mask=ok, other=0)
        o += tl.load(word + 3 * D, mask=ok, other=0)
    a, i, f, o = tanh(a), sigmoid(i), sigmoid(f), sigmoid(o)
    source = tl.load(c_index + (G - 3) * row, mask=live, other=0)
    new_c = a * i + f * tl.load(c + source[:, None] * D + unit[None, :], mask=ok, other=0)
    gates += (slot + row).to(tl.int64)[:, None] * (G * D) + unit[None, :]
    if G == 5:
        f2 = sigmoid(f2)
        source = tl.load(c_index + 2 * row + 1, mask=live, other=0)
        new_c += f2 * tl.load(c + source[:, None] * D + unit[None, :], mask=ok, other=0)
        if SAVE:
            tl.store(gates + 3 * D, f2, mask=ok)
    own = (first + row).to(tl.int64)[:, None] * D + unit[None, :]
    tl.store(c + own, new_c, mask=ok)
    tl.store(new_h + own, o * tanh(new_c), mask=ok)
    if SAVE:
        tl.store(gates, a, mask=ok)
        tl.store(gates + D, i, mask=ok)
        tl.store(gates + 2 * D, f, mask=ok)
        tl.store(gates + (G - 1) * D, o, mask=ok)


@of_steps
def product_backward(
    grad_gates,  # (C, G) read from row `slot` on, rows STRIDE apart
    w,  # (2H + K, G), rows W_STRIDE apart, in the type of the products
    child_index,  # (n, 2), pairs EVERY apart
    tracker_index,  # (n,)
    grad_h,  # (R, H) added to
    grad_tracker_h,  # (1 + A, K) added to
    n,
    slot,
    EVERY: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
    G: tl.constexpr,  # 5H, or 4K of the trackers
    STRIDE: tl.constexpr,
    W_STRIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
    BK: tl.constexpr,
):
    """Multiply the gradients of one step's gates, and add to what it read, null rows excepted."""
    TILES: tl.constexpr = (H + BD - 1) // BD
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    live = row < n
    part = tl.minimum(tl.program_id(1) // TILES, 2)
    unit = (tl.program_id(1) - part * TILES) * BD + tl.arange(0, BD)
    inside = unit < tl.where(part == 2, K, H)
    grad_gates += (slot + row).to(tl.int64)[:, None] * STRIDE
    w += (part * H + unit)[None, :] * W_STRIDE
    total = tl.zeros((BM, BD), dtype=grad_h.dtype.element_ty)
    for start in range(0, G, BK):
        k = start + tl.arange(0, BK)
        x = tl.load(grad_gates + k[None, :], mask=live[:, None] & (k < G)[None, :], other=0)
        some = (k < G)[:, None] & inside[None, :]
        total = multiply(x, w + k[:, None], some, total, PRECISION)
    if part < 2:
        target = tl.load(child_index + EVERY * row + part, mask=live, other=0)
        ok = (target > 0)[:, None] & inside[None, :]
        tl.atomic_add(grad_h + target[:, None] * H + unit[None, :], total, mask=ok, sem="relaxed")
    else:
        target = tl.load(tracker_index + row, mask=live, other=0)
        ok = (target > 0)[:, None] & inside[None, :]
        tl.atomic_add(grad_tracker_h + target[:, None] * K + unit[None, :], total, mask=ok, sem="relaxed")
