"""Accuracy, class by class, from a confusion matrix; and the log of a run as JSON lines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import torch
from torch import Tensor


class Scores(NamedTuple):
    """How often the model was right, from counts of (gold label, predicted label)."""

    labels: tuple[str, ...]
    confusion: list[list[int]]  # [gold][predicted]

    @property
    def n_examples(self) -> int:
        return sum(map(sum, self.confusion))

    @property
    def accuracy(self) -> float:
        """Share of right predictions; 0 for no examples."""
        return sum(row[i] for i, row in enumerate(self.confusion)) / max(self.n_examples, 1)

    @property
    def class_accuracy(self) -> dict[str, float | None]:
        """Of the examples with this gold label, the share predicted so (recall); None for no examples."""
        rows = zip(self.labels, self.confusion, strict=True)
        return {label: row[i] / sum(row) if sum(row) else None for i, (label, row) in enumerate(rows)}

    def to_dict(self) -> dict[str, Any]:
        return {
            "accuracy": self.accuracy,
            "n_examples": self.n_examples,
            "class_accuracy": self.class_accuracy,
            "labels": list(self.labels),
            "confusion": self.confusion,
        }


def add_to_confusion(
    confusion: Tensor,  # (C, C) int64, [gold, predicted]; changed in place
    gold: Tensor,  # (n,) int64, NO_LABEL (negative) = none
    predicted: Tensor,  # (n,) int64
) -> None:
    """Counts a batch without a host sync: rows without a label fall into a cell that is cut off."""
    n_classes = confusion.shape[0]
    cell = torch.where(gold >= 0, gold * n_classes + predicted, n_classes * n_classes)
    counts = torch.zeros(n_classes * n_classes + 1, dtype=torch.int64, device=confusion.device)
    counts.index_add_(0, cell, torch.ones_like(cell))
    confusion += counts[:-1].view(n_classes, n_classes)


class MetricsLog:
    """metrics.jsonl of a run: one JSON object a line, appended.

    A checkpoint remembers `position`; a resumed run cuts off what was written after it, so that every step
    is in the file once.
    """

    def __init__(self, path: Path, position: int = 0) -> None:
        self._file: IO[bytes] = open(path, "ab")  # noqa: SIM115 -- closed by close()
        if self._file.seek(0, os.SEEK_END) > position:
            self._file.truncate(position)
        self._file.seek(0, os.SEEK_END)

    def write(self, **values: Any) -> None:
        self._file.write(json.dumps(values, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def position(self) -> int:
        """Bytes written so far, all of them on disk."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
