"""Jobs of many requests to batches of a budget of tokens, which a thread runs one after another.

The thread takes what waits, at once when it is idle: under load more waits while a batch runs, and batches grow by
themselves. The first job to come is the first to go; of those behind it, the ones of its kind join while the budget
lasts. A job whose future was cancelled is dropped before it runs. Where a batch fails, its jobs run alone, so that one
that fails fails alone.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

# Turns of the event loop before the next batch: answers are sent in the first, and whoever has got one and asks again
# is read and handed over in the next three. Else half of the clients would wait while the other half is served.
TURNS = 4
LONGEST_WAIT = 0.02  # seconds for them: the loop may have other things to do

logger = logging.getLogger(__name__)

Run = Callable[[str, list[Any]], Sequence[Any]]  # examples of one kind to their results
OnBatch = Callable[[int, int], object]  # told of a batch's jobs and tokens before it runs


class Done(NamedTuple):
    """Hold what became of a job."""

    results: Sequence[Any]  # one for each example
    queue_seconds: float
    inference_seconds: float  # of the batch that it was in


class Job(NamedTuple):
    """Hold what one request wants to be run."""

    kind: str  # jobs of one kind may run together
    examples: Sequence[Any]  # n >= 1
    n_tokens: int
    future: asyncio.Future[Done]
    since: float


class Batcher:
    """Take jobs from one event loop. Its thread ends with `close`, when all that was taken is done."""

    def __init__(self, run: Run, max_tokens: int, on_batch: OnBatch = lambda n_jobs, n_tokens: None) -> None:
        """Start the thread, from within the event loop."""
        self._run, self._max_tokens, self._on_batch = run, max_tokens, on_batch
        self._loop = asyncio.get_running_loop()
        self._arrived: queue.SimpleQueue[Job | None] = queue.SimpleQueue()  # None ends it
        self._just_come: list[Job] = []  # in this turn of the event loop
        self._held: deque[Job] = deque()  # came before, and are still to run
        self._closing = False
        self._settled = threading.Event()  # the event loop has done what a batch's answers bring about
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        """Count the jobs that wait, about."""
        return self._arrived.qsize() + len(self._held) + len(self._just_come)

    @property
    def is_alive(self) -> bool:
        """Tell whether jobs are run."""
        return self._thread.is_alive()

    async def submit(self, kind: str, examples: Sequence[Any], n_tokens: int) -> Done:
        """Return the results of the examples; whoever is cancelled while it waits is not run."""
        future: asyncio.Future[Done] = self._loop.create_future()
        if not self._just_come:  # the thread would begin with the first of those that come at once
            self._loop.call_soon(self._hand_over)
        self._just_come.append(Job(kind, examples, n_tokens, future, time.perf_counter()))
        return await future

    def _hand_over(self) -> None:
        for job in self._just_come:
            self._arrived.put(job)
        self._just_come.clear()

    async def close(self) -> None:
        """Run what waits, and end the thread."""
        self._hand_over()
        self._arrived.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        while batch := self._next():
            self._on_batch(len(batch), sum(job.n_tokens for job in batch))
            self._answer(batch)

    def _next(self) -> list[Job]:
        """Wait for jobs, and return those of the next batch; none when all is done."""
        while True:
            if not self._held:
                if self._closing:
                    return []
                self._hold(self._arrived.get())
            try:
                while True:
                    self._hold(self._arrived.get_nowait())
            except queue.Empty:
                pass
            batch: list[Job] = []
            left, n_tokens = deque[Job](), 0
            for job in self._held:
                if job.future.cancelled():
                    continue
                fits = not batch or (
                    job.kind == batch[0].kind and n_tokens + job.n_tokens <= self._max_tokens
                )
                (batch if fits else left).append(job)
                n_tokens += job.n_tokens if fits else 0
            self._held = left
            if batch:
                return batch

    def _hold(self, job: Job | None) -> None:
        if job is None:
            self._closing = True
        else:
            self._held.append(job)

    def _answer(self, batch: list[Job]) -> None:
        begin = time.perf_counter()
        answers: list[Done | Exception]
        try:
            examples = [example for job in batch for example in job.examples]
            results = self._run(batch[0].kind, examples)
            seconds = time.perf_counter() - begin
            answers, first = [], 0
            for job in batch:
                end = first + len(job.examples)
                answers.append(Done(results[first:end], begin - job.since, seconds))
                first = end
        except Exception as error:
            if len(batch) > 1:
                for job in batch:
                    self._answer([job])
                return
            logger.exception("a batch of kind %s failed", batch[0].kind)
            answers = [error]
        self._settled.clear()
        self._loop.call_soon_threadsafe(self._deliver, batch, answers)
        self._settled.wait(LONGEST_WAIT)

    def _deliver(self, batch: list[Job], answers: list[Done | Exception]) -> None:
        for job, answer in zip(batch, answers, strict=True):
            if job.future.done():  # the client has gone meanwhile
                continue
            if isinstance(answer, Exception):
                job.future.set_exception(answer)
            else:
                job.future.set_result(answer)
        self._turn(TURNS)

    def _turn(self, n_left: int) -> None:
        """Let the event loop go on by so many turns before the next batch."""
        if n_left:
            self._loop.call_soon(self._turn, n_left - 1)
        else:
            self._settled.set()
