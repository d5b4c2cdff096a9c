"""The pointwise work of a machine step in Triton, as `spinn_tensor.machine.fused` launches it.

One kernel gathers what a step multiplies, one runs its cells, forward or backward, and one scatters the gradients
of what was gathered: around one product, that is a step of the compositions or of the trackers. The equations are
those of `spinn_tensor.machine.cell`, and the kernels read and write what the torch bodies do.

Rows of a program are slots of one step; `first` is the row of its slot 0 among the states, `slot` among the slots of
all steps. Masks `row < n` and `unit < D` cut tiles off, so that nothing is padded. All arithmetic is in the type of
the states. Gradients are added by atomics, since in shared tables several slots of a step read one row. Where tables
share nothing, a row has one reader a step, hence its sum one order, and equal inputs give equal bits; null rows,
which many read, are left out.

This module imports Triton, and is imported where kernels run and nowhere else.
"""

from __future__ import annotations

import triton
import triton.language as tl

# one kernel for all steps, wherever in the tables a step begins
NUMBERS = ["n", "first", "slot"]
INDICES = ["child_index", "tracker_index", "word_index", "c_index"]


def of_steps(function):
    """Compile a function to one kernel, whatever these of its arguments."""
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return triton.jit(
        do_not_specialize=[name for name in NUMBERS if name in names],
        do_not_specialize_on_alignment=[name for name in INDICES if name in names],
    )(function)


@triton.jit
def tanh(x):
    """Return tanh x, to the last digits of small x too."""
    e = tl.exp(-2 * tl.abs(x))
    y = (1 - e) / (1 + e)
    y = tl.where(x < 0, -y, y)
    x2 = x * x
    series = x * (
        1 + x2 * (-1 / 3 + x2 * (2 / 15 + x2 * (-17 / 315 + x2 * (62 / 2835 - x2 * (1382 / 155925)))))
    )
    return tl.where(tl.abs(x) < 0.1, series, y)


@triton.jit
def sigmoid(x):
    """Return σ(x), in the type of x whatever it is."""
    return 1 / (1 + tl.exp(-x))


