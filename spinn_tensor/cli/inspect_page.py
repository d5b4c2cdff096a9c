"""What `spinn inspect` found, as tables and bars, for the terminal and for one HTML page."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from spinn_tensor.cli.page import Bars, Figures, bar_plot, box, element, page, table, tree_svg
from spinn_tensor.cli.tree_view import too_long
from spinn_tensor.data_prep.columns import SentenceColumns, node_offsets
from spinn_tensor.data_prep.files import Skipped, shorter_path
from spinn_tensor.data_prep.statistics import (
    Corpus,
    Coverage,
    Distribution,
    Overlap,
    SideStatistics,
    SplitStatistics,
    bin_edges,
    binned,
    corpus_sides,
    share,
)
from spinn_tensor.data_prep.trees import Tree
from spinn_tensor.data_prep.vocabulary import SPECIAL_TOKENS, UNKNOWN_ID, Vocabulary
from spinn_tensor.fixed_shapes import ShapeUse

MOST_BINS = 16
NONE = "–"


class Inspection(NamedTuple):
    """A corpus, looked at."""

    title: str
    labels: tuple[str, ...]
    statistics: dict[str, SplitStatistics]  # of every split, train first
    overlaps: dict[str, Overlap]  # of every other split with train
    skipped: Skipped
    coverages: dict[str, Coverage]  # of every split, where there are vectors
    uses: dict[str, list[ShapeUse]]  # for an epoch, by kind of tables
    batch_size: int
    n_batches: int  # of an epoch


class Sample(NamedTuple):
    """An example to draw."""

    row: int
    label: str
    trees: dict[str, Tree]  # by side


def counts_table(found: Inspection) -> Figures:
    """Sizes, repetitions and overlap: a figure a row, a split a column."""
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
            "examples that train has too": of(common.n_examples, split.n_examples) if common else NONE,
            "sentences that train has too": of(common.n_sentences, split.n_sentences) if common else NONE,
        }
        for figure, text in figures.items():
            rows.setdefault(figure, []).append(text)
    if not found.labels:
        del rows["equal examples, other label"]
    return Figures(("", *found.statistics), [(figure, *texts) for figure, texts in rows.items()])


def skipped_table(skipped: Skipped) -> Figures:
    """A reason a row, with the first places where they are known."""
    rows = []
    for reason, count in skipped.most_common():
        places = skipped.places.get(reason, [])
        more = ", …" if places and count > len(places) else ""
        rows.append((reason, number(count), ", ".join(map(shorter_path, places)) + more))
    return Figures(("left out", "lines", "first ones"), rows, text_columns=(0, 2))


def lengths_table(found: Inspection) -> Figures:
    columns = ("words of a sentence", "mean", "median", "90 %", "99 %", "longest")
    return Figures(columns, [(name, *_figures(side.lengths)) for name, side in _sides(found)])


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
    """Class balance: a class a row, a split a column."""
    splits = found.statistics.values()
    rows = [
        (label, *(of(split.label_counts[i], split.n_examples) for split in splits))
        for i, label in enumerate(found.labels)
    ]
    if any(split.n_unlabelled for split in splits):
        rows.append(("unlabelled", *(of(split.n_unlabelled, split.n_examples) for split in splits)))
    return Figures(("class", *found.statistics), rows)


def node_labels_table(found: Inspection) -> Figures | None:
    """Classes of all nodes, where they have any."""
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
    """A fixed shape a row: its size, the batches of an epoch that are laid into it, and what they leave empty."""
    columns = (kind, "leaf rows", "steps", "width", "batches", "tokens", "empty rows", "empty steps")
    rows = [
        (
            f"shape {i}",
            *(number(size) for size in (use.shape.n_leaf_rows, use.shape.n_steps, use.shape.width)),
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


def misfits(found: Inspection, uses: list[ShapeUse]) -> str:
    """What is to say of batches that are in no shape; "" if there are none."""
    n_batches = found.n_batches - sum(use.n_batches for use in uses)
    if not n_batches:
        return ""
    return f"{number(n_batches)} of {number(found.n_batches)} batches fit no shape and run as they are."


def empty_rows(use: ShapeUse) -> float:
    """Share of the leaf rows that no token is in; NaN without a batch."""
    return 1 - share(use.n_tokens, use.n_slots)


def histograms(found: Inspection, measure: str) -> list[Bars]:
    """One a side, of train's sentences in the same bins, with dev's to compare; measure: "lengths" or "heights"."""
    splits = list(found.statistics.values())[:2]
    parts = {
        name: [getattr(split.sides[name], measure).counts for split in splits] for name in splits[0].sides
    }
    counts = [part for of_splits in parts.values() for part in of_splits]
    total = np.sum([np.pad(part, (0, max(map(len, counts)) - len(part))) for part in counts], axis=0)
    edges = bin_edges(total, MOST_BINS, start=1 if measure == "lengths" else 0)
    return [_histogram(name, edges, of_splits) for name, of_splits in parts.items()]


def label_bars(found: Inspection) -> Bars:
    """Class balance of train, with dev's to compare."""
    train, dev = list(found.statistics.values())[:2]
    return Bars(
        "train",
        list(found.labels),
        [share(count, train.n_examples) for count in train.label_counts.tolist()],
        [percent(share(count, train.n_examples)) for count in train.label_counts.tolist()],
        [share(count, dev.n_examples) for count in dev.label_counts.tolist()],
    )


def padding_bars(kind: str, uses: list[ShapeUse]) -> Bars:
    names = [f"{number(use.shape.n_leaf_rows)} × {use.shape.n_steps}" for use in uses]
    empty = [empty_rows(use) for use in uses]
    return Bars(f"{kind}: empty leaf rows", names, empty, [percent(part) for part in empty], [])


