"""`spinn plot`: the curves of runs, in one picture."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spinn_tensor.cli.arguments import CommandParser
from spinn_tensor.cli.inspect_page import check_installed, picture, style
from spinn_tensor.cli.report import tell
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import atomic_write
from spinn_tensor.training.metrics_log import read_metrics, scores_of
from spinn_tensor.training.run import find_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMS = (".png", ".svg", ".pdf")
WIDTH, HEIGHT = 4.5, 3.5  # of one plot, in inches
PARTS = {  # figures of the log, by its kind of line: the plot that they are in, and how they look there
    ("train", "loss"): ("loss (dashed: on dev)", "-"),
    ("dev", "loss"): ("loss (dashed: on dev)", ".--"),
    ("dev", "accuracy"): ("accuracy on dev", ".-"),
    ("dev", "trees_f1"): ("F1 of its trees on dev", ".-"),
}
Lines = Sequence[Mapping[str, Any]]  # of a run's log

DESCRIPTION = """\
Draws what the logs of runs say, a colour for each run, by step: the loss in training and on
dev, the accuracy on dev, and where a model parses for itself the F1 of its trees. Runs that
are not finished, or are being trained, are drawn as far as they are.
"""

EPILOG = """\
examples:
  spinn plot runs/logic
      one run, into curves.png

  spinn plot runs/pi runs/spinn runs/lstm --output curves.svg
      several runs beside each other

  spinn plot runs --output all.pdf
      all runs in a folder, as those of --seeds
"""


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="folder of a run, or one that has runs in it"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("curves.png"),
        help=f"the picture, {', '.join(FORMS)} (default: %(default)s); needs the extra plots, matplotlib",
    )


def run(args: argparse.Namespace) -> int:
    check_installed("spinn plot")
    form = args.output.suffix
    if form not in FORMS:
        raise ConfigError(f"--output {args.output}: expected a file that ends in {', '.join(FORMS)}")
    logs: dict[str, Lines] = {}
    for folder in find_runs(args.runs):
        try:
            logs[str(folder)] = read_metrics(folder)
        except DataError as error:
            tell(f"{error}; this run is left out")
    for name in [name for name, lines in logs.items() if not any(points(lines, *part)[0] for part in PARTS)]:
        tell(f"{name}: nothing was logged yet")
        del logs[name]
    if not logs:
        raise DataError("there is nothing to draw")
    with style(), atomic_write(args.output, "wb") as file:
        file.write(picture(curves(logs), form[1:], dpi=150))
    print(f"wrote {args.output}")
    return 0


def curves(logs: Mapping[str, Lines]) -> Figure:
    """Draw the curves of runs by name, a plot for each title of `PARTS` of which any of them has a point."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    found = {part: [points(lines, *part) for lines in logs.values()] for part in PARTS}
    drawn = {part: runs for part, runs in found.items() if any(steps for steps, _ in runs)}
    titles = list(dict.fromkeys(PARTS[part][0] for part in drawn))
    figure = Figure(figsize=(WIDTH * len(titles), HEIGHT), layout="constrained")
    plots = dict(zip(titles, figure.subplots(1, len(titles), squeeze=False)[0], strict=True))
    colours = colormaps["tab10"] if len(logs) <= 10 else colormaps["turbo"].resampled(len(logs))
    for part, runs in drawn.items():
        title, look = PARTS[part]
        for i, curve in enumerate(runs):
            plots[title].plot(*curve, look, color=colours(i))
        plots[title].set(xlabel="step", title=title)
        plots[title].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [Line2D([], [], color=colours(i)) for i in range(len(logs))]
    figure.legend(handles, list(logs), loc="outside lower center", ncols=3, frameon=False)
    return figure


def points(lines: Lines, kind: str, name: str) -> tuple[list[int], list[float]]:
    """Return the steps at which a log has a figure in lines of this kind, and the figure there.

    A run too short for a curve of its "train" lines has one of its epochs.
    """
    values = [{**line, **scores_of(line)} for line in lines if line.get("kind") == kind]
    found = [(line["step"], line[name]) for line in values if isinstance(line.get(name), float)]
    if kind == "train" and len(found) < 2:
        return points(lines, "epoch", name)
    return [step for step, _ in found], [value for _, value in found]
