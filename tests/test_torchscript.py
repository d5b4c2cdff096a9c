"""TorchScript files: equal to their models, run by torch alone, whole or not there."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spinn_tensor import run_own, to_torch
from spinn_tensor.data_prep.tables import own_tables
from spinn_tensor.export.cells import TreeLSTMCell, exported_cell, scripted_cell
from spinn_tensor.export.fold import step_weights
from spinn_tensor.export.interface import ExportError, describe
from spinn_tensor.export.job import write_artefact
from spinn_tensor.export.parity import TOLERANCES, compare, random_cases, reference, require
from spinn_tensor.export.script_loop import LaneLoop
from spinn_tensor.export.scripts import export_torchscript, load_torchscript, script
from spinn_tensor.export.step import Product
from tests.artefacts import SAID, assert_equal, run_alone
from tests.contract import Artefact, ArtefactContract, Executor, ExecutorContract
from tests.machines import flatten
from tests.tiny_models import tiny_model

pytestmark = pytest.mark.numerical

# task, kind, tables, leaf encoder, leaves folded
SCRIPTS = [
    ("pair", "spinn", "own", "projection", False),
    ("pair", "spinn", "own", "projection", True),
    ("sentence", "spinn", "own", "bilstm", False),
    ("parse", "spinn", "own", "bilstm", False),
    ("pair", "spinn", "given", "bilstm", False),
    ("sentence", "spinn", "given", "projection", False),
    ("pair", "spinn-pi", "given", "projection", False),
    ("pair", "spinn-pi-nt", "forest", "projection", False),
    ("sentence", "spinn-pi-nt", "forest", "projection", True),
    ("pair", "lstm", "sequence", "projection", False),
    ("sentence", "bilstm", "sequence", "bilstm", True),
    ("pair", "bow", "sequence", "projection", True),
]


@pytest.fixture(scope="module", params=SCRIPTS, ids=str)
def artefact(request, tmp_path_factory) -> Artefact:
    """Give each script, read from its file."""
    task, kind, tables, leaf_encoder, folded = request.param
    model = tiny_model(task, kind, leaf_encoder=leaf_encoder).double()
    path = tmp_path_factory.mktemp("script") / "model.ts"
    described = describe(model, "torchscript", tables=tables, fold_leaves=folded, **SAID)
    return Artefact(model, tables, write_artefact(model, path, described), path)


@pytest.mark.once
class TestScripts(ArtefactContract):
    """All kinds of scripts."""


def test_a_file_in_single_precision_is_as_close_as_artefacts_may_be(tmp_path) -> None:
    model = tiny_model("pair", "spinn")
    run = write_artefact(model, tmp_path / "model.ts", describe(model, "torchscript", **SAID))
    require(compare(model, run, random_cases(model)), TOLERANCES["float32"])


@pytest.mark.once
@pytest.mark.parametrize(
    "kind, leaf_encoder", [("spinn", "bilstm"), ("spinn-pi", "bilstm"), ("lstm", "projection")]
)
def test_a_model_in_bfloat16_gives_a_script_of_single_precision(kind, leaf_encoder) -> None:
    model = tiny_model("pair", kind, leaf_encoder=leaf_encoder).bfloat16()
    module = script(model, described := describe(model, "torchscript", **SAID))
    lstms = module.leaf_lstm if leaf_encoder == "bilstm" else module.lstm
    assert {weight.dtype for weight in lstms.parameters()} == {torch.float32}
    assert not any(weight.requires_grad for weight in module.parameters())
    single = tiny_model("pair", kind, leaf_encoder=leaf_encoder)
    case = next(random_cases(single, batch_sizes=(5,), seed=1))
    inputs = {name: torch.from_numpy(np.asarray(case.inputs[name])) for name in described.inputs}
    of_single = script(model.float(), describe(model, "torchscript", **SAID))
    torch.testing.assert_close(module(**inputs), of_single(**inputs), atol=0.02, rtol=0.02)


@pytest.mark.once
@pytest.mark.parametrize(
    "task, kind",
    [
        ("pair", "spinn"),
        pytest.param("sentence", "spinn-pi", marks=pytest.mark.slow),
        pytest.param("pair", "spinn-pi-nt", marks=pytest.mark.slow),
    ],
)
def test_torch_alone_runs_it(task, kind, tmp_path) -> None:
    model = tiny_model(task, kind).double()
    export_torchscript(model, tmp_path / "model.ts", describe(model, "torchscript", **SAID))
    tables = {"spinn": "own", "spinn-pi": "given", "spinn-pi-nt": "forest"}[kind]
    case = next(random_cases(model, batch_sizes=(7,), seed=1))
    run_alone("torch.jit.load(sys.argv[1])", tmp_path, "model.ts", case.inputs)
    assert_equal(dict(np.load(tmp_path / "outputs.npz")), reference(model, case, tables))


def padded_rows(values: np.ndarray, lengths: np.ndarray, padding: float = -1) -> np.ndarray:  # (B, 2N - 1)
    """Lay what there is of transitions out as a batch of the loop has them."""
    rows = np.full((len(lengths), 2 * lengths.max() - 1), padding, dtype=values.dtype)
    rows[np.arange(rows.shape[1]) < 2 * lengths[:, None] - 1] = values
    return rows


@pytest.fixture(scope="module")
def executor() -> Executor:
    """Give the loop over given transitions, scripted."""

    def run(leaves, compose, tracker, batch, every_node) -> torch.Tensor:
        transitions, lengths = flatten(batch)
        machine = SimpleNamespace(tracker=SimpleNamespace(weights=lambda: tracker), transition=None)
        weight = torch.cat((compose.weight, compose.tracker_weight), 1).detach().t()
        cell = TreeLSTMCell(Product(weight, compose.bias.detach()))
        widths = leaves.shape[1], leaves.shape[1], compose.tracker_weight.shape[1]
        inputs = tuple(leaves.new_zeros(1, width).detach() for width in widths)
        loop = LaneLoop(step_weights(machine), torch.jit.trace(cell, inputs))
        rows = torch.from_numpy(padded_rows(transitions.astype(np.int64), lengths))
        with torch.no_grad():
            return torch.jit.script(loop)(leaves, torch.from_numpy(lengths), int(lengths.max()), rows)[0]

    return Executor(True, run, is_differentiable=False, has_nodes=False)


class TestLoop(ExecutorContract):
    """What all scripts of a machine with a tracker run."""


def test_the_loop_chooses_as_the_machine_does() -> None:
    model = tiny_model("sentence", "spinn").double()
    machine = model.encoder.composer
    lengths = np.array([1, 2, 14, 40, 82, 1, 14, 2])
    leaves = torch.randn(lengths.sum(), 2 * model.encoder.output_dim, dtype=torch.float64)
    weights = machine.compose.weights(), machine.tracker.weights(), machine.transition.weights()
    with torch.no_grad():
        parse = run_own(leaves, *weights, to_torch(own_tables(lengths)))
        loop = LaneLoop(step_weights(machine), scripted_cell(exported_cell(model, leaves.dtype), model))
        got, made, log_probabilities = torch.jit.script(loop)(
            leaves, torch.from_numpy(lengths), int(lengths.max()), None
        )
    torch.testing.assert_close(got, parse.encodings, rtol=0, atol=1e-10)
    assert made.tolist() == padded_rows(parse.transitions.numpy(), lengths).tolist()
    expected = padded_rows(parse.log_probabilities().numpy(), lengths, 0)
    np.testing.assert_allclose(log_probabilities, expected, rtol=0, atol=1e-10)


def test_lengths_that_cannot_be_are_refused() -> None:
    model = tiny_model("parse", "spinn")
    scripted = script(model, describe(model))
    token_ids = torch.ones(2, 3, dtype=torch.int64)
    for lengths in ([0, 3], [3, 4]):
        with pytest.raises(torch.jit.Error, match="lengths: expected at least 1"):
            scripted(token_ids, torch.tensor(lengths))
    with pytest.raises(torch.jit.Error, match="lengths: expected those of at least 1 sentence"):
        scripted(token_ids[:0], torch.zeros(0, dtype=torch.int64))


def test_as_many_premises_as_hypotheses_are_taken() -> None:
    """One premise beside three hypotheses is no two pairs."""
    model = tiny_model("pair", "bow")
    scripted = script(model, describe(model))
    token_ids, lengths = torch.ones(3, 2, dtype=torch.int64), torch.tensor([2, 1, 2])
    assert scripted(token_ids, lengths, token_ids, lengths)["logits"].shape == (3, 3)
    with pytest.raises(torch.jit.Error, match="premises and hypotheses: expected as many of both"):
        scripted(token_ids[:1], lengths[:1], token_ids, lengths)


def test_transitions_are_for_models_that_do_not_parse() -> None:
    token_ids, transitions = torch.ones(1, 2, dtype=torch.int64), torch.tensor([[0, 0, 1]])
    for tables, given in (("own", transitions), ("given", None)):
        model = tiny_model("sentence", "spinn")
        scripted = script(model, describe(model, tables=tables))
        with pytest.raises(torch.jit.Error, match="transitions: expected those of all"):
            scripted(token_ids, torch.tensor([2]), given)


@pytest.mark.parametrize("tables", ["own", "given"])
@pytest.mark.parametrize("side", ["premise", "hypothesis"])
def test_transitions_are_those_of_both_sides(tables: str, side: str) -> None:
    model = tiny_model("pair", "spinn")
    scripted = script(model, describe(model, tables=tables))
    token_ids, lengths = torch.ones(1, 2, dtype=torch.int64), torch.tensor([2])
    given = {f"{side}_transitions": torch.tensor([[0, 0, 1]])}
    with pytest.raises(torch.jit.Error, match="transitions: expected those of both sides"):
        scripted(token_ids, lengths, token_ids, lengths, **given)


def test_the_file_says_what_it_is(tmp_path) -> None:
    model = tiny_model("pair", "spinn")
    export_torchscript(model, tmp_path / "model.ts", describe(model, "torchscript", **SAID))
    files = {"export.json": "", "labels.txt": ""}
    torch.jit.load(tmp_path / "model.ts", _extra_files=files)
    said = json.loads(files["export.json"])
    assert {name: said[name] for name in ("task", "kind", "tables", "vocabulary_sha256", "max_length")} == {
        "task": "pair",
        "kind": "spinn",
        "tables": "own",
        "vocabulary_sha256": "0123abc",
        "max_length": "90",
    }
    assert tuple(files["labels.txt"].decode().split("\n")) == model.config.labels


def test_what_is_no_file_of_ours(tmp_path) -> None:
    (tmp_path / "model.ts").write_bytes(b"PK nothing")
    for name in ("model.ts", "missing.ts"):
        with pytest.raises(ExportError, match=rf"{name}: not a readable TorchScript file") as error:
            load_torchscript(tmp_path / name)
        assert "\n" not in str(error.value)
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "other.ts")
    with pytest.raises(ExportError, match="not written by spinn_tensor"):
        load_torchscript(tmp_path / "other.ts")
