"""The log of a run: what the steps and the evaluations came to, a JSON object a line; and the same for TensorBoard."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from itertools import accumulate
from math import isfinite
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import parse_record

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS, BOARD = "metrics.jsonl", "tensorboard"
SCORES = {  # of an evaluation's JSON values, and where they are in it
    "accuracy": ("accuracy",),
    "macro_f1": ("macro_f1",),
    "node_accuracy": ("nodes", "accuracy"),
    "trees_f1": ("parse", "gold", "sentence_f1"),
}


class MetricsLog:
    """Append to metrics.jsonl of a run, one JSON object a line.

    A checkpoint remembers `position`; a resumed run cuts off what was written after it, so that every step
    is in the file once. Of a file that was changed since, it keeps the whole lines before, and `note` is told.
    TensorBoard's files are made of the lines, anew for each session.
    """

    def __init__(
        self,
        folder: Path | None,  # of the run; None: nothing is kept
        position: int = 0,
        board: bool = False,  # whether to write for TensorBoard, too
        note: Callable[[str], object] = lambda text: None,
    ) -> None:
        path = Path(os.devnull) if folder is None else folder / METRICS
        self._file: IO[bytes] = open(path, "a+b")  # noqa: SIM115 -- closed by __exit__
        if folder is not None:
            self._file.seek(0)
            *whole, rest = self._file.read(position).split(b"\n")
            end = self._file.tell() - len(rest)
            if end < position:
                note(f"{path}: not as the run left it; the log goes on after its line {len(whole):,}")
            self._file.truncate(end)
            self._file.seek(0, os.SEEK_END)
        self._board = _board(folder) if board and folder is not None else None

    def write(self, **values: Any) -> None:
        """Append a line."""
        self._file.write(json.dumps(values, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        if self._board is not None:
            _draw(self._board, values)

    def position(self) -> int:
        """Return the bytes written so far, all of them on disk."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log, none where there is none. Raises DataError naming the line.

    What a killed run, or one that is writing, has left of a last line is not read.
    """
    path, lines = folder / METRICS, []
    text = path.read_bytes() if path.exists() else b""
    for number, line in enumerate(text.split(b"\n")[:-1], 1):
        try:
            values = parse_record(line.decode("utf-8", "replace"))
            if type(values.get("step")) is not int:
                raise DataError(f"expected the number of a step, got {values.get('step')!r}", field="step")
        except DataError as error:
            raise error.at(path=path, line=number) from None
        lines.append(values)
    return lines


def scores_of(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return by name those of `SCORES` that the JSON values of an evaluation, or its line of the log, have."""
    found: dict[str, float] = {}
    for name, place in SCORES.items():
        value: Any = evaluation
        for key in place:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, float) and isfinite(value):  # the trees of single words have no F1
            found[name] = value
    return found


def check_tensorboard() -> None:
    """Raise ConfigError that says what to install, where TensorBoard's files cannot be written."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        install = "pip install 'spinn_tensor[tensorboard]'"
        raise ConfigError(f"tensorboard: needs the package tensorboard ({error}): {install}") from error


def _board(folder: Path) -> SummaryWriter:
    """Begin TensorBoard's files again, with what the log has."""
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder / BOARD, ignore_errors=True)
    # a viewer that is open forgets what it had read
    board = SummaryWriter(str(folder / BOARD), purge_step=0, flush_secs=10)
    lines = read_metrics(folder)
    seconds = list(accumulate((line.get("seconds", 0.0) for line in lines), max))
    for line, at in zip(lines, seconds, strict=True):
        _draw(board, line, time.time() - seconds[-1] + at)
    return board


def _draw(board: SummaryWriter, line: Mapping[str, Any], time_of_day: float | None = None) -> None:
    """Write the numbers of a line, by default as of now."""
    numbers = {name: value for name, value in line.items() if isinstance(value, float) and name != "seconds"}
    for name, value in {**numbers, **scores_of(line)}.items():
        board.add_scalar(f"{line['kind']}/{name}", value, line["step"], walltime=time_of_day)
