"""`spinn train` under torchrun: what happens when a process ends, or a job is started again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from spinn_tensor.cli.main import main
from spinn_tensor.config import ConfigError
from spinn_tensor.model.classifiers import load_checkpoint
from spinn_tensor.training import distributed
from spinn_tensor.training.run import LAUNCH, is_own_restart
from tests.processes import HANGS, finds_processes
from tests.tiny_runs import assert_same_run, pair_arguments
from tests.tiny_training import log_of

SPINN, PARTING = ("-m", "spinn_tensor"), ("-m", "tests.parting")
RUN = ["--preset", "logic-spinn-pi", "--epochs", "4", "--dropout", "0.3", "--save-every", "3"]

# Rank 1 dies in its 10th step, as `kill -9` would have it, when the job is started for the first time.
DYING = """
import os, signal, sys
from spinn_tensor.cli.main import main
from spinn_tensor.training.step import TrainStep

whole_step = TrainStep.__call__

def dying_step(self, batches, totals, step, *rest):
    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"], step) == ("1", "0", 9):
        os.kill(os.getpid(), signal.SIGKILL)
    return whole_step(self, batches, totals, step, *rest)

TrainStep.__call__ = dying_step
sys.exit(main())
"""


@contextmanager
def torchrun(
    n_ranks: int, arguments: list[str], *options: str, program: tuple[str, ...]
) -> Iterator[subprocess.Popen[str]]:
    """A job, ended with its ranks if the test fails meanwhile."""
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(n_ranks),
    ]
    job = subprocess.Popen(
        [*launcher, *options, *program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with job:
        try:
            yield job
        except BaseException:
            job.terminate()
            raise


def pid_of_rank(launcher: int, rank: int) -> int:
    """The process that torchrun started for a rank."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and f"RANK={rank}".encode() in (entry / "environ").read_bytes().split(
                b"\0"
            ):
                return int(entry.name)
    raise AssertionError(f"torchrun has no rank {rank}")


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + HANGS
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [*pair_arguments(tmp_path_factory.mktemp("corpus")), *RUN]


