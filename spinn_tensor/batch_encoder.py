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

from spinn_tensor.pipeline import Pipeline


class BatchEncoder:
    """Adds the encodings of a column of sentences to a batch.

    A pickle holds the arguments alone, the bundle's place among them; each process reads the bundle at its first call.
    """

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
        self.column, self.output = column, output
        self._arguments = {
            "path_or_hub_id": path_or_hub_id,
            "device": device,
            "trees": trees,
            "revision": revision,
        }
        self._pipeline: Pipeline | None = None

    def __call__(
        self,
        batch: Mapping[str, Iterable[Any]],  # lists or arrays of n values by column
    ) -> dict[str, Any]:
        """Return the batch with a further column, (n, output_dim) float32. Raises as `Pipeline` and its `encode`."""
        if self._pipeline is None:
            self._pipeline = Pipeline.from_pretrained(**self._arguments)  # type: ignore[arg-type]
        return {**batch, self.output: self._pipeline.encode(batch[self.column])}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pipeline": None}
