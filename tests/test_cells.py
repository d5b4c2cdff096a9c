"""The setting `cell`: models of other cells are trained, saved, read and refused; and their compiled steps."""

from __future__ import annotations

import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from spinn_tensor import (
    GRC,
    RNTN,
    CheckpointError,
    ClassifierConfig,
    ConfigError,
    EncoderConfig,
    Pipeline,
    SentenceClassifier,
    SentenceEncoder,
    StackMachine,
    Tracker,
    TransitionHead,
    TreeGRU,
    TreeLSTM,
    make_sentence_batch,
)
from spinn_tensor.cli.main import main
from spinn_tensor.config import CELLS, SPINN_KINDS
from spinn_tensor.data_prep.columns import lengths
from spinn_tensor.model.classifiers import MLP
from spinn_tensor.training.checkpoint import read_training_state
from tests.any_cells import OddCell, RunningMean, recursion
from tests.closeness import assert_close
from tests.command_line import assert_fails_cleanly
from tests.machines import TABLES, flatten, random_transitions, relative_error
from tests.strategies import columns_of
from tests.tiny_bundles import tiny_bundle, tiny_model
from tests.tiny_runs import PRESET, pair_arguments

pytestmark = pytest.mark.numerical

MODULE = """
import torch
from torch import nn

class Cell(nn.Module):
    def __init__(self, hidden_dim, tracker_dim):
        super().__init__()
        self.state_dim, self.output_dim = hidden_dim + 1, hidden_dim
        self.layer = nn.Linear(2 * self.state_dim + (tracker_dim or 0), self.state_dim)
        self.register_buffer("factor", torch.tensor(0.75), persistent=False)

    def forward(self, left, right, tracker=None):
        more = () if tracker is None else (tracker,)
        return self.factor * self.layer(torch.cat((left, right, *more), 1)).tanh()

class Narrow(Cell):
    def __init__(self, hidden_dim, tracker_dim):
        super().__init__(hidden_dim - 1, tracker_dim)

class Silent(nn.Module):
    def __init__(self, hidden_dim, tracker_dim):
        super().__init__()

"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that Python finds in a folder of its own."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "cells_of_mine.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "cells_of_mine", raising=False)
    return "cells_of_mine"


def columns():
    rng = np.random.default_rng(0)
    made = columns_of([random_transitions(rng, n) for n in (5, 1, 9, 3)])
    return made._replace(token_ids=rng.integers(2, 7, len(made.token_ids)).astype(np.int32))


def config(kind: str, cell: str) -> EncoderConfig:
    return EncoderConfig(7, kind, embedding_dim=6, hidden_dim=4, tracker_dim=3, cell=cell)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", SPINN_KINDS)
def test_an_encoder_of_any_cell_is_the_recursion_on_its_leaves(kind: str, cell: str) -> None:
    torch.manual_seed(0)
    encoder, some = SentenceEncoder(config(kind, cell)).double().eval(), columns()
    batch = make_sentence_batch(some, encoder.table_kind)
    codes = some.transitions
    if kind == "spinn":
        codes = encoder.parse(batch).transitions.numpy()
    trees = np.split(codes, np.cumsum(2 * lengths(some) - 1)[:-1])
    machine = encoder.composer
    expected, _ = recursion(machine.compose, machine.tracker, encoder.leaves(batch), trees)
    assert relative_error(encoder.node_states(batch), expected) < 1e-10
    roots = np.cumsum(2 * lengths(some) - 1) - 1
    assert relative_error(encoder(batch), expected[roots]) < 1e-10
    assert encoder.output_dim == expected.shape[1]
    assert machine.is_built_in == (cell == "treelstm")


@pytest.mark.parametrize(
    "name, message",
    [
        ("cells_of_mine:Absent", "cells_of_mine:Absent is no class of torch.nn.Module"),
        ("cells_of_mine:Silent", "cells_of_mine:Silent has no state_dim"),
        ("cells_of_mine:Narrow", "cells_of_mine:Narrow makes encodings 3 wide, expected hidden_dim, 4"),
    ],
)
def test_what_is_no_cell_is_refused(name: str, message: str, module: str) -> None:
    """What no part of one's own may be, tests/test_own_parts.py tells."""
    with pytest.raises(ConfigError, match=message):
        SentenceEncoder(config("spinn-pi-nt", name))


class Pairing(nn.Module):
    """A cell of two arguments."""

    def __init__(self, hidden_dim: int, tracker_dim: int | None) -> None:
        super().__init__()
        self.state_dim = hidden_dim

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left - right


