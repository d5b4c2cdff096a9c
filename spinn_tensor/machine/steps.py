"""One step of the machine, forward and backward. Every executor runs these four functions and nothing else.

Compose, the binary TreeLSTM (Bowman et al. 2016, section 3.2, after Tai et al. 2015, section 3.2):

    [a; i; f_l; f_r; o] = W [h_l; h_r] + W_t h_tracker + b
    c = tanh(a) σ(i) + σ(f_l) c_l + σ(f_r) c_r          h = σ(o) tanh(c)

Tracker (section 3.2), with x = P_1 h_buffer + P_2 h_stack1 + P_3 h_stack2 projected where each state is made:

    [g; i; f; o] = x + W_h h' + b                        c = σ(f) c' + σ(i) tanh(g)          h = σ(o) tanh(c)

Both keep the tanh gate first and the output gate last. So the local derivatives of all steps can be taken at once,
before the backward loop: with dc complete, every gate's gradient but the output's is dc times a factor, the output's is
dh times a factor, and dc gains dh times o (1 - tanh² c). The backward steps are left with three products each.

Steps write where they are told to, and allocate nothing that lives on. They are not differentiable themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spinn_tensor.bundles import ComposeWeights


def compose_step(
    h_children: Tensor,  # (n, 2H) left, right
    c_children: Tensor,  # (n, 2H) left, right
    tracker_h: Tensor | None,  # (n, K)
    weights: ComposeWeights,
    gates: Tensor,  # (n, 5H) written: activated gates
    tanh_c: Tensor,  # (n, H) written
    h: Tensor,  # (n, H) written
    c: Tensor,  # (n, H) written
) -> None:
    """Compose n pairs of states."""
    hidden_dim = h.shape[1]
    torch.addmm(weights.bias, h_children, weights.weight.t(), out=gates)
    if tracker_h is not None:
        assert weights.tracker_weight is not None
        gates.addmm_(tracker_h, weights.tracker_weight.t())
    gates[:, :hidden_dim].tanh_()
    gates[:, hidden_dim:].sigmoid_()
    a, i, f_left, f_right, o = gates.unflatten(1, (5, hidden_dim)).unbind(1)
    torch.mul(a, i, out=c)
    c.addcmul_(f_left, c_children[:, :hidden_dim])
    c.addcmul_(f_right, c_children[:, hidden_dim:])
    torch.tanh(c, out=tanh_c)
    torch.mul(o, tanh_c, out=h)


def tracker_step(
    gates: Tensor,  # (n, 4K) the projected input; overwritten by the activated gates
    h_previous: Tensor,  # (n, K)
    c_previous: Tensor,  # (n, K)
    weight_hidden: Tensor,  # (4K, K)
    tanh_c: Tensor,  # (n, K) written
    h: Tensor,  # (n, K) written
    c: Tensor,  # (n, K) written
) -> None:
    """Advance n trackers."""
    tracker_dim = h.shape[1]
    gates.addmm_(h_previous, weight_hidden.t())
    gates[:, :tracker_dim].tanh_()
    gates[:, tracker_dim:].sigmoid_()
    g, i, f, o = gates.unflatten(1, (4, tracker_dim)).unbind(1)
    torch.mul(g, i, out=c)
    c.addcmul_(f, c_previous)
    torch.tanh(c, out=tanh_c)
    torch.mul(o, tanh_c, out=h)


def local_derivatives(
    gates: Tensor,  # (n, G * D) activated gates: one tanh gate, input gate, G - 3 forget gates, output gate
    tanh_c: Tensor,  # (n, D)
    c_in: Tensor,  # (n, (G - 3) * D) the cell states that the forget gates multiply
) -> tuple[
    Tensor, Tensor
]:  # (n, G * D) factors of dc and, for the output gate, dh; (n, D) factor of dh in dc
    """Derivatives of both cells that need no gradient from above, for any number of steps at once."""
    cell_dim = tanh_c.shape[1]
    first, last = 2 * cell_dim, gates.shape[1] - cell_dim
    candidate, input_gate = gates[:, :cell_dim], gates[:, cell_dim:first]
    forget_gates, output_gate = gates[:, first:last], gates[:, last:]
    factors = torch.empty_like(gates)
    aten = torch.ops.aten
    aten.tanh_backward.grad_input(input_gate, candidate, grad_input=factors[:, :cell_dim])
    aten.sigmoid_backward.grad_input(candidate, input_gate, grad_input=factors[:, cell_dim:first])
    aten.sigmoid_backward.grad_input(c_in, forget_gates, grad_input=factors[:, first:last])
    aten.sigmoid_backward.grad_input(tanh_c, output_gate, grad_input=factors[:, last:])
    return factors, aten.tanh_backward(output_gate, tanh_c)


def cell_backward_step(
    dh: Tensor,  # (n, D) complete gradient of h
    dc: Tensor,  # (n, D) gradient of c from later steps; completed in place
    factors: Tensor,  # (n, G * D) local derivatives; overwritten by the gradient of the gates before activation
    dc_factor: Tensor,  # (n, D)
) -> None:
    """Gradients of the gates of n cells, of either kind."""
    cell_dim = dc.shape[1]
    dc.addcmul_(dh, dc_factor)
    factors[:, :-cell_dim].unflatten(1, (-1, cell_dim)).mul_(dc.unsqueeze(1))
    factors[:, -cell_dim:].mul_(dh)