def samples(
    corpus: Corpus,
    labels: tuple[str, ...],
    vocabulary: Vocabulary,
    n_samples: int,
    seed: int,
) -> list[Sample]:
    """Examples drawn without repetition, all of them if there are no more, in the order of the corpus."""
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
    """A sentence with its tree; words that the vocabulary lacks are <unk>."""
    first, last = columns.token_offsets[row : row + 2]
    nodes = slice(*node_offsets(columns)[row : row + 2])
    return Tree(
        tuple(vocabulary.tokens[i] for i in columns.token_ids[first:last]),
        columns.transitions[nodes],
        None if columns.node_labels is None else columns.node_labels[nodes],
    )


def corpus_page(found: Inspection, drawn: list[Sample]) -> str:
    """The whole page."""
    parts = [element("h1", found.title), *_summary(found)]
    for title, section in (
        ("Lengths", _measured(found, "lengths")),
        ("Trees", _measured(found, "heights")),
        ("Classes", _classes(found)),
        ("Vectors", [table(coverage_table(found))] if found.coverages else []),
        ("Padding", _padding(found)),
        ("Sample trees", _drawings(found, drawn)),
    ):
        if section:
            parts += [element("h2", title), *section]
    return page(found.title, parts)


def number(count: int) -> str:
    return f"{count:,}"


def percent(part: float) -> str:
    return NONE if math.isnan(part) else f"{part:.1%}"


def of(part: int, whole: int) -> str:
    """A count and its share."""
    return f"{part:,} ({percent(share(part, whole))})" if part else "0"


COUNTS_NOTE = (
    "Examples are equal if their words are, whatever the trees; all words that are not in the vocabulary count as "
    "one word."
)
TREES_NOTE = (
    "Depth is that of words, its mean over sentences; a tree is as high as its deepest word lies. Of nodes over three "
    "words or more, right-branching ones have a single word as left child, left-branching ones as right child."
)
MARKS_NOTE = "Bars: share of train; strokes: share of dev. The last row has all that is longer."


def padding_note(found: Inspection) -> str:
    return (
        f"The shapes that batches of {number(found.batch_size)} examples are laid into for CUDA graphs, and one epoch "
        "in them: leaf rows without a token, and steps without a composition."
    )


def _sides(found: Inspection) -> Iterator[tuple[str, SideStatistics]]:
    for name, split in found.statistics.items():
        for side, figures in split.sides.items():
            yield (f"{name}, {side}" if len(split.sides) > 1 else name), figures


def _figures(whole: Distribution) -> tuple[str, ...]:
    return (f"{whole.mean:.1f}", *(number(whole.percentile(p)) for p in (50, 90, 99)), number(whole.largest))


def _histogram(
    name: str,
    edges: np.ndarray,  # (bins + 1,) int64
    counts: list[np.ndarray],  # (largest + 1,) int64, of train and dev
) -> Bars:
    names = [
        str(first) if first + 1 == end else f"{first}–{end - 1}"
        for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]
    train, dev = ((binned(part, edges) / part.sum()).tolist() for part in counts)
    return Bars(name, names, train, [percent(part) for part in train], dev)


def _summary(found: Inspection) -> list[str]:
    parts = [table(counts_table(found)), element("p", COUNTS_NOTE, "quiet")]
    if found.skipped:
        parts += [element("h3", "Lines that were left out"), table(skipped_table(found.skipped))]
        if note := found.skipped.by_file():
            parts.append(element("p", f"{note}.", "quiet"))
    return parts


def _measured(found: Inspection, measure: str) -> list[str]:
    figures, notes = lengths_table(found), [MARKS_NOTE]
    if measure == "heights":
        figures, notes = trees_table(found), [TREES_NOTE, MARKS_NOTE]
    plots = [box("plot", [element("h3", bars.title), bar_plot(bars)]) for bars in histograms(found, measure)]
    return [table(figures), box("plots", plots), *(element("p", note, "quiet") for note in notes)]


def _classes(found: Inspection) -> list[str]:
    if not found.labels:
        return []
    nodes = node_labels_table(found)
    return [
        table(labels_table(found)),
        bar_plot(label_bars(found)),
        element("p", "Bars: share of train; strokes: share of dev.", "quiet"),
        *([] if nodes is None else [table(nodes)]),
    ]


def _padding(found: Inspection) -> list[str]:
    parts = [element("p", padding_note(found), "quiet")]
    for kind, uses in found.uses.items():
        bars = padding_bars(kind, uses)
        parts += [table(padding_table(kind, uses)), element("h3", bars.title), bar_plot(bars)]
        if note := misfits(found, uses):
            parts.append(element("p", note, "quiet"))
    return parts


def _drawings(found: Inspection, drawn: list[Sample]) -> list[str]:
    if not drawn:
        return []
    unknown = SPECIAL_TOKENS[UNKNOWN_ID]
    note = f"Of train, drawn at random. {unknown} stands for a word that is not in the vocabulary."
    parts = [element("p", note, "quiet")]
    if any(tree.labels is not None for sample in drawn for tree in sample.trees.values()):
        legend = ", ".join(f"{i} {label}" for i, label in enumerate(found.labels))
        parts.append(element("p", f"Nodes: {legend}.", "quiet"))
    for sample in drawn:
        name = f"example {number(sample.row + 1)}"
        parts.append(element("h3", f"{name}: {sample.label}" if sample.label else name))
        for side, tree in sample.trees.items():
            if note := too_long(tree):
                parts.append(element("p", f"{side}: {note}.", "quiet"))
            else:
                parts.append(box("wide", [tree_svg(tree, f"{name}, {side}", unknown)]))
    return parts
