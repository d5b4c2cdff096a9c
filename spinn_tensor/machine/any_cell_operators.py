"""The loop for any cell as a differentiable operator, opaque to `torch.compile`, or keeping its graphs.

One operator serves every cell. What crosses its border are tensors, the parameters among them, and the name under which
`register` knows the machine that says what to do with them. Its backward is an operator without autograd of its own, so
that autograd works inside.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from spinn_tensor.bundles import ForestTables, LaneTables, OwnTables, TransitionWeights, bundle_of, flatten
from spinn_tensor.data_prep.errors import SpinnError
from spinn_tensor.machine.any_cell import Kept, Loop, run_backward, run_forward
from spinn_tensor.machine.buffers import Tables
from spinn_tensor.machine.executors import check_dtypes, check_leaves, check_transforms
from spinn_tensor.machine.operators import fake_found, found_by, found_tables, operator_or, tables_of
from spinn_tensor.machine.schedule import GivenSchedule, OwnSchedule, is_dense, own_compositions


class DrawError(SpinnError, RuntimeError):
    """Raised for a cell or a tracker that draws random numbers which its backward would need again."""


Save = Literal["all", "states"]
KIND_OF = {"forest": ForestTables, "lanes": LaneTables, "own": OwnTables}
_MACHINES: WeakValueDictionary[str, nn.Module] = WeakValueDictionary()
_numbers = itertools.count()
SWAPPED = threading.RLock()  # held while modules have other parameters than their own


class CellRun(NamedTuple):
    """Hold what a run made: both memories, differentiable, and the tables that it ran on."""

    memory: Tensor  # (R, S) states
    trackers: Tensor  # (1 + A, J) the trackers' states; empty without tracker
    tables: Tables


class Choice(NamedTuple):
    """Hold what own transitions are chosen by."""

    transition: TransitionWeights
    noise: Tensor  # (M,)


def register(machine: nn.Module) -> str:
    """Name a machine, whose `compose` is the cell and whose `tracker` is a module or None, for the operators."""
    name = str(next(_numbers))
    _MACHINES[name] = machine
    return name


def _loop(name: str) -> Loop:
    machine: Any = _MACHINES[name]
    return Loop(machine.compose, machine.tracker)


def run_cell(
    name: str,  # of a machine
    parameters: list[Tensor],  # of its cell and tracker, each once
    leaves: Tensor,  # (L, S)
    tables: ForestTables | LaneTables | OwnTables,
    choice: Choice | None,  # for OwnTables
    save: Save,
) -> CellRun:
    """Run the machine's cell, and its tracker if it has one, over tables."""
    autocast = None
    if torch.is_autocast_enabled(leaves.device.type):
        autocast = torch.get_autocast_dtype(leaves.device.type)
        leaves = leaves.to(next((parameter.dtype for parameter in parameters), leaves.dtype))
    check_dtypes(leaves, parameters)
    check_transforms((leaves, *parameters))
    check_leaves(leaves, tables)
    kind = next(kind for kind, of in KIND_OF.items() if isinstance(tables, of))
    flat = flatten(tables)
    chosen = [tensor.detach().to(leaves.dtype) for tensor in flatten(choice)]  # a choice has no gradient
    inputs = (leaves, *parameters)
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    if needs_grad and save == "all" and not torch.compiler.is_compiling():
        memory, trackers, *found = _KeptRun.apply(name, flat, kind, chosen, autocast, *inputs)
    else:
        run = operator_or(_any_cell, any_cell)
        memory, trackers, found = run(leaves, parameters, flat, chosen, name, kind, needs_grad, autocast)
    return CellRun(memory, trackers, _ran_on(kind, flat, found))


def _ran_on(kind: str, tables: list[Tensor], found: list[Tensor]) -> Tables:
    if kind == "own":
        return found_tables(tables, found)
    return tables_of(LaneTables, tables) if kind == "lanes" else tables_of(ForestTables, tables)