def test_a_cell_without_the_argument_goes_with_no_tracker() -> None:
    name = f"{__name__}:Pairing"
    assert SentenceEncoder(config("spinn-pi-nt", name)).composer.tracker is None
    with pytest.raises(
        ConfigError, match=r"Pairing cannot go with a tracker \(.*forward\(left, right, tracker\)"
    ):
        SentenceEncoder(config("spinn-pi", name))


def test_a_bundle_names_its_cell_and_is_read_where_python_finds_it(
    tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cell in ("grc", f"{module}:Cell"):
        model = tiny_model("spinn-pi", "sentence", cell=cell)
        model.save_pretrained(tmp_path / "bundle")
        settings = json.loads((tmp_path / "bundle" / "config.json").read_text())["model"]["encoder"]
        assert settings["cell"] == cell
        again = SentenceClassifier.from_pretrained(tmp_path / "bundle")
        batch = make_sentence_batch(columns(), "lanes")
        assert torch.equal(again.encoder(batch), model.encoder(batch))
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "cells_of_mine:Cell over given parses" in card
    assert (
        Pipeline.from_pretrained(tmp_path / "bundle").classify(["( A dog )"])[0].label in model.config.labels
    )
    shutil.rmtree(tmp_path / "site")
    monkeypatch.delitem(sys.modules, module)
    with pytest.raises(CheckpointError, match=r"config.json: cell: cells_of_mine:Cell cannot be imported"):
        SentenceClassifier.from_pretrained(tmp_path / "bundle")


@pytest.mark.parametrize("as_package", [False, True])
def test_no_code_is_run_from_the_bundle(
    as_package: bool, tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where Python would find it, because the bundle's folder is the working directory."""
    bundle = tiny_bundle(tmp_path / "bundle", "spinn-pi", "sentence", cell=f"{module}:Cell")
    monkeypatch.delitem(sys.modules, module)
    place = bundle / module / "__init__.py" if as_package else bundle / f"{module}.py"
    place.parent.mkdir(exist_ok=True)
    place.write_text("raise SystemExit('it was run')", encoding="utf-8")
    monkeypatch.chdir(bundle)
    monkeypatch.syspath_prepend("")
    with pytest.raises(
        CheckpointError, match="lies in the bundle's own folder, and no code is run from there"
    ):
        SentenceClassifier.from_pretrained(bundle)
    assert module not in sys.modules


@pytest.mark.once
def test_training_with_another_cell_resuming_and_exporting(tmp_path: Path, module: str) -> None:
    tmp_path.joinpath("data").mkdir()
    arguments = [*pair_arguments(tmp_path / "data"), *PRESET]
    for name, cell in (("grc", "grc"), ("mine", f"{module}:Cell")):
        settings = ["--set", f"cell={cell}", "--output", str(tmp_path / name)]
        assert main([*arguments, *settings, "--epochs", "1"]) == 0
    assert main([*arguments, *settings, "--epochs", "2", "--resume"]) == 0
    assert read_training_state(tmp_path / "mine" / "last").progress.epoch == 2
    assert main(["evaluate", str(tmp_path / "mine")]) == 0
    exported = tmp_path / "exported"
    mine = ["export", str(tmp_path / "mine"), "--format", "torchscript", "--output", str(exported)]
    assert main(mine) == 0
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from spinn_tensor.export.predictor import OnnxPredictor

    run, exported = tmp_path / "grc", tmp_path / "exported_onnx"
    assert main(["export", str(run), "--output", str(exported), "--format", "onnx"]) == 0
    sides = ["( A dog )", "barks"], ["( ( A dog ) barks )", "( barks dog )"]
    expected = Pipeline.from_pretrained(run).classify(*sides)
    for got, theirs in zip(OnnxPredictor(exported, "cpu").classify(*sides), expected, strict=True):
        assert_close(list(got.probabilities.values()), list(theirs.probabilities.values()))


def test_training_with_a_cell_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*pair_arguments(tmp_path), *PRESET, "--output", str(tmp_path / "run"), "--cell"]
    message = "cell: nowhere_at_all:Cell cannot be imported"
    assert_fails_cleanly([*arguments, "nowhere_at_all:Cell"], message, tmp_path, capsys)


def test_weights_begin_as_wide_as_the_papers_have_them() -> None:
    """By He et al. 2015, but for a tensor, words and what a softmax is of."""
    torch.manual_seed(0)
    tree, tracker = TreeLSTM(60, 40), Tracker(60, 40)
    leaves = SentenceEncoder(EncoderConfig(100, "spinn-pi-nt", 50, 60)).leaves
    for weight, std in (
        (TreeLSTM(60).weight, (2 / 120) ** 0.5),
        (tree.weight, (2 / 160) ** 0.5),
        (tree.tracker_weight, (2 / 160) ** 0.5),
        (tracker.weight_input, (2 / 220) ** 0.5),
        (tracker.weight_hidden, (2 / 220) ** 0.5),
        (GRC(60, 40).inner.weight, (2 / 160) ** 0.5),
        (RNTN(20, 10).tensor, 1 / 50),
        (leaves.embedding.weight, 50**-0.5),
        (leaves.projection.weight, (2 / 50) ** 0.5),
        (TransitionHead(5000).weight, 0.005 / 3**0.5),
        (MLP(60, ClassifierConfig(3, 2000)).output.weight, 0.005 / 3**0.5),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize("said", [(), (torch.tensor([0.5, -1.0, 2.0]),)], ids=["alone", "tracker"])
def test_cells_compute_what_is_said_of_them(said) -> None:
    """GRC, RNTN and TreeGRU on one pair of states, by the equations of their docstrings."""
    left, right = torch.tensor([1.0, -2.0, 0.5, 3.0]), torch.tensor([-1.5, 0.25, 2.0, -0.5])
    grc, rntn, gru = (kind(4, len(said) * 3 or None) for kind in (GRC, RNTN, TreeGRU))
    torch.manual_seed(0)
    for cell in (grc, rntn, gru):
        for parameter in cell.double().parameters():
            nn.init.normal_(parameter, std=0.1)
    left, right, *said = (state.double() for state in (left, right, *said))
    x = torch.cat((left, right, *said))
    layer = grc.inner.weight @ x + grc.inner.bias
    of_left, of_right, of_new, new = (grc.outer.weight @ layer.relu() + grc.outer.bias).chunk(4)
    mixed = of_left.sigmoid() * left + of_right.sigmoid() * right + of_new.sigmoid() * new
    normal = (mixed - mixed.mean()) / (mixed.var(correction=0) + grc.norm.eps).sqrt()
    quadratic = torch.stack([x @ matrix @ x for matrix in rntn.tensor])
    of_left, of_right, z = (gru.gates.weight @ x + gru.gates.bias).sigmoid().chunk(3)
    inputs = torch.cat((of_left * left, of_right * right, *said))
    candidate = (gru.candidate.weight @ inputs + gru.candidate.bias).tanh()
    for cell, expected in (
        (grc, normal * grc.norm.weight + grc.norm.bias),
        (rntn, (quadratic + rntn.linear.weight @ x + rntn.linear.bias).tanh()),
        (gru, z * (left + right) + (1 - z) * candidate),
    ):
        got = cell(*(state.unsqueeze(0) for state in (left, right, *said)))
        torch.testing.assert_close(got.squeeze(0), expected, rtol=1e-10, atol=1e-10)


def machine_and_tables(name: str) -> tuple[StackMachine, str]:
    return {
        "forest": (StackMachine(GRC(4)), "forest"),
        "lanes": (StackMachine(GRC(4, 3), Tracker(4, 3)), "given"),
        "own": (StackMachine(OddCell(4), RunningMean(5), TransitionHead(4)), "own, forced"),
    }[name]


@pytest.mark.once
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.parametrize(
    "name, backend",
    [
        pytest.param("forest", "inductor", marks=pytest.mark.slow),
        ("forest", "aot_eager"),
        ("lanes", "aot_eager"),
        ("own", "aot_eager"),
    ],
)
def test_one_graph_for_batches_of_every_size(name: str, backend: str) -> None:
    if backend == "inductor" and os.environ.get("ATEN_CPU_CAPABILITY") == "default":
        pytest.skip("what inductor generates does not compile under it (torch 2.13)")
    torch._dynamo.reset()
    counters.clear()
    machine, table_name = machine_and_tables(name)
    machine.double()
    rng = np.random.default_rng(0)

    def loss(leaves: Tensor, tables) -> Tensor:
        if machine.transition is None:
            return machine(leaves.sin(), tables).sin().sum()
        parse = machine.parse(leaves.sin(), tables)
        return parse.encodings.sin().sum() + parse.log_probabilities().sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=backend)
    for n_trees in (3, 6, 4, 8):
        batch = [random_transitions(rng, int(n)) for n in rng.integers(2, 9, n_trees)]
        tables, n_words = TABLES[table_name](batch), int(flatten(batch)[1].sum())
        leaves = torch.randn(n_words, machine.compose.state_dim, dtype=torch.float64, requires_grad=True)
        inputs = [leaves, *machine.parameters()]
        take = partial(torch.autograd.grad, inputs=inputs, allow_unused=True, materialize_grads=True)
        for got, expected in zip(take(compiled(leaves, tables)), take(loss(leaves, tables)), strict=True):
            assert relative_error(got, expected) < 1e-10
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    torch._dynamo.reset()
