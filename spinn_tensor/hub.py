"""Where a bundle is: in a folder of this machine, or on the Hugging Face Hub; its files, and what it must not hold."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from spinn_tensor.config import CheckpointError
from spinn_tensor.data_prep.errors import DataError, one_line
from spinn_tensor.data_prep.files import read_json_object
from spinn_tensor.data_prep.folders import readable
from spinn_tensor.data_prep.paths import expanded

WEIGHTS, CONFIG, TOKENIZER, CARD = "model.safetensors", "config.json", "tokenizer.json", "README.md"
BUNDLE = (WEIGHTS, CONFIG, TOKENIZER, CARD)
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)  # "owner/name", or "name"


class HubOptions(NamedTuple):
    """Say how a bundle is had from the hub: keywords of `huggingface_hub.snapshot_download`."""

    revision: str | None  # branch, tag or commit
    cache_dir: str | Path | None
    force_download: bool
    local_files_only: bool  # what is in the cache, without a look at the hub
    token: str | bool | None


def checkpoint_folder(path: Path) -> Path:
    """Return the folder that holds the checkpoint meant by `path`. Raises CheckpointError."""
    for candidate in (path, path / "best", path / "last"):
        folder = readable(candidate)
        if (folder / CONFIG).is_file():
            return folder
    if not readable(path).is_dir():
        raise CheckpointError(f"{path}: {'a file, not a' if path.is_file() else 'no such'} checkpoint folder")
    if (readable(path) / "export.json").is_file():
        raise CheckpointError(
            f"{path}: an export, expected a checkpoint; spinn serve and OnnxPredictor take it"
        )
    runs = sorted(child.name for child in readable(path).iterdir() if (child / "best" / CONFIG).is_file())
    hint = f"; there is one in {', '.join(runs)}" if runs else ""
    raise CheckpointError(f"{path}: no checkpoint here ({CONFIG} is missing){hint}")


def bundle_folder(
    path_or_hub_id: str | Path,  # a Path is never a hub id
    options: HubOptions,
) -> Path:
    """Return the local folder of a bundle, downloaded where it has to be. Raises CheckpointError."""
    path = expanded(path_or_hub_id)
    if readable(path).is_dir():
        return path
    if isinstance(path_or_hub_id, Path) or path.exists() or HUB_ID.fullmatch(path_or_hub_id) is None:
        return checkpoint_folder(path)  # which says why it is none
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(path_or_hub_id, allow_patterns=list(BUNDLE), **options._asdict()))
    except Exception as error:  # its HTTP client's errors are another package's in every version
        reason = one_line(error).partition(". ")[0]  # advice follows
        if isinstance(error, LocalEntryNotFoundError):
            reason = "it is not in the cache, and the hub was not reached: check the name and the network"
        elif isinstance(error, RepositoryNotFoundError):
            reason = "there is no such model, or it is private: check the name, or log in"
        raise CheckpointError(
            f"{path_or_hub_id}: no such folder, and not to be had from the Hugging Face Hub ({reason})"
        ) from error


def check_replaceable(folder: Path) -> None:
    """Raise CheckpointError for a folder that holds anything but a bundle."""
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder}: a file, expected a folder")
    names = sorted(os.listdir(folder)) if folder.exists() else []
    if others := [name for name in names if name not in BUNDLE]:
        raise CheckpointError(f"{folder}: holds other files ({others[0]}); name a new folder")
    if names and not _is_ours(folder / CONFIG):  # a transformers model has files of these names, too
        raise CheckpointError(f"{folder}: holds a {names[0]} of something else; name a new folder")


def _is_ours(path: Path) -> bool:
    """Tell whether a config.json is a bundle's, of whatever version."""
    try:
        return {"format_version", "vocabulary_sha256"} <= read_object(path).keys()
    except CheckpointError:
        return False


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises CheckpointError."""
    try:
        return read_json_object(path)
    except DataError as error:
        raise CheckpointError(one_line(error)) from error


def refuse_code(
    folder: Path,  # of a bundle
    setting: str,
    name: str,  # module:Class, that its config.json has there
) -> None:
    """Raise CheckpointError for a class that Python would import from the bundle's own folder."""
    try:
        found = importlib.util.find_spec(re.split("[.:]", name)[0])
    except ValueError:  # of a module that is there without having been found, such as __main__
        return
    if found is None:
        return
    places = [found.origin, *(found.submodule_search_locations or ())]
    if any(Path(place).resolve().is_relative_to(folder.resolve()) for place in places if place):
        raise CheckpointError(
            f"{folder / CONFIG}: {setting}: {name} lies in the bundle's own folder, and no code is run from there"
        )
