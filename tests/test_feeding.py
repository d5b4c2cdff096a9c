"""Batches made ahead by a thread: the same ones, in order, and errors when their turn comes."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from spinn_tensor.data_prep.batching import epoch_batches, shares
from spinn_tensor.training.distributed import ALONE, Interrupted, Ranks
from spinn_tensor.training.feeding import Feed, made_ahead
from spinn_tensor.training.loop import Observer, Task, Trainer
from spinn_tensor.training.methods import Batch, Classify, Corpus
from tests import tiny_training
from tests.tiny_training import Stop, pair_model, pairs, settings

pytestmark = pytest.mark.numerical


@pytest.mark.parametrize("n_ahead", [0, 1, 3, 100])
def test_in_order(n_ahead: int) -> None:
    assert list(made_ahead(lambda n: n * n, range(20), n_ahead)) == [n * n for n in range(20)]
    assert list(made_ahead(lambda n: n, [], n_ahead)) == []


def test_so_many_are_made_ahead_and_no_more() -> None:
    made: list[int] = []
    four = threading.Event()

    def make(n: int) -> int:
        made.append(n)
        if len(made) == 4:
            four.set()
        return n

    tasks = iter(range(20))
    numbers = made_ahead(make, tasks, 3)
    assert next(numbers) == 0
    assert four.wait(600)
    assert next(tasks) == 4  # which nobody has asked for
    numbers.close()
    assert made == [0, 1, 2, 3]
    assert "feeding" not in " ".join(thread.name for thread in threading.enumerate())


@pytest.mark.parametrize("n_ahead", [0, 2])
def test_an_error_comes_in_its_turn(n_ahead: int) -> None:
    numbers = made_ahead(lambda n: 1 // (3 - n), range(20), n_ahead)
    assert [next(numbers) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(numbers)


def trainer_of(
    tmp_path: Path, ranks: Ranks = ALONE, observer: Observer | None = None, **training: object
) -> Trainer:
    (tmp_path / "run").mkdir(parents=True, exist_ok=True)
    vocabulary, corpus = pairs(tmp_path, 90)
    torch.manual_seed(0)
    task = Task(pair_model("spinn-pi-nt", vocabulary), vocabulary, corpus, corpus)
    return Trainer(task, settings(**training), tmp_path / "run", observer, ranks)


def test_made_ahead_the_weights_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the model does meanwhile: it is evaluated after every step, without dropout."""
    collate = Classify.collate

    def slowly(self: Classify, columns: Corpus, step: int) -> Batch:
        time.sleep(0.03)  # longer than a step: the model is evaluated meanwhile
        return collate(self, columns, step)

    monkeypatch.setattr(Classify, "collate", slowly)
    monkeypatch.setitem(tiny_training.ENCODER, "embedding_dropout", 0.3)
    weights = []
    for prefetch in (0, 1, 4):
        options = {"epochs": 2, "batch_size": 8, "prefetch": prefetch, "evaluate_every": 1}
        trainer = trainer_of(tmp_path / str(prefetch), **options)
        trainer.fit()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.task.model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("batch_tokens", [0, 150])
def test_a_run_that_goes_on_sees_the_pairs_it_had_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_tokens: int
) -> None:
    from spinn_tensor.training.resume import read_training_state

    seen: list[list[int]] = []
    take_feed = Trainer.take_feed

    def noting(self: Trainer, feed: Feed) -> torch.Tensor:
        seen.append(feed.rows.tolist())
        return take_feed(self, feed)

    monkeypatch.setattr(Trainer, "take_feed", noting)
    options = {"epochs": 2, "batch_size": 8, "batch_tokens": batch_tokens}
    with pytest.raises(Interrupted):
        trainer_of(tmp_path, observer=Stop(5), **options).fit()
    assert len(seen) == 5
    again = trainer_of(tmp_path, **options)
    again.resume(read_training_state(tmp_path / "run" / "last"), tmp_path / "run" / "last")
    again.fit()
    n_batches = len(again.batches(0))
    first_epoch = [row for rows in seen[:n_batches] for row in rows]
    assert sorted(first_epoch) == list(range(90))
    assert [rows.tolist() for rows in again.batches(0)] == seen[:n_batches]
    assert [rows.tolist() for rows in again.batches(1)] == seen[n_batches:]


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("token_budget", [0, 900])
def test_every_pair_once_over_all_ranks(n_ranks: int, token_budget: int) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, 1_003)
    batches = epoch_batches(lengths, 32, seed=3, epoch=1, n_tokens=2 * lengths, token_budget=token_budget)
    of_rank: list[list[int]] = [[] for _ in range(n_ranks)]
    for rows in batches:
        for rank, parts in enumerate(shares(rows, lengths, n_ranks)):
            of_rank[rank].extend(row for part in parts for row in part.tolist())
    assert sorted(row for rows in of_rank for row in rows) == list(range(1_003))
    sizes = [len(rows) for rows in of_rank]
    assert max(sizes) - min(sizes) <= len(batches)
