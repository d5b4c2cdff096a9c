"""torch.export programs (.pt2) of a trained model, and packages that AOTInductor compiled from them.

Torch alone reads both. They take any batch and any length, inputs by the names of `export.artefact`, and give a dict
of outputs by name. The loop in them is one `scan`, which composes in every lane: slower than TorchScript and ONNX,
which compose those that reduce. A package is machine code for the processor that it was compiled on.

What a file says of itself is in its extra file `export.json`; of a package, in its metadata.
"""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from spinn_tensor.data_prep.files import atomic_write
from spinn_tensor.data_prep.paths import expanded
from spinn_tensor.export.artefact import EXPORT, VERSION_KEY, Exported
from spinn_tensor.export.graphs import Graph, LaneGraph, build_graph, traced
from spinn_tensor.export.interface import (
    Candidate,
    ExportError,
    exporting,
    of_arrays,
    reading,
    require_ours,
)
from spinn_tensor.model.classifiers import Model

TORCH_OF_LANES = "2.13"  # 2.11 does not export the scan of a model with a tracker; 2.12 was not tried


class Named(nn.Module):
    """Wrap a graph so that its outputs have names."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.of_model = graph

        @functools.wraps(graph.forward)  # whose signature names the inputs
        def forward(**inputs: Tensor) -> dict[str, Tensor]:
            sizes: dict[str, int] = {}
            for name, axes in graph.exported.inputs.items():
                for axis, size in zip(axes, inputs[name].shape, strict=True):
                    # that axes of one name have one size, the exporter uses only if told
                    torch._check(size == sizes.setdefault(axis, size))
            return dict(zip(graph.exported.outputs, graph(**inputs), strict=True))

        self.forward = forward


def program(model: Model, exported: Exported) -> torch.export.ExportedProgram:
    """Export the program of a model. Its weights are copies.

    Raises ExportError for a model that cannot be exported so.
    """
    graph = build_graph(model, exported)
    if isinstance(graph, LaneGraph) and TorchVersion(torch.__version__) < TORCH_OF_LANES:
        raise ExportError(
            f"a torch.export program of a model with a tracker needs torch {TORCH_OF_LANES} or newer, this is "
            f"{torch.__version__}"
        )
    with exporting(model, "torch.export program"):
        return traced(Named(graph), exported)


def export_program(
    model: Model,
    path: str | Path,
    exported: Exported,  # of `describe`
) -> None:
    """Write the program, whole or not at all. The model's own weights and state are left alone.

    Raises ExportError for a model that cannot be exported as asked, DataError for a path that cannot be written to.
    """
    made = program(model, exported)
    content = io.BytesIO()
    with exporting(model, "torch.export program"):
        text = json.dumps(exported.metadata, ensure_ascii=False)
        torch.export.save(made, content, extra_files={EXPORT: text})
    with atomic_write(path, "wb") as file:
        file.write(content.getbuffer())


def load_program(path: str | Path) -> Candidate:
    """Load the program in a file of `export_program`: arrays in, arrays out, by name.

    Raises ExportError for a file that is none.
    """
    extra = {EXPORT: ""}
    with reading(path, "torch.export program"):
        exported = torch.export.load(str(expanded(path)), extra_files=extra)
    require_ours(path, extra[EXPORT], EXPORT)
    return of_arrays(exported.module())


def export_aoti(
    model: Model,
    path: str | Path,  # ends in .pt2
    exported: Exported,  # of `describe`
) -> None:
    """Compile the program for this processor and write the package, whole or not at all. Takes a minute or two.

    Raises ExportError where there is no C++ compiler and for a model that cannot be exported or compiled, DataError
    for a path that cannot be written to.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise ExportError("AOTInductor needs a C++ compiler: install g++, or name one in CXX") from None
    made = program(model, exported)
    options: dict[str, Any] = {"aot_inductor.metadata": exported.metadata}
    if hasattr(torch._inductor.config.aot_inductor, "check_lowerbound"):  # of torch 2.13
        # under AOTI_RUNTIME_CHECK_INPUTS sizes of 1 would be refused that it takes
        options["aot_inductor.check_lowerbound"] = False
    content = io.BytesIO()
    with exporting(model, "AOTInductor package"):
        torch._inductor.aoti_compile_and_package(made, package_path=content, inductor_configs=options)
    with atomic_write(path, "wb") as file:
        file.write(content.getbuffer())


def load_aoti(path: str | Path) -> Candidate:
    """Load the package in a file of `export_aoti`: arrays in, arrays out, by name.

    Raises ExportError for a file that is none.
    """
    with reading(path, "AOTInductor package"):
        package = torch._inductor.aoti_load_package(str(expanded(path)))
    require_ours(path, VERSION_KEY in package.get_metadata(), VERSION_KEY)
    return of_arrays(package)
