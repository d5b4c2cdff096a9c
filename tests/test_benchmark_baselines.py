"""The benchmark of the encoders counts what it says, and runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import encoders, harness, memory
from benchmarks import sentences as benchmark_sentences
from tests.strategies import left_branching

pytestmark = pytest.mark.numerical

H, K = 5, 3


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
