"""What the commands print: tables of scores, and the progress of a run on a terminal or as plain lines."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from spinn_tensor.cli.endings import ENDING
from spinn_tensor.data_prep.brackets import BracketScores, ParseScores
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.training.evaluate import Evaluation, Scores
from spinn_tensor.training.loop import Observer
from spinn_tensor.training.resume import Progress as RunProgress

PLAIN_SECONDS = 10.0  # between two lines of progress where there is no terminal

CORPUS_TREES = "the corpus's trees"
BRACKET_FIGURES = (  # two lines of about the width of the narrower table
    "mean: over sentences; pooled: over all brackets;\ninner: without the bracket around the sentence"
)


def plain_table(*columns: str, text_columns: Collection[int] = (0,), **options: Any) -> Table:
    """Make a table with a line below its head; the columns that are not of text have numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, **options)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number in text_columns else "right", overflow="fold")
    return table


def gold_trees(branching: str | None) -> str:
    """What the trees are that those of a model are compared with."""
    return CORPUS_TREES if branching is None else f"trees made by --branching {branching}"


def print_evaluations(evaluations: dict[str, Evaluation], gold: str = CORPUS_TREES) -> None:
    """One table a split, one for all nodes where they were labelled, and one of the model's own trees."""
    console = Console()
    for name, evaluation in evaluations.items():
        tables = {name: evaluation.scores, f"{name}, all nodes": evaluation.node_scores}
        for title, scores in tables.items():
            if scores is not None:
                print(f"{title}: accuracy {scores.accuracy:.2%} of {scores.n_examples:,}")
                console.print(scores_table(scores))
        if evaluation.parse_scores is not None:
            print(f"{name}: {parse_summary(evaluation.parse_scores, gold)}")
            console.print(parse_table(evaluation.parse_scores, gold))


def scores_table(scores: Scores) -> Table:
    """Make the confusion matrix, gold labels down and predictions across, with the accuracy of each class."""
    table = plain_table("gold label", *scores.labels, "accuracy")
    for label, row in zip(scores.labels, scores.confusion, strict=True):
        share = scores.class_accuracy[label]
        table.add_row(label, *(f"{count:,}" for count in row), "–" if share is None else f"{share:.2%}")
    return table


def parse_summary(scores: ParseScores, gold: str = CORPUS_TREES) -> str:
    """What one line can say of trees."""
    return (
        f"{scores.transition_accuracy:.2%} of transitions as in {gold}; average depth "
        f"{scores.average_depth:.2f} (in those {scores.gold_average_depth:.2f}); {parse_counts(scores)}"
    )


def parse_counts(scores: ParseScores) -> str:
    """What the trees are over."""
    n_sentences, n_trivial = scores.gold.n_sentences, scores.gold.n_trivial
    return f"{n_sentences:,} sentences, {n_trivial:,} of them of one or two words"


def parse_table(scores: ParseScores, gold: str = CORPUS_TREES) -> Table:
    """Unlabelled bracketing F1 against the corpus's trees and trees made without a parser."""
    table = _bracket_table("bracketing F1 against")
    against = {
        gold: scores.gold,
        "left-branching": scores.left,
        "right-branching": scores.right,
        "balanced": scores.balanced,
    }
    for name, part in against.items():
        table.add_row(name, *_bracket_figures(part))
    return table


def comparison_table(rows: dict[str, ParseScores]) -> Table:
    """Several parsers' trees against the same gold trees, a row each; the last has the gold trees' depth."""
    table = _bracket_table("bracketing F1 of", "transitions", "depth")
    for name, scores in rows.items():
        table.add_row(
            name,
            *_bracket_figures(scores.gold),
            _percent(scores.transition_accuracy),
            f"{scores.average_depth:.2f}",
        )
    depth = next(iter(rows.values())).gold_average_depth
    table.add_row(CORPUS_TREES, "", "", "", "", "", f"{depth:.2f}")
    return table


def _bracket_table(title: str, *more: str) -> Table:
    figures = ("mean", "pooled", "mean,\ninner", "pooled,\ninner")
    caption: dict[str, Any] = {"caption": BRACKET_FIGURES, "caption_justify": "left", "caption_style": ""}
    return plain_table(title, *figures, *more, **caption)


def _bracket_figures(scores: BracketScores) -> list[str]:
    return [_percent(f1) for f1 in (scores.sentence_f1, scores.f1, scores.inner_sentence_f1, scores.inner_f1)]


def _percent(figure: float) -> str:
    return "–" if math.isnan(figure) else f"{figure:.2%}"


@contextmanager
def parsing_bar(n_sentences: int) -> Iterator[Callable[[int], object]]:
    """A progress bar on stderr, if that is a terminal; what is given is called with the sentences just done."""
    console = Console(stderr=True)
    columns = TextColumn("parsing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield partial(bar.advance, bar.add_task("", total=n_sentences))


def print_skipped(skipped: Skipped) -> None:
    """Says on stderr what was left out, if anything was."""
    if skipped:
        print(f"spinn: {skipped}", file=sys.stderr)


class TerminalObserver(Observer):
    """A progress bar on a terminal, plain lines elsewhere, on stderr; and Ctrl-C, which lets the step end.

    The first SIGINT, SIGTERM or SIGHUP lets the loop write a checkpoint; a second one, or one when there is nothing to
    save, ends the program as it would have without this.
    """

    def __init__(
        self,
        title: str = "",
        gold: str = CORPUS_TREES,
        silent: bool = False,
        n_epochs: int | None = None,  # of the run, to say where there is none left; None: not known
    ) -> None:
        self._title, self._n_epochs = title, n_epochs
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
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *ENDING):
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

    def measured(self, progress: RunProgress, loss: float, rate: float, examples_per_second: float) -> None:
        figures = f"loss {loss:.4f}  lr {rate:.2g}  {examples_per_second:,.0f} {self._unit}/s"
        if self._bar is not None:
            self._bar.update(self._task, figures=figures)
        elif time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._last_line = time.monotonic()
            self._say(
                f"epoch {progress.epoch + 1}  step {progress.batch:,}/{self._steps_per_epoch:,}  {figures}"
            )

    def evaluated(self, progress: RunProgress, evaluation: Evaluation, is_best: bool) -> None:
        scores, nodes, trees = evaluation.scores, evaluation.node_scores, evaluation.parse_scores
        text = f"step {progress.step:,}  {progress.seconds:,.0f} s  dev"
        if scores is not None:
            text += f" accuracy {scores.accuracy:.2%}"
        if nodes is not None:
            text += f"  all nodes {nodes.accuracy:.2%}"
        if trees is not None:
            text += f"  trees F1 {trees.gold.sentence_f1:.2%}{self._gold}"
        self._say(text + ("  (best)" if is_best else ""))

    def end(self) -> None:
        self._training = False

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(self._title + text, highlight=False)
        elif not self._silent:
            print(self._title + text, file=sys.stderr, flush=True)
