"""The checkpoints of a training run: bundles whose card has the command that makes the model again.

Beside the weights of the last one lies everything that decides how a run goes on: a killed run ends as if it had not
been killed.

Exactly so on the CPU, on the same machine with the same numbers of threads and processes. A run may move between CPU
and CUDA, whose generator then starts from the seed, and to another number of processes.

    training_state.pt   a dictionary as `torch.save` writes it; `torch.load` reads it with `weights_only`, so that
                        nothing in it can run
        progress        counters, early stopping, running losses: `Progress`
        optimizer       torch's tensors of each parameter, by its name; none where it had no gradient yet
        generators      for each process the state of torch's generators: "cpu", and "cuda" if it ran there
        method          tensors of the method: RL-SPINN's running moments
        weights         of a run with an average of them, which is the model beside it: the weights themselves, by name

The order of the batches needs no state: it is a function of (seed, epoch), and `Progress` says how many are
done. The learning rate is a function of step and epoch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import pickle
import shlex
import struct
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from spinn_tensor.bundle import (
    CheckpointConfig,
    PretrainedModel,
    Provenance,
    Run,
    read_object,
    write_bundle,
)
from spinn_tensor.card import without_folders
from spinn_tensor.config import ConfigError, as_values
from spinn_tensor.data_prep.columns import Corpus
from spinn_tensor.data_prep.errors import one_line
from spinn_tensor.data_prep.settings import checked_fields
from spinn_tensor.data_prep.token_rules import PENN, Rules
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.tensor_files import CheckpointError, check_tensors, read_tensors
from spinn_tensor.training.config import DataConfig, RunConfig, differences, short_key
from spinn_tensor.training.optimizer import MOMENTS
from spinn_tensor.training.presets import DEFAULT_PRESETS, PRESETS, data_of_preset, is_file, run_config
from spinn_tensor.training.step import TrainStep

STATE = "training_state.pt"
OLD_STATE_JSON, OLD_STATE_TENSORS = "training_state.json", "training_state.safetensors"


def save_checkpoint(
    folder: Path,
    model: PretrainedModel,
    vocabulary: Vocabulary,
    run: Run,
    metrics: Mapping[str, Any],
    also: Callable[[Path], object] | None = None,
    license: str | None = None,
    rules: Rules = PENN,
) -> None:
    """Replace the folder by a checkpoint of a training run, with further files beside it.

    For a model that no `RunConfig` describes there is `model.save_pretrained(folder, vocabulary=...)`.

    Args:
        folder: what is replaced.
        model: as it is now; or what torch.compile made of one.
        vocabulary: that it was trained with.
        run: a `RunConfig`, or what a loaded checkpoint has as `config.run`.
        metrics: finite numbers by name.
        also: writes further files into the folder.
        license: of the weights, for the model card.
        rules: that make words of text for the model.

    Raises:
        CheckpointError: for weights that `load_checkpoint` would refuse: not float32, or not those of `model.config`.
        ConfigError: for metrics and settings that it would refuse.

    >>> checkpoint = load_checkpoint(folder / "pairs")
    >>> save_checkpoint(folder / "again", *checkpoint[:2], checkpoint.config.run, {"step": 3})
    >>> load_checkpoint(folder / "again").config.metrics
    {'step': 3}
    """
    provenance = Provenance(vocabulary, run, metrics, train_command(run), rules)
    write_bundle(folder, model, provenance, also=also, license=license)


def run_of(
    config: CheckpointConfig,
    path: Path,  # of the checkpoint, for errors
) -> RunConfig:
    """Return the settings of the run that wrote a checkpoint. Raises CheckpointError."""
    if "preset" not in config.run:
        raise CheckpointError(
            f"{path}: not of spinn train but of a program of its own: its corpus is not known here"
        )
    try:
        return RunConfig.from_dict(config.run)
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def train_command(settings: Run) -> str | None:
    """Return the `spinn train` of these settings, files named without folders; None without a preset of its name.

    In place of a preset in a file of one's own it names the corpus's default, and what is not as there.
    """
    run = RunConfig.from_dict(without_folders(as_values(settings)))
    name = DEFAULT_PRESETS[run.data.corpus] if is_file(run.preset) else run.preset
    if name not in PRESETS:
        return None
    words = ["spinn", "train", "--preset", name, "--corpus", run.data.corpus]
    of_preset = data_of_preset(name, run.data.corpus)
    for item in dataclasses.fields(DataConfig):
        value = getattr(run.data, item.name)
        if item.name == "corpus" or (value == item.default and item.name not in of_preset):
            continue
        flag = item.name.replace("_", "-")
        flag = f"--no-{flag}" if value is False else f"--{flag}"
        if isinstance(value, bool):
            words.append(flag)
        elif item.metadata.get("several"):
            words += [flag, *value]
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [word for one in values for word in (flag, str(one))]
    preset = dataclasses.replace(run_config(name, run.data), preset=run.preset)
    for key, _, value in differences(preset, run):
        name = short_key(*key.split("."))
        words += (
            ["--" + name.replace("_", "-"), *value]
            if isinstance(value, list)
            else ["--set", f"{name}={value}"]
        )
    return shlex.join(words)


def finite_parameters(model: nn.Module) -> bool:
    """Tell whether every parameter is finite: one host sync."""
    sums = [parameter.detach().abs().sum(dtype=torch.float64) for parameter in model.parameters()]
    return math.isfinite(torch.stack(sums).sum().item())


@dataclass
class Progress:
    """Say where a run is. Sums of losses are floats of finished readings, so that they are exact."""

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


class TrainingState(NamedTuple):
    """Hold what of a checkpoint only resuming reads."""

    progress: Progress
    optimizer: Mapping[str, dict[str, Tensor]]  # of each parameter: "step" and what `MOMENTS` names, or none
    generators: list[dict[str, Tensor]]  # of each process: "cpu", and "cuda" if it ran there
    method: dict[str, Tensor]
    weights: Mapping[str, Tensor] = MappingProxyType({})  # where the model beside it is their average

    @property
    def was_on_cuda(self) -> bool:
        """Tell whether the session that wrote the state ran on CUDA."""
        return "cuda" in self.generators[0]

    @property
    def n_processes(self) -> int:
        """Count how many processes trained together when the state was written."""
        return len(self.generators)

    def write(self, folder: Path) -> None:
        """Write the state into a folder."""
        values = {**self._asdict(), "progress": dataclasses.asdict(self.progress)}
        if not self.weights:  # as before there were averages
            del values["weights"]
        torch.save(values, folder / STATE)


def seed_rank(seed: int, rank: int, step: int = 0) -> None:
    """Give every rank but the first noise of its own; the first one's is that of the model's initialisation."""
    if rank:
        torch.manual_seed(int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)[0]))


def training_state(progress: Progress, step: TrainStep) -> TrainingState:
    """Return the state of a run as it is now. For all ranks to call."""
    method, gathered, device = step.method, step.ranks.gathered, step.device
    named = method.model.named_parameters()
    of_parameters = {name: step.optimizer.state.get(parameter, {}) for name, parameter in named}
    generators = [{"cpu": values} for values in gathered(torch.get_rng_state())]
    if device.type == "cuda":
        for states, values in zip(generators, gathered(torch.cuda.get_rng_state(device)), strict=True):
            states["cuda"] = values
    return TrainingState(progress, of_parameters, generators, method.tensors(), step.average.copies())


def read_training_state(folder: Path) -> TrainingState:
    """Return the state in a `last` checkpoint. Raises CheckpointError."""
    path = _state_path(folder)
    try:
        if path.name == OLD_STATE_TENSORS:
            path = folder / OLD_STATE_JSON  # which the counters are in
            values = _read_old_state(folder)
        else:
            values = torch.load(path, map_location="cpu", weights_only=True)
        counters = values.pop("progress")
        if missing := {field.name for field in dataclasses.fields(Progress)} - counters.keys():
            raise KeyError(f"no {', '.join(sorted(missing))}")
        return TrainingState(Progress(**checked_fields(Progress, counters)), **values)
    except CheckpointError:  # it is a ValueError, too
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, struct.error) as error:
        raise CheckpointError(f"{path}: not a whole file of torch.save ({one_line(error)})") from error
    except (TypeError, LookupError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path}: not the state of a run ({one_line(error)})") from error


def _state_path(folder: Path) -> Path:
    """Tell which file the tensors of a state are in."""
    path = folder / STATE
    return folder / OLD_STATE_TENSORS if not path.exists() and (folder / OLD_STATE_JSON).exists() else path


def _read_old_state(folder: Path) -> dict[str, Any]:
    """Return what versions wrote that had the counters as JSON and the tensors by names such as rng/cpu/1."""
    path = folder / OLD_STATE_TENSORS
    progress, tensors = read_object(folder / OLD_STATE_JSON), read_tensors(path)
    optimizer = defaultdict[str, dict[str, Tensor]](dict)  # parameters without a state were not named
    optimizer.update({name: {} for name in progress.pop("optimizer_parameters")})
    generators: list[dict[str, Tensor]] = [{} for name in tensors if name.startswith("rng/cpu")]
    method = {}
    for name, tensor in tensors.items():
        match name.split("/", 2):
            case ["optimizer", kind, parameter] if parameter in optimizer:
                optimizer[parameter][kind] = tensor
            case ["rng", "cpu" | "cuda" as kind, *rank]:
                generators[int(rank[0]) if rank else 0][kind] = tensor
            case ["method", kind]:
                method[kind] = tensor
            case _:
                raise CheckpointError(f"{path}: tensor {name!r} is not part of a state")
    for name, values in optimizer.items():
        if not values:
            raise CheckpointError(f"{path}: parameter {name!r} has no tensors")
    return {"progress": progress, "optimizer": optimizer, "generators": generators, "method": method}


def restore(
    state: TrainingState,
    folder: Path,  # that it was read from, for errors
    step: TrainStep,
) -> None:
    """Put optimiser, generators, method and average back to where they were. Raises CheckpointError.

    CUDA's generator goes on only on CUDA, and with another number of processes than before only rank 0's generators do.
    """
    path = _state_path(folder)
    optimizer, method, ranks, device = step.optimizer, step.method, step.ranks, step.device
    parameters = dict(method.model.named_parameters())
    try:
        if unknown := state.optimizer.keys() - parameters.keys():
            raise LookupError(f"no parameter {min(unknown)!r}")
        for name, parameter in parameters.items():
            # older states have no entry for a parameter that is not trained
            named = state.optimizer
            if values := named[name] if parameter.requires_grad else named.get(name):
                expected: dict[str, Tensor] = {f"step of {name}": torch.zeros(())}
                expected |= {f"{kind} of {name}": parameter for kind in MOMENTS[type(optimizer)]}
                check_tensors(path, {f"{kind} of {name}": value for kind, value in values.items()}, expected)
                optimizer.state[parameter] = {
                    kind: value if kind == "step" else value.to(device) for kind, value in values.items()
                }
        expected = method.tensors()
        values = {**{name: expected[name] for name in method.later & expected.keys()}, **state.method}
        check_tensors(path, values, expected)
        method.restore(values)
        check_tensors(path, state.weights, step.average.weights)
        step.average.restore(state.weights)
        if not ranks.rank or state.n_processes == ranks.size:
            own = state.generators[ranks.rank]
            torch.set_rng_state(own["cpu"])
            if device.type == "cuda" and "cuda" in own:  # else only its randomness differs
                torch.cuda.set_rng_state(own["cuda"], device)
    except (LookupError, RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not the state of this model ({one_line(error)})") from error


def corpus_sha256(*corpora: Corpus) -> str:
    """Return a fingerprint of the examples, so that a run is not resumed on others."""
    digest = hashlib.sha256()
    for corpus in corpora:
        for array in (*chain.from_iterable(corpus.sides), corpus.labels):
            if array is not None:
                digest.update(f"{array.dtype}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
