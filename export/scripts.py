"""TorchScript of a trained model: scripted, so that the loop is in the file, and torch alone loads and runs it.

Inputs are those of `export.artefact`, and go in by name or in order; the output is a `Dict[str, Tensor]`,
which Python and C++ read by name. What the file says of itself is in its extra files, `export.json` and `labels.txt`.

The modules here are those of `export.graphs` in the subset of Python that TorchScript reads, which has no
`from __future__ import annotations`. Their loop is `export.script_loop`.
"""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from spinn_tensor.data_prep.files import atomic_write
from spinn_tensor.data_prep.paths import expanded
from spinn_tensor.export.artefact import EXPORT, Exported
from spinn_tensor.export.cells import scripted_cell
from spinn_tensor.export.graphs import ForestGraph, Graph, LaneGraph, Lstm, SequenceGraph, build_graph
from spinn_tensor.export.interface import (
    Candidate,
    exporting,
    of_arrays,
    quiet,
    reading,
    require_ours,
)
from spinn_tensor.export.script_loop import ForestLoop, LaneLoop, last_states, run_ways
from spinn_tensor.model.classifiers import Model

LABELS = "labels.txt"  # for C++, which reads no JSON: one a line, in the order of the logits


class LstmScript(nn.Module):
    """Run an LSTM over the words of each sentence, in one direction or in both."""

    forth: Tensor  # (H, 4H) of h
    back: Tensor  # the same of the other direction; (0, 4H) where there is none

    def __init__(self, lstm: Lstm) -> None:
        super().__init__()
        self.words = lstm.words
        self.register_buffer("forth", lstm.forth)
        self.register_buffer("back", lstm.back if len(lstm.words) == 2 else lstm.forth[:0])

    def forward(
        self,
        x: Tensor,  # (L, I) of all sentences' words
        real_mask: Tensor,  # (B, N) bool, True where a sentence has a word
        lengths: Tensor,  # (B,) int64
    ) -> Tensor:  # (B, N, H), or (B, N, 2H)
        sums: list[Tensor] = []
        for product in self.words:
            sums.append(product(x))
        return run_ways(sums, real_mask, lengths, [self.forth, self.back])


class Script(nn.Module):
    """Give all scripts what they share: leaves, head, and names of the outputs."""

    table: Tensor  # (V, E), or (V, D) folded

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.pairs = graph.task == "pair"
        self.register_buffer("table", graph.leaves.table)
        self.projection, self.head = graph.leaves.projection, graph.head
        self.leaf_lstm = None if graph.leaves.lstm is None else LstmScript(graph.leaves.lstm)

    def words(
        self,
        token_ids: Tensor,  # (L,) int64
    ) -> Tensor:  # (L, D)
        x = torch.nn.functional.embedding(token_ids, self.table)
        return x if self.projection is None else self.projection(x)

    def real_words(
        self,
        token_ids: Tensor,  # (B, N) int64
        lengths: Tensor,  # (B,) int64
    ) -> tuple[Tensor, Tensor]:  # (L, D), (B, N) bool, True where a sentence has a word
        n_words = token_ids.shape[1]
        if int(lengths.min()) < 1 or int(lengths.max()) > n_words:
            raise ValueError("lengths: expected at least 1 and at most as many words as there are token ids")
        real_mask = torch.arange(n_words, device=token_ids.device) < lengths.unsqueeze(1)
        words = self.words(token_ids[real_mask])
        if self.leaf_lstm is not None:
            words = self.leaf_lstm(words, real_mask, lengths)[real_mask]
        return words, real_mask

    def outcome(
        self,
        encodings: Tensor,  # (n, H) premises, then hypotheses
        chosen: dict[str, Tensor],  # (n, 2N - 1) each; what the trackers chose
    ) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if self.pairs:
            premise, hypothesis = torch.chunk(encodings, 2)
            features = torch.cat((premise, hypothesis, premise - hypothesis, premise * hypothesis), 1)
            if self.head is not None:
                found["logits"] = self.head(features)
            found["premise_encodings"], found["hypothesis_encodings"] = premise, hypothesis
            for name, rows in chosen.items():
                found["premise_" + name], found["hypothesis_" + name] = torch.chunk(rows, 2)
            return found
        if self.head is not None:
            found["logits"] = self.head(encodings)
        found["encodings"] = encodings
        for name, rows in chosen.items():
            found[name] = rows
        return found


class LaneScript(Script):
    """Run the machine with a tracker."""

    def __init__(self, graph: LaneGraph, cell: torch.jit.ScriptModule) -> None:
        super().__init__(graph)
        self.takes_transitions = graph.table_kind == "given"
        self.loop = LaneLoop(graph.weights(), cell)
        self.hidden_dim = graph.hidden_dim

    def run(
        self,
        token_ids: Tensor,  # (B, N) int64
        lengths: Tensor,  # (B,) int64
        given: Tensor | None,  # (B, 2N - 1) int64
    ) -> dict[str, Tensor]:
        if (given is not None) != self.takes_transitions:
            raise ValueError("transitions: expected those of all sentences, and none for a model that parses")
        words, _ = self.real_words(token_ids, lengths)
        states, made, log_probabilities = self.loop(words, lengths, token_ids.shape[1], given)
        chosen: dict[str, Tensor] = {}
        if given is None:
            chosen["transitions"], chosen["log_probabilities"] = made, log_probabilities
        return self.outcome(states[:, : self.hidden_dim], chosen)


