"""Batches of examples of like length, and their parts for several processes."""

from __future__ import annotations

import numpy as np


def epoch_batches(
    lengths: np.ndarray,  # (n,) integers
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    pool: int = 100,  # batches' worth of examples that are sorted together
) -> list[np.ndarray]:
    """Rows of each batch of one epoch, (batch_size,) int64, one batch shorter; every row comes exactly once.

    Shuffled rows are cut into pools, sorted by length within each, cut into batches, and the batches
    shuffled: the same (seed, epoch) gives the same batches. Without shuffle, all rows sorted by length, the
    longest batch first.
    """
    if batch_size < 1 or pool < 1:
        raise ValueError(f"got batch_size {batch_size} and pool {pool}, expected at least 1")
    n_rows = len(lengths)
    if n_rows == 0:
        return []
    cuts = np.arange(batch_size, n_rows, batch_size)
    if not shuffle:
        return np.split(np.argsort(-np.asarray(lengths), kind="stable"), cuts)
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    rows = generator.permutation(n_rows)
    pool_index = np.arange(n_rows) // (pool * batch_size)
    batches = np.split(rows[np.lexsort((lengths[rows], pool_index))], cuts)
    return [batches[i] for i in generator.permutation(len(batches))]


def shares(
    rows: np.ndarray,  # (B,) int64, of one batch, B >= 1
    lengths: np.ndarray,  # (n,) integers, of all rows of the corpus
    n_ranks: int,
    n_parts: int = 1,  # of each rank's share, at most
) -> list[list[np.ndarray]]:
    """For each rank the rows of its parts, (b,) int64: every row of the batch is in one part of one rank.

    The longest rows are dealt out first, one to each part in turn, so that parts differ by at most one in size and
    little in length. All ranks have the same number of parts, fewer than `n_parts` where a batch is small; only of a
    batch of fewer rows than ranks some ranks have none.
    """
    parts_of_rank = max(1, min(n_parts, len(rows) // n_ranks))
    if n_ranks == parts_of_rank == 1:
        return [[rows]]
    longest_first = rows[np.argsort(-lengths[rows], kind="stable")]
    n_slots = n_ranks * parts_of_rank
    parts = [longest_first[slot::n_slots] for slot in range(n_slots)]
    return [[part for part in parts[rank::n_ranks] if len(part)] for rank in range(n_ranks)]
