"""The parts of a training step, by the names that every profile of torch shows them under."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch.profiler import record_function

MARK = "step: "  # before a phase's name


class Phase(record_function):
    """Mark a part of a step: `with Phase("backward"): loss.backward()`. Costs microseconds where nothing profiles."""

    wait: ClassVar[Callable[[], object] | None] = None  # of a profile that tells apart what a device computes

    def __init__(self, name: str) -> None:
        super().__init__(MARK + name)

    def __enter__(self) -> Any:
        self._wait()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._wait()
        super().__exit__(*error)

    def _wait(self) -> None:
        if Phase.wait is not None:
            Phase.wait()
