"""Every operator of the package, by torch's own check: schema, derivatives, fake kernels, tracing of dynamic shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from spinn_tensor import GRC, StackMachine, Tracker, TransitionHead
from spinn_tensor.bundles import LaneTables, OwnTables
from spinn_tensor.machine.executors import in_time
from spinn_tensor.normalization import sum_over_ranks
from tests.machines import (
    MACHINE_IDS,
    MACHINES,
    TABLES,
    TRACKER,
    flatten,
    forced,
    gradients,
    parameters,
    random_leaves,
    random_transitions,
    random_weights,
    run,
)
from tests.operator_calls import calls_of, check_operators

# opcheck looks for a gradient of what has none, and torch hides the warning where "error" has raised it already (2.15)
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

BATCH = [random_transitions(np.random.default_rng(3), n) for n in (4, 1, 2)]
HIDDEN = 4
# one of each kind that the operators tell apart in every run
OFTEN = ("forest, hoisted", "given, padded, tracker", "own, padded, tracker")
machines = pytest.mark.parametrize(
    "name, tracked",
    [
        pytest.param(*machine, id=name, marks=() if name in OFTEN else pytest.mark.slow)
        for name, machine in zip(MACHINE_IDS, MACHINES, strict=True)
    ],
)


def run_both_ways(name: str, tracked: bool) -> list[Tensor]:
    """Run tables, and back."""
    leaves, weights = random_leaves(BATCH, HIDDEN), random_weights(HIDDEN, TRACKER if tracked else None)
    return gradients(run(name, leaves, *weights, BATCH), parameters(leaves, *weights))


@machines
def test_the_machine(name: str, tracked: bool) -> None:
    forward = "stack_machine_own" if name.startswith("own") else "stack_machine"
    assert check_operators(partial(run_both_ways, name, tracked)) == {forward, "stack_machine_backward"}


def run_any_cell(name: str, tracked: bool) -> None:
    """Run a machine of another cell on tables, and back, under save="states", where it is an operator in eager runs."""
    modules = [GRC(HIDDEN, TRACKER), Tracker(HIDDEN, TRACKER), TransitionHead(TRACKER)]
    machine = StackMachine(*(modules if tracked else [GRC(HIDDEN)]), save="states").double()
    tables = TABLES[name](BATCH)
    if isinstance(tables, LaneTables) and not tracked:
        tables = in_time(tables)
    leaves = torch.randn(int(flatten(BATCH)[1].sum()), HIDDEN, dtype=torch.float64, requires_grad=True)
    if isinstance(tables, OwnTables):
        machine.parse(leaves, tables, forced(BATCH, tables)).encodings.sum().backward()
    else:
        machine(leaves, tables).sum().backward()


@machines
def test_the_machine_of_any_cell(name: str, tracked: bool) -> None:
    assert check_operators(partial(run_any_cell, name, tracked)) == {"any_cell", "any_cell_backward"}


@pytest.mark.parametrize("run_machine", [run_both_ways, run_any_cell])
def test_a_gradient_of_what_saved_nothing_is_refused(run_machine: Callable[[str, bool], object]) -> None:
    """Executors save wherever a gradient may be asked for; a program that calls an operator itself may not."""
    forward, *_ = calls_of(partial(run_machine, "given", True))
    unsaved = [False if argument is True else argument for argument in forward.arguments]
    with pytest.raises(RuntimeError, match="ran with save=False, but a gradient was asked for"):
        forward.operator(*unsaved)


def test_the_sum_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.mul_(2))
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert check_operators(lambda: sum_over_ranks(x).sum().backward()) == {"sum_over_ranks"}
