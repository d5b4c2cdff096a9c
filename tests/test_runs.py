"""`spinn runs` and `spinn plot` say what the files of runs say; TensorBoard has each point of the log once."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from spinn_tensor.cli.plot import points
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.training.metrics_log import BOARD, METRICS, MetricsLog, read_metrics
from tests.command_line import Spinn, assert_fails_cleanly
from tests.tiny_runs import SMALL, pair_arguments

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, pair_run: Path, spinn_run: Path) -> Path:
    """Copies of two trained runs, the checkpoints left out."""
    for run in (pair_run, spinn_run):
        name = "pairs" if run is pair_run else "spinn"
        shutil.copytree(run, tmp_path / name, ignore=shutil.ignore_patterns("best", "last"))
    return tmp_path


def listed(folder: Path, spinn: Spinn) -> dict[str, dict]:
    """What `spinn runs --json` says, by the names of the runs' folders."""
    records = [json.loads(line) for line in spinn("runs", "--json", folder).out.splitlines()]
    return {Path(record["run"]).name: record for record in records}


def test_runs_are_compared(folder: Path, spinn: Spinn) -> None:
    found = listed(folder, spinn)
    assert list(found) == ["pairs", "spinn"]
    results = json.loads((folder / "pairs" / "results.json").read_text())
    run = found["pairs"]
    assert (run["state"], run["encoder"], run["preset"]) == ("finished", "spinn-pi", "logic-spinn-pi")
    assert (run["epochs"], run["epochs_asked"], run["best_step"]) == (20, 20, results["best_step"])
    assert run["best_dev"] == results["splits"]["dev"]["accuracy"]
    assert run["scores"] == {"again": results["splits"]["again"]["accuracy"]}
    assert run["n_parameters"] == results["n_parameters"]
    assert run["seconds"] == pytest.approx(results["seconds"], abs=1)
    assert (run["settings"]["training.epochs"], found["spinn"]["settings"]["training.epochs"]) == (20, 4)
    assert "encoder.hidden_dim" not in run["settings"]  # which is the same in both

    printed = spinn("runs", folder).out
    assert f"{run['best_dev']:.2%}" in printed
    assert "4 of 4" in printed
    assert "training.epochs=20" in printed


def test_unfinished_and_broken_runs_are_told(folder: Path, spinn: Spinn) -> None:
    log = folder / "spinn" / METRICS
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:-5]) + lines[-5][:20])  # as a killed run leaves it
    (folder / "pairs" / METRICS).write_text('{"step": 1}\n{"step": \n')
    shutil.copytree(folder / "spinn", folder / "inner" / "no_settings")
    (folder / "inner" / "no_settings" / "run.json").unlink()
    shutil.copytree(folder / "spinn", folder / "begun")
    (folder / "begun" / METRICS).unlink()

    found = listed(folder, spinn)
    assert "metrics.jsonl:2: not JSON" in found["pairs"]["state"]
    assert found["no_settings"]["state"].startswith("broken: ")
    assert found["spinn"]["state"] == "unfinished"
    assert found["spinn"]["best_dev"] is not None
    assert found["spinn"]["scores"] == {}
    assert found["begun"]["state"] == "unfinished"
    assert (found["begun"]["epochs"], found["begun"]["best_dev"]) == (0, None)
    spinn("runs", folder)


