"""Evaluation on a GPU, as far as the CPU can tell: batches made ahead by a thread, results read one late."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from spinn_tensor import inference
from spinn_tensor.inference import encode_columns, one_late, predict_logits, predict_parses
from spinn_tensor.training.evaluate import evaluate
from spinn_tensor.transfer import packed
from tests.tiny_training import pair_model, pairs

pytestmark = pytest.mark.numerical
pytest.importorskip("datasets")


def results(folder: Path) -> list[np.ndarray | float | None]:
    vocabulary, corpus = pairs(folder)
    model = pair_model("spinn", vocabulary)
    parses = predict_parses(model.encoder, corpus.sentences, batch_size=7)
    return [
        predict_logits(model, corpus, batch_size=7),
        encode_columns(model.encoder, corpus.sentences, batch_size=7),
        parses.transitions,
        parses.step_log_probabilities,
        evaluate(model, corpus, batch_size=7).loss,
    ]


def test_batches_made_ahead_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = results(tmp_path)
    makers: set[str] = set()

    def pinned(batch: tuple) -> tuple:
        makers.add(threading.current_thread().name.partition("_")[0])
        return packed(batch)

    monkeypatch.setattr(inference, "N_AHEAD", {"cpu": 2})
    monkeypatch.setattr(inference, "pinned", pinned)
    for got, same in zip(results(tmp_path), expected, strict=True):
        np.testing.assert_array_equal(got, same)
    assert makers == {"feeding"}


def test_a_result_is_read_when_the_next_batch_is_under_way() -> None:
    happened: list[str] = []

    def launched():
        for number in range(3):
            happened.append(f"launch {number}")
            yield number

    for number in one_late(launched()):
        happened.append(f"read {number}")
    assert happened == ["launch 0", "launch 1", "read 0", "launch 2", "read 1", "read 2"]
    assert list(one_late([])) == []
