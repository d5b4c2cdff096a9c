"""Batches of few shapes, so that a captured CUDA graph can be replayed on them and a compiler meets nothing new.

    Shape   L leaf rows, S steps, W_s compositions in step s        (and with a tracker: E_s entries)

A batch is laid into the first of a few shapes that holds it. What a batch takes is known from its trees alone: L from
the lengths, S from the height of the tallest tree (forest) or the longest sentence (lanes). `plan_shapes` looks at a
sample of batches and cuts them, from the smallest to the largest, into at most seven groups so that few leaf rows and
few steps are empty: on a GPU a short step costs nearly what a long one does. How wide a step is, the group says:

    lanes    E_s, W_s   the most lanes that a batch of the group has at its step s, and the most of them that REDUCE;
                        of a batch that has more, those lanes wait that have the least left
    own      E_s = W_s  the most lanes that a batch of the group has at its step s, each of which might REDUCE; whoever
                        chooses its transitions cannot wait, so that the largest shape has a little more
    forest   W_s        the narrowest widths that never grow and have made, at the end of each step, what any batch
                        of the group must have made by then to be done in time (Hu's bound, see `tables.forest`)

Padding computes nothing that is read: leaves beyond the batch's tokens are masked, slots beyond a step's compositions
compose the null state, lanes that have ended what nobody reads, steps beyond the last are empty, and where a batch has
too few examples, the roots of those missing are the null row, their label is NO_LABEL, and `row_mask` keeps them out of
batch norm; transitions that are missing are made where there is no choice. A batch that no shape
holds (a sentence longer than any in the sample) is left ragged; whoever asked runs it as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spinn_tensor.batch import Batch, SentenceBatch
from spinn_tensor.bundles import SequenceTables, bundle_of, to_torch
from spinn_tensor.data_prep.batching import epoch_batches, shares
from spinn_tensor.data_prep.columns import NO_LABEL, Corpus, SentenceColumns, lengths, select
from spinn_tensor.data_prep.segments import places
from spinn_tensor.data_prep.tables import (
    NULL_ROW,
    ForestTables,
    LaneTables,
    OwnTables,
    count_levels,
    forest_tables,
    lane_tables,
    own_tables,
)
from spinn_tensor.data_prep.tables.own import FIRST_ENTRY
from spinn_tensor.data_prep.trees import REDUCE

MOST_SHAPES = 7
SPARE = 1.05  # times what the sample takes at most, in the largest shape: other batches are a little larger
ROUNDING = 64  # leaf rows are multiples of it
WIDTH_ROUNDING = 8  # likewise, what a step holds
LEAF_WEIGHTS = (0.5, 1.0, 1.5, 2.0)  # of empty leaf rows against empty steps, of which the best is taken
SAMPLE, SAMPLED_EPOCHS = 500, 4  # batches that shapes are planned from, of so many epochs
FIXED_KINDS = ("forest", "lanes", "own")  # of tables that have a fixed shape

AnyTables = ForestTables | LaneTables | OwnTables


class Shape(NamedTuple):
    """Say what a batch of `n_examples` examples is laid into."""

    n_examples: int  # pairs or sentences
    n_leaf_rows: int  # L
    widths: tuple[int, ...]  # (S,) compositions of each step
    entries: tuple[int, ...] = ()  # (S,) of the trackers, at each step; empty in a forest

    @property
    def n_steps(self) -> int:  # S
        return len(self.widths)


class Demand(NamedTuple):
    """Say what a batch takes at least."""

    n_examples: int
    n_tokens: int
    n_steps: int
    compositions: np.ndarray  # (n_steps,) int64, with lanes of each step, else at each distance from the root
    entries: np.ndarray  # (n_steps,) int64, with lanes


def plan_for_corpus(
    corpus: Corpus,
    table_kind: str,  # of FIXED_KINDS
    batch_size: int,
    seed: int,
    most: int = MOST_SHAPES,
    token_budget: int = 0,  # as for `epoch_batches`
    dealt_to: tuple[int, int] = (1, 1),  # ranks, and microbatches of each, as for `shares`
    n_samples: int = 1,  # lanes of each sentence, with "own"
) -> list[Shape]:
    """Plan shapes for training on a corpus, from up to SAMPLE batches of its first epochs, the largest among them.

    Where batches are dealt out, the shapes are those of the parts.
    """
    n_tokens = corpus.n_tokens
    batches = [
        rows
        for epoch in range(SAMPLED_EPOCHS)
        for rows in batches_of(corpus, batch_size, seed, epoch, token_budget)
    ]
    batches.sort(key=lambda rows: int(n_tokens[rows].sum()))
    sample = batches[-1 :: -max(1, -(-len(batches) * math.prod(dealt_to) // SAMPLE))]
    dealt = (shares(rows, corpus.lengths_key, *dealt_to) for rows in sample)
    parts = (part for of_ranks in dealt for of_rank in of_ranks for part in of_rank)
    return plan_shapes((select(corpus, part) for part in parts), table_kind, most, n_samples)


def plan_shapes(
    batches: Iterable[Corpus],  # a sample, whole batches
    table_kind: str,  # of FIXED_KINDS
    most: int = MOST_SHAPES,
    n_samples: int = 1,
) -> list[Shape]:
    """Plan shapes for batches like these, none with fewer leaf rows or steps than the one before it.

    The same batches give the same shapes. Raises ValueError for tables of another kind and without a batch.
    """
    if table_kind not in FIXED_KINDS:
        raise ValueError(f"table_kind: expected one of {', '.join(FIXED_KINDS)}, got {table_kind!r}")
    demands = [demand_of(columns, table_kind, n_samples) for columns in batches]
    if not demands:
        raise ValueError("shapes are planned from at least one batch")
    plans = []
    for weight in LEAF_WEIGHTS:
        groups = _groups(demands, most, weight)
        shapes = _shapes_of(groups, table_kind)
        plans.append((_waste(groups, shapes), shapes))
    return min(plans, key=lambda plan: plan[0])[1]


def _waste(groups: list[list[Demand]], shapes: list[Shape]) -> float:
    """Return the part of leaf rows, or of steps if that is more, that is empty when each group is in its shape."""
    full = np.array([[demand.n_tokens, demand.n_steps] for group in groups for demand in group]).sum(0)
    pairs = zip(groups, shapes, strict=True)
    slots = sum(len(group) * np.array([shape.n_leaf_rows, shape.n_steps]) for group, shape in pairs)
    return float((1 - full / slots).max())


def _shapes_of(groups: list[list[Demand]], table_kind: str) -> list[Shape]:
    n_examples = max(demand.n_examples for group in groups for demand in group)
    shapes: list[Shape] = []
    n_leaf_rows = n_steps = 1
    for group in groups:
        spare = SPARE if group is groups[-1] else 1.0  # what is too large for another has the next shape
        n_leaf_rows = max(n_leaf_rows, _round_up(spare * max(demand.n_tokens for demand in group)))
        n_steps = max(n_steps, *(demand.n_steps for demand in group))
        most_examples = int(SPARE * max(demand.n_examples for demand in group))
        sizes = min(n_examples, most_examples), n_leaf_rows
        if table_kind == "forest":
            shapes.append(Shape(*sizes, _rounded(spare * _narrowest(_made_by(group, n_steps)))))
        else:
            spare = spare if table_kind == "own" else 1.0  # given lanes wait if there are too many
            widths = _rounded(spare * _most(n_steps, [demand.compositions for demand in group]))
            if table_kind == "lanes" and n_steps > 2:
                widths = 0, 0, *widths[2:]  # no stack has two entries before
            entries = _most(n_steps, [demand.entries for demand in group])
            shapes.append(Shape(*sizes, widths, _rounded(spare * entries)))
    return shapes


def _most(n_steps: int, counts: Sequence[np.ndarray]) -> np.ndarray:  # (n_steps,) int64
    """Return the most that any batch has at each step."""
    return np.max([_with_steps(of_batch, n_steps) for of_batch in counts], axis=0)


def _with_steps(counts: np.ndarray, n_steps: int) -> np.ndarray:  # (n_steps,) int64
    return np.pad(counts, (0, n_steps - len(counts)))


def _made_by(group: Sequence[Demand], n_steps: int) -> np.ndarray:  # (n_steps,) int64
    """Return how many compositions must be made at the end of each step for any of these forests to be done in time."""
    made = [np.cumsum(_with_steps(demand.compositions, n_steps)[::-1]) for demand in group]
    return np.max(made, axis=0)


def _narrowest(
    made_by: np.ndarray,  # (S,) int64, growing
) -> np.ndarray:  # (S,) float64
    """Return the narrowest widths that never grow and whose sums are at least these: slopes of a concave hull."""
    widths = np.zeros(len(made_by))
    step, made = 0, 0.0
    while step < len(made_by):
        slopes = (made_by[step:] - made) / np.arange(1, len(made_by) - step + 1)
        end = step + len(slopes) - int(np.argmax(slopes[::-1]))
        widths[step:end] = slopes.max()
        made, step = float(made_by[end - 1]), end
    return widths


def _rounded(widths: np.ndarray) -> tuple[int, ...]:
    """Return whole widths, of at least one slot."""
    return tuple(_round_up(np.ceil(width), WIDTH_ROUNDING) for width in widths.round(6))


def batches_of(
    corpus: Corpus, batch_size: int, seed: int, epoch: int, token_budget: int
) -> list[np.ndarray]:  # rows of each
    return epoch_batches(
        corpus.lengths_key,
        batch_size,
        seed=seed,
        epoch=epoch,
        n_tokens=corpus.n_tokens,
        token_budget=token_budget,
    )


def demand_of(
    columns: Corpus,
    table_kind: str,  # of FIXED_KINDS
    n_samples: int = 1,  # lanes of each sentence, with "own"
) -> Demand:
    """Find what a batch takes, from its trees alone."""
    sentences, n_examples = columns.sentences, len(columns.labels)
    n_tokens = lengths(sentences)
    if table_kind == "forest":
        compositions = count_levels(sentences.transitions, n_tokens)
        entries = compositions[:0]
    else:
        step = places(2 * n_tokens - 1)  # of each transition where no lane waits
        compositions = entries = np.bincount(step) * n_samples
        if table_kind == "lanes":
            compositions = np.bincount(step[sentences.transitions == REDUCE], minlength=len(entries))
    return Demand(n_examples, int(n_tokens.sum()), len(compositions), compositions, entries)


def _round_up(n: float, unit: int = ROUNDING) -> int:
    return unit * max(1, -(-int(n) // unit))


def _groups(demands: list[Demand], most: int, leaf_weight: float) -> list[list[Demand]]:
    """Cut at most so many groups whose leaf rows and steps, each as part of its mean and weighed, are fewest in all.

    A group is a run of the demands in order of their size, which is the sum of both. Dynamic programming:
    cost[k][j] of the j smallest in k groups.
    """
    n_leaf_rows = np.array([_round_up(demand.n_tokens) for demand in demands], dtype=float)
    n_steps = np.array([demand.n_steps for demand in demands], dtype=float) + 1e-9  # single words take none
    n_leaf_rows = leaf_weight * (n_leaf_rows / n_leaf_rows.mean())
    n_steps /= n_steps.mean()
    order = np.argsort(n_leaf_rows + n_steps, kind="stable")
    n_leaf_rows, n_steps, n_demands = n_leaf_rows[order], n_steps[order], len(demands)
    cost = np.full((most + 1, n_demands + 1), np.inf)
    cost[0, 0] = 0
    first = np.zeros((most + 1, n_demands + 1), dtype=np.int64)  # demand at which the last group begins
    for j in range(1, n_demands + 1):
        largest = sum(np.maximum.accumulate(sizes[:j][::-1])[::-1] for sizes in (n_leaf_rows, n_steps))
        # (most, j), the last group begins at each i < j
        options = cost[:-1, :j] + (j - np.arange(j)) * largest
        first[1:, j] = np.argmin(options, axis=1)
        cost[1:, j] = options.min(axis=1)
    groups: list[list[Demand]] = []
    k, j = int(np.argmin(cost[:, n_demands])), n_demands
    while j:
        i = int(first[k, j])
        groups.append([demands[position] for position in order[i:j]])
        k, j = k - 1, i
    return groups[::-1]


class ShapeUse(NamedTuple):
    """Count what the batches of an epoch that are laid into one shape leave empty of it."""

    shape: Shape
    n_batches: int
    n_tokens: int
    n_slots: int  # leaf rows
    n_steps_used: int
    n_steps: int


def fixed_batch(
    columns: Corpus,
    table_kind: str,
    shapes: Sequence[Shape],
    n_samples: int = 1,  # lanes of each sentence, with "own"
) -> Batch | None:
    """Lay the examples into the first of these shapes that holds them; None if none does.

    Raises DataError for transitions that are not trees.
    """
    for shape in shapes:
        if (tables := _tables(columns, table_kind, shape, n_samples)) is not None:
            return _lay(columns, tables, shape)
    return None


def shape_use(
    corpus: Corpus,
    table_kind: str,  # of FIXED_KINDS
    batch_size: int,
    seed: int,
    token_budget: int = 0,  # as for `epoch_batches`
) -> list[ShapeUse]:
    """Tell how one epoch's batches fill the shapes planned for the corpus; those that no shape holds are left out."""
    shapes = plan_for_corpus(corpus, table_kind, batch_size, seed, token_budget=token_budget)
    taken: list[list[Demand]] = [[] for _ in shapes]
    # an epoch that shapes are not planned from
    for rows in batches_of(corpus, batch_size, seed, SAMPLED_EPOCHS, token_budget):
        columns = select(corpus, rows)
        for shape, demands in zip(shapes, taken, strict=True):
            if _tables(columns, table_kind, shape) is not None:
                demands.append(demand_of(columns, table_kind))
                break
    uses = []
    for shape, demands in zip(shapes, taken, strict=True):
        n, n_tokens = len(demands), sum(demand.n_tokens for demand in demands)
        n_steps_used = sum(demand.n_steps for demand in demands)
        uses.append(ShapeUse(shape, n, n_tokens, n * shape.n_leaf_rows, n_steps_used, n * shape.n_steps))
    return uses