def _forward(
    loop: Loop,
    leaves: Tensor,
    tables: list[Tensor],
    chosen: list[Tensor],
    kind: str,
    kept: Kept | None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Run the loop; return both memories, and of own transitions what was found."""
    if kind == "own":
        own = bundle_of(OwnTables, tables)
        *transition, noise = chosen
        dense = is_dense(own)
        chooser = OwnSchedule(own, TransitionWeights(*transition), noise, leaves.shape[0], dense)
        memories = run_forward(loop, leaves, chooser, own, kept)
        return *memories, found_by(chooser, own, dense)[1]
    given = _ran_on(kind, tables, [])
    schedule = GivenSchedule(given, 1 + leaves.shape[0] + given.left_index.shape[0])
    return *run_forward(loop, leaves, schedule, given if isinstance(given, LaneTables) else None, kept), []


def _roots(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the parameters as roots of graphs of their own."""
    return [parameter.detach().requires_grad_() for parameter in parameters]


def _run(loop: Loop, parameters: list[Tensor], autocast: torch.dtype | None, function, leaves: Tensor, *more):
    """Run a function of the loop with these parameters in its modules."""
    names = [name for name, _ in loop.named_parameters()]
    with SWAPPED, torch.autocast(leaves.device.type, dtype=autocast, enabled=autocast is not None):
        found = functional_call(
            loop, dict(zip(names, parameters, strict=True)), (function, leaves.detach(), *more)
        )
    if autocast is not None:
        torch.clear_autocast_cache()  # a region around many runs would keep what these parameters became
    return found


class _KeptRun(torch.autograd.Function):
    """Run the loop and keep the graph of each step for the backward."""

    @staticmethod
    def forward(ctx, name, tables, kind, chosen, autocast, leaves, *parameters):
        kept = Kept()
        loop, roots = _loop(name), _roots(parameters)
        memory, trackers, found = _run(loop, roots, autocast, _forward, leaves, tables, chosen, kind, kept)
        ctx.run = loop, _ran_on(kind, tables, found), roots, kept
        ctx.save_for_backward(memory, trackers)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*found)
        return memory, trackers, *found

    @staticmethod
    def backward(ctx, grad_memory, grad_trackers, *_):
        loop, tables, roots, kept = ctx.run
        memories = ctx.saved_tensors
        grads = _buffers(memories, (grad_memory, grad_trackers))
        sums = run_backward(loop, tables, memories, grads, roots, kept)

        def release() -> None:
            try:
                _ = ctx._raw_saved_tensors
            except RuntimeError:  # autograd has freed them, since nobody retains the graph
                kept.clear()

        torch.autograd.Variable._execution_engine.queue_callback(release)  # at the end of the whole backward
        reads = *memories, grad_memory, grad_trackers
        return None, None, None, None, None, *_once([_of_leaves(grads[0], tables), *sums], reads)


def _buffers(memories: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Copy the gradients from outside, to be added to."""
    pairs = zip(memories, gradients, strict=True)
    first, second = (torch.zeros_like(of) if given is None else given.clone() for of, given in pairs)
    return first, second


def _once(gradients: Sequence[Tensor], reads: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """Return gradients of which none can be taken, in what they were made of either: trying to raises RuntimeError."""
    if not torch.is_grad_enabled():  # nobody asked for a graph of the backward
        return gradients
    zero = sum(read[:0].sum() for read in reads if read is not None)  # that depends on all of them
    failing = torch._C._functions.DelayedError(b"the stack machine is differentiable once", len(gradients))
    return failing(*(gradient.detach() + zero for gradient in gradients))


def _of_leaves(grad_memory: Tensor, tables: Tables) -> Tensor:
    return grad_memory[1 : grad_memory.shape[0] - tables.left_index.shape[0]].clone()


def _any_cell(
    leaves: Tensor,  # (L, S)
    parameters: list[Tensor],  # of the cell and of the tracker
    tables: list[Tensor],  # flattened
    chosen: list[Tensor],  # of own transitions: TransitionWeights, and the noise (M,)
    machine: str,  # its name
    kind: str,  # of the tables
    save: bool,  # whether a backward may follow
    autocast: torch.dtype | None,  # under which the modules run; None: under none
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return both memories, and of own transitions the fields FOUND of LaneTables.

    Raises DrawError for a module that draws random numbers, which it would draw anew in the backward.
    """
    loop = _loop(machine)
    with torch.no_grad(), _drawing_nothing(leaves, save):
        return _run(loop, _roots(parameters), autocast, _forward, leaves, tables, chosen, kind, None)


any_cell = torch.library.custom_op("spinn_tensor::any_cell", _any_cell, mutates_args=())


@any_cell.register_fake
def _(
    leaves: Tensor,
    parameters: list[Tensor],
    tables: list[Tensor],
    chosen: list[Tensor],
    machine: str,
    kind: str,
    save: bool,
    autocast: torch.dtype | None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    loop, found, n_entries = _loop(machine), [], 0
    if kind == "own":
        own = bundle_of(OwnTables, tables)
        n_entries, dense = own.previous_index.shape[0], is_dense(own)
        n_compositions = own_compositions(n_entries, own.first_index.shape[0], dense)
        found = fake_found(own, dense)
    else:
        given = _ran_on(kind, tables, [])
        n_compositions = given.left_index.shape[0]
        if isinstance(given, LaneTables):
            n_entries = given.previous_index.shape[0]
    trackers = (0,) if loop.tracker is None else (1 + n_entries, loop.tracker_dim)
    memory = leaves.new_empty(1 + leaves.shape[0] + n_compositions, leaves.shape[1])
    return memory, leaves.new_empty(trackers), found


@contextmanager
def _drawing_nothing(leaves: Tensor, save: bool) -> Iterator[None]:
    """Raise DrawError where the modules drew random numbers."""
    with torch.cuda.device_of(leaves):
        on_gpu = leaves.device.type == "cuda" and torch.cuda.is_available()
        on_gpu = on_gpu and not torch.cuda.is_current_stream_capturing()
        states = [torch.get_rng_state, *([torch.cuda.get_rng_state] if on_gpu else [])] if save else []
        before = [state() for state in states]
        yield
        if all(torch.equal(state(), was) for state, was in zip(states, before, strict=True)):
            return
    raise DrawError(
        "the cell or the tracker draws random numbers, and the backward, which runs each step once more, would draw "
        'others: save="all" keeps what was drawn, but not under torch.compile; for spinn train --no-compile, or '
        "--compose-dropout in place of the cell's own"
    )


_KEYS_OF_AUTOGRAD = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)
for _key in ("AutogradCPU", "AutogradCUDA", "AutogradOther"):
    _KEYS_OF_AUTOGRAD |= torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _key))
