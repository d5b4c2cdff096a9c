"""A model of a policy and a composer: exported as the one machine that does the work of both, trained and resumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spinn_tensor import EncoderConfig, load_checkpoint, make_sentence_batch
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.errors import Interrupted
from spinn_tensor.export.interface import ExportError, describe
from spinn_tensor.export.job import write_artefact
from spinn_tensor.export.parity import TOLERANCES, compare, random_cases, require
from spinn_tensor.training import rule_search
from spinn_tensor.training import run as training
from spinn_tensor.training.config import DataConfig, RunConfig
from spinn_tensor.training.loop import Observer, TrainingError
from spinn_tensor.training.methods import make_method
from spinn_tensor.training.presets import run_config
from tests.artefacts import graph_function
from tests.closeness import EXACT
from tests.tiny_models import some_columns, some_pairs, tiny_model
from tests.tiny_runs import assert_same_run, figures, write_pairs
from tests.tiny_training import Stop

pytestmark = pytest.mark.numerical

CASES = [("pair", "own", True), ("sentence", "own", False), ("pair", "given", False)]


def artefact_of(model, tables: str, folded: bool, form: str, path: Path):
    """The model as a function of arrays: as a graph of torch, or read from a file."""
    said = {"tables": tables, "fold_leaves": folded}
    if form == "graph":
        return graph_function(model, **said)
    if form == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    return write_artefact(model, path, describe(model, form, **said))


@pytest.mark.once
@pytest.mark.parametrize(
    "form, task, tables, folded",
    [
        pytest.param(form, *case, marks=[] if case in quick else [pytest.mark.slow])
        for form, quick in (("graph", []), ("onnx", []), ("torchscript", CASES))  # ONNX, of the graph, below
        for case in CASES
    ],
)
def test_an_artefact_is_its_model(form: str, task: str, tables: str, folded: bool, tmp_path: Path) -> None:
    model = tiny_model(task, "spinn", policy_dim=3).double()
    run = artefact_of(model, tables, folded, form, tmp_path / "model")
    cases = random_cases(model, tables=tables, batch_sizes=(1, 6))
    require(compare(model, run, cases, tables=tables), EXACT)


def test_a_file_in_single_precision_is_as_close_as_artefacts_may_be(tmp_path: Path) -> None:
    model = tiny_model("pair", "spinn", policy_dim=3)
    run = artefact_of(model, "own", False, "onnx", tmp_path / "model.onnx")
    require(compare(model, run, random_cases(model)), TOLERANCES["float32"])


def test_another_cell_beside_a_policy_is_trained_and_not_exported() -> None:
    model = tiny_model("sentence", "spinn", policy_dim=3, cell="grc")
    assert model.encoder(make_sentence_batch(some_columns(), "own")).isfinite().all()
    with pytest.raises(ExportError, match="with a policy of its own only cell 'treelstm' is exported"):
        describe(model)


def test_the_encoder_composes_what_its_policy_parses() -> None:
    encoder = tiny_model("sentence", "spinn", policy_dim=3).double().eval().encoder
    columns = some_columns()
    own = make_sentence_batch(columns, "own")
    transitions = encoder.policy.parse(own).transitions
    assert torch.equal(encoder.parse(own).transitions, transitions)
    forest = make_sentence_batch(columns._replace(transitions=transitions.numpy().astype(np.int8)), "forest")
    for got, expected in (
        (encoder(own), encoder(forest)),
        (encoder.parse(own).encodings, encoder(forest)),
        (encoder.node_states(own), encoder.node_states(forest)),
        (encoder.beams(make_sentence_batch(columns, "own"), 1).parse.encodings, encoder(forest)),
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_its_forget_gates_start_open() -> None:
    torch.manual_seed(0)
    encoder = EncoderConfig(9, "spinn", 5, 6, 4, policy_dim=3)
    from spinn_tensor.model.encoder import SentenceEncoder

    made = SentenceEncoder(encoder)
    assert made.composer.compose.bias.tolist() == [0.0] * 12 + [1.0] * 12 + [0.0] * 6
    assert made.policy.composer.tracker.bias.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8
    assert made.policy.composer.compose.bias.tolist() == [0.0] * 6 + [1.0] * 6 + [0.0] * 3


def ppo_run(folder: Path, **settings) -> RunConfig:
    """Settings of a run of 24 steps; the last ones are the longest sentences'."""
    files = {"train": (str(write_pairs(folder / "train.jsonl", 64, seed=1)),)}
    files["dev"] = (str(write_pairs(folder / "dev.jsonl", 24, seed=2)),)
    run = run_config("logic-ppo", DataConfig(corpus="snli", **files))
    small = {"embedding_dim": 8, "hidden_dim": 8, "tracker_dim": 4, "policy_dim": 6, "mlp_dim": 12}
    small |= {"batch_size": 16, "epochs": 6, "log_every": 1, "warmup_steps": 2, "policy_steps": 3}
    small |= {"n_samples": 4, "baseline": "greedy", "search_steps": 0}
    return run.changed(**{**small, "first_length": 3, "length_loss": 9.0, **settings})


