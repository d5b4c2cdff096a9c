"""Where a training step's time goes.

The step is the one that training takes: clocks are wrapped around the functions that it calls, and at every moment
exactly one phase's clock runs, so that the phases and what is left over between them add up to the step.

    data              rows of the corpus to the columns of a batch
    tables            columns to a batch: index tables of the trees
    transfer          the batch to the device
    encode            leaves and stack machine, forward
    classify          classifier and losses, forward
    backward          gradients of everything
    clip              the gradient's norm
    optimizer         new weights
    left over         what is between them

A step that is compiled has `forward` for encode and classify, and `clip + optimizer`; one replayed from a CUDA graph is
one phase, `replay`. Around every phase the program waits for the device, as training never does. So every batch is
trained on twice, in turn with and without: the step's time is that of undisturbed steps.
"""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from spinn_tensor.training import loop, optimizer
from spinn_tensor.training.loop import Trainer

LEFT_OVER = "left over"
FEEDING = ("data", "tables")  # phases that are on the host whatever the device
PHASES = (
    *FEEDING,
    "transfer",
    "encode",
    "classify",
    "forward",
    "replay",
    "backward",
    "clip",
    "optimizer",
    "clip + optimizer",
    LEFT_OVER,
)

N_TRACED = 3  # steps that operators are counted in
N_TRIED = 6  # steps, or batches, that tell whether another setting is faster
CUDA_BLOCK = 10  # undisturbed steps on end: launching ahead of the device is part of training
NOTABLE = 0.1  # share of a step from which a phase is worth a remark
FASTER = 0.95  # of the time: what is more than noise
RANGE = "step: "  # before a phase's name in a trace

Enter = Callable[[str], AbstractContextManager[Any]]  # from a phase's name to what surrounds the phase


class Phase(NamedTuple):
    """A part of a step."""

    name: str
    milliseconds: float  # median over the steps
    share: float  # of the sum over all phases


class Operator(NamedTuple):
    """What an operator costs itself, without those that it calls, over all its calls in a step; on a GPU a kernel."""

    name: str
    milliseconds: float  # of the GPU, or of the CPU where there is none
    share: float  # of all operators
    calls: float


class StepProfile(NamedTuple):
    """What was measured."""

    phases: list[Phase]  # those that there are, in the order of PHASES
    step_milliseconds: float  # median of undisturbed steps
    examples_per_second: float  # of undisturbed steps
    operators: list[Operator]  # all of them, the most expensive first
    peak_bytes: int  # allocated on the GPU, or resident, up to the last timed step
    bytes_before: int  # of these, before the first step
    hints: list[str]

    @property
    def phases_milliseconds(self) -> float:
        """What the phases come to."""
        return sum(phase.milliseconds for phase in self.phases)


class PhaseClock:
    """Seconds of each phase; a phase within another stops the other's clock for the time."""

    def __init__(self, wait: Callable[[], object]) -> None:
        self._wait = wait
        self._phase, self._since = LEFT_OVER, 0.0
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        before = self._switch(name)
        try:
            yield
        finally:
            self._switch(before)

    def start(self) -> None:
        """Sets every clock to zero; from now on it is `LEFT_OVER`."""
        self._switch(LEFT_OVER)
        self._seconds.clear()

    def stop(self) -> dict[str, float]:
        """Seconds of each phase since `start`."""
        self._switch(LEFT_OVER)
        return dict(self._seconds)

    def _switch(self, name: str) -> str:
        self._wait()
        now = time.perf_counter()
        self._seconds[self._phase] += now - self._since
        before, self._phase, self._since = self._phase, name, now
        return before


