"""The machine for any cell, against the hand-written TreeLSTM's oracle over every kind of tables, and by recursion."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from spinn_tensor import OwnTables, StackMachine, logistic_noise, to_torch
from spinn_tensor.data_prep.tables import forest_tables, lane_tables, own_tables
from spinn_tensor.machine import DrawError, any_cell_operators
from spinn_tensor.model.cells import GRC, RNTN, Sum, Tracker, TransitionHead, TreeGRU, TreeLSTM
from tests.any_cells import OddCell, PlainTreeLSTM, RunningMean, recursion
from tests.contract import Executor, ExecutorContract
from tests.machines import (
    MACHINE_IDS,
    MACHINES,
    TABLES,
    Batch,
    flatten,
    forced,
    gradients,
    random_transitions,
    relative_error,
)
from tests.strategies import left_branching

pytestmark = pytest.mark.numerical

CELLS = [PlainTreeLSTM, GRC, RNTN, TreeGRU, Sum]
every_save = pytest.mark.parametrize("save", ["all", "states"])


class Parse(nn.Module):
    """Parse when it is called."""

    def __init__(self, machine: StackMachine) -> None:
        super().__init__()
        self.machine = machine

    def forward(self, leaves, tables, noise, every_node) -> Tensor:
        return self.machine.parse(leaves, tables, noise, every_node=every_node).encodings


def run(name: str, save: str, leaves, compose, tracker, batch, every_node) -> Tensor:
    """Run tables by the general loop, with these weights in the modules."""
    dim = leaves.shape[1] // 2
    weights = {f"compose.{key}": value for key, value in compose._asdict().items() if value is not None}
    modules, transition, tables, noise = [PlainTreeLSTM(dim)], None, TABLES[name](batch), None
    if tracker is not None:
        tracker_dim = tracker.weight_hidden.shape[1]
        modules = [PlainTreeLSTM(dim, tracker_dim), Tracker(dim, tracker_dim)]
        weights |= {f"tracker.{key}": value for key, value in tracker._asdict().items()}
        if isinstance(tables, OwnTables):
            transition, noise = TransitionHead(tracker_dim), forced(batch, tables)
            zeros = leaves.new_zeros(2, tracker_dim), leaves.new_zeros(2)
            weights |= {"transition.weight": zeros[0], "transition.bias": zeros[1]}
    machine = StackMachine(*modules, transition=transition, save=save)
    assert not machine.is_built_in
    if noise is None:
        return functional_call(machine, weights, (leaves, tables), {"every_node": every_node})
    weights = {f"machine.{key}": value for key, value in weights.items()}
    encodings = functional_call(Parse(machine), weights, (leaves, tables, noise, every_node))
    return encodings[: len(flatten(batch)[0])]


EXECUTORS = {
    f"{name}, {save}": Executor(machine[1], partial(run, machine[0], save))
    for save in ("states", "all")
    for name, machine in zip(MACHINE_IDS, MACHINES, strict=True)
    if save == "states" or name in ("forest, hoisted", "given, tracker")
}


@pytest.fixture(scope="module", params=EXECUTORS.values(), ids=EXECUTORS)
def executor(request) -> Executor:
    """Give each of them."""
    return request.param


class TestAnyCell(ExecutorContract):
    """The TreeLSTM as any cell, over all kinds of tables."""

    test_sentences_of_the_snli_slice = pytest.mark.slow(ExecutorContract.test_sentences_of_the_snli_slice)


def some_trees(n_trees: int = 6, most: int = 9) -> Batch:
    rng = np.random.default_rng(0)
    return [random_transitions(rng, int(n)) for n in rng.integers(1, most, n_trees)] + [left_branching(7)]


def leaves_of(batch: Batch, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    n_words = int(flatten(batch)[1].sum())
    return torch.randn(n_words, width, generator=generator, dtype=torch.float64).requires_grad_()


def parameters_of(machine: nn.Module) -> list[Tensor]:
    return [parameter for parameter in machine.parameters() if parameter.requires_grad]


def assert_same(machine: StackMachine, got: Tensor, expected: Tensor, leaves: Tensor) -> None:
    """Hold outputs, and gradients of leaves and parameters, against the recursion's."""
    assert relative_error(got, expected) < 1e-10
    inputs = [leaves, *parameters_of(machine)]
    for one, other in zip(gradients(got, inputs), gradients(expected, inputs), strict=True):
        assert relative_error(one, other) < 1e-10


@every_save
@pytest.mark.parametrize("name", ["forest", "forest, narrow", "given", "given, capped"])
@pytest.mark.parametrize("kind", CELLS)
def test_every_cell_is_its_recursion(kind, name: str, save: str) -> None:
    batch, cell = some_trees(), kind(4).double()
    machine, leaves = StackMachine(cell, save=save), leaves_of(batch, cell.state_dim)
    expected, _ = recursion(cell, None, leaves, batch)
    assert_same(machine, machine(leaves, TABLES[name](batch), every_node=True), expected, leaves)


@every_save
@pytest.mark.parametrize("name", ["given", "given, padded"])
@pytest.mark.parametrize("kind", CELLS)
def test_every_cell_with_the_tracker_is_its_recursion(kind, name: str, save: str) -> None:
    batch, cell, tracker = some_trees(), kind(4, 3).double(), Tracker(4, 3).double()
    machine, leaves = StackMachine(cell, tracker, save=save), leaves_of(batch, cell.state_dim)
    expected, _ = recursion(cell, tracker, leaves, batch)
    assert_same(machine, machine(leaves, TABLES[name](batch), every_node=True), expected, leaves)


