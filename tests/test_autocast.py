"""Under autocast the products run in bfloat16, and states, gates and gradients keep their type."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from spinn_tensor import LaneTables, TransitionWeights, run_taught
from spinn_tensor.model.sequence import run_lstm
from tests.machines import (
    MACHINES,
    TABLES,
    TRACKER,
    gradients,
    parameters,
    random_leaves,
    random_transition_weights,
    random_transitions,
    random_weights,
    relative_error,
    run_tables,
)
from tests.tiny_models import LSTMS, encoder_and_batch

pytestmark = pytest.mark.numerical

BATCH = [random_transitions(np.random.default_rng(3), n) for n in (1, 7, 12, 7, 2, 20)]
CLOSE = 0.03  # eight bits of mantissa, over a dozen compositions


@pytest.mark.parametrize("name, tracked", MACHINES)
def test_bfloat16_products_are_close_and_states_stay_float32(name, tracked) -> None:
    compose, tracker = random_weights(16, 8 if tracked else None, torch.float32)
    leaves = random_leaves(BATCH, 16, torch.float32)
    inputs = parameters(leaves, compose, tracker)
    tables = TABLES[name](BATCH)
    expected = run_tables(tables, leaves, compose, tracker, BATCH, every_node=True)
    with torch.autocast("cpu", torch.bfloat16):
        got = run_tables(tables, leaves, compose, tracker, BATCH, every_node=True)
    assert got.dtype == torch.float32
    assert 1e-5 < relative_error(got, expected) < CLOSE
    for ours, theirs in zip(gradients(got, inputs), gradients(expected, inputs), strict=True):
        assert ours.dtype == torch.float32
        assert relative_error(ours, theirs) < CLOSE


def test_leaves_from_an_autocast_region_may_be_bfloat16() -> None:
    compose, tracker = random_weights(16, TRACKER, torch.float32)
    leaves = random_leaves(BATCH, 16, torch.float32).detach().bfloat16().requires_grad_()
    tables = TABLES["given"](BATCH)
    assert isinstance(tables, LaneTables)
    transition = TransitionWeights(*(weight.float() for weight in random_transition_weights()))
    with torch.autocast("cpu", torch.bfloat16):
        parse = run_taught(leaves, compose, tracker, transition, tables)
    assert parse.encodings.dtype == parse.logits.dtype == torch.float32
    (parse.encodings.sum() + parse.log_probabilities().sum()).backward()
    assert leaves.grad is not None
    assert leaves.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("name, tracked", MACHINES)
def test_autocast_leaves_float64_alone(name, tracked) -> None:
    compose, tracker = random_weights(4, TRACKER if tracked else None)
    leaves = random_leaves(BATCH, 4)
    expected = run_tables(TABLES[name](BATCH), leaves, compose, tracker, BATCH)
    with torch.autocast("cpu", torch.bfloat16):
        got = run_tables(TABLES[name](BATCH), leaves, compose, tracker, BATCH)
    assert torch.equal(got, expected)


def test_without_autocast_types_must_agree() -> None:
    compose, _ = random_weights(16, None, torch.float32)
    leaves = random_leaves(BATCH, 16, torch.float32).bfloat16()
    with pytest.raises(TypeError, match="one dtype"):
        run_tables(TABLES["forest"](BATCH), leaves, compose, None, BATCH)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, torch.dtype]]:
    """Whether autocast is on at each run of an LSTM, and the type of what it is given; filled as they run."""
    runs: list[tuple[bool, torch.dtype]] = []
    lstm = torch.lstm

    def watched(x, *arguments):
        runs.append((torch.is_autocast_enabled("cpu"), x.dtype))
        return lstm(x, *arguments)

    monkeypatch.setattr(torch, "lstm", watched)
    return runs


@pytest.mark.parametrize("kind, leaf_encoder", LSTMS)
def test_lstms_run_outside_autocast(kind, leaf_encoder, seen) -> None:
    encoder, batch = encoder_and_batch(kind, leaf_encoder)
    expected, leaves = encoder(batch), encoder.leaves(batch)
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder.leaves(batch), leaves)
        got = encoder(batch)
        assert torch.is_autocast_enabled("cpu")
    assert set(seen) == {(False, torch.float32)}
    assert got.dtype == torch.float32
    assert torch.equal(got, expected) == (kind != "spinn-pi")  # whose compositions are in bfloat16
    assert relative_error(got, expected) < CLOSE


class SeesAutocast(nn.LSTM):
    """An LSTM of whose kernels there are none here: it says what it would run under."""

    def forward(self, packed):
        self.seen = torch.is_autocast_enabled("cuda"), packed.data.dtype, packed.data.device.type
        return packed, (packed.data, packed.data)


def test_lstms_run_outside_the_autocast_of_cuda() -> None:
    """cuDNN's would be in float16, whatever type is asked for."""
    _, batch = encoder_and_batch("lstm", "projection")
    lstm = SeesAutocast(4, 4)
    with FakeTensorMode(allow_non_fake_inputs=True):
        tables = batch.sequence._replace(
            packed_order=torch.empty(batch.sequence.packed_order.shape, dtype=torch.int64, device="cuda")
        )
        words = torch.empty(len(batch.sequence.packed_order), 4, device="cuda")
        torch.set_autocast_enabled("cuda", True)
        try:
            run_lstm(lstm, words, tables)
            assert torch.is_autocast_enabled("cuda")
        finally:
            torch.set_autocast_enabled("cuda", False)
    assert lstm.seen == (False, torch.float32, "cuda")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("kind, leaf_encoder", LSTMS)
def test_lstms_run_in_the_type_of_their_weights(kind, leaf_encoder, dtype, seen) -> None:
    encoder, batch = encoder_and_batch(kind, leaf_encoder)
    expected = encoder.leaves(batch) if kind == "spinn-pi" else encoder(batch)
    encoder.to(dtype)
    seen.clear()
    got = encoder.leaves(batch) if kind == "spinn-pi" else encoder(batch)
    assert set(seen) == {(False, dtype)}
    assert got.dtype == dtype
    assert relative_error(got, expected) < CLOSE
