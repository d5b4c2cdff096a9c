"""Sentence encoders: SPINN without tracker, with it and parsing for itself, and what they are compared with."""

from __future__ import annotations

from torch import Tensor, nn

from spinn_tensor.batch import SentenceBatch, Sharing, TableKind
from spinn_tensor.bundles import ForestTables, LaneTables, OwnTables
from spinn_tensor.config import SPINN_KINDS, EncoderConfig
from spinn_tensor.machine import Parse, run_forest, run_given, run_own, run_taught
from spinn_tensor.model.cells import Compose, Tracker, TransitionHead
from spinn_tensor.model.leaves import LeafEncoder
from spinn_tensor.model.sequence import run_lstm

TABLE_KIND_OF: dict[str, TableKind] = {
    "spinn-pi-nt": "forest",
    "spinn-pi": "lanes",
    "spinn": "own",
    "lstm": "sequence",
    "bilstm": "sequence",
    "bow": "sequence",
}


class SentenceEncoder(nn.Module):
    """Encode B sentences as B vectors.

    A sentence's encoding depends on nothing else in its batch, except through batch norm's statistics while training.

    Args:
        config: the kind of encoder and its sizes.

    Raises:
        ConfigError: for a bidirectional leaf encoder of an odd width.

    >>> encoder = SentenceEncoder(EncoderConfig(len(vocabulary), kind="spinn-pi", hidden_dim=8)).eval()
    >>> encoder(make_sentence_batch(columns, encoder.table_kind)).shape
    torch.Size([2, 8])
    """

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
        elif config.kind == "spinn":
            self.composer = ParsingMachine(config.hidden_dim, config.tracker_dim)
        elif config.kind == "bow":
            self.composer = SumOfWords()
        else:
            self.composer = LastState(config.hidden_dim, bidirectional=config.kind == "bilstm")

    @property
    def embedding(self) -> nn.Embedding:
        """Return the word vectors, (V, E)."""
        return self.leaves.embedding

    @property
    def table_kind(self) -> TableKind:
        """Name the kind of tables that this encoder runs on."""
        return TABLE_KIND_OF[self.config.kind]

    def sharing(
        self,
        table_kind: TableKind,
        training: bool | None = None,
    ) -> Sharing:
        """Return how much of the work on equal words and trees may be done once, for `make_sentence_batch`.

        All of it, where a word's state does not depend on its sentence: not with a bidirectional leaf encoder, and not
        while dropout draws for each token.

        Args:
            table_kind: of the batch, see `make_sentence_batch`.
            training: whether the batch is for training; None: as the mode is that the encoder is in.

        Returns:
            "states" or "projections".

        >>> encoder = SentenceEncoder(EncoderConfig(len(vocabulary)))
        >>> encoder.sharing("lanes"), encoder.sharing("lanes", training=False)
        ('projections', 'states')
        """
        drops = (self.training if training is None else training) and self.config.embedding_dropout > 0
        alike = self.config.leaf_encoder != "bilstm" and not drops
        return "states" if alike and table_kind in ("forest", "lanes") else "projections"

    @property
    def output_dim(self) -> int:
        """Return the width of an encoding: H, or 2H for "bilstm"."""
        return self.config.hidden_dim * (2 if self.config.kind == "bilstm" else 1)

    def forward(self, batch: SentenceBatch) -> Tensor:
        """Encode sentences: h of the root of each tree, or what an encoder without trees has for it.

        Args:
            batch: B sentences, on tables of this encoder's `table_kind`.

        Returns:
            (B, output_dim); (P, H) of several samples a sentence.

        Raises:
            TypeError: for tables of another kind.
            ScoreError: where transitions are its own and their scores are not numbers.

        >>> encoder = SentenceEncoder(EncoderConfig(len(vocabulary), kind="bilstm", hidden_dim=8))
        >>> encoder(make_sentence_batch(columns, encoder.table_kind)).shape
        torch.Size([2, 16])
        """
        return self.composer(self.leaves(batch), batch)

    def node_states(self, batch: SentenceBatch) -> Tensor:
        """Return h of every node, in the order of the transitions; a sentence's last node is its root.

        Args:
            batch: B sentences, on tables of this encoder's `table_kind`.

        Returns:
            (2L - B, H).

        Raises:
            TypeError: for an encoder without trees, and for tables of another kind.

        >>> encoder = SentenceEncoder(EncoderConfig(len(vocabulary), kind="spinn-pi-nt", hidden_dim=8))
        >>> encoder.node_states(make_sentence_batch(columns, encoder.table_kind)).shape
        torch.Size([10, 8])
        """
        if not isinstance(self.composer, StackMachine | ParsingMachine):
            raise TypeError(f"an encoder of kind {self.config.kind!r} has no tree nodes")
        return self.composer(self.leaves(batch), batch, every_node=True)

    def parse(
        self,
        batch: SentenceBatch,
        noise: Tensor | None = None,
    ) -> Parse:
        """Return encodings, and what the trackers thought of the transitions: own ones, or given ones under "lanes".

        Args:
            batch: B sentences, on tables of kind "own" or "lanes".
            noise: (M,), added to what own transitions are chosen by, see `run_own`.

        Returns:
            The run.

        Raises:
            TypeError: for an encoder that does not parse and for other tables.
            ValueError: for noise beside given transitions.

        >>> encoder = SentenceEncoder(EncoderConfig(len(vocabulary), kind="spinn", hidden_dim=8))
        >>> encoder.parse(make_sentence_batch(columns, encoder.table_kind)).transitions.shape
        torch.Size([10])
        """
        if not isinstance(self.composer, ParsingMachine):
            raise TypeError(f"an encoder of kind {self.config.kind!r} does not parse")
        return self.composer.parse(self.leaves(batch), batch, noise)


