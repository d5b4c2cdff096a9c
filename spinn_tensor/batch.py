"""A batch as the model reads it: packed tokens and the tables that its encoder runs on.

All sentences of a batch lie one after another, without padding: L tokens in rows 0..L-1. `n_leaf_rows` pads the end to
a fixed number, and `token_mask` says which rows are real. The tables are the ragged ones, which compute no padding;
those of fixed shape (`padded`, `width`) are to be had from `data_prep.tables`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep.columns import LabelledColumns, PairColumns, SentenceColumns, concatenate, lengths
from data_prep.tables import forest_tables, lane_tables, own_tables
from spinn_tensor.bundles import ForestTables, LaneTables, OwnTables, SequenceTables, to_torch
from spinn_tensor.bundles import move as move

Tables = ForestTables | LaneTables | OwnTables
TABLE_KINDS = ("forest", "lanes", "own", "sequence")


class SentenceBatch(NamedTuple):
    """B sentences of L tokens in all; M = 2L - B transitions."""

    token_ids: Tensor  # (L,) int64
    token_mask: Tensor | None  # (L,) bool, False in padding; None where there is none
    sequence: SequenceTables  # the words as a sequence
    tables: Tables | None  # the words as a tree; None for encoders that see none
    transitions: Tensor  # (M,) int64, SHIFT or REDUCE, of the trees that came with the sentences


class PairBatch(NamedTuple):
    """B pairs: their B premises, then their B hypotheses, encoded as one batch."""

    sentences: SentenceBatch  # 2B sentences
    labels: Tensor  # (B,) int64, NO_LABEL (-100) where there is none


class LabelledBatch(NamedTuple):
    """B single sentences."""

    sentences: SentenceBatch
    labels: Tensor  # (B,) int64
    node_labels: Tensor | None  # (2L - B,) int64 in the order of the transitions, or NO_LABEL


def make_sentence_batch(
    columns: SentenceColumns,
    table_kind: str,  # what the encoder asks for: SentenceEncoder.table_kind
    *,
    n_leaf_rows: int | None = None,
    n_samples: int = 1,  # lanes of each sentence; "own" only
) -> SentenceBatch:
    """Compile sentences for an encoder.

    Raises DataError for transitions that are not trees, ValueError for an unknown table_kind, too few leaf rows, and
    several samples of what is not "own".
    """
    n_tokens = lengths(columns)
    if n_leaf_rows is not None and n_leaf_rows < len(columns.token_ids):
        raise ValueError(f"n_leaf_rows is {n_leaf_rows}, the batch has {len(columns.token_ids)} tokens")
    token_ids = torch.from_numpy(columns.token_ids.astype(np.int64))
    token_mask = None
    if n_leaf_rows is not None:
        token_mask = torch.arange(n_leaf_rows) < len(token_ids)
        token_ids = torch.nn.functional.pad(token_ids, (0, n_leaf_rows - len(token_ids)))
    tables: Tables | None = None
    if n_samples > 1 and table_kind != "own":
        raise ValueError(f"{n_samples} samples of each sentence need table_kind 'own', got {table_kind!r}")
    if table_kind == "forest":
        tables = to_torch(forest_tables(columns.transitions, n_tokens, n_leaf_rows=n_leaf_rows))
    elif table_kind == "lanes":
        tables = to_torch(lane_tables(columns.transitions, n_tokens, n_leaf_rows=n_leaf_rows))
    elif table_kind == "own":
        tables = to_torch(own_tables(n_tokens, n_samples=n_samples))
    elif table_kind != "sequence":
        raise ValueError(f"table_kind: expected one of {', '.join(TABLE_KINDS)}, got {table_kind!r}")
    transitions = torch.from_numpy(columns.transitions.astype(np.int64))
    return SentenceBatch(token_ids, token_mask, sequence_tables(n_tokens), tables, transitions)


def make_pair_batch(
    columns: PairColumns, table_kind: str, *, n_leaf_rows: int | None = None, n_samples: int = 1
) -> PairBatch:
    """Premises and hypotheses as one batch."""
    sentences = concatenate(columns.premises, columns.hypotheses)
    batch = make_sentence_batch(sentences, table_kind, n_leaf_rows=n_leaf_rows, n_samples=n_samples)
    return PairBatch(batch, torch.from_numpy(columns.labels))


def make_labelled_batch(
    columns: LabelledColumns, table_kind: str, *, n_leaf_rows: int | None = None, n_samples: int = 1
) -> LabelledBatch:
    """Single sentences, with the labels of their nodes where the corpus has them."""
    node_labels = columns.sentences.node_labels
    return LabelledBatch(
        make_sentence_batch(columns.sentences, table_kind, n_leaf_rows=n_leaf_rows, n_samples=n_samples),
        torch.from_numpy(columns.labels),
        None if node_labels is None else torch.from_numpy(node_labels),
    )


def collate(
    columns: PairColumns | LabelledColumns,
    table_kind: str,
    *,
    n_leaf_rows: int | None = None,
    n_samples: int = 1,
) -> PairBatch | LabelledBatch:
    """The batch of either corpus."""
    make = make_pair_batch if isinstance(columns, PairColumns) else make_labelled_batch
    return make(columns, table_kind, n_leaf_rows=n_leaf_rows, n_samples=n_samples)  # type: ignore[arg-type]


def sequence_tables(
    n_tokens: np.ndarray,  # (B,) int64 tokens of each sentence
) -> SequenceTables:
    """Tables of the sentences as sequences, time-major and longest first, as cuDNN and torch pack them."""
    sentence = np.repeat(np.arange(len(n_tokens)), n_tokens)
    time = np.arange(len(sentence)) - np.repeat(np.cumsum(n_tokens) - n_tokens, n_tokens)
    sorted_order = np.argsort(-n_tokens, kind="stable")
    rank = np.empty_like(sorted_order)
    rank[sorted_order] = np.arange(len(n_tokens))
    packed_order = np.argsort(time * len(n_tokens) + rank[sentence])
    tables = (packed_order, np.argsort(packed_order), np.bincount(time), sorted_order, rank, sentence)
    return SequenceTables(*map(torch.from_numpy, tables))
