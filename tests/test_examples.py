"""The examples run, print what they are for, and are all here."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinn_tensor import Pipeline
from tests.closeness import assert_close
from tests.tiny_bundles import LABELS, TEXTS, tiny_bundle

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOTEBOOK = EXAMPLES / "trees_and_schedule.ipynb"
TESTED_ELSEWHERE = {
    "transformer_leaves.py",
    "triton_server",
}  # test_transformer_leaves.py, test_triton_text.py


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run an example in this process, in an empty folder, and return the lines that it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    for name in ("train_minimal", "custom_cell"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def run_it(name: str, *arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run_it


def run_as_program(name: str, folder: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(EXAMPLES.parent),
        "OMP_NUM_THREADS": "1",
        "RAY_ADDRESS": "local",
        "ACCELERATE_USE_CPU": "1",
    }
    command = [sys.executable, *launcher, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loss_in(text: str) -> float:
    found = re.search(r"^loss (\d\.\d+)", text, re.MULTILINE)
    assert found is not None, text
    return float(found[1])


def test_every_example_is_run_here() -> None:
    text = Path(__file__).read_text("utf-8")
    names = {path.name for path in EXAMPLES.iterdir() if path.name != "__pycache__"}
    assert names > TESTED_ELSEWHERE
    assert all(f'"{name}"' in text for name in names)


def test_encode(run: Any, tmp_path: Path) -> None:
    shape, *lines = run("encode.py")
    assert shape.startswith("(3, ")
    assert len([line for line in lines if line.startswith("(ROOT ")]) == 3
    shape, *_ = run("encode.py", str(tiny_bundle(tmp_path / "bundle", "spinn")))
    assert shape == "(3, 8)"


def test_train_minimal(run: Any, tmp_path: Path) -> None:
    (line,) = run("train_minimal.py")
    assert loss_in(line) < 0.2
    assert float(line.rpartition(" ")[2].rstrip("%")) > 90
    prediction = Pipeline.from_pretrained(tmp_path / "runs" / "minimal").classify(
        ["( ( the film ) ( is ( not dull ) ) )"]
    )[0]
    assert prediction.label == "good"
    assert len((EXAMPLES / "train_minimal.py").read_text("utf-8").splitlines()) <= 60


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_train_minimal_compiled(tmp_path: Path) -> None:
    assert loss_in(run_as_program("train_minimal.py", tmp_path, "--compile")) < 0.2


# of Python 3.12 and newer, as in test_feeding
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_train_loader(run: Any) -> None:
    (line,) = run("train_loader.py")
    assert loss_in(line) < 0.2


@pytest.mark.slow
def test_train_loader_with_accelerate(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    assert loss_in(run_as_program("train_loader.py", tmp_path, "--accelerate")) < 0.2
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert loss_in(run_as_program("train_loader.py", tmp_path, "--accelerate", launcher=two)) < 0.3


def test_custom_cell(run: Any) -> None:
    (line,) = run("custom_cell.py")
    assert loss_in(line) < 0.1


def test_serve_client(run: Any, made: Any) -> None:
    pytest.importorskip("uvicorn")
    from tests.serving import running

    with running(str(made("spinn", "pair")[1])) as server:
        first, second, *lines = run("serve_client.py", server.url)
    assert {line.split(":")[0] for line in (first, second)} <= set(LABELS["pair"])
    assert [line.split()[0] for line in lines] == ["8", "8"]
    assert lines[0].endswith("( ( all dogs ) run )") or lines[0].endswith("( all ( dogs run ) )")


@pytest.mark.slow
def test_ray_encode(tmp_path: Path) -> None:
    """Two workers, on this machine."""
    pytest.importorskip("ray")
    import pandas as pd

    bundle = tiny_bundle(tmp_path / "bundle", "spinn")
    pd.DataFrame({"sentence": TEXTS * 8, "id": range(40)}).to_parquet(tmp_path / "in.parquet")
    run_as_program("ray_encode.py", tmp_path, "in.parquet", "out", str(bundle), "2")
    found = pd.read_parquet(tmp_path / "out").sort_values("id")
    expected = Pipeline.from_pretrained(bundle, device="cpu").encode(TEXTS * 8)
    assert_close(np.stack(found["encoding"]), expected)


def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells run one after another, and each shows what is committed below it."""
    monkeypatch.chdir(tmp_path)
    book = json.loads((EXAMPLES / "trees_and_schedule.ipynb").read_text("utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    n_pictures = 0
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            value = result_of("".join(cell["source"]), names)
            shown = [output["data"] for output in cell["outputs"] if "data" in output]
            assert (value is None) == (not shown)
            if hasattr(value, "_repr_svg_"):
                n_pictures += 1
                assert value._repr_svg_() == "".join(shown[0]["image/svg+xml"])
            elif value is not None:
                assert repr(value) == "".join(shown[0]["text/plain"])
    assert n_pictures == 5


def result_of(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; return the value of its last line, as a notebook shows it."""
    *before, last = ast.parse(source).body
    exec(compile(ast.Module(before, []), NOTEBOOK.name, "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)
    exec(compile(ast.Module([last], []), NOTEBOOK.name, "exec"), names)
    return None
