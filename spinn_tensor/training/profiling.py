"""Where a training step's time goes, by `torch.profiler`.

The step is the one that training takes, with its marks (`Phase`):

    data              rows of the corpus to the columns of a batch
    tables            columns to a batch: index tables of the trees
    transfer          the batch to the device
    encode            leaves and stack machine, forward
    classify          classifier and losses, forward
    forward           both, where the step is compiled
    backward          gradients of everything
    update            the gradient's norm, new weights
    replay            forward to update, where a CUDA graph has recorded them
    left over         what is between them

Around every phase the program waits for the device, as training never does; so the step's time is that of other steps,
without profile and waits.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from spinn_tensor.training.loop import Trainer
from spinn_tensor.training.step import MARK, Phase

LEFT_OVER = "left over"
PHASES = (
    "data",
    "tables",
    "transfer",
    "encode",
    "classify",
    "forward",
    "replay",
    "backward",
    "update",
    LEFT_OVER,
)
WHOLE = "whole"  # the phase around all others
MOST_PROFILED = 10  # steps, each of thousands of events
N_TRIED = 6  # steps that tell whether another number of threads is faster
FASTER = 0.95  # of the time: what is more than noise


class Operator(NamedTuple):
    """Hold what an operator, or on a GPU a kernel, costs itself in a step, without those that it calls."""

    name: str
    ms_a_step: float  # of the GPU, or of the CPU where there is none
    share: float  # of all operators
    calls_a_step: float


class StepProfile(NamedTuple):
    """Hold what was measured."""

    phases_ms: dict[str, float]  # mean milliseconds of those that there are, in the order of PHASES
    step_ms: float  # median of undisturbed steps
    examples_per_second: float  # of undisturbed steps
    operators: list[Operator]  # all of them, the most expensive first
    peak_bytes: int  # allocated on the GPU, or resident, up to the last timed step
    bytes_before: int  # of these, before the first step
    hints: list[str]


class Profiler:
    """Train a model whose run nobody keeps, and measure the steps."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.device = next(trainer.task.model.parameters()).device
        self._is_cuda = self.device.type == "cuda"
        self._batches = itertools.chain.from_iterable(map(trainer.batches, itertools.count()))
        trainer.task.model.train()

    def measure(self, n_steps: int, n_warmup: int, trace: Path | None = None) -> StepProfile:
        """Measure everything; `trace` is written as Chrome and Perfetto read it, by gzip where it ends in .gz.

        Changes the model, and nothing else. Raises TrainingError where training would.
        """
        bytes_before = self._peak_bytes()
        self.trainer.step.warm_up(self.trainer.task.train, next(self._batches))
        self._seconds(n_warmup)
        n_examples, seconds = zip(*(self._seconds(1) for _ in range(n_steps)), strict=True)
        peak_bytes = self._peak_bytes()
        phases, operators = self._profiled(min(n_steps, MOST_PROFILED), trace)
        step = 1e3 * statistics.median(seconds)
        busy = sum(operator.ms_a_step for operator in operators)
        hints = [self._threads_hint()]
        if self._is_cuda and busy < step / 2:
            hints.append(
                f"the GPU computes for {busy:.1f} of a step's {step:.1f} ms: it waits for the program"
            )
        return StepProfile(
            phases,
            step,
            sum(n_examples) / sum(seconds),
            operators,
            peak_bytes,
            bytes_before,
            [hint for hint in hints if hint],
        )

    def _seconds(self, n_steps: int) -> tuple[int, float]:
        """Take undisturbed steps; return their examples and seconds."""
        batches = list(itertools.islice(self._batches, n_steps))
        self._wait()
        start = time.perf_counter()
        for rows in batches:
            self._step(rows)
        self._wait()
        return sum(map(len, batches)), time.perf_counter() - start

    def _step(self, rows: Any) -> None:
        self.trainer.take_step(rows)
        self.trainer.progress.step += 1

    def _wait(self) -> None:
        if self._is_cuda:
            torch.cuda.synchronize(self.device)

    def _peak_bytes(self) -> int:
        """Return the most memory allocated on the GPU, or that this process ever had."""
        if self._is_cuda:
            return torch.cuda.max_memory_allocated(self.device)
        import resource  # not on every system

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def _profiled(self, n_steps: int, trace: Path | None) -> tuple[dict[str, float], list[Operator]]:
        """Take steps that are watched; return the phases and the operators of one."""
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler writes to stderr
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._is_cuda else [])]
        with self._marked(), profile(activities=activities, acc_events=True) as profiler:
            for rows in itertools.islice(self._batches, n_steps):
                with Phase(WHOLE):
                    self._step(rows)
        if trace is not None:
            profiler.export_chrome_trace(str(trace))
        averages = profiler.key_averages()
        return phases_of(averages, n_steps), operators_of(averages, n_steps, self._is_cuda)

    @contextmanager
    def _marked(self) -> Iterator[None]:
        """Have every phase wait for the device, and mark encoding, which a compiled step has no seam around."""
        encoder = self.trainer.task.model.encoder
        with ExitStack() as stack:
            stack.enter_context(patch.object(Phase, "wait", self._wait))
            if not self.trainer.config.compile:
                for name in ("forward", "node_states", "parse"):
                    marked = Phase("encode")(getattr(encoder, name))
                    stack.enter_context(patch.object(encoder, name, marked))
            yield

    def _threads_hint(self) -> str | None:
        """Say whether one thread is faster than several, or all cores than one."""
        now = torch.get_num_threads()
        other = 1 if now > 1 else os.cpu_count() or 1
        if self._is_cuda or other == now:
            return None
        taken: dict[int, list[float]] = {now: [], other: []}
        try:
            for number in range(N_TRIED + 1):
                for n_threads in (now, other) if number % 2 else (other, now):
                    torch.set_num_threads(n_threads)
                    seconds = self._seconds(1)[1]
                    if number:  # the first warms up
                        taken[n_threads].append(seconds)
        finally:
            torch.set_num_threads(now)
        before, after = (1e3 * statistics.median(taken[n]) for n in (now, other))
        if after >= FASTER * before:
            return None
        return f"--threads {other}: a step takes {after:.1f} ms, on {now} {before:.1f} ms"


