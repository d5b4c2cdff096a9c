"""Optimisers against torch's own loop, rates of steps, averages of weights, smoothed labels, and that all resume."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from spinn_tensor import make_batch
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.columns import NO_LABEL, select
from spinn_tensor.data_prep.errors import Interrupted
from spinn_tensor.model.classifiers import load_checkpoint
from spinn_tensor.training.checkpoint import STATE
from spinn_tensor.training.config import OPTIMIZERS, TrainingConfig
from spinn_tensor.training.evaluate import evaluate
from spinn_tensor.training.loop import Observer, Task, Trainer
from spinn_tensor.training.objective import classification_loss, supervised_loss, training_loss
from spinn_tensor.training.optimizer import Average, learning_rate, make_optimizer
from spinn_tensor.training.presets import PRESETS
from spinn_tensor.training.run import check_same_run
from tests.closeness import FLOAT64, assert_close
from tests.compiled_steps import corpora, corpus_of, small_model, train, train_step
from tests.tiny_runs import assert_same_run
from tests.tiny_training import Stop, go_on, log_of, pair_model, pairs, settings, trainer

pytestmark = pytest.mark.numerical
RATE, L2, CLIP, FACTOR, DECAY = 0.02, 0.03, 0.05, 0.25, 0.8
PLAIN = {
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=RATE, alpha=0.9, eps=1e-6),
    "adadelta": lambda groups: torch.optim.Adadelta(groups, lr=RATE, rho=0.9, eps=1e-6),
    "adam": lambda groups: torch.optim.Adam(groups, lr=RATE, betas=(0.9, 0.999), eps=1e-8),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.999), eps=1e-8),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=RATE, eps=1e-8),
}


def is_average(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point()  # but for the number of batches that batch norm has seen


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_is_torchs_in_a_plain_loop(name: str) -> None:
    """With L2 on matrices, a clipped gradient, a rate of the embedding's own and an average of the weights."""
    corpus, batches = corpus_of(corpora()[::4])
    model = small_model("pair", "spinn-pi")
    named = dict(model.named_parameters())
    matrices = [key for key, value in named.items() if value.dim() >= 2 and "embedding" not in key]
    words = [key for key in named if "embedding" in key]
    groups = [
        {"params": [named[key] for key in matrices], "weight_decay": L2},
        {"params": [value for key, value in named.items() if key not in matrices + words]},
        {"params": [named[key] for key in words], "lr": RATE * FACTOR},
    ]
    optimizer = PLAIN[name]([{"weight_decay": 0.0, **group} for group in groups])
    averages = {key: value.clone() for key, value in model.state_dict().items() if is_average(value)}
    losses = []
    for rows in batches:
        optimizer.zero_grad()
        loss = training_loss(model, make_batch(select(corpus, rows), model.encoder.table_kind))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
        for key, average in averages.items():
            averages[key] = DECAY * average + (1 - DECAY) * model.state_dict()[key]
    config = TrainingConfig(
        optimizer=name,
        learning_rate=RATE,
        embedding_rate=FACTOR,
        weight_decay=L2,
        clip_norm=CLIP,
        lr_schedule="constant",
        ema_decay=DECAY,
    )
    step = train_step("spinn-pi", config)
    assert train(step, corpus, batches) == pytest.approx(losses, rel=FLOAT64)
    for key, value in step.method.model.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=0, atol=FLOAT64)
    assert dict(zip(step.average.weights, step.average.averages, strict=True)).keys() == averages.keys()
    for key, average in zip(step.average.weights, step.average.averages, strict=True):
        torch.testing.assert_close(average, averages[key], rtol=0, atol=FLOAT64)
        assert not torch.equal(average, step.average.weights[key]), key


