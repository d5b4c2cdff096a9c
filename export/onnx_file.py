"""One ONNX file of a trained model: any batch, any length, the standard operators alone.

`torch.onnx.export` writes the graph of `export.graphs`, in which the machine's loop is one operator, whose place
`export.loop_onnx` fills. float16 halves tables and matrices, whose products are then taken in
half precision, sums and cell states in float32: it is for GPUs. int8 is onnxruntime's dynamic quantisation of the
products, those inside the loop included: matrices in 8 bits, a scale a column, and what they multiply in 8 bits with a
scale a product.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from spinn_tensor.data_prep.files import atomic_write
from spinn_tensor.export.artefact import Exported
from spinn_tensor.export.cells import TreeLSTMCell, exported_state_dim, traced_cell
from spinn_tensor.export.graphs import LaneGraph, build_graph, traced
from spinn_tensor.export.interface import ExportError, exporting, quiet
from spinn_tensor.export.loop_onnx import TRANSLATIONS, with_loop
from spinn_tensor.model.classifiers import Model

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

# The newest that every onnxruntime from 1.20 on reads.
OPSET = 21
MOST_BYTES = (1 << 31) - 1  # of one file


def export_onnx(
    model: Model,
    path: str | os.PathLike[str],
    exported: Exported,  # of `describe`
) -> None:
    """Write the model, whole or not at all. The model's own weights and state are left alone.

    Raises ExportError for a model that cannot be exported as asked, DataError for a path that cannot be written to,
    and ImportError where the packages of spinn_tensor[export] are missing.
    """
    with exporting(model, f"ONNX file in {exported.precision}"):
        proto = onnx_model(model, exported)
    for key, value in exported.metadata.items():
        proto.metadata_props.add(key=key, value=value)
    with atomic_write(path, "wb") as file:
        file.write(proto.SerializeToString())


def onnx_model(model: Model, exported: Exported) -> ModelProto:
    """Return the model as `export_onnx` writes it, without metadata; checked by `onnx.checker`."""
    import onnx

    graph = build_graph(model, exported, onnx_loop=True)
    n_bytes = sum(tensor.nbytes for tensor in (*graph.buffers(), *graph.parameters()))
    if n_bytes > MOST_BYTES:
        raise ExportError(f"weights of {n_bytes / 1e9:.1f} GB: one ONNX file holds 2 GB at most")
    proto = _exported(traced(graph, exported), list(exported.outputs))
    if isinstance(graph, LaneGraph):
        config, is_treelstm = model.config.encoder, isinstance(graph.cell, TreeLSTMCell)
        proto = with_loop(
            proto,
            None if is_treelstm else _exported(traced_cell(graph.cell, model), ["state"]),
            config.hidden_dim + config.policy_dim,
            config.tracker_dim,
            exported_state_dim(model),
            given=exported.tables == "given",
            half=exported.precision == "float16",
            double=graph.leaves.sum_type == torch.float64,
            opset=OPSET,
        )
    _tidy(proto)
    if exported.precision == "int8":
        proto = _quantised(proto)
        _tidy(proto)
    _name_axes(proto, exported)
    onnx.checker.check_model(proto, full_check=True)
    domains = {imported.domain for imported in proto.opset_import}
    domains |= {node.domain for _, part in _graphs(proto.graph) for node in part.node}
    if domains != {""} or proto.functions:
        raise ExportError(f"operators that are not ONNX's own: {', '.join(sorted(domains - {''}))}")
    return proto


def _exported(program: torch.export.ExportedProgram, outputs: list[str]) -> ModelProto:
    with quiet(), torch.no_grad():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            output_names=outputs,
            custom_translation_table=TRANSLATIONS,
            verbose=False,
        )
    assert exported is not None
    return exported.model_proto


def _tidy(proto: ModelProto) -> None:
    """Drop what only the exporter needed, and name every node, for profilers and for the quantiser."""
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    read = {name for node in proto.graph.node for name in _reads(node)}
    for tensor in [tensor for tensor in proto.graph.initializer if tensor.name not in read]:
        proto.graph.initializer.remove(tensor)
    for prefix, graph in _graphs(proto.graph):
        del graph.value_info[:]
        for number, node in enumerate(graph.node):
            del node.metadata_props[:]
            node.doc_string = ""
            node.name = f"{prefix}{number}_{node.op_type}"


def _name_axes(proto: ModelProto, exported: Exported) -> None:
    """Give the axes of inputs and outputs the names that the description gives them."""
    axes = exported.inputs | exported.outputs
    for value in [*proto.graph.input, *proto.graph.output]:
        for dim, name in zip(value.type.tensor_type.shape.dim, axes[value.name], strict=True):
            if dim.HasField("dim_param"):
                dim.dim_param = "2*length - 1" if name == "transitions" else name


def _graphs(graph: GraphProto, prefix: str = "") -> Iterator[tuple[str, GraphProto]]:
    """Yield the graph and the bodies of its loops."""
    yield prefix, graph
    for number, node in enumerate(graph.node):
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g, f"{prefix}{number}.")


def _quantised(proto: ModelProto) -> ModelProto:
    """Quantise products dynamically. The one that chooses transitions, of a vector, stays as it is."""
    import onnx
    import onnx_ir as ir
    from onnxruntime.quantization import QuantType, quantize_dynamic

    vectors = {tensor.name for tensor in proto.graph.initializer if len(tensor.dims) == 1}
    products = (node for _, graph in _graphs(proto.graph) for node in graph.node if node.op_type == "MatMul")
    # onnxruntime's quantiser reads and writes files
    with tempfile.TemporaryDirectory() as folder, quiet():
        wide, narrow = Path(folder) / "wide.onnx", Path(folder) / "narrow.onnx"
        onnx.save(proto, wide)
        quantize_dynamic(
            wide,
            narrow,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=[node.name for node in products if node.input[1] in vectors],
            per_channel=True,
            reduce_range=True,  # processors without VNNI add pairs of 8-bit products in 16 bits, which saturate
            weight_type=QuantType.QInt8,
            extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True},
        )
        quantised = ir.load(narrow)
        quantised.graph.sort()  # the quantiser overlooks what the bodies of loops read
        return ir.to_proto(quantised)


def _reads(node: NodeProto) -> set[str]:
    """Return what a node reads, the bodies of its loops included."""
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            names |= {name for inner in attribute.g.node for name in _reads(inner)}
    return names
