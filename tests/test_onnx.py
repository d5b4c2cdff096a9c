"""ONNX files: equal to their models at any batch and length, standard operators alone, and whole or not there."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

import onnx  # noqa: E402
from onnx import TensorProto  # noqa: E402

from benchmarks.data import load_pairs  # noqa: E402
from spinn_tensor.data_prep.columns import select  # noqa: E402
from spinn_tensor.data_prep.settings import ConfigError  # noqa: E402
from spinn_tensor.export.artefact import input_axes, output_axes  # noqa: E402
from spinn_tensor.export.interface import ExportError, describe  # noqa: E402
from spinn_tensor.export.onnx_file import OPSET, export_onnx, onnx_model  # noqa: E402
from spinn_tensor.export.parity import TOLERANCES, ParityError, compare, make_case, random_cases, require  # noqa: E402
from spinn_tensor.export.session import onnx_function  # noqa: E402
from tests.contract import Artefact, ArtefactContract  # noqa: E402
from tests.machines import needs_shared  # noqa: E402
from tests.tiny_models import tiny_model  # noqa: E402

pytestmark = pytest.mark.numerical

FORMS = {"float32": "onnx", "float16": "onnx-fp16", "int8": "onnx-int8"}  # by precision
# name -> task, kind, tables, leaf encoder, precision, folded
FILES = {
    "own": ("pair", "spinn", "own", "projection", "float32", False),
    "own-int8": ("pair", "spinn", "own", "projection", "int8", True),
    "given": ("pair", "spinn-pi", "given", "projection", "float32", True),
    "given-float16": ("sentence", "spinn", "given", "projection", "float16", False),
    "forest-int8": ("sentence", "spinn-pi-nt", "forest", "projection", "int8", False),
    "lstm-int8": ("sentence", "lstm", "sequence", "projection", "int8", False),
    "bilstm-float16": ("pair", "bilstm", "sequence", "projection", "float16", False),
}
DOUBLE = {  # without a precision
    "own": ("sentence", "spinn", "own", "projection", True),
    "parser": ("parse", "spinn", "own", "bilstm", False),
    "given": ("pair", "spinn-pi", "given", "projection", True),
    "forest": ("pair", "spinn-pi-nt", "forest", "projection", False),
    "lstm": ("pair", "lstm", "sequence", "projection", False),
    "bilstm": ("sentence", "bilstm", "sequence", "projection", True),
    "bow": ("pair", "bow", "sequence", "projection", False),
}
FEW = ("forest-int8", "bilstm-float16")  # whose precision and encoder other files have


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return what makes the model and the file of a name, once."""
    folder, made = tmp_path_factory.mktemp("onnx"), {}

    def export(name):
        if name not in made:
            task, kind, tables, leaf_encoder, precision, folded = FILES[name]
            model, path = tiny_model(task, kind, leaf_encoder=leaf_encoder), folder / f"{name}.onnx"
            said = {"vocabulary_sha256": "0123abc", "max_length": 90}
            described = describe(model, FORMS[precision], tables=tables, fold_leaves=folded, **said)
            export_onnx(model, path, described)
            made[name] = model, path
        return made[name]

    return export


@pytest.mark.parametrize(
    "name",
    ["own", "own-int8", "given-float16", "lstm-int8"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in FEW],
)
def test_a_file_is_as_close_as_its_precision_allows_in_standard_operators(exported, name) -> None:
    model, path = exported(name)
    tables, precision = FILES[name][2], FILES[name][4]
    report = compare(model, onnx_function(path), random_cases(model, tables=tables), tables=tables)
    require(report, TOLERANCES[precision])
    if precision != "float32":
        with pytest.raises(ParityError):
            require(report)
    check_file(path, model, tables, TensorProto.FLOAT)


OFTEN = (
    "own",
    "parser",
    "given",
    "forest",
    "bilstm",
)  # the others are in single precision in test_predictor.py


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[] if name in OFTEN else [pytest.mark.slow]) for name in DOUBLE],
)
def artefact(request, tmp_path_factory) -> Artefact:
    """Give files in double precision, run by onnxruntime."""
    task, kind, tables, leaf_encoder, folded = DOUBLE[request.param]
    model = tiny_model(task, kind, leaf_encoder=leaf_encoder).double()
    path = tmp_path_factory.mktemp("double") / "model.onnx"
    export_onnx(model, path, describe(model, tables=tables, fold_leaves=folded))
    return Artefact(model, tables, onnx_function(path), path)


@pytest.mark.once
class TestFiles(ArtefactContract):
    """Expect files in double precision to be their models."""

    def test_it_is_one_file_of_standard_operators(self, artefact: Artefact) -> None:
        check_file(artefact.path, artefact.model, artefact.tables, TensorProto.DOUBLE)


