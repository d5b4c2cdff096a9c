"""What timing on a device takes: waiting for it, its rates, the kernels launched, and a budget of time."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import harness
from spinn_tensor.training.step import autocast

ROUNDS = 3  # recorded, of all candidates in turn
ROUND_SECONDS, MOST_CALLS = 0.15, 50  # a round calls a candidate so often that it takes about so long
LAUNCHES = re.compile(r"cu(da)?(Launch|GraphLaunch)")


class Rates(NamedTuple):
    """What the device can do, measured on large operands."""

    flops: dict[str, float]  # of a product, by precision, operations a second
    bytes: float  # read and written by a copy, a second


class Budget:
    """Seconds for everything; what would take longer is left out, and said."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.left_out: list[str] = []

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    def allows(self, what: str, seconds: float, reserve: float = 0.0) -> bool:
        """Whether there is time for it, keeping a reserve."""
        if seconds + reserve <= self.left:
            return True
        self.left_out.append(
            f"{what}: about {seconds:.0f} s, of which {max(self.left - reserve, 0):.0f} s are left"
        )
        return False


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Inside, products of float32 are taken in TF32 or not; as the settings were, afterwards."""
    settings: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.rnn)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "tf32" if name == "tf32" else "ieee"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(candidates: Mapping[Any, Callable[[], Any]], device: torch.device) -> dict[Any, float]:
    """Of a call of each, the median over rounds in which all take turns."""
    timed = {name: _timed(function, device) for name, function in candidates.items()}
    (measured,) = harness.interleaved([timed], range(-1, ROUNDS))
    return {name: statistics.median(values) for name, values in measured.items()}


def _timed(function: Callable[[], Any], device: torch.device) -> Callable[[], float]:
    n_calls = max(1, min(MOST_CALLS, int(ROUND_SECONDS / max(_once(function, device, 1), 1e-6))))
    return lambda: _once(function, device, n_calls)


def _once(function: Callable[[], Any], device: torch.device, n_calls: int) -> float:
    wait(device)
    start = time.perf_counter()
    for _ in range(n_calls):
        function()
    wait(device)
    return (time.perf_counter() - start) / n_calls


def measure_rates(device: torch.device, names: tuple[str, ...], size: int) -> Rates:
    """Rates of a product [size, size] x [size, size] and of a copy of its operands."""
    left, right = torch.randn(2, size, size, device=device).unbind()
    flops = {}
    for name in names:
        with precision(name), autocast(name, device.type):
            flops[name] = 2 * size**3 / seconds_of({name: lambda: torch.mm(left, right)}, device)[name]
    copied = torch.empty_like(left)
    seconds = seconds_of({"copy": lambda: copied.copy_(left)}, device)["copy"]
    return Rates(flops, 2 * left.numel() * left.element_size() / seconds)


def count_kernels(function: Callable[[], Any], device: torch.device) -> tuple[int, int | None]:
    """Kernels that a call runs and launches that it takes; on the CPU operators, and None."""
    if device.type != "cuda":
        return harness.count_operators(function), None
    function()
    wait(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiler:
        function()
        wait(device)
    events = profiler.events()
    assert events is not None
    kernels = [event for event in events if event.device_type == DeviceType.CUDA and "Mem" not in event.name]
    launches = [event for event in events if LAUNCHES.match(event.name)]
    return len(kernels), len(launches)


def peak_bytes(function: Callable[[], Any], device: torch.device) -> int | None:
    """Device memory above what was there before, at the most, during a call; None on the CPU."""
    if device.type != "cuda":
        return None
    function()
    wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    function()
    wait(device)
    return torch.cuda.max_memory_allocated(device) - before


def device_name(device: torch.device) -> str:
    """As it stands in a table."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def describe(device: torch.device) -> dict[str, Any]:
    """The machine, and the device and its libraries."""
    described = harness.machine() | {"device": device_name(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described |= {
            "device_memory": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return described