_LIBRARY = torch.library.Library("spinn_tensor", "FRAGMENT")
_LIBRARY.define(
    "any_cell_backward(Tensor? grad_memory, Tensor? grad_trackers, Tensor memory, Tensor trackers, "
    "Tensor[] parameters, Tensor[] tables, str machine, str kind, ScalarType? autocast) -> Tensor[]"
)


def _with_autograd() -> Any:
    """Let autograd see what the cell does, also where a `TorchDispatchMode`, as FlopCounterMode, switched it off."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    return torch._C._ForceDispatchKeyGuard(
        torch._C._dispatch_tls_local_include_set(), excluded - _KEYS_OF_AUTOGRAD
    )


def _backward(
    grad_memory: Tensor | None,
    grad_trackers: Tensor | None,
    memory: Tensor,
    trackers: Tensor,
    parameters: list[Tensor],
    tables: list[Tensor],
    machine: str,
    kind: str,
    autocast: torch.dtype | None,
) -> list[Tensor]:
    """Return the gradients of the leaves and of the parameters."""
    ran_on, memories, roots = _ran_on(kind, tables, []), (memory, trackers), _roots(parameters)
    grads = _buffers(memories, (grad_memory, grad_trackers))

    def run(loop: Loop, _: Tensor) -> list[Tensor]:
        return run_backward(loop, ran_on, memories, grads, roots, None)

    with _with_autograd():
        sums = _run(_loop(machine), roots, autocast, run, memory)
    return [_of_leaves(grads[0], ran_on), *sums]


_LIBRARY.impl("any_cell_backward", _backward, "CompositeExplicitAutograd")


@torch.library.register_fake("spinn_tensor::any_cell_backward", lib=_LIBRARY)
def _(grad_memory, grad_trackers, memory, trackers, parameters, tables, machine, kind, autocast):
    n_leaves = memory.shape[0] - 1 - _ran_on(kind, tables, []).left_index.shape[0]
    return [
        memory.new_empty(n_leaves, memory.shape[1]),
        *(weight.new_empty(weight.shape) for weight in parameters),
    ]


def _setup(ctx, inputs, output) -> None:
    _, parameters, tables, chosen, ctx.machine, ctx.kind, save, ctx.autocast = inputs
    memory, trackers, found = output
    if not save:
        raise RuntimeError("the stack machine ran with save=False, but a gradient was asked for")
    ctx.set_materialize_grads(False)
    ctx.alive = _MACHINES[ctx.machine]  # till the backward
    ctx.sizes = len(parameters), len(tables), len(chosen)
    ran_on = flatten(_ran_on(ctx.kind, tables, found))
    ctx.kind = "lanes" if ctx.kind == "own" else ctx.kind
    ctx.save_for_backward(memory, trackers, *parameters, *ran_on)


def _gradients(ctx, grad_memory, grad_trackers, _grad_found):
    memory, trackers, *rest = ctx.saved_tensors
    n_parameters, n_tables, n_chosen = ctx.sizes
    parameters, tables = rest[:n_parameters], rest[n_parameters:]
    pulled = torch.ops.spinn_tensor.any_cell_backward(
        grad_memory, grad_trackers, memory, trackers, parameters, tables, ctx.machine, ctx.kind, ctx.autocast
    )
    grad_leaves, *grads = _once(pulled, (memory, trackers, grad_memory, grad_trackers))
    return grad_leaves, grads, [None] * n_tables, [None] * n_chosen, None, None, None, None


any_cell.register_autograd(_gradients, setup_context=_setup)
