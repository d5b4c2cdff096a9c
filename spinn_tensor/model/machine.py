"""The stack machine as a module: a cell, perhaps a tracker, perhaps what chooses transitions, over tables."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from spinn_tensor.bundles import ComposeWeights, ForestTables, LaneTables, OwnTables
from spinn_tensor.machine import Parse, run_forest, run_given, run_own, run_taught
from spinn_tensor.machine.any_cell import Loop, tracker_dims
from spinn_tensor.machine.any_cell_operators import SWAPPED, CellRun, Choice, Save, register, run_cell
from spinn_tensor.machine.beam import Beams, run_beams, run_cell_beams
from spinn_tensor.machine.executors import checked_noise, in_time, make_parse
from spinn_tensor.model.cells import Tracker, TransitionHead, TreeLSTM
from spinn_tensor.model.own_classes import is_plain


class StackMachine(nn.Module):
    """Run any cell over the trees of a batch: on given transitions, with a tracker or without, or on its own.

    A cell is written as plain PyTorch for one step: `cell(left, right)`, with a tracker `cell(left, right, tracker)`,
    on n states (n, S) of any width; see `spinn_tensor.model.cells` for those that there are. `TreeLSTM` with the LSTM
    `Tracker`, or without one, runs by hand-written steps; everything else by a general loop, whose backward takes the
    vector-Jacobian product of each step.

    Args:
        cell: composes two states.
        tracker: a `Tracker`, or a module that is called as one; None: without.
        transition: scores SHIFT and REDUCE from what the tracker says; None: transitions are given.
        save: of the general loop. "all" keeps what autograd saves of each step; "states" keeps the states alone, and
            the backward runs each step once more. Under `torch.compile` always "states".
        dropout: while training, of an element of the cell's matrices, drawn once a run and so the same at every node
            (DropConnect, Wan et al. 2013; between states as Merity et al. 2018 have it).

    Raises:
        TypeError: for a tracker without `state_dim`, and a `transition` without tracker.

    >>> machine = StackMachine(GRC(8))
    >>> machine(torch.randn(6, 8), make_sentence_batch(columns, "forest").tables).shape
    torch.Size([2, 8])
    """

    def __init__(
        self,
        cell: nn.Module,
        tracker: nn.Module | None = None,
        transition: TransitionHead | None = None,
        *,
        save: Save = "all",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if save not in ("all", "states"):
            raise ValueError(f"save: expected 'all' or 'states', got {save!r}")
        if transition is not None and tracker is None:
            raise TypeError("transitions are scored from what a tracker says, and there is none")
        if tracker is not None:
            tracker_dims(tracker)
        self.compose, self.tracker, self.transition = cell, tracker, transition
        self.save, self.dropout = save, dropout
        self._name = register(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._name = register(self)  # a copy is a machine of its own

    def forward(
        self,
        leaves: Tensor,
        tables: ForestTables | LaneTables | OwnTables | None,
        *,
        every_node: bool = False,
    ) -> Tensor:
        """Encode: the first `output_dim` of the state of each root.

        Args:
            leaves: (L, S) states of the words of all sentences.
            tables: of the B trees, `SentenceBatch.tables`: ForestTables without a tracker, LaneTables with one or
                without, OwnTables to choose the transitions.
            every_node: whether to return every node, in the order of the transitions.

        Returns:
            (B, output_dim), or (2L - B, output_dim); differentiable once in the leaves and the parameters.

        Raises:
            TypeError: for tables that the machine cannot run on, and for leaves and parameters of more than one dtype.
            ValueError: for leaves not as wide as the cell's `state_dim`, where it has that, for more or fewer than the
                tables have, seen on the CPU, and for a cell or tracker that gives other states than it was given.
            DrawError: for one that draws random numbers, as dropout does, with save="states" or under `torch.compile`.

        >>> machine = StackMachine(TreeLSTM(8, 3), Tracker(8, 3))
        >>> machine(torch.randn(6, 16), make_sentence_batch(columns, "lanes").tables, every_node=True).shape
        torch.Size([10, 8])
        """
        if isinstance(tables, OwnTables) and self.transition is not None:
            return self.parse(leaves, tables, every_node=every_node).encodings
        if self.tracker is None and isinstance(tables, LaneTables):
            tables = in_time(tables)
        if not isinstance(tables, ForestTables if self.tracker is None else LaneTables):
            expected, kind = ("ForestTables", "forest") if self.tracker is None else ("LaneTables", "lanes")
            raise TypeError(
                f'got {type(tables).__name__}, expected {expected}: make_sentence_batch(columns, "{kind}").tables'
            )
        self._check_width(leaves)
        index = tables.node_index if every_node else tables.root_index
        built_in = self._built_in()
        if built_in is None:
            return self._encodings(self._run(leaves, tables, None), index)
        cell, tracker = built_in
        if isinstance(tables, ForestTables):
            return run_forest(leaves, self._weights(cell), tables, index)
        return run_given(
            leaves, self._weights(cell), None if tracker is None else tracker.weights(), tables, index
        )

    def parse(
        self,
        leaves: Tensor,
        tables: ForestTables | LaneTables | OwnTables | None,
        noise: Tensor | None = None,
        *,
        every_node: bool = False,
    ) -> Parse:
        """Encode, and tell what the trackers thought of the transitions: own ones, or given ones under LaneTables.

        Args:
            leaves: (L, S) states of the words of all sentences.
            tables: of the lanes.
            noise: (M,), added to what own transitions are chosen by, see `run_own`.
            every_node: whether the encodings are those of every node.

        Returns:
            The run.

        Raises:
            TypeError: for a machine without `transition`, and as `forward`.
            ValueError: for noise of another shape or beside given transitions, and as `forward`.
            ScoreError: where own transitions' scores are not numbers.

        >>> machine = StackMachine(GRC(8, 3), Tracker(8, 3), TransitionHead(3))
        >>> machine.parse(torch.randn(6, 8), make_sentence_batch(columns, "own").tables).transitions.shape
        torch.Size([10])
        """
        if self.transition is None or self.tracker is None:
            raise TypeError("the machine has no `transition` and does not parse")
        if not isinstance(tables, OwnTables | LaneTables):
            raise TypeError(f"got {type(tables).__name__}; a parser reads OwnTables or LaneTables")
        if noise is not None and isinstance(tables, LaneTables):
            raise ValueError("noise goes with own transitions; these are given")
        self._check_width(leaves)
        transition, built_in = self.transition(), self._built_in()
        if built_in is not None and built_in[1] is not None:
            weights = self._weights(built_in[0]), built_in[1].weights(), transition
            if isinstance(tables, OwnTables):
                return run_own(leaves, *weights, tables, noise, every_node=every_node)
            return run_taught(leaves, *weights, tables, every_node=every_node)
        choice = None
        if isinstance(tables, OwnTables):
            choice = Choice(transition, checked_noise(leaves, noise, tables))
        run = self._run(leaves, tables, choice)
        assert isinstance(run.tables, LaneTables)
        encodings = self._encodings(run, run.tables.node_index if every_node else run.tables.root_index)
        trackers = run.trackers[:, : transition.weight.shape[1]]
        return make_parse(encodings, trackers, run.memory.shape[0], transition, run.tables)

    def beams(self, leaves: Tensor, tables: ForestTables | LaneTables | OwnTables | None, k: int) -> Beams:
        """Find the k likeliest trees of each sentence by a beam of that width, see `machine.beam`.

        Args:
            leaves: (L, S) states of the words of all sentences.
            tables: of k lanes a sentence.
            k: at least 1, where it finds what `parse` does.

        Returns:
            The trees, of which nothing is differentiable.

        Raises:
            TypeError: for a machine without `transition`, and for other tables.
            ValueError: for tables of another number of lanes.
            ScoreError: where scores are not numbers.

        >>> machine, batch = StackMachine(GRC(8, 3), Tracker(8, 3), TransitionHead(3)), make_sentence_batch
        >>> machine.beams(torch.randn(6, 8), batch(columns, "own", n_samples=2).tables, 2).log_probabilities.shape
        torch.Size([2, 2])
        """
        if self.transition is None or self.tracker is None:
            raise TypeError("the machine has no `transition` and does not parse")
        if not isinstance(tables, OwnTables):
            raise TypeError(f"got {type(tables).__name__}; a beam reads OwnTables")
        self._check_width(leaves)
        transition, built_in = self.transition(), self._built_in()
        if built_in is not None and built_in[1] is not None:
            return run_beams(leaves, built_in[0].weights(), built_in[1].weights(), transition, tables, k)
        return run_cell_beams(Loop(self.compose, self.tracker), leaves, transition, tables, k)

    def _check_width(self, leaves: Tensor) -> None:
        width = getattr(self.compose, "state_dim", None)
        if width is not None and (leaves.dim() != 2 or leaves.shape[1] != width):
            cell = type(self.compose).__name__
            raise ValueError(f"leaves: got {tuple(leaves.shape)}, expected (L, {width}), states of {cell}")

    @property
    def is_built_in(self) -> bool:
        """Tell whether the hand-written steps run it."""
        return self._built_in() is not None

    def _built_in(self) -> tuple[TreeLSTM, Tracker | None] | None:
        """Return cell and tracker if the hand-written steps know both, and stand for a call of them."""
        cell, tracker = self.compose, self.tracker
        if type(cell) is not TreeLSTM or not (tracker is None or type(tracker) is Tracker):
            return None
        return (cell, tracker) if is_plain(cell) and (tracker is None or is_plain(tracker)) else None

    def _run(
        self, leaves: Tensor, tables: ForestTables | LaneTables | OwnTables, choice: Choice | None
    ) -> CellRun:
        with nullcontext() if torch.compiler.is_compiling() else SWAPPED:  # so that other threads see its own
            parameters: list[Tensor] = [
                self._dropped(value) if name.startswith("compose.") else value
                for name, value in self.named_parameters()
                if name.startswith(("compose.", "tracker."))
            ]
            if not torch.compiler.is_compiling() and any(
                hasattr(value, "full_tensor") for value in parameters
            ):
                raise TypeError(
                    "a cell or tracker sharded by itself would learn nothing; fully_shard the machine"
                )
            return run_cell(self._name, parameters, leaves, tables, choice, self.save)

    def _weights(self, cell: TreeLSTM) -> ComposeWeights:
        weight, bias, tracker_weight = cell.weights()
        return ComposeWeights(
            self._dropped(weight), bias, None if tracker_weight is None else self._dropped(tracker_weight)
        )

    def _dropped(self, weight: Tensor) -> Tensor:
        """Drop elements of a matrix of the cell; a vector, as a bias, stays."""
        if not self.dropout or weight.dim() < 2:
            return weight
        return nn.functional.dropout(weight, self.dropout, self.training)

    def _encodings(self, run: CellRun, index: Tensor) -> Tensor:
        output_dim = getattr(self.compose, "output_dim", run.memory.shape[1])
        return run.memory.index_select(0, index)[:, :output_dim]
