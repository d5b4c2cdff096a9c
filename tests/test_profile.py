"""`spinn profile`: the phases add up, training is what it is without a profile, and nothing is left behind."""

from __future__ import annotations

import gzip
import itertools
import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.autograd import DeviceType

from spinn_tensor.cli.main import build_parser, main
from spinn_tensor.cli.profile import LONGEST_NAME, make_trainer, shorten
from spinn_tensor.cli.train import new_run
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.logic import LogicConfig
from spinn_tensor.training import generated, loop, optimizer, profiling
from spinn_tensor.training.loop import Trainer
from spinn_tensor.training.profiling import LEFT_OVER, PHASES, PhaseClock, Profiler, costs, watched
from spinn_tensor.training.step import TrainStep
from tests.tiny_runs import SMALL, pair_arguments, parser_arguments, same_threads, tree_arguments

pytest.importorskip("datasets")

Capture = pytest.CaptureFixture[str]
keep_threads = pytest.fixture(autouse=True)(same_threads)

EAGER = ["data", "tables", "transfer", "encode", "classify", "backward", "clip", "optimizer", LEFT_OVER]
COMPILED = ["data", "tables", "transfer", "forward", "backward", "clip + optimizer", LEFT_OVER]
# on the CPU, where a replay calls what on a GPU was called when the step was recorded
REPLAYED = [*COMPILED[:4], "replay", *COMPILED[4:]]
SHORT = ["--steps", "3", "--warmup", "1"]


def profile_arguments(train_arguments: list[str], *options: str) -> list[str]:
    return ["profile", *train_arguments[1:], *SHORT, *options]


def trainer_of(arguments: list[str]) -> Trainer:
    """What `spinn profile` with these arguments trains."""
    return make_trainer(new_run(build_parser().parse_args(arguments)), "cpu", Skipped())


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer.task.model.parameters()]


def batches(trainer: Trainer, n_batches: int) -> list[np.ndarray]:
    return [np.arange(5 * number, 5 * number + 7) for number in range(n_batches)]


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by one second whenever it is read."""
    ticks = itertools.count()
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: float(next(ticks)))


def test_a_phase_within_another_is_not_counted_twice(seconds: None) -> None:
    clock = PhaseClock(wait=lambda: None)
    clock.start()  # 1 second a line
    with clock.phase("classify"):
        with clock.phase("encode"):
            pass
        with clock.phase("encode"):
            pass
    assert clock.stop() == {LEFT_OVER: 2.0, "classify": 3.0, "encode": 2.0}


def test_a_clock_waits_for_the_device_whenever_it_is_read() -> None:
    waits: list[None] = []
    clock = PhaseClock(wait=lambda: waits.append(None))
    clock.start()
    with pytest.raises(ValueError, match="of the phase"), clock.phase("encode"):
        raise ValueError("of the phase")
    clock.stop()
    assert len(waits) == 4


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
    phases = {phase["name"]: phase for phase in figures["phases"]}
    assert list(phases) == EAGER
    assert all(phase["ms"] > 0 for phase in phases.values())
    assert sum(phase["share"] for phase in phases.values()) == pytest.approx(1)
    assert sum(phase["ms"] for phase in phases.values()) == pytest.approx(figures["phases_ms"])
    assert figures["step_ms"] > 0
    assert figures["peak_bytes"] >= figures["bytes_before"] > 1e7
    assert 0 < figures["examples_per_second"] <= 16e3 / figures["step_ms"] * 10
    assert figures["run"]["training"]["batch_size"] == 16
    operators = {operator["name"]: operator for operator in figures["operators"]}
    assert operators["aten::mm"]["calls_a_step"] > 2
    assert operators["spinn_tensor::stack_machine"]["calls_a_step"] == 1
    assert sum(operator["share"] for operator in operators.values()) == pytest.approx(1)

    with gzip.open("trace.json.gz") as file:
        events = [event["name"] for event in json.load(file)["traceEvents"]]
    assert "aten::mm" in events
    n_marks = {name: events.count(f"{profiling.RANGE}{name}") for name in EAGER[:-1]}
    assert n_marks == dict.fromkeys(EAGER[:-1], profiling.N_TRACED)

    printed = capsys.readouterr().out
    for name, phase in phases.items():
        assert f" {name} " in printed
        assert f"{phase['share']:.1%}" in printed
    assert f"a step undisturbed: {figures['step_ms']:.2f} ms" in printed
    most_expensive = shorten(figures["operators"][0]["name"], LONGEST_NAME)
    assert printed.index(most_expensive) > printed.index(LEFT_OVER)


def test_without_files_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The corpus that a run would generate in its folder included."""
    tiny = generated.GENERATORS["logic"]._replace(
        default=LogicConfig(n_train=90, n_dev=30, n_test=3, n_long=3)
    )
    monkeypatch.setitem(generated.GENERATORS, "logic", tiny)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path.parent / "inductor"))  # not of the profile
    monkeypatch.setattr(profiling.tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["profile", *SMALL, *SHORT]) == 0
    assert not list(tmp_path.iterdir())
    assert "logic-spinn-pi: 3 steps of 16 pairs, float32\n" in capsys.readouterr().out


