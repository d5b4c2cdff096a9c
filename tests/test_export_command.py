"""`spinn export`: an artefact that was run against its model, or one line of error and no file."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from spinn_tensor.export.interface import ExportError
from spinn_tensor.model.classifiers import load_checkpoint
from tests.artefacts import exporter_of
from tests.tiny_bundles import TEXTS
from tests.tiny_models import exports_lanes

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from spinn_tensor.export import job, onnx_file, session
from spinn_tensor.export.artefact import ARTEFACTS
from spinn_tensor.export.parity import random_cases
from spinn_tensor.export.predictor import OnnxPredictor


@pytest.fixture(scope="module")
def bundle(made: Callable[[str, str], tuple[Path, Path]]) -> Path:
    return made("spinn", "pair")[0]


@pytest.fixture(scope="module")
def good(made: Callable[[str, str], tuple[Path, Path]]) -> Path:
    """A whole export of the bundle."""
    return made("spinn", "pair")[1]


@pytest.fixture
def quick(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter has its file already."""
    monkeypatch.setattr(onnx_file, "export_onnx", exporter_of(good))


def export(bundle: Path, output: Path, *options: str) -> list[object]:
    """Return the command, of ONNX where no other format is said."""
    form = () if "--format" in options else ("--format", "onnx")
    return ["export", bundle, "--output", output, *form, *options]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.usefixtures("quick")
def test_it_says_what_it_does_and_how_far_the_artefact_is_from_the_model(bundle, tmp_path, spinn) -> None:
    lines = spinn(*export(bundle, tmp_path / "new" / "exported")).out.splitlines()
    assert lines[:2] == ["writing model.onnx", "running it against the model"]
    table = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in lines[2:6])
    assert int(table["examples compared"]) > 150
    assert 0 < float(table["largest difference (relative beyond 1)"]) < 1e-5
    assert (table["equal labels"], table["equal trees"]) == ("100.00%", "100.00%")
    assert lines[6:] == [f"onnx in {tmp_path / 'new' / 'exported'}"]
    assert files(tmp_path) == [
        "new",
        *(f"new/exported{name}" for name in ("", "/export.json", "/model.onnx", "/tokenizer.json")),
    ]


def test_the_folder_says_what_it_holds(bundle, good) -> None:
    checkpoint = load_checkpoint(bundle)
    said = json.loads((good / "export.json").read_text())
    assert said == {
        "format_version": 1,
        "format": "onnx",
        "task": "pair",
        "kind": "spinn",
        "tables": "own",
        "labels": list(checkpoint.config.model.labels),
        "branching": None,
        "parser_of_all": False,
        "binarize": "head",
        "vocabulary_sha256": checkpoint.vocabulary.sha256,
        "max_length": 0,
        "hidden_dim": 8,
        "precision": "float32",
        "folded": False,
    }
    assert (good / "tokenizer.json").read_bytes() == (bundle / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    "name, precision",
    [("onnx-fp16", "float16"), pytest.param("onnx-int8", "int8", marks=pytest.mark.slow)],
)
def test_lower_precision_is_run_and_read_as_well(name, precision, bundle, good, tmp_path, spinn) -> None:
    output = tmp_path / "exported"
    printed = spinn(*export(bundle, output, "--format", name, "--fold-leaves", "--max-length", "20")).out
    difference = re.search(r"largest difference \(relative beyond 1\) +(\S+)", printed)
    assert difference is not None
    assert float(difference[1]) > 1e-5
    said = json.loads((output / "export.json").read_text())
    assert (said["precision"], said["folded"], said["max_length"]) == (precision, True, 20)
    whole = OnnxPredictor(good, "cpu").classify(TEXTS, TEXTS[::-1])
    lower = OnnxPredictor(output, "cpu").classify(TEXTS, TEXTS[::-1])
    for prediction, other in zip(lower, whole, strict=True):
        assert prediction.probabilities == pytest.approx(other.probabilities, abs=0.2)


compiles = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@pytest.mark.parametrize(
    "name",
    [
        "torchscript",
        pytest.param("pt2", marks=pytest.mark.slow),
        pytest.param("aoti", marks=[pytest.mark.slow, compiles]),
    ],
)
def test_the_other_formats(name, bundle, tmp_path, spinn) -> None:
    printed = spinn(*export(bundle, tmp_path / "exported", "--format", name, "--fold-leaves")).out
    assert re.search(r"equal trees +100.00%", printed)
    assert files(tmp_path / "exported") == sorted([ARTEFACTS[name], "export.json", "tokenizer.json"])


def test_a_model_that_parses_takes_given_transitions_too(bundle, tmp_path, spinn) -> None:
    spinn(*export(bundle, tmp_path / "exported", "--tables", "given"))
    predictor = OnnxPredictor(tmp_path / "exported", "cpu", trees="left")
    assert predictor.parse(["A dog barks ."]) == ["( ( ( A dog ) barks ) . )"]


