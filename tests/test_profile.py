"""`spinn profile`: the phases add up, training is what it is without a profile, and nothing is left behind."""

from __future__ import annotations

import gzip
import json
import tempfile
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from spinn_tensor.cli.main import main
from spinn_tensor.cli.profile import LONGEST_NAME
from spinn_tensor.cli.report import shorten
from spinn_tensor.data_prep.corpora.generated import GENERATORS
from spinn_tensor.training import profiling
from spinn_tensor.training.loop import Trainer
from spinn_tensor.training.profiling import LEFT_OVER, Profiler, operators_of, phases_of
from spinn_tensor.training.step import MARK, Phase, TrainStep
from tests.tiny_runs import SMALL, TINY_LOGIC, pair_arguments, tree_arguments
from tests.tiny_training import trainer_of

pytest.importorskip("datasets")

Capture = pytest.CaptureFixture[str]
EAGER = ["data", "tables", "transfer", "encode", "classify", "backward", "update", LEFT_OVER]
COMPILED = ["data", "tables", "transfer", "forward", "backward", "update", LEFT_OVER]
REPLAYED = ["data", "tables", "transfer", "replay", LEFT_OVER]
SHORT = ["--steps", "3", "--warmup", "1"]


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other number of threads is tried, which takes longer than the profile, and on a busy machine without end."""
    monkeypatch.setattr(profiling.os, "cpu_count", lambda: 1)


def profile_arguments(train_arguments: list[str], *options: str) -> list[str]:
    return ["profile", *train_arguments[1:], *SHORT, *options]


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer.task.model.parameters()]


def average(
    key: str, device: DeviceType, cpu: float = 0.0, gpu: float = 0.0, is_range: bool = False
) -> SimpleNamespace:
    """A row of the profiler's averages over two steps."""
    return SimpleNamespace(
        key=key,
        device_type=device,
        cpu_time_total=cpu,
        self_cpu_time_total=cpu,
        self_device_time_total=gpu,
        is_user_annotation=is_range,
        count=4,
    )


def test_a_phase_within_another_is_not_counted_twice() -> None:
    milliseconds = {"whole": 20.0, "forward": 12.0, "encode": 8.0, "update": 2.0}
    rows = [average(MARK + name, DeviceType.CPU, 1e3 * time) for name, time in milliseconds.items()]
    rows.append(average(MARK + "update", DeviceType.CUDA, 1e6))
    assert phases_of(rows, 2) == {"encode": 4.0, "classify": 2.0, "update": 1.0, LEFT_OVER: 3.0}


def test_a_phase_waits_for_the_device_where_a_profile_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[None] = []
    with Phase("encode"):
        pass
    monkeypatch.setattr(Phase, "wait", lambda: waits.append(None))
    with pytest.raises(ValueError, match="of the phase"), Phase("encode"):
        raise ValueError("of the phase")
    assert len(waits) == 2


def test_the_table_has_every_phase_and_the_files_all_figures(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # names of operators on one line
    monkeypatch.chdir(tmp_path)
    arguments = pair_arguments(tmp_path)
    before = set(tmp_path.rglob("*"))
    options = ["--json", "profile.json", "--trace", "trace.json.gz"]
    assert main(profile_arguments(arguments, *options)) == 0
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "profile.json", tmp_path / "trace.json.gz"}

    figures = json.loads((tmp_path / "profile.json").read_text())
    assert list(figures["phases_ms"]) == EAGER
    assert all(milliseconds > 0 for milliseconds in figures["phases_ms"].values())
    assert figures["step_ms"] > 0
    assert figures["peak_bytes"] >= figures["bytes_before"] > 1e7
    assert figures["examples_per_second"] > 0
    assert figures["run"]["training"]["batch_size"] == 16
    operators = {operator["name"]: operator for operator in figures["operators"]}
    assert operators["aten::mm"]["calls_a_step"] > 2
    assert operators["spinn_tensor::stack_machine"]["calls_a_step"] == 1
    assert sum(operator["share"] for operator in operators.values()) == pytest.approx(1)

    with gzip.open("trace.json.gz") as file:
        events = [event["name"] for event in json.load(file)["traceEvents"]]
    assert "aten::mm" in events
    marked = [
        MARK + name for name in ("data", "tables", "transfer", "encode", "forward", "backward", "update")
    ]
    assert {name: events.count(name) for name in marked} == dict.fromkeys(marked, 3)

    printed = capsys.readouterr().out
    for name in EAGER:
        assert f" {name} " in printed
    assert f"a step undisturbed: {figures['step_ms']:.2f} ms" in printed
    most_expensive = shorten(figures["operators"][0]["name"], LONGEST_NAME)
    assert printed.index(most_expensive) > printed.index(LEFT_OVER)