KINDS = {
    "spinn-pi-nt": ["--set", "kind=spinn-pi-nt"],
    "spinn": ["--preset", "logic-spinn", "--set", "scheduled_sampling=0.5"],
    "rl-spinn": ["--preset", "logic-rl-spinn"],
    "lstm": ["--set", "kind=lstm"],
    "several parts a step": ["--accumulate", "3"],
}


@pytest.mark.parametrize("kind", [*KINDS, "node labels", "parser"])
def test_every_kind_of_training_has_all_phases(kind: str, tmp_path: Path) -> None:
    arguments = {"node labels": tree_arguments, "parser": parser_arguments}.get(kind, pair_arguments)(
        tmp_path
    )
    trainer = trainer_of(profile_arguments(arguments, *KINDS.get(kind, [])))
    profiled = Profiler(trainer).measure(n_steps=2, n_warmup=1)
    assert [phase.name for phase in profiled.phases] == EAGER
    assert all(phase.milliseconds > 0 for phase in profiled.phases)


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are traced and run as they are."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


@pytest.mark.parametrize("captures, expected", [(False, COMPILED), (True, REPLAYED)])
def test_phases_of_a_compiled_and_of_a_captured_step(
    captures: bool, expected: list[str], tmp_path: Path, quick_compiler: None
) -> None:
    options = ["--compile", "--set", "kind=spinn-pi-nt"]
    trainer = trainer_of(profile_arguments(pair_arguments(tmp_path), *options))
    trainer.step = TrainStep(trainer.method, trainer.optimizer, trainer.config, captures=captures)
    profiled = Profiler(trainer).measure(n_steps=2, n_warmup=1)
    assert [phase.name for phase in profiled.phases] == expected
    assert all(phase.milliseconds > 0 for phase in profiled.phases)


def test_watching_changes_nothing_of_training(tmp_path: Path) -> None:
    arguments = profile_arguments(pair_arguments(tmp_path), "--dropout", "0.2")
    watching, alone = trainer_of(arguments), trainer_of(arguments)
    clock = PhaseClock(wait=lambda: None)
    torch.manual_seed(3)
    for rows in batches(watching, 4):
        with watched(watching, clock.phase):
            watching.take_step(rows)
    torch.manual_seed(3)
    for rows in batches(alone, 4):
        alone.take_step(rows)
    for ours, theirs in zip(weights(watching), weights(alone), strict=True):
        assert torch.equal(ours, theirs)


def test_afterwards_all_functions_are_the_own_ones_again(tmp_path: Path) -> None:
    trainer = trainer_of(profile_arguments(pair_arguments(tmp_path)))
    owners = trainer.task.model.encoder, trainer.method, trainer.step, trainer.optimizer, loop, optimizer
    before = [dict(vars(owner)) for owner in owners]
    with watched(trainer, nullcontext):
        assert all(dict(vars(owner)) != was for owner, was in zip(owners, before, strict=True))
    assert [dict(vars(owner)) for owner in owners] == before


@pytest.fixture
def profiler(tmp_path: Path) -> Profiler:
    return Profiler(trainer_of(profile_arguments(pair_arguments(tmp_path))))


