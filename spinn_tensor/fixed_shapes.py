"""Batches of few shapes, so that a captured CUDA graph can be replayed on them and a compiler meets nothing new.

    Shape   L leaf rows, S steps, W compositions a step        (and with a tracker: one entry a lane a step)

A batch is laid into the first of a few shapes that holds it. What a batch takes is known from its trees alone: L from
the lengths, S from the height of the tallest tree (forest) or the longest sentence (lanes), W from how many trees have
how many compositions where. `plan_shapes` looks at a sample of batches and cuts them, by the steps they take, into at
most seven groups so that as few steps as possible are empty: on a GPU a step costs the same however little it composes.

Padding computes nothing that is read: leaves beyond the batch's tokens are masked, slots beyond a step's compositions
compose the null state, steps beyond the last are empty, and where a batch has too few examples, the roots of those
missing are the null row, their label is NO_LABEL, and `row_mask` keeps them out of batch norm. A batch that no shape
holds (a sentence longer than any in the sample) is left ragged; whoever asked runs it as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data_prep.batching import epoch_batches
from data_prep.columns import (
    NO_LABEL,
    LabelledColumns,
    PairColumns,
    SentenceColumns,
    concatenate,
    lengths,
    select,
)
from data_prep.tables import (
    NULL_ROW,
    ForestTables,
    LaneTables,
    count_levels,
    forest_tables,
    lane_tables,
    least_widths,
)
from spinn_tensor.batch import LabelledBatch, PairBatch, SentenceBatch
from spinn_tensor.bundles import SequenceTables, to_torch

MOST_SHAPES = 7
SPARE = 1.05  # times what the sample takes at most: other batches are a little larger
ROUNDING = 64  # leaf rows, and a forest's widths, are multiples of it
LANE_WIDTH = 5 / 8  # of the lanes compose at a step: on SNLI no lane ever waits (docs/decisions.md)
SAMPLE, SAMPLED_EPOCHS = 500, 4  # batches that shapes are planned from, of so many epochs
FIXED_KINDS = ("forest", "lanes")  # of tables that have a fixed shape

Corpus = PairColumns | LabelledColumns


class Shape(NamedTuple):
    """What a batch of `n_examples` examples is laid into."""

    n_examples: int  # pairs or sentences
    n_leaf_rows: int  # L
    n_steps: int  # S
    width: int  # W, compositions of every step


class Demand(NamedTuple):
    """What a batch takes at least."""

    n_tokens: int
    n_steps: int
    level_counts: np.ndarray | None  # (E,) int64, of a forest
    lane_width: int  # compositions of a step, with lanes

    def width(self, n_steps: int) -> int:
        """Compositions of a step with which the batch is done in so many steps."""
        if self.level_counts is None:
            return self.lane_width
        return _round_up(SPARE * int(least_widths(self.level_counts, np.array([n_steps]))[0]))


def plan_for_corpus(
    corpus: Corpus,
    table_kind: str,  # "forest" or "lanes"
    batch_size: int,
    seed: int,
    most: int = MOST_SHAPES,
) -> list[Shape]:
    """Shapes for training on a corpus, from up to SAMPLE batches of its first epochs, the longest among them."""
    key = corpus.lengths_key
    epochs = (epoch_batches(key, batch_size, seed=seed, epoch=epoch) for epoch in range(SAMPLED_EPOCHS))
    batches = [rows for batches in epochs for rows in batches]
    batches.sort(key=lambda rows: int(key[rows].max()))
    sample = batches[-1 :: -max(1, -(-len(batches) // SAMPLE))]
    return plan_shapes((select(corpus, rows) for rows in sample), table_kind, batch_size, most)


def plan_shapes(
    batches: Iterable[Corpus],  # a sample, whole batches
    table_kind: str,  # "forest" or "lanes"
    batch_size: int,  # examples of a whole batch
    most: int = MOST_SHAPES,
) -> list[Shape]:
    """Shapes for batches like these, each holding all that the one before it holds.

    The same batches give the same shapes. Raises ValueError for tables of another kind and without a batch.
    """
    if table_kind not in FIXED_KINDS:
        raise ValueError(f"table_kind: expected one of {', '.join(FIXED_KINDS)}, got {table_kind!r}")
    demands = [_demand(columns, table_kind, batch_size) for columns in batches]
    if not demands:
        raise ValueError("shapes are planned from at least one batch")
    shapes: list[Shape] = []
    for group in _groups(demands, most):
        n_steps = max(1, *(demand.n_steps for demand in group))
        n_leaf_rows = _round_up(SPARE * max(demand.n_tokens for demand in group))
        width = max(demand.width(n_steps) for demand in group)
        if shapes:
            n_leaf_rows, width = max(n_leaf_rows, shapes[-1].n_leaf_rows), max(width, shapes[-1].width)
        shapes.append(Shape(batch_size, n_leaf_rows, n_steps, width))
    return shapes


def fixed_batch(
    columns: Corpus,
    table_kind: str,
    shapes: Sequence[Shape],
) -> PairBatch | LabelledBatch | None:
    """The examples in the first of these shapes that holds them; None if none does.

    Raises DataError for transitions that are not trees.
    """
    sentences = _sentences(columns)
    n_tokens = len(sentences.token_ids)
    for shape in shapes:
        if len(columns.labels) > shape.n_examples or n_tokens > shape.n_leaf_rows:
            continue
        if (tables := _tables(columns, table_kind, shape)) is not None:
            return _lay(columns, tables, shape)
    return None


def _sentences(columns: Corpus) -> SentenceColumns:
    if isinstance(columns, PairColumns):
        return concatenate(columns.premises, columns.hypotheses)
    return columns.sentences


def _n_lanes(columns: Corpus, n_examples: int) -> int:
    return n_examples * (2 if isinstance(columns, PairColumns) else 1)


def _demand(columns: Corpus, table_kind: str, batch_size: int) -> Demand:
    sentences = _sentences(columns)
    n_tokens = lengths(sentences)
    lane_width = max(1, round(LANE_WIDTH * _n_lanes(columns, batch_size)))
    if table_kind == "forest":
        levels = count_levels(sentences.transitions, n_tokens)
        return Demand(int(n_tokens.sum()), len(levels), levels, lane_width)
    tables = lane_tables(sentences.transitions, n_tokens, width=lane_width)
    return Demand(int(n_tokens.sum()), len(tables.entry_offsets) - 1, None, lane_width)


def _round_up(n: float) -> int:
    return ROUNDING * max(1, -(-int(n) // ROUNDING))


def _groups(demands: list[Demand], most: int) -> list[list[Demand]]:
    """At most so many groups, by steps, for which the steps of each batch's group are fewest in all.

    Dynamic programming over the distinct numbers of steps: cost[k][j] of the j smallest in k groups.
    """
    steps = np.array([demand.n_steps for demand in demands])
    values, counts = np.unique(steps, return_counts=True)
    n_batches = np.concatenate(([0], np.cumsum(counts)))
    n_values = len(values)
    cost = np.full((most + 1, n_values + 1), np.inf)
    cost[:, 0] = 0
    first = np.zeros((most + 1, n_values + 1), dtype=np.int64)  # value at which the last group begins
    for k in range(1, most + 1):
        for j in range(1, n_values + 1):
            options = cost[k - 1, :j] + values[j - 1] * (n_batches[j] - n_batches[:j])
            first[k, j] = np.argmin(options)
            cost[k, j] = options[first[k, j]]
    groups: list[list[Demand]] = []
    k, j = most, n_values
    while j:
        i = first[k, j]
        groups.append([demand for demand in demands if values[i] <= demand.n_steps <= values[j - 1]])
        k, j = k - 1, i
    return groups[::-1]


def _tables(columns: Corpus, table_kind: str, shape: Shape) -> ForestTables | LaneTables | None:
    """Tables of exactly this shape, or None where it has too few steps."""
    sentences = _sentences(columns)
    n_tokens = lengths(sentences)
    n_lanes = _n_lanes(columns, shape.n_examples)
    tables: ForestTables | LaneTables
    if table_kind == "forest":
        tables = forest_tables(
            sentences.transitions,
            n_tokens,
            width=shape.width,
            padded=True,
            n_leaf_rows=shape.n_leaf_rows,
        )
        n_steps = len(tables.step_offsets) - 1
    else:
        if 2 * int(n_tokens.max()) - 1 > shape.n_steps:
            return None
        tables = lane_tables(
            sentences.transitions,
            n_tokens,
            width=shape.width,
            padded=True,
            n_leaf_rows=shape.n_leaf_rows,
            n_lanes=n_lanes,
        )
        n_steps = len(tables.entry_offsets) - 1
    if n_steps > shape.n_steps:
        return None
    return _with_sizes(tables, shape, n_lanes)


def _with_sizes(tables: ForestTables | LaneTables, shape: Shape, n_lanes: int) -> ForestTables | LaneTables:
    """Empty steps at the end, and transitions of the sentences that are missing."""
    n_compositions, n_entries = shape.n_steps * shape.width, shape.n_steps * n_lanes
    n_transitions = 2 * shape.n_leaf_rows - n_lanes
    sizes = dict.fromkeys(("left_index", "right_index", "tracker_index"), n_compositions)
    sizes |= dict.fromkeys(("buffer_index", "stack1_index", "stack2_index", "previous_index"), n_entries)
    sizes |= dict.fromkeys(("node_index", "entry_index"), n_transitions)
    offsets = {"step_offsets": shape.width, "reduce_offsets": shape.width, "entry_offsets": n_lanes}
    fields = tables._asdict()
    for name, table in fields.items():
        if name in offsets:
            fields[name] = np.arange(shape.n_steps + 1) * offsets[name]
        elif name in sizes:
            fields[name] = _pad(table, sizes[name])
    return type(tables)(**fields)


def _pad(index: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate((index, np.full(size - len(index), NULL_ROW)))


def _lay(columns: Corpus, tables: ForestTables | LaneTables, shape: Shape) -> PairBatch | LabelledBatch:
    sentences, n_examples = _sentences(columns), len(columns.labels)
    n_missing = shape.n_examples - n_examples
    n_lanes = _n_lanes(columns, shape.n_examples)
    roots = tables.root_index.reshape(-1, n_examples)  # (sides, B), premises before hypotheses
    tables = tables._replace(root_index=np.pad(roots, ((0, 0), (0, n_missing))).reshape(-1))
    token_ids = torch.from_numpy(sentences.token_ids.astype(np.int64))
    n_tokens = len(token_ids)
    transitions = torch.from_numpy(sentences.transitions.astype(np.int64))
    batch = SentenceBatch(
        token_ids=F.pad(token_ids, (0, shape.n_leaf_rows - n_tokens)),
        token_mask=torch.arange(shape.n_leaf_rows) < n_tokens,
        sequence=SequenceTables(*(torch.empty(0, dtype=torch.int64) for _ in SequenceTables._fields)),
        tables=to_torch(tables),
        transitions=F.pad(transitions, (0, 2 * shape.n_leaf_rows - n_lanes - len(transitions))),
    )
    labels: Tensor = F.pad(torch.from_numpy(columns.labels), (0, n_missing), value=NO_LABEL)
    row_mask = torch.arange(shape.n_examples) < n_examples
    if isinstance(columns, PairColumns):
        return PairBatch(batch, labels, row_mask)
    return LabelledBatch(batch, labels, None, row_mask)
