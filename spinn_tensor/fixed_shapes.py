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
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from spinn_tensor.data_prep.batching import epoch_batches, shares
from spinn_tensor.data_prep.columns import Corpus, lengths, select
from spinn_tensor.data_prep.segments import places
from spinn_tensor.data_prep.tables import count_levels
from spinn_tensor.data_prep.trees import REDUCE

MOST_SHAPES = 7
SPARE = 1.05  # times what the sample takes at most, in the largest shape: other batches are a little larger
ROUNDING = 64  # leaf rows are multiples of it
WIDTH_ROUNDING = 8  # likewise, what a step holds
LEAF_WEIGHTS = (0.5, 1.0, 1.5, 2.0)  # of empty leaf rows against empty steps, of which the best is taken
SAMPLE, SAMPLED_EPOCHS = 500, 4  # batches that shapes are planned from, of so many epochs
FIXED_KINDS = ("forest", "lanes", "own")  # of tables that have a fixed shape


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
            widths = _most(n_steps, [demand.compositions for demand in group])
            entries = _most(n_steps, [demand.entries for demand in group])
            shapes.append(Shape(*sizes, _rounded(spare * widths), _rounded(spare * entries)))
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
    return tuple(
        WIDTH_ROUNDING * max(1, -(-int(np.ceil(width)) // WIDTH_ROUNDING)) for width in widths.round(6)
    )


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


def _round_up(n: float) -> int:
    return ROUNDING * max(1, -(-int(n) // ROUNDING))


def _groups(demands: list[Demand], most: int, leaf_weight: float) -> list[list[Demand]]:
    """Cut at most so many groups whose leaf rows and steps, each as part of its mean and weighed, are fewest in all.

    A group is a run of the demands in order of their size, which is the sum of both. Dynamic programming:
    cost[k][j] of the j smallest in k groups.
    """
    demands = sorted(demands, key=lambda demand: (demand.n_tokens, demand.n_steps))
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