@pytest.mark.parametrize(
    "share, seconds_an_example, expected",
    [
        (0.09, {16: 1.0, 32: 0.5}, None),
        (
            0.2,
            {16: 1.0, 32: 0.5},
            "data and tables are 20% of a step, on the CPU; "
            "with --batch-size 32 they take 50% of the time an example",
        ),
        (
            0.2,
            {16: 1.0, 32: 1.0},
            "data and tables are 20% of a step, on the CPU; larger batches would not be built faster",
        ),
    ],
)
def test_larger_batches_are_advised_where_they_were_faster(
    share: float,
    seconds_an_example: dict[int, float],
    expected: str | None,
    profiler: Profiler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profiler, "_feeding_seconds", lambda rows: len(rows) * seconds_an_example[len(rows)])
    phases = [profiling.Phase("data", 1.0, share / 4), profiling.Phase("tables", 3.0, share * 3 / 4)]
    assert profiler._feeding_hint(phases) == expected


@pytest.mark.parametrize("now, other, of_other", [(1, 8, 0.5), (2, 1, 0.5), (2, 1, 0.97)])
def test_other_threads_are_advised_where_they_were_faster(
    now: int, other: int, of_other: float, profiler: Profiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(now)
    seconds = {now: 0.01, other: 0.01 * of_other}
    monkeypatch.setattr(profiling.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(profiler, "_seconds", lambda block: seconds[torch.get_num_threads()])
    advice = f"--threads {other}: a step takes 5.0 ms, on {now} 10.0 ms" if of_other < 0.95 else None
    assert profiler._threads_hint() == advice
    assert torch.get_num_threads() == now


def test_on_a_gpu_kernels_are_counted_once() -> None:
    """The profiler gives a kernel's time to its operator and to the range around it as well."""

    def row(key: str, device: DeviceType, cpu: float, gpu: float, is_range: bool = False) -> SimpleNamespace:
        return SimpleNamespace(
            key=key,
            device_type=device,
            self_cpu_time_total=cpu,
            self_device_time_total=gpu,
            is_user_annotation=is_range,
            count=2 * profiling.N_TRACED,
        )

    rows = [
        row("aten::mm", DeviceType.CPU, 6e3, 9e3),
        row("gemm", DeviceType.CUDA, 0, 9e3),
        row("fill", DeviceType.CUDA, 0, 27e3),
        row(f"{profiling.RANGE}backward", DeviceType.CUDA, 0, 36e3, is_range=True),
        row("Optimizer.step", DeviceType.CUDA, 0, 3e3, is_range=True),
    ]
    assert costs(rows, of_gpu=True) == [("fill", 9.0, 0.75, 2), ("gemm", 3.0, 0.25, 2)]
    (dearest, *others) = costs(rows, of_gpu=False)
    assert dearest == ("aten::mm", 2.0, 1.0, 2)
    assert {other.milliseconds for other in others} == {0}


BAD = {
    "no folder for the trace": (["--trace", "nowhere/trace.json"], "nowhere/trace.json: no such folder"),
    "no folder for the figures": (["--json", "nowhere/p.json"], "nowhere/p.json: no such folder"),
    "a folder as the trace": (["--trace", "."], "a folder, expected a file"),
    "no such training file": (["--train", "none.jsonl"], "none.jsonl: no such file"),
    "no such preset": (["--preset", "x"], "unknown preset 'x'"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_are_one_line_and_leave_nothing(
    name: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options, message = BAD[name]
    arguments = profile_arguments(pair_arguments(tmp_path), "--trace", "trace.json", *options)
    before = set(tmp_path.rglob("*"))
    assert main(arguments) == 1
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1
    assert message in errors
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("options", [["--steps", "0"], ["--warmup", "-1"], ["--output", "x"], ["--resume"]])
def test_wrong_usage(options: list[str], tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(profile_arguments(pair_arguments(tmp_path), *options))
    assert exit_.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_help_says_what_is_measured(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["profile", "--help"])
    text = capsys.readouterr().out
    assert "waits for the device between" in text
    assert "perfetto" in text


def test_phases_are_listed_in_one_order() -> None:
    for names in (EAGER, COMPILED, REPLAYED):
        assert names == [name for name in PHASES if name in names]
