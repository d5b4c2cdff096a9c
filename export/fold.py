"""Weights of a trained model as its exported graph reads them: batch norm folded into the products around it.

In evaluation batch norm is y = s x + t, with s = weight / √(variance + ε) and t = bias - s mean. After a product it
scales the product's columns, s (x W + b) + t; before one it scales its rows, (s x + t) W + b = x (s W) + (t W + b).
Sums are taken in double precision and rounded once.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from spinn_tensor.export.step import Product, StepWeights
from spinn_tensor.machine.schedule import score_weights
from spinn_tensor.model.cells import Tracker, TreeLSTM
from spinn_tensor.model.classifiers import MLP
from spinn_tensor.model.encoder import SentenceEncoder
from spinn_tensor.model.leaves import LeafEncoder
from spinn_tensor.model.machine import StackMachine
from spinn_tensor.normalization import MaskedBatchNorm


def sum_type(weight: Tensor) -> torch.dtype:
    """Return the type of an artefact's sums and states: float64 of a model in float64, else float32."""
    return torch.promote_types(weight.dtype, torch.float32)


def projection_of(leaves: LeafEncoder) -> Product:  # (E, D), (D,)
    """Return the projection of embedded words, and the batch norm after it."""
    weight, bias = _affine(leaves.projection)
    if leaves.norm is not None:
        scale, shift = _scale_and_shift(leaves.norm)
        weight, bias = weight * scale, bias * scale + shift
    return _rounded(weight, bias, sum_type(leaves.projection.weight))


def words_of(encoder: SentenceEncoder) -> tuple[Tensor, Product]:  # (V, E)
    """Return the word vectors of an encoder and their projection; those of a composer and its policy side by side."""
    vectors, projection = encoder.embedding.weight.detach(), projection_of(encoder.leaves)
    if encoder.policy is None:
        return vectors, projection
    others, other = encoder.policy.embedding.weight.detach(), projection_of(encoder.policy.leaves)
    halves = zip(projection.weight.chunk(2, 1), other.weight.chunk(2, 1), strict=True)  # h, then c
    weight = torch.cat([torch.block_diag(*half) for half in halves], 1)
    biases = zip(projection.bias.chunk(2), other.bias.chunk(2), strict=True)
    bias = torch.cat([part for half in biases for part in half])
    return torch.cat((vectors, others), 1), Product(weight, bias)


def leaf_table(encoder: SentenceEncoder) -> Tensor:  # (V, D)
    """Return the projection of every word of the vocabulary."""
    vectors, projection = words_of(encoder)
    return torch.addmm(projection.bias, vectors, projection.weight)


def classifier_layers(mlp: MLP) -> list[Product]:
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


def one_machine(encoder: SentenceEncoder) -> StackMachine:
    """Return the machine of an encoder; of a policy and a composer the one that does the work of both.

    Its states are theirs side by side, the composer's first, and the blocks of its matrices that would join them are 0.
    """
    composer = cast(StackMachine, encoder.composer)
    if encoder.policy is None:
        return composer
    policy = cast(StackMachine, encoder.policy.composer)
    parsing, tracker = cast(TreeLSTM, policy.compose), cast(Tracker, policy.tracker)
    composing = cast(TreeLSTM, composer.compose)
    wide, narrow = encoder.config.hidden_dim, encoder.config.policy_dim
    cell = TreeLSTM(wide + narrow, tracker.output_dim).to(composing.weight)
    seeing = Tracker(wide + narrow, tracker.output_dim).to(composing.weight)
    with torch.no_grad():
        gates = cell.weight.zero_().view(5, wide + narrow, 2, wide + narrow)
        gates[:, :wide, :, :wide] = composing.weight.view(5, wide, 2, wide)
        gates[:, wide:, :, wide:] = parsing.weight.view(5, narrow, 2, narrow)
        assert cell.tracker_weight is not None
        assert parsing.tracker_weight is not None
        of_tracker = cell.tracker_weight.zero_().view(5, wide + narrow, -1)
        of_tracker[:, wide:] = parsing.tracker_weight.view(5, narrow, -1)
        cell.bias.copy_(torch.cat((composing.bias.view(5, wide), parsing.bias.view(5, narrow)), 1).flatten())
        reads = seeing.weight_input.zero_().view(-1, 3, wide + narrow)
        reads[:, :, wide:] = tracker.weight_input.view(-1, 3, narrow)
        seeing.weight_hidden.copy_(tracker.weight_hidden)
        seeing.bias.copy_(tracker.bias)
    return StackMachine(cell, seeing, policy.transition)


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
        buffer=turned(_tanh_gate_last(buffer)),
        stack=turned(torch.cat((_tanh_gate_last(second), _tanh_gate_last(top)))),
        hidden=turned(_tanh_gate_last(weights.weight_hidden)),
        tracker_bias=_tanh_gate_last(weights.bias.detach()),
        score=score,
        score_limit=limit,
    )


def _tanh_gate_last(rows: Tensor) -> Tensor:
    """Reorder rows of the gates i, f, g, o to i, f, o, g."""
    i, f, g, o = rows.chunk(4)
    return torch.cat((i, f, o, g))


def lstm_directions(lstm: nn.LSTM) -> list[tuple[Product, Tensor]]:
    """Return for each direction the words' product with both biases, and the matrix of h (D, 4D)."""
    directions = []
    for suffix in ("", "_reverse")[: 1 + lstm.bidirectional]:
        weight_input, weight_hidden, bias_input, bias_hidden = (
            getattr(lstm, f"{name}_l0{suffix}").detach()
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        bias = _tanh_gate_last(bias_input + bias_hidden)
        words = Product(turned(_tanh_gate_last(weight_input)), bias)
        directions.append((words, turned(_tanh_gate_last(weight_hidden))))
    return directions


def _affine(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    return layer.weight.detach().double().t(), layer.bias.detach().double()


def _scale_and_shift(norm: MaskedBatchNorm) -> tuple[Tensor, Tensor]:
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - scale * norm.running_mean.double()


def _rounded(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Product:
    return Product(weight.to(dtype).contiguous(), bias.to(dtype))


def turned(weight: Tensor) -> Tensor:  # (I, O) from (O, I)
    """Return a weight of PyTorch's as [inputs, outputs]."""
    return weight.detach().t().contiguous()