def test_a_run_that_is_named_twice_is_one(
    folder: Path, spinn: Spinn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    found = [
        json.loads(line)["run"]
        for line in spinn("runs", "--json", "spinn", ".", folder / "spinn").out.splitlines()
    ]
    assert found == ["spinn", "pairs"]


def test_results_without_splits_are_told(folder: Path, spinn: Spinn) -> None:
    results = folder / "pairs" / "results.json"
    steps = json.loads(results.read_text())["steps"]
    results.write_text(json.dumps({"steps": steps}))
    found = listed(folder, spinn)
    assert found["pairs"]["state"] == f"broken: {results}: splits: expected scores by split"
    assert found["spinn"]["state"] == "finished"


def test_a_log_of_something_else_is_an_error(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 1}\n{"step": "2"}\n')
    with pytest.raises(DataError, match=r"metrics.jsonl:2: step: expected the number of a step, got '2'"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("command", ["runs", "plot"])
def test_no_run_is_an_error(command: str, tmp_path: Path, capsys: Capture) -> None:
    assert_fails_cleanly([command, str(tmp_path)], f"{tmp_path.name}: holds no run", tmp_path, capsys)
    missing = str(tmp_path / "missing")
    assert_fails_cleanly([command, missing], "missing: no such folder", tmp_path, capsys)


@pytest.mark.parametrize("form, beginning", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_curves_are_drawn(form: str, beginning: bytes, folder: Path, spinn: Spinn) -> None:
    pytest.importorskip("matplotlib")
    shutil.copytree(folder / "spinn", folder / "begun")
    (folder / "begun" / METRICS).unlink()
    shutil.copytree(folder / "spinn", folder / "broken")
    (folder / "broken" / METRICS).write_text("no JSON\n")
    output = folder / f"curves.{form}"
    told = spinn("plot", folder, "--output", output).err
    assert output.read_bytes().startswith(beginning)
    assert "begun: nothing was logged yet" in told
    assert re.search(r"broken/metrics.jsonl:1: .*; this run is left out", told)


def test_curves_have_the_points_of_the_log(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    from spinn_tensor.cli.plot import curves

    logs = {name: read_metrics(folder / name) for name in ("pairs", "spinn")}
    figure = curves(logs)
    assert [len(axes.lines) for axes in figure.axes] == [4, 2, 2]  # those without a point among them
    train, dev = figure.axes[0].lines[1], figure.axes[0].lines[3]
    lines = [line for line in logs["spinn"] if line["kind"] == "train"]
    assert train.get_xydata().tolist() == [[line["step"], line["loss"]] for line in lines]
    assert train.get_color() == dev.get_color() != figure.axes[0].lines[0].get_color()
    assert points(logs["pairs"], "dev", "trees_f1") == ([], [])
    epochs = [{"kind": "epoch", "step": step, "loss": 1 / step} for step in (3, 6)]
    assert points([{"kind": "train", "step": 5, "loss": 2.0}, *epochs], "train", "loss") == (
        [3, 6],
        [1 / 3, 1 / 6],
    )
    parses = [line for line in logs["spinn"] if line["kind"] == "dev"]
    f1 = [line["parse"]["gold"]["sentence_f1"] for line in parses]
    assert figure.axes[2].lines[1].get_ydata().tolist() == f1


def test_what_cannot_be_drawn_is_an_error(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_fails_cleanly(["plot", str(folder), "--output", "curves.bmp"], "ends in .png", folder, capsys)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    install = r"spinn plot needs matplotlib .*: pip install 'spinn_tensor\[plots\]'"
    assert_fails_cleanly(["plot", str(folder)], install, folder, capsys)


def test_tensorboard_that_is_missing_is_told_at_the_start(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    arguments = [*pair_arguments(tmp_path), "--tensorboard", "--output", str(tmp_path / "run")]
    assert_fails_cleanly(
        arguments, r"needs the package tensorboard .*spinn_tensor\[tensorboard\]", tmp_path, capsys
    )


def board_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The points that TensorBoard shows of a run, by name."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = module.EventAccumulator(str(run / BOARD)).Reload()
    return {
        name: [(point.step, point.value) for point in board.Scalars(name)] for name in board.Tags()["scalars"]
    }


def test_tensorboard_has_each_point_of_the_log_once(tmp_path: Path, spinn_run: Path) -> None:
    pytest.importorskip("tensorboard")
    shutil.copy(spinn_run / METRICS, tmp_path)
    lines = read_metrics(tmp_path)
    half = sum(map(len, (tmp_path / METRICS).read_bytes().splitlines(keepends=True)[: len(lines) // 2]))
    with MetricsLog(tmp_path, board=True) as log:  # which drops what it has
        for line in lines[:-1]:
            log.write(**line)
    with MetricsLog(tmp_path, half, board=True) as log:
        for line in lines[len(lines) // 2 :]:
            log.write(**line)
    assert read_metrics(tmp_path) == lines
    found = board_of(tmp_path)
    for kind, name in (
        ("train", "loss"),
        ("train", "learning_rate"),
        ("dev", "accuracy"),
        ("dev", "trees_f1"),
    ):
        steps, values = points(lines, kind, name)
        assert [step for step, _ in found[f"{kind}/{name}"]] == steps
        assert [value for _, value in found[f"{kind}/{name}"]] == pytest.approx(values, rel=1e-6)
    assert "dev/seconds" not in found


def test_a_run_that_goes_on_may_begin_with_tensorboard(tmp_path: Path, spinn: Spinn) -> None:
    pytest.importorskip("tensorboard")
    output = tmp_path / "run"
    spinn(*pair_arguments(tmp_path), *SMALL, "--epochs", "1", "--output", output)
    assert not (output / BOARD).exists()
    spinn("train", "--resume", "--output", output, "--epochs", "2", "--tensorboard", "--threads", "1")
    steps = points(read_metrics(output), "dev", "accuracy")[0]
    assert [step for step, _ in board_of(output)["dev/accuracy"]] == steps
    assert len(steps) == 2
    spinn(*pair_arguments(tmp_path), "--epochs", "1", "--overwrite", "--output", output)
    assert not (output / BOARD).exists()
