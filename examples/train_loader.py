"""The same with a DataLoader, whose workers make the batches: python examples/train_loader.py [--accelerate]

With --accelerate the loop is Hugging Face Accelerate's, in as many processes as `accelerate launch` or torchrun starts.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from train_minimal import make_corpus, make_model

from spinn_tensor import Batch, make_batch
from spinn_tensor.data_prep import Corpus, select


class Collate:
    """Make a batch of the rows that the loader drew, in a worker."""

    def __init__(self, corpus: Corpus, table_kind: str) -> None:
        self.corpus, self.table_kind = corpus, table_kind

    def __call__(self, rows: list[int]) -> Batch:
        return make_batch(select(self.corpus, np.array(rows)), self.table_kind)


if __name__ == "__main__":
    torch.manual_seed(0)
    corpus, vocabulary = make_corpus(range(4))
    model = make_model(vocabulary)
    collate = Collate(corpus, model.encoder.table_kind)
    rows = range(len(corpus.labels))
    batches = DataLoader(rows, 16, shuffle=True, collate_fn=collate, num_workers=2, persistent_workers=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    backward = torch.Tensor.backward
    if "--accelerate" in sys.argv:
        from accelerate import Accelerator

        accelerator = Accelerator()
        model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
        backward = accelerator.backward
    for _ in range(15):
        for batch in batches:
            loss = F.cross_entropy(model(batch), batch.labels)
            optimizer.zero_grad()
            backward(loss)
            optimizer.step()
    print(f"loss {loss.item():.3f}")
