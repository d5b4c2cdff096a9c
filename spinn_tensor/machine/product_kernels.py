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


@of_steps
def compose_forward(
    h,  # (R, H) read in the rows of the children, written in rows first, first + 1, ...
    c,  # (R, H) the same
    tracker_h,  # (1 + A, K)
    child_index,  # (2n,)
    tracker_index,  # (n,)
    w,  # (5H, 2H + K), rows STRIDE apart, in the type of the products
    bias,  # (5H,)
    gates,  # (C, 5H) written from row `slot` on, activated
    n,
    first,
    slot,
    H: tl.constexpr,
    K: tl.constexpr,  # 0 without trackers
    STRIDE: tl.constexpr,
    SAVE: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
    BK: tl.constexpr,
):
    """Gather, multiply, run the cells and write: the compositions of one step."""
    GATE: tl.constexpr = H * STRIDE
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    unit = tl.program_id(1) * BD + tl.arange(0, BD)
    live, inside = row < n, unit < H
    ok = live[:, None] & inside[None, :]
    left = tl.load(child_index + 2 * row, mask=live, other=0)
    right = tl.load(child_index + 2 * row + 1, mask=live, other=0)
    zero = tl.zeros((BM, BD), dtype=bias.dtype.element_ty)
    a = zero + tl.load(bias + unit, mask=inside, other=0)[None, :]
    i = zero + tl.load(bias + H + unit, mask=inside, other=0)[None, :]
    f_left = zero + tl.load(bias + 2 * H + unit, mask=inside, other=0)[None, :]
    f_right = zero + tl.load(bias + 3 * H + unit, mask=inside, other=0)[None, :]
    o = zero + tl.load(bias + 4 * H + unit, mask=inside, other=0)[None, :]
    for side in tl.static_range(2):
        child = left if side == 0 else right
        for start in range(0, H, BK):
            k = start + tl.arange(0, BK)
            x = tl.load(h + child[:, None] * H + k[None, :], mask=live[:, None] & (k < H)[None, :], other=0)
            x = x.to(w.dtype.element_ty)
            at = w + unit[None, :] * STRIDE + (side * H + k)[:, None]
            some = (k < H)[:, None] & inside[None, :]
            a = multiply(x, at, some, a, PRECISION)
            i = multiply(x, at + GATE, some, i, PRECISION)
            f_left = multiply(x, at + 2 * GATE, some, f_left, PRECISION)
            f_right = multiply(x, at + 3 * GATE, some, f_right, PRECISION)
            o = multiply(x, at + 4 * GATE, some, o, PRECISION)
    if K > 0:
        tracker = tl.load(tracker_index + row, mask=live, other=0)
        for start in range(0, K, BK):
            k = start + tl.arange(0, BK)
            x = tl.load(
                tracker_h + tracker[:, None] * K + k[None, :], mask=live[:, None] & (k < K)[None, :], other=0
            )
            x = x.to(w.dtype.element_ty)
            at = w + unit[None, :] * STRIDE + (2 * H + k)[:, None]
            some = (k < K)[:, None] & inside[None, :]
            a = multiply(x, at, some, a, PRECISION)
            i = multiply(x, at + GATE, some, i, PRECISION)
            f_left = multiply(x, at + 2 * GATE, some, f_left, PRECISION)
            f_right = multiply(x, at + 3 * GATE, some, f_right, PRECISION)
            o = multiply(x, at + 4 * GATE, some, o, PRECISION)
    c_left = tl.load(c + left[:, None] * H + unit[None, :], mask=ok, other=0)
    c_right = tl.load(c + right[:, None] * H + unit[None, :], mask=ok, other=0)
    a, i, f_left, f_right, o = tanh(a), sigmoid(i), sigmoid(f_left), sigmoid(f_right), sigmoid(o)
    new_c = a * i + f_left * c_left + f_right * c_right
    own = (first + row).to(tl.int64)[:, None] * H + unit[None, :]
    tl.store(c + own, new_c, mask=ok)
    tl.store(h + own, o * tanh(new_c), mask=ok)
    if SAVE:
        gates += (slot + row).to(tl.int64)[:, None] * (5 * H) + unit[None, :]
        tl.store(gates, a, mask=ok)
        tl.store(gates + H, i, mask=ok)
        tl.store(gates + 2 * H, f_left, mask=ok)
        tl.store(gates + 3 * H, f_right, mask=ok)
        tl.store(gates + 4 * H, o, mask=ok)


