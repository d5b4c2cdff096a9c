"""The loop as one opaque, differentiable operator, so that it lives inside `torch.compile(fullgraph=True)`.

A traced loop would unroll, one graph for every number of steps. Seen from outside, the operator has only tensors with
dynamic sizes: the offsets of the steps travel as a tensor on the host and never as Python integers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spinn_tensor.bundles import ComposeWeights, ForestTables, LaneTables, TrackerWeights
from spinn_tensor.machine.buffers import Tables, Trail
from spinn_tensor.machine.recurrence import run_backward, run_forward

Unbundled = tuple[ComposeWeights, TrackerWeights | None, Tables]


def _bundle(compose: list[Tensor], tracker: list[Tensor], tables: list[Tensor]) -> Unbundled:
    """Bundles of what crosses the operator's border as lists; a tracker is what makes tables lane tables."""
    if tracker:
        return ComposeWeights(*compose), TrackerWeights(*tracker), LaneTables(*tables)
    return ComposeWeights(*compose), None, ForestTables(*tables)


@torch.library.custom_op("spinn_tensor::stack_machine", mutates_args=())
def stack_machine(
    leaves: Tensor,  # (L, 2H)
    compose: list[Tensor],  # ComposeWeights, without None
    tracker: list[Tensor],  # TrackerWeights, or nothing
    tables: list[Tensor],  # LaneTables with tracker, ForestTables without
    output_index: Tensor,  # (Q,) int64 rows
    save: bool,  # keep what the backward needs
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h (Q, H) of the rows asked for, and the six tensors of the Trail, which are not differentiable."""
    compose_weights, tracker_weights, bundle = _bundle(compose, tracker, tables)
    trail = run_forward(leaves, compose_weights, tracker_weights, bundle, save)
    return trail.memory[0].index_select(0, output_index), *trail


@stack_machine.register_fake
def _(
    leaves: Tensor,
    compose: list[Tensor],
    tracker: list[Tensor],
    tables: list[Tensor],
    output_index: Tensor,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    _, tracker_weights, bundle = _bundle(compose, tracker, tables)
    hidden_dim, n_compositions = leaves.shape[1] // 2, bundle.left_index.shape[0]
    shapes: list[tuple[int, ...]] = [
        (output_index.shape[0], hidden_dim),
        (2, 1 + leaves.shape[0] + n_compositions, hidden_dim),
        (n_compositions, 5 * hidden_dim) if save else (0,),
        (n_compositions, hidden_dim) if save else (0,),
    ]
    if tracker_weights is None or not isinstance(bundle, LaneTables):
        shapes += [(0,), (0,), (0,)]
    else:
        n_entries, tracker_dim = bundle.previous_index.shape[0], tracker_weights.weight_hidden.shape[1]
        shapes += [
            (2, 1 + n_entries, tracker_dim),
            (n_entries, 4 * tracker_dim) if save else (0,),
            (n_entries, tracker_dim) if save else (0,),
        ]
    output, memory, gates, tanh_c, tracker_memory, tracker_gates, tracker_tanh_c = map(
        leaves.new_empty, shapes
    )
    return output, memory, gates, tanh_c, tracker_memory, tracker_gates, tracker_tanh_c


@torch.library.custom_op("spinn_tensor::stack_machine_backward", mutates_args=())
def stack_machine_backward(
    grad_output: Tensor,  # (Q, H)
    output_index: Tensor,  # (Q,) int64
    compose: list[Tensor],
    tracker: list[Tensor],
    tables: list[Tensor],
    trail: list[Tensor],  # Trail
) -> list[Tensor]:
    """Gradients of the leaves, of the compose weights and, with a tracker, of its weights."""
    compose_weights, tracker_weights, bundle = _bundle(compose, tracker, tables)
    gradients = run_backward(
        grad_output, output_index, compose_weights, tracker_weights, bundle, Trail(*trail)
    )
    return [gradients.leaves, *gradients.compose[: len(compose)], *(gradients.tracker or ())]


@stack_machine_backward.register_fake
def _(
    grad_output: Tensor,
    output_index: Tensor,
    compose: list[Tensor],
    tracker: list[Tensor],
    tables: list[Tensor],
    trail: list[Tensor],
) -> list[Tensor]:
    _, _, bundle = _bundle(compose, tracker, tables)
    _, n_rows, hidden_dim = trail[0].shape
    n_leaves = n_rows - 1 - bundle.left_index.shape[0]
    weights = (grad_output.new_empty(weight.shape) for weight in (*compose, *tracker))
    return [grad_output.new_empty(n_leaves, 2 * hidden_dim), *weights]


def _setup_context(ctx, inputs, output) -> None:
    _, compose, tracker, tables, output_index, save = inputs
    if not save:
        raise RuntimeError("stack_machine ran with save=False, but a gradient was asked for")
    ctx.set_materialize_grads(False)  # the trail has no gradients, and zeros of its size cost a step's time
    ctx.sizes = [len(compose), len(tracker), len(tables)]
    ctx.save_for_backward(output_index, *compose, *tracker, *tables, *output[1:])


def _backward(ctx, grad_output: Tensor | None, *_unused: None):
    output_index, *rest = ctx.saved_tensors
    n_compose, n_tracker, n_tables = ctx.sizes
    if grad_output is None:
        return None, [None] * n_compose, [None] * n_tracker, [None] * n_tables, None, None
    compose, rest = rest[:n_compose], rest[n_compose:]
    tracker, rest = rest[:n_tracker], rest[n_tracker:]
    tables, trail = rest[:n_tables], rest[n_tables:]
    grad_leaves, *grad_weights = stack_machine_backward(
        grad_output, output_index, compose, tracker, tables, trail
    )
    return grad_leaves, grad_weights[:n_compose], grad_weights[n_compose:], [None] * n_tables, None, None


stack_machine.register_autograd(_backward, setup_context=_setup_context)
