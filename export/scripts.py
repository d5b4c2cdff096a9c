"""TorchScript of a trained model: scripted, so that the loop is in the file, and torch alone loads and runs it.

Inputs are those of `export.artefact`, and go in by name or in order; the output is a `Dict[str, Tensor]`,
which Python and C++ read by name. What the file says of itself is in its extra files, `export.json` and `labels.txt`.

The modules here are those of `export.graphs` in the subset of Python that TorchScript reads, which has no
`from __future__ import annotations`. Their loop is `export.script_loop`.
"""

import copy
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from spinn_tensor.data_prep.files import atomic_write
from spinn_tensor.data_prep.paths import expanded
from spinn_tensor.export.artefact import EXPORT, Exported
from spinn_tensor.export.cells import scripted_cell
from spinn_tensor.export.graphs import ForestGraph, Graph, LaneGraph, build_graph
from spinn_tensor.export.interface import Candidate, exporting, of_arrays, quiet, reading, require_ours
from spinn_tensor.export.script_loop import ForestLoop, LaneLoop
from spinn_tensor.model.classifiers import Model
from spinn_tensor.model.encoder import LastState

LABELS = "labels.txt"  # for C++, which reads no JSON: one a line, in the order of the logits


class Script(nn.Module):
    """Give all scripts what they share: leaves, what encodes lanes, head, and names of the outputs."""

    table: Tensor  # (V, E), or (V, D) folded

    def __init__(self, model: Model, graph: Graph) -> None:
        super().__init__()
        self.outputs, self.n_sides = list(graph.exported.outputs), graph.leaves.n_sides
        self.takes_transitions = graph.exported.tables == "given"
        self.hidden_dim = graph.exported.hidden_dim
        self.register_buffer("table", graph.leaves.table)
        self.projection, self.head = graph.leaves.projection, graph.head
        composer = model.encoder.composer
        lstms = model.encoder.leaves.lstm, composer.lstm if isinstance(composer, LastState) else None
        self.leaf_lstm, self.lstm = (
            None if lstm is None else copy.deepcopy(lstm).to("cpu", graph.leaves.sum_type) for lstm in lstms
        )
        self.loop: LaneLoop | None = None
        if isinstance(graph, LaneGraph):
            self.loop = LaneLoop(graph.weights(), scripted_cell(graph.cell, model))
        self.requires_grad_(False)

    def words(
        self,
        token_ids: Tensor,  # (L,) int64
    ) -> Tensor:  # (L, D)
        x = torch.nn.functional.embedding(token_ids, self.table)
        return x if self.projection is None else self.projection(x)

    def run(
        self,
        token_ids: Tensor,  # (B, N) int64
        lengths: Tensor,  # (B,) int64
        given: Tensor | None,  # (B, 2N - 1) int64
    ) -> dict[str, Tensor]:
        n_words = token_ids.shape[1]
        if (given is not None) != self.takes_transitions:
            raise ValueError(
                "transitions: expected those of all sentences, and none for a model that parses or looks at no tree"
            )
        if lengths.shape[0] == 0:
            raise ValueError("lengths: expected those of at least 1 sentence")
        if int(lengths.min()) < 1 or int(lengths.max()) > n_words:
            raise ValueError("lengths: expected at least 1 and at most as many words as there are token ids")
        real_mask = torch.arange(n_words, device=token_ids.device) < lengths.unsqueeze(1)
        words = self.words(token_ids[real_mask])
        if self.leaf_lstm is not None:
            outputs, _ = self.leaf_lstm(packed(words, real_mask, lengths))
            words = pad_packed_sequence(outputs, batch_first=True, total_length=n_words)[0][real_mask]
        chosen: list[Tensor] = []
        if self.loop is not None:
            states, transitions, log_probabilities = self.loop(words, lengths, n_words, given)
            encodings = states[:, : self.hidden_dim]  # beside which a policy's states may lie
            if given is None:
                chosen = [transitions, log_probabilities]
        elif self.lstm is not None:
            _, (h, _) = self.lstm(packed(words, real_mask, lengths))
            encodings = h.transpose(0, 1).flatten(1)
        else:
            zeros = words.new_zeros(lengths.shape[0], words.shape[1])
            encodings = zeros.index_add(0, real_mask.nonzero()[:, 0], words)
        return self.outcome(encodings, chosen)

    def outcome(
        self,
        encodings: Tensor,  # (n, H) premises, then hypotheses
        chosen: list[Tensor],  # (n, 2N - 1) each; what the trackers chose
    ) -> dict[str, Tensor]:
        """Return the outputs by name, in the order of `Exported.outputs`."""
        found: list[Tensor] = []
        if self.head is not None:
            features = encodings
            if self.n_sides == 2:
                premise, hypothesis = torch.chunk(encodings, 2)
                features = torch.cat((premise, hypothesis, premise - hypothesis, premise * hypothesis), 1)
            found.append(self.head(features))
        for rows in [encodings] + chosen:  # noqa: RUF005  TorchScript has no stars
            found.extend(torch.chunk(rows, self.n_sides))
        named: dict[str, Tensor] = {}
        for number, name in enumerate(self.outputs):
            named[name] = found[number]
        return named


