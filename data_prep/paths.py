"""Paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path

StrPath = str | os.PathLike[str]


def expanded(path: StrPath) -> Path:
    """Return the path with ~ or ~user at its beginning as that user's home; as it is where there is no such user."""
    return Path(os.path.expanduser(path))