@pytest.mark.parametrize("is_trained", [True, False])
def test_without_a_rate_of_its_own_the_embedding_is_in_no_group_of_its_own(is_trained: bool) -> None:
    """And in none where it is fixed."""
    model = small_model("pair", "spinn-pi")
    embedding = model.encoder.embedding.weight.requires_grad_(is_trained)
    groups = make_optimizer(model, TrainingConfig()).param_groups
    assert [group["lr"] for group in groups] == [2e-3] * 2
    decayed, plain = ([id(parameter) for parameter in group["params"]] for group in groups)
    in_order = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert [decayed, plain] == [[one for one in in_order if one in part] for part in (decayed, plain)]
    assert len(decayed) + len(plain) == len(in_order)
    assert (id(embedding) in plain) == is_trained


@pytest.mark.parametrize(
    "schedule, warmup, rates",  # of ten steps at the rate 1
    [
        ("constant", 0, [1] * 10),
        ("constant", 4, [0.25, 0.5, 0.75, *[1] * 7]),
        ("step", 0, [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]),
        ("step", 2, [0.5, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]),
        ("linear", 0, [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        ("linear", 0.2, [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("linear", 20, [(i + 1) / 20 for i in range(10)]),
        ("cosine", 0, [(1 + math.cos(math.pi * i / 10)) / 2 for i in range(10)]),
        ("cosine", 6, [*[(i + 1) / 6 for i in range(6)], 1, 0.5 + 8**-0.5, 0.5, 0.5 - 8**-0.5]),
    ],
)
def test_rates_of_a_run(schedule: str, warmup: float, rates: list[float]) -> None:
    config = TrainingConfig(
        learning_rate=2.0,
        lr_schedule=schedule,
        lr_warmup=warmup,
        decay_every=4,
        decay_unit="step",
        decay_factor=0.5,
    )
    got = [learning_rate(config, step, epoch=0, n_steps=10) / 2 for step in range(10)]
    assert got == pytest.approx(rates, abs=1e-12)


@pytest.mark.parametrize(
    "every, rates", [(0, [1, 1, 1, 1, 1]), (1, [1, 0.5, 0.25]), (2, [1, 1, 0.5, 0.5, 0.25])]
)
def test_rates_may_fall_by_epochs(every: int, rates: list[float]) -> None:
    config = TrainingConfig(learning_rate=1.0, decay_factor=0.5, decay_every=every)
    assert [learning_rate(config, 99, epoch) for epoch in range(len(rates))] == rates


@pytest.mark.parametrize("batching", [{"batch_size": 7}, {"batch_size": 1, "batch_tokens": 43}])
def test_a_schedule_ends_with_the_run(batching: dict[str, int], tmp_path: Path) -> None:
    vocabulary, corpus = pairs(tmp_path, n_pairs=150)
    task = Task(pair_model("bow", vocabulary), vocabulary, corpus, corpus)
    run = settings("bow", epochs=3, log_every=1, lr_schedule="linear", learning_rate=1.0, **batching)
    started = Trainer(task, run, tmp_path)
    in_epoch = {len(started.batches(epoch)) for epoch in range(3)}
    assert (len(in_epoch) > 1) == ("batch_tokens" in batching)
    n = started.fit().step
    logged = [line["learning_rate"] for line in log_of(tmp_path, "train")]
    assert logged == pytest.approx([1 - i / n for i in range(n)])


class Averages(Observer):
    """Averages by hand what a trainer's model holds after each step."""

    def __init__(self) -> None:
        self.trainer: Trainer | None = None
        self.averages: dict[str, torch.Tensor] = {}

    def trained(self, progress: object, batch_size: int) -> None:
        assert self.trainer is not None
        for key, value in self.trainer.task.model.state_dict().items():
            share = 1 - DECAY if is_average(value) else 1
            self.averages[key] = (1 - share) * self.averages[key] + share * value


def test_the_average_is_what_is_evaluated_and_saved(tmp_path: Path) -> None:
    observer = Averages()
    run = observer.trainer = trainer(
        tmp_path, "spinn-pi", observer, epochs=3, ema_decay=DECAY, learning_rate=0.02
    )
    observer.averages = {key: value.clone() for key, value in run.task.model.state_dict().items()}
    run.fit()
    saved = load_checkpoint(tmp_path / "last").model
    for key, value in saved.state_dict().items():
        assert_close(value, observer.averages[key])
    own = run.task.model.state_dict()  # which training goes on with
    assert any(not torch.allclose(value, own[key], rtol=1e-3) for key, value in saved.state_dict().items())
    last = log_of(tmp_path, "dev")[-1]
    assert evaluate(saved, run.task.dev).loss == pytest.approx(last["loss"], rel=1e-5)
    assert evaluate(run.task.model, run.task.dev).loss != pytest.approx(last["loss"], rel=1e-3)


def test_fixed_word_vectors_have_no_average() -> None:
    model = small_model("pair", "spinn-pi")
    model.encoder.embedding.weight.requires_grad_(False)
    average = Average(model, DECAY)
    assert average.weights
    assert not any("embedding" in key for key in average.weights)


EVERYTHING = {
    "ema_decay": 0.9,
    "embedding_rate": 0.5,
    "lr_schedule": "cosine",
    "lr_warmup": 0.3,
    "label_smoothing": 0.1,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_goes_on_as_if_it_had_not_been_stopped(name: str, tmp_path: Path) -> None:
    """In the middle of an epoch, by every optimiser, with all that changes its steps."""

    def start(folder: Path, observer: Observer | None = None) -> Trainer:
        folder.mkdir(exist_ok=True)
        run = trainer(folder, "spinn-pi", observer, epochs=3, optimizer=name, **EVERYTHING)
        run.task.model.mlp.dropout.p = run.task.model.encoder.composer.dropout = 0.5
        return run

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    start(whole).fit()
    with pytest.raises(Interrupted):
        start(parts, Stop(4)).fit()
    again = go_on(start(parts))
    assert again.progress.step == 4
    again.fit()
    assert_same_run(parts, whole)


def test_without_an_average_the_state_is_as_before_there_were_any(few_steps: Path) -> None:
    assert "weights" not in torch.load(few_steps / "last" / STATE, weights_only=True)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1, 4], dtype=torch.float64)])
def test_smoothed_labels_are_torchs(weights: torch.Tensor | None) -> None:
    torch.manual_seed(0)
    logits = torch.randn(9, 3, dtype=torch.float64)
    gold = torch.tensor([0, 1, 2, NO_LABEL, 2, 2, 0, 1, NO_LABEL])
    expected = F.cross_entropy(logits, gold, weights, label_smoothing=0.2)
    got = classification_loss(logits, gold, None, weights, 0.2)
    torch.testing.assert_close(got, expected, rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("kind", ["bow", "spinn"])
def test_a_steps_labels_are_smoothed(kind: str, tmp_path: Path) -> None:
    options = {"epochs": 1, "log_every": 1, "batch_size": 40, "learning_rate": 1e-9}
    trainer(tmp_path, kind, label_smoothing=0.2, **options).fit()
    vocabulary, corpus = pairs(tmp_path)
    model = pair_model(kind, vocabulary).train()
    batch = make_batch(corpus, "lanes" if kind == "spinn" else model.encoder.table_kind)
    expected = F.cross_entropy(model.run(batch).logits, batch.labels, label_smoothing=0.2).item()
    line = log_of(tmp_path, "train")[0]
    assert line["task_loss" if kind == "spinn" else "loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.once
@pytest.mark.parametrize("loss", [pytest.param(training_loss, marks=pytest.mark.slow), supervised_loss])
def test_a_smoothed_and_weighted_loss_is_one_compiled_graph(loss, tmp_path: Path) -> None:
    vocabulary, corpus = pairs(tmp_path, n_pairs=6)
    supervised = loss is supervised_loss
    model = pair_model("spinn" if supervised else "bow", vocabulary).eval()
    batch = make_batch(corpus, "lanes" if supervised else model.encoder.table_kind)
    inputs = (model, batch, None, 2.5) if supervised else (model, batch)
    smoothed = partial(loss, class_weights=torch.tensor([0.5, 1.0, 4.0]), label_smoothing=0.2)
    compiled = torch.compile(smoothed, fullgraph=True, dynamic=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), smoothed(*inputs))


CHOOSING = {
    name for name in PRESETS if name.startswith("sst") or name.endswith(("-grc", "-ppo"))
}  # made since


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - CHOOSING))
def test_presets_train_as_before_there_was_a_choice(name: str) -> None:
    training = PRESETS[name].run.training
    new = ("optimizer", "embedding_rate", "lr_schedule", "lr_warmup", "ema_decay", "label_smoothing")
    assert [getattr(training, key) for key in new] == ["rmsprop", 1.0, "step", 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"optimizer": "adamx"}, r"optimizer: expected one of .* \(did you mean adam\?\)"),
        (
            {"optimizer": "adamw", "rms_decay": 0.5},
            "rms_decay: of rmsprop and adadelta; the optimizer is adamw",
        ),
        ({"adam_beta2": 0.98}, "adam_beta2: of adam and adamw; the optimizer is rmsprop"),
        ({"adam_beta1": 1.0, "optimizer": "adam"}, r"adam_beta1: expected in \[0, 1\), got 1.0"),
        ({"lr_warmup": 1.5}, r"lr_warmup: expected in \[0, 1\) or whole, got 1.5"),
        ({"lr_warmup": -1.0}, "lr_warmup: expected"),
        ({"lr_schedule": "exponential"}, "lr_schedule: expected one of step, constant, linear, cosine"),
        ({"ema_decay": 1.0}, "ema_decay: expected"),
        ({"label_smoothing": 1.0}, "label_smoothing: expected"),
        ({"embedding_rate": 0.1, "train_embedding": False}, "embedding_rate: the word vectors are fixed"),
        ({"kind": "spinn", "learning": "reinforce", "label_smoothing": 0.1}, "label_smoothing: not with"),
        (
            {"kind": "spinn", "corpus": "trees", "select_by": "f1", "label_smoothing": 0.1},
            "label_smoothing: with --corpus trees there are no classes",
        ),
        ({"parsing__learning": "reinforce"}, "learning: reinforce is for an encoder that parses"),
        ({"training__select_by": "f1"}, "select_by: f1 is for an encoder that parses"),
        (
            {"encoder__kind": "spinn", "data__corpus": "trees", "parsing__learning": "reinforce"},
            "learning: reinforce needs labels",
        ),
        (
            {"encoder__kind": "spinn", "data__corpus": "trees"},
            "select_by: with --corpus trees there is nothing but f1",
        ),
        ({"parsing__baseline_decay": 1.0}, r"baseline_decay: expected in \[0, 1\), got 1.0"),
        ({"parsing__n_samples": 1, "parsing__baseline": "leave-one-out"}, "n_samples: expected at least 2"),
        ({"parsing__baseline": "median"}, "baseline: expected one of none, mean, greedy, leave-one-out"),
    ],
)
def test_settings_that_do_not_go_together_are_one_error(change: dict, message: str) -> None:
    base = settings("spinn-pi")
    with pytest.raises(ConfigError, match=f"^{message}"):
        base.changed(**change)


@pytest.mark.parametrize("change", [{"lr_schedule": "linear"}, {"lr_warmup": 0.1}])
def test_a_run_whose_rates_depend_on_its_length_is_not_made_longer(change: dict) -> None:
    saved = settings(**change)
    longer = dataclasses.replace(saved, training=dataclasses.replace(saved.training, epochs=99))
    with pytest.raises(ConfigError, match=r"training.epochs differs: .* now 99; the learning rate of each"):
        check_same_run(saved, longer)
    check_same_run(settings(), settings(epochs=99))
    check_same_run(settings(lr_warmup=5), settings(lr_warmup=5, epochs=99))
