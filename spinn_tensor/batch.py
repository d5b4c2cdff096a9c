"""A batch as the model reads it: packed tokens and the tables that its encoder runs on.

All sentences of a batch lie one after another, without padding: L tokens in rows 0..L-1. The tables are the ragged
ones, which compute no padding. `spinn_tensor.fixed_shapes` makes batches of a fixed shape, whose `token_mask` says
which rows are real.

Most words of a batch come more than once. `share` says how much of their work is done once:

    nothing       every token is embedded, projected and read by itself
    projections   distinct words are embedded and projected once; every token then is a leaf, dropped out by itself
    states        tokens of one word are one leaf; of the trees, too, what is equal is made once (`data_prep.tables`)

Outputs and gradients are the same, but for dropout's draws. `SentenceEncoder.sharing` is the most that it allows.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from spinn_tensor.bundles import ForestTables, LaneTables, OwnTables, SequenceTables, bundle_of, to_torch
from spinn_tensor.bundles import move as move
from spinn_tensor.data_prep.columns import Corpus, SentenceColumns, checked_lengths, n_sentences
from spinn_tensor.data_prep.display import in_short
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.segments import places
from spinn_tensor.data_prep.tables import forest_tables, lane_tables, own_tables

Tables = ForestTables | LaneTables | OwnTables
TableKind = Literal["forest", "lanes", "own", "sequence"]
Sharing = Literal["nothing", "projections", "states"]
TABLE_KINDS: tuple[TableKind, ...] = get_args(TableKind)
SHARING: tuple[Sharing, ...] = get_args(Sharing)


@in_short
class SharedWords(NamedTuple):
    """Say which token is which word, where `token_ids` are the V distinct words of a batch."""

    counts: Tensor  # (V,) int64, tokens of each word
    token_index: Tensor | None  # (L,) int64, the word of each token; None where the words are the leaves


@in_short
class SentenceBatch(NamedTuple):
    """Hold B sentences of L tokens in all; M = 2L - B transitions. `make_sentence_batch` makes one.

    >>> batch = make_sentence_batch(columns, "sequence")
    >>> batch.token_ids.shape, batch.transitions.shape  # of 4 and of 2 tokens
    (torch.Size([6]), torch.Size([10]))
    """

    token_ids: Tensor  # (L,) int64, or (V,) the distinct words
    token_mask: Tensor | None  # (L,) bool, False in padding; None where there is none
    sequence: SequenceTables  # the words as a sequence
    tables: Tables | None  # the words as a tree; None for encoders that see none
    transitions: Tensor  # (M,) int64, SHIFT or REDUCE, of the trees that came with the sentences
    shared: SharedWords | None = None  # None where nothing is shared

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> SentenceBatch:
        """Bring the batch to a device; what the host reads stays there. See `Batch.to`."""
        return move(self, device, non_blocking=non_blocking)


@in_short
class Batch(NamedTuple):
    """Hold B examples, whose sentences are one batch: of pairs the B premises, then the B hypotheses.

    `make_batch` makes one of a corpus; one of your own may be put together of its fields.

    >>> sentences = make_sentence_batch(columns, "lanes")
    >>> SentenceClassifier(config)(Batch(sentences, labels=torch.tensor([0, 1]))).shape
    torch.Size([2, 2])
    """

    sentences: SentenceBatch  # B sentences, or 2B of pairs
    labels: Tensor  # (B,) int64, NO_LABEL (-100) where there is none
    node_labels: Tensor | None = None  # (M,) int64 in the order of the transitions, or NO_LABEL
    row_mask: Tensor | None = None  # (B,) bool, False for examples that only fill a batch of fixed shape

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Bring the batch to a device, as a tensor's `to`; the offsets of the steps, which the host reads, stay there.

        Lightning, Accelerate and `tree_map` do the same by themselves: to them the offsets are no tensors.
        """
        return move(self, device, non_blocking=non_blocking)


