"""Where a bundle is: in a folder of this machine, or on the Hugging Face Hub; and the names of its files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from spinn_tensor.data_prep.errors import one_line
from spinn_tensor.data_prep.folders import readable
from spinn_tensor.data_prep.paths import expanded
from spinn_tensor.tensor_files import CheckpointError

WEIGHTS, CONFIG, TOKENIZER, CARD = "model.safetensors", "config.json", "tokenizer.json", "README.md"
BUNDLE = (WEIGHTS, CONFIG, TOKENIZER, CARD)
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)  # "owner/name", or "name"


class HubOptions(NamedTuple):
    """Say how a bundle is had from the hub: keywords of `huggingface_hub.snapshot_download`."""

    revision: str | None = None  # branch, tag or commit
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool = False  # what is in the cache, without a look at the hub
    token: str | bool | None = None

    def download(self, hub_id: str, files: Iterable[str]) -> Path:
        """Return the folder with those of the files that there are. Raises CheckpointError."""
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(hub_id, allow_patterns=list(files), **self._asdict()))
        except Exception as error:  # its HTTP client's errors are another package's in every version
            reason = one_line(error).partition(". ")[0]  # advice follows
            raise CheckpointError(
                f"{hub_id}: no such folder, and not to be had from the Hugging Face Hub ({reason})"
            ) from error


def checkpoint_folder(path: Path) -> Path:
    """Return the folder that holds the checkpoint meant by `path`. Raises CheckpointError."""
    for candidate in (path, path / "best", path / "last"):
        folder = readable(candidate)
        if (folder / CONFIG).is_file():
            return folder
    if not readable(path).is_dir():
        raise CheckpointError(f"{path}: no such checkpoint folder")
    runs = sorted(child.name for child in readable(path).iterdir() if (child / "best" / CONFIG).is_file())
    hint = f"; there is one in {' and '.join(runs)}" if runs else ""
    raise CheckpointError(f"{path}: no checkpoint here ({CONFIG} is missing){hint}")


def bundle_folder(
    path_or_hub_id: str | Path,  # a Path is never a hub id
    options: HubOptions = HubOptions(),  # noqa: B008  (a tuple, which cannot change)
) -> Path:
    """Return the local folder of a bundle, downloaded where it has to be. Raises CheckpointError."""
    path = expanded(path_or_hub_id)
    if readable(path).is_dir():
        return path
    if isinstance(path_or_hub_id, Path) or HUB_ID.fullmatch(path_or_hub_id) is None:
        raise CheckpointError(f"{path_or_hub_id}: no such checkpoint folder")
    return options.download(path_or_hub_id, BUNDLE)
