"""The GPU record and the comparison of compiled steps run, on a CPU and tiny models, and say what they measured."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import compiled, gpu, gpu_encoders, gpu_measure, gpu_pairs
from spinn_tensor.data_prep.columns import lengths
from tests.strategies import left_branching, right_branching
from tests.tiny_runs import same_threads, write_pairs

keep_threads = pytest.fixture(autouse=True)(same_threads)
REPORTED = {"float32", "bfloat16"}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def few_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> gpu_pairs.Pairs:
    """Tiny pairs wherever a benchmark loads some."""
    pairs = gpu_pairs.load_pairs(str(write_pairs(tmp_path / "pairs.jsonl", 40, seed=1)))
    for module in (gpu, compiled):
        monkeypatch.setattr(module, "load_pairs", lambda *_: pairs)
    return pairs


@pytest.mark.usefixtures("few_pairs")
def test_the_record_runs_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees = [branching(n) for n in (2, 3, 5, 6) for branching in (left_branching, right_branching)]
    monkeypatch.setattr(gpu, "load_sentences", lambda _: type("Few", (), {"transitions": trees}))
    monkeypatch.setattr(gpu, "POOL", 12)
    monkeypatch.setattr(gpu_measure, "ROUND_SECONDS", 0.0)
    out = tmp_path / "gpu.json"
    gpu.main(["--quick", "--device", "cpu", "--workers", "1", "--out", str(out)])
    result = json.loads(out.read_text())
    assert {row["precision"] for row in result["correctness"]} == {"float64", *REPORTED}
    assert result["left_out"] == []
    rows = result["encoders"]
    assert {(row["tracker"], row["pass"]) for row in rows} == {
        (tracker, passes) for tracker in (0, 4) for passes in gpu_encoders.PASSES
    }
    modes = {(mode, name) for mode in gpu_encoders.MODES for name in REPORTED}
    modes |= {(gpu_encoders.DYNAMIC, "float32"), *((gpu_encoders.LSTM, name) for name in REPORTED)}
    for tracker in (0, 4):
        some = [row for row in rows if row["tracker"] == tracker and row["pass"] == gpu_encoders.BOTH]
        assert {(row["mode"], row["precision"]) for row in some} == modes
        assert all(row["sentences_per_s"] > 0 and row["kernels"] > 0 for row in some)
    for row in result["epochs"]:
        assert (row["n_trained"], row["n_steps"]) == (40, 3)
        assert row["n_ragged_steps"] < 3
        assert row["n_shapes"] >= 1
    text = out.with_suffix(".md").read_text()
    assert "| spinn-pi | float32 | 16 | 40 of 40 |" in text
    assert "| 4 | 4 | captured | bfloat16 |" in text


@pytest.mark.usefixtures("few_pairs")
def test_what_there_is_no_time_for_is_said(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    gpu.main(["--quick", "--device", "cpu", "--seconds", "0.01", "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["encoders"] == []
    assert result["epochs"] == []
    assert len(result["left_out"]) == 4  # two trackers, two models
    assert "left out for want of time: epoch of spinn-pi in float32" in out.with_suffix(".md").read_text()


def test_wrong_results_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    options = gpu._parse(["--quick", "--device", "cpu"])
    right = gpu_encoders.outputs
    trees = [left_branching(4), right_branching(5)]

    def wrong(batch, weights, tables, name):
        roots, *gradients = right(batch, weights, tables, name)
        return roots, *gradients[:-1], gradients[-1] * (1.001 if roots.dtype == torch.float32 else 1)

    monkeypatch.setattr(gpu_encoders, "outputs", wrong)
    with pytest.raises(RuntimeError, match="'precision': 'float32'"):
        gpu.correctness(trees, options, torch.device("cpu"), ("float32",))


def test_a_precision_that_the_encoder_refuses_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    options = gpu._parse(["--quick", "--device", "cpu"])

    def refuses(batch, weights, tables, name):
        if name == "bfloat16":
            raise TypeError("not in bfloat16")

    monkeypatch.setattr(gpu_encoders, "outputs", refuses)
    usable, left_out = gpu.usable_precisions(
        ("float32", "bfloat16"), [left_branching(2)], options, torch.device("cpu")
    )
    assert usable == ("float32",)
    assert left_out == {"bfloat16": "not in bfloat16"}


def test_batches_are_of_like_length_and_of_all_lengths() -> None:
    trees = [left_branching(n) for n in range(1, 31)]
    batches = gpu.batches_of(trees, size=100)
    n_tokens = [[(len(codes) + 1) // 2 for codes in batch] for batch in batches]
    assert [len(batch) for batch in batches] == [100] * 3
    np.testing.assert_allclose([np.mean(batch) for batch in n_tokens], [5, 15, 25], atol=1)
    assert all(max(batch) - min(batch) <= 1 for batch in n_tokens)


def test_a_batch_is_not_one_tree_many_times_over() -> None:
    trees = [branching(7) for branching in (left_branching, right_branching)]
    for batch in gpu.batches_of(trees, size=50):
        assert 10 < sum(codes is trees[0] for codes in batch) < 40


def test_repeated_pairs_keep_the_distribution_of_lengths(few_pairs: gpu_pairs.Pairs) -> None:
    columns = gpu_pairs.repeated(few_pairs.columns, 100)
    n = lengths(few_pairs.columns.sides[0])
    assert len(columns.labels) == 100
    assert lengths(columns.sides[0])[:80].tolist() == [*n, *n]
    assert (
        len(set(lengths(columns.sides[1])[80:].tolist()) - set(lengths(columns.sides[1])[:80].tolist())) == 0
    )


def test_the_floor_counts_products_and_traffic() -> None:
    trees = [left_branching(3), right_branching(2)]  # 3 compositions, 8 transitions
    products = 3 * 2 * (2 * 10) * 50
    assert gpu_encoders.floor_seconds(trees, 10, 0, gpu_encoders.FORWARD, 1.0, 1e30) == products
    assert gpu_encoders.floor_seconds(trees, 10, 0, gpu_encoders.BOTH, 2.0, 1e30) == 1.5 * products
    numbers = 3 * 6 * 10 + 20 * 50
    assert gpu_encoders.floor_seconds(trees, 10, 0, gpu_encoders.FORWARD, 1e30, 4.0) == numbers
    gates = 2 * 3 * 50
    assert gpu_encoders.floor_seconds(trees, 10, 0, gpu_encoders.BOTH, 1e30, 4.0) == 3 * numbers + gates


def test_precisions_are_put_back() -> None:
    settings = torch.backends.cuda.matmul, torch.backends.cudnn.rnn
    before = [setting.fp32_precision for setting in settings]
    for name, expected in (("tf32", "tf32"), ("float32", "ieee"), ("bfloat16", "ieee")):
        with gpu_measure.precision(name):
            assert {setting.fp32_precision for setting in settings} == {expected}
        assert [setting.fp32_precision for setting in settings] == before


def test_no_datasets_library_is_needed() -> None:
    program = (
        "import sys, benchmarks.gpu; print(sorted({'datasets', 'pyarrow', 'rich'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.usefixtures("few_pairs")
def test_the_comparison_of_compiled_steps_runs_and_says_how_far_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "compiled.json"
    compiled.main(["--quick", "--kinds", "spinn-pi-nt", "--out", str(out)])
    (row,) = json.loads(out.read_text())["rows"]
    assert row["largest_loss_difference"] < 1e-10
    assert row["times_eager"] > 0
    assert 2 <= row["graphs"] <= 7
    assert "| spinn-pi-nt |" in out.with_suffix(".md").read_text()
    said = capsys.readouterr().err
    assert "spinn-pi-nt, torch.float32: compiling\n" in said
    assert re.search(r"spinn-pi-nt, torch.float64: compiled in \d+ s; 4 steps of each\n", said)
