"""The operators' bodies on tensors that are on CUDA by name: no other device, no host read, shapes as foretold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

from spinn_tensor import GRC, ForestTables, LaneTables, OwnTables, StackMachine, Tracker, TransitionHead
from spinn_tensor.bundles import bundle_of, flatten, map_tensors
from spinn_tensor.config import GIVEN_KINDS
from spinn_tensor.inference import root_rows
from spinn_tensor.machine import executors, operators
from spinn_tensor.machine.any_cell_operators import any_cell
from spinn_tensor.machine.executors import in_time
from spinn_tensor.training.config import ParsingConfig
from spinn_tensor.training.methods import Reinforce, make_method
from spinn_tensor.training.objective import Totals, count_rows
from tests.fake_cuda import CUDA, fake_cuda, module_on_fake_cuda, on_fake_cuda
from tests.machines import (
    MACHINES,
    TABLES,
    TRACKER,
    every_machine,
    parameters,
    random_leaves,
    random_transitions,
    random_weights,
    run_tables,
)
from tests.machines import flatten as lengths_of
from tests.tiny_models import pair_model, some_pairs

BATCH = [random_transitions(np.random.default_rng(3), n) for n in (1, 4, 2)]
HIDDEN = 8
OFTEN = ("forest, hoisted", "given, padded", "own, padded")  # whose products are in bfloat16 in every run
NARROW = {True: (), False: pytest.mark.slow}
DENSE = 7  # which argument of stack_machine_own it is


class Call(NamedTuple):
    """An operator, and what it was called with."""

    operator: Any
    arguments: tuple[Any, ...]


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """What is called of the operators, inside; own transitions are composed densely, as on a GPU."""
    calls: list[Call] = []

    def watch(operator: Any) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if operator is operators.stack_machine_own:
                arguments = (*arguments[:DENSE], True, *arguments[DENSE + 1 :])
            calls.append(Call(operator, arguments))
            return operator(*arguments)

        return call

    places = {"stack_machine": executors, "stack_machine_own": executors, "stack_machine_backward": operators}
    with ExitStack() as stack:
        for name, module in places.items():
            stack.enter_context(mock.patch.object(module, name, watch(getattr(operators, name))))
        yield calls


def on_device(call: Call, tracked: bool) -> list[Any]:
    """The arguments, of which offsets are on the host and all else on the device."""
    kind: type[Any] = LaneTables if tracked else ForestTables
    if call.operator is operators.stack_machine_own:
        kind = OwnTables
    names = [argument.name for argument in call.operator._opoverload._schema.arguments]
    moved = []
    for name, value in zip(names, call.arguments, strict=True):
        if name == "tables" and kind is OwnTables:
            moved.append(flatten(map_tensors(bundle_of(OwnTables, value), on_fake_cuda)))
        elif name == "tables":
            moved.append(flatten(map_tensors(operators.tables_of(kind, value), on_fake_cuda)))
        elif isinstance(value, Tensor | list):
            moved.append(map_tensors(value, on_fake_cuda))
        else:
            moved.append(value)
    return [list(value) if isinstance(value, tuple) else value for value in moved]


def described(outputs: Any) -> list[tuple[Any, ...]]:
    return [
        (tuple(one.shape), one.dtype, one.device.type, one.stride()) for one in flatten(outputs, host=True)
    ]


@pytest.mark.parametrize(
    "name, tracked, dtype",
    [
        *((*machine, torch.float32) for machine in MACHINES),
        *(pytest.param(*machine, torch.bfloat16, marks=NARROW[machine[0] in OFTEN]) for machine in MACHINES),
    ],
    ids=str,
)
def test_the_operators_stay_on_the_device(name, tracked, dtype) -> None:
    """Forward and backward, the products in either type."""
    leaves = random_leaves(BATCH, HIDDEN, torch.float32)
    compose, tracker = random_weights(HIDDEN, TRACKER if tracked else None, torch.float32)
    with recorded() as calls, torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = run_tables(TABLES[name](BATCH), leaves, compose, tracker, BATCH)
        torch.autograd.grad(output.sum(), parameters(leaves, compose, tracker))
    assert len(calls) == 2
    for call in calls:
        assert call.arguments[-1] == dtype
        with fake_cuda():
            arguments = on_device(call, tracked)
            of_body, of_kernel = call.operator._init_fn(*arguments), call.operator(*arguments)
            assert described(of_body) == described(of_kernel)
            assert {one.device for one in flatten(of_body)} <= {CUDA, torch.device("cpu")}


@every_machine
def test_any_cell_stays_on_the_device(name, tracked) -> None:
    """Forward; what autograd does of the backward a torch without CUDA cannot be asked."""
    modules = [GRC(HIDDEN, TRACKER), Tracker(HIDDEN, TRACKER), TransitionHead(TRACKER)]
    machine = StackMachine(*modules) if tracked else StackMachine(GRC(HIDDEN))
    tables = TABLES[name](BATCH)
    if isinstance(tables, LaneTables) and not tracked:
        tables = in_time(tables)
    kind = {OwnTables: "own", LaneTables: "lanes", ForestTables: "forest"}[type(tables)]
    n_words = int(lengths_of(BATCH)[1].sum())
    weights = [weight for name, weight in machine.named_parameters() if not name.startswith("transition.")]
    n_noise = len(tables.entry_index) if isinstance(tables, OwnTables) else 0
    chosen = [torch.zeros(2, TRACKER), torch.zeros(2), torch.zeros(n_noise)]
    with fake_cuda():
        given = torch.zeros(n_words, HIDDEN), weights, tables, chosen if kind == "own" else []
        arguments = *map(partial(map_tensors, function=on_fake_cuda), given), machine._name, kind, False, None
        arguments = [flatten(value) if isinstance(value, tuple) else value for value in arguments]
        of_body, of_kernel = any_cell._init_fn(*arguments), any_cell(*arguments)
        assert described(of_body) == described(of_kernel)
        assert {one.device for one in flatten(of_body)} <= {CUDA, torch.device("cpu")}


TAUGHT = ParsingConfig()
LOSSES = {  # kind, how it learns to parse, whether its batches have a fixed shape
    **{
        f"{kind}, {fixed}": (kind, TAUGHT, fixed == "fixed")
        for kind in GIVEN_KINDS
        for fixed in ("ragged", "fixed")
    },
    "spinn, ragged": ("spinn", TAUGHT, False),
    "spinn, fixed": ("spinn", TAUGHT, True),
    "spinn, sampled": ("spinn", ParsingConfig(scheduled_sampling=0.5, scheduled_steps=1), False),
    "spinn, sampled, fixed": ("spinn", ParsingConfig(scheduled_sampling=0.5, scheduled_steps=1), True),
    "rl-spinn": ("spinn", ParsingConfig(learning="reinforce", n_samples=2), False),
    "rl-spinn, fixed": ("spinn", ParsingConfig(learning="reinforce", n_samples=2), True),
    "bow": ("bow", TAUGHT, False),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind, parsing, is_fixed", LOSSES.values(), ids=LOSSES)
def test_losses_stay_on_the_device(kind, parsing, is_fixed, dtype) -> None:
    """From the batch to the loss and what is observed beside it; LSTMs are left out, which are cuDNN's there."""
    model, corpus = pair_model(kind, mlp_dropout=0.3), some_pairs()
    method = make_method(model, parsing)
    if is_fixed:
        assert method.plan(corpus, batch_size=5, seed=1)
    batch = method.collate(corpus, step=1)
    assert (batch.row_mask is not None) == is_fixed
    counts = count_rows(corpus, node_labels=False)
    with fake_cuda():
        module_on_fake_cuda(model)
        method._observed = on_fake_cuda(method._observed)
        if isinstance(method, Reinforce):
            method.moments = map_tensors(method.moments, on_fake_cuda)
        placed, totals = map_tensors(batch, on_fake_cuda), Totals.of(counts, CUDA)
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
            given = tuple(map(on_fake_cuda, method.given(1)))
            loss = method.loss(placed, 1, totals, given)
        assert (loss.device, loss.shape, loss.dtype) == (CUDA, (), torch.float32)
        assert method.observed().device == CUDA


