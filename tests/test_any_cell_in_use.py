"""The machine for any cell in programs: copies, autograd, autocast, threads, hooks, memory, and what it refuses."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from spinn_tensor import StackMachine
from spinn_tensor.machine import DrawError, any_cell_operators
from spinn_tensor.model.cells import GRC, Tracker, TransitionHead, TreeLSTM
from tests.any_cells import assert_same, leaves_of, recursion, some_trees
from tests.machines import TABLES, flatten, gradients, relative_error
from tests.strategies import left_branching

pytestmark = pytest.mark.numerical

every_save = pytest.mark.parametrize("save", ["all", "states"])


class Dropping(nn.Module):
    """A cell that draws random numbers, and is linear."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return nn.functional.dropout(left + 2 * right, 0.5)


def test_a_cell_that_draws_is_kept_or_refused() -> None:
    """Of a linear function the gradient, times its input, is its value."""
    batch = some_trees()
    leaves, tables = leaves_of(batch, 4), TABLES["forest"](batch)
    output = StackMachine(Dropping(), save="all")(leaves, tables)
    (gradient,) = torch.autograd.grad(output.sum(), leaves)
    torch.testing.assert_close((gradient * leaves).sum(), output.sum())
    for machine in (
        StackMachine(Dropping(), save="states"),
        torch.compile(StackMachine(Dropping()), backend="eager"),
    ):
        with pytest.raises(DrawError, match=r'draws random numbers.*save="all" keeps.*--no-compile'):
            machine(leaves, tables)
    with torch.no_grad():
        StackMachine(Dropping(), save="states")(leaves, tables)


def test_draws_are_looked_for_on_the_gpu_of_the_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which need not be the current one; a look at that would open a context there."""
    current = [0]

    class Guard:
        def __init__(self, like: Any) -> None:
            self.device = like.get_device()

        def __enter__(self) -> None:
            current.append(self.device)

        def __exit__(self, *_: object) -> None:
            current.pop()

    drawn = {0: 0, 1: 0}
    stand_ins = {
        "device_of": Guard,
        "is_available": lambda: True,
        "is_current_stream_capturing": lambda: False,
        "get_rng_state": lambda: torch.tensor(drawn[current[-1]]),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    leaves: Any = SimpleNamespace(device=torch.device("cuda", 1), get_device=lambda: 1)
    with any_cell_operators._drawing_nothing(leaves, save=True):
        drawn[0] += 1
    with pytest.raises(DrawError), any_cell_operators._drawing_nothing(leaves, save=True):
        drawn[1] += 1
    assert current == [0]


@every_save
def test_copies_and_machines_that_are_gone_have_their_gradients(save: str) -> None:
    batch = some_trees()
    tables, leaves = TABLES["forest"](batch), leaves_of(batch, 4)
    machine = StackMachine(GRC(4), save=save).double()
    expected = gradients(machine(leaves, tables), [leaves])
    for again in (copy.deepcopy(machine), pickle.loads(pickle.dumps(machine))):
        with torch.no_grad():
            again.compose.norm.weight.add_(1)
        assert relative_error(again(leaves, tables), machine(leaves, tables)) > 0.01
    output = copy.deepcopy(machine)(leaves, tables)
    assert relative_error(gradients(output, [leaves])[0], expected[0]) == 0


@every_save
def test_a_frozen_parameter_has_no_gradient_and_a_graph_may_be_kept(save: str) -> None:
    batch = some_trees()
    tables, leaves = TABLES["forest"](batch), leaves_of(batch, 4)
    machine = StackMachine(GRC(4), save=save).double()
    machine.compose.inner.requires_grad_(False)
    output = machine(leaves, tables)
    output.sin().sum().backward(retain_graph=True)
    once = leaves.grad.clone()
    assert machine.compose.inner.weight.grad is None
    assert machine.compose.outer.weight.grad.any()
    output.sin().sum().backward()
    torch.testing.assert_close(leaves.grad, 2 * once)


@every_save
def test_nobody_is_told_that_second_derivatives_are_zero(save: str) -> None:
    batch, machine = some_trees(2), StackMachine(GRC(2), save=save).double()
    tables = TABLES["forest"](batch)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.functional.hessian(
            lambda leaves: machine(leaves, tables).square().sum(), leaves_of(batch, 2)
        )


@every_save
def test_under_autocast_states_keep_their_type(save: str) -> None:
    torch.manual_seed(0)
    batch, machine = some_trees(), StackMachine(GRC(8, 3), Tracker(8, 3), save=save)
    leaves, tables = leaves_of(batch, 8).detach().float().requires_grad_(), TABLES["given"](batch)
    exact = machine(leaves, tables)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = machine(leaves, tables)
    assert output.dtype == torch.float32
    assert 0 < relative_error(output, exact) < 0.05
    inputs = [leaves, *machine.parameters()]
    for got, expected in zip(gradients(output, inputs), gradients(exact, inputs), strict=True):
        assert 0 < relative_error(got, expected) < 0.2


@every_save
def test_a_region_of_autocast_keeps_nothing_of_a_run(save: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, machine, kept = some_trees(2), StackMachine(GRC(8), save=save), []
    leaves, tables = leaves_of(batch, 8).detach().float(), TABLES["forest"](batch)
    make_roots = any_cell_operators._roots

    def roots(parameters: list[Tensor]) -> list[Tensor]:
        made = make_roots(parameters)
        kept.extend(weakref.ref(root) for root in made)
        return made

    monkeypatch.setattr(any_cell_operators, "_roots", roots)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        machine(leaves, tables).sum().backward()
        gc.collect()
        assert kept
        assert not any(root() is not None for root in kept)


class Watched(GRC):
    """A cell that knows which of its outputs are still there."""

    def __init__(self) -> None:
        super().__init__(4)
        self.made: list[weakref.ref[Tensor]] = []

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        output = super().forward(left, right)
        self.made.append(weakref.ref(output))
        return output


def test_steps_are_kept_till_the_backward_and_no_longer() -> None:
    """Who adds up losses, graphs and all, keeps no activations of batches that are done."""
    batch, cell = some_trees(2), Watched().double()
    leaves, tables = leaves_of(batch, 4), TABLES["forest"](batch)
    loss = StackMachine(cell)(leaves, tables).sum()
    loss.backward(retain_graph=True)
    assert all(output() is not None for output in cell.made)
    loss.backward()
    gc.collect()
    assert not any(output() is not None for output in cell.made)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@every_save
def test_the_operations_of_a_cell_are_counted_in_its_name(save: str) -> None:
    """Which broke off: torch cannot hook the gradients of leaves."""
    batch, machine = some_trees(), StackMachine(GRC(4), save=save).double()
    tables, inputs = TABLES["forest"](batch), [leaves_of(batch, 4), *machine.parameters()]
    expected = gradients(machine(inputs[0], tables), inputs)
    with FlopCounterMode(display=False) as counter:
        found = gradients(machine(inputs[0].clone(), tables), inputs)
    assert ("StackMachine.compose.inner" in counter.flop_counts) == (
        save == "all"
    )  # not what an operator does inside
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


class Meeting(GRC):
    """A cell of which the first call waits a while for one of another thread, and that one for the end of the first."""

    def __init__(self) -> None:
        super().__init__(4)
        self.first, self.met, self.ended = threading.current_thread(), threading.Event(), threading.Event()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        if threading.current_thread() is self.first:
            self.met.wait(0.3)
        else:
            self.met.set()
            self.ended.wait(0.3)
        return super().forward(left, right)


@every_save
def test_two_threads_may_run_one_machine(save: str) -> None:
    """Each left the other's parameters in the cell."""
    batch = [left_branching(2)]
    tables, leaves = TABLES["forest"](batch), leaves_of(batch, 4)
    machine = StackMachine(Meeting().double(), save=save)
    own, found = list(machine.parameters()), []

    def run_once() -> None:
        found.append(gradients(machine(leaves, tables), [leaves, *own]))

    thread = threading.Thread(target=run_once)
    thread.start()
    run_once()
    machine.compose.ended.set()
    thread.join()
    assert all(one is other for one, other in zip(machine.parameters(), own, strict=True))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def halved(module: nn.Module) -> None:
    module.register_forward_hook(lambda _, inputs, output: output / 2)


