"""The batcher alone: whatever comes together, every job gets what it would get by itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("starlette")

from spinn_tensor.export.serve.batcher import Batcher
from spinn_tensor.export.serve.engine import Engine
from tests.processes import HANGS
from tests.serving import TEXTS, tiny_engine

KINDS = ("encode", "classify", "parse")


class Recorder:
    """Run what adds 1, note its batches, and hold the thread until it is told to go on."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.begun, self.may_go = threading.Event(), threading.Event()
        self.may_go.set()

    def __call__(self, kind: str, examples: list[Any]) -> list[Any]:
        self.batches.append(examples)
        self.begun.set()
        assert self.may_go.wait(HANGS)
        if "bad" in examples:
            raise ValueError("bad")
        return [(kind, example) for example in examples]


def run(body: Callable[[Batcher], Any], runner: Any, max_tokens: int = 10) -> Any:
    """Run a coroutine with a batcher."""

    async def main() -> Any:
        batcher = Batcher(runner, max_tokens)
        try:
            return await body(batcher)
        finally:
            await batcher.close()
            assert not batcher.is_alive

    return asyncio.run(main())


async def held(batcher: Batcher, runner: Recorder) -> asyncio.Future[Any]:
    """Submit a job, and let the thread begin it and no more."""
    runner.may_go.clear()
    first = asyncio.ensure_future(batcher.submit("a", ["first"], 1))
    await asyncio.to_thread(runner.begun.wait, HANGS)
    return first


def test_what_waits_goes_together_up_to_the_budget_the_first_to_come_first() -> None:
    runner = Recorder()

    async def body(batcher: Batcher) -> list[Any]:
        first = await held(batcher, runner)
        jobs = [("a", 1, 4), ("b", 2, 1), ("a", 3, 4), ("a", 4, 4), ("a", 5, 2), ("b", 6, 99), ("c", 7, 99)]
        others = [asyncio.ensure_future(batcher.submit(kind, [name], n)) for kind, name, n in jobs]
        await asyncio.sleep(0)
        assert batcher.n_waiting == 7
        runner.may_go.set()
        return [done.results for done in await asyncio.gather(first, *others)]

    results = run(body, runner)
    assert runner.batches == [["first"], [1, 3, 5], [2], [4], [6], [7]]
    assert results == [
        [("a", "first")],
        *([(kind, name)] for kind, name in zip("abaaabc", range(1, 8), strict=True)),
    ]


def test_what_comes_at_once_is_one_batch_though_the_thread_is_idle() -> None:
    runner = Recorder()

    async def body(batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.submit("a", [number], 1) for number in range(5)))

    run(body, runner)
    assert runner.batches == [[0, 1, 2, 3, 4]]


def test_a_job_is_never_split_and_one_that_is_too_large_runs_alone() -> None:
    runner = Recorder()

    async def body(batcher: Batcher) -> None:
        first = await held(batcher, runner)
        others = [asyncio.ensure_future(batcher.submit("a", list(range(n)), n)) for n in (25, 3, 7)]
        await asyncio.sleep(0)
        runner.may_go.set()
        for n, done in zip((25, 3, 7), await asyncio.gather(*others), strict=True):
            assert done.results == [("a", number) for number in range(n)]
            assert done.queue_seconds >= 0
        await first

    run(body, runner)
    assert [len(batch) for batch in runner.batches] == [1, 25, 10]


def test_who_has_gone_is_not_run() -> None:
    runner = Recorder()

    async def body(batcher: Batcher) -> None:
        first = await held(batcher, runner)
        gone, stays = (asyncio.ensure_future(batcher.submit("a", [name], 1)) for name in ("gone", "stays"))
        await asyncio.sleep(0)
        gone.cancel()
        first.cancel()  # while it runs
        await asyncio.sleep(0)
        runner.may_go.set()
        assert (await stays).results == [("a", "stays")]

    run(body, runner)
    assert runner.batches == [["first"], ["stays"]]


def test_one_that_fails_fails_alone(caplog) -> None:
    runner = Recorder()

    async def body(batcher: Batcher) -> None:
        first = await held(batcher, runner)
        jobs = [asyncio.ensure_future(batcher.submit("a", [name], 1)) for name in ("good", "bad", "fine")]
        await asyncio.sleep(0)
        runner.may_go.set()
        good, bad, fine = await asyncio.gather(*jobs, return_exceptions=True)
        assert (good.results, fine.results) == ([("a", "good")], [("a", "fine")])
        assert isinstance(bad, ValueError)
        await first

    run(body, runner)
    assert caplog.text.count("a batch of kind a failed") == 1


def test_closing_runs_what_waits() -> None:
    runner = Recorder()

    async def main() -> None:
        batcher = Batcher(runner, 10)
        first = await held(batcher, runner)
        others = [asyncio.ensure_future(batcher.submit("a", [number], 9)) for number in range(3)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(batcher.close())
        await asyncio.sleep(0)
        runner.may_go.set()
        await closing
        assert [done.results for done in await asyncio.gather(first, *others)][1:] == [
            [("a", n)] for n in range(3)
        ]

    asyncio.run(main())


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny_engine("spinn", "pair")


def examples_of(engine: Engine, kind: str, numbers: Sequence[int]) -> list[Any]:
    read = [engine.read(text, "text") for text in TEXTS]
    n_sides = engine.n_sides if kind == "classify" else 1
    return [tuple(read[(number + side) % len(read)] for side in range(n_sides)) for number in numbers]


def comparable(results: Sequence[Any]) -> list[Any]:
    """Return what a model said as arrays and what is equal to the last bit."""
    found: list[Any] = []
    for result in results:
        if isinstance(result, np.ndarray):
            found.append((None, result))
        elif hasattr(result, "label"):
            found.append((result.label, np.array(result.logits)))
        else:
            found.append((result.tree.transitions.tolist(), result.step_log_probabilities))
    return found


JOBS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.lists(st.integers(0, 5), min_size=1, max_size=3), st.booleans()),
    min_size=1,
    max_size=8,
)


@settings(max_examples=25)
@given(jobs=JOBS, max_tokens=st.sampled_from([1, 40, 10_000]))
def test_a_model_says_the_same_whatever_is_batched_together(engine, jobs, max_tokens) -> None:
    async def body(batcher: Batcher) -> list[Any]:
        waiting = []
        for kind, numbers, pauses in jobs:
            examples = examples_of(engine, kind, numbers)
            n_tokens = sum(len(sentence.tokens) for example in examples for sentence in example)
            waiting.append(asyncio.ensure_future(batcher.submit(kind, examples, n_tokens)))
            if pauses:
                await asyncio.sleep(0.002)
        return [done.results for done in await asyncio.gather(*waiting)]

    for (kind, numbers, _), results in zip(jobs, run(body, engine.run, max_tokens), strict=True):
        alone = [engine.run(kind, [example])[0] for example in examples_of(engine, kind, numbers)]
        for (said, values), (expected, others) in zip(comparable(results), comparable(alone), strict=True):
            assert said == expected
            np.testing.assert_allclose(values, others, rtol=0, atol=1e-6 * max(1, np.abs(others).max()))
