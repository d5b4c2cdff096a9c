"""Everything beside the weights that decides how a run goes on: a killed run ends as if it had not been killed.

Exactly so on the CPU, on the same machine with the same numbers of threads and processes. A run may move between CPU
and CUDA, whose generator then starts from the seed, and to another number of processes.

    training_state.json          counters, early stopping, running losses: `Progress`
    training_state.safetensors   rng/cpu, rng/cuda            state of torch's generators, uint8; cuda if it ran there
                                 rng/cpu/1, rng/cuda/1, …     those of the other processes
                                 optimizer/KEY/PARAMETER      RMSprop's tensors (KEY: square_avg, step)
                                 method/NAME                  of the method: RL-SPINN's running moments

The order of the batches needs no state: it is a function of (seed, epoch), and `Progress` says how many are
done. The learning rate is a function of step and epoch.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from spinn_tensor.bundle import read_object
from spinn_tensor.config import ConfigError, checked_fields
from spinn_tensor.data_prep.columns import Corpus
from spinn_tensor.tensor_files import CheckpointError, check_tensors, read_tensors
from spinn_tensor.training.distributed import ALONE, Ranks

METHOD = "method/"
STATE_JSON, STATE_TENSORS = "training_state.json", "training_state.safetensors"


@dataclass
class Progress:
    """Where a run is. Sums of losses are floats of finished readings, so they survive JSON exactly."""

    step: int = 0  # optimiser steps done
    epoch: int = 0  # epochs finished
    batch: int = 0  # batches of the current epoch done
    examples: int = 0  # sentences or pairs seen
    best_score: float = -1.0  # on dev, by `select_by`; -1 = not evaluated yet
    best_step: int = 0
    bad_evaluations: int = 0  # since the best one
    stopped: bool = False  # by early stopping
    epoch_loss: float = 0.0  # sum over the steps of the current epoch
    window_loss: float = 0.0  # sum over the steps since the last line of the log
    window_steps: int = 0
    seconds: float = 0.0  # of training and evaluation, over all sessions
    metrics_position: int = 0  # bytes of metrics.jsonl that belong to the steps done
    n_threads: int = 0  # of the session that wrote it
    corpus_sha256: str = ""  # of the training and dev examples
    optimizer_parameters: tuple[str, ...] = ()  # those with optimiser state

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "optimizer_parameters": list(self.optimizer_parameters)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Progress:
        fields = checked_fields(cls, values)
        for name in cls.__dataclass_fields__.keys() - fields.keys():
            raise ConfigError(f"Progress: key {name!r} is missing")
        return cls(**{**fields, "optimizer_parameters": tuple(fields["optimizer_parameters"])})


class TrainingState(NamedTuple):
    """The two files of a checkpoint that only resuming reads."""

    progress: Progress
    tensors: dict[str, Tensor]


def was_on_cuda(state: TrainingState) -> bool:
    """Whether the session that wrote the state ran on CUDA."""
    return "rng/cuda" in state.tensors


def n_processes(state: TrainingState) -> int:
    """How many processes trained together when the state was written."""
    return 1 + sum(name.startswith("rng/cpu/") for name in state.tensors)


def seed_rank(seed: int, rank: int, step: int = 0) -> None:
    """Gives every rank but the first noise of its own, which is that of a model's initialisation."""
    if rank:
        torch.manual_seed(int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)[0]))


def state_tensors(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    method: Mapping[str, Tensor],
    ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """Optimiser, generators and the method's state as named tensors. For all ranks to call."""
    device = next(model.parameters()).device
    tensors = {}
    for rank, state in enumerate(ranks.gathered(torch.get_rng_state())):
        tensors[_of_rank("rng/cpu", rank)] = state
    if device.type == "cuda":
        for rank, state in enumerate(ranks.gathered(torch.cuda.get_rng_state(device))):
            tensors[_of_rank("rng/cuda", rank)] = state
    tensors.update({METHOD + name: tensor for name, tensor in method.items()})
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = value
    return tensors


def _of_rank(name: str, rank: int) -> str:
    return f"{name}/{rank}" if rank else name


def read_training_state(folder: Path) -> TrainingState:
    """Both files of a `last` checkpoint. Raises CheckpointError."""
    path = folder / STATE_JSON
    try:
        progress = Progress.from_dict(read_object(path))
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return TrainingState(progress, read_tensors(folder / STATE_TENSORS))


def restore(
    state: TrainingState,
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    method: Mapping[str, Tensor],  # what the method's state looks like
    ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """Puts optimiser and generator state back; that of CUDA where there was one. Raises CheckpointError.

    With another number of processes than before only rank 0's generators go on. Returns the method's state, which is
    for the method to put back.
    """
    parameters = dict(model.named_parameters())
    generators = _own_generators(state, next(model.parameters()).device, ranks)
    expected = generators | {METHOD + name: tensor for name, tensor in method.items()}
    for name in state.progress.optimizer_parameters:
        if name not in parameters:
            raise CheckpointError(f"{folder / STATE_JSON}: the model has no parameter {name!r}")
        expected[f"optimizer/square_avg/{name}"] = parameters[name]
        expected[f"optimizer/step/{name}"] = torch.tensor(0.0)
    tensors = {name: t for name, t in state.tensors.items() if name in expected or not _is_generator(name)}
    check_tensors(folder / STATE_TENSORS, tensors, expected)
    for name in state.progress.optimizer_parameters:
        parameter = parameters[name]
        optimizer.state[parameter] = {
            "step": tensors[f"optimizer/step/{name}"],
            "square_avg": tensors[f"optimizer/square_avg/{name}"].to(parameter.device),
        }
    for name in generators:
        if name.startswith("rng/cuda"):
            torch.cuda.set_rng_state(tensors[name], next(model.parameters()).device)
        else:
            torch.set_rng_state(tensors[name])
    return {name: tensors[METHOD + name] for name in method}


def _own_generators(state: TrainingState, device: torch.device, ranks: Ranks) -> dict[str, Tensor]:
    """Names of the generators that this rank goes on with, and what their states look like."""
    if ranks.rank and n_processes(state) != ranks.size:
        return {}
    generators = {_of_rank("rng/cpu", ranks.rank): torch.get_rng_state()}
    if device.type == "cuda" and was_on_cuda(
        state
    ):  # else only its randomness differs from that of one device
        generators[_of_rank("rng/cuda", ranks.rank)] = torch.cuda.get_rng_state(device)
    return generators


def _is_generator(name: str) -> bool:
    return name.startswith(("rng/cpu", "rng/cuda"))


def corpus_sha256(*corpora: Corpus) -> str:
    """A fingerprint of the examples, so that a run is not resumed on others."""
    digest = hashlib.sha256()
    for corpus in corpora:
        for array in _arrays((*corpus.sides, corpus.labels)):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _arrays(value: Any) -> list[np.ndarray]:
    if value is None:
        return []
    if isinstance(value, tuple):
        return [array for part in value for array in _arrays(part)]
    return [np.asarray(value)]
