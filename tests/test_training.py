"""The optimiser, the schedule, scores, the loop, and that training learns."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from spinn_tensor import make_batch
from spinn_tensor.config import ENCODER_KINDS
from spinn_tensor.data_prep.columns import NO_LABEL, Corpus
from spinn_tensor.data_prep.corpora.formats import NLI_LABELS
from spinn_tensor.data_prep.errors import Interrupted
from spinn_tensor.model.classifiers import load_checkpoint
from spinn_tensor.training.config import ParsingConfig
from spinn_tensor.training.evaluate import Scores, add_to_confusion, evaluate
from spinn_tensor.training.loop import Observer, Task, Trainer, TrainingError
from spinn_tensor.training.metrics_log import METRICS, MetricsLog, read_metrics
from spinn_tensor.training.objective import training_loss
from spinn_tensor.training.optimizer import clip_gradient
from tests.closeness import FLOAT32
from tests.strategies import columns_of
from tests.tiny_training import Stop, log_of, pair_model, pairs, settings, trainer, tree_model, trees

pytestmark = pytest.mark.numerical


@pytest.mark.parametrize("kind", ENCODER_KINDS)
def test_every_encoder_learns_tiny_pairs(kind: str, tmp_path: Path) -> None:
    progress = trainer(tmp_path, kind, epochs=18, learning_rate=1e-2, decay_every=0).fit()
    assert progress.best_score >= 0.9
    assert (progress.step, progress.epoch) == (18 * 3, 18)


def test_node_labels_are_learnt_and_scored_apart_from_roots(tmp_path: Path) -> None:
    vocabulary, corpus = trees(tmp_path)
    model = tree_model(vocabulary, node_labels=True)
    Trainer(Task(model, vocabulary, corpus, corpus), settings(epochs=25, learning_rate=1e-2), tmp_path).fit()
    evaluation = evaluate(model, corpus)
    assert evaluation.node_scores is not None
    assert evaluation.scores.n_examples == len(corpus.labels)
    assert evaluation.node_scores.n_examples == len(corpus.sentences.transitions)
    assert evaluation.scores.accuracy >= 0.9
    assert evaluation.node_scores.accuracy >= 0.9


def test_training_loss_counts_every_labelled_node_once(tmp_path: Path) -> None:
    vocabulary, corpus = trees(tmp_path, n_trees=4)
    model = tree_model(vocabulary, node_labels=True).eval()
    corpus.sentences.node_labels[::3] = -100
    batch = make_batch(corpus, model.encoder.table_kind)
    log_probabilities = model(batch).log_softmax(1)
    picked = [log_probabilities[i, label] for i, label in enumerate(batch.node_labels.tolist()) if label >= 0]
    assert training_loss(model, batch).item() == pytest.approx(
        -torch.stack(picked).mean().item(), rel=FLOAT32
    )


def test_an_unlabelled_pair_has_no_part_in_the_loss(tmp_path: Path) -> None:
    vocabulary, corpus = pairs(tmp_path, n_pairs=6)
    model = pair_model("bow", vocabulary).eval()
    whole = make_batch(corpus, model.encoder.table_kind)
    losses = -model(whole).log_softmax(1).gather(1, whole.labels[:, None])[:, 0]
    expected = pytest.approx(losses[torch.arange(6) != 2].mean().item(), rel=FLOAT32, abs=FLOAT32)
    corpus.labels[2] = NO_LABEL
    assert training_loss(model, make_batch(corpus, model.encoder.table_kind)).item() == expected
    assert evaluate(model, corpus).loss == expected


@pytest.mark.parametrize("node_labels", [False, True])
def test_the_loss_on_dev_does_not_depend_on_the_batches(node_labels: bool, tmp_path: Path) -> None:
    vocabulary, corpus = trees(tmp_path, n_trees=11)
    model = tree_model(vocabulary, node_labels)
    corpus.sentences.node_labels[::3] = NO_LABEL
    whole = evaluate(model, corpus, batch_size=11).loss
    assert evaluate(model, corpus, batch_size=5).loss == pytest.approx(whole, rel=FLOAT32, abs=FLOAT32)
    corpus.labels[:] = NO_LABEL
    corpus.sentences.node_labels[:] = NO_LABEL
    assert evaluate(model, corpus).loss is None


def test_evaluation_draws_no_random_number_and_keeps_the_mode(tmp_path: Path) -> None:
    vocabulary, corpus = pairs(tmp_path)
    model = pair_model("spinn-pi", vocabulary).train()
    before = torch.get_rng_state()
    first = evaluate(model, corpus)
    assert evaluate(model, corpus) == first
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 2)), max_size=40))
def test_confusion_counts_labelled_rows(rows: list[tuple[int, int]]) -> None:
    gold, predicted = (torch.tensor([row[i] for row in rows], dtype=torch.int64) for i in (0, 1))
    confusion = torch.zeros(3, 3, dtype=torch.int64)
    add_to_confusion(confusion, gold, predicted)
    expected = [[sum(row == (i, j) for row in rows) for j in range(3)] for i in range(3)]
    assert confusion.tolist() == expected
    scores = Scores(("a", "b", "c"), expected)
    assert scores.n_examples == sum(label >= 0 for label, _ in rows)
    recalls = [of_class.recall for of_class in scores.by_class.values()]
    assert [recall is None for recall in recalls] == [not sum(row) for row in expected]
    pairs = [(label, guess) for label, guess in rows if label >= 0]
    if pairs:  # scikit-learn has no score of nothing
        assert scores.macro_f1 == pytest.approx(f1_score(*zip(*pairs, strict=True), average="macro"))


def test_scores() -> None:
    scores = Scores(("a", "b", "c"), [[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    assert scores.accuracy == 0.7
    assert scores.by_class["a"] == pytest.approx((0.6, 0.75, 2 / 3, 4))
    assert scores.by_class["b"] == pytest.approx((0.8, 4 / 6, 8 / 11, 6))
    assert scores.by_class["c"] == (None, None, None, 0)
    assert scores.macro_f1 == pytest.approx((2 / 3 + 8 / 11) / 2)  # of the classes that there are
    assert scores.to_dict()["classes"]["a"] == scores.by_class["a"]._asdict()
    nothing = Scores(("a", "b"), [[0, 0], [0, 0]])
    assert (nothing.accuracy, nothing.macro_f1) == (0, 0)
    assert set(nothing.by_class.values()) == {(None, None, None, 0)}


def test_the_best_evaluation_may_be_that_of_the_highest_macro_f1(tmp_path: Path) -> None:
    progress = trainer(tmp_path, epochs=6, select_by="macro_f1").fit()
    scores = [line["macro_f1"] for line in log_of(tmp_path, "dev")]
    assert progress.best_score == max(scores)
    assert [line["best"] for line in log_of(tmp_path, "dev")] == [
        score > max(scores[:i], default=-1) for i, score in enumerate(scores)
    ]


def test_no_clipping_leaves_the_gradient() -> None:
    layer = torch.nn.Linear(2, 1)
    layer.weight.grad = torch.full((1, 2), 100.0)
    assert clip_gradient([layer.weight], 0) is None
    assert layer.weight.grad.max() == 100


def test_the_log_has_every_reading_once(tmp_path: Path) -> None:
    trainer(tmp_path, "bow", epochs=2, evaluate_every=2).fit()
    assert [line["step"] for line in log_of(tmp_path, "train")] == [3, 6]
    assert [line["step"] for line in log_of(tmp_path, "epoch")] == [3, 6]
    assert [line["step"] for line in log_of(tmp_path, "dev")] == [2, 3, 4, 6]
    first, dev = log_of(tmp_path, "train")[0], log_of(tmp_path, "dev")[0]
    assert math.isfinite(first["loss"])
    assert first["learning_rate"] == 3e-3
    assert first["examples_per_second"] > 0
    assert set(dev["classes"]) == set(NLI_LABELS)
    assert sum(map(sum, dev["confusion"])) == 40


def test_early_stopping_keeps_the_best(tmp_path: Path) -> None:
    # a rate so small that only batch norm's statistics change
    progress = trainer(tmp_path, "bow", epochs=50, learning_rate=1e-12, patience=3).fit()
    assert progress.stopped
    assert progress.step == progress.best_step + 3 * 3
    assert load_checkpoint(tmp_path / "best").config.metrics["step"] == progress.best_step


def test_best_checkpoint_is_the_model_that_scored_best(tmp_path: Path) -> None:
    run = trainer(tmp_path, "spinn-pi-nt", epochs=6, learning_rate=2e-2)
    progress = run.fit()
    checkpoint = load_checkpoint(tmp_path)
    assert evaluate(checkpoint.model, run.task.dev).scores.accuracy == progress.best_score
    assert checkpoint.config.metrics["best_dev_score"] == progress.best_score
    assert progress.best_score == max(line["accuracy"] for line in log_of(tmp_path, "dev"))


class Poison(Observer):
    """Makes weights no numbers, or another value, after some steps."""

    def __init__(self, at_step: int, value: float = math.nan) -> None:
        self.at_step, self.value = at_step, value
        self.trainer: Trainer | None = None

    def trained(self, progress: object, batch_size: int) -> None:
        if self.trainer is not None and self.trainer.progress.step == self.at_step:
            with torch.no_grad():
                self.trainer.task.model.mlp.output.weight.fill_(self.value)


@pytest.mark.parametrize(
    "poison, options, message, kept",
    [
        (Poison(4), {}, r"^step 5: the loss is nan; the checkpoint in .*last is kept", 3),
        (Poison(2), {"save_every": 2}, "step 2: a weight is not finite; no checkpoint was written yet", None),
        (Poison(3, 3e38), {}, "step 3: the loss on dev is (nan|inf); no checkpoint was written yet", None),
    ],
)
def test_a_run_that_is_not_finite_stops_names_the_step_and_keeps_its_checkpoint(
    poison: Poison, options: dict, message: str, kept: int | None, tmp_path: Path
) -> None:
    poison.trainer = trainer(tmp_path, "bow", poison, epochs=3, **options)
    with pytest.raises(TrainingError, match=message):
        poison.trainer.fit()
    if kept is None:
        assert not (tmp_path / "last").exists()
    else:
        assert load_checkpoint(tmp_path / "last").config.metrics["step"] == kept


def test_a_signal_ends_the_run_after_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="stopped at step 4; saved") as interrupt:
        trainer(tmp_path, "bow", Stop(4), epochs=3, save_every=0).fit()
    assert interrupt.value.signal_number == 15
    assert load_checkpoint(tmp_path / "last").config.metrics["step"] == 4


def test_dropped_log_lines_are_cut_off(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.write(step=1)
        position = log.position()
        log.write(step=2)
    with MetricsLog(tmp_path, position) as log:
        log.write(step=3)
    assert (tmp_path / METRICS).read_text() == '{"step": 1}\n{"step": 3}\n'


@pytest.mark.parametrize(
    "left, n_whole", [(b'{"step": 1}\n{"st', 1), (b'{"step": 1}\n', 1), (b'{"step', 0), (b"", 0)]
)
def test_a_log_that_was_shortened_goes_on_after_its_whole_lines(
    left: bytes, n_whole: int, tmp_path: Path
) -> None:
    with MetricsLog(tmp_path) as log:
        log.write(step=1)
        log.write(step=2)
        position = log.position()
    (tmp_path / METRICS).write_bytes(left)
    notes: list[str] = []
    with MetricsLog(tmp_path, position, note=notes.append) as log:
        log.write(step=3)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 3][-1 - n_whole :]
    assert notes == [
        f"{tmp_path / METRICS}: not as the run left it; the log goes on after its line {n_whole}"
    ]


@pytest.mark.parametrize("learning", ["supervised", "reinforce"])
def test_scores_that_are_no_numbers_end_the_run_with_one_line(learning: str, tmp_path: Path) -> None:
    vocabulary, corpus = pairs(tmp_path)
    model = pair_model("spinn", vocabulary)
    with torch.no_grad():
        model.encoder.composer.transition.weight[0, 0] = torch.nan
    parsing = ParsingConfig(learning=learning, scheduled_sampling=1.0, scheduled_steps=0)
    run = dataclasses.replace(settings("spinn"), parsing=parsing)
    with pytest.raises(TrainingError, match=r"not finite|not a number|the loss is nan"):
        Trainer(Task(model, vocabulary, corpus, corpus), run, tmp_path).fit()


def test_f1_of_single_words_selects_nothing(tmp_path: Path) -> None:
    vocabulary, corpus = pairs(tmp_path)
    word = columns_of([np.zeros(1, np.int8)])
    dev = Corpus.of_pairs(word, word, np.zeros(1, np.int64))
    model = pair_model("spinn", vocabulary)
    with pytest.raises(TrainingError, match="select_by: f1 needs a dev sentence of two words or more"):
        Trainer(Task(model, vocabulary, corpus, dev), settings("spinn", select_by="f1"), tmp_path)


def test_the_best_evaluation_is_by_accuracy_or_by_f1(tmp_path: Path) -> None:
    vocabulary, corpus = pairs(tmp_path)
    evaluation = evaluate(pair_model("spinn", vocabulary), corpus)
    assert evaluation.criterion("accuracy") == evaluation.scores.accuracy
    assert evaluation.criterion("f1") == evaluation.parse_scores.gold.sentence_f1
    assert evaluation.criterion("f1") != evaluation.criterion("accuracy")
    trained = trainer(tmp_path, "spinn", select_by="f1", epochs=2).fit()
    assert trained.best_score in [line["parse"]["gold"]["sentence_f1"] for line in log_of(tmp_path, "dev")]