@of_steps
def gather_inputs(
    h,  # (R, H) states
    tracker_h,  # (1 + A, K)
    child_index,  # (n, 2) rows of h, pairs EVERY apart
    tracker_index,  # (n,) rows of tracker_h
    inputs,  # (n, 2H + K) written, rows STRIDE apart, in the type of the products
    n,
    EVERY: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
):
    """Put side by side the two h of the machine that a slot reads, and that of a tracker."""
    TILES: tl.constexpr = (H + BD - 1) // BD
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    live = row < n
    part = tl.minimum(tl.program_id(1) // TILES, 2)
    unit = (tl.program_id(1) - part * TILES) * BD + tl.arange(0, BD)
    to = inputs + row.to(tl.int64)[:, None] * STRIDE + part * H + unit[None, :]
    if part < 2:
        source = tl.load(child_index + EVERY * row + part, mask=live, other=0)
        ok = live[:, None] & (unit < H)[None, :]
        x = tl.load(h + source[:, None] * H + unit[None, :], mask=ok, other=0)
        tl.store(to, x.to(inputs.dtype.element_ty), mask=ok)
    else:
        source = tl.load(tracker_index + row, mask=live, other=0)
        ok = live[:, None] & (unit < K)[None, :]
        x = tl.load(tracker_h + source[:, None] * K + unit[None, :], mask=ok, other=0)
        tl.store(to, x.to(inputs.dtype.element_ty), mask=ok)


@of_steps
def scatter_inputs(
    grad_h,  # (R, H) added to
    grad_tracker_h,  # (1 + A, K) added to
    child_index,  # (n, 2), pairs EVERY apart
    tracker_index,  # (n,)
    grad_inputs,  # (n, 2H + K), rows STRIDE apart
    n,
    EVERY: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
):
    """Add the gradients of what `gather_inputs` read to its rows, null rows excepted."""
    TILES: tl.constexpr = (H + BD - 1) // BD
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    live = row < n
    part = tl.minimum(tl.program_id(1) // TILES, 2)
    unit = (tl.program_id(1) - part * TILES) * BD + tl.arange(0, BD)
    at = grad_inputs + row.to(tl.int64)[:, None] * STRIDE + part * H + unit[None, :]
    if part < 2:
        target = tl.load(child_index + EVERY * row + part, mask=live, other=0)
        ok = (target > 0)[:, None] & (unit < H)[None, :]
        x = tl.load(at, mask=ok, other=0).to(grad_h.dtype.element_ty)
        tl.atomic_add(grad_h + target[:, None] * H + unit[None, :], x, mask=ok, sem="relaxed")
    else:
        target = tl.load(tracker_index + row, mask=live, other=0)
        ok = (target > 0)[:, None] & (unit < K)[None, :]
        x = tl.load(at, mask=ok, other=0).to(grad_tracker_h.dtype.element_ty)
        tl.atomic_add(grad_tracker_h + target[:, None] * K + unit[None, :], x, mask=ok, sem="relaxed")


@triton.jit
def sum_up(sums, bias, word, inside, ok, HAS_BIAS: tl.constexpr, READS: tl.constexpr):
    """Return one gate of a tile before activation: the product, the bias and what a tracker reads of the word."""
    value = tl.load(sums, mask=ok, other=0).to(bias.dtype.element_ty)
    if HAS_BIAS:
        value += tl.load(bias, mask=inside, other=0)[None, :]
    if READS:
        value += tl.load(word, mask=ok, other=0)
    return value


@of_steps
def cell_forward(
    sums,  # (n, G D), rows STRIDE apart: the product
    bias,  # (G D,)
    words,  # (1 + L, G D) projections
    word_index,  # (n,) rows of them, EVERY apart, to be added
    h,  # (R, D) written in rows first, first + 1, ...
    c,  # (R, D) written there, and read in the rows of `c_index`
    c_index,  # ((G - 3) n,) what the forget gates multiply
    gates,  # (C, G D) written from row `slot` on, activated
    n,
    first,
    slot,
    D: tl.constexpr,
    G: tl.constexpr,  # gates: 5, or 4 of the trackers
    STRIDE: tl.constexpr,
    EVERY: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    READS: tl.constexpr,  # whether there are words
    SAVE: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
):
    """Run the cells of one step."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    unit = tl.program_id(1) * BD + tl.arange(0, BD)
    live, inside = row < n, unit < D
    ok = live[:, None] & inside[None, :]
    word = words
    if READS:
        word += tl.load(word_index + EVERY * row, mask=live, other=0)[:, None] * (G * D) + unit[None, :]
    sums += row.to(tl.int64)[:, None] * STRIDE + unit[None, :]
    gates += (slot + row).to(tl.int64)[:, None] * (G * D) + unit[None, :]
    bias += unit

    candidate = tanh(sum_up(sums, bias, word, inside, ok, HAS_BIAS, READS))
    gate = sigmoid(sum_up(sums + D, bias + D, word + D, inside, ok, HAS_BIAS, READS))
    if SAVE:
        tl.store(gates, candidate, mask=ok)
        tl.store(gates + D, gate, mask=ok)
    new_c = candidate * gate
    for forget in tl.static_range(G - 3):
        at = (2 + forget) * D
        gate = sigmoid(sum_up(sums + at, bias + at, word + at, inside, ok, HAS_BIAS, READS))
        if SAVE:
            tl.store(gates + at, gate, mask=ok)
        source = tl.load(c_index + (G - 3) * row + forget, mask=live, other=0)
        new_c += gate * tl.load(c + source[:, None] * D + unit[None, :], mask=ok, other=0)
    at = (G - 1) * D
    gate = sigmoid(sum_up(sums + at, bias + at, word + at, inside, ok, HAS_BIAS, READS))
    if SAVE:
        tl.store(gates + at, gate, mask=ok)
    own = (first + row).to(tl.int64)[:, None] * D + unit[None, :]
    tl.store(c + own, new_c, mask=ok)
    tl.store(h + own, gate * tanh(new_c), mask=ok)


@triton.jit
def add_up(value, grad_gates, word, has_word, ok, READS: tl.constexpr):
    """Write the gradient of one gate before activation; add it to what a tracker read of the word."""
    tl.store(grad_gates, value.to(grad_gates.dtype.element_ty), mask=ok)
    if READS:
        tl.atomic_add(word, value, mask=has_word, sem="relaxed")


@of_steps
def cell_backward(
    grad_h,  # (R, D) complete in rows first, first + 1, ...
    grad_c,  # (R, D) there the gradients from later steps; added to in the rows of `c_index`
    gates,  # (C, G D) activated
    c,  # (R, D)
    c_index,  # ((G - 3) n,)
    grad_gates,  # (C, G D) written from row `slot` on, rows STRIDE apart
    grad_words,  # (1 + L, G D) added to; row 0 is null
    word_index,  # (n,), EVERY apart
    n,
    first,
    slot,
    D: tl.constexpr,
    G: tl.constexpr,
    STRIDE: tl.constexpr,
    EVERY: tl.constexpr,
    READS: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
):
    """Undo the cells of one step, whose states' gradients are complete; null rows are left out."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    unit = tl.program_id(1) * BD + tl.arange(0, BD)
    live = row < n
    ok = live[:, None] & (unit < D)[None, :]
    own = (first + row).to(tl.int64)[:, None] * D + unit[None, :]
    gates += (slot + row).to(tl.int64)[:, None] * (G * D) + unit[None, :]
    grad_gates += (slot + row).to(tl.int64)[:, None] * STRIDE + unit[None, :]
    word, has_word = grad_words, ok
    if READS:
        read = tl.load(word_index + EVERY * row, mask=live, other=0)
        word, has_word = grad_words + read[:, None] * (G * D) + unit[None, :], ok & (read > 0)[:, None]

    tanh_c = tanh(tl.load(c + own, mask=ok, other=0))
    dh = tl.load(grad_h + own, mask=ok, other=0)
    gate = tl.load(gates + (G - 1) * D, mask=ok, other=0)
    dc = tl.load(grad_c + own, mask=ok, other=0) + dh * gate * (1 - tanh_c * tanh_c)
    at = (G - 1) * D
    of_gate = dh * tanh_c * gate * (1 - gate)
    add_up(of_gate, grad_gates + at, word + at, has_word, ok, READS)
    candidate = tl.load(gates, mask=ok, other=0)
    gate = tl.load(gates + D, mask=ok, other=0)
    of_gate = dc * gate * (1 - candidate * candidate)
    add_up(of_gate, grad_gates, word, has_word, ok, READS)
    of_gate = dc * candidate * gate * (1 - gate)
    add_up(of_gate, grad_gates + D, word + D, has_word, ok, READS)
    for forget in tl.static_range(G - 3):
        at = (2 + forget) * D
        gate = tl.load(gates + at, mask=ok, other=0)
        source = tl.load(c_index + (G - 3) * row + forget, mask=live, other=0)
        child = source[:, None] * D + unit[None, :]
        of_gate = dc * tl.load(c + child, mask=ok, other=0) * gate * (1 - gate)
        add_up(of_gate, grad_gates + at, word + at, has_word, ok, READS)
        tl.atomic_add(grad_c + child, dc * gate, mask=ok & (source > 0)[:, None], sem="relaxed")