@every_save
@pytest.mark.parametrize("sampled", [False, True])
def test_own_transitions_of_a_cell_and_a_tracker_of_ones_own(sampled: bool, save: str) -> None:
    """What was chosen is read off the scores, and the run is the recursion's on what was chosen."""
    torch.manual_seed(0)
    batch, cell, tracker = some_trees(), OddCell(4).double(), RunningMean(5).double()
    head, leaves = TransitionHead(4).double(), leaves_of(batch, 5)
    nn.init.normal_(head.weight, std=2)
    machine = StackMachine(cell, tracker, head, save=save)
    n_words = flatten(batch)[1]
    generator = torch.Generator().manual_seed(2)
    uniform = torch.rand(int((2 * n_words - 1).sum()), generator=generator, dtype=torch.float64)
    noise = logistic_noise(uniform) if sampled else None
    parse = machine.parse(leaves, to_torch(own_tables(n_words)), noise, every_node=True)
    chosen = np.split(parse.transitions.numpy(), np.cumsum(2 * n_words - 1)[:-1])
    assert any(not np.array_equal(one, left_branching(len(one) // 2 + 1)) for one in chosen)
    expected, said = recursion(cell, tracker, leaves, chosen)
    logits, mask = nn.functional.linear(said, head.weight, head.bias), ~parse.possible_mask
    got, right = (
        torch.cat((encodings.flatten(), scores.masked_fill(mask, 0).flatten()))
        for encodings, scores in ((parse.encodings, parse.logits), (expected, logits))
    )
    assert_same(machine, got, right, leaves)
    score = logits[:, 1] - logits[:, 0] + (0 if noise is None else noise)
    free = parse.free_mask
    assert free.sum() > 5
    assert torch.equal(parse.transitions[free].bool(), score[free] > 0)


def test_several_parses_of_a_sentence_share_its_leaves() -> None:
    """Without noise they are one parse, and the gradients of two are twice those of one."""
    torch.manual_seed(0)
    batch, machine = some_trees(), StackMachine(OddCell(4), RunningMean(5), TransitionHead(4)).double()
    leaves, n_words = leaves_of(batch, 5), flatten(batch)[1]
    once, twice = (machine(leaves, to_torch(own_tables(n_words, n_samples=n))) for n in (1, 2))
    assert twice.shape == (2 * len(batch), 3)
    totals = [output.sin().sum() for output in (once, twice)]
    torch.testing.assert_close(totals[1], 2 * totals[0])
    inputs = [leaves, *machine.compose.parameters()]
    single, double = (torch.autograd.grad(total, inputs) for total in totals)
    for one, two in zip(single, double, strict=True):
        assert relative_error(two, 2 * one) < 1e-10


def test_given_transitions_are_scored() -> None:
    batch, machine = some_trees(), StackMachine(GRC(4, 3), Tracker(4, 3), TransitionHead(3)).double()
    leaves, tables = leaves_of(batch, 4), TABLES["given"](batch)
    parse = machine.parse(leaves, tables)
    assert np.array_equal(parse.transitions, flatten(batch)[0])
    _, said = recursion(machine.compose, machine.tracker, leaves, batch)
    expected = nn.functional.linear(said, machine.transition.weight, machine.transition.bias)
    assert_same(machine, parse.logits[parse.free_mask], expected[parse.free_mask], leaves)
    torch.testing.assert_close(parse.encodings, machine(leaves, tables), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [*CELLS, TreeLSTM])
def test_gradcheck_of_every_cell(kind) -> None:
    batch = [left_branching(3), left_branching(2)]
    machine = StackMachine(kind(2, 2), Tracker(2, 2), save="states").double()
    tables, names = TABLES["given"](batch), [name for name, _ in machine.named_parameters()]

    def function(leaves: Tensor, *values: Tensor) -> Tensor:
        return functional_call(machine, dict(zip(names, values, strict=True)), (leaves, tables))

    inputs = leaves_of(batch, machine.compose.state_dim), *machine.parameters()
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("make, n_composed", [(forest_tables, 4), (lane_tables, 5)])
def test_equal_words_and_trees_are_composed_once(make, n_composed: int) -> None:
    """Of 9 compositions 01, 012, 0120 and 12; in lanes 012 before another word and 012 at the end are two."""
    batch = [left_branching(4), left_branching(4), left_branching(3), left_branching(2)]
    cell = GRC(4).double()
    machine, words = StackMachine(cell), leaves_of([left_branching(3)], 4)
    index = np.array([0, 1, 2, 0, 0, 1, 2, 0, 0, 1, 2, 1, 2])
    calls: list[int] = []
    cell.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    got = machine(words, to_torch(make(*flatten(batch), leaf_index=index)), every_node=True)
    assert sum(calls) == n_composed
    expected, _ = recursion(cell, None, words[index], batch)
    assert_same(machine, got, expected, words)


def test_a_sum_is_the_sum_of_the_words() -> None:
    batch = [left_branching(4), left_branching(1)]
    leaves = leaves_of(batch, 3)
    expected = torch.stack((leaves[:4].sum(0), leaves[4]))
    torch.testing.assert_close(StackMachine(Sum(3))(leaves, TABLES["forest"](batch)), expected)


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
