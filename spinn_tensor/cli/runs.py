"""`spinn runs`: a table that compares runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from spinn_tensor.cli.arguments import CommandParser
from spinn_tensor.cli.report import console, json_line, percent, plain_table
from spinn_tensor.data_prep.errors import DataError, one_line
from spinn_tensor.data_prep.files import read_json_object
from spinn_tensor.tensor_files import CheckpointError
from spinn_tensor.training.config import flat_settings
from spinn_tensor.training.metrics_log import read_metrics, scores_of
from spinn_tensor.training.run import CORPUS, RESULTS, find_runs, saved_run

PIPE_WIDTH = 160  # of the tables where there is no terminal

DESCRIPTION = """\
Compares the runs in a folder: what was trained, how far, the best score on dev (what the run
selects by: accuracy, macro-F1, or the F1 of its trees), at which step, the same score of that
checkpoint on the other splits, the number of trained parameters and the seconds; then in which
of their settings they differ. A run that is not finished has the scores that it has so far;
one that cannot be read is told with the reason.
"""

EPILOG = """\
examples:
  spinn runs
      those in runs, where spinn train puts them

  spinn runs runs/pi runs/spinn
      these two

  spinn runs experiments --json | jq -r '[.run, .best_dev] | @tsv'
      a JSON object a run
"""


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "folders",
        type=Path,
        nargs="*",
        metavar="FOLDER",
        default=[Path("runs")],
        help="that has runs in it, or is one (default: runs)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object a line for each run instead")


class Run(NamedTuple):
    """Tell what was trained and what it came to; None is what is not known, or not yet."""

    run: str
    state: str  # "finished", "unfinished", or "broken: " and the reason
    encoder: str | None = None
    preset: str | None = None
    epochs: int | None = None
    epochs_asked: int | None = None
    best_dev: float | None = None
    best_step: int | None = None
    scores: Mapping[str, float] = MappingProxyType({})  # of the best checkpoint on the other splits
    n_parameters: int | None = None
    seconds: float | None = None
    settings: Mapping[str, Any] = MappingProxyType({})


def run(args: argparse.Namespace) -> int:
    found = [described(folder) for folder in find_runs(args.folders)]
    flats = [one.settings for one in found if one.settings]
    differ = [key for key in (flats[0] if flats else ()) if any(flat[key] != flats[0][key] for flat in flats)]
    found = [
        one._replace(settings={key: one.settings[key] for key in differ if one.settings}) for one in found
    ]
    if args.json:
        print("".join(json_line({**one._asdict(), "scores": dict(one.scores)}) for one in found), end="")
        return 0
    out = console()
    if not out.is_terminal:
        out.width = PIPE_WIDTH
    splits = list(dict.fromkeys(split for one in found for split in one.scores))
    table = plain_table(
        *("run", "encoder", "preset", "epochs", "best dev", "at step"),
        *(*splits, "parameters", "seconds", "state"),
        text_columns=(0, 1, 2, 8 + len(splits)),
    )
    for one in found:
        table.add_row(
            *(one.run, one.encoder or "–", one.preset or "–"),
            f"{_number(one.epochs)} of {_number(one.epochs_asked)}",
            *(percent(one.best_dev), _number(one.best_step)),
            *(percent(one.scores.get(split)) for split in splits),
            *(_number(one.n_parameters), _number(one.seconds), one.state),
        )
    out.print(table)
    if any(one.settings for one in found):
        rows = [
            (one.run, "  ".join(f"{key}={value}" for key, value in one.settings.items())) for one in found
        ]
        out.print(plain_table("run", "settings that differ", rows=rows, text_columns=(0, 1)))
    return 0


def described(folder: Path) -> Run:
    """Return what the files of a run say."""
    try:
        settings, lines = saved_run(folder), read_metrics(folder)
        results = read_json_object(folder / RESULTS) if (folder / RESULTS).exists() else {"splits": {}}
        if not isinstance(splits := results.get("splits"), dict):
            raise DataError("expected scores by split", path=folder / RESULTS, field="splits")
    except (DataError, CheckpointError, OSError) as error:
        return Run(str(folder), f"broken: {one_line(error)}")
    assert settings is not None  # a folder with a log alone is an error
    score = {"f1": "trees_f1"}.get(settings.training.select_by, settings.training.select_by)
    best: dict[str, Any] = next((line for line in reversed(lines) if line.get("best")), {})
    # a run that goes on has results of before
    is_finished = bool(lines) and results.get("steps") == lines[-1]["step"]
    flat = flat_settings(settings)
    if flat["data.data"] == os.path.abspath(folder / CORPUS):
        flat["data.data"] = None  # its own
    return Run(
        run=str(folder),
        state="finished" if is_finished else "unfinished",
        encoder=flat.pop("encoder.kind"),
        preset=flat.pop("preset"),
        epochs=max((line["epoch"] for line in lines if line.get("kind") == "epoch"), default=0),
        epochs_asked=settings.training.epochs,
        best_dev=scores_of(best).get(score),
        best_step=best.get("step"),
        scores={
            name: scores_of(of)[score]
            for name, of in splits.items()
            if is_finished and name != "dev" and score in scores_of(of)
        },
        n_parameters=results.get("n_parameters"),
        seconds=max((line.get("seconds", 0.0) for line in lines), default=None),
        settings=flat,
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