# Arguments that cannot be right, in a folder with "notes" and "folder/notes" in it.
WRONG = {
    "no checkpoint": (["nowhere"], "nowhere: no such checkpoint folder"),
    "an empty folder": (["."], "no checkpoint here"),
    "a file for a folder": (["BUNDLE", "--output", "notes"], "notes: a file, expected a folder"),
    "a folder in use": (
        ["BUNDLE", "--output", "folder"],
        r"folder: holds other files \(notes\); name a new folder",
    ),
    "a file on the way": (["BUNDLE", "--output", "notes/exported"], "notes/exported: Not a directory"),
    "a name": (["BUNDLE", "--name", "x"], "--name goes with --format triton"),
    "a path for a name": (
        ["BUNDLE", "--format", "triton", "--name", "../x"],
        "--name: expected letters, digits",
    ),
    "other tables": (
        ["BUNDLE", "--tables", "forest"],
        "an encoder of kind 'spinn' runs on own or given, not",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_one_line_and_no_file(name, bundle, tmp_path, spinn, monkeypatch) -> None:
    arguments, message = WRONG[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes").write_text("mine")
    before = files(tmp_path)
    source, *options = (str(bundle) if argument == "BUNDLE" else argument for argument in arguments)
    output = options.pop(options.index("--output") + 1) if "--output" in options else "exported"
    options = [option for option in options if option != "--output"]
    assert re.search(message, spinn.fails(*export(Path(source), Path(output), *options)).err)
    assert files(tmp_path) == before


def test_what_an_exporter_raises_is_one_line_and_no_folder(bundle, tmp_path, spinn, monkeypatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Constraints violated (batch)!\n  - Not all values of batch are != 1")

    monkeypatch.setattr(torch.onnx, "export", fail)
    monkeypatch.setattr(onnx_file, "traced", lambda module, graph: None)
    error = spinn.fails(*export(bundle, tmp_path / "a" / "exported", "--format", "onnx-int8")).err
    message = "ONNX file in int8 of this model (task pair, kind spinn): Not all values of batch are != 1\n"
    assert error.endswith(message)
    assert files(tmp_path) == []
    with pytest.raises(ExportError):
        spinn(*export(bundle, tmp_path / "exported", "--debug"))


def test_a_missing_package_is_named(bundle, tmp_path, spinn, monkeypatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else real(name)
    )
    error = spinn.fails(*export(bundle, tmp_path / "exported")).err
    assert "format onnx needs onnxscript: pip install 'spinn_tensor[export]'" in error
    assert files(tmp_path) == []


@contextmanager
def small_files(n_bytes: int) -> Iterator[None]:
    """The system lets no file grow beyond so many bytes, as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "name", ["onnx", "torchscript", pytest.param("pt2", marks=[exports_lanes, pytest.mark.slow])]
)
def test_a_disk_too_small(name, bundle, tmp_path, spinn) -> None:
    output = tmp_path / "a" / "exported"
    with small_files(4000):
        error = spinn.fails(*export(bundle, output, "--format", name)).err
    assert f"{output}: File too large" in error
    assert files(tmp_path) == []


@pytest.mark.usefixtures("quick")
def test_a_full_disk(bundle, tmp_path, spinn, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    error = spinn.fails(*export(bundle, tmp_path / "exported")).err
    assert "exported: No space left on device" in error
    assert files(tmp_path) == []


@pytest.mark.usefixtures("quick")
def test_an_artefact_that_answers_otherwise_leaves_no_file(bundle, tmp_path, spinn, monkeypatch) -> None:
    """What there is to be found is in test_parity.py."""
    real = job.onnx_function

    def faulty(path: Path) -> Callable[[Any], Any]:
        run = real(path)

        def run_and_change(inputs: Any) -> Any:
            outputs = run(inputs)
            outputs["premise_encodings"][-1, -1] += 1e-4
            return outputs

        return run_and_change

    monkeypatch.setattr(job, "onnx_function", faulty)
    monkeypatch.setattr(job, "random_cases", partial(random_cases, batch_sizes=(1, 3)))
    error = spinn.fails(*export(bundle, tmp_path / "exported")).err
    assert re.search(r"they differ by \S+ at length \d+, .* is allowed", error)
    assert files(tmp_path) == []


@pytest.mark.usefixtures("quick")
def test_the_artefact_of_other_weights_leaves_the_earlier_export(bundle, good, tmp_path, spinn) -> None:
    model = load_checkpoint(bundle).model
    with torch.no_grad():
        model.mlp.output.weight[0, 0] += 1e-3
    model.save_pretrained(tmp_path / "bundle")
    output = Path(shutil.copytree(good, tmp_path / "exported"))
    before = {path: path.read_bytes() for path in output.iterdir()}
    error = spinn.fails(*export(tmp_path / "bundle", output)).err
    assert "the artefact does not agree with its model: they differ by " in error
    assert before == {path: path.read_bytes() for path in output.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "exported"}
    spinn(*export(bundle, output, "--max-length", "9"))  # that of the weights replaces it
    assert json.loads((output / "export.json").read_text())["max_length"] == 9


def test_a_link_as_output_is_followed(bundle, tmp_path, spinn) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for _ in range(2):
        spinn(*export(bundle, tmp_path / "link", "--format", "torchscript"))
        assert (tmp_path / "disk" / ARTEFACTS["torchscript"]).is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]


@pytest.mark.usefixtures("quick")
def test_files_below_an_earlier_export_are_not_replaced(bundle, tmp_path, spinn) -> None:
    command = export(bundle, tmp_path / "models", "--format", "triton")
    spinn(*command)
    mine = tmp_path / "models" / "spinn" / "1" / "mine.txt"
    mine.write_text("kept", encoding="utf-8")
    assert "holds other files (1/mine.txt)" in spinn.fails(*command).err
    assert mine.read_text(encoding="utf-8") == "kept"


@pytest.mark.usefixtures("quick")
def test_a_broken_onnxruntime_is_one_line(bundle, tmp_path, spinn, monkeypatch) -> None:
    def broken() -> None:
        raise session.ProviderError("onnxruntime is there in part: pip install it anew")

    monkeypatch.setattr(session, "import_onnxruntime", broken)
    assert spinn.fails(*export(bundle, tmp_path / "out")).err.endswith("in part: pip install it anew\n")
    assert not (tmp_path / "out").exists()
