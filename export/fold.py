"""Weights of a trained model as its exported graph reads them: batch norm folded into the products around it.

In evaluation batch norm is y = s x + t, with s = weight / √(variance + ε) and t = bias - s mean. After a product it
scales the product's columns, s (x W + b) + t; before one it scales its rows, (s x + t) W + b = x (s W) + (t W + b).
Sums are taken in double precision and rounded once.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from spinn_tensor.export.step import StepWeights
from spinn_tensor.machine.schedule import score_weights
from spinn_tensor.model.cells import Tracker
from spinn_tensor.model.classifiers import MLP
from spinn_tensor.model.leaves import LeafEncoder
from spinn_tensor.model.machine import StackMachine
from spinn_tensor.normalization import MaskedBatchNorm


class Affine(NamedTuple):
    """Hold x W + b."""

    weight: Tensor  # (I, O)
    bias: Tensor  # (O,)


def sum_type(weight: Tensor) -> torch.dtype:
    """Return the type of an artefact's sums and states: float64 of a model in float64, else float32."""
    return torch.promote_types(weight.dtype, torch.float32)


def projection_of(leaves: LeafEncoder) -> Affine:  # (E, D), (D,)
    """Return the projection of embedded words, and the batch norm after it."""
    weight, bias = _affine(leaves.projection)
    if leaves.norm is not None:
        scale, shift = _scale_and_shift(leaves.norm)
        weight, bias = weight * scale, bias * scale + shift
    return _rounded(weight, bias, sum_type(leaves.projection.weight))


def leaf_table(leaves: LeafEncoder) -> Tensor:  # (V, D)
    """Return the projection of every word of the vocabulary."""
    weight, bias = projection_of(leaves)
    return torch.addmm(bias, leaves.embedding.weight.detach(), weight)


def classifier_layers(mlp: MLP) -> list[Affine]:
    """Return the products of a classifier, ReLU between them, with the batch norm before each."""
    layers = []
    for number, layer in enumerate([*mlp.hidden, mlp.output]):
        assert isinstance(layer, nn.Linear)
        weight, bias = _affine(layer)
        if len(mlp.norms):
            norm = mlp.norms[number]
            assert isinstance(norm, MaskedBatchNorm)
            scale, shift = _scale_and_shift(norm)
            weight, bias = scale.unsqueeze(1) * weight, shift @ weight + bias
        layers.append(_rounded(weight, bias, sum_type(layer.weight)))
    return layers


def step_weights(machine: StackMachine) -> StepWeights:
    """Return the weights of a machine's tracker, and of the choice of transitions."""
    weights = cast(Tracker, machine.tracker).weights()
    buffer, top, second = weights.weight_input.detach().chunk(3, 1)
    tracker_dim = weights.weight_hidden.shape[1]
    score, limit = weights.bias.new_zeros(tracker_dim), weights.bias.new_zeros(())
    if machine.transition is not None:
        weight, bias = score_weights(machine.transition.weights())
        score, limit = weight.detach().clone(), -bias.detach().squeeze(0)
    return StepWeights(
        buffer=_turned(_tanh_gate_last(buffer)),
        stack=_turned(torch.cat((_tanh_gate_last(second), _tanh_gate_last(top)))),
        hidden=_turned(_tanh_gate_last(weights.weight_hidden)),
        tracker_bias=_tanh_gate_last(weights.bias.detach()),
        score=score,
        score_limit=limit,
    )


def _tanh_gate_last(rows: Tensor) -> Tensor:
    """Reorder rows of the gates i, f, g, o to i, f, o, g."""
    i, f, g, o = rows.chunk(4)
    return torch.cat((i, f, o, g))


def lstm_directions(lstm: nn.LSTM) -> list[tuple[Affine, Tensor]]:
    """Return for each direction the words' product with both biases, and the matrix of h (D, 4D)."""
    directions = []
    for suffix in ("", "_reverse")[: 1 + lstm.bidirectional]:
        weight_input, weight_hidden, bias_input, bias_hidden = (
            getattr(lstm, f"{name}_l0{suffix}").detach()
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        bias = _tanh_gate_last(bias_input + bias_hidden)
        words = Affine(_turned(_tanh_gate_last(weight_input)), bias)
        directions.append((words, _turned(_tanh_gate_last(weight_hidden))))
    return directions


def _affine(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    return layer.weight.detach().double().t(), layer.bias.detach().double()


def _scale_and_shift(norm: MaskedBatchNorm) -> tuple[Tensor, Tensor]:
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - scale * norm.running_mean.double()


def _rounded(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Affine:
    return Affine(weight.to(dtype).contiguous(), bias.to(dtype))


def _turned(weight: Tensor) -> Tensor:
    return weight.detach().t().contiguous()
