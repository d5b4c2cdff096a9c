"""The page of `spinn inspect --html`, made by Jinja2 and matplotlib: one file that loads nothing.

Words of a corpus are never more than words there: Jinja2 escapes every value, plots are pictures whose letters are
outlines, and the page forbids scripts and whatever comes from elsewhere.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spinn_tensor.cli.inspect_tables import MEASURES, Inspection, Section, empty_rows, number, sections
from spinn_tensor.cli.report import shorten
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.columns import Corpus, SentenceColumns, node_offsets
from spinn_tensor.data_prep.statistics import Distribution, corpus_sides
from spinn_tensor.data_prep.tree_view import printable, too_long, tree_grid
from spinn_tensor.data_prep.trees import Tree
from spinn_tensor.data_prep.vocabulary import SPECIAL_TOKENS, UNKNOWN_ID, Vocabulary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = "inspect.html.j2"
INSTALL = "pip install 'spinn_tensor[plots]'"
BAR, MARK, INK = "#6d9bab", "#b4562c", "#24292d"
STYLE: Any = {
    "svg.hashsalt": "spinn",  # the same page for the same corpus
    "font.size": 8,
    "text.parse_math": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
}
PLOT_WIDTH, PLOT_HEIGHT, ROW_HEIGHT = 4.2, 2.1, 0.25  # inches
LONGEST_NAME = 24  # letters of a bar's name
ACROSS = 90  # letters and gaps of a sentence whose words stand beside each other
UNKNOWN = SPECIAL_TOKENS[UNKNOWN_ID]


class Plot(NamedTuple):
    """Hold a picture for the page."""

    title: str
    alt: str  # what it shows, for those who do not see it
    source: str  # a data: URI


class Sample(NamedTuple):
    """Hold an example to draw."""

    row: int
    label: str
    trees: dict[str, Tree]  # by side


def check_installed(what: str = "--html") -> None:
    """Raise ConfigError that says what to install for an option or a command, where nothing can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{what} needs matplotlib ({error}): {INSTALL}") from error