def test_without_files_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The corpus that a run would generate in its folder included."""
    monkeypatch.setitem(GENERATORS, "logic", GENERATORS["logic"]._replace(default=TINY_LOGIC))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path.parent / "inductor"))  # not of the profile
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["profile", *SMALL, *SHORT]) == 0
    assert not list(tmp_path.iterdir())
    assert "logic-spinn-pi: 3 steps of 16 pairs, float32\n" in capsys.readouterr().out


# Each calls another function of the encoder: parse, node_states, and forward more than once.
KINDS = {
    "spinn": (pair_arguments, ["--preset", "logic-spinn", "--scheduled-sampling", "0.5"]),
    "node labels": (tree_arguments, []),
    "several parts a step": (pair_arguments, ["--kind", "lstm", "--accumulate", "3"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_training_has_all_phases(kind: str, tmp_path: Path) -> None:
    arguments, options = KINDS[kind]
    trainer = trainer_of(profile_arguments(arguments(tmp_path), *options))
    profiled = Profiler(trainer).measure(n_steps=2, n_warmup=1)
    assert list(profiled.phases_ms) == EAGER
    assert min(profiled.phases_ms.values()) >= 0


@pytest.mark.parametrize("captures, expected", [(False, COMPILED), (True, REPLAYED)])
def test_phases_of_a_compiled_and_of_a_captured_step(
    captures: bool, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs are traced and run as they are."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    options = ["--compile", "--set", "kind=spinn-pi-nt"]
    trainer = trainer_of(profile_arguments(pair_arguments(tmp_path), *options))
    trainer.step = TrainStep(trainer.method, trainer.optimizer, trainer.config, captures=captures)
    profiled = Profiler(trainer).measure(n_steps=2, n_warmup=1)
    assert list(profiled.phases_ms) == expected


def test_watching_changes_nothing_of_training(tmp_path: Path) -> None:
    """The steps are those that are taken without a profile, and afterwards all functions are their own again."""
    arguments = profile_arguments(pair_arguments(tmp_path), "--dropout", "0.2")
    watching, alone = trainer_of(arguments), trainer_of(arguments)
    profiler, before = Profiler(watching), dict(vars(watching.task.model.encoder))
    torch.manual_seed(3)
    profiler._profiled(4, None)
    assert dict(vars(watching.task.model.encoder)) == before
    assert Phase.wait is None
    alone.task.model.train()
    torch.manual_seed(3)
    for rows in islice(alone.batches(0), 4):
        alone.take_step(rows)
        alone.progress.step += 1
    for ours, theirs in zip(weights(watching), weights(alone), strict=True):
        assert torch.equal(ours, theirs)


@pytest.fixture
def profiler(tmp_path: Path) -> Profiler:
    return Profiler(trainer_of(profile_arguments(pair_arguments(tmp_path))))


@pytest.mark.parametrize("now, other, of_other", [(1, 8, 0.5), (2, 1, 0.5), (2, 1, 0.97)])
def test_other_threads_are_advised_where_they_were_faster(
    now: int, other: int, of_other: float, profiler: Profiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(now)
    seconds = {now: 0.01, other: 0.01 * of_other}
    monkeypatch.setattr(profiling.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(profiler, "_seconds", lambda n_steps: (16, seconds[torch.get_num_threads()]))
    advice = f"--threads {other}: a step takes 5.0 ms, on {now} 10.0 ms" if of_other < 0.95 else None
    assert profiler._threads_hint() == advice
    assert torch.get_num_threads() == now


def test_on_a_gpu_kernels_are_counted_once() -> None:
    """The profiler gives a kernel's time to its operator and to the range around it as well."""
    rows = [
        average("aten::mm", DeviceType.CPU, 4e3, 6e3),
        average("gemm", DeviceType.CUDA, 0, 6e3),
        average("fill", DeviceType.CUDA, 0, 18e3),
        average(f"{MARK}backward", DeviceType.CUDA, 0, 24e3, is_range=True),
        average("Optimizer.step", DeviceType.CUDA, 0, 2e3, is_range=True),
    ]
    assert operators_of(rows, 2, of_gpu=True) == [("fill", 9.0, 0.75, 2), ("gemm", 3.0, 0.25, 2)]
    (dearest, *others) = operators_of(rows, 2, of_gpu=False)
    assert dearest == ("aten::mm", 2.0, 1.0, 2)
    assert {other.ms_a_step for other in others} == {0}
