"""Batches of examples of like length."""

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