def corpus_page(found: Inspection, drawn: Sequence[Sample]) -> str:
    """Return the whole file."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("spinn_tensor.cli"),
        autoescape=True,
        undefined=StrictUndefined,
        # a macro's result is no plain str, and HTML already
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    has_labels = any(tree.labels is not None for sample in drawn for tree in sample.trees.values())
    return environment.get_template(TEMPLATE).render(
        title=found.title,
        sections=[(section, _plots(found, section)) for section in sections(found)],
        samples=[
            (
                f"example {number(sample.row + 1)}" + (sample.label and f": {sample.label}"),
                [_drawing(*side) for side in sample.trees.items()],
            )
            for sample in drawn
        ],
        legend=", ".join(f"{i} {label}" for i, label in enumerate(found.labels)) if has_labels else "",
        unknown=UNKNOWN,
    )


def samples(
    corpus: Corpus,
    labels: tuple[str, ...],
    vocabulary: Vocabulary,
    n_samples: int,
    seed: int,
) -> list[Sample]:
    """Draw examples without repetition, all of them if there are no more, in the order of the corpus."""
    n_examples = len(corpus.labels)
    drawn = np.random.default_rng(seed).choice(n_examples, min(n_samples, n_examples), replace=False)
    return [
        Sample(
            row,
            labels[corpus.labels[row]] if labels and corpus.labels[row] >= 0 else "",
            {side: tree_at(columns, row, vocabulary) for side, columns in corpus_sides(corpus).items()},
        )
        for row in np.sort(drawn).tolist()
    ]


def tree_at(columns: SentenceColumns, row: int, vocabulary: Vocabulary) -> Tree:
    """Return a sentence with its tree; words that the vocabulary lacks are <unk>."""
    first, last = columns.token_offsets[row : row + 2]
    nodes = slice(*node_offsets(columns)[row : row + 2])
    return Tree(
        tuple(vocabulary.tokens[i] for i in columns.token_ids[first:last]),
        columns.transitions[nodes],
        None if columns.node_labels is None else columns.node_labels[nodes],
    )


def _drawing(side: str, tree: Tree) -> dict[str, Any]:
    if note := too_long(tree):
        return {"note": f"{side}: {note}."}
    levels, nodes = tree_grid(tree, UNKNOWN)
    fits_across = sum(len(token) + 2 for token in tree.tokens) <= ACROSS
    return {"note": "", "side": side, "levels": levels, "nodes": nodes, "fits_across": fits_across}


def _plots(found: Inspection, section: Section) -> list[Plot]:
    """Draw what goes with the tables of a section."""
    if section.drawn in MEASURES:
        sides = found.distributions(section.drawn)
        return [histogram(side, MEASURES[section.drawn], of) for side, of in sides.items()]
    if section.drawn == "classes":
        counts = [
            (split.label_counts / split.n_examples).tolist() for split in list(found.statistics.values())[:2]
        ]
        return [bars("share of train; strokes: of dev", found.labels, *counts)]
    if section.drawn == "padding":
        return [
            bars(
                f"{kind}: empty leaf rows",
                [f"{number(use.shape.n_leaf_rows)} × {use.shape.n_steps}" for use in uses],
                [empty_rows(use) for use in uses],
            )
            for kind, uses in found.uses.items()
        ]
    return []


def histogram(
    title: str,
    what: str,  # the numbers are
    parts: Mapping[str, Distribution],  # of two splits: bars, and a line to compare with
) -> Plot:
    """Draw how often each number comes, up to the one that 99 % of the numbers do not exceed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    end = max(part.percentile(99) for part in parts.values()) + 1
    start = min(int(np.argmax(part.counts > 0)) for part in parts.values())
    with style():
        figure = Figure(figsize=(PLOT_WIDTH, PLOT_HEIGHT), layout="constrained")
        axes = figure.subplots()
        for (name, part), fill in zip(parts.items(), (True, False), strict=True):
            counts = np.pad(part.counts, (0, max(0, end - len(part.counts))))[start:end]
            shares, edges = 100 * counts / part.total, np.arange(start, end + 1) - 0.5
            axes.stairs(shares, edges, fill=fill, color=BAR if fill else MARK, label=name)
        axes.set_xlabel(f"{what}, up to the 99th percentile")
        axes.set_ylabel("%")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
        alt = f"Histogram of {what}, {title}: " + ", ".join(parts)
        return Plot(title, alt, _data_uri(figure))


def bars(
    title: str,
    names: Sequence[str],  # n of them
    shares: Sequence[float],  # n numbers from 0 to 1, or NaN
    marks: Sequence[float] | None = None,  # n shares to compare with
) -> Plot:
    """Draw a bar for each name, one below the other, and a stroke where what it is compared with ends."""
    from matplotlib.figure import Figure

    with style():
        height = ROW_HEIGHT * len(names) + 0.5
        figure = Figure(figsize=(PLOT_WIDTH, height), layout="constrained")
        axes = figure.subplots()
        rows = np.arange(len(names))
        axes.barh(rows, 100 * np.nan_to_num(shares), color=BAR)
        if marks is not None:
            axes.plot(100 * np.nan_to_num(marks), rows, "|", color=MARK, markersize=10, markeredgewidth=2)
        axes.set_yticks(rows, [shorten(printable(name), LONGEST_NAME) for name in names])
        axes.invert_yaxis()
        axes.set_xlabel("%")
        return Plot(title, f"Bar plot: {title}", _data_uri(figure))


def style() -> Any:
    """Return a context in which figures look alike."""
    import matplotlib

    return matplotlib.rc_context(STYLE)


def picture(figure: Figure, form: str, **options: Any) -> bytes:
    """Return a figure as a file of this form, svg say; of the same figure the same file."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a script that its font lacks
        figure.savefig(file, format=form, metadata={"Date": None} if form == "svg" else None, **options)
    return file.getvalue()


def _data_uri(figure: Figure) -> str:
    source = base64.b64encode(picture(figure, "svg", transparent=True)).decode("ascii")
    return f"data:image/svg+xml;base64,{source}"
