"""The machine for any cell, against the hand-written TreeLSTM's oracle over every kind of tables, and by recursion."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from spinn_tensor import OwnTables, StackMachine, logistic_noise, to_torch
from spinn_tensor.data_prep.tables import forest_tables, lane_tables, own_tables
from spinn_tensor.model.cells import GRC, RNTN, Sum, Tracker, TransitionHead, TreeGRU, TreeLSTM
from tests.any_cells import OddCell, PlainTreeLSTM, RunningMean, assert_same, leaves_of, recursion, some_trees
from tests.contract import Executor, ExecutorContract
from tests.machines import MACHINE_IDS, MACHINES, TABLES, flatten, forced, relative_error
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
