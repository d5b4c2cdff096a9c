"""Models of the smallest sizes: what can be built can be exported, or is refused in one line."""

from __future__ import annotations

import dataclasses
import itertools
import pkgutil

import numpy as np
import pytest
import torch

from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.export.graphs import build_graph, traced
from spinn_tensor.export.interface import TABLE_KINDS, ExportError, describe, of_arrays
from spinn_tensor.export.job import write_artefact
from spinn_tensor.export.parity import compare, random_cases, require
from spinn_tensor.export.programs import program
from spinn_tensor.export.scripts import script


def smallest_model(task: str, kind: str, leaf_encoder: str = "projection", layers: int = 0, dim: int = 1):
    """Every size is `dim`, and the vocabulary is padding and an unknown word."""
    torch.manual_seed(0)
    encoder = EncoderConfig(2, kind, dim, dim, tracker_dim=dim, leaf_encoder=leaf_encoder)
    labels = () if task == "parse" else ("yes", "no")
    classifier = ClassifierConfig(2, mlp_dim=dim, mlp_layers=layers) if labels else None
    model = build_model(ModelConfig(task, labels, encoder, classifier))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


def edges():
    for kind, tables in TABLE_KINDS.items():
        for table_kind, task in itertools.product(tables, ("pair", "sentence", "parse")):
            if task != "parse" or table_kind == "own":
                encoders = ("projection", "bilstm")[: 1 if table_kind == "forest" else 2]
                for leaf_encoder, folded in itertools.product(encoders, (False, True)):
                    # a pair is two sentences; each leaf encoder is folded with one of the other tasks
                    is_other = len(encoders) > 1 and folded != (
                        (leaf_encoder == "bilstm") != (task == "parse")
                    )
                    marks = [pytest.mark.slow] if is_other or (task == "pair" and kind != "spinn-pi") else []
                    yield pytest.param(task, kind, table_kind, leaf_encoder, folded, marks=marks)


@pytest.mark.parametrize("task, kind, tables, leaf_encoder, folded", list(edges()))
def test_torchscript_of_the_smallest(task, kind, tables, leaf_encoder, folded, tmp_path) -> None:
    is_halved = tables == "sequence" and leaf_encoder == "bilstm"  # a leaf of H is of two directions
    model = smallest_model(task, kind, leaf_encoder, dim=1 + is_halved, layers=int(folded))
    exported = describe(model, "torchscript", tables=tables, fold_leaves=folded)
    run = write_artefact(model, tmp_path / "model.ts", exported)
    cases = random_cases(model, tables=tables, batch_sizes=(1, 3))
    require(compare(model, run, cases, tables=tables))


@pytest.mark.parametrize("task", [pytest.param("pair", marks=pytest.mark.slow), "sentence"])
def test_a_traced_leaf_encoder_of_one_unit_takes_any_batch(task) -> None:
    """What ONNX files are made of: of the loops the leaf encoder's alone is traced."""
    model = smallest_model(task, "spinn", "bilstm")
    exported = describe(model)
    traced(
        build_graph(model, exported, onnx_loop=True), exported
    )  # "Constraints violated (batch)", where a size of 1 was taken for that of the batch


@pytest.mark.parametrize(
    "task, kind, leaf_encoder, dim",
    [
        ("pair", "spinn-pi-nt", "projection", 1),
        ("sentence", "spinn-pi-nt", "projection", 3),  # the sizes of the inputs that it is traced with
        pytest.param("sentence", "spinn-pi-nt", "projection", 7, marks=pytest.mark.slow),
        pytest.param("pair", "bilstm", "projection", 1, marks=pytest.mark.slow),
        ("sentence", "lstm", "projection", 3),
        ("pair", "bow", "projection", 7),
        pytest.param("pair", "spinn", "bilstm", 1, marks=pytest.mark.slow),
        pytest.param("parse", "spinn", "bilstm", 3, marks=pytest.mark.slow),
        pytest.param("sentence", "spinn-pi", "bilstm", 5, marks=pytest.mark.slow),
    ],
)
def test_a_program_of_any_sizes_takes_any_batch(task, kind, leaf_encoder, dim) -> None:
    model = smallest_model(task, kind, leaf_encoder, dim=dim)
    run = of_arrays(program(model, describe(model)).module())
    require(compare(model, run, random_cases(model, batch_sizes=(1, 3))))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(value) -> None:
    model = smallest_model("sentence", "bow")
    with torch.no_grad():
        model.mlp.output.bias[1] = value
    with pytest.raises(ExportError, match=r"tensor 'mlp.output.bias' of the model holds NaN or infinity"):
        describe(model)


def test_labels_are_lines_of_a_file() -> None:
    model = smallest_model("sentence", "bow")
    model.config = dataclasses.replace(model.config, labels=("good", "bad\n"))
    with pytest.raises(ExportError, match=r"label 'bad\\n': expected one line without its end"):
        describe(model)


def test_what_torch_runs_gets_memory_as_it_reads_it() -> None:
    """A package of AOTInductor takes any memory for rows of int64."""
    ids = np.arange(12).reshape(3, 4)
    for given in (ids, ids[:, :2], ids.T, ids.astype(np.int32)):
        seen = []
        run = of_arrays(lambda given, seen=seen: seen.append(given) or {})
        run({"given": given})
        assert seen[0].is_contiguous()
        assert seen[0].dtype == torch.int64
        assert seen[0].tolist() == given.tolist()


def test_what_torch_raises_is_one_line_that_names_format_and_model(monkeypatch) -> None:
    def fail(*args, **kwargs):
        raise RuntimeError("Constraints violated (batch)!\n  - Not all values of batch are != 1")

    monkeypatch.setattr("torch.export.export", fail)
    monkeypatch.setattr("torch.jit.script", fail)
    model = smallest_model("sentence", "spinn-pi-nt")
    for form, make in (("torch.export program", program), ("TorchScript file", script)):
        with pytest.raises(
            ExportError, match=rf"{form}.*sentence.*spinn-pi-nt.*Not all values of batch"
        ) as error:
            make(model, describe(model))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "form, maker, writer",
    [
        ("onnx", "onnx_file.onnx_model", "os.fsync"),
        ("pt2", "programs.program", "torch.export.save"),
        ("torchscript", "scripts.script", "torch.jit.save"),
    ],
)
def test_a_file_is_whole_or_not_there(form, maker, writer, tmp_path, monkeypatch) -> None:
    if form == "onnx":
        pytest.importorskip("onnxscript")
    model = smallest_model("sentence", "bow")
    exported = describe(model, form)
    made = pkgutil.resolve_name(f"spinn_tensor.export.{maker}")(model, exported)
    monkeypatch.setattr(f"spinn_tensor.export.{maker}", lambda *_: made)
    with pytest.raises(DataError, match="no such folder"):
        write_artefact(model, tmp_path / "none" / "model", exported)
    with pytest.raises(DataError, match="expected a file"):
        write_artefact(model, tmp_path, exported)

    def full(*written, **options):
        for file in written[1:2]:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, full)
    with pytest.raises(OSError, match="No space left"):
        write_artefact(model, tmp_path / "model", exported)
    assert list(tmp_path.iterdir()) == []
