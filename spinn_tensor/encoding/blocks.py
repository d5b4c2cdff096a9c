"""Sentences to encodings: of columns that are in memory, and of a file, a block of lines at a time.

The sentences of a block are sorted by length and cut into batches of at most so many tokens, so that what is in
memory does not grow with the file: the lines of a block, a batch, and the encodings of a shard. Encodings keep the
order of the lines.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from spinn_tensor.batch import make_sentence_batch, move
from spinn_tensor.data_prep.branching import with_branching
from spinn_tensor.data_prep.columns import SentenceColumns, lengths, n_sentences, take
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.sentence_lines import SentenceFile
from spinn_tensor.data_prep.vocabulary import UNKNOWN_ID
from spinn_tensor.model.encoder import SentenceEncoder

BLOCK_LINES = 20_000  # that are in memory at a time, and sorted by length
BATCH_TOKENS = 16_384  # of a batch, unless a single sentence has more
SHARING_TOKENS = 65_536  # the same where equal words and subtrees are done once: the more, the more are equal


class EncodedBlock(NamedTuple):
    """What became of n lines; m of them are sentences."""

    encodings: np.ndarray  # (m, D)
    n_lines: int
    left_out: np.ndarray  # (n - m,) int64, numbers of the lines without a sentence
    skipped: Skipped  # why bad lines were left out
    n_words: int  # of all sentences
    n_unknown: int  # of these, words that the vocabulary does not have


def encode_columns(
    encoder: SentenceEncoder,
    columns: SentenceColumns,  # n sentences
    *,
    dtype: str = "float32",  # or "float16"
    batch_tokens: int | None = None,  # of a batch; None: as suits the encoder
) -> np.ndarray:  # (n, D) of that dtype
    """Root encodings in the order of the columns. Puts the encoder in eval mode."""
    device = next(encoder.parameters()).device
    result = np.empty((n_sentences(columns), encoder.output_dim), dtype=dtype)
    encoder.eval()
    if batch_tokens is None:
        batch_tokens = SHARING_TOKENS if encoder.sharing(encoder.table_kind) == "states" else BATCH_TOKENS
    with torch.inference_mode():
        for rows in token_batches(lengths(columns), batch_tokens):
            batch = make_sentence_batch(
                take(columns, rows), encoder.table_kind, share=encoder.sharing(encoder.table_kind)
            )
            batch = move(batch, device)
            result[rows] = encoder(batch).to(getattr(torch, dtype)).cpu().numpy()
    return result


def token_batches(
    n_tokens: np.ndarray,  # (n,) int64 tokens of each sentence
    batch_tokens: int,
) -> Iterator[np.ndarray]:
    """Rows of each batch, (B,) int64, longest first; more than `batch_tokens` only by the last sentence of one."""
    order = np.argsort(-n_tokens, kind="stable")
    n_before = np.cumsum(n_tokens[order]) - n_tokens[order]
    if len(order):
        yield from np.split(order, np.flatnonzero(np.diff(n_before // batch_tokens)) + 1)


def encode_lines(
    encoder: SentenceEncoder,
    file: SentenceFile,
    n_lines: int | None,  # at most; None: all
    *,
    branching: str | None,  # trees of this kind instead of those given
    dtype: str,
    batch_tokens: int | None,
) -> Iterator[EncodedBlock]:
    """Encodings of the next lines of a file; nothing at its end. Raises DataError as `SentenceFile.block`."""
    remaining = sys.maxsize if n_lines is None else n_lines
    while remaining and (block := file.block(min(remaining, BLOCK_LINES))):
        remaining -= block.n_lines
        columns = block.columns
        if branching is not None:  # other random trees for every block, the same ones in every run
            columns = with_branching(columns, branching, seed=block.first_line)
        encodings = encode_columns(encoder, columns, dtype=dtype, batch_tokens=batch_tokens)
        n_unknown = int((columns.token_ids == UNKNOWN_ID).sum())
        yield EncodedBlock(
            encodings, block.n_lines, block.left_out, block.skipped, len(columns.token_ids), n_unknown
        )


def joined(
    blocks: Sequence[EncodedBlock],  # at least one, in the order of the lines
    *others: Skipped,  # what none of them tells of
) -> EncodedBlock:
    """All blocks as one."""
    skipped = Skipped()
    for part in (*(block.skipped for block in blocks), *others):
        skipped.update(part)
    return EncodedBlock(
        encodings=np.concatenate([block.encodings for block in blocks]),
        n_lines=sum(block.n_lines for block in blocks),
        left_out=np.concatenate([block.left_out for block in blocks]),
        skipped=skipped,
        n_words=sum(block.n_words for block in blocks),
        n_unknown=sum(block.n_unknown for block in blocks),
    )
