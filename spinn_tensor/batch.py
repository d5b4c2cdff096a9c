"""A batch as the model reads it: packed tokens and the tables that its encoder runs on.

All sentences of a batch lie one after another, without padding: L tokens in rows 0..L-1. `n_leaf_rows` pads the end to
a fixed number, and `token_mask` says which rows are real. The tables are the ragged ones, which compute no padding;
those of fixed shape are made by `spinn_tensor.fixed_shapes`.

Most words of a batch come more than once. `share` says how much of their work is done once:

    nothing       every token is embedded, projected and read by itself
    projections   distinct words are embedded and projected once; every token then is a leaf, dropped out by itself
    states        tokens of one word are one leaf; of the trees, too, what is equal is made once (`data_prep.tables`)

Outputs and gradients are the same, but for dropout's draws. `SentenceEncoder.sharing` is the most that it allows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spinn_tensor.bundles import ForestTables, LaneTables, OwnTables, SequenceTables, to_torch
from spinn_tensor.bundles import move as move
from spinn_tensor.data_prep.columns import LabelledColumns, PairColumns, SentenceColumns, concatenate, lengths
from spinn_tensor.data_prep.tables import forest_tables, lane_tables, own_tables

Tables = ForestTables | LaneTables | OwnTables
TABLE_KINDS = ("forest", "lanes", "own", "sequence")
SHARING = ("nothing", "projections", "states")


class SharedWords(NamedTuple):
    """Whose words `token_ids` are where they are the V distinct ones of a batch."""

    counts: Tensor  # (V,) int64, tokens of each word
    token_index: Tensor | None  # (L,) int64, the word of each token; None where the words are the leaves


class SentenceBatch(NamedTuple):
    """B sentences of L tokens in all; M = 2L - B transitions."""

    token_ids: Tensor  # (L,) int64, or (V,) the distinct words
    token_mask: Tensor | None  # (L,) bool, False in padding; None where there is none
    sequence: SequenceTables  # the words as a sequence
    tables: Tables | None  # the words as a tree; None for encoders that see none
    transitions: Tensor  # (M,) int64, SHIFT or REDUCE, of the trees that came with the sentences
    shared: SharedWords | None = None  # None where nothing is shared


class PairBatch(NamedTuple):
    """B pairs: their B premises, then their B hypotheses, encoded as one batch."""

    sentences: SentenceBatch  # 2B sentences
    labels: Tensor  # (B,) int64, NO_LABEL (-100) where there is none
    row_mask: Tensor | None = None  # (B,) bool, False for pairs that only fill a batch of fixed shape


class LabelledBatch(NamedTuple):
    """B single sentences."""

    sentences: SentenceBatch
    labels: Tensor  # (B,) int64
    node_labels: Tensor | None  # (2L - B,) int64 in the order of the transitions, or NO_LABEL
    row_mask: Tensor | None = None  # (B,) bool, False for sentences that only fill a batch of fixed shape


def make_sentence_batch(
    columns: SentenceColumns,
    table_kind: str,  # what the encoder asks for: SentenceEncoder.table_kind
    *,
    n_leaf_rows: int | None = None,
    n_samples: int = 1,  # lanes of each sentence; "own" only
    share: str = "nothing",  # one of SHARING: SentenceEncoder.sharing(table_kind)
) -> SentenceBatch:
    """Compile sentences for an encoder.

    Raises DataError for transitions that are not trees, ValueError for an unknown table_kind or share, too few leaf
    rows, leaf rows beside shared words, shared states of another kind of tables than "forest" and "lanes", and several
    samples of what is not "own".
    """
    n_tokens = lengths(columns)
    _check(columns, table_kind, n_leaf_rows, n_samples, share)
    words, leaf_index, shared = columns.token_ids, None, None
    if share != "nothing":
        words, index, counts = np.unique(words, return_inverse=True, return_counts=True)
        token_index = torch.from_numpy(index) if share == "projections" else None
        shared = SharedWords(torch.from_numpy(counts), token_index)
        leaf_index = index if share == "states" else None
    token_ids = torch.from_numpy(words.astype(np.int64))
    token_mask = None
    if n_leaf_rows is not None:
        token_mask = torch.arange(n_leaf_rows) < len(token_ids)
        token_ids = torch.nn.functional.pad(token_ids, (0, n_leaf_rows - len(token_ids)))
    tables: Tables | None = None
    transitions = columns.transitions
    if table_kind == "forest":
        tables = to_torch(
            forest_tables(transitions, n_tokens, n_leaf_rows=n_leaf_rows, leaf_index=leaf_index)
        )
    elif table_kind == "lanes":
        tables = to_torch(lane_tables(transitions, n_tokens, n_leaf_rows=n_leaf_rows, leaf_index=leaf_index))
    elif table_kind == "own":
        tables = to_torch(own_tables(n_tokens, n_samples=n_samples))
    gold = torch.from_numpy(transitions.astype(np.int64))
    return SentenceBatch(token_ids, token_mask, sequence_tables(n_tokens), tables, gold, shared)


def _check(
    columns: SentenceColumns, table_kind: str, n_leaf_rows: int | None, n_samples: int, share: str
) -> None:
    if table_kind not in TABLE_KINDS:
        raise ValueError(f"table_kind: expected one of {', '.join(TABLE_KINDS)}, got {table_kind!r}")
    if share not in SHARING:
        raise ValueError(f"share: expected one of {', '.join(SHARING)}, got {share!r}")
    if n_leaf_rows is not None and n_leaf_rows < len(columns.token_ids):
        raise ValueError(f"n_leaf_rows is {n_leaf_rows}, the batch has {len(columns.token_ids)} tokens")
    if n_leaf_rows is not None and share != "nothing":
        raise ValueError(f"n_leaf_rows fixes a shape, share {share!r} does not")
    if share == "states" and table_kind not in ("forest", "lanes"):
        raise ValueError(f"table_kind {table_kind!r} cannot share states")
    if n_samples > 1 and table_kind != "own":
        raise ValueError(f"{n_samples} samples of each sentence need table_kind 'own', got {table_kind!r}")


def make_pair_batch(
    columns: PairColumns,
    table_kind: str,
    *,
    n_leaf_rows: int | None = None,
    n_samples: int = 1,
    share: str = "nothing",
) -> PairBatch:
    """Premises and hypotheses as one batch."""
    sentences = concatenate(columns.premises, columns.hypotheses)
    batch = make_sentence_batch(
        sentences, table_kind, n_leaf_rows=n_leaf_rows, n_samples=n_samples, share=share
    )
    return PairBatch(batch, torch.from_numpy(columns.labels))


def make_labelled_batch(
    columns: LabelledColumns,
    table_kind: str,
    *,
    n_leaf_rows: int | None = None,
    n_samples: int = 1,
    share: str = "nothing",
) -> LabelledBatch:
    """Single sentences, with the labels of their nodes where the corpus has them."""
    node_labels = columns.sentences.node_labels
    return LabelledBatch(
        make_sentence_batch(
            columns.sentences, table_kind, n_leaf_rows=n_leaf_rows, n_samples=n_samples, share=share
        ),
        torch.from_numpy(columns.labels),
        None if node_labels is None else torch.from_numpy(node_labels),
    )


def collate(
    columns: PairColumns | LabelledColumns,
    table_kind: str,
    *,
    n_leaf_rows: int | None = None,
    n_samples: int = 1,
    share: str = "nothing",
) -> PairBatch | LabelledBatch:
    """The batch of either corpus."""
    make = make_pair_batch if isinstance(columns, PairColumns) else make_labelled_batch
    options = {"n_leaf_rows": n_leaf_rows, "n_samples": n_samples, "share": share}
    return make(columns, table_kind, **options)  # type: ignore[arg-type]


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
