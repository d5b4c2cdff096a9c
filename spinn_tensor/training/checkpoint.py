"""A trained model as a folder, and its strict reading.

    model.safetensors   every parameter and buffer of the model, by name
    config.json         format version, model, training and data settings, the vocabulary's sha256, metrics
    tokenizer.json      from text to ids: the rules, the casing and the words, id 0 = <pad>, id 1 = <unk>
    README.md           the model card, for people and the Hugging Face Hub; it is not read

Nothing is unpickled. Reading is strict: a tensor that is missing, extra, of another shape or type, an
unknown key, another format, another vocabulary or other rules are a `CheckpointError` of one line that names
the file and the tensor or key. `_orig_mod.`, which torch.compile puts into names, is no part of a name.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from spinn_tensor.config import ConfigError, ModelConfig
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.folders import readable, write_folder
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.model.classifiers import Model, build_model
from spinn_tensor.training.config import RunConfig
from spinn_tensor.training.model_card import model_card, without_folders

FORMAT_VERSION = 2  # of a checkpoint folder, the only one that is read; rises with every change of the files
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
CARD = "README.md"
BUNDLE = (WEIGHTS, CONFIG, TOKENIZER, CARD)
COMPILED = "_orig_mod."  # before the names of what torch.compile was given


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; its text is one line that names the file and what is wrong."""


class CheckpointConfig(NamedTuple):
    """What config.json says."""

    model: ModelConfig
    run: RunConfig  # preset, data, encoder, classifier and training settings of the run that wrote it
    vocabulary_sha256: str
    metrics: dict[str, Any]  # dev accuracy, step, epoch


class Provenance(NamedTuple):
    """What a checkpoint holds beside the model; a loaded model has it as `model.provenance`."""

    vocabulary: Vocabulary
    run: RunConfig
    metrics: Mapping[str, Any]


class Checkpoint(NamedTuple):
    """A loaded checkpoint; unpacks as (model, vocabulary, config)."""

    model: Model
    vocabulary: Vocabulary
    config: CheckpointConfig

    @property
    def tokenizer(self) -> Tokenizer:
        """That of tokenizer.json, made anew at each call: what raw text for this model is to be read through."""
        return Tokenizer(self.vocabulary)


def save_checkpoint(
    folder: Path,
    model: Model,  # or what torch.compile made of one
    vocabulary: Vocabulary,
    run: RunConfig,
    metrics: Mapping[str, Any],
    extra_tensors: Mapping[str, Mapping[str, Tensor]] | None = None,  # file name: its tensors
    extra_json: Mapping[str, Any] | None = None,  # file name: its content
    license: str | None = None,  # of the weights, for the model card
) -> None:
    """Replaces the folder by a checkpoint of the model as it is now, with further files beside it.

    Raises CheckpointError for weights that are not float32, which `load_checkpoint` would refuse.
    """
    tensors = _plain_names(folder, model.state_dict())
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise CheckpointError(
                f"{folder}: tensor {name!r} has type {tensor.dtype}; a checkpoint holds torch.float32 (model.float())"
            )
    content = {
        "format_version": FORMAT_VERSION,
        "model": model.config.to_dict(),
        "run": run.to_dict(),
        "vocabulary_sha256": vocabulary.sha256,
        "metrics": dict(metrics),
    }
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    card = model_card(model.config, run, metrics, n_parameters, license)

    def fill(temporary: Path) -> None:
        write_tensors(temporary / WEIGHTS, tensors)
        write_json(temporary / CONFIG, content)
        Tokenizer(vocabulary).save(temporary / TOKENIZER)
        (temporary / CARD).write_text(card, encoding="utf-8")
        for name, more in (extra_tensors or {}).items():
            write_tensors(temporary / name, more)
        for name, value in (extra_json or {}).items():
            write_json(temporary / name, value)

    write_folder(Path(folder), fill)


def save_bundle(folder: Path, model: Model, provenance: Provenance, license: str | None = None) -> None:
    """A checkpoint for others: of the data no more than names, and never over files that are not a bundle's.

    Raises CheckpointError.
    """
    if folder.exists():
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: a file, expected a folder")
        names = sorted(os.listdir(folder))
        if others := [name for name in names if name not in BUNDLE]:
            raise CheckpointError(f"{folder}: holds other files ({others[0]}); name a new folder")
        if names and not _is_ours(folder / CONFIG):  # a transformers model has files of these names, too
            raise CheckpointError(f"{folder}: holds a {names[0]} of something else; name a new folder")
    vocabulary, run, metrics = provenance
    run = dataclasses.replace(run, data=without_folders(run.data))
    save_checkpoint(folder, model, vocabulary, run, metrics, license=license)


def _is_ours(path: Path) -> bool:
    """Whether a config.json is a checkpoint's, of whatever version."""
    try:
        return {"format_version", "vocabulary_sha256"} <= read_json(path).keys()
    except CheckpointError:
        return False


