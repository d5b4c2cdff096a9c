"""The Triton repository, by Triton's own schema and against the ONNX file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spinn_tensor.cli.main import main

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("tritonclient.grpc")

from google.protobuf import text_format  # noqa: E402
from tritonclient.grpc import model_config_pb2  # noqa: E402

from spinn_tensor.export import artefact, onnx_file  # noqa: E402
from spinn_tensor.export.artefact import ArtefactError  # noqa: E402
from spinn_tensor.export.session import open_session  # noqa: E402
from spinn_tensor.export.triton import check_repository, has_triton_schema  # noqa: E402
from tests.artefacts import exporter_of  # noqa: E402

KINDS = {"own": ("spinn", "pair"), "given": ("spinn-pi", "pair"), "forest": ("spinn-pi-nt", "sentence")}


@pytest.fixture(scope="module")
def models(made: Callable[[str, str], tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of three models; in test_triton_text.py they are exported for it."""
    repository = tmp_path_factory.mktemp("repository") / "models"
    for name, (kind, task) in KINDS.items():
        bundle, exported = made(kind, task)
        arguments = ["export", str(bundle), "--format", "triton", "--name", name]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(onnx_file, "export_onnx", exporter_of(exported))
            assert main([*arguments, "--output", str(repository)]) == 0
    return repository


@pytest.fixture
def model(models: Path, tmp_path: Path) -> Path:
    """The model of pairs, to damage."""
    return Path(shutil.copytree(models / "own", tmp_path / "own"))


def config_of(folder: Path) -> model_config_pb2.ModelConfig:
    text = (folder / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_the_layout_is_tritons(models) -> None:
    assert sorted(path.name for path in models.iterdir()) == sorted(
        [*KINDS, *(f"{name}_text" for name in KINDS)]
    )
    for name in KINDS:
        front = (models / f"{name}_text").rglob("*.*")
        assert {path.name for path in front} == {"config.pbtxt", "labels.txt", "model.py"}
        found = {
            str(path.relative_to(models / name)) for path in (models / name).rglob("*") if path.is_file()
        }
        assert found == {
            "config.pbtxt",
            "labels.txt",
            "tokenizer.json",
            "export.json",
            "1/model.onnx",
        }
    assert (models / "own" / "labels.txt").read_text() == "entailment\nneutral\ncontradiction\n"


@pytest.mark.parametrize("name", KINDS)
def test_the_configuration_is_one_by_tritons_schema(name, models) -> None:
    config = config_of(models / name)
    assert (config.name, config.backend) == (name, "onnxruntime")
    assert (config.max_batch_size > 0) == (name != "forest")
    assert config.HasField("dynamic_batching") == (name != "forest")
    if name != "forest":
        assert config.dynamic_batching.preserve_ordering
    check_repository(models / name, name)
    logits = next(output for output in config.output if output.name == "logits")
    assert list(logits.dims) == ([-1, 3] if name == "forest" else [3])
    assert logits.label_filename == "labels.txt"


def test_a_request_by_the_configuration_is_what_the_model_reads(models) -> None:
    """Tensors of the configuration's shapes, reshaped as Triton does, run in the ONNX file."""
    config = config_of(models / "own")
    session = open_session(models / "own" / "1" / "model.onnx", "cpu").session
    n, sizes = 4, {"ids": 6, "lengths": 1}
    feed = {}
    for tensor in config.input:
        assert tensor.data_type == model_config_pb2.TYPE_INT64
        side = tensor.name.split("_")[1]
        dims = [sizes[side] if size == -1 else size for size in tensor.dims]
        request = np.full((n, *dims), 3, dtype=np.int64)
        feed[tensor.name] = (
            request.reshape(n, *tensor.reshape.shape) if tensor.HasField("reshape") else request
        )
    answers = dict(zip([output.name for output in config.output], session.run(None, feed), strict=True))
    for output in config.output:
        shape = answers[output.name].shape
        assert shape[0] == n
        assert all(size in (-1, got) for size, got in zip(output.dims, shape[1:], strict=True))


def replace(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.pbtxt"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def transpose_rank(folder: Path) -> None:
    path = folder / "1" / "model.onnx"
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 2
    onnx.save(model, path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "syntax": (replace("input {", "input ["), "config.pbtxt: not Triton's model configuration"),
    "unknown field": (replace("backend", "backdoor"), "not Triton's model configuration .*backdoor"),
    "name": (replace('name: "own"', 'name: "other"'), "name is 'other', its folder's is 'own'"),
    "backend": (replace("onnxruntime", "pytorch"), "backend is 'pytorch', expected 'onnxruntime'"),
    "input": (replace('"premise_ids"', '"premise"'), "input 'premise' is not in model.onnx"),
    "output": (replace('"logits"', '"scores"'), "output 'logits' is not in config.pbtxt"),
    "type": (
        replace("TYPE_INT64", "TYPE_INT32"),
        "input 'premise_ids': TYPE_INT32 is not the type in model.onnx",
    ),
    "rank": (replace("[ -1 ]", "[ -1, -1 ]"), r"input 'premise_ids': shape \[-1, -1, -1\], model.onnx has"),
    "no reshape": (
        replace("reshape { shape: [ ] }", ""),
        r"input 'premise_lengths': shape \[-1, 1\], model.onnx",
    ),
    "classes": (replace("dims: [ 3 ]", "dims: [ 4 ]"), r"output 'logits': shape \[-1, 4\], model.onnx has"),
    "no batch": (replace("max_batch_size: 256", "max_batch_size: 0"), "input 'premise_ids': shape"),
    "labels": (
        lambda folder: (folder / "labels.txt").write_text("one\ntwo\n"),
        "labels.txt: 2 labels for 3 classes",
    ),
    "no labels": (lambda folder: (folder / "labels.txt").unlink(), "labels.txt: 0 labels for 3 classes"),
    "another model": (transpose_rank, "input 'premise_ids': shape"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_configuration_that_does_not_fit_is_refused(name, model) -> None:
    damage, message = DAMAGE[name]
    damage(model)
    with pytest.raises(ArtefactError, match=message) as raised:
        check_repository(model, "own")
    assert len(str(raised.value).splitlines()) == 1


def test_without_tritons_schema_the_check_is_left_out_and_said(monkeypatch) -> None:
    assert has_triton_schema()
    monkeypatch.setitem(__import__("sys").modules, "tritonclient.grpc", None)
    assert not has_triton_schema()


def test_a_repository_that_does_not_fit_leaves_no_file(made, tmp_path, capsys, monkeypatch) -> None:
    bundle, exported = made("spinn", "pair")
    monkeypatch.setattr(onnx_file, "export_onnx", exporter_of(exported))
    monkeypatch.setattr(artefact, "output_axes", lambda task, tables: {"scores": ("batch", "classes")})
    output = tmp_path / "a" / "models"
    assert main(["export", str(bundle), "--format", "triton", "--output", str(output)]) == 1
    assert "output 'hypothesis_encodings' is not in config.pbtxt" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
