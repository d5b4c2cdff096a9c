"""Index arithmetic of segments that lie one after another, as the words and transitions of sentences do."""

from __future__ import annotations

import numpy as np


def starts(counts: np.ndarray) -> np.ndarray:
    """Return where each segment begins, (n,) int64, from the numbers of their elements."""
    return np.cumsum(counts) - counts


def places(counts: np.ndarray) -> np.ndarray:
    """Return the place of every element within its segment: 0 to counts[0] - 1, 0 to counts[1] - 1, ..."""
    return np.arange(int(counts.sum())) - np.repeat(starts(counts), counts)


def ragged_arange(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Count on from each first number: counts[0] numbers from first[0] on, counts[1] from first[1] on, ..."""
    return np.arange(int(counts.sum())) + np.repeat(first - starts(counts), counts)


def stable_order(
    keys: np.ndarray,  # (n,) int64, not negative
) -> np.ndarray:  # (n,) int64
    """Return the order of the keys, equal ones as they come; in linear time if all are below 2**16."""
    return np.argsort(keys.astype(np.uint16) if keys.max(initial=0) < 2**16 else keys, kind="stable")


def mixed_bits(x: np.ndarray) -> np.ndarray:
    """Mix bits as SplitMix64 ends (Steele, Lea & Flood 2014), uint64: every bit depends on all of x."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))