def replaced(module: nn.Module) -> None:
    forward = module.forward
    module.forward = lambda *inputs: forward(*inputs) / 2


def pruned(module: nn.Module) -> None:
    prune.random_unstructured(module, "bias", 0.5)


@pytest.mark.parametrize("part", ["compose", "tracker"])
@pytest.mark.parametrize("change", [halved, replaced, pruned])
def test_what_is_hung_on_a_treelstm_or_a_tracker_is_not_passed_by(change, part: str) -> None:
    batch = some_trees()
    tables, leaves = TABLES["given"](batch), leaves_of(batch, 8)
    machine = StackMachine(TreeLSTM(4, 3), Tracker(4, 3)).double()
    change(getattr(machine, part))
    for _ in range(2):
        with torch.no_grad():
            for parameter in machine.parameters():
                parameter.add_(0.1)
        got = machine(leaves, tables, every_node=True)
        assert_same(machine, got, recursion(machine.compose, machine.tracker, leaves, batch)[0], leaves)


def test_a_pruned_choice_of_transitions_is_trained() -> None:
    machine = StackMachine(GRC(4, 3), Tracker(4, 3), TransitionHead(3))
    prune.random_unstructured(machine.transition, "weight", 2)
    batch = some_trees()
    leaves, tables = leaves_of(batch, 4).float(), TABLES["given"](batch)
    for _ in range(2):
        machine.parse(leaves, tables).log_probabilities().sum().backward()
        with torch.no_grad():
            machine.transition.weight_orig.add_(1)
    logits = machine.parse(leaves, tables).logits
    machine.transition()
    assert torch.equal(logits, machine.parse(leaves, tables).logits)


