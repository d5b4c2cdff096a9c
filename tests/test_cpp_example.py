"""The C++ example, compiled against the libtorch that comes with torch by the command that it names."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from spinn_tensor.export.interface import describe
from spinn_tensor.export.scripts import export_torchscript, load_torchscript
from tests.closeness import assert_close
from tests.tiny_models import tiny_model

SOURCE = Path(__file__).resolve().parents[1] / "export" / "cpp" / "classify.cpp"

pytestmark = [
    pytest.mark.numerical,
    pytest.mark.slow,  # libtorch's headers
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"),
]


def command() -> str:
    """The g++ line of the source's first comment."""
    lines = re.search(r"^//     (g\+\+ .*\\\n//.*)$", SOURCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert lines is not None
    return lines[1].replace("\\\n//", "")


@pytest.fixture(scope="module")
def classify(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cpp")
    shutil.copy(SOURCE, folder)
    subprocess.run(
        ["bash", "-c", command()],
        cwd=folder,
        check=True,
        env={"PATH": "/usr/bin:/bin", "TORCH": torch.__path__[0]},
    )
    return folder / "classify"


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False, env={}
    )


@pytest.mark.parametrize("task", ["pair", "sentence", "parse"])
def test_it_says_what_python_says(classify, task, tmp_path) -> None:
    path = tmp_path / "model.ts"
    model = tiny_model(task, "spinn")
    export_torchscript(model, path, describe(model, "torchscript"))
    words = [5, 9, 12, 3, 7], [8, 2, 4]
    result = run(classify, path, *words[0], *(["/", *words[1]] if task == "pair" else []))
    assert result.returncode == 0, result.stderr
    lines = {name: values for name, *values in map(str.split, result.stdout.splitlines())}
    inputs = {"token_ids": np.array([words[0]]), "lengths": np.array([5])}
    if task == "pair":
        inputs = {
            "premise_ids": np.array([words[0]]),
            "premise_lengths": np.array([5]),
            "hypothesis_ids": np.array([[*words[1], 0, 0]]),
            "hypothesis_lengths": np.array([3]),
        }
    expected = load_torchscript(path)(inputs)
    if task != "parse":
        assert lines.pop("label") == [model.config.labels[expected["logits"].argmax()]]
    assert list(lines) == list(expected)
    for name, values in expected.items():
        assert_close(np.array(lines[name], dtype=float), values.ravel())


def test_what_it_cannot_run_is_one_line(classify, tmp_path) -> None:
    result = run(classify, tmp_path / "missing.ts", 5)
    assert result.returncode == 1
    assert result.stderr.startswith(f"{tmp_path / 'missing.ts'}: ")
    assert result.stderr.count("\n") == 1
    assert run(classify).returncode == 2