@finds_processes
@pytest.mark.parametrize("number", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_to_one_rank_ends_the_job(number: int, arguments: list[str], tmp_path: Path) -> None:
    """SIGKILL with its rank named; SIGTERM with a checkpoint of its step, which is told, and where one goes on."""
    output = tmp_path / "run"
    long = [*arguments, "--epochs", "100000", "--save-every", "0", "--output", str(output)]
    with torchrun(2, long, program=PARTING) as job:
        wait_for(output / "last", job)
        os.kill(pid_of_rank(job.pid, 1), number)
        printed, _ = job.communicate(timeout=HANGS)
    assert job.returncode != 0
    if number == signal.SIGTERM:
        (step,) = re.findall(r"^stopped at step ([\d,]+); saved .*last$", printed, re.M)
        n_steps = int(step.replace(",", ""))
        assert load_checkpoint(output / "last").config.metrics["step"] == n_steps
        assert "another process" not in printed
        assert "rank 1: 0 threads left" in printed
        n_epochs = n_steps // 4 + 1  # of four steps
        assert main(["train", "--output", str(output), "--resume", "--epochs", str(n_epochs)]) == 0
        assert load_checkpoint(output / "last").config.metrics["step"] == 4 * n_epochs
    else:
        cause = printed[printed.index("Root Cause") :]
        assert re.search(r"rank +: 1 .*\n +exitcode +: -9 .*SIGKILL", cause), printed


@pytest.mark.slow
@pytest.mark.numerical
def test_a_restarted_job_ends_as_if_nothing_had_happened(arguments: list[str], tmp_path: Path) -> None:
    """Nor does a restart take the run of another job for its own."""
    program = tmp_path / "dying.py"
    program.write_text(DYING)
    undisturbed, output = tmp_path / "undisturbed", tmp_path / "run"
    with torchrun(2, [*arguments, "--output", str(undisturbed)], program=SPINN) as job:
        printed, _ = job.communicate(timeout=HANGS)
    assert job.returncode == 0, printed
    options = "--max-restarts", "2"
    with torchrun(2, [*arguments, "--output", str(output)], *options, program=(str(program),)) as job:
        printed, _ = job.communicate(timeout=HANGS)
    assert job.returncode == 0, printed
    assert re.search(r"exitcode: -9\) local_rank: 1", printed)
    assert "resumed at step 9" in printed
    assert_same_run(output, undisturbed)
    with torchrun(2, [*arguments, "--output", str(output)], "--max-restarts", "1", program=SPINN) as job:
        printed, _ = job.communicate(timeout=HANGS)
    assert job.returncode != 0
    assert printed.count("spinn: rank 0: error: ") == 2
    assert printed.count("rank 1: error") == 0
    assert "holds a run already" in printed[printed.index("Root Cause") :]


@pytest.mark.parametrize("change", [{}, {"count": "0"}, {"run": "another"}, {"written": False}])
def test_only_a_restart_of_the_same_job_goes_on_by_itself(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    if change.get("written", True):
        (tmp_path / LAUNCH).write_text(distributed.launch_id())
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", change.get("run", "job"))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", change.get("count", "1"))
    assert is_own_restart(tmp_path) == (not change)


# What is set beside RANK=1 and WORLD_SIZE=2, and what comes of it where there are two GPUs.
STARTED_BY = {
    "torchrun": ({"LOCAL_RANK": "1", "SLURM_LOCALID": "0"}, 1),
    "srun": ({"SLURM_LOCALID": "1"}, 1),
    "another": ({}, "RANK is set, but not LOCAL_RANK or SLURM_LOCALID; torchrun sets all that ranks need"),
    "srun, too many": ({"SLURM_LOCALID": "2"}, "local rank 2 has no GPU of its own: torch sees 2; .*"),
}


@pytest.mark.parametrize("variables, expected", STARTED_BY.values(), ids=STARTED_BY)
def test_a_rank_finds_its_gpu_by_whoever_started_it(
    variables: dict[str, str], expected: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_RANK", "SLURM_LOCALID", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", **variables}.items():
        monkeypatch.setenv(name, value)
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    # where a GPU is found, nobody says where the ranks meet
    missing = "RANK is set, but not MASTER_ADDR; .*" if isinstance(expected, int) else expected
    with pytest.raises(ConfigError, match=f"^{missing}$"), distributed.joined("cuda"):
        pass
    assert chosen == ([expected] if isinstance(expected, int) else [])


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(arguments: list[str], tmp_path: Path) -> None:
    output = tmp_path / "run"
    with torchrun(2, [*arguments, "--epochs", "1", "--output", str(output)], program=PARTING) as job:
        printed, _ = job.communicate(timeout=HANGS)
    assert job.returncode == 0, printed
    for rank in range(2):
        assert f"rank {rank}: 0 threads left" in printed
    assert main(["train", "--output", str(output), "--resume", "--epochs", "2", "--threads", "1"]) == 0
    assert load_checkpoint(output / "last").config.metrics["step"] == 8


@pytest.mark.slow
@pytest.mark.numerical
def test_compiled_steps_of_two_processes_have_the_losses_of_one(arguments: list[str], tmp_path: Path) -> None:
    losses = []
    for compiled in (False, True):
        output = tmp_path / str(compiled)
        options = ["--dropout", "0", "--set", "log_every=1", "--output", str(output)]
        options += ["--compile"] if compiled else []
        with torchrun(1 + compiled, [*arguments, *options], program=SPINN) as job:
            printed, _ = job.communicate(timeout=HANGS)
        assert job.returncode == 0, printed
        losses.append([line["loss"] for line in log_of(output, "train")])
    assert len(losses[0]) == 16
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
