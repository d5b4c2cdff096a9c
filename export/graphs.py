"""Trained models as modules of tensors in and tensors out, for exporters: the loop inside, any batch and any length.

A graph computes what its model computes in evaluation, for any mixture of lengths; what token ids hold beyond a
sentence's length does not matter. Names and shapes of its inputs and outputs are those of `export.artefact`.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.fx.experimental._config as symbolic_shapes
from torch import Tensor, nn
from torch._higher_order_ops import scan

from spinn_tensor.export.artefact import Exported, sides_of
from spinn_tensor.export.cells import TreeLSTMCell, exported_cell
from spinn_tensor.export.fold import (
    classifier_layers,
    leaf_table,
    lstm_directions,
    one_machine,
    step_weights,
    sum_type,
    words_of,
)
from spinn_tensor.export.loop_onnx import machine_loop
from spinn_tensor.export.step import (
    Machine,
    Product,
    StepWeights,
    choices_of,
    lstm_step,
    prepare,
    roots,
    start,
    step,
)
from spinn_tensor.model.classifiers import Model, SentenceParser
from spinn_tensor.model.encoder import LastState


class Lstm(nn.Module):
    """Run an LSTM over the words of each sentence, in one direction or in both."""

    forth: Tensor  # (H, 4H) of h
    back: Tensor  # the same of the other direction, where there is one

    def __init__(self, lstm: nn.LSTM, n_sides: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.n_sides = n_sides
        directions = lstm_directions(lstm)
        self.words = nn.ModuleList(words.in_type(dtype) for words, _ in directions)
        for name, (_, hidden) in zip(("forth", "back"), directions, strict=False):
            self.register_buffer(name, hidden.to(dtype))

    def forward(
        self,
        x: Tensor,  # (B, N, I)
        lengths: Tensor,  # (B,)
    ) -> Tensor:  # (B, N, H), or (B, N, 2H)
        """Return h of every word; what lies beyond a sentence's length is anything."""
        forth = self._run(self.words[0](x), self.forth)
        if len(self.words) == 1:
            return forth
        # each sentence from its last word to its first, which is its own inverse
        place = torch.arange(x.shape[1], device=x.device)
        turned = (lengths.unsqueeze(1) - 1 - place).clamp(min=0).unsqueeze(2).expand(-1, -1, x.shape[2])
        back = self._run(self.words[1](torch.gather(x, 1, turned)), self.back)
        return torch.cat((forth, torch.gather(back, 1, turned[:, :, : back.shape[2]])), 2)

    def last(
        self,
        x: Tensor,  # (B, N, I)
        lengths: Tensor,  # (B,)
    ) -> Tensor:  # (B, H), or (B, 2H)
        """Return the last h of each direction: of the other one that of the first word."""
        h, hidden_dim = self(x, lengths), self.forth.shape[0]
        end = (lengths - 1).view(-1, 1, 1).expand(-1, 1, hidden_dim)
        forth = torch.gather(h[:, :, :hidden_dim], 1, end).squeeze(1)
        return torch.cat((forth, h[:, 0, hidden_dim:]), 1)

    def _run(
        self,
        sums: Tensor,  # (B, N, 4H)
        hidden: Tensor,  # (H, 4H)
    ) -> Tensor:  # (B, N, H)
        n_examples = sums.shape[0] // self.n_sides
        zero = sums.new_zeros(sums.shape[0], hidden.shape[0])

        def step(carry: tuple[Tensor, Tensor], now: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
            h, c = lstm_step(now, carry[0], carry[1], hidden)
            read = h.view(-1, n_examples * hidden.shape[0])  # why, see `LaneGraph.encode`
            return (h, c), read.view(h.shape).clone()

        _, h = scan(step, (zero, zero.clone()), sums.transpose(0, 1))
        return h.transpose(0, 1)


class Leaves(nn.Module):
    """Turn word ids into leaf states."""

    table: Tensor  # (V, D) folded, or (V, E)

    def __init__(self, model: Model, folded: bool, dtype: torch.dtype) -> None:
        super().__init__()
        leaves = model.encoder.leaves
        self.projection: Product | None = None
        if folded:
            table = leaf_table(model.encoder)
        else:
            table, projection = words_of(model.encoder)
            self.projection = projection.in_type(dtype)
            table = table.clone()
        self.register_buffer("table", table.to(dtype))
        self.sum_type = sum_type(leaves.embedding.weight)
        self.n_sides = len(sides_of(model.config.task))
        self.lstm = None if leaves.lstm is None else Lstm(leaves.lstm, self.n_sides, dtype)

    def forward(
        self,
        token_ids: Tensor,  # (B, N), or (L,) without a leaf encoder
    ) -> Tensor:  # (B, N, D) or (L, D)
        x = torch.nn.functional.embedding(token_ids, self.table).to(self.sum_type)
        return x if self.projection is None else self.projection(x)

    def of_lanes(
        self,
        token_ids: Tensor,  # (B, N)
        lengths: Tensor,  # (B,)
    ) -> Tensor:  # (B, N, D)
        n_words = token_ids.shape[1]
        place = torch.arange(n_words, device=token_ids.device)
        token_ids = torch.where(place < lengths.unsqueeze(1), token_ids, torch.zeros_like(token_ids))
        x = self(token_ids)
        return x if self.lstm is None else self.lstm(x, lengths)


class Graph(nn.Module):
    """Give all graphs what they share: leaves, machine, head, and a `forward` that takes inputs by name or in order."""

    def __init__(self, model: Model, exported: Exported) -> None:
        super().__init__()
        self.exported = exported
        # of tables, matrices and products with them
        self.dtype = sum_type(model.encoder.leaves.embedding.weight)
        if exported.precision == "float16":
            self.dtype = torch.float16
        self.leaves, self.head = Leaves(model, exported.folded, self.dtype), None
        if not isinstance(model, SentenceParser):
            layers = [layer.in_type(self.dtype) for layer in classifier_layers(model.mlp)]
            modules = [module for layer in layers for module in (layer, nn.ReLU())]
            self.head = nn.Sequential(*modules[:-1])
        signature = inspect.Signature(
            [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in exported.inputs]
        )

        def forward(*args: Tensor, **kwargs: Tensor) -> tuple[Tensor, ...]:
            return self.run(list(signature.bind(*args, **kwargs).arguments.values()))

        forward.__signature__ = signature  # type: ignore[attr-defined]  # where exporters find the names
        self.forward = forward

    def run(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        """Return the outputs, in order, as the inputs are."""
        raise NotImplementedError

    def lanes(
        self,
        inputs: list[Tensor],  # ids and lengths of each side, first of all
    ) -> tuple[Tensor, Tensor]:  # (B, N) int64, (B,) int64
        """Return the ids and lengths of the sentences of all sides."""
        if self.leaves.n_sides == 1:
            return inputs[0], inputs[1]
        return torch.cat(inputs[0:4:2]), torch.cat(inputs[1:4:2])

    def outcome(
        self,
        encodings: Tensor,  # (n, H) premises, then hypotheses
    ) -> tuple[Tensor, ...]:
        """Return the logits and encodings, in the order of the outputs."""
        if self.exported.task != "pair":
            return (encodings,) if self.head is None else (self.head(encodings), encodings)
        assert self.head is not None
        n_pairs = encodings.shape[0] // 2
        premise, hypothesis = encodings[:n_pairs], encodings[n_pairs:]
        features = torch.cat((premise, hypothesis, premise - hypothesis, premise * hypothesis), 1)
        return self.head(features), premise, hypothesis


class LaneGraph(Graph):
    """Run the machine with a tracker, which parses or is given transitions, on single sentences or pairs."""

    buffer: Tensor  # `StepWeights`
    stack: Tensor
    hidden: Tensor
    tracker_bias: Tensor
    score: Tensor
    score_limit: Tensor

    def __init__(self, model: Model, exported: Exported, onnx_loop: bool) -> None:
        super().__init__(model, exported)
        for name, weight in step_weights(one_machine(model.encoder))._asdict().items():
            self.register_buffer(name, weight.to(self.dtype if weight.dim() == 2 else sum_type(weight)))
        self.cell, self.onnx_loop = exported_cell(model, self.dtype), onnx_loop

    def run(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        """Encode the sentences of all sides as lanes side by side."""
        token_ids, lengths = self.lanes(inputs)
        given = None
        if self.exported.tables == "given":
            given = torch.cat(inputs[2 * self.leaves.n_sides :])
        states, scores = self.encode(token_ids, lengths, given)
        # of a state, which may hold a policy's beside it
        encodings = states[:, : self.exported.hidden_dim]
        if given is not None:
            return self.outcome(encodings)
        n_examples, n_sides = inputs[0].shape[0], self.leaves.n_sides
        chosen = choices_of(scores, self.score_limit, lengths)
        of_sides = [part for rows in chosen for part in (rows[:n_examples], rows[n_examples:])[:n_sides]]
        return *self.outcome(encodings), *of_sides

    def weights(self) -> StepWeights:
        return StepWeights(*(self.get_buffer(name) for name in StepWeights._fields))

    def encode(
        self,
        token_ids: Tensor,  # (B, N) int64
        lengths: Tensor,  # (B,) int64
        given: Tensor | None,  # (B, 2N - 1) int64
    ) -> tuple[Tensor, Tensor]:  # (B, H), a policy's beside it; (2N - 1, B)
        """Return h of the roots and the scores of the transitions made, see `export.step.decide`."""
        n_words, weights = token_ids.shape[1], self.weights()
        n_examples = token_ids.shape[0] // self.leaves.n_sides
        words = prepare(self.leaves.of_lanes(token_ids, lengths), lengths, weights)
        numbers = torch.arange(2 * n_words - 1, device=token_ids.device)
        if self.onnx_loop:
            of_steps = None if given is None else given.t() == 1
            of_cell: tuple[Tensor | None, Tensor | None] = (None, None)
            if isinstance(self.cell, TreeLSTMCell):
                of_cell = self.cell.product.weight, self.cell.product.bias
            return machine_loop(*words, *weights, numbers, of_steps, *of_cell)

        def run(carry: tuple[Tensor, ...], now: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
            told = None if given is None else now[1]
            after, scores = step(Machine(*carry), words, weights, self.cell, now[0], told)
            # inductor makes room for what a loop returns by the sizes of inputs that the loop reads as numbers
            flat = scores.view(-1, n_examples).flatten()
            return tuple(after), torch.where(now[0] < 2 * n_words, flat, float("-inf"))

        first = start(words, n_words, weights.hidden.shape[0])
        last, scores = scan(run, tuple(first), (numbers,) if given is None else (numbers, given.t()))
        # by index, else inductor (torch 2.13) declares what a loop returned once more, to overwrite it in place
        return roots(words, last[0], weights.buffer.shape[0]), torch.index_select(scores, 0, numbers)


class SequenceGraph(Graph):
    """Encode by the words in a row: an LSTM's last h, or the sum of the words."""

    def __init__(self, model: Model, exported: Exported) -> None:
        super().__init__(model, exported)
        composer, self.lstm = model.encoder.composer, None
        if isinstance(composer, LastState):
            self.lstm = Lstm(composer.lstm, self.leaves.n_sides, self.dtype)

    def run(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        """Encode the sentences of all sides at once."""
        token_ids, lengths = self.lanes(inputs)
        x = self.leaves.of_lanes(token_ids, lengths)
        if self.lstm is not None:
            return self.outcome(self.lstm.last(x, lengths))
        real_mask = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)
        return self.outcome(torch.where(real_mask.unsqueeze(2), x, torch.zeros_like(x)).sum(1))


class ForestGraph(Graph):
    """Run the machine without a tracker, its schedule given."""

    def __init__(self, model: Model, exported: Exported) -> None:
        super().__init__(model, exported)
        self.cell = exported_cell(model, self.dtype)

    def run(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        """Compose step after step of the schedule (S, W), the sentences of all sides at once."""
        token_ids, left_index, right_index, root_index = inputs
        leaves = self.leaves(token_ids)
        states = torch.cat((leaves.new_zeros(1, leaves.shape[1]), leaves))
        n_leaf_rows, (n_steps, width) = states.shape[0], left_index.shape
        slots = torch.arange(width, device=token_ids.device)
        starts = torch.arange(n_steps, device=token_ids.device) * width
        first = states.new_zeros(n_steps * width, states.shape[1])

        def row(composed: Tensor, index: Tensor) -> Tensor:
            made = torch.index_select(composed, 0, (index - n_leaf_rows).clamp(min=0))
            leaf = torch.index_select(
                states, 0, torch.where(index < n_leaf_rows, index, torch.zeros_like(index))
            )
            return torch.where((index < n_leaf_rows).unsqueeze(1), leaf, made)

        def step(composed: Tensor, now: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            made = self.cell(row(composed, now[0]), row(composed, now[1]))
            return torch.index_copy(composed, 0, now[2] + slots, made), now[2].clone()

        composed, _ = scan(step, first, (left_index, right_index, starts))
        return self.outcome(row(composed, root_index)[:, : self.exported.hidden_dim])


def build_graph(
    model: Model,
    exported: Exported,  # of `describe`
    onnx_loop: bool = False,  # the loop as one operator, which `export.onnx_file` alone knows how to write
) -> Graph:
    """Build the graph of a trained model. Its weights are copies, and its module has no parameters."""
    graph: Graph
    if exported.tables == "forest":
        graph = ForestGraph(model, exported)
    elif exported.tables == "sequence":
        graph = SequenceGraph(model, exported)
    else:
        graph = LaneGraph(model, exported, onnx_loop)
    return graph.cpu().eval()


def example_inputs(exported: Exported) -> dict[str, Tensor]:
    """Make small inputs to export with, all axes of different sizes."""
    sizes = {"batch": 3, "length": 5, "transitions": 9, "tokens": 17, "steps": 4, "width": 7, "sentences": 6}
    inputs = {}
    for name, axes in exported.inputs.items():
        shape = [sizes[axis] for axis in axes]
        inputs[name] = torch.zeros(shape, dtype=torch.int64)
        if name.endswith("lengths"):
            inputs[name] += sizes["length"]
        elif name.endswith("transitions"):
            inputs[name] += torch.tensor([0, 0, 1, 0, 1, 0, 1, 0, 1])
    return inputs


def dynamic_shapes(exported: Exported) -> dict[str, Any]:
    """Name every axis of the inputs for `torch.export`, 2 length - 1 derived."""
    names = ("batch", "length", "tokens", "steps", "width", "sentences")
    dims: dict[str, Any] = {axis: torch.export.Dim(axis, min=1) for axis in names}
    dims["transitions"] = 2 * dims["length"] - 1
    if exported.task == "pair":
        dims["sentences"] = 2 * dims["batch"]
    return {
        name: {number: dims[axis] for number, axis in enumerate(axes)}
        for name, axes in exported.inputs.items()
    }


def traced(
    module: nn.Module,  # a graph, or what wraps one, with its inputs
    exported: Exported,
) -> torch.export.ExportedProgram:
    """Trace the module for any sizes of its inputs.

    All exports go through here: `scan` keeps what it compiled for one of them, and uses it for the next.
    """
    # sizes are taken for numbers that may be 1, else a program for pairs would refuse a single one
    with torch.no_grad(), symbolic_shapes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(
            module.eval(),
            (),
            kwargs=example_inputs(exported),
            dynamic_shapes=dynamic_shapes(exported),
            strict=False,
        )
