"""One step of the machine, forward and backward. Every executor runs these functions and nothing else.

Compose, the binary TreeLSTM (Bowman et al. 2016, section 3.2, after Tai et al. 2015, section 3.2):

    [a; i; f_l; f_r; o] = W [h_l; h_r] + W_t h_tracker + b
    c = tanh(a) σ(i) + σ(f_l) c_l + σ(f_r) c_r          h = σ(o) tanh(c)

Tracker (section 3.2), with x = P_1 h_buffer + P_2 h_stack1 + P_3 h_stack2 projected where each state is made:

    [g; i; f; o] = x + W_h h' + b                        c = σ(f) c' + σ(i) tanh(g)          h = σ(o) tanh(c)

Both are one cell with a number of forget gates, 2 or 1. It keeps the tanh gate first and the output gate last, so the
local derivatives of any number of steps can be taken without a gradient from above: with dc complete, every gate's
gradient but the output's is dc times a factor, the output's is dh times a factor, and dc gains dh o (1 - tanh² c).

Steps write where they are told to, and allocate nothing that lives on. They are not differentiable themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sum_rows(
    rows: Tensor,  # (R, m)
    index: Tensor,  # (n, k) int64, or (n',) with offsets
    offsets: Tensor,  # (n,) int64, where the rows of each sum begin in the flat index
) -> Tensor:  # (n, m)
    """Add up k rows for each sum, or as many as lie between the offsets."""
    return torch.embedding_bag(rows, index.view(-1), offsets)[0]


def cell_step(
    sums: Tensor,  # (n, G * D) before activation: tanh gate, input gate, G - 3 forget gates, output gate
    gates: Tensor,  # (n, G * D) written, activated; may be `sums`
    c_in: Tensor,  # (n, (G - 3) * D) the cell states that the forget gates multiply
    h: Tensor,  # (n, D) written
    c: Tensor,  # (n, D) written
) -> None:
    """Run n cells of either kind from the sums of their inputs."""
    n, cell_dim = h.shape
    torch.tanh(sums[:, :cell_dim], out=gates[:, :cell_dim])
    torch.sigmoid(sums[:, cell_dim:], out=gates[:, cell_dim:])
    candidate, input_gate, *forget_gates, output_gate = gates.view(n, -1, cell_dim).unbind(1)
    torch.mul(candidate, input_gate, out=c)
    for forget_gate, state in zip(forget_gates, c_in.view(n, -1, cell_dim).unbind(1), strict=True):
        c.addcmul_(forget_gate, state)
    torch.tanh(c, out=h)
    h.mul_(output_gate)


def local_derivatives(
    gates: Tensor,  # (n, G * D) activated gates: tanh gate, input gate, G - 3 forget gates, output gate
    c: Tensor,  # (n, D)
    c_in: Tensor,  # (n, (G - 3) * D) the cell states that the forget gates multiply
    factors: Tensor,  # (n, G * D) written: factors of dc and, for the output gate, dh
) -> Tensor:  # (n, D) factor of dh in dc
    """Take those derivatives of any number of cells that need no gradient from above."""
    n, cell_dim = c.shape
    n_gates = gates.shape[1] // cell_dim  # said, since n may be 0
    gates, factors = gates.view(n, n_gates, cell_dim), factors.view(n, n_gates, cell_dim)
    candidate, input_gate, forget_gates, output_gate = gates[:, 0], gates[:, 1], gates[:, 2:-1], gates[:, -1]
    tanh_c = c.tanh()
    aten = torch.ops.aten
    aten.tanh_backward.grad_input(input_gate, candidate, grad_input=factors[:, 0])
    aten.sigmoid_backward.grad_input(candidate, input_gate, grad_input=factors[:, 1])
    c_in = c_in.view(n, n_gates - 3, cell_dim)
    aten.sigmoid_backward.grad_input(c_in, forget_gates, grad_input=factors[:, 2:-1])
    aten.sigmoid_backward.grad_input(tanh_c, output_gate, grad_input=factors[:, -1])
    return aten.tanh_backward.grad_input(output_gate, tanh_c, grad_input=tanh_c)


def cell_backward_step(
    dh: Tensor,  # (n, D) complete gradient of h
    dc: Tensor,  # (n, D) gradient of c from later steps; completed in place
    factors: Tensor,  # (n, G * D) local derivatives; overwritten by the gradient of the gates before activation
    dc_factor: Tensor,  # (n, D)
) -> None:
    """Complete the gradients of the gates of n cells, of either kind."""
    dc.addcmul_(dh, dc_factor)
    of_gates = factors.view(dc.shape[0], -1, dc.shape[1])
    of_gates[:, :-1].mul_(dc.unsqueeze(1))
    of_gates[:, -1].mul_(dh)
