"""The baselines compute what they are timed for, the oracle is right, and the benchmark runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from benchmarks import dynamic, encoders, harness, memory
from benchmarks import sentences as benchmark_sentences
from tests.oracle import compose, encode_tree, oracle_batch
from tests.strategies import batches_of_transitions, binary_transitions, left_branching, right_branching

pytestmark = pytest.mark.numerical

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "data" / "golden"
H, K = 5, 3
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


class Compose(NamedTuple):
    """Attributes of `ComposeWeights`; the baselines ask for no more."""

    weight: Tensor
    bias: Tensor
    tracker_weight: Tensor | None


class Tracker(NamedTuple):
    """Attributes of `TrackerWeights`."""

    weight_input: Tensor
    weight_hidden: Tensor
    bias: Tensor


def make_weights(tracker: bool, seed: int = 0) -> tuple[Compose, Tracker | None]:
    """Random float64 weights that require gradients."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).mul_(0.5).requires_grad_()

    weights = Compose(normal(5 * H, 2 * H), normal(5 * H), normal(5 * H, K) if tracker else None)
    return weights, Tracker(normal(4 * K, 3 * H), normal(4 * K, K), normal(4 * K)) if tracker else None


def parameters(weights: Compose, tracker: Tracker | None) -> list[Tensor]:
    """All weights that are there."""
    return [tensor for tensor in (*weights, *(tracker or ())) if tensor is not None]