class SentenceScript(LaneScript):
    """Take single sentences, with their transitions where the tracker does not parse."""

    def forward(
        self, token_ids: Tensor, lengths: Tensor, transitions: Tensor | None = None
    ) -> dict[str, Tensor]:
        return self.run(token_ids, lengths, transitions)


class PairScript(LaneScript):
    """Take pairs, with their transitions where the tracker does not parse."""

    def forward(
        self,
        premise_ids: Tensor,
        premise_lengths: Tensor,
        hypothesis_ids: Tensor,
        hypothesis_lengths: Tensor,
        premise_transitions: Tensor | None = None,
        hypothesis_transitions: Tensor | None = None,
    ) -> dict[str, Tensor]:
        if (premise_transitions is None) != (hypothesis_transitions is None):
            raise ValueError("transitions: expected those of both sides, or none")
        given: Tensor | None = None
        if premise_transitions is not None and hypothesis_transitions is not None:
            given = torch.cat((premise_transitions, hypothesis_transitions))
        token_ids = torch.cat((premise_ids, hypothesis_ids))
        return self.run(token_ids, torch.cat((premise_lengths, hypothesis_lengths)), given)


class SequenceScript(Script):
    """Encode by the words in a row."""

    def __init__(self, graph: SequenceGraph) -> None:
        super().__init__(graph)
        self.lstm = None if graph.lstm is None else LstmScript(graph.lstm)

    def run(
        self,
        token_ids: Tensor,  # (B, N) int64
        lengths: Tensor,  # (B,) int64
    ) -> dict[str, Tensor]:
        words, real_mask = self.real_words(token_ids, lengths)
        if self.lstm is not None:
            h = self.lstm(words, real_mask, lengths)
            encodings = last_states(h, lengths, self.lstm.forth.shape[0])
        else:
            sentence_index = real_mask.nonzero()[:, 0]
            zeros = words.new_zeros(lengths.shape[0], words.shape[1])
            encodings = zeros.index_add(0, sentence_index, words)
        return self.outcome(encodings, {})


class SentenceSequenceScript(SequenceScript):
    """Take single sentences, for an encoder that looks at no tree."""

    def forward(self, token_ids: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        return self.run(token_ids, lengths)


class PairSequenceScript(SequenceScript):
    """Take pairs, for an encoder that looks at no tree."""

    def forward(
        self,
        premise_ids: Tensor,
        premise_lengths: Tensor,
        hypothesis_ids: Tensor,
        hypothesis_lengths: Tensor,
    ) -> dict[str, Tensor]:
        return self.run(
            torch.cat((premise_ids, hypothesis_ids)), torch.cat((premise_lengths, hypothesis_lengths))
        )


class ForestScript(Script):
    """Run the machine without a tracker, its schedule given."""

    def __init__(self, graph: ForestGraph, cell: torch.jit.ScriptModule) -> None:
        super().__init__(graph)
        self.loop = ForestLoop(graph.hidden_dim, cell)

    def forward(
        self, token_ids: Tensor, left_index: Tensor, right_index: Tensor, root_index: Tensor
    ) -> dict[str, Tensor]:
        encodings = self.loop(self.words(token_ids), left_index, right_index, root_index)
        return self.outcome(encodings, {})


def script(model: Model, exported: Exported) -> torch.jit.ScriptModule:
    """Script the model. Its weights are copies.

    Raises ExportError for a model that cannot be exported so.
    """
    graph = build_graph(model, exported.tables, fold_leaves=exported.folded)
    module: Script
    with exporting(model, "TorchScript file"):
        if isinstance(graph, ForestGraph):
            module = ForestScript(graph, scripted_cell(graph.cell, model))
        elif isinstance(graph, SequenceGraph):
            module = (PairSequenceScript if graph.task == "pair" else SentenceSequenceScript)(graph)
        else:
            assert isinstance(graph, LaneGraph)
            cell = scripted_cell(graph.cell, model)
            module = (PairScript if graph.task == "pair" else SentenceScript)(graph, cell)
        return torch.jit.script(module.eval())


def export_torchscript(
    model: Model,
    path: str | Path,
    exported: Exported,  # of `describe`
) -> None:
    """Write the model, whole or not at all. The model's own weights and state are left alone.

    Raises ExportError for a model that cannot be exported as asked, DataError for a path that cannot be written to.
    """
    scripted = script(model, exported)
    files = {
        EXPORT: json.dumps(exported.metadata, ensure_ascii=False),
        LABELS: "\n".join(model.config.labels),
    }
    with atomic_write(path, "wb") as file, quiet():
        torch.jit.save(scripted, file, _extra_files=files)


def load_torchscript(path: str | Path) -> Candidate:
    """Load the model in a file of `export_torchscript`, on the CPU: arrays in, arrays out, by name.

    Raises ExportError for a file that is none.
    """
    extra = {EXPORT: ""}
    with reading(path, "TorchScript file"):
        scripted = torch.jit.load(str(expanded(path)), map_location="cpu", _extra_files=extra)
    require_ours(path, extra[EXPORT], EXPORT)
    return of_arrays(scripted)