def _tables(columns: Corpus, table_kind: str, shape: Shape, n_samples: int = 1) -> AnyTables | None:
    """Return tables of exactly this shape, or None where it does not hold the examples."""
    n_tokens = len(columns.sentences.token_ids)
    if len(columns.labels) > shape.n_examples or n_tokens > shape.n_leaf_rows:
        return None
    if table_kind == "own":
        return _own(columns, shape, n_samples)
    return _given(columns.sentences, table_kind, shape)


def _own(columns: Corpus, shape: Shape, n_samples: int) -> OwnTables | None:
    """Return tables of exactly this shape, or None where a step of it has too few lanes."""
    entries = demand_of(columns, "own", n_samples).entries
    if len(entries) > shape.n_steps or (entries > shape.entries[: len(entries)]).any():
        return None
    of_sides = lengths(columns.sentences).reshape(columns.n_sides, -1)
    missing = shape.n_examples - of_sides.shape[1]
    n_tokens = np.pad(of_sides, ((0, 0), (0, missing))).reshape(-1)
    return own_tables(n_tokens, n_samples=n_samples, widths=np.array(shape.entries))


def _given(sentences: SentenceColumns, table_kind: str, shape: Shape) -> ForestTables | LaneTables | None:
    """Return tables of exactly this shape, or None where it has too few steps."""
    transitions, n_tokens = sentences.transitions, lengths(sentences)
    tables: ForestTables | LaneTables
    options: dict[str, Any] = {
        "width": np.array(shape.widths),
        "padded": True,
        "n_leaf_rows": shape.n_leaf_rows,
        "least_steps": shape.n_steps,
    }
    if table_kind == "forest":
        tables = forest_tables(transitions, n_tokens, **options)
        n_steps = len(tables.step_offsets) - 1
    elif 2 * int(n_tokens.max()) - 1 <= shape.n_steps:
        tables = lane_tables(transitions, n_tokens, n_lanes=np.array(shape.entries), **options)
        n_steps = len(tables.entry_offsets) - 1
    else:
        return None
    return None if n_steps > shape.n_steps else _with_transitions(tables, shape)


