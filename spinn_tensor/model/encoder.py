"""Sentence encoders: SPINN without tracker, with it and parsing for itself, and what they are compared with."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from spinn_tensor.batch import SentenceBatch, Sharing, TableKind, Tables
from spinn_tensor.bundles import OwnTables
from spinn_tensor.config import LEAF_ENCODERS, SPINN_KINDS, EncoderConfig
from spinn_tensor.machine import Parse
from spinn_tensor.machine.beam import Beams
from spinn_tensor.model.cells import Tracker, TransitionHead, TreeLSTM, make_cell, state_dim
from spinn_tensor.model.leaves import LeafEncoder
from spinn_tensor.model.machine import StackMachine
from spinn_tensor.model.own_classes import make_part
from spinn_tensor.model.sequence import run_lstm
from spinn_tensor.sizes import without_memory

TABLE_KIND_OF: dict[str, TableKind] = {"spinn-pi-nt": "forest", "spinn-pi": "lanes", "spinn": "own"}


class SentenceEncoder(nn.Module):
    """Encode B sentences as B vectors.

    A sentence's encoding depends on nothing else in its batch, except through batch norm's statistics while training.

    Args:
        config: the kind of encoder and its sizes.

    Raises:
        ConfigError: for a bidirectional leaf encoder of an odd width, and a cell or leaf encoder that cannot be had.

    >>> encoder = SentenceEncoder(EncoderConfig(len(vocabulary), kind="spinn-pi", hidden_dim=8)).eval()
    >>> encoder(make_sentence_batch(columns, encoder.table_kind)).shape
    torch.Size([2, 8])
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.policy: SentenceEncoder | None = None
        if config.policy_dim:
            self.policy = SentenceEncoder(policy_config(config))
            config = dataclasses.replace(config, kind="spinn-pi-nt", policy_dim=0)
        self._leaf_dim = leaf_dim(config)
        ours = dict.fromkeys(LEAF_ENCODERS, LeafEncoder)
        self.leaves: Any = make_part("leaf_encoder", config.leaf_encoder, ours, config, self._leaf_dim)
        self.composer: nn.Module
        if config.kind in SPINN_KINDS:
            self.composer = _machine(config)
        elif config.kind == "bow":
            self.composer = SumOfWords()
        else:
            self.composer = LastState(config.hidden_dim, bidirectional=config.kind == "bilstm")
        if self.policy is not None:
            for machine in (self.composer, self.policy.composer):
                remember(machine)

    @property
    def embedding(self) -> nn.Embedding:
        """Return the word vectors, (V, E). Raises TypeError for a leaf encoder of somebody's own that has none."""
        embedding = getattr(self.leaves, "embedding", None)
        if not isinstance(embedding, nn.Embedding):
            raise TypeError(f"leaf_encoder: {self.config.leaf_encoder} has no `embedding` of word vectors")
        return embedding

    def __setattr__(self, name: str, value: Any) -> None:
        """Give other word vectors to the leaves; kept here they would be a module that nobody calls."""
        owner: nn.Module = self
        if name == "embedding" and self.embedding is not None:  # which raises where the leaves have none
            owner = self.leaves
        nn.Module.__setattr__(owner, name, value)

    @property
    def table_kind(self) -> TableKind:
        """Name the kind of tables that this encoder runs on."""
        return TABLE_KIND_OF.get(self.config.kind, "sequence")

    def sharing(self, table_kind: TableKind, training: bool | None = None) -> Sharing:
        """Return how much of the work on equal words and trees may be done once, for `make_sentence_batch`.

        All of it, where a word's state does not depend on its sentence: not with a bidirectional leaf encoder, and not
        while dropout draws for each token. A leaf encoder of somebody's own reads every token by itself.

        Args:
            table_kind: of the batch, see `make_sentence_batch`.
            training: whether the batch is for training; None: as the mode is that the encoder is in.

        Returns:
            "states", "projections" or "nothing".

        >>> encoder = SentenceEncoder(EncoderConfig(len(vocabulary)))
        >>> encoder.sharing("lanes"), encoder.sharing("lanes", training=False)
        ('projections', 'states')
        """
        if self.config.leaf_encoder not in LEAF_ENCODERS:
            return "nothing"
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
            ValueError: for a leaf encoder of somebody's own that makes no (L, D) states.

        >>> encoder = SentenceEncoder(EncoderConfig(len(vocabulary), kind="bilstm", hidden_dim=8))
        >>> encoder(make_sentence_batch(columns, encoder.table_kind)).shape
        torch.Size([2, 16])
        """
        leaves = self._leaf_states(batch)
        if isinstance(self.composer, StackMachine):
            return self.composer(leaves, self._tables(batch))
        return self.composer(leaves, batch)

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
        if not isinstance(self.composer, StackMachine):
            raise TypeError(f"an encoder of kind {self.config.kind!r} has no tree nodes")
        return self.composer(self._leaf_states(batch), self._tables(batch), every_node=True)

    def parse(self, batch: SentenceBatch, noise: Tensor | None = None) -> Parse:
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
        if self.policy is not None:
            return self._composed(batch, self.policy.parse(batch, noise))
        return self._parser().parse(self._leaf_states(batch), batch.tables, noise)

    def beams(self, batch: SentenceBatch, k: int) -> Beams:
        """Find the k likeliest trees of each sentence by a beam of that width, see `machine.beam`.

        Args:
            batch: B sentences, on tables of kind "own" with k samples of each.
            k: at least 1, where it finds what `parse` does.

        Returns:
            The trees, of which nothing is differentiable.

        Raises:
            TypeError: for an encoder that does not parse and for other tables.
            ValueError: for tables of another number of lanes.

        >>> encoder = SentenceEncoder(EncoderConfig(len(vocabulary), kind="spinn", hidden_dim=8))
        >>> encoder.beams(make_sentence_batch(columns, "own", n_samples=2), 2).parse.transitions.shape
        torch.Size([20])
        """
        if self.policy is not None:
            beams = self.policy.beams(batch, k)
            return beams._replace(parse=self._composed(batch, beams.parse))
        return self._parser().beams(self._leaf_states(batch), batch.tables, k)

    def _parser(self) -> StackMachine:
        """Return the machine. Raises TypeError for an encoder that does not parse."""
        if not isinstance(self.composer, StackMachine) or self.composer.transition is None:
            raise TypeError(f"an encoder of kind {self.config.kind!r} does not parse")
        return self.composer

    def _composed(self, batch: SentenceBatch, parse: Parse) -> Parse:
        """Give what the policy parsed the encodings of the composer."""
        return parse._replace(encodings=self.composer(self._leaf_states(batch), parse.tables))

    def _tables(self, batch: SentenceBatch) -> Tables | None:
        """Return what the composer runs on: where it is to parse, what the policy made of the sentences."""
        if self.policy is None or not isinstance(batch.tables, OwnTables):
            return batch.tables
        return self.policy.parse(batch).tables

    def _leaf_states(self, batch: SentenceBatch) -> Tensor:
        """Return what the leaves are: (L, D), or (V, D) where equal words are one leaf."""
        self._check_shared(batch)
        leaves: Tensor = self.leaves(batch)
        if self.config.leaf_encoder not in LEAF_ENCODERS:
            expected = (batch.sequence.sentence_index.shape[0], self._leaf_dim)
            if leaves.shape != expected:
                raise ValueError(
                    f"leaf_encoder: {self.config.leaf_encoder} made {tuple(leaves.shape)}, expected {expected}"
                )
        return leaves

    def _check_shared(self, batch: SentenceBatch) -> None:
        """Raise ValueError for words that are one leaf where every token is read by itself."""
        if batch.shared is None or batch.shared.token_index is not None:
            return
        if not isinstance(self.composer, StackMachine) or self.config.leaf_encoder == "bilstm":
            raise ValueError(
                'share="states" is more than this encoder allows: encoder.sharing(encoder.table_kind)'
            )


def policy_config(config: EncoderConfig) -> EncoderConfig:
    """Return what the policy of an encoder with `policy_dim` is: a small SPINN without batch norm and dropout."""
    return dataclasses.replace(
        config,
        kind="spinn",
        hidden_dim=config.policy_dim,
        policy_dim=0,
        cell="treelstm",
        train_embedding=True,
        embedding_dropout=0.0,
        compose_dropout=0.0,
        batch_norm=False,
    )


def remember(machine: nn.Module) -> None:
    """Start the forget gates of a machine open, at a bias of 1, where they are those of a TreeLSTM or an LSTM."""
    assert isinstance(machine, StackMachine)
    with torch.no_grad():
        if isinstance(machine.compose, TreeLSTM):
            _, _, left, right, _ = machine.compose.bias.chunk(5)
            left.fill_(1.0)
            right.fill_(1.0)
        if isinstance(machine.tracker, Tracker):
            machine.tracker.bias.chunk(4)[1].fill_(1.0)


def leaf_dim(config: EncoderConfig) -> int:
    """Return the width of what the leaves are: states of the cell, of which one is made that takes no memory."""
    if config.kind not in SPINN_KINDS:
        return config.hidden_dim
    with without_memory():
        return state_dim(make_cell(config.cell, config.hidden_dim, _tracker_dim(config)))


def _tracker_dim(config: EncoderConfig) -> int | None:
    return None if config.kind == "spinn-pi-nt" else config.tracker_dim


def _machine(config: EncoderConfig) -> StackMachine:
    """Make the machine of a SPINN."""
    hidden_dim, tracker_dim = config.hidden_dim, _tracker_dim(config)
    cell = make_cell(config.cell, hidden_dim, tracker_dim)
    if tracker_dim is None:
        return StackMachine(cell, dropout=config.compose_dropout)
    tracker = Tracker(hidden_dim, tracker_dim)  # drawn before the other: a seed gives what it gave
    transition = TransitionHead(tracker_dim) if config.parses else None
    return StackMachine(cell, tracker, transition, dropout=config.compose_dropout)


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
        return h[-1 - self.lstm.bidirectional :].transpose(0, 1).flatten(1)  # of the last layer


class SumOfWords(nn.Module):
    """Encode by a bag of words: the sum of the projected words."""

    def forward(
        self,
        leaves: Tensor,  # (L, H)
        batch: SentenceBatch,
    ) -> Tensor:  # (B, H)
        sums = leaves.new_zeros(batch.sequence.sorted_order.shape[0], leaves.shape[1])
        return sums.index_add(0, batch.sequence.sentence_index, leaves)
