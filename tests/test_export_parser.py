"""A model that composes by given trees, exported with the parser that makes them: text in, without torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from spinn_tensor import Pipeline
from spinn_tensor.export import onnx_file
from spinn_tensor.export.predictor import OnnxPredictor
from tests.artefacts import exporter_of
from tests.command_line import Spinn
from tests.processes import run_program

TEXTS = ["Old dogs bark.", "( ( red cats ) sing )", "The big birds don't sleep in the old tree."]
OTHERS = ["dogs bark", "cats sing", "( birds ( do ( not sleep ) ) )"]

# a server's whole program; the module torch is not there
SERVE = """
import json, sys
sys.modules["torch"] = None
from spinn_tensor.export.predictor import OnnxPredictor
model = OnnxPredictor(sys.argv[1], "cpu", threads=1)
for line in sys.stdin:
    premise, hypothesis = json.loads(line)
    print(json.dumps(model.classify([premise], [hypothesis])[0].probabilities))
"""


@pytest.fixture
def quick(with_parser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter has the files of the model and of its parser already."""
    monkeypatch.setattr(onnx_file, "export_onnx", exporter_of(with_parser))


def test_text_is_classified_as_by_the_pipeline(with_parser: Path, pair_run: Path) -> None:
    expected = Pipeline.from_pretrained(pair_run).classify(TEXTS, OTHERS)
    lines = "".join(json.dumps(pair) + "\n" for pair in zip(TEXTS, OTHERS, strict=True))
    served = run_program(SERVE, with_parser, stdin=lines)
    for line, prediction in zip(served.splitlines(), expected, strict=True):
        found = json.loads(line)
        assert list(found) == list(prediction.probabilities)
        np.testing.assert_allclose(list(found.values()), list(prediction.probabilities.values()), atol=1e-4)
    assert OnnxPredictor(with_parser, "cpu").parse(TEXTS) == Pipeline.from_pretrained(pair_run).parse(TEXTS)


def test_trees_that_are_asked_for_are_taken_instead(with_parser: Path) -> None:
    predictor = OnnxPredictor(with_parser, "cpu", trees="left")
    assert predictor.parse(["old dogs bark"]) == ["( ( old dogs ) bark )"]
    assert predictor.parser is None


@pytest.mark.usefixtures("quick")
def test_the_parser_of_the_run_goes_with_the_model(pair_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    """It made all trees that the model was trained with, and makes all of the export's."""
    run, folder = tmp_path / "run", tmp_path / "model"
    shutil.copytree(pair_run / "best", run)
    config = json.loads((run / "config.json").read_text())
    config["run"]["data"]["parser"] = "packaged"
    (run / "config.json").write_text(json.dumps(config))
    command = ["export", run, "--format", "onnx", "--output"]
    spinn(*command, folder)
    config["run"]["data"]["parser"] = str(tmp_path / "moved")
    (run / "config.json").write_text(json.dumps(config))
    error = spinn.fails(*command, tmp_path / "alone").err
    assert error.endswith("no such checkpoint folder; --parser none leaves it out\n")
    spinn(*command, tmp_path / "alone", "--parser", "none")
    assert not (tmp_path / "alone" / "parser").exists()
    config["run"]["data"]["parser"] = "packaged"
    (run / "config.json").write_text(json.dumps(config))
    text = "the dog barks"
    assert OnnxPredictor(tmp_path / "alone", "cpu", parser=folder / "parser").parse(text) == OnnxPredictor(
        folder
    ).parse(text)
    given = ["( ( the dog ) ( barks . ) )", "( the ( dog ( barks . ) ) )"]
    assert Pipeline.from_pretrained(run).parse(given) == [given[0]] * 2
    assert OnnxPredictor(folder, "cpu").parse(given) == [given[0]] * 2
    assert Pipeline.from_pretrained(run, trees="none").parse(given) == given


@pytest.mark.usefixtures("quick")
def test_the_folder_is_replaced_whole(
    with_parser: Path, pair_run: Path, tmp_path: Path, spinn: Spinn
) -> None:
    """By one without a parser, too; and not if anybody else's file is in it."""
    exported = Path(shutil.copytree(with_parser, tmp_path / "exported"))
    command = ["export", pair_run, "--format", "onnx", "--output", exported]
    (exported / "parser" / "notes.txt").touch()
    assert "parser/notes.txt" in spinn.fails(*command).err
    (exported / "parser" / "notes.txt").unlink()
    assert "--parser packaged" in spinn(*command).out.splitlines()[-1]  # what makes trees of text
    assert not (exported / "parser").exists()
    with pytest.raises(ValueError, match="text without a parse"):
        OnnxPredictor(exported, "cpu").classify(TEXTS, OTHERS)


@pytest.mark.parametrize(
    "run, options",
    [("spinn_run", ["--format", "onnx"]), ("pair_run", ["--format", "torchscript"])],
)
def test_a_parser_that_would_do_nothing(
    run: str, options: list[str], request: pytest.FixtureRequest, tmp_path: Path, spinn: Spinn
) -> None:
    command = ["export", request.getfixturevalue(run), *options, "--output", tmp_path / "x"]
    assert "--parser: is for the onnx formats" in spinn.fails(*command, "--parser", "packaged").err
    assert not (tmp_path / "x").exists()
