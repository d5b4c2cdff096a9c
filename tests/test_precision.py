"""Training in bfloat16 and TF32: only products change, and what is learnt does not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from spinn_tensor.cli import train as train_command
from spinn_tensor.cli.main import build_parser, main
from spinn_tensor.cli.train import new_run
from spinn_tensor.data_prep.corpora.generated import generate_corpus
from spinn_tensor.data_prep.corpora.generated.logic import LogicConfig
from spinn_tensor.model.classifiers import load_checkpoint
from spinn_tensor.training.config import DataConfig, RunConfig
from spinn_tensor.training.evaluate import evaluate
from spinn_tensor.training.loop import Trainer
from spinn_tensor.training.presets import run_config
from spinn_tensor.training.run import execute
from spinn_tensor.training.step import autocast, check_precision, matmul_precision
from tests.compiled_steps import divided
from tests.processes import run_program
from tests.tiny_runs import SMALL, pair_arguments, parser_arguments, tree_arguments
from tests.tiny_training import run_of, trainer_of

pytestmark = pytest.mark.numerical

pytest.importorskip("datasets")

ROOT = Path(__file__).resolve().parents[1]
KINDS = {
    "spinn-pi-nt": ["--set", "kind=spinn-pi-nt"],
    "spinn-pi": [],
    "spinn": ["--preset", "logic-spinn", "--set", "scheduled_sampling=0.5"],
    "rl-spinn": ["--preset", "logic-rl-spinn"],
    "lstm": ["--set", "kind=lstm"],
    "bilstm leaves": ["--set", "leaf_encoder=bilstm"],
    "bow": ["--set", "kind=bow"],
}


def steps(trainer: Trainer, n_steps: int) -> list[float]:
    """Losses of steps on the same examples."""
    trainer.task.model.train()
    rows = torch.arange(16).numpy()
    losses = []
    for number in range(n_steps):
        torch.manual_seed(number)
        losses.append(float(trainer.take_step(rows)))
        trainer.progress.step += 1
    return losses


@pytest.mark.parametrize("kind", [*KINDS, "node labels", "parser"])
def test_losses_of_bfloat16_are_close_and_all_that_stays_is_float32(kind: str, tmp_path: Path) -> None:
    of_kind = {"node labels": tree_arguments, "parser": parser_arguments}.get(kind, pair_arguments)
    options = ["--dropout", "0", "--lr", "0.002", *KINDS.get(kind, [])]
    arguments = of_kind(tmp_path)
    wide, narrow = (
        trainer_of(arguments, *options, "--precision", precision) for precision in ("float32", "bfloat16")
    )
    expected, losses = steps(wide, 4), steps(narrow, 4)
    assert losses != expected
    tolerance = 0.2 if kind == "rl-spinn" else 0.02  # other rounding can be another sampled tree
    assert losses == pytest.approx(expected, rel=tolerance)
    states = (value for state in narrow.optimizer.state.values() for value in state.values())
    kept = [*narrow.task.model.parameters(), *narrow.task.model.buffers(), *states]
    gradients = [p.grad for p in narrow.task.model.parameters() if p.grad is not None]
    assert gradients
    assert {tensor.dtype for tensor in [*kept, *gradients]} <= {torch.float32, torch.int64}
    assert not torch.is_autocast_enabled("cpu")


def test_products_are_bfloat16_and_losses_float32(tmp_path: Path) -> None:
    trainer = trainer_of(pair_arguments(tmp_path), "--precision", "bfloat16")
    model = trainer.task.model
    seen: dict[str, torch.dtype] = {}

    def see(name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda *args: seen.update({name: args[2].dtype}))

    products = {"linear": model.mlp.hidden[0]}
    others = {"leaves": model.encoder.leaves, "norm": model.mlp.norms[1], "logits": model.mlp}
    for name, module in {**products, **others}.items():
        see(name, module)
    steps(trainer, 1)
    assert seen == {**dict.fromkeys(products, torch.bfloat16), **dict.fromkeys(others, torch.float32)}


def test_evaluation_is_in_float32(tmp_path: Path) -> None:
    """Of a model that was trained in bfloat16, in the run itself as from its checkpoint."""
    options = ["--epochs", "1", "--precision", "bfloat16", "--output", str(tmp_path / "run")]
    assert main([*pair_arguments(tmp_path), *options]) == 0
    checkpoint = load_checkpoint(tmp_path / "run" / "best")
    assert checkpoint.config.run["training"]["precision"] == "bfloat16"
    assert all(parameter.dtype == torch.float32 for parameter in checkpoint.model.parameters())
    trainer = trainer_of(pair_arguments(tmp_path))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert evaluate(checkpoint.model, trainer.task.dev).loss == results["splits"]["dev"]["loss"]


@pytest.mark.parametrize(
    "kind", ["spinn-pi", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("spinn-pi-nt", "spinn"))]
)
def test_a_compiled_step_in_bfloat16(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = torch.compile  # for the one batch that there is: symbols for sizes take most of the time
    quick = {"backend": divided, "dynamic": False}
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiler(function, **options | quick))
    options = ["--dropout", "0", "--precision", "bfloat16", *KINDS[kind]]
    arguments = pair_arguments(tmp_path)
    eager, compiled = trainer_of(arguments, *options), trainer_of(arguments, *options, "--compile")
    compiled.step.warm_up(compiled.task.train, torch.arange(16).numpy())
    assert steps(compiled, 3) == pytest.approx(steps(eager, 3), rel=2e-3)


def test_tf32_is_on_during_a_step_only(tmp_path: Path) -> None:
    """As if the CPU were a GPU, whose setting it is."""
    trainer = trainer_of(pair_arguments(tmp_path), "--precision", "tf32")
    matmul = torch.backends.cuda.matmul
    seen: list[str] = []
    trainer.task.model.register_forward_hook(lambda *_: seen.append(matmul.fp32_precision))
    update = trainer.step.update.optimizer.register_step_pre_hook(
        lambda *_: seen.append(matmul.fp32_precision)
    )
    before = matmul.fp32_precision
    steps(trainer, 1)
    update.remove()
    assert set(seen) == {"tf32"}
    assert matmul.fp32_precision == before != "tf32"


# What a program may have said of TF32 before it trains, and what is still true afterwards.
WHOEVER_SET_TF32 = {
    "nobody": ("", 'torch.get_float32_matmul_precision() == "highest"'),
    "new": ('matmul.fp32_precision = "tf32"', 'matmul.fp32_precision == "tf32"'),
    "new, against it": ('matmul.fp32_precision = "ieee"', 'matmul.fp32_precision == "ieee"'),
    "new, of everything": ('torch.backends.fp32_precision = "ieee"', 'matmul.fp32_precision == "ieee"'),
    "legacy": (
        'torch.set_float32_matmul_precision("high")',
        'torch.get_float32_matmul_precision() == "high"',
    ),
    "legacy flag": ("matmul.allow_tf32 = True", "matmul.allow_tf32"),
}
STEP = """
import os, sys, torch
from benchmarks.gpu_cases import precision
from spinn_tensor.training.step import matmul_precision
matmul, rnn = torch.backends.cuda.matmul, torch.backends.cudnn.rnn