class Profiler:
    """Trains a model whose run nobody keeps, and measures the steps."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.device = next(trainer.task.model.parameters()).device
        self._is_cuda = self.device.type == "cuda"
        self._batches = self._endless_batches()
        trainer.task.model.train()

    def measure(
        self,
        n_steps: int,
        n_warmup: int,
        trace: IO[bytes] | None = None,  # takes the trace, as Chrome and Perfetto read it
        compress: bool = False,  # the trace, by gzip
    ) -> StepProfile:
        """Everything. Changes the model, and nothing else. Raises TrainingError where training would."""
        bytes_before = self._peak_bytes()
        self.trainer.step.warm_up(self.trainer.task.train, next(self._batches))
        for _ in range(n_warmup):
            self._step(next(self._batches))
        whole, rates, phases = self._timed_steps(n_steps)
        peak_bytes = self._peak_bytes()
        operators = self._operators(trace, compress)
        step = statistics.median(whole)
        hints = [self._feeding_hint(phases), self._threads_hint(), self._launch_hint(step, operators)]
        return StepProfile(
            phases,
            1e3 * step,
            statistics.median(rates),
            operators,
            peak_bytes,
            bytes_before,
            [hint for hint in hints if hint],
        )

    def _timed_steps(self, n_steps: int) -> tuple[list[float], list[float], list[Phase]]:
        """Seconds of each undisturbed step, examples per second, and the phases of as many others."""
        clock = PhaseClock(self._wait)
        whole: list[float] = []
        rates: list[float] = []
        parts: list[dict[str, float]] = []
        n_block = CUDA_BLOCK if self._is_cuda else 1
        while len(parts) < n_steps:
            block = list(itertools.islice(self._batches, min(n_block, n_steps - len(parts))))
            for undisturbed in (True, False) if len(parts) // n_block % 2 else (False, True):
                if undisturbed:
                    seconds = self._seconds(block)
                    whole += [seconds / len(block)] * len(block)
                    rates.append(sum(map(len, block)) / seconds)
                else:
                    parts += [self._phases_of(rows, clock) for rows in block]
        return whole, rates, _summary(parts)

    def _seconds(self, block: Sequence[np.ndarray]) -> float:
        """Of undisturbed steps on end."""
        self._wait()
        start = time.perf_counter()
        for rows in block:
            self._step(rows)
        self._wait()
        return time.perf_counter() - start

    def _phases_of(self, rows: np.ndarray, clock: PhaseClock) -> dict[str, float]:
        with watched(self.trainer, clock.phase):
            clock.start()
            self._step(rows)
            return clock.stop()

    def _step(self, rows: np.ndarray) -> None:
        self.trainer.take_step(rows)
        self.trainer.progress.step += 1

    def _endless_batches(self) -> Iterator[np.ndarray]:
        """The rows of one batch after another, in training's order."""
        for epoch in itertools.count():
            yield from self.trainer.batches(epoch)

    def _wait(self) -> None:
        if self._is_cuda:
            torch.cuda.synchronize(self.device)

    def _peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated(self.device) if self._is_cuda else peak_resident_bytes()

    def _operators(self, trace: IO[bytes] | None, compress: bool) -> list[Operator]:
        """Counted in steps of their own, whose phases are named in the trace."""
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler writes to stderr
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._is_cuda else [])]
        enter: Enter = lambda name: record_function(RANGE + name)  # noqa: E731
        plan = schedule(wait=0, warmup=1, active=N_TRACED, repeat=1)
        with (
            watched(self.trainer, enter),
            profile(activities=activities, schedule=plan, acc_events=True) as profiler,
        ):
            for _ in range(1 + N_TRACED):
                self._step(next(self._batches))
                self._wait()
                profiler.step()
        if trace is not None:
            _export(profiler, trace, compress)
        return costs(profiler.key_averages(), self._is_cuda)

    def _feeding_hint(self, phases: Sequence[Phase]) -> str | None:
        """Whether larger batches would be built faster, where building them takes long."""
        share = sum(phase.share for phase in phases if phase.name in FEEDING)
        if share <= NOTABLE:
            return None
        pairs = [(next(self._batches), next(self._batches)) for _ in range(N_TRIED)]
        once = statistics.median(self._feeding_seconds(rows) / len(rows) for rows, _ in pairs)
        joined = [np.concatenate(pair) for pair in pairs]
        twice = statistics.median(self._feeding_seconds(rows) / len(rows) for rows in joined)
        size = self.trainer.config.batch_size
        text = f"data and tables are {share:.0%} of a step, on the CPU"
        if twice < FASTER * once:
            return f"{text}; with --batch-size {2 * size} they take {twice / once:.0%} of the time an example"
        return f"{text}; larger batches would not be built faster"

    def _feeding_seconds(self, rows: np.ndarray) -> float:
        trainer = self.trainer
        start = time.perf_counter()
        trainer.method.collate(loop.select(trainer.task.train, rows), trainer.progress.step)
        return time.perf_counter() - start

    def _threads_hint(self) -> str | None:
        """Whether one thread is faster than several, or all cores than one."""
        now = torch.get_num_threads()
        other = 1 if now > 1 else os.cpu_count() or 1
        if self._is_cuda or other == now:
            return None
        seconds: dict[int, list[float]] = {now: [], other: []}
        try:
            for number, rows in enumerate(itertools.islice(self._batches, N_TRIED + 1)):
                for n_threads in (now, other) if number % 2 else (other, now):
                    torch.set_num_threads(n_threads)
                    taken = self._seconds([rows])
                    if number:  # the first warms up
                        seconds[n_threads].append(taken)
        finally:
            torch.set_num_threads(now)
        before, after = (1e3 * statistics.median(seconds[n]) for n in (now, other))
        if after >= FASTER * before:
            return None
        return f"--threads {other}: a step takes {after:.1f} ms, on {now} {before:.1f} ms"

    def _launch_hint(self, step: float, operators: Sequence[Operator]) -> str | None:
        """Whether the GPU is idle for most of a step."""
        busy = sum(operator.milliseconds for operator in operators)
        if not self._is_cuda or busy >= 500 * step:
            return None
        return f"the GPU computes for {busy:.1f} of a step's {1e3 * step:.1f} ms: it waits for the program"


