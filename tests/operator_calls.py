"""Find out with what the package's operators are called, and ask torch whether they are what it takes them for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class Call(NamedTuple):
    """Hold an operator, and what it was called with."""

    operator: Any
    arguments: tuple[Any, ...]


class _Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Call] = []

    def __torch_dispatch__(self, operator, types, arguments=(), options=None) -> Any:
        if operator.namespace == "spinn_tensor":
            self.found.append(Call(operator, arguments))
        return operator(*arguments, **options or {})


def calls_of(run: Callable[[], Any]) -> list[Call]:
    """Return the calls of the package's operators, forward and backward."""
    calls = _Calls()
    with calls:
        run()
    return calls.found


def check_operators(run: Callable[[], Any]) -> set[str]:
    """Check schema, derivatives, fake kernel and tracing of each operator that is called; return their names.

    What is differentiable once has a backward without derivatives.
    """
    calls = calls_of(run)
    for operator, arguments in calls:
        if "backward" in str(operator):
            arguments = tree_map_only(Tensor, torch.detach, arguments)
        torch.library.opcheck(operator, arguments)
    return {str(operator).split(".")[1] for operator, _ in calls}