def check(said, still):
    exec(said)
    for of_step in (matmul_precision, precision):
        with of_step("tf32"):
            assert matmul.fp32_precision == "tf32"
        assert eval(still)
    with precision("float32"):
        assert (matmul.fp32_precision, rnn.fp32_precision) == ("ieee", "ieee")
    assert eval(still)

for said, still in CASES:
    child = os.fork()
    if not child:
        check(said, still)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, said
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_tf32_whoever_set_it() -> None:
    """In a process for each: torch's two ways of saying it cannot be mixed, and it remembers."""
    program = STEP.replace("CASES", repr(list(WHOEVER_SET_TF32.values())))
    run_program(program)


def test_the_setting_is_put_back_after_an_error() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    with pytest.raises(ValueError, match="in a step"), matmul_precision("tf32"):
        raise ValueError("in a step")
    assert torch.backends.cuda.matmul.fp32_precision == before != "tf32"


def test_under_bfloat16_the_rest_is_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU that has it, and not beside an inductor that would read torch's older setting."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: True)
    with matmul_precision("bfloat16"):
        assert matmul.fp32_precision == "tf32"
    monkeypatch.setenv("TORCHINDUCTOR_MAX_AUTOTUNE", "1")
    with matmul_precision("bfloat16"):
        assert matmul.fp32_precision == before != "tf32"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_other_precisions_leave_the_setting_alone(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: False)
    before = torch.backends.cuda.matmul.fp32_precision
    with matmul_precision(precision), autocast(precision, "cpu"):
        assert torch.backends.cuda.matmul.fp32_precision == before
        assert torch.is_autocast_enabled("cpu") == (precision == "bfloat16")
    check_precision(precision, "cpu")
    check_precision("tf32", "cuda")