def load_checkpoint(
    path: str | Path,
    device: str | torch.device = "cpu",
    build: Callable[[ModelConfig], Model] = build_model,  # or a class of models, when its task is expected
) -> Checkpoint:
    """The model in eval mode on `device`, its vocabulary and its settings.

    `path` is a checkpoint folder, or the folder of a run, whose `best` checkpoint is then taken (`last` if
    none is there yet). Raises CheckpointError.
    """
    folder = checkpoint_folder(Path(path))
    config = read_config(folder / CONFIG)
    expected = getattr(build, "task", config.model.task)
    if config.model.task != expected:
        raise CheckpointError(
            f"{folder / CONFIG}: a model of task {config.model.task!r}; {build.__name__} reads those of {expected!r}"
        )
    try:
        vocabulary = Tokenizer.load(folder / TOKENIZER).vocabulary
    except (DataError, OSError) as error:
        raise CheckpointError(_named(folder / TOKENIZER, error)) from error
    if vocabulary.sha256 != config.vocabulary_sha256:
        raise CheckpointError(
            f"{folder / TOKENIZER}: not the vocabulary the model was trained with "
            f"(sha256 {vocabulary.sha256[:12]}…, {CONFIG} says {config.vocabulary_sha256[:12]}…)"
        )
    if len(vocabulary) != config.model.encoder.vocabulary_size:
        raise CheckpointError(
            f"{folder / CONFIG}: vocabulary_size is {config.model.encoder.vocabulary_size}, "
            f"{TOKENIZER} has {len(vocabulary)} words"
        )
    _check_sizes(folder, config.model, build)
    model = build(config.model)
    load_weights(model, folder / WEIGHTS)
    model.provenance = Provenance(vocabulary, config.run, config.metrics)
    return Checkpoint(model.to(device).eval(), vocabulary, config)


def _check_sizes(folder: Path, config: ModelConfig, build: Callable[[ModelConfig], Model]) -> None:
    """Raises CheckpointError unless the tensors are those of such a model, before any memory is taken for it."""
    try:
        with torch.device("meta"):
            state = build(config).state_dict()
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder / CONFIG}: no model can have these sizes ({_one_line(error)})"
        ) from error
    path = folder / WEIGHTS
    check_tensors(path, _plain_names(path, read_tensors(path)), state)


def checkpoint_folder(path: Path) -> Path:
    """The folder that holds the checkpoint meant by `path`. Raises CheckpointError."""
    for candidate in (path, path / "best", path / "last"):
        folder = readable(candidate)
        if (folder / CONFIG).is_file():
            return folder
    if not readable(path).is_dir():
        raise CheckpointError(f"{path}: no such checkpoint folder")
    runs = sorted(child.name for child in readable(path).iterdir() if (child / "best" / CONFIG).is_file())
    hint = f"; there is one in {' and '.join(runs)}" if runs else ""
    raise CheckpointError(f"{path}: no checkpoint here ({CONFIG} is missing){hint}")


def read_config(path: Path) -> CheckpointConfig:
    """config.json, checked: version, keys and values. Raises CheckpointError."""
    values = read_json(path)
    expected = {"format_version", "model", "run", "vocabulary_sha256", "metrics"}
    version = values.get("format_version")
    if version != FORMAT_VERSION or type(version) is not int:
        older = isinstance(version, int) and version < FORMAT_VERSION
        hint = ": train the model again, or use the version of spinn_tensor that saved it" if older else ""
        raise CheckpointError(
            f"{path}: format version {version!r}; this program reads {FORMAT_VERSION}{hint}"
        )
    for key in sorted(expected ^ values.keys()):
        raise CheckpointError(f"{path}: key {key!r} is {'missing' if key in expected else 'unknown'}")
    try:
        model, run = ModelConfig.from_dict(values["model"]), RunConfig.from_dict(values["run"])
        metrics = values["metrics"]
        if not isinstance(metrics, dict) or not all(map(_is_finite, metrics.values())):
            raise ConfigError("metrics: expected an object of finite numbers")
        return CheckpointConfig(model, run, str(values["vocabulary_sha256"]), metrics)
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(_named(path, error)) from error


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def load_weights(model: nn.Module, path: Path) -> None:
    """Copies the file's tensors into the model; raises CheckpointError unless they agree exactly."""
    tensors = _plain_names(path, read_tensors(path))
    state = model.state_dict()
    check_tensors(path, tensors, _plain_names(path, state))
    model.load_state_dict({name: tensors[_plain_name(name)] for name in state}, strict=True)


def _plain_name(name: str) -> str:
    return name.replace(COMPILED, "")


def _plain_names(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by their names before torch.compile. Raises CheckpointError where two have one name."""
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if plain.setdefault(_plain_name(name), tensor) is not tensor:
            raise CheckpointError(f"{path}: tensor {_plain_name(name)!r} is there twice, compiled and not")
    return plain


def check_tensors(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError at the first tensor missing, extra, of another shape or of another type."""
    for name, tensor in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{path}: tensor {name!r} is missing")
        got = tensors[name]
        if got.shape != tensor.shape:
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {tuple(got.shape)}, expected {tuple(tensor.shape)}"
            )
        if got.dtype != tensor.dtype:
            raise CheckpointError(f"{path}: tensor {name!r} has type {got.dtype}, expected {tensor.dtype}")
    for name in tensors:
        if name not in expected:
            raise CheckpointError(f"{path}: tensor {name!r} is not part of the model")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors as safetensors, from any device."""
    # a copy each, because safetensors refuses tensors that share memory
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    path.write_bytes(save(copies))  # save_file would make a file that only its owner can read


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU. Raises CheckpointError."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({_one_line(error)})") from error


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({_one_line(error)})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def finite_parameters(model: nn.Module) -> bool:
    """Whether every parameter is finite: one host sync."""
    sums = [parameter.detach().abs().sum(dtype=torch.float64) for parameter in model.parameters()]
    return math.isfinite(torch.stack(sums).sum().item())


def _named(path: Path, error: Exception) -> str:
    text = _one_line(error)
    return text if str(path) in text else f"{path}: {text}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
