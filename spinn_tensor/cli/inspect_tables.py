"""What `spinn inspect` found, in sections of tables, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from spinn_tensor.cli import report
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.statistics import (
    Coverage,
    Distribution,
    Overlap,
    SideStatistics,
    SplitStatistics,
    share,
)
from spinn_tensor.fixed_shapes import ShapeUse

percent = partial(report.percent, digits=1)
MEASURES = {"lengths": "words", "heights": "height"}  # what is drawn as histograms, and what its values are
COUNTS_NOTE = (
    "Examples are equal if their words are, whatever the trees; all words that are not in the vocabulary count as "
    "one word."
)
TREES_NOTE = (
    "Depth is that of words, its mean over sentences; a tree is as high as its deepest word lies. Of nodes over three "
    "words or more, right-branching ones have a single word as left child, left-branching ones as right child."
)
PADDING_NOTE = (
    "The shapes that batches of {:,} examples are laid into for CUDA graphs, and one epoch in them: leaf rows without "
    "a token, and steps without a composition."
)


class Figures(NamedTuple):
    """Hold a table."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]  # as many cells each as there are columns
    text_columns: tuple[int, ...] = (0,)  # the others have numbers


class Section(NamedTuple):
    """Hold tables on one thing, and what is to be said of them."""

    title: str
    tables: list[Figures]
    notes: list[str]
    drawn: str = ""  # what of it is drawn beside the tables: lengths, heights, classes or padding


class Inspection(NamedTuple):
    """Hold all that was found in a corpus."""

    title: str
    labels: tuple[str, ...]
    statistics: dict[str, SplitStatistics]  # of every split, train first
    overlaps: dict[str, Overlap]  # of every other split with train
    skipped: Skipped
    coverages: dict[str, Coverage]  # of every split, where there are vectors
    vectors: str  # says how many words have one, and in which spelling; "" where there are none
    uses: dict[str, list[ShapeUse]]  # for an epoch, by kind of tables
    batch_size: int
    n_batches: int  # of an epoch

    def distributions(self, measure: str) -> dict[str, dict[str, Distribution]]:
        """Return the "lengths" or "heights" of train and dev, by side and split."""
        splits = dict(list(self.statistics.items())[:2])
        return {
            side: {name: getattr(split.sides[side], measure) for name, split in splits.items()}
            for side in splits["train"].sides
        }


def sections(found: Inspection) -> list[Section]:
    """Lay out all that was found; a section that there is nothing for is left out."""
    nodes = node_labels_table(found)
    padding = [padding_table(kind, uses) for kind, uses in found.uses.items()]
    misfits = [misfit for kind, uses in found.uses.items() if (misfit := _misfits(found, kind, uses))]
    by_file = found.skipped.by_file()
    laid_out = [
        Section("Counts", [counts_table(found)], [COUNTS_NOTE]),
        Section(
            "Lines that were left out",
            [skipped_table(found.skipped)] if found.skipped else [],
            [by_file] if by_file else [],
        ),
        Section("Lengths", [lengths_table(found)], [], "lengths"),
        Section("Trees", [trees_table(found)], [TREES_NOTE], "heights"),
        Section(
            "Classes",
            [labels_table(found), *([nodes] if nodes else [])] if found.labels else [],
            [],
            "classes",
        ),
        Section("Vectors", [coverage_table(found)] if found.coverages else [], [found.vectors]),
        Section("Padding", padding, [PADDING_NOTE.format(found.batch_size), *misfits], "padding"),
    ]
    return [section for section in laid_out if section.tables]


def counts_table(found: Inspection) -> Figures:
    """Count sizes, repetitions and overlap: a figure a row, a split a column."""
    rows: dict[str, list[str]] = {}
    for name, split in found.statistics.items():
        common = found.overlaps.get(name)
        figures = {
            "examples": number(split.n_examples),
            "sentences": number(split.n_sentences),
            "different sentences": number(split.n_distinct_sentences),
            "tokens": number(split.n_tokens),
            "different known words": number(split.n_distinct_words),
            "tokens not in the vocabulary": of(split.n_unknown, split.n_tokens),
            "examples that came before": of(split.n_repeated, split.n_examples),
            "equal examples, other label": of(split.n_ambiguous, split.n_examples),
            "examples that train has too": of(common.n_examples, split.n_examples) if common else "–",
            "sentences that train has too": of(common.n_sentences, split.n_sentences) if common else "–",
        }
        for figure, text in figures.items():
            rows.setdefault(figure, []).append(text)
    if not found.labels:
        del rows["equal examples, other label"]
    return Figures(("", *found.statistics), [(figure, *texts) for figure, texts in rows.items()])


