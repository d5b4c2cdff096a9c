"""The text front of a Triton repository: what it answers, held against `OnnxPredictor`, and the files around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from spinn_tensor.cli.main import main
from tests.tiny_bundles import TEXTS, tiny_bundle

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("tritonclient.grpc")

from spinn_tensor.export import onnx_file
from spinn_tensor.export.artefact import ArtefactError
from spinn_tensor.export.predictor import OnnxPredictor
from spinn_tensor.export.triton import check_front
from tests.artefacts import exporter_of
from tests.triton_backend import Front, TritonError

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "triton_server"
LABELS = ["label", "probabilities"]
KINDS = {  # kind, task, options, outputs of the front
    "own": ("spinn", "pair", [], [*LABELS, "tree"]),
    "given": ("spinn-pi", "pair", ["--parser", "packaged"], [*LABELS, "tree"]),
    "parses": ("spinn", "parse", [], ["tree"]),
    "words": ("bow", "sentence", [], LABELS),
}
PAIRS = [[premise, hypothesis] for premise, hypothesis in zip(TEXTS, reversed(TEXTS), strict=True)]


@pytest.fixture(scope="module")
def models(
    made: Callable[[str, str], tuple[Path, Path]],
    pair_run: Path,
    with_parser: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A repository of four models; one is exported for it, the others have the files of their ONNX exports."""
    folder = tmp_path_factory.mktemp("triton")
    for name, (kind, task, options, _) in KINDS.items():
        with pytest.MonkeyPatch.context() as patch:
            if name == "parses":
                bundle = tiny_bundle(folder / name, kind, task)
            else:
                bundle, exported = (pair_run, with_parser) if name == "given" else made(kind, task)
                patch.setattr(onnx_file, "export_onnx", exporter_of(exported))
            arguments = ["export", str(bundle), "--format", "triton", "--name", name, *options]
            assert main([*arguments, "--output", str(folder / "models")]) == 0
    return folder / "models"


def assert_as_alone(found: Any, predictor: OnnxPredictor, rows: list[list[str]], outputs: list[str]) -> None:
    """What a request of these rows got is what the predictor says of them."""
    assert not isinstance(found, TritonError), found
    assert list(found) == outputs
    if "label" in outputs:
        predictions = predictor.classify(*(list(side) for side in zip(*rows, strict=True)))
        assert found["label"].tolist() == [[one.label.encode()] for one in predictions]
        probabilities = [list(one.probabilities.values()) for one in predictions]
        np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-5)
    if "tree" in outputs:
        assert found["tree"].tolist() == [[tree.encode() for tree in predictor.parse(row)] for row in rows]


@pytest.mark.parametrize("name", KINDS)
def test_requests_that_run_together_get_what_each_would_alone(name, models, monkeypatch) -> None:
    front, predictor = Front(models / f"{name}_text", monkeypatch), OnnxPredictor(models / name, "cpu")
    check_front(models / f"{name}_text", name)
    rows = PAIRS if KINDS[name][1] == "pair" else [[text] for text in TEXTS]
    calls = [rows[:1], rows[1:4], rows[3:], rows]
    for found, call in zip(front.ask(*calls), calls, strict=True):
        assert_as_alone(found, predictor, call, KINDS[name][3])


@pytest.mark.parametrize(
    "bad, message",
    [
        ("", "example 1: hypothesis: a sentence without words"),
        ("( dog", "example 1: hypothesis: token 1 '(': unbalanced: '(' is never closed"),
        (b"caf\xe9", "example 1: hypothesis: not UTF-8 ("),
    ],
)
def test_a_request_with_a_bad_sentence_fails_alone(bad, message, models, monkeypatch) -> None:
    front, predictor = Front(models / "own_text", monkeypatch), OnnxPredictor(models / "own", "cpu")
    good, error, other = front.ask(PAIRS[:2], [PAIRS[2], ["cats", bad], PAIRS[3]], PAIRS[1:])
    assert isinstance(error, TritonError)
    assert error.message.startswith(message)
    assert error.code == TritonError.INVALID_ARG
    assert_as_alone(good, predictor, PAIRS[:2], KINDS["own"][3])
    assert_as_alone(other, predictor, PAIRS[1:], KINDS["own"][3])
    assert isinstance(front.ask([["cats", bad]])[0], TritonError)


def test_text_may_have_any_characters_and_trees(models, monkeypatch) -> None:
    rows = [["Ein Café – «schön» 😀"], ["A dog (really) barks."], ["( ( the big ) cat )"], ["a\xa0b \u2028"]]
    found = Front(models / "parses_text", monkeypatch).ask(rows)[0]
    assert_as_alone(found, OnnxPredictor(models / "parses", "cpu"), rows, ["tree"])
    assert "Café" in found["tree"][0, 0].decode()


@pytest.mark.parametrize("asked, other", [("label", "parse"), ("tree", "classify")])
def test_what_no_request_asks_for_is_not_computed(asked, other, models, monkeypatch) -> None:
    front = Front(models / "own_text", monkeypatch)
    monkeypatch.setattr(OnnxPredictor, other, None)
    assert list(front.ask(PAIRS, asked={asked})[0]) == [asked]


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('"own_text"', '"own"', "name is 'own', its folder's is 'own_text'"),
        ('"python"', '"onnxruntime"', "backend is 'onnxruntime', expected 'python'"),
        ("dims: [ 3 ]", "dims: [ 4 ]", "labels.txt: 3 labels for 4 classes"),
        ("KIND_CPU", "KIND_TPU", "not Triton's model configuration"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(old, new, message, models, tmp_path) -> None:
    text = (models / "own_text" / "config.pbtxt").read_text()
    assert old in text
    (tmp_path / "config.pbtxt").write_text(text.replace(old, new))
    (tmp_path / "labels.txt").write_bytes((models / "own_text" / "labels.txt").read_bytes())
    with pytest.raises(ArtefactError, match=message):
        check_front(tmp_path, "own")


def test_a_front_is_replaced_but_not_one_of_somebody_else(made, tmp_path, spinn, monkeypatch) -> None:
    (bundle, exported), front = made("bow", "sentence"), tmp_path / "models" / "spinn_text"
    monkeypatch.setattr(onnx_file, "export_onnx", exporter_of(exported))
    export = ["export", bundle, "--format", "triton", "--output", tmp_path / "models"]
    spinn(*export)
    (front / "1" / "__pycache__").mkdir()
    (front / "1" / "__pycache__" / "model.cpython-312.pyc").touch()  # as Triton leaves
    spinn(*export)
    model = (front / "1" / "model.py").read_text()
    for name, text in (("notes.txt", "mine"), ("1/model.py", model + "mine")):
        (front / name).write_text(text)
        assert "spinn_text: holds other files (" in spinn.fails(*export).err
        assert (front / name).read_text() == text
        (front / "notes.txt").unlink(missing_ok=True)


def test_the_compose_file_names_what_is_there() -> None:
    service = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())["services"]["triton"]
    context = (EXAMPLE / service["build"]["context"]).resolve()
    assert context == EXAMPLE.parents[1]
    assert (context / service["build"]["dockerfile"]).is_file()
