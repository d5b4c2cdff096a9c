"""Everything beside the weights that decides how a run goes on: a killed run ends as if it had not been killed.

Exactly so on the CPU, on the same machine with the same number of threads. A run may move between CPU and CUDA,
whose generator then starts from the seed.

    training_state.json          counters, early stopping, running losses: `Progress`
    training_state.safetensors   rng/cpu, rng/cuda            state of torch's generators, uint8; cuda if it ran there
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

from data_prep.columns import LabelledColumns, PairColumns
from spinn_tensor.config import ConfigError, checked_fields
from spinn_tensor.training.checkpoint import (
    CheckpointError,
    check_tensors,
    read_json,
    read_tensors,
)

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


def state_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, method: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Optimiser, generator and the method's state as named tensors."""
    tensors = {"rng/cpu": torch.get_rng_state()}
    device = next(model.parameters()).device
    if device.type == "cuda":
        tensors["rng/cuda"] = torch.cuda.get_rng_state(device)
    tensors.update({METHOD + name: tensor for name, tensor in method.items()})
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = value
    return tensors


def read_training_state(folder: Path) -> TrainingState:
    """Both files of a `last` checkpoint. Raises CheckpointError."""
    path = folder / STATE_JSON
    try:
        progress = Progress.from_dict(read_json(path))
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return TrainingState(progress, read_tensors(folder / STATE_TENSORS))


def restore(
    state: TrainingState,
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    method: Mapping[str, Tensor],  # what the method's state looks like
) -> dict[str, Tensor]:
    """Puts optimiser and generator state back; that of CUDA where there was one. Raises CheckpointError.

    Returns the method's state, which is for the method to put back.
    """
    path = folder / STATE_TENSORS
    parameters = dict(model.named_parameters())
    device = next(model.parameters()).device
    expected: dict[str, Tensor] = {"rng/cpu": torch.get_rng_state()}
    expected.update({METHOD + name: tensor for name, tensor in method.items()})
    has_cuda_state = device.type == "cuda" and was_on_cuda(state)
    if has_cuda_state:
        expected["rng/cuda"] = torch.cuda.get_rng_state(device)
    for name in state.progress.optimizer_parameters:
        if name not in parameters:
            raise CheckpointError(f"{folder / STATE_JSON}: the model has no parameter {name!r}")
        expected[f"optimizer/square_avg/{name}"] = parameters[name]
        expected[f"optimizer/step/{name}"] = torch.tensor(0.0)
    tensors = dict(state.tensors)
    if device.type == "cpu":
        tensors.pop("rng/cuda", None)  # a run may move to another machine; only its randomness then differs
    check_tensors(path, tensors, expected)
    for name in state.progress.optimizer_parameters:
        parameter = parameters[name]
        optimizer.state[parameter] = {
            "step": tensors[f"optimizer/step/{name}"],
            "square_avg": tensors[f"optimizer/square_avg/{name}"].to(parameter.device),
        }
    torch.set_rng_state(tensors["rng/cpu"])
    if has_cuda_state:
        torch.cuda.set_rng_state(tensors["rng/cuda"], device)
    return {name: tensors[METHOD + name] for name in method}


def corpus_sha256(*corpora: PairColumns | LabelledColumns) -> str:
    """A fingerprint of the examples, so that a run is not resumed on others."""
    digest = hashlib.sha256()
    for corpus in corpora:
        for array in _arrays(corpus):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _arrays(value: Any) -> list[np.ndarray]:
    if value is None:
        return []
    if isinstance(value, tuple):
        return [array for part in value for array in _arrays(part)]
    return [np.asarray(value)]