@contextmanager
def watched(trainer: Trainer, enter: Enter) -> Iterator[None]:
    """The phases of the trainer's steps are entered by `enter` while this lasts."""
    encoder, method, step = trainer.task.model.encoder, trainer.method, trainer.step
    functions: list[tuple[Any, str, str]] = [
        (loop, "select", "data"),
        (method, "collate", "tables"),
        (step, "place", "transfer"),
    ]
    if step.captured is not None:
        functions.append((step, "captured", "replay"))
    if trainer.config.compile:
        functions += [(method, "loss", "forward"), (optimizer.Update, "__call__", "clip + optimizer")]
    else:
        functions += [(encoder, name, "encode") for name in ("forward", "node_states", "parse")]
        functions += [
            (method, "loss", "classify"),
            (optimizer, "clip_gradient", "clip"),
            (trainer.optimizer, "step", "optimizer"),
        ]
    with ExitStack() as stack:
        for owner, name, phase in functions:
            stack.enter_context(replaced(owner, name, _surrounded(getattr(owner, name), phase, enter)))
        stack.enter_context(replaced(method, "loss", _with_watched_backward(method.loss, enter)))
        yield


def _surrounded(function: Callable[..., Any], phase: str, enter: Enter) -> Callable[..., Any]:
    def surrounded(*args: Any, **kwargs: Any) -> Any:
        with enter(phase):
            return function(*args, **kwargs)

    return surrounded


def _with_watched_backward(loss_of: Callable[..., Any], enter: Enter) -> Callable[..., Any]:
    def loss_with_watched_backward(*args: Any, **kwargs: Any) -> Any:
        loss = loss_of(*args, **kwargs)
        loss.backward = _surrounded(loss.backward, "backward", enter)
        return loss

    return loss_with_watched_backward


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """The attribute of an object or module has another value while this lasts."""
    own = vars(owner)
    was_own, before = name in own, own.get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if was_own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


def _summary(parts: Sequence[dict[str, float]]) -> list[Phase]:
    """Medians over the steps of every phase that there is, and what share each is of their sum."""
    medians = {
        name: statistics.median(part.get(name, 0.0) for part in parts)
        for name in PHASES
        if any(name in part for part in parts)
    }
    total = sum(medians.values())
    return [Phase(name, 1e3 * seconds, seconds / total) for name, seconds in medians.items()]


def costs(
    averages: Iterable[Any],  # FunctionEventAvg, as the profiler gives them
    of_gpu: bool,
) -> list[Operator]:
    """What each operator, or on a GPU each kernel and copy, cost in one of the `N_TRACED` steps; dearest first."""
    rows = [row for row in averages if not row.key.startswith((RANGE, "ProfilerStep"))]
    if (
        of_gpu
    ):  # operators have their kernels' time beside the kernels themselves, which alone a replay leaves
        rows = [row for row in rows if row.device_type != DeviceType.CPU and not row.is_user_annotation]
    microseconds = [row.self_device_time_total if of_gpu else row.self_cpu_time_total for row in rows]
    total = sum(microseconds) or 1.0
    operators = [
        Operator(row.key, time / N_TRACED / 1e3, time / total, row.count / N_TRACED)
        for row, time in zip(rows, microseconds, strict=True)
    ]
    return sorted(operators, key=lambda operator: -operator.milliseconds)


def _export(profiler: profile, file: IO[bytes], compress: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("trace.json.gz" if compress else "trace.json")
        profiler.export_chrome_trace(str(path))
        with path.open("rb") as written:
            shutil.copyfileobj(written, file)


def peak_resident_bytes() -> int:
    """The most memory that this process ever had."""
    import resource  # not on every system

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
