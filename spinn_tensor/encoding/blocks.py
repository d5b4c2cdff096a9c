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

from spinn_tensor.data_prep.branching import with_branching
from spinn_tensor.data_prep.corpora.read import ExampleFile
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.vocabulary import UNKNOWN_ID
from spinn_tensor.inference import encode_columns
from spinn_tensor.model.encoder import SentenceEncoder

BLOCK_LINES = 20_000  # that are in memory at a time, and sorted by length


class EncodedBlock(NamedTuple):
    """What became of n lines; m of them are sentences."""

    encodings: np.ndarray  # (m, D)
    n_lines: int
    left_out: np.ndarray  # (n - m,) int64, numbers of the lines without a sentence
    skipped: Skipped  # why bad lines were left out
    n_words: int  # of all sentences
    n_unknown: int  # of these, words that the vocabulary does not have


def encode_lines(
    encoder: SentenceEncoder,
    file: ExampleFile,
    n_lines: int | None,  # at most; None: all
    *,
    branching: str | None,  # trees of this kind instead of those given
    dtype: str,
    batch_tokens: int | None,
) -> Iterator[EncodedBlock]:
    """Encodings of the next lines of a file; nothing at its end. Raises DataError as `ExampleFile.block`."""
    remaining = sys.maxsize if n_lines is None else n_lines
    while remaining and (block := file.block(min(remaining, BLOCK_LINES))):
        remaining -= block.n_lines
        columns = block.examples.sentences
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
