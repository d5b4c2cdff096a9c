"""What recordings ask of CUDA, and in which order; a stand-in says it where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

import pytest
import torch

from spinn_tensor.training import capture
from tests.compiled_steps import COMPILED, corpora, corpus_of, train_step


class Stream:
    def wait_stream(self, other: Stream) -> None:
        pass


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happened, in order."""
    happened: list[str] = []

    @contextmanager
    def graph(graph, pool, capture_error_mode="global") -> Iterator[None]:
        happened.append(f"capture of {pool}, errors {capture_error_mode}")
        yield
        happened.append("captured")

    stand_ins = {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: nullcontext(),
        "CUDAGraph": mock.Mock,
        "graph": graph,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return happened


def test_a_recording_is_of_its_thread_alone(seen: list[str]) -> None:
    """In CUDA's default mode the thread that pins batches meanwhile would spoil it."""

    def run() -> torch.Tensor:
        seen.append("run")
        return torch.zeros(())

    capture._record(run, "pool")
    expected = ["capture of pool, errors thread_local", "run", "captured"]
    assert seen == ["run"] * capture.N_WARM_UP + expected


def test_the_largest_shape_is_recorded_first() -> None:
    """The graphs share memory, and what the largest took is enough for the others."""
    corpus, batches = corpus_of(corpora())
    method = train_step("spinn-pi", COMPILED).method
    assert method.plan(corpus, COMPILED.batch_size, seed=1)
    n_leaf_rows = [len(batch.sentences.token_ids) for batch in method.samples(corpus, batches[0], 0)]
    assert len(n_leaf_rows) > 1
    assert n_leaf_rows == sorted(n_leaf_rows, reverse=True)
    assert n_leaf_rows[0] > n_leaf_rows[-1]
