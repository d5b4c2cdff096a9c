"""The documents' examples of downstream code run: from spinn_tensor alone, or without torch."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spinn_tensor.cli.main import main
from tests.closeness import assert_close
from tests.processes import run_program
from tests.tiny_bundles import LABELS, tiny_bundle

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = "\n\n".join(path.read_text("utf-8") for path in PAGES)


PROGRAMS = [block for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if ">>>" not in block]
# each has a test
RUN = "Pipeline.from_pretrained", "OnnxPredictor", "InferenceSession", "load_checkpoint", "torch.jit.load"


def example_with(text: str) -> str:
    """The only program of the documents in which the text stands."""
    (example,) = [block for block in PROGRAMS if text in block]
    return example


def test_every_block_of_python_is_run() -> None:
    """Those with prompts by test_readme.py, programs here; and none is hidden among the commands."""
    assert sorted(map(example_with, RUN)) == sorted(PROGRAMS)
    assert not re.findall(r"^    (?:import|from) .*", TEXT, re.MULTILINE)


def test_the_downstream_example_runs(tmp_path: Path) -> None:
    example = example_with("Pipeline.from_pretrained")
    assert len(example.splitlines()) <= 10
    assert set(re.findall(r"^(?:from|import) (\w+)", example, re.MULTILINE)) == {"spinn_tensor"}
    tiny_bundle(tmp_path / "runs" / "demo" / "spinn", "spinn")  # what `make demo` leaves there
    *predictions, vector, parses = run_program(example, folder=tmp_path).splitlines()
    assert len(predictions) == 2
    for line in predictions:
        assert line.split()[0] in LABELS["pair"]
    assert len([float(number) for number in vector.strip("[]").split()]) == 5
    assert "( " in parses


def test_the_lines_for_the_server_are_answered(made: Callable[[str, str], tuple[Path, Path]]) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("uvicorn")
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    from tests.serving import running

    lines = re.findall(r"^    (curl 127\.0\.0\.1:3000.*)$", TEXT, re.MULTILINE)
    assert len(lines) >= 5
    with running(str(made("spinn", "pair")[1])) as server:
        for line in lines:
            command = shlex.split(line.replace("127.0.0.1:3000", server.url))
            done = subprocess.run([*command, "--silent", "--fail"], capture_output=True, check=True)
            assert json.loads(done.stdout)


def test_the_example_of_a_checkpoint_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_bundle(tmp_path / "runs" / "demo" / "spinn-pi", "spinn-pi")
    assert run_here("load_checkpoint", tmp_path, monkeypatch)["encodings"].shape == (1, 8)


def run_here(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the example in which the text stands in this process, which has torch already; return its names."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(example_with(text), names)
    return names


def test_the_torchscript_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, exported = tiny_bundle(tmp_path / "bundle", "spinn"), tmp_path / "exported" / "spinn-ts"
    assert main(["export", str(bundle), "--format", "torchscript", "--output", str(exported)]) == 0
    names = run_here("torch.jit.load", tmp_path, monkeypatch)
    assert names["model"](**names["sides"])["logits"].shape == (2, 3)


def test_the_onnxruntime_example_runs_without_torch(
    tmp_path: Path, made: Callable[[str, str], tuple[Path, Path]]
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    shutil.copytree(made("spinn", "pair")[1], tmp_path / "exported" / "spinn")
    program = example_with("OnnxPredictor") + "import sys; print('torch' in sys.modules)"
    assert run_program(program, folder=tmp_path).splitlines() == ["False"]


def test_the_example_of_a_bare_onnxruntime_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Callable[[str, str], tuple[Path, Path]]
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from spinn_tensor.export.predictor import OnnxPredictor

    assert "spinn_tensor" not in example_with("InferenceSession")
    folder = shutil.copytree(made("spinn", "pair")[1], tmp_path / "exported" / "spinn")
    names = run_here("InferenceSession", tmp_path, monkeypatch)
    predictor, sides = OnnxPredictor(folder, "cpu"), (names["premises"], names["hypotheses"])
    assert_close(names["logits"], [found.logits for found in predictor.classify(*sides)])
    trees = [parsed.tree.transitions.tolist() for parsed in predictor.parses(sides[0])]
    assert [row[row >= 0].tolist() for row in names["transitions"]] == trees
