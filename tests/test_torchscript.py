"""TorchScript files: equal to their models, run by torch alone, whole or not there."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from spinn_tensor import run_given, run_own, to_torch
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.tables import lane_tables, own_tables
from spinn_tensor.export.artefact import output_axes
from spinn_tensor.export.fold import step_weights
from spinn_tensor.export.interface import ExportError, describe
from spinn_tensor.export.parity import TOLERANCES, compare, random_cases, reference, require
from spinn_tensor.export.script_loop import run_lanes
from spinn_tensor.export.scripts import export_torchscript, load_torchscript, script
from tests.artefacts import SAID, assert_equal, run_alone
from tests.closeness import EXACT
from tests.machines import flatten, random_transitions
from tests.tiny_models import tiny_model

pytestmark = pytest.mark.numerical

# task, kind, tables, leaf encoder
SCRIPTS = [
    ("pair", "spinn", "own", "projection"),
    ("sentence", "spinn", "own", "bilstm"),
    ("parse", "spinn", "own", "bilstm"),
    ("pair", "spinn", "given", "bilstm"),
    ("sentence", "spinn", "given", "projection"),
    ("pair", "spinn-pi", "given", "projection"),
    ("pair", "spinn-pi-nt", "forest", "projection"),
    ("sentence", "spinn-pi-nt", "forest", "projection"),
]


@pytest.mark.parametrize("task, kind, tables, leaf_encoder", SCRIPTS)
def test_a_file_says_what_its_model_says(task, kind, tables, leaf_encoder, tmp_path) -> None:
    model = tiny_model(task, kind, leaf_encoder=leaf_encoder)
    for limits in (TOLERANCES["float32"], EXACT):
        export_torchscript(
            model, tmp_path / "model.ts", describe(model, "torchscript", tables=tables, **SAID)
        )
        run = load_torchscript(tmp_path / "model.ts")
        case = next(random_cases(model, tables=tables, batch_sizes=(3,)))
        assert list(run(case.inputs)) == list(output_axes(task, tables))
        require(compare(model, run, random_cases(model, tables=tables), tables=tables), limits)
        model.double()


@pytest.mark.parametrize("task, kind", [("pair", "spinn"), ("sentence", "spinn-pi-nt")])
def test_folded_leaves_change_nothing(task, kind, tmp_path) -> None:
    model = tiny_model(task, kind).double()
    export_torchscript(model, tmp_path / "model.ts", describe(model, "torchscript", fold_leaves=True, **SAID))
    run = load_torchscript(tmp_path / "model.ts")
    require(compare(model, run, random_cases(model, batch_sizes=(8,))), EXACT)


@pytest.mark.parametrize("task, kind", [("pair", "spinn"), ("sentence", "spinn-pi"), ("pair", "spinn-pi-nt")])
def test_torch_alone_runs_it(task, kind, tmp_path) -> None:
    model = tiny_model(task, kind).double()
    export_torchscript(model, tmp_path / "model.ts", describe(model, "torchscript", **SAID))
    tables = {"spinn": "own", "spinn-pi": "given", "spinn-pi-nt": "forest"}[kind]
    case = next(random_cases(model, batch_sizes=(7,), seed=1))
    run_alone("torch.jit.load(sys.argv[1])", tmp_path, "model.ts", case.inputs)
    assert_equal(dict(np.load(tmp_path / "outputs.npz")), reference(model, case, tables))


@pytest.mark.parametrize("tables", ["own", "given"])
def test_the_loop_is_the_machine_in_double_precision(tables) -> None:
    model = tiny_model("sentence", "spinn").double()
    machine = model.encoder.composer
    rng = np.random.default_rng(0)
    batch = [random_transitions(rng, n) for n in (1, 2, 14, 40, 82, 1, 14, 2)]
    transitions, lengths = flatten(batch)
    n_words, rows = lengths.max(), np.full((len(lengths), 2 * lengths.max() - 1), -1)
    rows[np.arange(rows.shape[1]) < 2 * lengths[:, None] - 1] = transitions
    leaves = torch.randn(lengths.sum(), 2 * model.encoder.output_dim, dtype=torch.float64)
    weights, tracker = machine.compose.weights(), machine.tracker.weights()
    with torch.no_grad():
        if tables == "own":
            parse = run_own(
                leaves, weights, tracker, machine.transition.weights(), to_torch(own_tables(lengths))
            )
            expected, rows[rows >= 0] = parse.encodings, parse.transitions.numpy()
        else:
            lanes = to_torch(lane_tables(transitions, lengths))
            expected = run_given(leaves, weights, tracker, lanes, lanes.root_index)
        got, made = torch.jit.script(run_lanes)(
            leaves,
            torch.from_numpy(lengths),
            int(n_words),
            None if tables == "own" else torch.from_numpy(rows),
            step_weights(machine),
        )
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    assert torch.equal(made, torch.from_numpy(rows))


def test_lengths_that_cannot_be_are_refused() -> None:
    model = tiny_model("parse", "spinn")
    scripted = script(model, describe(model))
    token_ids = torch.ones(2, 3, dtype=torch.int64)
    for lengths in ([0, 3], [3, 4]):
        with pytest.raises(torch.jit.Error, match="lengths: expected at least 1"):
            scripted(token_ids, torch.tensor(lengths))


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


def test_whole_or_not_at_all(tmp_path, monkeypatch) -> None:
    model = tiny_model("pair", "spinn")

    def fail(scripted, file, **options):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.jit, "save", fail)
    with pytest.raises(OSError, match="No space"):
        export_torchscript(model, tmp_path / "model.ts", describe(model, "torchscript", **SAID))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="no such folder"):
        export_torchscript(model, tmp_path / "none" / "model.ts", describe(model, "torchscript", **SAID))


def test_what_is_no_file_of_ours(tmp_path) -> None:
    (tmp_path / "model.ts").write_bytes(b"PK nothing")
    for name in ("model.ts", "missing.ts"):
        with pytest.raises(ExportError, match=rf"{name}: not a readable TorchScript file") as error:
            load_torchscript(tmp_path / name)
        assert "\n" not in str(error.value)
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "other.ts")
    with pytest.raises(ExportError, match="not written by spinn_tensor"):
        load_torchscript(tmp_path / "other.ts")


def test_a_model_without_a_machine_is_refused() -> None:
    model = tiny_model("pair", "lstm")
    with pytest.raises(ExportError, match="'lstm' is not exported"):
        script(model, describe(model))
