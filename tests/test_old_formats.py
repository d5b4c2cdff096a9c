"""What version before-13 of this package wrote (format version 2) is read as it was: files in tests/formats/2.

`spinn prepare`, `train`, `export` and `encode` wrote them, a model of width 4; expected.json has what that version's
`Pipeline`, `OnnxPredictor` and a run resumed for two more epochs said of four pairs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from spinn_tensor import Pipeline, load_checkpoint
from spinn_tensor.cli.main import main
from spinn_tensor.encoding import read_manifest, read_shards
from spinn_tensor.tensor_files import CheckpointError
from spinn_tensor.training.run import execute, saved_run
from tests.closeness import FLOAT32, assert_close
from tests.damage import change_json, change_tensors

FILES = Path(__file__).parent / "formats" / "2"
EXPECTED = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))
# Steps in float32 make more of rounding: 1e-7 on the weights becomes 1.1e-5, torch 2.11 differs by 2.9e-5;
# the optimizer's squares read at half their size would differ by 6e-3.
TRAINED = 3e-4


def agrees(model: Any, key: str, bound: float = FLOAT32) -> None:
    """Assert that a pipeline or predictor says what the version that wrote the files said."""
    expected = EXPECTED[key]
    said = model.classify(EXPECTED["premises"], EXPECTED["hypotheses"])
    assert [one.label for one in said] == expected["labels"]
    probabilities = [list(one.probabilities.values()) for one in said]
    assert_close(probabilities, expected["probabilities"], bound)
    encodings = model.encode(EXPECTED["premises"])
    assert_close(encodings, expected["encodings"], bound)
    assert model.parse(EXPECTED["premises"]) == expected["parses"]


@pytest.fixture
def one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def test_a_checkpoint_predicts_what_it_did(one_thread: None) -> None:
    agrees(Pipeline.from_pretrained(FILES / "run", device="cpu"), "checkpoint")


def test_an_export_predicts_what_it_did() -> None:
    pytest.importorskip("onnxruntime")
    from spinn_tensor.export.predictor import OnnxPredictor

    predictor = OnnxPredictor(FILES / "onnx", provider="cpu", threads=1)
    agrees(predictor, "onnx")
    assert predictor.parses("A dog barks.").log_probability is None  # its graph does not tell


def resumed(folder: Path) -> Any:
    """Go on for two more epochs."""
    run = saved_run(folder)
    assert run is not None
    return execute(run.changed(training__epochs=6, data__data=str(FILES / "store")), folder, resume=True)


def test_a_run_on_a_store_goes_on_as_it_would_have(tmp_path: Path, one_thread: None) -> None:
    shutil.copytree(FILES / "run", tmp_path / "run")
    results = resumed(tmp_path / "run")
    assert results.progress.step == EXPECTED["resumed"]["step"]
    agrees(Pipeline(load_checkpoint(tmp_path / "run" / "last").model), "resumed", TRAINED)


STATE, COUNTERS = "training_state.safetensors", "training_state.json"
AVERAGE = "optimizer/square_avg/mlp.output.bias"


@pytest.mark.parametrize(
    "damage, named",
    [
        (change_tensors(STATE, lambda t: t.update(extra=torch.zeros(1))), f"{STATE}: tensor 'extra'"),
        (
            change_tensors(STATE, lambda t: t.update({"rng/tpu": torch.zeros(1)})),
            f"{STATE}: tensor 'rng/tpu'",
        ),
        (change_tensors(STATE, lambda t: t.update({"optimizer/step/ghost": torch.zeros(())})), "step/ghost"),
        (change_tensors(STATE, lambda t: t.update({"method/x": torch.zeros(1)})), f"{STATE}: tensor 'x'"),
        (change_tensors(STATE, lambda t: t.pop(AVERAGE)), f"{STATE}: tensor 'square_avg of mlp.output.bias'"),
        (
            change_tensors(STATE, lambda t: [t.pop(AVERAGE), t.pop(AVERAGE.replace("square_avg", "step"))]),
            f"{STATE}: parameter 'mlp.output.bias'",
        ),
        (change_tensors(STATE, lambda t: t.update({AVERAGE: torch.zeros(7)})), f"{STATE}: .* has shape"),
        (change_json(COUNTERS, lambda c: c.pop("step")), f"{COUNTERS}: "),
        (
            change_json(COUNTERS, lambda c: c["optimizer_parameters"].append("ghost")),
            f"{STATE}: parameter 'ghost'",
        ),
    ],
)
def test_a_damaged_training_state_is_refused_by_its_file(
    damage: Callable[[Path], None], named: str, tmp_path: Path
) -> None:
    shutil.copytree(FILES / "run", tmp_path / "run")
    damage(tmp_path / "run" / "last")
    with pytest.raises(CheckpointError, match=named) as error:
        resumed(tmp_path / "run")
    assert "\n" not in str(error.value)


def test_shards_are_read_and_a_killed_job_goes_on(tmp_path: Path) -> None:
    shutil.copytree(FILES / "killed", tmp_path / "shards")
    (tmp_path / "shards" / "shard-00000.npy").touch()
    before = (tmp_path / "shards" / "shard-00000.npy").stat().st_mtime_ns
    arguments = ["--input", str(FILES / "lines.txt"), "--output", str(tmp_path / "shards")]
    assert main(["encode", str(FILES / "run"), *arguments, "--shard-size", "2", "--on-error", "skip"]) == 0
    assert (tmp_path / "shards" / "shard-00000.npy").stat().st_mtime_ns == before, "it was whole"
    made, expected = (read_manifest(folder)["shards"] for folder in (tmp_path / "shards", FILES / "shards"))
    assert [{**entry, **old} for entry, old in zip(made, expected, strict=True)] == made
    for made, expected in zip(read_shards(tmp_path / "shards"), read_shards(FILES / "shards"), strict=True):
        assert_close(made, expected)