def check_file(path, model, tables, number) -> None:
    """Expect standard operators alone, all of use, and axes by name, of numbers of a type."""
    proto = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(proto, full_check=True)
    assert [(imported.domain, imported.version) for imported in proto.opset_import] == [("", OPSET)]
    assert not proto.functions
    nodes = [node for graph in graphs(proto.graph) for node in graph.node]
    assert all(node.domain == "" for node in nodes)
    read = {name for node in nodes for name in node.input}
    read |= {value.name for graph in graphs(proto.graph) for value in graph.output}
    assert not [node.name for node in nodes if read.isdisjoint(node.output)]  # onnxruntime warns of them
    assert {tensor.data_location for tensor in proto.graph.initializer} == {TensorProto.DEFAULT}
    for values, axes in (
        (proto.graph.input, input_axes(model.config.task, tables)),
        (proto.graph.output, output_axes(model.config.task, tables)),
    ):
        assert [value.name for value in values] == list(axes)
        for value in values:
            expected = ["2*length - 1" if axis == "transitions" else axis for axis in axes[value.name]]
            named = {"classes": 3, "hidden": model.encoder.output_dim}
            shape = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            assert shape == [named.get(axis, axis) for axis in expected]
            is_number = value.name.endswith(("logits", "encodings", "log_probabilities"))
            assert value.type.tensor_type.elem_type == (number if is_number else TensorProto.INT64)


def graphs(graph):
    """Yield the graph and the bodies of its loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def test_metadata(exported) -> None:
    _, path = exported("own-int8")
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(metadata.pop("labels")) == ["entailment", "neutral", "contradiction"]
    assert metadata == {
        "spinn_format_version": "1",
        "task": "pair",
        "kind": "spinn",
        "tables": "own",
        "vocabulary_sha256": "0123abc",
        "max_length": "90",
        "hidden_dim": "8",
        "precision": "int8",
        "folded": "true",
    }


def test_products_in_the_loop_are_quantised(exported) -> None:
    body = loop_body(exported("own-int8")[1])
    assert [node.op_type for node in body.node].count("MatMulInteger") == 3
    assert [node.op_type for node in body.node].count("MatMul") == 1  # the choice
    tensors = onnx.load(exported("own-int8")[1]).graph.initializer
    assert sum(tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 2 for tensor in tensors) == 7


def test_products_in_half_precision(exported) -> None:
    tensors = onnx.load(exported("given-float16")[1]).graph.initializer
    matrices = [tensor for tensor in tensors if len(tensor.dims) == 2 and min(tensor.dims) > 2]
    assert {tensor.data_type for tensor in matrices} == {TensorProto.FLOAT16}


def loop_body(path):
    (body,) = [
        attribute.g
        for node in onnx.load(path).graph.node
        if node.op_type == "Loop"
        for attribute in node.attribute
        if attribute.name == "body"
    ]
    return body


def test_folding_leaves_one_table(exported) -> None:
    shapes = [list(tensor.dims) for tensor in onnx.load(exported("given")[1]).graph.initializer]
    assert [60, 16] in shapes
    assert [6, 16] not in shapes
    assert [60, 6] in [list(tensor.dims) for tensor in onnx.load(exported("own")[1]).graph.initializer]


def test_the_loop_carries_what_its_stacks_need(exported) -> None:
    """Right-branching sentences leave one composed state a lane, left-branching ones too, however long they are."""
    model, path = exported("given")
    proto = onnx.load(path)
    (loop,) = [node for node in proto.graph.node if node.op_type == "Loop"]
    carried = loop.output[0]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(carried, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    case = next(random_cases(model, batch_sizes=(8,)))
    states = session.run([carried], case.inputs)[0]
    assert len(states) <= 1 + 2 * 8  # a null row and the roots


@needs_shared
def test_labels_and_trees_of_snli(exported) -> None:
    """The model knows 58 words."""
    model, path = exported("own")
    pairs = load_pairs().columns
    sentences = pairs.sentences._replace(token_ids=2 + pairs.sentences.token_ids % 58)
    n_pairs = len(pairs.labels)
    batches = np.array_split(np.arange(n_pairs), n_pairs // 128)
    cases = (make_case(model, select(pairs._replace(sentences=sentences), rows)) for rows in batches)
    report = compare(model, onnx_function(path), cases)
    require(report)
    assert report.n == n_pairs


def test_what_cannot_be_exported_is_refused_before_anything_is_made(monkeypatch) -> None:
    with pytest.raises(ConfigError, match=r"format: expected one of onnx, .*, got 'onnx-int4'"):
        describe(tiny_model("pair", "spinn"), "onnx-int4")
    monkeypatch.setattr("spinn_tensor.export.onnx_file.MOST_BYTES", 1000)
    model = tiny_model("pair", "spinn")
    with pytest.raises(ExportError, match=r"weights of 0\.0 GB: one ONNX file holds 2 GB at most"):
        onnx_model(model, describe(model))