def make_sentence_batch(
    columns: SentenceColumns,
    table_kind: TableKind,
    *,
    n_samples: int = 1,
    share: Sharing = "nothing",
) -> SentenceBatch:
    """Compile sentences for an encoder.

    Args:
        columns: B sentences, of `data_prep.sentence_columns`.
        table_kind: what the encoder asks for, `SentenceEncoder.table_kind`.
        n_samples: lanes of each sentence, so many parses of it; for "own" alone.
        share: how much is done once for equal words and trees: "nothing", "projections" or "states", at most what
            `SentenceEncoder.sharing(table_kind)` says.

    Returns:
        The batch, on the CPU.

    Raises:
        DataError: for no sentences, transitions that are not trees, and tokens that are not those of the offsets.
        ValueError: for an unknown `table_kind` or `share`, shared states of another kind of tables than "forest" and
            "lanes", and several samples of what is not "own".

    >>> encoder = SentenceEncoder(EncoderConfig(len(vocabulary), kind="spinn-pi", hidden_dim=8))
    >>> encoder(make_sentence_batch(columns, encoder.table_kind)).shape
    torch.Size([2, 8])
    """
    _check(table_kind, n_samples, share)
    n_tokens = checked_lengths(columns)
    if not n_tokens.size:
        raise DataError("a batch needs at least one sentence")
    words, leaf_index, shared = columns.token_ids, None, None
    if share != "nothing":
        words, index, counts = np.unique(words, return_inverse=True, return_counts=True)
        token_index = torch.from_numpy(index) if share == "projections" else None
        shared = SharedWords(torch.from_numpy(counts), token_index)
        leaf_index = index if share == "states" else None
    tables: Tables | None = None
    if table_kind == "forest":
        tables = to_torch(forest_tables(columns.transitions, n_tokens, leaf_index=leaf_index))
    elif table_kind == "lanes":
        tables = to_torch(lane_tables(columns.transitions, n_tokens, leaf_index=leaf_index))
    elif table_kind == "own":
        tables = to_torch(own_tables(n_tokens, n_samples=n_samples))
    return SentenceBatch(
        token_ids=torch.from_numpy(words.astype(np.int64)),
        token_mask=None,
        sequence=sequence_tables(n_tokens),
        tables=tables,
        transitions=torch.from_numpy(columns.transitions.astype(np.int64)),
        shared=shared,
    )


def _check(table_kind: str, n_samples: int, share: str) -> None:
    for name, value, allowed in (("table_kind", table_kind, TABLE_KINDS), ("share", share, SHARING)):
        if value not in allowed:
            raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")
    if share == "states" and table_kind not in ("forest", "lanes"):
        raise ValueError(f"table_kind {table_kind!r} cannot share states")
    if n_samples > 1 and table_kind != "own":
        raise ValueError(f"{n_samples} samples of each sentence need table_kind 'own', got {table_kind!r}")


def make_batch(
    corpus: Corpus, table_kind: TableKind, *, n_samples: int = 1, share: Sharing = "nothing"
) -> Batch:
    """Compile examples for a model, with the labels of their nodes where the corpus has them.

    Args:
        corpus: B sentences or pairs with their labels, of `data_prep`.
        table_kind, n_samples, share: as in `make_sentence_batch`.

    Returns:
        The batch, on the CPU.

    Raises:
        DataError, ValueError: as `make_sentence_batch`; DataError for more or fewer labels than examples.

    >>> model = SentenceClassifier(config)
    >>> corpus = Corpus(columns, labels=np.array([0, 1]))
    >>> loss = torch.nn.functional.cross_entropy(model(batch := make_batch(corpus, "lanes")), batch.labels)
    """
    node_labels, n_labels = corpus.sentences.node_labels, len(corpus.labels)
    if corpus.n_sides * n_labels != (n := n_sentences(corpus.sentences)):
        raise DataError(f"got {n_labels} labels for {n} sentences, {corpus.n_sides} an example")
    return Batch(
        make_sentence_batch(corpus.sentences, table_kind, n_samples=n_samples, share=share),
        torch.from_numpy(corpus.labels),
        None if node_labels is None else torch.from_numpy(node_labels),
    )


def sequence_tables(
    n_tokens: np.ndarray,  # (B,) int64 tokens of each sentence
) -> SequenceTables:
    """Make tables of the sentences as sequences, time-major and longest first, as cuDNN and torch pack them."""
    sentence = np.repeat(np.arange(len(n_tokens)), n_tokens)
    time = places(n_tokens)
    sorted_order = np.argsort(-n_tokens, kind="stable")
    rank = np.empty_like(sorted_order)
    rank[sorted_order] = np.arange(len(n_tokens))
    packed_order = np.argsort(time * len(n_tokens) + rank[sentence])
    tables = (packed_order, np.bincount(time), sorted_order, rank, sentence)
    return bundle_of(SequenceTables, map(torch.from_numpy, tables))