@of_steps
def product_backward(
    grad_gates,  # (C, G) read from row `slot` on, rows STRIDE apart
    w,  # (N_CHILDREN H + K, G), rows W_STRIDE apart, in the type of the products
    child_index,  # (N_CHILDREN n,)
    tracker_index,  # (n,)
    grad_h,  # (R, H) added to
    grad_tracker_h,  # (1 + A, K) added to
    n,
    slot,
    N_CHILDREN: tl.constexpr,
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
    part = tl.minimum(tl.program_id(1) // TILES, N_CHILDREN)
    unit = (tl.program_id(1) - part * TILES) * BD + tl.arange(0, BD)
    inside = unit < tl.where(part == N_CHILDREN, K, H)
    grad_gates += (slot + row).to(tl.int64)[:, None] * STRIDE
    w += (part * H + unit)[None, :] * W_STRIDE
    total = tl.zeros((BM, BD), dtype=grad_h.dtype.element_ty)
    for start in range(0, G, BK):
        k = start + tl.arange(0, BK)
        x = tl.load(grad_gates + k[None, :], mask=live[:, None] & (k < G)[None, :], other=0)
        some = (k < G)[:, None] & inside[None, :]
        total = multiply(x, w + k[:, None], some, total, PRECISION)
    if part < N_CHILDREN:
        target = tl.load(child_index + N_CHILDREN * row + part, mask=live, other=0)
        ok = (target > 0)[:, None] & inside[None, :]
        tl.atomic_add(grad_h + target[:, None] * H + unit[None, :], total, mask=ok, sem="relaxed")
    else:
        target = tl.load(tracker_index + row, mask=live, other=0)
        ok = (target > 0)[:, None] & inside[None, :]
        tl.atomic_add(grad_tracker_h + target[:, None] * K + unit[None, :], total, mask=ok, sem="relaxed")


@triton.jit
def read_up(total, word, top, second, ok):
    """Add what the trackers read to one gate."""
    total += tl.load(second, mask=ok, other=0)
    total += tl.load(top, mask=ok, other=0)
    return total + tl.load(word, mask=ok, other=0)


@of_steps
def track_forward(
    h,  # (1 + A, K) read in the rows of `c_index`, written in rows first, first + 1, ...
    c,  # (1 + A, K) the same
    c_index,  # (n,) the same lane's entry before
    w,  # (4K, K)
    bias,  # (4K,)
    rows,  # (P, 4K) projections, in the type of the products
    read_index,  # (3n,) of them: second entry, top, word
    gates,  # (A, 4K) written from row `slot` on, activated
    n,
    first,
    slot,
    K: tl.constexpr,
    SAVE: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
    BK: tl.constexpr,  # all of K at once
):
    """Step the trackers of all lanes."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    unit = tl.program_id(1) * BD + tl.arange(0, BD)
    k = tl.arange(0, BK)
    live, inside = row < n, unit < K
    ok = live[:, None] & inside[None, :]
    previous = tl.load(c_index + row, mask=live, other=0)
    x = tl.load(h + previous[:, None] * K + k[None, :], mask=live[:, None] & (k < K)[None, :], other=0)
    at = w + unit[None, :] * K + k[:, None]
    some = (k < K)[:, None] & inside[None, :]
    second = rows + tl.load(read_index + 3 * row, mask=live, other=0)[:, None] * (4 * K) + unit[None, :]
    top = rows + tl.load(read_index + 3 * row + 1, mask=live, other=0)[:, None] * (4 * K) + unit[None, :]
    word = rows + tl.load(read_index + 3 * row + 2, mask=live, other=0)[:, None] * (4 * K) + unit[None, :]
    bias += unit
    zero = tl.zeros((BM, BD), dtype=h.dtype.element_ty)
    g = zero + tl.load(bias, mask=inside, other=0)[None, :]
    i = zero + tl.load(bias + K, mask=inside, other=0)[None, :]
    f = zero + tl.load(bias + 2 * K, mask=inside, other=0)[None, :]
    o = zero + tl.load(bias + 3 * K, mask=inside, other=0)[None, :]
    g = read_up(multiply(x, at, some, g, PRECISION), word, top, second, ok)
    i = read_up(multiply(x, at + K * K, some, i, PRECISION), word + K, top + K, second + K, ok)
    f = read_up(
        multiply(x, at + 2 * K * K, some, f, PRECISION), word + 2 * K, top + 2 * K, second + 2 * K, ok
    )
    o = read_up(
        multiply(x, at + 3 * K * K, some, o, PRECISION), word + 3 * K, top + 3 * K, second + 3 * K, ok
    )
    g, i, f, o = tanh(g), sigmoid(i), sigmoid(f), sigmoid(o)
    new_c = g * i + f * tl.load(c + previous[:, None] * K + unit[None, :], mask=ok, other=0)
    own = (first + row).to(tl.int64)[:, None] * K + unit[None, :]
    tl.store(c + own, new_c, mask=ok)
    tl.store(h + own, o * tanh(new_c), mask=ok)
    if SAVE:
        gates += (slot + row).to(tl.int64)[:, None] * (4 * K) + unit[None, :]
        tl.store(gates, g, mask=ok)
        tl.store(gates + K, i, mask=ok)
        tl.store(gates + 2 * K, f, mask=ok)
        tl.store(gates + 3 * K, o, mask=ok)
