"""Safetensors files: written from any device, read strictly, compared tensor by tensor with what is expected."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from spinn_tensor.config import CheckpointError as CheckpointError
from spinn_tensor.data_prep.errors import one_line
from spinn_tensor.sizes import without_memory

COMPILED = "_orig_mod."  # before the names of what torch.compile was given


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, from any device."""
    # a copy each, because safetensors refuses tensors that share memory
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    path.write_bytes(save(copies))  # save_file would make a file that only its owner can read


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a safetensors file, on the CPU; float16, by which a file is small, becomes float32.

    Raises CheckpointError.
    """
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({one_line(error)})") from error
    return {
        name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in tensors.items()
    }


def check_tensors(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError at the first tensor that is missing, extra, of another shape or of another type."""
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


def check_weights(folder: Path, tensors: Mapping[str, Tensor], model: Any) -> None:
    """Raise CheckpointError for weights that could not be read again.

    They are of another type than float32, no numbers, or not those that the model's config says: of a part that was
    exchanged, say.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            what = f"has type {tensor.dtype}; a checkpoint holds torch.float32 (model.float())"
            raise CheckpointError(f"{folder}: tensor {name!r} {what}")
    has_own = bool(model.config.own_classes)
    check_finite(folder, tensors, has_own)
    kind = type(getattr(model, COMPILED[:-1], model))
    if not has_own and kind.__init__.__module__.startswith("spinn_tensor."):  # else making it may do anything
        with without_memory():
            expected = kind(model.config).float().state_dict()
        try:
            check_tensors(folder, tensors, expected)
        except CheckpointError as error:
            raise CheckpointError(f"{error}, by model.config, from which it is read") from None


def check_finite(
    path: Path,
    tensors: Mapping[str, Tensor],
    has_own: bool,  # classes of one's own, whose masks may be infinite
) -> None:
    """Raise CheckpointError at the first tensor with NaN or infinity in it, of which any answer would be made up."""
    for name, tensor in tensors.items():
        if (tensor.isnan() if has_own else ~tensor.isfinite()).any():
            raise CheckpointError(f"{path}: tensor {name!r} holds NaN or infinity")


def plain_name(name: str) -> str:
    """Return the name that a tensor had before torch.compile."""
    return name.replace(COMPILED, "")


def plain_names(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name tensors as before torch.compile. Raises CheckpointError where two have one name."""
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if plain.setdefault(plain_name(name), tensor) is not tensor:
            raise CheckpointError(f"{path}: tensor {plain_name(name)!r} is there twice, compiled and not")
    return plain