def skipped_table(skipped: Skipped) -> Figures:
    """Count what was left out: a reason a row, with the first places where they are known."""
    rows = [(reason, number(count), skipped.first_places(reason)) for reason, count in skipped.most_common()]
    return Figures(("left out", "lines", "first ones"), rows, text_columns=(0, 2))


def lengths_table(found: Inspection) -> Figures:
    columns = ("words of a sentence", "mean", "median", "90 %", "99 %", "longest")
    rows = [
        (name, f"{of.mean:.1f}", *(number(of.percentile(p)) for p in (50, 90, 99)), number(of.largest))
        for name, of in ((name, side.lengths) for name, side in _sides(found))
    ]
    return Figures(columns, rows)


def trees_table(found: Inspection) -> Figures:
    columns = ("trees", "height", "99 %", "highest", "depth", "right-br.", "left-br.")
    rows = [
        (
            name,
            f"{side.heights.mean:.1f}",
            number(side.heights.percentile(99)),
            number(side.heights.largest),
            f"{side.average_depth:.2f}",
            percent(share(side.n_right, side.n_wide)),
            percent(share(side.n_left, side.n_wide)),
        )
        for name, side in _sides(found)
    ]
    return Figures(columns, rows)


def labels_table(found: Inspection) -> Figures:
    """Count the classes: one a row, a split a column."""
    splits = found.statistics.values()
    rows = [
        (label, *(of(split.label_counts[i], split.n_examples) for split in splits))
        for i, label in enumerate(found.labels)
    ]
    if any(split.n_unlabelled for split in splits):
        rows.append(("unlabelled", *(of(split.n_unlabelled, split.n_examples) for split in splits)))
    return Figures(("class", *found.statistics), rows)


def node_labels_table(found: Inspection) -> Figures | None:
    """Count the classes of all nodes, where they have any."""
    counts = {name: split.node_label_counts for name, split in found.statistics.items()}
    known = {name: node_counts for name, node_counts in counts.items() if node_counts is not None}
    if not known or not found.labels:
        return None
    rows = [
        (label, *(of(node_counts[i], node_counts.sum()) for node_counts in known.values()))
        for i, label in enumerate(found.labels)
    ]
    return Figures(("class of a node", *known), rows)


def coverage_table(found: Inspection) -> Figures:
    columns = ("vectors", "words", "with a vector", "tokens", "with a vector")
    rows = [
        (
            name,
            number(one.n_words),
            of(one.n_words_found, one.n_words),
            number(one.n_tokens),
            of(one.n_tokens_found, one.n_tokens),
        )
        for name, one in found.coverages.items()
    ]
    return Figures(columns, rows)


def padding_table(kind: str, uses: list[ShapeUse]) -> Figures:
    """List fixed shapes: the size of each, the batches of an epoch that are laid into it, and what they leave empty."""
    columns = (
        f"{kind} shape",
        "leaf rows",
        "steps",
        "widest",
        "batches",
        "tokens",
        "empty rows",
        "empty steps",
    )
    rows = [
        (
            str(i),
            *(number(size) for size in (use.shape.n_leaf_rows, use.shape.n_steps, max(use.shape.widths))),
            number(use.n_batches),
            number(use.n_tokens),
            percent(empty_rows(use)),
            percent(1 - share(use.n_steps_used, use.n_steps)),
        )
        for i, use in enumerate(uses, start=1)
    ]
    n_batches, n_tokens, n_slots, n_used, n_steps = (
        sum(part) for part in zip(*(use[1:] for use in uses), strict=True)
    )
    whole = percent(1 - share(n_tokens, n_slots)), percent(1 - share(n_used, n_steps))
    return Figures(columns, [*rows, ("all", "", "", "", number(n_batches), number(n_tokens), *whole)])


def empty_rows(use: ShapeUse) -> float:
    """Return the share of the leaf rows that no token is in; NaN without a batch."""
    return 1 - share(use.n_tokens, use.n_slots)


def number(count: int) -> str:
    return f"{count:,}"


def of(part: int, whole: int) -> str:
    """Write a count and its share."""
    return f"{part:,} ({percent(share(part, whole))})" if part else "0"


def _misfits(found: Inspection, kind: str, uses: list[ShapeUse]) -> str:
    """Say how many batches are in no shape; "" if there are none."""
    n_batches = found.n_batches - sum(use.n_batches for use in uses)
    if not n_batches:
        return ""
    return (
        f"{kind}: {number(n_batches)} of {number(found.n_batches)} batches fit no shape and run as they are."
    )


def _sides(found: Inspection) -> Iterator[tuple[str, SideStatistics]]:
    for name, split in found.statistics.items():
        for side, figures in split.sides.items():
            yield (f"{name}, {side}" if len(split.sides) > 1 else name), figures
