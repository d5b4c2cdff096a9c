"""What recordings ask of CUDA, and in which order; a stand-in says it where there is no GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spinn_tensor.bundles import OnHost, flatten, map_tensors
from spinn_tensor.data_prep.columns import select
from spinn_tensor.normalization import sum_over_ranks, synchronise
from spinn_tensor.training import capture
from spinn_tensor.training.config import ParsingConfig
from spinn_tensor.training.methods import Reinforce
from spinn_tensor.training.objective import Totals
from spinn_tensor.training.step import Inputs
from spinn_tensor.transfer import packed, sent
from tests.compiled_steps import (
    COMPILED,
    assert_same_training,
    corpora,
    corpus_of,
    same_draws,
    take_steps,
    train,
    train_step,
    uncompiled,
)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happened, in order."""
    happened: list[str] = []

    @contextmanager
    def noted(what: object, *more: object, **options: object) -> Iterator[None]:
        happened.append(" ".join(map(str, (what, *more, *options.values()))))
        yield
        happened.append("end")

    class Stream:
        def __init__(self, device: object = "the current device") -> None:
            self.device = device

        def wait_stream(self, other: Stream) -> None:
            pass

        def __str__(self) -> str:
            return f"stream of {self.device}"

    stand_ins = {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": noted,
        "device": noted,
        "CUDAGraph": lambda: "graph",
        "graph_pool_handle": lambda: "pool",
        "graph": noted,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return happened


def test_a_recording_is_of_its_thread_and_of_its_device_alone(seen: list[str]) -> None:
    """In CUDA's default mode the thread that pins batches meanwhile would spoil it.

    On a stream of another device, as torch's own one is once that has recorded anything, a graph would stay empty, and
    a replay do nothing.
    """

    def run() -> torch.Tensor:
        seen.append("run")
        return torch.zeros(())

    capture._record(run, capture.Place.on(torch.device("cuda", 1)))
    warm_up = ["stream of the current device", *["run"] * capture.N_WARM_UP, "end"]
    recording = ["graph pool stream of cuda:1 thread_local", "run", "end"]
    assert seen == ["cuda:1", *warm_up, *recording, "end"]


class Tape:
    """Stand for a graph on the CPU: a replay computes anew, in the same memory, what was computed while it was open."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def replay(self) -> None:
        with torch._C._AutoDispatchBelowAutograd():
            for operator, arguments, options, made in self.calls:
                found = operator(*arguments, **options)
                for ours, theirs in zip(tree_leaves(made), tree_leaves(found), strict=True):
                    if isinstance(ours, Tensor) and ours.data_ptr() != theirs.data_ptr():
                        ours.copy_(theirs)


class Recorder(TorchDispatchMode):
    """Write what is computed on the tape that is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.open: Tape | None = None
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
        monkeypatch.setattr(torch.cuda, "graph", self.graph)

    @contextmanager
    def graph(self, tape: Tape, *_: Any, **options: Any) -> Iterator[None]:
        self.open = tape
        yield
        self.open = None

    def __torch_dispatch__(self, operator, types, arguments=(), options=None) -> Any:
        options = options or {}
        if operator is sum_over_ranks._opoverload:  # whose body ends a graph, and begins another
            with self:
                return sum_over_ranks._init_fn(*arguments)
        made = operator(*arguments, **options)
        assert self.open is not None
        self.open.calls.append((operator, arguments, options, made))
        return made


@pytest.mark.parametrize("kind", ["spinn-pi", "spinn"])
def test_sums_over_ranks_lie_between_graphs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss, gradients and statistics of a step that normalises together with a rank that has the same rows."""
    corpus, rows = corpus_of(corpora()[::4])
    n_sums = []

    def as_two(total: Tensor) -> None:
        n_sums.append(total.numel())
        total.mul_(2)

    monkeypatch.setattr(torch.distributed, "all_reduce", as_two)
    recorder = Recorder(monkeypatch)
    with uncompiled():
        captured, launched = (train_step(kind, COMPILED, captures=True) for _ in range(2))
    inputs = []
    for step in (captured, launched):
        synchronise(step.method.model)
        assert step.method.plan(corpus, COMPILED.batch_size, seed=1)
    for batch in (captured.method.collate(select(corpus, rows[number]), 0) for number in (2, 3)):
        totals = Totals(*(torch.full((), 7.0) for _ in Totals._fields))
        inputs.append(Inputs(batch, totals, (), OnHost(torch.zeros(1, dtype=torch.int64))))
    first, second = inputs
    assert capture.signature(first) == capture.signature(second)
    buffers, graphs = map_tensors(first, torch.clone), capture.Graphs(capture.Place(None, None))
    with capture.preserved(captured._state(), captured.device), recorder:
        output = graphs.capture(lambda: captured._part(buffers))
    assert not n_sums
    expected = launched._part(second)
    n_launched = n_sums.copy()
    n_sums.clear()
    for ours, theirs in zip(flatten(buffers, host=False), flatten(second, host=False), strict=True):
        ours.copy_(theirs)
    graphs.replay()
    assert n_sums == n_launched
    assert len(n_sums) > 4
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(captured.method.model.buffers(), launched.method.model.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


class Part(NamedTuple):
    """Tensors of several types and sizes, one without an element."""

    index: torch.Tensor
    mask: torch.Tensor
    offsets: OnHost
    nothing: torch.Tensor
    weight: torch.Tensor


def part(seed: int) -> Part:
    generator = torch.Generator().manual_seed(seed)
    return Part(
        torch.randint(9, (5,), generator=generator),
        torch.rand(3, generator=generator) < 0.5,
        OnHost(torch.arange(3)),
        torch.empty(0, 2),
        torch.rand(2, 3, generator=generator),
    )


def assert_equal(got: object, expected: object) -> None:
    for ours, theirs in zip(flatten(got), flatten(expected), strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert torch.equal(ours, theirs)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What was copied."""
    copied: list[torch.Tensor] = []
    copy = torch.Tensor.copy_

    def watched(tensor, source, non_blocking=False):
        copied.append(source)
        return copy(tensor, source, non_blocking)

    monkeypatch.setattr(torch.Tensor, "copy_", watched)
    return copied


def test_a_packed_bundle_is_replayed_after_one_copy(copies: list[torch.Tensor]) -> None:
    """Beside it what comes from elsewhere, as a step's counts do; bundles of many buffers are copied one by one."""
    seen: list[Any] = []

    def step(inputs: Any) -> torch.Tensor:
        seen.append(map_tensors(inputs, torch.Tensor.clone))
        return torch.zeros(())

    steps = capture.CapturedSteps(step, lambda: [], torch.device("cpu"))
    total = torch.tensor(7.0)
    bundles = [(part(seed), total + seed) for seed in range(3)]
    for bundle, n_copies in zip(bundles, (2, 2, 5), strict=True):
        given = (packed(bundle[0]), bundle[1]) if n_copies == 2 else bundle
        steps.record(given)
        copies.clear()
        steps(given)
        assert len(copies) == n_copies
        assert_equal(seen[-1], bundle)
    assert steps.n_recordings == 1


def test_packing_is_done_once(copies: list[torch.Tensor]) -> None:
    bundle = part(1)
    once = packed(bundle)
    assert_equal(once, bundle)
    assert len({tensor.untyped_storage().data_ptr() for tensor in flatten(once, host=False)}) == 1
    assert all(tensor.data_ptr() % 16 == 0 for tensor in flatten(once, host=False))  # as vectors are loaded
    copies.clear()
    assert packed(once) is once
    assert not copies
    shifted = once._replace(index=once.index[1:])  # of the same buffer, but not as it lies there
    assert_equal(packed(shifted), shifted)
    assert len(copies) == 4


def test_a_bundle_in_one_buffer_is_sent_by_one_copy() -> None:
    for bundle, n_buffers in ((part(1), 4), (packed(part(1)), 1)):
        there = flatten(sent(bundle, torch.device("meta")), host=False)
        assert len({tensor.untyped_storage()._cdata for tensor in there}) == n_buffers
        assert_equal(sent(bundle, torch.device("cpu")), bundle)


def test_the_largest_shape_is_recorded_first() -> None:
    """The graphs share memory, and what the largest took is enough for the others."""
    corpus, batches = corpus_of(corpora())
    method = train_step("spinn-pi", COMPILED).method
    assert method.plan(corpus, COMPILED.batch_size, seed=1)
    n_leaf_rows = [len(batch.sentences.token_ids) for _, batch in method.samples(corpus, batches[0], 0)]
    assert len(n_leaf_rows) > 1
    assert n_leaf_rows == sorted(n_leaf_rows, reverse=True)
    assert n_leaf_rows[0] > n_leaf_rows[-1]


REINFORCE = ParsingConfig(
    learning="reinforce", n_samples=2, warmup_steps=2, entropy_weight=0.1, entropy_steps=2
)
PARSING = {"scheduled": ParsingConfig(scheduled_sampling=0.5, scheduled_steps=3), "reinforce": REINFORCE}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("parsing", PARSING.values(), ids=PARSING)
def test_steps_that_parse_are_captured_in_all_their_phases(
    parsing: ParsingConfig, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same draws: what is given to a step, such as the moments of rewards, is no part of what is captured."""
    corpus, rows = corpus_of(corpora()[::4])
    config = dataclasses.replace(COMPILED, accumulate=accumulate)
    same_draws(monkeypatch)
    eager = train_step("spinn", dataclasses.replace(config, compile=False), parsing=parsing)
    with uncompiled():
        step = train_step("spinn", config, parsing=parsing, captures=True)
    for one in (eager, step):
        if isinstance(one.method, Reinforce):  # a deviation of few rewards is all rounding in float32
            one.method.moments = map_tensors(one.method.moments, torch.Tensor.double)
    expected = train(eager, corpus, rows)
    with uncompiled():
        step.warm_up(corpus, rows[0])
        n_shapes = sum(map(len, step.method.shapes.values()))
        assert step.captured.n_recordings == n_shapes
        got = take_steps(step, corpus, rows)
    np.testing.assert_allclose(got, expected, rtol=1e-8)
    assert_same_training(step, eager)
    assert step.captured.n_recordings == n_shapes  # of every phase, before the first step
    for told in ("tensors", "figures"):
        ours, theirs = (getattr(one.method, told)() for one in (step, eager))
        torch.testing.assert_close(ours, theirs, check_dtype=False)