def packed(
    words: Tensor,  # (L, D) of all sentences
    real_mask: Tensor,  # (B, N) bool, True where a sentence has a word
    lengths: Tensor,  # (B,) int64
) -> PackedSequence:
    """Return words as PyTorch's LSTM reads them."""
    lanes = words.new_zeros(real_mask.shape[0], real_mask.shape[1], words.shape[1])
    lanes[real_mask] = words
    return pack_padded_sequence(lanes, lengths.cpu(), batch_first=True, enforce_sorted=False)


class SentenceScript(Script):
    """Take single sentences, with their transitions where the model composes by given ones."""

    def forward(
        self, token_ids: Tensor, lengths: Tensor, transitions: Tensor | None = None
    ) -> dict[str, Tensor]:
        return self.run(token_ids, lengths, transitions)


class PairScript(Script):
    """Take pairs, with their transitions where the model composes by given ones."""

    def forward(
        self,
        premise_ids: Tensor,
        premise_lengths: Tensor,
        hypothesis_ids: Tensor,
        hypothesis_lengths: Tensor,
        premise_transitions: Tensor | None = None,
        hypothesis_transitions: Tensor | None = None,
    ) -> dict[str, Tensor]:
        if (
            premise_ids.shape[0] != hypothesis_ids.shape[0]
            or premise_lengths.shape != hypothesis_lengths.shape
        ):
            raise ValueError("premises and hypotheses: expected as many of both")
        if (premise_transitions is None) != (hypothesis_transitions is None):
            raise ValueError("transitions: expected those of both sides, or none")
        given: Tensor | None = None
        if premise_transitions is not None and hypothesis_transitions is not None:
            given = torch.cat((premise_transitions, hypothesis_transitions))
        token_ids = torch.cat((premise_ids, hypothesis_ids))
        return self.run(token_ids, torch.cat((premise_lengths, hypothesis_lengths)), given)


class ForestScript(Script):
    """Run the machine without a tracker, its schedule given."""

    def __init__(self, model: Model, graph: ForestGraph) -> None:
        super().__init__(model, graph)
        self.forest = ForestLoop(graph.exported.hidden_dim, scripted_cell(graph.cell, model))

    def forward(
        self, token_ids: Tensor, left_index: Tensor, right_index: Tensor, root_index: Tensor
    ) -> dict[str, Tensor]:
        encodings = self.forest(self.words(token_ids), left_index, right_index, root_index)
        chosen: list[Tensor] = []
        return self.outcome(encodings, chosen)


def script(model: Model, exported: Exported) -> torch.jit.ScriptModule:
    """Script the model. Its weights are copies.

    Raises ExportError for a model that cannot be exported so.
    """
    graph = build_graph(model, exported)
    with exporting(model, "TorchScript file"):
        if isinstance(graph, ForestGraph):
            module: Script = ForestScript(model, graph)
        else:
            module = (PairScript if exported.task == "pair" else SentenceScript)(model, graph)
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
