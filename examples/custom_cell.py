"""Train a cell of your own: python examples/custom_cell.py; docs/cell.md says what a cell has to keep to.

By the command line: PYTHONPATH=examples spinn train --cell custom_cell:Highway
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spinn_tensor import StackMachine, make_batch


class Highway(nn.Module):
    """h = g tanh(W [l; r]) + (1 - g) (l + r) / 2, g = σ(V [l; r])"""

    def __init__(self, hidden_dim: int, tracker_dim: int | None = None) -> None:
        super().__init__()
        self.state_dim = hidden_dim
        self.layer = nn.Linear(2 * hidden_dim + (tracker_dim or 0), 2 * hidden_dim)

    def forward(self, left: Tensor, right: Tensor, tracker: Tensor | None = None) -> Tensor:  # (n, H)
        new, gate = self.layer(
            torch.cat([left, right] if tracker is None else [left, right, tracker], 1)
        ).chunk(2, 1)
        return gate.sigmoid() * new.tanh() + (1 - gate.sigmoid()) * (left + right) / 2


if __name__ == "__main__":
    from train_minimal import make_corpus

    torch.manual_seed(0)
    corpus, vocabulary = make_corpus(range(4))
    embedding, machine, classify = (
        nn.Embedding(len(vocabulary), 32),
        StackMachine(Highway(32)),
        nn.Linear(32, 2),
    )
    parameters = [*embedding.parameters(), *machine.parameters(), *classify.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    batch = make_batch(corpus, "forest")
    for _ in range(100):
        roots = machine(embedding(batch.sentences.token_ids), batch.sentences.tables)
        loss = F.cross_entropy(classify(roots), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3f}")
