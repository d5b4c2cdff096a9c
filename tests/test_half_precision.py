"""What docs/limits.md says of models in float16 and bfloat16: forward and backward run, close to float32."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from torch import nn

from spinn_tensor import Pipeline, make_sentence_batch
from spinn_tensor.config import ENCODER_KINDS
from spinn_tensor.model.encoder import SentenceEncoder
from spinn_tensor.normalization import MaskedBatchNorm
from tests.machines import relative_error
from tests.tiny_bundles import TEXTS
from tests.tiny_bundles import tiny_model as model_with_words
from tests.tiny_models import some_columns, tiny_model

pytestmark = pytest.mark.numerical

DTYPES = [torch.float16, torch.bfloat16]
ENCODERS = [(kind, "projection") for kind in ENCODER_KINDS] + [("spinn-pi", "bilstm")]


def roundings(dtype: torch.dtype) -> float:
    """The relative error of thirty roundings in a row: trees here are a dozen compositions high."""
    return 30 * torch.finfo(dtype).eps


def encoder_of(kind: str, leaf_encoder: str) -> SentenceEncoder:
    encoder = tiny_model("pair", kind, leaf_encoder=leaf_encoder, hidden_dim=16).encoder
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return encoder


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind, leaf_encoder", ENCODERS)
@pytest.mark.parametrize("training", [False, True])
def test_forward_and_backward_are_close_to_float32(
    kind: str, leaf_encoder: str, training: bool, dtype: torch.dtype
) -> None:
    wide = encoder_of(kind, leaf_encoder).train(training)
    narrow = copy.deepcopy(wide).to(dtype)
    # given trees: by a rounded score an encoder may choose another tree of its own, which is no small error
    table_kind = "lanes" if wide.table_kind == "own" else wide.table_kind
    batch = make_sentence_batch(some_columns(), table_kind, share=wide.sharing(table_kind))
    expected, got = wide(batch), narrow(batch)
    assert got.dtype == dtype
    assert 1e-6 < relative_error(got.float(), expected) < roundings(dtype)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    (expected * direction).sum().backward()
    (got * direction.to(dtype)).sum().backward()
    compared = 0
    for ours, theirs in zip(narrow.parameters(), wide.parameters(), strict=True):
        if theirs.grad is None or theirs.grad.norm() < 1e-3:
            continue  # a bias before batch norm: nothing but rounding
        assert ours.grad is not None
        assert ours.grad.dtype == dtype
        assert relative_error(ours.grad.float(), theirs.grad) < 2 * roundings(dtype)
        compared += 1
    assert compared


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("task, kind", [("pair", "spinn-pi"), ("sentence", "lstm"), ("parse", "spinn")])
def test_a_pipeline_takes_a_narrow_model(task: str, kind: str, dtype: torch.dtype) -> None:
    branching = "left" if kind == "spinn-pi" else None
    wide, narrow = (
        Pipeline(model_with_words(kind, task).to(made_of), branching=branching)
        for made_of in (torch.float32, dtype)
    )
    if task == "parse":
        words, expected_words = (
            [re.sub("[()]", "", tree).split() for tree in pipeline.parse(TEXTS)]
            for pipeline in (narrow, wide)
        )
        assert words == expected_words
        return
    encodings = narrow.encode(TEXTS)
    assert encodings.dtype == np.float32
    assert np.abs(encodings - wide.encode(TEXTS)).max() < roundings(dtype)
    sides = (TEXTS, TEXTS[::-1]) if task == "pair" else (TEXTS,)
    for got, expected in zip(narrow.classify(*sides), wide.classify(*sides), strict=True):
        shares = got.probabilities
        assert sum(shares.values()) == pytest.approx(1, abs=roundings(dtype))
        assert shares == pytest.approx(expected.probabilities, abs=roundings(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_over_more_rows_than_float16_can_count(dtype: torch.dtype) -> None:
    x = torch.randn(70_000, 2, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(70_000) < 69_990
    wide = MaskedBatchNorm(2).train()
    narrow = copy.deepcopy(wide).to(dtype)
    expected, got = wide(x, mask), narrow(x.to(dtype), mask)
    assert relative_error(got.float(), expected) < roundings(dtype)
    assert narrow.running_var.isfinite().all()
