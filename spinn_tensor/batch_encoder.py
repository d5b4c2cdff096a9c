"""Sentences to vectors in batches of other programs: a function that goes to their processes and loads its model there.

datasets    dataset.map(BatchEncoder("runs/snli"), batched=True, batch_size=4096)
Ray Data    data.map_batches(BatchEncoder("runs/snli"), batch_size=4096)
Spark       def encode(frames):  # for DataFrame.mapInPandas
                encoder = BatchEncoder("runs/snli")
                for frame in frames:
                    yield frame.assign(encoding=list(encoder(frame)["encoding"]))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spinn_tensor.pipeline import LazyPipeline


class BatchEncoder(LazyPipeline):
    """Adds the encodings of a column of sentences to a batch; each process reads the bundle at its first call."""

    def __init__(
        self,
        path_or_hub_id: str | Path,
        *,
        column: str = "sentence",  # with binary parses or raw text, see `TextModel`
        output: str = "encoding",  # the new column
        device: str = "auto",
        trees: str | Path | None = None,  # as in `Pipeline`
        revision: str | None = None,
    ) -> None:
        self.path_or_hub_id, self.device, self.trees, self.revision = path_or_hub_id, device, trees, revision
        self.column, self.output = column, output

    def __call__(
        self,
        batch: Mapping[str, Iterable[Any]],  # lists or arrays of n values by column
    ) -> dict[str, Any]:
        """Return the batch with a further column, (n, output_dim) float32. Raises as `Pipeline` and its `encode`."""
        return {**batch, self.output: self._pipeline().encode(batch[self.column])}