IN_TF32 = "matrix products are in TF32, CUDA's default, whose factors have 10 bits (--precision float32: 23)"


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line believes that there is a GPU, which knows TF32, and all that compiling takes."""
    monkeypatch.setattr(train_command, "choose_device", lambda _: "cuda")
    monkeypatch.setattr(train_command, "missing_to_compile", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: True)


@pytest.mark.usefixtures("on_cuda")
@pytest.mark.parametrize(
    "options, expected",
    [
        ([], "tf32"),
        (["--no-compile"], "tf32"),
        (["--preset", "logic-lstm"], "tf32"),
        (["--precision", "float32"], "float32"),
        (["--set", "precision=float32"], "float32"),
        (["--precision", "bfloat16"], "bfloat16"),
    ],
)
def test_tf32_is_the_default_on_cuda(options: list[str], expected: str) -> None:
    notes: list[str] = []
    training = run_of(*options, tell=notes.append).training
    assert training.precision == expected
    assert notes == [IN_TF32] * (expected == "tf32")
    assert training.compile == ("--no-compile" not in options and "logic-lstm" not in options)


@pytest.mark.usefixtures("on_cuda")
def test_a_preset_in_bfloat16_stays(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "logic-spinn-pi"\n[training]\nprecision = "bfloat16"\n')
    assert run_of("--preset", str(path)).training.precision == "bfloat16"


@pytest.mark.usefixtures("on_cuda")
def test_tf32_is_no_default_where_it_is_no_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU without it, and beside an inductor that would read torch's older setting."""
    with monkeypatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_MAX_AUTOTUNE", "1")
        assert run_of().training.precision == "float32"
    assert run_of().training.precision == "tf32"
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: False)
    assert run_of().training.precision == "float32"


@pytest.mark.usefixtures("on_cuda")
@pytest.mark.parametrize("begun_on", ["cpu", "cuda"])
def test_a_resumed_run_keeps_its_precision(begun_on: str, tmp_path: Path) -> None:
    """Also if it is older than the default, or its preset is a file, which says nothing of either."""
    path = tmp_path / "mine.toml"
    path.write_text('base = "logic-spinn-pi"\n')
    args = build_parser().parse_args(["train", "--preset", str(path)])
    saved = new_run(args)
    if begun_on == "cpu":
        saved = saved.changed(precision="float32", compile=False)
    notes: list[str] = []
    assert train_command.resumed_run(args, saved, notes.append) == saved
    assert notes == []


def test_a_run_that_a_gpu_began_goes_on_without_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*pair_arguments(tmp_path), "--output", str(tmp_path / "run")]
    assert main([*arguments, "--epochs", "1"]) == 0
    path = tmp_path / "run" / "run.json"
    run = json.loads(path.read_text())
    run["training"]["precision"] = "tf32"
    path.write_text(json.dumps(run))
    capsys.readouterr()
    assert main([*arguments, "--epochs", "2", "--resume"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "precision: tf32 is a way in which GPUs multiply; on cpu products are float32" in said
    assert json.loads(path.read_text())["training"] == {**run["training"], "epochs": 2}


def test_tf32_on_a_cpu_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--precision", "tf32", "--output", str(tmp_path / "run")]
    assert main([*pair_arguments(tmp_path), *options]) == 1
    assert (
        "error: precision: tf32 is a way in which GPUs multiply; this run is on cpu"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


def test_runs_from_before_there_were_precisions() -> None:
    """Their settings are read as what they were."""
    values = run_config("logic-spinn-pi", DataConfig()).to_dict()
    del values["training"]["precision"]
    assert RunConfig.from_dict(values).training.precision == "float32"


@pytest.mark.slow
def test_bfloat16_learns_as_float32_does(tmp_path: Path) -> None:
    """A small part of the embedded corpus, small models; the whole is in benchmarks/results/precision.md.

    In every run tests/test_autocast.py holds outputs and gradients against float32's.
    """
    config = LogicConfig(n_train=600, n_dev=300, n_test=3, n_long=3)
    generate_corpus("logic", tmp_path / "corpus", config)
    options = ["--data", str(tmp_path / "corpus"), *SMALL, "--hidden", "16", "--lr", "0.01"]
    settings = run_of(*options, "--epochs", "6")
    torch.set_num_threads(1)
    accuracy = {}
    for precision in ("float32", "bfloat16"):
        run = settings.changed(precision=precision)
        accuracy[precision] = execute(run, tmp_path / precision).evaluations["dev"].criterion("accuracy")
    assert accuracy["float32"] > 0.6  # of three classes
    assert abs(accuracy["bfloat16"] - accuracy["float32"]) < 0.06