@pytest.mark.parametrize("credit, search_steps", [("sentence", 10), ("deviation", 0)])
def test_a_run_goes_on_where_it_stopped(
    credit: str, search_steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it searches it is stopped before, in a round, when copies have begun to learn, and afterwards."""
    monkeypatch.setattr(rule_search, "LEVELS", ((16, 2),))
    monkeypatch.setattr(rule_search, "N_LEARNT", 4)
    run = ppo_run(tmp_path, credit=credit, search_steps=search_steps)
    training.execute(run, tmp_path / "whole")
    for number, step in enumerate((2, 5, 15)):
        with pytest.raises(Interrupted):
            training.execute(run, tmp_path / "parts", observer=Stop(step), resume=number > 0)
    training.execute(run, tmp_path / "parts", observer=Observer(), resume=True)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    lines = [line for line in figures(tmp_path / "whole") if line["kind"] == "train"]
    lengths = [line["longest"] for line in lines]
    assert lengths[0] == 3
    assert lengths[-1] > 3, "the curriculum lets longer ones in"
    first = 2 + search_steps  # of the policy's own steps, of which the log tells the entropy
    assert [("entropy" in line) for line in lines] == [step >= first for step in range(len(lines))]
    model = load_checkpoint(tmp_path / "whole").model
    assert model.config.encoder.policy_dim == 6


def test_a_search_holds_a_round(tmp_path: Path) -> None:
    config = ppo_run(tmp_path, search_steps=145).parsing
    with pytest.raises(ConfigError, match="search_steps: got 145, expected 0 or at least 146"):
        make_method(tiny_model("pair", "spinn", policy_dim=3), config, compiled=False)


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    wrong = [
        ({"policy_dim": 0}, "learning: ppo needs a policy of its own"),
        ({"kind": "spinn-pi"}, "policy_dim: only kind spinn parses, got 'spinn-pi'"),
        ({"leaf_encoder": "bilstm"}, "policy_dim: needs leaf_encoder projection"),
        ({"accumulate": 2}, "accumulate: not with learning: ppo"),
        ({"label_smoothing": 0.1}, "label_smoothing: not with learning: ppo"),
        (
            {"credit": "deviation", "baseline": "mean"},
            "baseline: deviations are held against the greedy parse",
        ),
        ({"lr_schedule": "linear"}, "first_length: the length of the run is not known"),
        ({"policy_dim": 0, "learning": "supervised", "policy_rate": 0.5}, "policy_rate: there is no policy"),
    ]
    run = ppo_run(tmp_path)
    for settings, reason in wrong:
        with pytest.raises(ConfigError, match=reason):
            run.changed(**settings)


def test_the_policy_has_a_rate_of_its_own(tmp_path: Path) -> None:
    from spinn_tensor.training.optimizer import make_optimizer

    model = tiny_model("pair", "spinn", policy_dim=3)
    config = ppo_run(tmp_path, policy_rate=0.25, learning_rate=0.1, embedding_rate=2.0).training
    rate_of = {
        id(p): group["lr"] for group in make_optimizer(model, config).param_groups for p in group["params"]
    }
    policy = model.encoder.policy
    assert rate_of[id(policy.embedding.weight)] == pytest.approx(0.05)
    assert rate_of[id(policy.composer.tracker.bias)] == pytest.approx(0.025)
    assert rate_of[id(model.encoder.embedding.weight)] == pytest.approx(0.2)
    assert rate_of[id(model.mlp.output.weight)] == pytest.approx(0.1)


def test_parsers_have_no_policy_beside_them() -> None:
    run = run_config("parser", DataConfig(corpus="trees", train=("t",), dev=("d",)))
    with pytest.raises(ConfigError, match="policy_dim: a model that only parses"):
        run.changed(policy_dim=8, leaf_encoder="projection")


def test_no_sentence_is_too_short_for_a_curriculum_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="first_length: no example has sentences of 0 to 1 words"):
        training.execute(ppo_run(tmp_path, first_length=1), tmp_path / "run")
    config = ppo_run(tmp_path, first_length=1).parsing
    explore = make_method(tiny_model("pair", "spinn", policy_dim=3), config, compiled=False)
    batch, lengths = explore.collate(some_pairs(), 0), []
    for step in (0, config.warmup_steps, 9, 9):  # of the first the trees are random
        lengths.append(explore.lengths[1])
        explore.loss(batch, step)
        explore.observe(explore.observed())
        explore.end_epoch()
    assert lengths == [1, 1, 2, 3]
