"""A run killed by SIGKILL, wherever it is, resumes and ends with the weights of one that was left alone."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spinn_tensor.cli.main import main
from spinn_tensor.model.classifiers import load_checkpoint
from spinn_tensor.tensor_files import CheckpointError
from spinn_tensor.training.checkpoint import STATE, read_training_state
from spinn_tensor.training.loop import Task, Trainer
from spinn_tensor.training.step import TrainStep
from tests.tiny_runs import assert_same_run, figures, pair_arguments, parser_arguments, same_threads
from tests.tiny_training import Notes, pair_model, pairs, settings, trainer

pytest.importorskip("datasets")

RUN = shlex.split("--preset logic-spinn-pi --epochs 3 --dropout 0.3 --save-every 1 --evaluate-every 3")

# Kills itself at the n-th file event below the run's folder: opening, renaming, deleting, …
KILLED_RUN = """
import os, signal, sys
from spinn_tensor.cli.main import main
folder, left = sys.argv[1], int(sys.argv[2])

def hook(event, arguments):
    global left
    if any(isinstance(a, (str, os.PathLike)) and folder in str(a) for a in arguments):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
sys.exit(main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [*pair_arguments(tmp_path_factory.mktemp("corpus")), *RUN]


@pytest.fixture(scope="module")
def undisturbed(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from beginning to end."""
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    for _ in same_threads():
        assert main([*arguments, "--output", str(output)]) == 0
    return output


def killed_at_event(arguments: list[str], output: Path, n_events: int) -> bool:
    """Whether the run was killed; it ends well if it has fewer events."""
    command = [sys.executable, "-c", KILLED_RUN, str(output), str(n_events), *arguments, "--resume"]
    done = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def before_step(
    number: int,
    act: Callable[[], object],
    monkeypatch: pytest.MonkeyPatch,
    whole_step: Any = TrainStep.__call__,
) -> None:
    """Do something in the middle of a run."""

    def step(self: TrainStep, batches: Any, totals: Any, step: int, *rest: Any) -> torch.Tensor:
        if step == number:
            act()
        return whole_step(self, batches, totals, step, *rest)

    monkeypatch.setattr(TrainStep, "__call__", step)


def test_reinforcement_goes_on_with_its_noise_and_its_moments(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its folder as it is in the middle, which is what a kill would leave."""
    reinforce = ["kind=spinn", "learning=reinforce", "n_samples=2", "warmup_steps=3", "baseline=mean"]
    learning = [*arguments, *(part for setting in reinforce for part in ("--set", setting))]
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    before_step(8, lambda: shutil.copytree(undisturbed, run), monkeypatch)
    assert main([*learning, "--output", str(undisturbed)]) == 0
    monkeypatch.undo()
    assert load_checkpoint(run / "last").config.metrics["step"] == 8
    assert main([*learning, "--output", str(run), "--resume"]) == 0
    assert_same_run(run, undisturbed)
    rewards = [line for line in figures(run) if "reward" in line]
    assert len(rewards) > 2


@pytest.mark.slow
def test_killed_over_and_over_at_every_kind_of_moment(
    arguments: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    """Few events a session, so that a run is killed dozens of times: at the start, while training, while saving."""
    for n_events in (2, 19, 45):
        output = tmp_path / str(n_events)
        for _ in range(12):
            if not killed_at_event(arguments, output, n_events):
                break
            n_events += 7  # another moment each time
        assert main([*arguments, "--output", str(output), "--resume"]) == 0
        assert_same_run(output, undisturbed)


@pytest.mark.slow
def test_killed_at_any_time(arguments: list[str], undisturbed: Path, tmp_path: Path) -> None:
    """By the clock instead of by events."""
    command = [sys.executable, "-m", "spinn_tensor", *arguments, "--resume"]
    for number in range(6):
        output = tmp_path / str(number)
        with subprocess.Popen([*command, "--output", str(output)], stderr=subprocess.DEVNULL) as process:
            while not (output / "run.json").exists() and process.poll() is None:
                time.sleep(0.005)
            time.sleep(0.15 * number)
            process.kill()
        assert main([*arguments, "--output", str(output), "--resume"]) == 0
        assert_same_run(output, undisturbed)


def test_ctrl_c_saves_and_exits_130(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    before_step(6, lambda: signal.raise_signal(signal.SIGINT), monkeypatch)
    assert main([*arguments, "--output", str(output), "--epochs", "2000"]) == 130
    assert f"saved {output / 'last'}" in capsys.readouterr().err.splitlines()[-1]
    assert load_checkpoint(output / "last").config.metrics["step"] == 7


def test_resuming_a_finished_run_changes_nothing(
    arguments: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in undisturbed.rglob("*.safetensors")}
    assert main([*arguments, "--output", str(undisturbed), "--resume"]) == 0
    assert before == {path: path.read_bytes() for path in undisturbed.rglob("*.safetensors")}


def test_resuming_needs_no_other_argument_and_may_go_on_for_longer(
    arguments: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    assert main([*arguments, "--output", str(output), "--epochs", "1"]) == 0
    assert load_checkpoint(output / "last").config.metrics["epoch"] == 1
    assert main(["train", "--output", str(output), "--resume", "--epochs", "3", "--threads", "1"]) == 0
    assert_same_run(output, undisturbed)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--lr", "0.5"], "--resume: training.learning_rate differs: the run has 0.003, now 0.5"),
        (["--set", "mlp_dim=7"], "--resume: classifier.mlp_dim differs: the run has 12, now 7"),
        (
            ["--preset", "logic-bow"],
            "--resume: preset differs: the run has 'logic-spinn-pi', now 'logic-bow'",
        ),
        (["--train", "other.jsonl"], "--resume: data.train differs"),
    ],
)
def test_another_configuration_is_refused_by_its_key(
    options: list[str], message: str, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--output", str(undisturbed), "--resume", *options]) == 1
    assert capsys.readouterr().err.startswith(f"spinn: error: {message}")


def test_other_examples_are_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    own = [*pair_arguments(folder), *RUN, "--epochs", "1", "--output", str(tmp_path / "run")]
    assert main(own) == 0
    lines = (folder / "train.jsonl").read_text().splitlines()
    (folder / "train.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    capsys.readouterr()
    assert main([*own, "--resume", "--epochs", "2"]) == 1
    assert "the run was started with other training or dev examples" in capsys.readouterr().err


def test_resuming_where_nothing_is_begins_a_run(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert main([*arguments, "--output", str(output), "--resume", "--epochs", "1"]) == 0
    assert f"nothing to resume in {output}: beginning a new run" in capsys.readouterr().out


def test_states_without_the_parameters_that_are_not_trained(last: Path) -> None:
    change(lambda state: state["optimizer"].pop("encoder.leaves.embedding.weight"))(last / STATE)
    vocabulary, corpus = pairs(last.parent)
    model = pair_model("spinn-pi", vocabulary)
    model.encoder.leaves.embedding.weight.requires_grad_(False)
    run = Trainer(Task(model, vocabulary, corpus, corpus), settings(epochs=3), last.parent)
    run.resume(read_training_state(last), last)


@pytest.fixture
def last(few_steps: Path, tmp_path: Path) -> Path:
    """A copy of the last checkpoint of a run, to be damaged."""
    return Path(shutil.copytree(few_steps / "last", tmp_path / "last"))


def resumed(last: Path, device: str) -> list[str]:
    """What is noted where the checkpoint is resumed on a device."""
    notes = Notes()
    run = trainer(last.parent, observer=notes, device=device, epochs=3)
    run.resume(read_training_state(last), last)
    run.take_step(run.batches(2)[0])
    return notes.texts


def change(edit: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        values = torch.load(path, weights_only=True)
        edit(values)
        torch.save(values, path)

    return damage


def change_of_parameter(name: str, edit: Callable[[dict], object]) -> Callable[[Path], None]:
    return change(lambda state: edit(state["optimizer"][name]))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "a pickle that runs something": lambda path: torch.save({"progress": Path()}, path),
    "a list": lambda path: torch.save([1], path),
    "a part is missing": change(lambda state: state.pop("method")),
    "unknown counter": change(lambda state: state["progress"].update(hours=1)),
    "missing counter": change(lambda state: state["progress"].pop("batch")),
    "counter of another type": change(lambda state: state["progress"].update(step="3")),
    "a list for the optimiser": change(lambda state: state.update(optimizer=[])),
    "average of another type": change_of_parameter(
        "mlp.output.bias", lambda of: of.update(square_avg=of["square_avg"].double())
    ),
    "missing optimiser tensor": change_of_parameter("mlp.output.bias", lambda of: of.pop("step")),
    "unknown parameter": change(lambda state: state["optimizer"].update(ghost={"square_avg": torch.ones(1)})),
    "misshapen average": change_of_parameter(
        "mlp.output.bias", lambda of: of.update(square_avg=torch.ones(7))
    ),
    "transposed average": change_of_parameter(
        "encoder.leaves.projection.weight", lambda of: of.update(square_avg=of["square_avg"].T.contiguous())
    ),
    "misshapen step": change_of_parameter("mlp.output.bias", lambda of: of.update(step=torch.zeros(3))),
    "step of another type": change_of_parameter(
        "mlp.output.bias", lambda of: of.update(step=torch.zeros((), dtype=torch.int64))
    ),
    "extra optimiser tensor": change_of_parameter(
        "mlp.output.bias", lambda of: of.update(momentum_buffer=of["square_avg"])
    ),
    "a parameter without state": change(lambda state: state["optimizer"].pop("mlp.output.bias")),
    "extra method tensor": change(lambda state: state["method"].update(weight=torch.zeros(()))),
    "weights where there is no average": change(lambda state: state.update(weights={"w": torch.ones(1)})),
    "a list for the weights": change(lambda state: state.update(weights=[1])),
    "misshapen generator": change(lambda state: state["generators"][0].update(cpu=torch.zeros(3).byte())),
    "no generator": change(lambda state: state["generators"].clear()),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_training_state_is_refused_in_one_line(name: str, last: Path) -> None:
    DAMAGE[name](last / STATE)
    with pytest.raises(CheckpointError) as error:
        resumed(last, "cpu")
    assert str(error.value).startswith(f"{last / STATE}: ")
    assert "\n" not in str(error.value)


def test_a_run_on_cuda_goes_on_on_the_cpu_and_says_so(last: Path) -> None:
    assert resumed(last, "cpu") == []
    change(lambda state: state["generators"][0].update(cuda=torch.zeros(16).byte()))(last / STATE)
    (note,) = resumed(last, "cpu")
    assert note.startswith("now on cpu, before not")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_run_on_the_cpu_goes_on_on_cuda_and_says_so(last: Path) -> None:
    (note,) = resumed(last, "cuda")
    assert note.startswith("now on cuda, before not")


def test_a_resumed_parser_is_one_that_was_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its files given as relative paths, from another folder, and not given again."""
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    arguments = parser_arguments(Path())
    assert main([*arguments, "--epochs", "2", "--output", "../whole"]) == 0
    assert main([*arguments, "--epochs", "1", "--output", "../parts"]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--output", "parts", "--resume", "--epochs", "2", "--threads", "1"]) == 0
    weights = [(tmp_path / name / "last" / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]
