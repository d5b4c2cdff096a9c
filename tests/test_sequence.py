"""LSTMs over sentences of differing lengths: torch's own, but for the time that their backward takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_sequence, unpack_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from spinn_tensor.batch import sequence_tables
from spinn_tensor.model.sequence import run_lstm
from tests.closeness import FLOAT64, assert_close

pytestmark = pytest.mark.numerical

LENGTHS = [[1], [5], [1, 1, 1], [4, 4, 4], [7, 6, 5, 4, 3, 2, 1], [1, 9, 9, 2, 2], [30, 1, 1, 1, 29]]


def inputs(n_tokens: list[int], bidirectional: bool) -> tuple[nn.LSTM, Tensor]:
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 5, bidirectional=bidirectional, dtype=torch.float64)
    return lstm, torch.randn(sum(n_tokens), 3, dtype=torch.float64, requires_grad=True)


def run_ours(lstm: nn.LSTM, words: Tensor, n_tokens: list[int]) -> tuple[Tensor, Tensor]:
    tables = sequence_tables(np.array(n_tokens))
    outputs, h = run_lstm(lstm, words, tables)
    return outputs.index_select(0, tables.packed_order.argsort()), h


def run_torch(lstm: nn.LSTM, words: Tensor, n_tokens: list[int]) -> tuple[Tensor, Tensor]:
    outputs, (h, _) = lstm(pack_sequence(list(words.split(n_tokens)), enforce_sorted=False))
    return torch.cat(unpack_sequence(outputs)), h


def check(n_tokens: list[int], bidirectional: bool) -> None:
    lstm, words = inputs(n_tokens, bidirectional)
    found = []
    for run in (run_ours, run_torch):
        outputs, h = run(lstm, words, n_tokens)
        loss = (outputs**3).sum() + (h * torch.linspace(-1, 2, h.numel()).view_as(h)).sum()
        found.append([outputs, h, *torch.autograd.grad(loss, [words, *lstm.parameters()])])
    for ours, theirs in zip(*found, strict=True):
        assert_close(ours, theirs, FLOAT64)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["forth", "both"])
@pytest.mark.parametrize("n_tokens", LENGTHS, ids=str)
def test_outputs_and_gradients_are_those_of_torch(n_tokens: list[int], bidirectional: bool) -> None:
    check(n_tokens, bidirectional)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.booleans())
def test_of_any_lengths(n_tokens: list[int], bidirectional: bool) -> None:
    check(n_tokens, bidirectional)


def test_an_lstm_that_is_more_than_a_layer_is_called() -> None:
    """Of two layers the first alone was taken, and of a pruned one what its weights once were."""
    n_tokens = [3, 5, 1]
    for lstm in (
        nn.LSTM(3, 4, num_layers=2, bidirectional=True),
        nn.LSTM(3, 4, bias=False),
        nn.LSTM(3, 4, proj_size=2),
    ):
        words = torch.randn(sum(n_tokens), 3)
        outputs, h = run_ours(lstm, words, n_tokens)
        expected, expected_h = run_torch(lstm, words, n_tokens)
        assert torch.equal(outputs, expected)
        assert torch.equal(h, expected_h)
    lstm, words = inputs(n_tokens, False)
    prune.random_unstructured(lstm, "weight_hh_l0", 0.5)
    with torch.no_grad():
        lstm.weight_hh_l0_orig.add_(1)
    for _ in range(2):
        outputs, _ = run_ours(lstm, words, n_tokens)
        outputs.sum().backward()
    assert_close(outputs, run_torch(lstm, words, n_tokens)[0], FLOAT64)


class CountsNumbers(TorchDispatchMode):
    """Counts the numbers that all operators make."""

    n_numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        parts = made if isinstance(made, tuple | list) else [made]
        self.n_numbers += sum(part.numel() for part in parts if isinstance(part, Tensor))
        return made


@pytest.mark.parametrize("bidirectional", [False, True], ids=["forth", "both"])
def test_the_backward_is_linear_in_the_words(bidirectional: bool) -> None:
    """Twice as many words make it twice as many numbers; torch's own makes four times as many."""
    made = []
    for length in (200, 400):
        n_tokens = [length, length // 2, 7, 1]
        lstm, words = inputs(n_tokens, bidirectional)
        _, h = run_ours(lstm, words, n_tokens)
        with CountsNumbers() as counts:
            h.sum().backward()
        made.append(counts.n_numbers)
    assert made[1] < 2.2 * made[0]
