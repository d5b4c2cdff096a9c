"""What the commands print: tables of scores, and what was left out."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from spinn_tensor.data_prep.brackets import BracketScores, ParseScores, PhraseScores
from spinn_tensor.data_prep.files import Skipped

if TYPE_CHECKING:
    from spinn_tensor.training.evaluate import Evaluation

CORPUS_TREES = "the corpus's trees"
BRACKET_FIGURES = (  # two lines of about the width of the narrower table
    "mean: over sentences; pooled: over all brackets;\ninner: without the bracket around the sentence"
)


def tell(text: str) -> None:
    """Say something on stderr, beside what a command prints."""
    print(f"spinn: {text}", file=sys.stderr)


def console() -> Console:
    """Return what prints on stdout, which takes no word of a corpus for markup or :smile: and colours no number."""
    return Console(highlight=False, markup=False, emoji=False)


def plain_table(
    *columns: str, rows: Iterable[Iterable[str]] = (), text_columns: Collection[int] = (0,), **options: Any
) -> Table:
    """Make a table with a line below its head; the columns that are not of text have numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, **options)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number in text_columns else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def pairs_table(figures: Mapping[str, str]) -> Table:
    """Make a table of names and what there is to say of each."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, text in figures.items():
        table.add_row(name, text)
    return table


def shorten(name: str, longest: int) -> str:
    """Return a name of at most so many characters, cut at its end."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def gold_trees(branching: str | None, parser: str | None) -> str:
    """Say what the trees are that those of a model are compared with."""
    if branching is not None:
        return f"trees made by --branching {branching}"
    return CORPUS_TREES if parser is None else f"trees made by --parser {parser}"


def print_evaluations(evaluations: dict[str, Evaluation], gold: str = CORPUS_TREES) -> None:
    """Print a table for each split, one for all nodes where they were labelled, and one of the model's own trees."""
    out = console()
    for name, evaluation in evaluations.items():
        tables = {name: evaluation.scores, f"{name}, all nodes": evaluation.node_scores}
        for title, scores in tables.items():
            if scores is not None:
                # what whoever always says the most frequent label would score
                most = max(map(sum, scores.confusion)) / max(scores.n_examples, 1)
                accuracy = f"accuracy {scores.accuracy:.2%} of {scores.n_examples:,}"
                share = f"(always the most frequent label: {most:.2%})"
                print(f"{title}: {accuracy}, macro-F1 {scores.macro_f1:.2%} {share}")
                by_class = [
                    (label, *map(percent, (one.precision, one.recall, one.f1)), f"{one.n_examples:,}")
                    for label, one in scores.by_class.items()
                ]
                out.print(plain_table("label", "precision", "recall", "F1", "examples", rows=by_class))
                counts = [[f"{count:,}" for count in row] for row in scores.confusion]
                confusion = [(label, *row) for label, row in zip(scores.labels, counts, strict=True)]
                out.print(plain_table("gold label", *scores.labels, rows=confusion))
        if evaluation.parse_scores is not None:
            print(f"{name}: {parse_summary(evaluation.parse_scores, gold)}")
            out.print(parse_table(evaluation.parse_scores, gold))


def parse_summary(scores: ParseScores, gold: str = CORPUS_TREES) -> str:
    """Say of trees what one line can."""
    return (
        f"{scores.transition_accuracy:.2%} of transitions as in {gold}; average depth "
        f"{scores.average_depth:.2f} (in those {scores.gold_average_depth:.2f}); {parse_counts(scores)}"
    )


def parse_counts(scores: ParseScores) -> str:
    """Say what the trees are over."""
    n_sentences, n_trivial = scores.gold.n_sentences, scores.gold.n_trivial
    return f"{n_sentences:,} sentences, {n_trivial:,} of them of one or two words"


def parse_table(scores: ParseScores, gold: str = CORPUS_TREES) -> Table:
    """Show the unlabelled bracketing F1 against the corpus's trees and trees made without a parser."""
    trivial = {"left-branching": scores.left, "right-branching": scores.right, "balanced": scores.balanced}
    return bracket_table("bracketing F1 against", {gold: scores.gold, **trivial})


def comparison_table(rows: dict[str, ParseScores]) -> Table:
    """Compare several parsers' trees with the same gold trees, a row each; the last has the gold trees' depth."""
    depth = next(iter(rows.values())).gold_average_depth
    figures = [
        (*_bracket_row(name, of.gold), percent(of.transition_accuracy), f"{of.average_depth:.2f}")
        for name, of in rows.items()
    ]
    figures.append((CORPUS_TREES, "", "", "", "", "", f"{depth:.2f}"))
    return _bracket_table("bracketing F1 of", "transitions", "depth", rows=figures)


def bracket_table(title: str, rows: dict[str, BracketScores]) -> Table:
    """Compare several parsers' brackets with the same gold brackets, a row each."""
    return _bracket_table(title, rows=[_bracket_row(name, scores) for name, scores in rows.items()])


def phrase_table(title: str, rows: dict[str, PhraseScores]) -> Table:
    """Compare several parsers' brackets with gold trees that are not binary."""
    figures = [
        (name, *map(percent, (scores.precision, scores.recall, scores.f1, scores.sentence_f1)))
        for name, scores in rows.items()
    ]
    return plain_table(title, "precision", "recall", "F1", "mean F1", rows=figures)


def _bracket_table(title: str, *more: str, rows: Iterable[Iterable[str]]) -> Table:
    figures = ("mean", "pooled", "mean,\ninner", "pooled,\ninner")
    caption: dict[str, Any] = {"caption": BRACKET_FIGURES, "caption_justify": "left", "caption_style": ""}
    return plain_table(title, *figures, *more, rows=rows, **caption)


def _bracket_row(name: str, scores: BracketScores) -> tuple[str, ...]:
    return name, *map(percent, (scores.sentence_f1, scores.f1, scores.inner_sentence_f1, scores.inner_f1))


def percent(figure: float | None, digits: int = 2) -> str:
    """Write a share, a dash for none."""
    return "–" if figure is None or math.isnan(figure) else f"{figure:.{digits}%}"


def tell_unknown(n_words: int, n_unknown: int) -> None:
    """Say on stderr how many of the words a model's vocabulary lacks, if any."""
    if n_unknown:
        share = f"{n_unknown / n_words:.1%}"
        tell(f"{n_unknown:,} of {n_words:,} words ({share}) are unknown to the model's vocabulary")


def print_skipped(skipped: Skipped, what: str = "lines skipped") -> None:
    """Say on stderr how many lines were left out, or became what else, if any were."""
    if skipped:
        tell(skipped.told(what))


def json_line(record: Any) -> str:
    """Return a value as a line of JSON: NaN and infinity become null, and what JSON has not, a date say, its text."""
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        text = json.dumps(_finite(record), ensure_ascii=False, default=str)
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        # half of a surrogate pair is no text, but may be JSON
        text = json.dumps(_finite(record), default=str)
    return text + "\n"


def _finite(value: Any) -> Any:
    """Return a JSON value with null for the numbers that JSON has not."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
