"""How far a command is, on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from spinn_tensor.cli.endings import ENDING, handled_here
from spinn_tensor.cli.report import CORPUS_TREES, percent
from spinn_tensor.training.checkpoint import Progress as RunProgress
from spinn_tensor.training.evaluate import Evaluation
from spinn_tensor.training.loop import Observer

PLAIN_SECONDS = 10.0  # between two lines of progress where there is no terminal


@contextmanager
def counters(*names: str) -> Iterator[list[Callable[[int], None]]]:
    """Show how many of each are done and how fast; what is given is called with how many more there are."""
    with _bar(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as bar:
        yield [_Counter(bar, name).add for name in names]


@contextmanager
def counter_of(output: Path | None, what: str) -> Iterator[Callable[[int], None]]:
    """Show how many are done, as `counters`, but not between results that a terminal shows; None stands for stdout."""
    if output is None and sys.stdout.isatty():
        yield lambda n_more: None
        return
    with counters(what) as (advance,):
        yield advance


class _Counter:
    def __init__(self, bar: Progress, what: str) -> None:
        self._bar, self._what, self._task = bar, what, bar.add_task(what, total=None)
        self._n_done, self._start, self._said = 0, time.monotonic(), time.monotonic()

    def add(self, n_more: int) -> None:
        self._n_done += n_more
        now = time.monotonic()
        figures = f"{self._n_done:,} {self._what}  {self._n_done / max(now - self._start, 1e-9):,.0f}/s"
        self._bar.update(self._task, description=figures)
        if self._bar.disable and now - self._said >= PLAIN_SECONDS:
            self._said = now
            print(figures, file=sys.stderr, flush=True)


@contextmanager
def download_bar(name: str) -> Iterator[Callable[[int, int | None], object]]:
    """Show how much of a file is fetched; what is given is called with the bytes so far, and all if known."""
    with _bar(TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn()) as bar:
        task = bar.add_task("", total=None)
        yield lambda so_far, whole: bar.update(task, completed=so_far, total=whole)


def _bar(*columns: ProgressColumn) -> Progress:
    """Make a bar that a terminal alone shows, and that leaves nothing there."""
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


class TerminalObserver(Observer):
    """Show a run's progress, as a bar on a terminal and in lines elsewhere; and have Ctrl-C let the step end.

    The first SIGINT, SIGTERM or SIGHUP lets the loop write a checkpoint; a second one, or one when there is nothing to
    save, ends the program as it would have without this.
    """

    def __init__(
        self,
        title: str = "",
        gold: str = CORPUS_TREES,
        silent: bool = False,
        n_epochs: int | None = None,  # of the run, to say where there is none left; None: not known
        notes: Sequence[str] = (),  # to be said when the examples are read, and nothing is wrong with them
    ) -> None:
        self._title, self._n_epochs, self._notes = title, n_epochs, notes
        self._silent = silent  # signals only
        self._gold = "" if gold == CORPUS_TREES else f" against {gold}"
        self._signal = 0
        self._training = False  # before and after it there is nothing to save
        self._previous: dict[int, Any] = {}
        self._bar: Progress | None = None
        self._steps_per_epoch = 1
        self._unit = "examples"
        self._last_line = 0.0

    def __enter__(self) -> Self:
        for number in handled_here(signal.SIGINT, *ENDING):
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._bar is not None:
            self._bar.stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal or not self._training:
            if callable(previous := self._previous[number]):
                previous(number, frame)
            raise KeyboardInterrupt
        self._signal = number

    def pending_signal(self) -> int:
        return self._signal

    def begin(self, progress: RunProgress, steps_per_epoch: int, unit: str) -> None:
        self._training = True
        self._unit = unit
        self._steps_per_epoch = steps_per_epoch
        for text in self._notes:
            self._say(f"note: {text}")
        if progress.step:
            self._say(self._where_it_goes_on(progress))
        console = Console(stderr=True)
        if console.is_terminal and not self._silent:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task("", total=steps_per_epoch, figures="")
            self._bar.start()

    def _where_it_goes_on(self, progress: RunProgress) -> str:
        if progress.stopped:
            return f"nothing left to train: early stopping ended the run at step {progress.step:,}"
        if self._n_epochs is not None and progress.epoch >= self._n_epochs:
            epochs = f"{progress.epoch} epoch{'s' if progress.epoch != 1 else ''}"
            return f"nothing left to train: the run has had its {epochs}; more by --epochs N"
        return f"resumed at step {progress.step:,}, epoch {progress.epoch + 1}"

    def note(self, text: str) -> None:
        self._say(text)

    def trained(self, progress: RunProgress, batch_size: int) -> None:
        if self._bar is not None:
            description = f"{self._title}epoch {progress.epoch + 1}"
            self._bar.update(self._task, completed=progress.batch, description=description)

    def measured(
        self,
        progress: RunProgress,
        loss: float,
        rate: float,
        examples_per_second: float,
        figures: Mapping[str, float],
    ) -> None:
        names = {"task_loss": "task", "transition_loss": "transitions"}
        parts = [f"{names[name]} {value:.4f}" for name, value in figures.items() if name in names]
        losses = f"loss {loss:.4f}" + (f" ({', '.join(parts)})" if parts else "")
        text = f"{losses}  lr {rate:.2g}  {examples_per_second:,.0f} {self._unit}/s"
        if self._bar is not None:
            self._bar.update(self._task, figures=text)
        elif time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._last_line = time.monotonic()
            self._say(
                f"epoch {progress.epoch + 1}  step {progress.batch:,}/{self._steps_per_epoch:,}  {text}"
            )

    def evaluated(self, progress: RunProgress, evaluation: Evaluation, is_best: bool) -> None:
        scores, nodes, trees = evaluation.scores, evaluation.node_scores, evaluation.parse_scores
        text = f"step {progress.step:,}  {progress.seconds:,.0f} s  dev"
        if scores is not None:
            text += f" accuracy {scores.accuracy:.2%}  macro-F1 {scores.macro_f1:.2%}"
        if nodes is not None:
            text += f"  all nodes {nodes.accuracy:.2%}"
        if trees is not None:
            text += f"  trees F1 {percent(trees.gold.sentence_f1)}{self._gold}"
        self._say(text + ("  (best)" if is_best else ""))

    def end(self) -> None:
        self._training = False

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(self._title + text, highlight=False, markup=False, emoji=False)
        elif not self._silent:
            print(self._title + text, file=sys.stderr, flush=True)
