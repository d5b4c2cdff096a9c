"""Columns to what an exported graph reads. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spinn_tensor.data_prep.columns import SentenceColumns, concatenate, lengths
from spinn_tensor.data_prep.tables import forest_tables
from spinn_tensor.data_prep.trees import PADDING
from spinn_tensor.data_prep.vocabulary import PAD_ID
from spinn_tensor.export.artefact import sides_of


def graph_inputs(
    sides: Sequence[SentenceColumns],  # the sentences, or premises and hypotheses, as many of each; n >= 1
    tables: str,  # "own", "given", "forest" or "sequence"
) -> dict[str, np.ndarray]:
    """Return the inputs of a graph, by name, all int64, as `export.artefact` has them."""
    if tables == "forest":
        return _forest_inputs(concatenate(*sides))
    n_words = max(int(lengths(side).max()) for side in sides)
    inputs = {}
    for prefix, side in zip(sides_of("pair" if len(sides) == 2 else "sentence"), sides, strict=True):
        n_tokens = lengths(side)
        name = f"{prefix}ids" if prefix else "token_ids"
        inputs[name] = _padded(side.token_ids, n_tokens, n_words, PAD_ID)
        inputs[f"{prefix}lengths"] = n_tokens
        if tables == "given":
            transitions = _padded(side.transitions, 2 * n_tokens - 1, 2 * n_words - 1, PADDING)
            inputs[f"{prefix}transitions"] = transitions
    return inputs


def _forest_inputs(sentences: SentenceColumns) -> dict[str, np.ndarray]:
    tables = forest_tables(sentences.transitions, lengths(sentences), padded=True)
    n_steps = len(tables.step_offsets) - 1
    children = tables.left_index, tables.right_index
    if n_steps == 0:
        # sentences of one word each: a graph has at least one step, and this one composes null states
        n_steps, children = 1, (np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
    left_index, right_index = (index.reshape(n_steps, -1) for index in children)
    return {
        "token_ids": sentences.token_ids.astype(np.int64),
        "left_index": left_index,
        "right_index": right_index,
        "root_index": tables.root_index,
    }


def _padded(
    values: np.ndarray,  # (sum of counts,) integers, row after row
    counts: np.ndarray,  # (n,) int64
    width: int,
    padding: int,
) -> np.ndarray:  # (n, width) int64
    rows = np.full((len(counts), width), padding, dtype=np.int64)
    rows[np.arange(width) < counts[:, None]] = values
    return rows
