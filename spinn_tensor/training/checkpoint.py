"""The checkpoints of a training run: bundles whose card has the command that makes the model again."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spinn_tensor.bundle import CheckpointConfig, PretrainedModel, Provenance, Run, write_bundle
from spinn_tensor.card import without_folders
from spinn_tensor.config import ConfigError, as_values
from spinn_tensor.data_prep.token_rules import PENN, Rules
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.tensor_files import CheckpointError
from spinn_tensor.training.config import DataConfig, RunConfig, differences, short_key
from spinn_tensor.training.presets import DEFAULT_PRESETS, PRESETS, is_file, run_config


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
        CheckpointError: for weights that are not float32, which `load_checkpoint` would refuse.

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
    for item in dataclasses.fields(DataConfig):
        value = getattr(run.data, item.name)
        if item.name == "corpus" or value == item.default:
            continue
        flag = "--" + item.name.replace("_", "-")
        if value is True:
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
