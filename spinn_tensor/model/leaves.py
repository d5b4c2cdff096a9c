"""From word ids to what the encoders start with: embedding, projection, batch norm, dropout (section 3.1 and 4).

For a SPINN the projection gives each word's state [h; c]; with `leaf_encoder="bilstm"` a bidirectional LSTM runs over
the projected words first, H/2 of h and of c from either direction. A leaf encoder of somebody's own is made and called
as `LeafEncoder` is; what it may read of a batch, and what it is told of the words: docs/cell.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spinn_tensor.batch import SentenceBatch
from spinn_tensor.config import ConfigError, EncoderConfig
from spinn_tensor.model.sequence import run_lstm
from spinn_tensor.normalization import MaskedBatchNorm


class LeafEncoder(nn.Module):
    """Turn word ids into leaf vectors: (L, D), or (V, D) where equal words are one leaf."""

    def __init__(
        self,
        config: EncoderConfig,
        output_dim: int,  # D: 2H for [h; c], H for encoders without a cell state
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding_dim)
        self.embedding.weight.requires_grad_(config.train_embedding)
        self.projection = he_linear(config.embedding_dim, output_dim)
        self.norm = MaskedBatchNorm(output_dim) if config.batch_norm else None
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.lstm = None
        if config.leaf_encoder == "bilstm":
            if output_dim % 2:
                raise ConfigError(f"leaf_encoder=bilstm: needs an even number of outputs, got {output_dim}")
            self.lstm = nn.LSTM(output_dim, output_dim // 2, bidirectional=True)
        nn.init.normal_(self.embedding.weight, std=1.0 / math.sqrt(config.embedding_dim))

    def forward(self, batch: SentenceBatch) -> Tensor:  # (L, D) or (V, D)
        words = self.embedding(batch.token_ids)
        if batch.token_mask is not None:  # before the product, whose weight gradient sums over all rows
            words = words.masked_fill(~batch.token_mask.unsqueeze(1), 0)
        with torch.autocast(words.device.type, enabled=False):  # shared words are few
            x = self.projection(words)
        shared = batch.shared
        if self.norm is not None:
            x = self.norm(x, batch.token_mask, None if shared is None else shared.counts)
        if shared is not None and shared.token_index is not None:
            x = x.index_select(0, shared.token_index)
        x = self.dropout(x)
        if self.lstm is None:
            return x
        outputs, _ = run_lstm(self.lstm, x, batch.sequence)
        return x.index_copy(0, batch.sequence.packed_order, outputs)


def he_linear(n_in: int, n_out: int) -> nn.Linear:
    """Make a linear layer initialised as by He et al. 2015, as the paper has all but its softmax layer (section 4)."""
    layer = nn.Linear(n_in, n_out)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer
