"""Many processes that train one model: who does what, and how they talk.

Under torchrun every process ("rank") has the whole model and a share of each batch. Gradients are summed on the
device's backend (gloo on the CPU, nccl on CUDA); what is small and lies on the host always goes through gloo. Rank 0
alone writes, prints and evaluates; what it found is told to the others, so that all take the same decisions.

A rank that lost another waits for torchrun to end it: whoever fails first is what torchrun names as the cause.
"""

from __future__ import annotations

import json
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.errors import Interrupted, SpinnError, one_line

# Longer than any wait for rank 0, which reads, evaluates and writes while the others stand still.
PATIENCE = timedelta(hours=2)
SECONDS_TO_BE_ENDED = 20.0  # torchrun looks every 0.1 s, and kills what is still there after 30 s

T = TypeVar("T")


class LostRank(SpinnError, RuntimeError):
    """Say that another process of the job is gone; its text is one line."""


@dataclass(frozen=True)
class Ranks:
    """Say which of the processes that train together this is; without torchrun the only one."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def is_first(self) -> bool:
        """Tell whether this is the rank that writes, prints and evaluates."""
        return self.rank == 0

    def summed(self, values: Tensor) -> Tensor:
        """Sum over ranks, in place, to the same bits on each."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def from_first(self, find: Callable[[], T]) -> T:
        """Return what rank 0 finds, on every rank; the others wait."""
        if self.size == 1:
            return find()
        found: list[Any] = [find() if self.is_first else None]
        torch.distributed.broadcast_object_list(found, src=0, device=torch.device("cpu"))
        return found[0]

    def gathered(self, value: Tensor) -> list[Tensor]:
        """Return the CPU tensors of all ranks, of one shape and type."""
        if self.size == 1:
            return [value]
        values = [torch.empty_like(value) for _ in range(self.size)]
        torch.distributed.all_gather(values, value)
        return values

    def equalise(self, tensors: list[Tensor]) -> None:
        """Give every rank rank 0's values."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor.detach(), src=0)


ALONE = Ranks()


class SignalPoll:
    """Find which signal asks the job to end: any rank's, known to all ranks at the same step.

    The ranks' answers of one step are collected while the next one runs, so that no step waits for them.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._answer = torch.zeros((), dtype=torch.int64)
        self._work: torch.distributed.Work | None = None

    def agreed(self, pending: int) -> int:
        """Return the largest number that any rank had pending at the call before; alone, of this call. 0 = none."""
        if self._ranks.size == 1:
            return pending
        before = self.finish()
        self._answer = torch.tensor(pending)
        self._work = torch.distributed.all_reduce(self._answer, torch.distributed.ReduceOp.MAX, async_op=True)
        return before

    def finish(self) -> int:
        """Return the answer that is still on its way, so that nothing is when processes part."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        return int(self._answer)


@contextmanager
def joined(
    device: str,  # "cpu" or "cuda"
) -> Iterator[Ranks]:
    """Join those that torchrun started, each rank on its own GPU; alone where it started none.

    Raises ConfigError where there are fewer GPUs than ranks on a machine, or a variable is missing that whoever started
    the ranks (torchrun, or srun with RANK and WORLD_SIZE) sets, LostRank when another rank is gone.
    """
    size = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if size == 1:
        yield Ranks(device=device)
        return
    try:
        rank = int(os.environ["RANK"])
        gpu = _own_gpu() if device == "cuda" else None
        with process_group(_own_store(), rank, size, gpu):
            yield Ranks(rank, size, device if gpu is None else str(gpu))
    except Exception as error:
        if not _is_of_a_lost_rank(error):
            _tell_torchrun(error)
            raise
        if launch_id():
            time.sleep(SECONDS_TO_BE_ENDED)
        lost = LostRank(f"another process of the job is gone ({one_line(error)})")
        _tell_torchrun(lost)
        raise lost from None


@contextmanager
def process_group(
    store: torch.distributed.Store,  # where the ranks find each other
    rank: int,
    size: int,
    gpu: torch.device | None = None,  # on which tensors are summed, too
) -> Iterator[None]:
    """Open the group in which this rank talks to the others; it ends in an order that leaves nothing to chance.

    1. Everything is written, and an interruption is told: torchrun ends those that are left when one fails.
    2. All ranks meet in a last sum: nobody hangs up, or is seen to end, while another is still at 1.
    3. Each destroys its group, which waits for gloo's threads: one that lets go of a tensor while Python ends aborts
       the process (pytorch/pytorch#190489). So nothing else may hold the group. Some functions of torch have as a
       default the group that there is when they are imported; they are imported before there is one.
    4. The process ends; nobody needs the store any more.

    A rank that fails does not do 2, and then on GPUs not 3 either, where it would wait for sums that the others never
    take part in.
    """
    import torch._dynamo  # with those functions; a custom operator would import it at its first call

    torch.distributed.init_process_group(
        "gloo" if gpu is None else "cpu:gloo,cuda:nccl",
        store=store,
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
        device_id=gpu,
    )
    have_met = False
    try:
        try:
            yield
        except Interrupted:
            _meet()
            have_met = True
            raise
        _meet()
    except BaseException as error:
        if gpu is None or have_met:
            _clear_frames(error)
            torch.distributed.destroy_process_group()
        raise
    torch.distributed.destroy_process_group()


def _clear_frames(error: BaseException | None) -> None:
    """Let go of what the frames hold that an error and its causes passed through: those of torch hold the group."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _meet() -> None:
    torch.distributed.all_reduce(torch.zeros(1))


def launch_id() -> str:
    """Return what is the same for all starts of this job by one torchrun; empty without it."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    return "" if run_id is None else f"{run_id} {socket.gethostname()} {os.getppid()}"


def n_restarts() -> int:
    """Count how often torchrun started this job again, after a rank failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _own_store() -> torch.distributed.Store:
    """Open the store of the ranks' addresses. torchrun's own outlives a restart, with those of the dead."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        _of_environment(name)
    store, _, _ = next(torch.distributed.rendezvous("env://", timeout=PATIENCE))
    return torch.distributed.PrefixStore(f"spinn/{n_restarts()}", store)


def _own_gpu() -> torch.device:
    """Return the GPU of this rank, which becomes torch's current one."""
    local_rank = int(_of_environment("LOCAL_RANK", "SLURM_LOCALID"))  # of torchrun, of srun
    n_gpus = torch.cuda.device_count()
    if local_rank >= n_gpus:
        raise ConfigError(
            f"local rank {local_rank} has no GPU of its own: torch sees {n_gpus}; "
            "fewer processes (--nproc-per-node), --device cpu, or where srun shows each its own --gpu-bind=none"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _of_environment(*names: str) -> str:
    """Return the first of these variables that is set."""
    found = next((os.environ[name] for name in names if name in os.environ), None)
    if found is None:
        raise ConfigError(f"RANK is set, but not {' or '.join(names)}; torchrun sets all that ranks need")
    return found


def _is_of_a_lost_rank(error: Exception) -> bool:
    """Tell whether another rank is gone, which gloo says by a plain RuntimeError."""
    is_of_gloo = type(error) is RuntimeError and any(
        part in str(error) for part in ("gloo", "Connection closed by peer", "Connection reset by peer")
    )
    return is_of_gloo or isinstance(error, torch.distributed.DistError)


def _tell_torchrun(error: Exception) -> None:
    """Leave the cause for the report with which torchrun ends."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        text = f"{type(error).__name__}: {one_line(error)}"
        extra = {"py_callstack": text, "timestamp": str(int(time.time()))}  # it prints the former
        cause = {"message": {"message": text, "extraInfo": extra}}
        Path(path).write_text(json.dumps(cause), encoding="utf-8")
