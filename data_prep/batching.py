"""Batches of examples of like length, of so many examples or tokens, and their parts for several processes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

POOL = 100  # batches' worth of examples that are sorted together


def epoch_batches(
    lengths: np.ndarray,  # (n,) integers
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    n_tokens: np.ndarray | None = None,  # (n,) integers, for a budget
    token_budget: int = 0,  # tokens of a batch, instead of batch_size examples; 0 = none
) -> list[np.ndarray]:
    """Return the rows of each batch of one epoch, (batch_size,) int64, one batch shorter; every row comes once.

    Shuffled rows are cut into pools, sorted by length within each, cut into batches, and the batches
    shuffled: the same (seed, epoch) gives the same batches.

    With a budget a batch takes the next rows until one more would be more tokens than that; a row of more tokens is a
    batch by itself. `batch_size` then only says, times `POOL`, how many rows are sorted together.
    """
    if batch_size < 1:
        raise ValueError(f"got batch_size {batch_size}, expected at least 1")
    n_rows = len(lengths)
    if n_rows == 0:
        return []
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    rows = generator.permutation(n_rows)
    pool_index = np.arange(n_rows) // min(POOL * batch_size, n_rows)
    rows = rows[np.lexsort((lengths[rows], pool_index))]
    batches = list(_cut(rows, None if token_budget else batch_size, n_tokens, token_budget))
    return [batches[i] for i in generator.permutation(len(batches))]


def length_batches(
    lengths: np.ndarray,  # (n,) integers
    *,
    tokens: int,  # of a batch at most; a longer row is a batch by itself
    rows: int | None = None,  # of a batch at most
    padded: bool = False,  # each row counts as long as the longest of its batch
    overhead: int | None = None,  # where padded: rows that a batch costs besides its own; None: any number
) -> Iterator[np.ndarray]:
    """Yield the rows of each batch, (B,) int64, the longest first; every row comes exactly once."""
    order = np.argsort(-lengths, kind="stable")
    ends = [len(order)] if overhead is None else _ends_of_like_lengths(lengths[order], overhead)
    for like in np.split(order, ends[:-1]):
        yield from _cut(like, rows, lengths, tokens, padded)


def _ends_of_like_lengths(
    lengths: np.ndarray,  # (n,) int64, n >= 0, the longest first
    overhead: int,
) -> list[int]:
    """Cut rows where padding them to one length costs more than another batch; return where each part ends.

    A part of B rows, the longest of which has L, costs L (B + overhead); the sum is the least there is.
    """
    first = np.flatnonzero(np.diff(lengths, prepend=0))  # of the rows of each length
    bounds = np.append(first, len(lengths))
    least = np.zeros(len(bounds))  # cost of the rows from each bound on
    following = np.zeros(len(bounds), dtype=np.int64)  # the bound where the part that begins there ends
    for i in reversed(range(len(first))):
        costs = lengths[first[i]] * (bounds[i + 1 :] - bounds[i] + overhead) + least[i + 1 :]
        following[i] = i + 1 + int(costs.argmin())
        least[i] = costs.min()
    ends, i = [], 0
    while i < len(first):
        i = int(following[i])
        ends.append(int(bounds[i]))
    return ends or [0]


def _cut(
    rows: np.ndarray,  # (n,) int64; where padded, the longest first
    most_rows: int | None,  # of a batch
    n_tokens: np.ndarray | None,  # of all rows of the corpus
    budget: int,  # tokens of a batch at most, 0 = any number; a row of more is a batch by itself
    padded: bool = False,
) -> Iterator[np.ndarray]:
    if not budget:
        assert most_rows is not None
        yield from np.split(rows, np.arange(most_rows, len(rows), most_rows))
        return
    if n_tokens is None:
        raise ValueError("a token_budget needs the n_tokens of each example")
    ends = np.cumsum(n_tokens[rows])
    first = 0
    while first < len(rows):
        size = int(n_tokens[rows[first]])
        if padded:
            n_rows = budget // size
        else:
            end = ends[first] - size + min(budget, ends[-1])
            n_rows = int(np.searchsorted(ends, end, side="right")) - first
        n_rows = max(1, n_rows if most_rows is None else min(most_rows, n_rows))
        yield rows[first : first + n_rows]
        first += n_rows


def shares(
    rows: np.ndarray,  # (B,) int64, of one batch, B >= 1
    lengths: np.ndarray,  # (n,) integers, of all rows of the corpus
    n_ranks: int,
    n_parts: int = 1,  # of each rank's share, at most
) -> list[list[np.ndarray]]:
    """Share a batch out: return for each rank the rows of its parts, (b,) int64; every row is in one part of one rank.

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
