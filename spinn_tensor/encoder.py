"""Sentence encoders: SPINN without and with tracker, and what they are compared with, behind one interface."""

from __future__ import annotations

from torch import Tensor, nn

from spinn_tensor.batch import SentenceBatch
from spinn_tensor.bundles import ForestTables, LaneTables
from spinn_tensor.compose import Compose
from spinn_tensor.config import SPINN_KINDS, EncoderConfig
from spinn_tensor.leaves import LeafEncoder, pack
from spinn_tensor.machine import run_forest, run_given
from spinn_tensor.tracker import Tracker

TABLE_KIND_OF = {
    "spinn-pi-nt": "forest",
    "spinn-pi": "lanes",
    "lstm": "sequence",
    "bilstm": "sequence",
    "bow": "sequence",
}


class SentenceEncoder(nn.Module):
    """B sentences to B encodings. A sentence's encoding depends on nothing else in its batch, except through batch
    norm's statistics while training."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        has_cell_state = config.kind in SPINN_KINDS
        self.leaves = LeafEncoder(config, output_dim=(2 if has_cell_state else 1) * config.hidden_dim)
        self.composer: nn.Module
        if config.kind == "spinn-pi-nt":
            self.composer = StackMachine(config.hidden_dim, None)
        elif config.kind == "spinn-pi":
            self.composer = StackMachine(config.hidden_dim, config.tracker_dim)
        elif config.kind == "bow":
            self.composer = SumOfWords()
        else:
            self.composer = LastState(config.hidden_dim, bidirectional=config.kind == "bilstm")

    @property
    def embedding(self) -> nn.Embedding:
        return self.leaves.embedding

    @property
    def table_kind(self) -> str:
        """The tables that `make_sentence_batch` is to build: "forest", "lanes" or "sequence"."""
        return TABLE_KIND_OF[self.config.kind]

    @property
    def output_dim(self) -> int:
        """Width of an encoding: H, or 2H for "bilstm"."""
        return self.config.hidden_dim * (2 if self.config.kind == "bilstm" else 1)

    def forward(self, batch: SentenceBatch) -> Tensor:  # (B, output_dim)
        return self.composer(self.leaves(batch), batch)

    def node_states(self, batch: SentenceBatch) -> Tensor:  # (2L - B, H)
        """h of every node, in the order of the transitions; a sentence's last node is its root.

        Raises TypeError for an encoder without trees.
        """
        if not isinstance(self.composer, StackMachine):
            raise TypeError(f"an encoder of kind {self.config.kind!r} has no tree nodes")
        return self.composer(self.leaves(batch), batch, every_node=True)


class StackMachine(nn.Module):
    """SPINN on given transitions: the forest executor, or with a tracker the given-transitions executor."""

    def __init__(
        self,
        hidden_dim: int,  # H
        tracker_dim: int | None,  # K
    ) -> None:
        super().__init__()
        self.compose = Compose(hidden_dim, tracker_dim)
        self.tracker = None if tracker_dim is None else Tracker(hidden_dim, tracker_dim)

    def forward(
        self,
        leaves: Tensor,  # (L, 2H)
        batch: SentenceBatch,
        every_node: bool = False,
    ) -> Tensor:  # (B, H), or (2L - B, H)
        tables = batch.tables
        assert tables is not None, "make_sentence_batch(columns, encoder.table_kind) builds the tables"
        rows = tables.node_index if every_node else tables.root_index
        if self.tracker is None:
            assert isinstance(tables, ForestTables)
            return run_forest(leaves, self.compose.weights(), tables, rows)
        assert isinstance(tables, LaneTables)
        return run_given(leaves, self.compose.weights(), self.tracker.weights(), tables, rows)


class LastState(nn.Module):
    """LSTM over the words: its last h, or the last of either direction."""

    def __init__(self, hidden_dim: int, bidirectional: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(hidden_dim, hidden_dim, bidirectional=bidirectional)

    def forward(
        self,
        leaves: Tensor,  # (L, H)
        batch: SentenceBatch,
    ) -> Tensor:  # (B, H), or (B, 2H)
        _, (h, _) = self.lstm(pack(leaves, batch.sequence))
        return h.transpose(0, 1).flatten(1)


class SumOfWords(nn.Module):
    """Bag of words: the sum of the projected words."""

    def forward(
        self,
        leaves: Tensor,  # (L, H)
        batch: SentenceBatch,
    ) -> Tensor:  # (B, H)
        n_sentences = batch.sequence.sorted_order.shape[0]
        sentence_index = batch.sequence.sentence_index
        return leaves.new_zeros(n_sentences, leaves.shape[1]).index_add(
            0, sentence_index, leaves[: sentence_index.shape[0]]
        )
