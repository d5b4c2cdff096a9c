"""Files from the Hugging Face Hub: their names, and how they are had."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from spinn_tensor.data_prep.errors import one_line
from spinn_tensor.tensor_files import CheckpointError

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
            raise CheckpointError(
                f"{hub_id}: no such folder, and not to be had from the Hugging Face Hub ({one_line(error)})"
            ) from error
