"""The log of a run: what the steps and the evaluations came to, a JSON object a line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any, Self


class MetricsLog:
    """Append to metrics.jsonl of a run, one JSON object a line.

    A checkpoint remembers `position`; a resumed run cuts off what was written after it, so that every step
    is in the file once.
    """

    def __init__(self, path: Path, position: int = 0) -> None:
        self._file: IO[bytes] = open(path, "ab")  # noqa: SIM115 -- closed by close()
        if self._file.seek(0, os.SEEK_END) > position:
            self._file.truncate(position)
        self._file.seek(0, os.SEEK_END)

    def write(self, **values: Any) -> None:
        """Append a line."""
        self._file.write(json.dumps(values, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def position(self) -> int:
        """Return the bytes written so far, all of them on disk."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
