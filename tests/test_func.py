"""torch.func: models as functions of their weights, and transforms, which the stack machine refuses; it gave zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.nn import functional as F

from spinn_tensor.batch import Batch, make_batch
from spinn_tensor.config import ENCODER_KINDS, SPINN_KINDS
from spinn_tensor.data_prep.columns import select
from spinn_tensor.model.classifiers import Model
from tests.closeness import FLOAT64, assert_close
from tests.tiny_models import pair_model, some_pairs

pytestmark = pytest.mark.numerical

Weights = dict[str, Tensor]
N_PAIRS = 4


def weights_of(model: Model) -> Weights:
    return {name: weight.detach() for name, weight in model.named_parameters()}


def loss_of(model: Model, weights: Weights, batch: Batch, reduction: str = "mean") -> Tensor:
    return F.cross_entropy(functional_call(model, weights, (batch,)), batch.labels, reduction=reduction)


def gradients(loss: Tensor, weights: Weights) -> tuple[Tensor, ...]:
    """Return those of all weights; a parser's choices have none."""
    return torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)


def model_and_batch(kind: str) -> tuple[Model, Batch]:
    model = pair_model(kind).double().eval()
    return model, make_batch(some_pairs(N_PAIRS), model.encoder.table_kind)


@pytest.mark.parametrize("kind", ENCODER_KINDS)
def test_a_model_is_a_function_of_its_weights(kind: str) -> None:
    """Of others than its own: outputs and gradients are those of a model that has them."""
    model, batch = model_and_batch(kind)
    other = pair_model(kind).double().eval()
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    weights = {name: weight.requires_grad_() for name, weight in weights_of(other).items()}
    loss = loss_of(model, weights, batch)
    expected = F.cross_entropy(other(batch), batch.labels)
    assert_close(loss, expected, FLOAT64)
    for ours, theirs in zip(
        gradients(loss, weights), gradients(expected, dict(other.named_parameters())), strict=True
    ):
        assert_close(ours, theirs, FLOAT64)


@pytest.mark.parametrize("kind", ENCODER_KINDS)
def test_gradients_of_single_examples_come_from_batches_of_one(kind: str) -> None:
    """What docs/limits.md says instead of vmap: they add up to the gradient of all."""
    model, batch = model_and_batch(kind)
    weights = {name: weight.requires_grad_() for name, weight in weights_of(model).items()}
    single = []
    for row in range(N_PAIRS):
        one = make_batch(select(some_pairs(N_PAIRS), np.array([row])), model.encoder.table_kind)
        single.append(gradients(loss_of(model, weights, one), weights))
    together = gradients(loss_of(model, weights, batch, "sum"), weights)
    for parts, expected in zip(zip(*single, strict=True), together, strict=True):
        assert_close(torch.stack(parts).sum(0), expected, FLOAT64)


def forward_mode(function: Callable[[Weights], Tensor], weights: Weights) -> Any:
    with forward_ad.dual_level():
        return function(
            {name: forward_ad.make_dual(weight, weight.clone()) for name, weight in weights.items()}
        )


TRANSFORMS: dict[str, Callable[[Callable[[Weights], Tensor], Weights], Any]] = {
    "grad": lambda function, weights: grad(function)(weights),
    "jacrev": lambda function, weights: jacrev(function)(weights),
    "jvp": lambda function, weights: jvp(function, (weights,), (weights,)),
    "forward mode": forward_mode,
    "vmap": lambda function, weights: vmap(function)({k: w.expand(2, *w.shape) for k, w in weights.items()}),
    "vmap of grad": lambda function, weights: vmap(grad(function))(
        {k: w.expand(2, *w.shape) for k, w in weights.items()}
    ),
}


@pytest.mark.parametrize("kind", SPINN_KINDS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_transform_that_the_machine_does_not_take_is_one_error(transform: str, kind: str) -> None:
    model, batch = model_and_batch(kind)
    with pytest.raises(NotImplementedError, match=r"no torch\.func transforms"):
        TRANSFORMS[transform](lambda weights: loss_of(model, weights, batch), weights_of(model))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("kind", ["lstm", "bilstm", "bow"])
def test_encoders_without_trees_are_transformed(kind: str) -> None:
    model, batch = model_and_batch(kind)

    def loss(weights: Weights, labels: Tensor) -> Tensor:
        return loss_of(model, weights, batch._replace(labels=labels))

    weights = weights_of(model)
    labels = torch.stack([batch.labels, batch.labels.flip(0)])
    found = vmap(grad(loss), in_dims=(None, 0))(weights, labels)
    for row in range(2):
        own = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
        expected = gradients(loss(own, labels[row]), own)
        for ours, theirs in zip(found.values(), expected, strict=True):
            assert_close(ours[row], theirs, FLOAT64)