class StackMachine(nn.Module):
    """Run SPINN on given transitions: the forest executor, or with a tracker the given-transitions executor."""

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
        tables, compose = batch.tables, self.compose.weights()
        if self.tracker is None and isinstance(tables, ForestTables):
            return run_forest(leaves, compose, tables, tables.node_index if every_node else None)
        if self.tracker is not None and isinstance(tables, LaneTables):
            rows = tables.node_index if every_node else None
            return run_given(leaves, compose, self.tracker.weights(), tables, rows)
        expected = "ForestTables" if self.tracker is None else "LaneTables"
        raise TypeError(
            f"got {type(tables).__name__}, expected {expected}: make_sentence_batch(columns, encoder.table_kind)"
        )


class ParsingMachine(nn.Module):
    """Run SPINN that parses for itself, or under lane tables is taught by given transitions."""

    def __init__(
        self,
        hidden_dim: int,  # H
        tracker_dim: int,  # K
    ) -> None:
        super().__init__()
        self.compose = Compose(hidden_dim, tracker_dim)
        self.tracker = Tracker(hidden_dim, tracker_dim)
        self.transition = TransitionHead(tracker_dim)

    def forward(
        self,
        leaves: Tensor,  # (L, 2H)
        batch: SentenceBatch,
        every_node: bool = False,
    ) -> Tensor:  # (P, H), or (M, H)
        return self.parse(leaves, batch, every_node=every_node).encodings

    def parse(
        self,
        leaves: Tensor,  # (L, 2H)
        batch: SentenceBatch,
        noise: Tensor | None = None,  # (M,), for own transitions
        every_node: bool = False,
    ) -> Parse:
        weights = self.compose.weights(), self.tracker.weights(), self.transition.weights()
        if isinstance(batch.tables, OwnTables):
            return run_own(leaves, *weights, batch.tables, noise, every_node=every_node)
        if not isinstance(batch.tables, LaneTables):
            raise TypeError(f"got {type(batch.tables).__name__}; a parser reads OwnTables or LaneTables")
        if noise is not None:
            raise ValueError("noise goes with own transitions; these are given")
        return run_taught(leaves, *weights, batch.tables, every_node=every_node)


class LastState(nn.Module):
    """Encode by an LSTM over the words: its last h, or the last of either direction."""

    def __init__(self, hidden_dim: int, bidirectional: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(hidden_dim, hidden_dim, bidirectional=bidirectional)

    def forward(
        self,
        leaves: Tensor,  # (L, H)
        batch: SentenceBatch,
    ) -> Tensor:  # (B, H), or (B, 2H)
        _, h = run_lstm(self.lstm, leaves, batch.sequence)
        return h.transpose(0, 1).flatten(1)


class SumOfWords(nn.Module):
    """Encode by a bag of words: the sum of the projected words."""

    def forward(
        self,
        leaves: Tensor,  # (L, H)
        batch: SentenceBatch,
    ) -> Tensor:  # (B, H)
        sums = leaves.new_zeros(batch.sequence.sorted_order.shape[0], leaves.shape[1])
        return sums.index_add(0, batch.sequence.sentence_index, leaves)