class Scaled(StackMachine):
    """A machine with a parameter and a layer of its own."""

    def __init__(self) -> None:
        super().__init__(GRC(4))
        self.scale, self.layer = nn.Parameter(torch.tensor(2.0)), nn.Linear(4, 4)

    def forward(self, leaves: Tensor, tables) -> Tensor:
        return self.scale * super().forward(self.layer(leaves), tables)


def test_a_machine_may_have_parameters_besides() -> None:
    batch, machine = some_trees(), Scaled().double()
    leaves = leaves_of(batch, 4)
    expected, _ = recursion(machine.compose, None, machine.layer(leaves), batch)
    roots = expected[flatten(batch)[1].cumsum() * 2 - np.arange(len(batch)) - 2]
    assert_same(machine, machine(leaves, TABLES["forest"](batch)), machine.scale * roots, leaves)


@pytest.mark.parametrize("cell", [GRC, TreeLSTM])
def test_other_leaves_than_own_transitions_are_of_are_refused(cell) -> None:
    machine = StackMachine(cell(4, 3), Tracker(4, 3), TransitionHead(3)).double()
    batch = [left_branching(3), left_branching(2)]
    leaves, tables = leaves_of(batch, machine.compose.state_dim), TABLES["own, forced"](batch)
    for other in (leaves[:-1], torch.cat((leaves, leaves[:1]))):
        for parse in (machine.parse, partial(machine.beams, k=1)):
            with pytest.raises(
                ValueError, match=rf"leaves: got {len(other)}, expected one for each of the 5 words"
            ):
                parse(other, tables)
    with pytest.raises(ValueError, match=r"leaves: got \(5, 3\)"):
        machine.beams(leaves[:, :3], tables, 1)


class Wide(nn.Module):
    """A cell that gives other states than it takes."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.cat((left, right), 1)


class Pair(nn.Module):
    """A cell that gives h and c as torch's LSTM cell does, and not one state."""

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return left, right


# gloo says so where a machine does not know its own name
@pytest.mark.filterwarnings("ignore:Unable to resolve hostname")
def test_what_cannot_run_is_refused() -> None:
    batch = some_trees()
    leaves, forest, lanes = leaves_of(batch, 4), TABLES["forest"](batch), TABLES["given"](batch)
    machine = StackMachine(GRC(4).double())
    with pytest.raises(ValueError, match=r"Wide gave \(\d+, 8\), expected states of shape \(\d+, 4\)"):
        StackMachine(Wide())(leaves, forest)
    with pytest.raises(ValueError, match=r"Pair gave a tuple, expected states of shape \(\d+, 4\)"):
        StackMachine(Pair())(leaves, forest)
    with pytest.raises(TypeError, match="Linear has no state_dim"):
        StackMachine(GRC(4, 3), nn.Linear(2, 2))
    for built in (GRC(4, 3), TreeLSTM(2, 3)):
        with pytest.raises(
            ValueError, match=rf"leaves: got \(\d+, 5\), expected \(L, 4\), states of {type(built).__name__}"
        ):
            StackMachine(built, Tracker(2, 3))(leaves_of(batch, 5), lanes)
    with pytest.raises(
        TypeError, match=r'got ForestTables, expected LaneTables: .*columns, "lanes"\)\.tables'
    ):
        StackMachine(GRC(4, 3), Tracker(4, 3))(leaves, forest)
    with pytest.raises(TypeError, match="no `transition` and does not parse"):
        StackMachine(GRC(4, 3), Tracker(4, 3)).parse(leaves, lanes)
    parser = StackMachine(GRC(4, 3), Tracker(4, 3), TransitionHead(3))
    with pytest.raises(TypeError, match="got ForestTables; a parser reads OwnTables or LaneTables"):
        parser.parse(leaves, forest)
    with pytest.raises(ValueError, match="noise goes with own transitions"):
        parser.parse(leaves, lanes, torch.zeros(9))
    with pytest.raises(TypeError, match="there is none"):
        StackMachine(GRC(4), None, TransitionHead(3))
    with pytest.raises(ValueError, match="expected 'all' or 'states', got 'some'"):
        StackMachine(GRC(4), save="some")
    with pytest.raises(TypeError, match=r"one dtype, got torch.float32, torch.float64"):
        StackMachine(GRC(4))(leaves, forest)
    with pytest.raises(NotImplementedError, match=r"no torch\.func transforms"):
        torch.func.grad(lambda x: machine(x, forest).sum())(leaves)
    for save in ("all", "states"):
        output = StackMachine(GRC(4).double(), save=save)(leaves, forest)
        (gradient,) = torch.autograd.grad(output.sum(), leaves, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiable once"):
            gradient.sum().backward()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))  # also where there is a GPU
        for sharded in (machine.compose, TreeLSTM(2).double()):  # whose gradients would come to nothing
            with pytest.raises(TypeError, match="sharded by itself would learn nothing"):
                StackMachine(fully_shard(sharded, mesh=mesh))(leaves, forest)
    finally:
        torch.distributed.destroy_process_group()
