"""Sentences to vectors in batches of other programs: a function that goes to their processes and loads its model there.

datasets    dataset.map(BatchEncoder("runs/snli"), batched=True, batch_size=4096, num_proc=4)
Ray Data    data.map_batches(BatchEncoder, fn_constructor_args=("runs/snli",), concurrency=4, batch_size=4096)
Spark       frame.mapInPandas(encode, schema), `encode` being that of docs/guides/bulk.md
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spinn_tensor.pipeline import LazyPipeline


@dataclass(repr=False, eq=False, kw_only=True)
class BatchEncoder(LazyPipeline):
    """Add the encodings of a column of sentences to a batch; each process reads the bundle at its first call.

    Args:
        path_or_hub_id: the bundle, as `Pipeline.from_pretrained` takes it.
        column: the sentences, of any kind that `Pipeline.encode` takes.
        output: name of the new column.
        device, trees, revision, allow_custom_code: as in `Pipeline.from_pretrained`.
        normalize_embeddings: whether to scale each vector to length 1.
        on_error: "raise", or "nan": a row of NaN for a sentence that cannot be used.

    >>> encoder = BatchEncoder(folder / "sentences", column="text")
    >>> encoder({"text": ["A dog barks.", "cats sing"], "id": [1, 2]})["encoding"].shape
    (2, 8)
    """

    column: str = "sentence"
    output: str = "encoding"

    def __repr__(self) -> str:
        return f"BatchEncoder({str(self.path_or_hub_id)!r}, column={self.column!r}, output={self.output!r})"

    def __call__(
        self,
        batch: Mapping[str, Iterable[Any]],  # lists or arrays of n values by column
    ) -> dict[str, Any]:
        """Return the batch with a further column, (n, output_dim) float32. Raises as `Pipeline` and its `encode`."""
        return {**batch, self.output: self._encode(batch[self.column])}
