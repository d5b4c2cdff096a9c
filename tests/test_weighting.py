"""Weights of the classes in the loss, and the losses of the task and of the transitions apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from spinn_tensor import make_batch
from spinn_tensor.cli.main import main
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.columns import NO_LABEL, select
from spinn_tensor.training.checkpoint import train_command
from spinn_tensor.training.config import DataConfig, ParsingConfig, TrainingConfig
from spinn_tensor.training.methods import make_method
from spinn_tensor.training.objective import Totals, count_rows, training_loss
from spinn_tensor.training.presets import read_preset, run_config
from spinn_tensor.training.reinforce import roll_out
from spinn_tensor.training.weighting import class_weights
from tests.closeness import FLOAT32
from tests.tiny_runs import PRESET, pair_arguments, same_threads
from tests.tiny_training import Notes, log_of, pair_model, pairs, trainer, tree_model, trees

one_thread = pytest.fixture(autouse=True)(same_threads)
LABELS = ("entailment", "neutral", "contradiction")


def test_the_loss_is_the_weighted_mean(tmp_path: Path) -> None:
    vocabulary, corpus = pairs(tmp_path)
    corpus.labels[3] = NO_LABEL
    model = pair_model("bow", vocabulary).eval()
    weights = np.array([0.25, 1.0, 8.0])
    batch = make_batch(corpus, model.encoder.table_kind)
    known = batch.labels != NO_LABEL
    losses = -model(batch)[known].log_softmax(1).gather(1, batch.labels[known, None])[:, 0]
    expected = np.average(losses.detach().numpy(), weights=weights[batch.labels[known]])
    of_class = torch.tensor(weights, dtype=torch.float32)
    assert training_loss(model, batch, None, of_class).item() == pytest.approx(expected, rel=FLOAT32)
    # of a part of a step: its share of the same mean
    counts = count_rows(corpus, False, weights)
    method = make_method(model, ParsingConfig(), class_weights=weights)
    parts = np.array_split(np.arange(len(corpus.labels)), 3)
    batches = [make_batch(select(corpus, part), model.encoder.table_kind) for part in parts]
    summed = sum(method.loss(part, 0, Totals.of(counts)).item() for part in batches)
    assert summed == pytest.approx(expected, rel=FLOAT32)
    batch.labels[:] = NO_LABEL
    assert training_loss(model, batch, None, of_class).item() == 0


def test_rewards_are_weighted(tmp_path: Path) -> None:
    vocabulary, corpus = pairs(tmp_path)
    model = pair_model("spinn", vocabulary).eval()
    batch, weights = make_batch(corpus, "own"), torch.tensor([0.5, 1.0, 4.0])
    noise = torch.zeros(batch.sentences.transitions.shape)
    plain, weighted = (roll_out(model, batch, noise, given).rewards for given in (None, weights))
    torch.testing.assert_close(weighted, plain * weights[corpus.labels])


def test_balanced_weights_make_every_class_as_heavy(tmp_path: Path) -> None:
    _, corpus = pairs(tmp_path)
    corpus.labels[:] = np.where(np.arange(len(corpus.labels)) < 5, 2, 0)
    weights = class_weights(["balanced"], LABELS, corpus, node_labels=False)
    assert weights.tolist() == pytest.approx([40 / (2 * 35), 1, 40 / (2 * 5)])  # a class that never comes: 1
    _, nodes = trees(tmp_path)
    weights = class_weights(["balanced"], "abcde", nodes, node_labels=True)
    heavy = weights[nodes.sentences.node_labels]
    assert [heavy[nodes.sentences.node_labels == c].sum() for c in (0, 2, 4)] == pytest.approx(
        [heavy.sum() / 3] * 3
    )
    assert count_rows(nodes, True, weights)[:, 1].sum() == pytest.approx(heavy.sum())
    assert count_rows(nodes, False, weights)[:, 1].tolist() == weights[nodes.labels].tolist()
    model = tree_model(pairs(tmp_path)[0], node_labels=True)
    assert make_method(model, ParsingConfig(), class_weights=weights).class_weights.shape == (5,)


def test_weights_are_given_as_people_write_them(tmp_path: Path) -> None:
    given = {"yes=no": 2.0, "no": 0.5}, ["yes=no=2.0", "no=0.5"], ("yes=no=2.0", "no=0.5")
    expected = TrainingConfig(class_weights=given[2])
    assert [TrainingConfig(class_weights=value) for value in given] == [expected] * 3
    assert TrainingConfig.from_dict(json.loads(json.dumps(expected.to_dict()))) == expected
    file = tmp_path / "my.toml"
    for text, value in (
        ('class_weights = "balanced"', ("balanced",)),
        ("class_weights = {neutral = 2}", ("neutral=2",)),
        ('class_weights = ["neutral=2"]', ("neutral=2",)),
    ):
        file.write_text(f'base = "logic-spinn-pi"\n[training]\n{text}\n')
        assert read_preset(file).run.training.class_weights == value
    run = run_config("logic-spinn-pi", DataConfig()).changed(class_weights={"neutral": 2, "a, b": 3})
    assert "--class-weights neutral=2 'a, b=3'" in train_command(run)


@pytest.mark.parametrize(
    "entries", ["rare", ["a"], ["a=0"], ["a=x"], ["a=1", "balanced"], ["a=1", "a=2"], {"a": -1}]
)
def test_what_is_no_weight_is_refused(entries: object) -> None:
    with pytest.raises(ConfigError, match="class_weights"):
        TrainingConfig(class_weights=entries)


def test_a_label_that_there_is_not_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'netral' .*neutral"):
        trainer(tmp_path, "bow", class_weights=["netral=2"])
    with pytest.raises(ConfigError, match="class_weights"):
        run_config("parser", DataConfig(corpus="trees")).changed(class_weights=["balanced"])


def test_training_with_weights(tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ["--class-weights", "contradiction=50", "--epochs", "1", "--output", str(run)]
    assert main([*pair_arguments(tmp_path), *PRESET, *flags]) == 0
    assert json.loads((run / "run.json").read_text())["training"]["class_weights"] == ["contradiction=50"]
    assert main(["train", "--resume", "--output", str(run), "--set", "class_weights=contradiction=5"]) == 1


def test_a_steps_loss_is_weighted(tmp_path: Path) -> None:
    training = {"epochs": 1, "log_every": 1, "batch_size": 40, "learning_rate": 1e-9}
    trainer(tmp_path, "bow", class_weights={"neutral": 9.0}, **training).fit()
    vocabulary, corpus = pairs(tmp_path)
    model = pair_model("bow", vocabulary).train()
    batch = make_batch(corpus, model.encoder.table_kind)
    losses = -model(batch).log_softmax(1).gather(1, batch.labels[:, None])[:, 0].detach().numpy()
    expected = np.average(losses, weights=np.array([1, 9, 1])[corpus.labels])
    assert log_of(tmp_path, "train")[0]["loss"] == pytest.approx(expected, rel=FLOAT32)


def test_the_weights_are_told(tmp_path: Path) -> None:
    notes = Notes()
    trainer(tmp_path, "bow", observer=notes, class_weights="balanced")
    assert any("contradiction" in text for text in notes.texts)


def test_the_log_tells_both_losses_apart(tmp_path: Path) -> None:
    trainer(tmp_path, "spinn", epochs=3, log_every=2).fit()
    lines = log_of(tmp_path, "train")
    assert len(lines) == 4
    for line in lines:
        whole = line["task_loss"] + ParsingConfig().transition_weight * line["transition_loss"]
        assert line["loss"] == pytest.approx(whole, rel=FLOAT32)
    trainer(tmp_path, "bow", epochs=1, log_every=2).fit()
    assert not {"task_loss", "transition_loss"} & log_of(tmp_path, "train")[0].keys()


def test_progress_shows_both_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*pair_arguments(tmp_path), "--preset", "logic-spinn", "--epochs", "1"]
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().err
    assert "(task " in shown
    assert "transitions " in shown
