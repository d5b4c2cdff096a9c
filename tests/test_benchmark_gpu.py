"""The GPU benchmark, here on the CPU: its epochs, baselines and tables, and what it leaves out for want of time."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import data, gpu, gpu_cases, gpu_kernels
from spinn_tensor.bundles import LaneTables
from spinn_tensor.data_prep.trees import SHIFT
from spinn_tensor.machine.buffers import counts_of
from spinn_tensor.machine.choice import Case
from tests.strategies import left_branching, right_branching
from tests.tiny_runs import write_pairs


@pytest.fixture(autouse=True)
def pairs_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write tiny pairs, which are the slice."""
    monkeypatch.setattr(data, "SNLI_SLICE", write_pairs(tmp_path / "pairs.jsonl", 40, seed=1))


def test_what_there_is_no_time_for_is_said(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    gpu.main(["--quick", "--device", "cpu", "--seconds", "0.01", "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["encoders"] == result["epochs"] == []
    assert len(result["left_out"]) == 4  # two trackers, two models


def test_an_epoch_has_its_time_when_all_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of what warming up has left; what it takes would else be the time of hundreds of steps."""
    now = [0.0]
    monkeypatch.setattr(gpu_cases.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(gpu_cases.TrainStep, "warm_up", lambda *_: now.__setitem__(0, now[0] + 100))
    seen: list[float] = []
    monkeypatch.setattr(gpu_cases, "_train", lambda *arguments: seen.append(arguments[-1].left) or {})
    options = gpu._parse(["--quick", "--device", "cpu"])
    gpu_cases.run_epoch(
        "spinn-pi", "float32", options, data.load_pairs(options.snli), gpu_cases.Budget(160), 0.5
    )
    assert seen == [30]


def test_an_epoch_is_fed_as_training_is_and_traced(tmp_path: Path) -> None:
    options, trace = gpu._parse(["--quick", "--device", "cpu"]), tmp_path / "trace.json.gz"
    pairs, budget = data.load_pairs(options.snli), gpu_cases.Budget(600)
    row = gpu_cases.run_epoch("spinn-pi-nt", "float32", options, pairs, budget, 1.0, trace)
    assert (row["n_trained"], row["n_steps"], row["n_ragged_steps"]) == (40, 3, 0)
    names = [event.get("name") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]]
    assert names.count("spinn_tensor::stack_machine_backward") == gpu_cases.TRACED


@pytest.mark.parametrize("size, is_timed", [(2, True), (3, False)])
def test_dynamic_batching_is_timed_for_small_batches(
    size: int, is_timed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_cases, "DYNAMIC_UP_TO", 2)
    device, weights = torch.device("cpu"), gpu_cases.candidates.make_weights(4, 0)
    batch = gpu_cases.make_tree_batch([left_branching(3)] * size, 4, False, device, torch.float32)
    calls = gpu_cases.baselines(batch, weights, gpu_cases.FORWARD, ["float32"])
    lstms = {(gpu_cases.LSTM, "float32"), (gpu_cases.CAPTURED_LSTM, "float32")}
    assert set(calls) == lstms | ({(gpu_cases.DYNAMIC, "float32")} if is_timed else set())
    plain, captured = (calls[lstm, "float32"]() for lstm in (gpu_cases.LSTM, gpu_cases.CAPTURED_LSTM))
    assert torch.equal(plain[0], captured)
    assert not weights.lstm.training  # forward alone, as in inference


def test_lanes_of_fixed_width_compose_from_where_they_can() -> None:
    """As those that training plans."""
    trees = [branching(5) for branching in (left_branching, right_branching)] * 4
    batch = gpu_cases.make_tree_batch(trees, 4, True, torch.device("cpu"), torch.float32)
    tables = batch.tables[gpu_cases.FIXED]
    assert isinstance(tables, LaneTables)
    assert counts_of(tables.reduce_offsets) == [0, 0, *[5] * (len(tables.entry_offsets.tolist()) - 3)]


def test_the_table_of_kernels_holds_what_was_the_fastest_up_to_which_width() -> None:
    fastest = {64: "steps", 256: "steps", 512: "cells", 1024: "off"}
    of_all = {"capability": (9, 0), "precision": "tf32", "tracker": 64}
    rows = [of_all | {"widest": widest, "fastest": fastest[widest]} for widest in (1024, 64, 512, 256)]
    rows += [of_all | {"tracker": None, "widest": 64, "fastest": "cells"}, rows[0] | {"capability": None}]
    entries = gpu_kernels.measured(rows)
    assert entries == {
        Case((9, 0), "tf32", True): (("steps", 256), ("cells", 512), ("off", math.inf)),
        Case((9, 0), "tf32", False): (("cells", math.inf),),
    }
    lines = "".join(line.strip("`") for line in gpu_kernels.as_source(entries))
    assert eval(f"{{{lines}}}", {"Case": Case, "math": math}) == entries


def test_batches_on_the_gpu_are_of_like_length_of_all_lengths_and_of_many_trees() -> None:
    trees = [branching(n) for n in range(1, 31) for branching in (left_branching, right_branching)]
    batches = gpu.batches_of(trees, size=100)
    n_tokens = [data.n_tokens_of(batch) for batch in batches]
    assert [len(batch) for batch in batches] == [100] * 3
    np.testing.assert_allclose([n.mean() for n in n_tokens], [5, 15, 25], atol=1)
    assert all(np.ptp(n) <= 1 for n in n_tokens)
    assert all(20 < sum(codes[2] == SHIFT for codes in batch) < 80 for batch in batches)