def _with_transitions(tables: ForestTables | LaneTables, shape: Shape) -> ForestTables | LaneTables:
    """Add the transitions of the sentences that are missing."""
    missing = (0, 2 * shape.n_leaf_rows - len(tables.node_index))  # more than any batch in it has
    node_index = np.pad(tables.node_index, missing, constant_values=NULL_ROW)
    if isinstance(tables, ForestTables):
        return tables._replace(node_index=node_index)
    entry_index = np.pad(tables.entry_index, missing, constant_values=FIRST_ENTRY)
    return tables._replace(node_index=node_index, entry_index=entry_index)


def _lay(columns: Corpus, tables: AnyTables, shape: Shape) -> Batch:
    """Make the batch of these examples and of those that are missing."""
    sentences, n_examples = columns.sentences, len(columns.labels)
    n_missing = shape.n_examples - n_examples
    if isinstance(tables, OwnTables):
        n_transitions = len(tables.entry_index)
    else:
        n_transitions = len(tables.node_index)
        roots = tables.root_index.reshape(-1, n_examples)  # (sides, B), premises before hypotheses
        tables = tables._replace(root_index=np.pad(roots, ((0, 0), (0, n_missing))).reshape(-1))
    token_ids = torch.from_numpy(sentences.token_ids.astype(np.int64))
    n_tokens = len(token_ids)
    transitions = torch.from_numpy(sentences.transitions.astype(np.int64))
    batch = SentenceBatch(
        token_ids=F.pad(token_ids, (0, shape.n_leaf_rows - n_tokens)),
        token_mask=torch.arange(shape.n_leaf_rows) < n_tokens,
        sequence=bundle_of(SequenceTables, [torch.empty(0, dtype=torch.int64)] * len(SequenceTables._fields)),
        tables=to_torch(tables),
        transitions=F.pad(transitions, (0, n_transitions - len(transitions))),
    )
    labels: Tensor = F.pad(torch.from_numpy(columns.labels), (0, n_missing), value=NO_LABEL)
    row_mask = torch.arange(shape.n_examples) < n_examples
    return Batch(batch, labels, None, row_mask)