def phases_of(
    averages: Sequence[Any],  # FunctionEventAvg, of a profile of `n_steps` steps
    n_steps: int,
) -> dict[str, float]:
    """Return mean milliseconds of every phase of a step that there is, none within another."""
    marked = {
        row.key.removeprefix(MARK): row.cpu_time_total / n_steps / 1e3
        for row in averages
        if row.key.startswith(MARK) and row.device_type == DeviceType.CPU
    }
    left_over = marked.pop(WHOLE) - sum(time for name, time in marked.items() if name != "encode")
    if "encode" in marked:
        marked["classify"] = marked.pop("forward") - marked["encode"]
    return {name: {**marked, LEFT_OVER: left_over}[name] for name in PHASES if name in (*marked, LEFT_OVER)}


def operators_of(
    averages: Sequence[Any],  # FunctionEventAvg, of a profile of `n_steps` steps
    n_steps: int,
    of_gpu: bool,
) -> list[Operator]:
    """Return what each operator, or on a GPU each kernel and copy, cost in a step; dearest first."""
    rows = [row for row in averages if not row.is_user_annotation and not row.key.startswith(MARK)]
    if of_gpu:
        # operators have their kernels' time beside the kernels themselves, which alone a replay leaves
        rows = [row for row in rows if row.device_type != DeviceType.CPU]
    microseconds = [row.self_device_time_total if of_gpu else row.self_cpu_time_total for row in rows]
    total = sum(microseconds) or 1.0
    operators = [
        Operator(row.key, time / n_steps / 1e3, time / total, row.count / n_steps)
        for row, time in zip(rows, microseconds, strict=True)
    ]
    return sorted(operators, key=lambda operator: -operator.ms_a_step)