def test_rows_of_roots_come_from_the_device() -> None:
    """Of sentences of 3, 1 and 2 words; a copy from the host would wait for what runs."""
    sentence_index = torch.tensor([0, 0, 0, 1, 2, 2])
    of_sentences = SimpleNamespace(sequence=SimpleNamespace(sentence_index=sentence_index))
    batch: Any = SimpleNamespace(labels=torch.zeros(3, dtype=torch.int64), sentences=of_sentences)
    assert root_rows(batch).tolist() == [4, 5, 8]
    with fake_cuda():
        of_sentences.sequence.sentence_index = on_fake_cuda(sentence_index)
        batch.labels = on_fake_cuda(batch.labels)
        assert root_rows(batch).device == CUDA


def test_what_mixes_devices_or_reads_raises() -> None:
    """Else the test above could not fail."""
    rows, index = torch.zeros(3, 2), torch.tensor([1])
    with fake_cuda():
        with pytest.raises(RuntimeError, match=r"two .*devices,? cuda:0.* cpu"):
            on_fake_cuda(rows) + rows
        assert on_fake_cuda(rows)[1:].device == CUDA
        with pytest.raises(RuntimeError, match=r"two .*devices"):
            on_fake_cuda(rows).index_select(0, index)
        with pytest.raises(RuntimeError, match="copy from the host"):
            on_fake_cuda(index)[0] = 1
        with pytest.raises(DataDependentOutputException):
            on_fake_cuda(index).tolist()
        with pytest.raises(DataDependentOutputException):
            on_fake_cuda(index).item()
    assert rows.tolist() == [[0.0, 0.0]] * 3