def make_leaves(batch: Sequence[np.ndarray], seed: int = 1) -> Tensor:
    """Random packed leaves (L, 2H) for these transitions."""
    n_leaves = sum((len(codes) + 1) // 2 for codes in batch)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_leaves, 2 * H, dtype=torch.float64, generator=generator).requires_grad_()


def gradients(roots: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Of a sum that weighs every entry of the roots' h differently; zeros where an input is not used."""
    h = roots[:, : roots.shape[1] // 2]
    loss = (h * torch.linspace(-1, 1, h.numel(), dtype=h.dtype).view_as(h)).sum()
    if not loss.requires_grad:
        return [torch.zeros_like(tensor) for tensor in inputs]
    return list(torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("tracker", [False, True])
@settings(max_examples=40)
@given(batch=batches_of_transitions())
def test_dynamic_batching_equals_oracle(tracker: bool, batch: list[np.ndarray]) -> None:
    weights, tracker_weights = make_weights(tracker)
    leaves = make_leaves(batch)
    inputs = [leaves, *parameters(weights, tracker_weights)]
    expected = oracle_batch(leaves, [codes.tolist() for codes in batch], weights, tracker_weights)
    got = dynamic.encode_batch(leaves, [codes.tolist() for codes in batch], weights, tracker_weights)
    torch.testing.assert_close(got, expected, **CLOSE)
    torch.testing.assert_close(gradients(got, inputs), gradients(expected, inputs), **CLOSE)


@settings(max_examples=40)
@given(transitions=binary_transitions())
def test_oracle_pushes_the_composition_of_every_subtree(transitions: np.ndarray) -> None:
    """Without tracker a node's state depends on its subtree alone, found here by recursion from the top."""
    weights, _ = make_weights(tracker=False)
    leaves = make_leaves([transitions])
    pushed = encode_tree(leaves, transitions, weights)

    def state_ending_at(step: int, n_words: int) -> tuple[Tensor, int, int]:
        """Of the node pushed at `step`, with `n_words` shifted: its state, its first step, words before."""
        if transitions[step] == 0:
            return leaves[n_words - 1], step, n_words - 1
        right, first_of_right, before_right = state_ending_at(step - 1, n_words)
        left, first, before = state_ending_at(first_of_right - 1, before_right)
        return compose(weights, left, right), first, before

    words = np.cumsum(transitions == 0)
    for step, state in enumerate(pushed):
        torch.testing.assert_close(state, state_ending_at(step, int(words[step]))[0], **CLOSE)


def test_oracle_tracker_is_an_lstm_cell_on_the_stack_before_the_action() -> None:
    """The reads of ( a ( b c ) ) written down by hand, against torch's own cell."""
    weights, tracker = make_weights(tracker=True)
    assert tracker is not None
    leaves = make_leaves([right_branching(3)])
    pushed = encode_tree(leaves, right_branching(3), weights, tracker)
    a, b, c = leaves
    null = torch.zeros_like(a)
    reads = [(a, null, null), (b, a, null), (c, b, a), (null, c, b), (null, pushed[3], a)]
    cell = torch.nn.LSTMCell(3 * H, K, dtype=torch.float64)
    with torch.no_grad():
        cell.weight_ih.copy_(tracker.weight_input)
        cell.weight_hh.copy_(tracker.weight_hidden)
        cell.bias_ih.copy_(tracker.bias)
        cell.bias_hh.zero_()
    states = None
    outputs = []
    for read in reads:
        states = cell(torch.cat([state[:H] for state in read])[None], states)
        outputs.append(states[0][0])
    torch.testing.assert_close(pushed[3], compose(weights, b, c, outputs[3]), **CLOSE)
    torch.testing.assert_close(pushed[4], compose(weights, a, pushed[3], outputs[4]), **CLOSE)


@pytest.mark.skipif(not GOLDEN.exists(), reason="../shared/data/golden is not here")
@pytest.mark.parametrize("encode", [oracle_batch, dynamic.encode_batch])
@pytest.mark.parametrize("name", ["no_tracker", "tracker"])
def test_recorded_outputs_and_gradients_of_2017(encode: Any, name: str) -> None:
    with np.load(GOLDEN / f"spinn2017_{name}.npz") as file:
        golden = {key: torch.from_numpy(file[key]) for key in file if file[key].ndim}
    given_weights = [
        key.removeprefix("grad_") for key in golden if key.startswith("grad_") and key != "grad_leaf"
    ]
    inputs = {key: golden[key].clone().requires_grad_() for key in ["leaf", *given_weights]}
    both_children = torch.cat([inputs["compose_left_weight"], inputs["compose_right_weight"]], 1)
    weights = Compose(both_children, inputs["compose_bias"], inputs.get("compose_track_weight"))
    tracker = None
    if name == "tracker":
        bias = inputs["tracker_bias_ih"] + inputs["tracker_bias_hh"]
        tracker = Tracker(inputs["tracker_weight_ih"], inputs["tracker_weight_hh"], bias)
    lengths = golden["lengths"].tolist()
    leaves = torch.cat([words[:n] for words, n in zip(inputs["leaf"], lengths, strict=True)])
    transitions = [codes[codes >= 0].tolist() for codes in golden["transitions"]]

    roots = encode(leaves, transitions, weights, tracker)
    root_h = roots[:, : roots.shape[1] // 2]
    torch.testing.assert_close(root_h, golden["root_h"], rtol=1e-10, atol=1e-10)
    computed = torch.autograd.grad((root_h * golden["loss_weight"]).sum(), list(inputs.values()))
    for key, gradient in zip(inputs, computed, strict=True):
        torch.testing.assert_close(gradient, golden[f"grad_{key}"], rtol=1e-10, atol=1e-10)


def test_counted_flops_by_hand() -> None:
    trees = [left_branching(3), left_branching(1)]  # 2 REDUCE, 5 + 1 transitions
    compose_products = 2 * (2 * 5 * H * (2 * H))
    assert harness.encoder_flops(trees, H, 0) == compose_products
    with_tracker = compose_products + 2 * (2 * 5 * H * K) + 6 * (2 * 4 * K * (3 * H + K))
    assert harness.encoder_flops(trees, H, K) == with_tracker


def test_operators_are_counted_inside_and_without_views() -> None:
    x = torch.randn(4, 6, requires_grad=True)
    assert harness.count_operators(lambda: x.view(2, 12).t()[1:].unsqueeze(0)) == 0
    assert harness.count_operators(lambda: torch.nn.functional.linear(x, x)) == 1
    assert harness.count_operators(lambda: x.detach().tanh().reshape(3, 8).sigmoid()) == 2
    # tanh, sum; in the backward pass: ones (a fill), tanh_backward
    assert harness.count_operators(lambda: torch.autograd.grad(x.tanh().sum(), x)) == 4


def test_random_trees_of_the_benchmark_are_trees() -> None:
    rng = np.random.default_rng(0)
    for n_tokens in (1, 2, 3, 20):
        transitions = benchmark_sentences.random_transitions(n_tokens, rng)
        depths = np.cumsum(1 - 2 * transitions)
        assert len(transitions) == 2 * n_tokens - 1
        assert depths.min() >= 1
        assert depths[-1] == 1


def test_interleaved_times_every_round_and_warms_up() -> None:
    calls: list[str] = []

    def case(name: str) -> Any:
        return lambda: calls.append(name) or 1.0

    seconds = harness.interleaved([{"a": case("a"), "b": case("b")}], range(-1, 2))
    assert seconds == [{"a": [1.0, 1.0], "b": [1.0, 1.0]}]
    assert calls == ["b", "a", "a", "b", "b", "a"]


@pytest.mark.parametrize("candidate, tracker", [("given transitions", "3"), ("forest", "0")])
def test_peak_memory_is_measured(candidate: str, tracker: str, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--tokens", "6", "--batch", "1024", "--dim", "256", "--tracker", tracker]
    n_threads = torch.get_num_threads()
    memory.main(["--candidate", candidate, *sizes, "--threads", str(n_threads)])
    states = 1024 * 11 * 2 * 256 * 4  # bytes, too many to be lost in how the kernel counts pages
    assert json.loads(capsys.readouterr().out)["peak_bytes"] > states


def test_benchmark_runs_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    n_threads = torch.get_num_threads()
    out = tmp_path / "results" / "encoders.json"
    try:
        encoders.main(["--quick", "--no-memory", "--sentences", "random", "--out", str(out)])
    finally:
        torch.set_num_threads(n_threads)
    result = json.loads(out.read_text())
    modes = {(record["mode"], record["tracker"]) for record in result["speed"]}
    assert modes == {(mode, tracker) for mode in ("forward", "forward + backward") for tracker in (0, 4)}
    for record in result["speed"]:
        assert all(measured["sentences_per_s"] > 0 for measured in record["candidates"].values())
    assert all(min(record["counts"].values()) > 0 for record in result["operators"])
    assert "| dynamic batching |" in out.with_suffix(".md").read_text()
    assert "dynamic" in capsys.readouterr().out
