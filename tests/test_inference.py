"""Evaluation on a GPU, as far as the CPU can tell: batches made ahead by a thread, results read one late."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from spinn_tensor import inference
from spinn_tensor.inference import encode_columns, predict_logits, predict_parses, read_late
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


class OnDevice:
    """A tensor that says when it is copied to the host."""

    is_cuda = True

    def __init__(self, number: int, happened: list[str]) -> None:
        self.number, self.happened = number, happened

    def get_device(self) -> int:
        return 1

    def to(self, device: str, non_blocking: bool) -> torch.Tensor:
        assert (device, non_blocking) == ("cpu", self.is_cuda)
        self.happened.append(f"copy {self.number}")
        return torch.tensor(self.number)


def test_a_result_is_read_when_the_next_batch_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """And copied before: what is launched afterwards would be waited for, too."""
    happened: list[str] = []

    class Event:
        def record(self) -> None:
            happened.append("record")

        def synchronize(self) -> None:
            happened.append("wait")

    class Guard:
        """Makes the device the current one, which has the stream that an event is of."""

        def __init__(self, tensor: OnDevice) -> None:
            self.device = tensor.get_device()

        def __enter__(self) -> None:
            happened.append(f"on {self.device}")

        def __exit__(self, *_: object) -> None:
            happened.append("off")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device_of", Guard)

    def launched():
        for number in range(3):
            happened.append(f"launch {number}")
            yield np.array([number]), [OnDevice(number, happened)]

    for rows, (number,) in read_late(launched()):
        happened.append(f"read {rows[0]} {number}")
    sent = [f"launch {n}; on 1; copy {n}; record; off" for n in range(3)]
    read = [f"wait; read {n} {n}" for n in range(3)]
    assert "; ".join(happened) == "; ".join((sent[0], sent[1], read[0], sent[2], read[1], read[2]))
    assert list(read_late([])) == []


def test_a_copy_from_another_device_than_cuda_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """From an Apple's it would be read before it has come."""
    monkeypatch.setattr(OnDevice, "is_cuda", False)
    assert [found for _, (found,) in read_late([(np.arange(1), [OnDevice(7, [])])])] == [7]
