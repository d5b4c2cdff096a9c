"""The cell of an exported machine: a copy that takes states of any number, traced for what runs it.

`cell(left, right)`, with a tracker `cell(left, right, tracker)`, is what the step of every loop calls. That of the
TreeLSTM is written here for its two products' sake; any other is the model's own, its linear layers as products of the
artefact, in whose precision they are then taken. What else it computes is as it is written, in float32 or float64.
"""

from __future__ import annotations

import copy
import io
import warnings
from contextlib import redirect_stderr, redirect_stdout
from typing import cast

import torch
import torch.fx.experimental._config as symbolic_shapes
from torch import Tensor, nn

from spinn_tensor.export.fold import one_machine, sum_type, turned
from spinn_tensor.export.interface import ExportError, first_line, quiet
from spinn_tensor.export.step import Product
from spinn_tensor.model.cells import TreeLSTM
from spinn_tensor.model.classifiers import Model


class TreeLSTMCell(nn.Module):
    """Compose by the TreeLSTM, rows of weights [h_left; h_right; h_tracker], gates a, i, f_left, f_right, o."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self.product = product

    def forward(
        self,
        left: Tensor,  # (n, 2H) [h; c]
        right: Tensor,  # (n, 2H)
        *tracker: Tensor,  # (n, K)
    ) -> Tensor:  # (n, 2H)
        (h_left, c_left), (h_right, c_right) = left.chunk(2, 1), right.chunk(2, 1)
        sums = self.product(torch.cat((h_left, h_right, *tracker), 1))
        a, i, f_left, f_right, o = torch.chunk(sums, 5, 1)
        c = (
            torch.tanh(a) * torch.sigmoid(i)
            + torch.sigmoid(f_left) * c_left
            + torch.sigmoid(f_right) * c_right
        )
        return torch.cat((torch.sigmoid(o) * torch.tanh(c), c), 1)


class Linear(nn.Module):
    """Stand for a linear layer, whose weight a cell may also read itself."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self.product = product

    @property
    def weight(self) -> Tensor:  # (O, I)
        return self.product.weight.t()

    @property
    def bias(self) -> Tensor:  # (O,)
        return self.product.bias

    def forward(self, x: Tensor) -> Tensor:  # (n, O) from (n, I)
        return self.product(x)


def exported_cell(
    model: Model,
    dtype: torch.dtype,  # of its products
) -> nn.Module:
    """Return the cell of a model's machine. Raises ExportError, naming why, for one that does not trace."""
    machine = one_machine(model.encoder)
    if machine.is_built_in:
        weight, bias, of_tracker = cast(TreeLSTM, machine.compose).weights()
        weight = weight if of_tracker is None else torch.cat((weight, of_tracker), 1)
        return TreeLSTMCell(Product(turned(weight).to(dtype), bias.detach().clone()))
    cell = copy.deepcopy(machine.compose).cpu().eval().requires_grad_(False)
    for name, layer in list(cell.named_modules()):
        if type(layer) is nn.Linear:
            bias = layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
            cell.set_submodule(name, Linear(Product(turned(layer.weight).to(dtype), bias.detach())))
    try:
        # torch prints what it has traced so far
        with quiet(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            traced_cell(cell, model)
    except Exception as error:
        name, line = model.config.encoder.cell, first_line(error)
        raise ExportError(
            f"cell {name!r} is not exported: torch.export cannot trace it for any number n of states ({line})"
        ) from error
    return cell


def exported_state_dim(model: Model) -> int:
    """Return the width of the exported machine's states, S: a policy's lie beside the composer's."""
    width: int = model.encoder.leaves.projection.out_features
    return width + 2 * model.config.encoder.policy_dim


def _inputs(model: Model) -> tuple[Tensor, ...]:
    """Make what the cell is called with: states of left and right, and what a tracker says."""
    leaves, config = model.encoder.leaves, model.config.encoder
    widths = [exported_state_dim(model)] * 2 + [config.tracker_dim] * (config.kind != "spinn-pi-nt")
    dtype = sum_type(leaves.embedding.weight)
    return tuple(torch.randn(3, width, dtype=dtype) for width in widths)


def traced_cell(cell: nn.Module, model: Model) -> torch.export.ExportedProgram:
    """Trace a cell for any number of states, by `torch.export`."""
    inputs, n, shapes = _inputs(model), torch.export.Dim("n", min=1), torch.export.ShapesCollection()
    for tensor in inputs:
        shapes[tensor] = {0: n}
    with torch.no_grad(), symbolic_shapes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(cell, inputs, dynamic_shapes=shapes.dynamic_shapes(cell, inputs))


def scripted_cell(cell: nn.Module, model: Model) -> torch.jit.ScriptModule:
    """Trace a cell for any number of states, by TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        return torch.jit.trace(cell, _inputs(model))
