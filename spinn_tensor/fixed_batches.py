"""Batches laid into shapes that `fixed_shapes` planned.

Padding computes nothing that is read: leaves beyond the batch's tokens are masked, slots beyond a step's compositions
compose the null state, lanes that have ended what nobody reads, steps beyond the last are empty, and where a batch has
too few examples, the roots of those missing are the null row, their label is NO_LABEL, and `row_mask` keeps them out of
batch norm; transitions that are missing are made where there is no choice. A batch that no shape
holds (a sentence longer than any in the sample) is left ragged; whoever asked runs it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spinn_tensor.batch import Batch, SentenceBatch
from spinn_tensor.bundles import SequenceTables, bundle_of, to_torch
from spinn_tensor.data_prep.columns import NO_LABEL, Corpus, SentenceColumns, lengths, select
from spinn_tensor.data_prep.tables import (
    NULL_ROW,
    ForestTables,
    LaneTables,
    OwnTables,
    forest_tables,
    lane_tables,
    own_tables,
)
from spinn_tensor.data_prep.tables.own import FIRST_ENTRY
from spinn_tensor.fixed_shapes import SAMPLED_EPOCHS, Demand, Shape, batches_of, demand_of, plan_for_corpus

AnyTables = ForestTables | LaneTables | OwnTables


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
    epoch: int = SAMPLED_EPOCHS,  # one that shapes are not planned from
) -> list[ShapeUse]:
    """Tell how one epoch's batches fill the shapes planned for the corpus; those that no shape holds are left out."""
    shapes = plan_for_corpus(corpus, table_kind, batch_size, seed, token_budget=token_budget)
    taken: list[list[Demand]] = [[] for _ in shapes]
    for rows in batches_of(corpus, batch_size, seed, epoch, token_budget):
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
