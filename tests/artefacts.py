"""What tests of several kinds of exported files have in common."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spinn_tensor.export.artefact import Exported
from spinn_tensor.export.graphs import build_graph
from spinn_tensor.export.interface import Candidate, describe
from spinn_tensor.model.classifiers import Model
from tests.closeness import FLOAT64, assert_close
from tests.processes import HANGS

SAID = {"vocabulary_sha256": "0123abc", "max_length": 90}  # of `describe`

ALONE = """
import sys
import numpy, torch
model = {load}
inputs = {{name: torch.from_numpy(array) for name, array in numpy.load(sys.argv[2]).items()}}
outputs = model(**inputs)
numpy.savez(sys.argv[3], **{{name: output.numpy() for name, output in outputs.items()}})
ours = {{name.split(".")[0] for name in sys.modules}} & {{"spinn_tensor", "data_prep", "export"}}
assert not ours, ours
"""


def assert_equal(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Assert that outputs are equal in double precision, and all transitions."""
    assert list(got) == list(expected)
    for name, values in expected.items():
        assert got[name].dtype == values.dtype
        assert_close(got[name], values, FLOAT64)


def graph_function(model: Model, **said: Any) -> Candidate:  # of `describe`
    """Return a function that runs a model's graph, which nothing has traced, as parity runs artefacts."""
    graph = build_graph(model, describe(model, **said))

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = graph(**{name: torch.from_numpy(values) for name, values in inputs.items()})
        return dict(zip(graph.exported.outputs, (output.numpy() for output in outputs), strict=True))

    return run


def exporter_of(folder: Path) -> Callable[..., None]:
    """Return an exporter that has the ONNX files already, of the exported model and of its parser."""
    kind = json.loads((folder / "export.json").read_text())["kind"]

    def export(model: object, output: Path, exported: Exported) -> None:
        made = folder if exported.kind == kind else folder / "parser"
        output.write_bytes((made / "model.onnx").read_bytes())

    return export


def run_alone(
    load: str,  # the expression that reads the file sys.argv[1]
    folder: Path,
    artefact: str,  # file in it
    inputs: dict[str, np.ndarray],
) -> None:
    """Run an artefact in a process whose path has nothing of ours; it writes outputs.npz."""
    np.savez(folder / "inputs.npz", **inputs)
    arguments = [ALONE.format(load=load), artefact, "inputs.npz", "outputs.npz"]
    subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", *arguments], cwd=folder, check=True, timeout=HANGS
    )
