"""The loop as opaque, differentiable operators, so that it lives inside `torch.compile(fullgraph=True)`.

A traced loop would unroll, one graph for every number of steps. Seen from outside, an operator has only tensors with
dynamic sizes: the offsets of the steps travel as a tensor on the host and never as Python integers.

`stack_machine` runs tables, `stack_machine_own` chooses the transitions and gives back the tables of what it chose, so
that one backward operator serves both. Differentiable are the rows asked for and, for losses on the transitions, the
states of the trackers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from spinn_tensor.bundles import (
    ComposeWeights,
    ForestTables,
    HoistedLeaves,
    LaneTables,
    OwnTables,
    TrackerWeights,
    TransitionWeights,
    bundle_of,
    flatten,
)
from spinn_tensor.data_prep.errors import SpinnError
from spinn_tensor.machine.buffers import Tables, Tape, composition_offsets, counts_of
from spinn_tensor.machine.choice import choose_bodies
from spinn_tensor.machine.loop import run_backward, run_forward
from spinn_tensor.machine.schedule import GivenSchedule, OwnSchedule, own_compositions


class ScoreError(SpinnError, ValueError):
    """Raised for a transition's score that is not a number; its text names the transition."""


Unbundled = tuple[ComposeWeights, TrackerWeights | None, Tables]
# of LaneTables, what the machine finds out; the rest it is given
FOUND = tuple(name for name in LaneTables._fields if name not in {*OwnTables._fields, "hoisted"})
AnyTables = TypeVar("AnyTables", ForestTables, LaneTables)
N_TRACKER_MEMORY = Tape._fields.index("tracker_memory")


def _bundle(compose: list[Tensor], tracker: list[Tensor], tables: list[Tensor]) -> Unbundled:
    """Bundle what crosses the operator's border as lists; a tracker is what makes tables lane tables."""
    if tracker:
        return ComposeWeights(*compose), TrackerWeights(*tracker), tables_of(LaneTables, tables)
    return ComposeWeights(*compose), None, tables_of(ForestTables, tables)


def as_written(tensor: Tensor) -> torch.autocast:
    """Switch autocast off: the loop's own products take the types that they are given.

    Beside it the device is made the current one, on which Triton launches.
    """
    return torch.autocast(tensor.device.type, enabled=False)


def tables_of(kind: type[AnyTables], tensors: list[Tensor]) -> AnyTables:
    """Make tables from what `flatten` makes of them: at the end the hoisted leaves, if there are any."""
    n_own: int = len(kind._fields) - 1
    hoisted = bundle_of(HoistedLeaves, tensors[n_own:]) if len(tensors) > n_own else None
    return bundle_of(kind, [*tensors[:n_own], hoisted])


Body = TypeVar("Body", bound=Callable)


def operator_or(body: Body, operator: Callable) -> Body:
    """Return an operator, or in inference mode, where nothing is differentiated, its body, unless it is traced.

    Before torch first calls an operator it loads its compiler, which takes longer than to load a model and parse.
    """
    alone = not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()
    return body if alone else operator  # type: ignore[return-value]


def given_transitions(
    leaves: Tensor,  # (L, 2H)
    compose: list[Tensor],  # ComposeWeights, without None
    tracker: list[Tensor],  # TrackerWeights, or nothing
    tables: list[Tensor],  # LaneTables with tracker, ForestTables without, flattened
    output_index: Tensor,  # (Q,) int64 rows
    save: bool,  # keep what the backward needs
    dtype: torch.dtype,  # of the products
) -> tuple[Tensor, list[Tensor]]:
    """Run given tables; return h (Q, H) of the rows asked for, and the Tape."""
    compose_weights, tracker_weights, bundle = _bundle(compose, tracker, tables)
    n_rows = 1 + leaves.shape[0] + bundle.left_index.shape[0]
    entries = bundle if isinstance(bundle, LaneTables) else None
    schedule = GivenSchedule(bundle, n_rows)
    bodies = choose_bodies(leaves, dtype, entries is not None, schedule.widest)
    with as_written(leaves), torch.cuda.device_of(leaves):
        tape = run_forward(leaves, compose_weights, tracker_weights, schedule, entries, save, dtype, bodies)
    return tape.memory[0].index_select(0, output_index), list(tape)


stack_machine = torch.library.custom_op("spinn_tensor::stack_machine", given_transitions, mutates_args=())


@stack_machine.register_fake
def _(
    leaves: Tensor,
    compose: list[Tensor],
    tracker: list[Tensor],
    tables: list[Tensor],
    output_index: Tensor,
    save: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, list[Tensor]]:
    _, _, bundle = _bundle(compose, tracker, tables)
    n_entries = bundle.previous_index.shape[0] if isinstance(bundle, LaneTables) else 0
    sizes = bundle.left_index.shape[0], n_entries
    return leaves.new_empty(output_index.shape[0], leaves.shape[1] // 2), _fake_tape(
        leaves, tracker, *sizes, save
    )


def own_transitions(
    leaves: Tensor,  # (L, 2H)
    compose: list[Tensor],  # ComposeWeights
    tracker: list[Tensor],  # TrackerWeights
    transition: list[Tensor],  # TransitionWeights
    tables: list[Tensor],  # OwnTables
    noise: Tensor,  # (M,)
    every_node: bool,  # return all states, in the order of the transitions, not the roots alone
    dense: bool,  # compose at every entry, and wait for nothing
    save: bool,
    dtype: torch.dtype,  # of the products
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Choose the transitions and run them; return h of the roots or nodes, the Tape and the fields FOUND of LaneTables.

    Raises ScoreError for scores that are not numbers, except with `dense`, where nobody looks and they choose SHIFT.
    """
    own = bundle_of(OwnTables, tables)
    schedule = OwnSchedule(own, TransitionWeights(*transition), noise, leaves.shape[0], dense)
    weights = ComposeWeights(*compose), TrackerWeights(*tracker)
    bodies = choose_bodies(leaves, dtype, True, schedule.widest)
    with as_written(leaves), torch.cuda.device_of(leaves):
        tape = run_forward(leaves, *weights, schedule, own, save, dtype, bodies)
    found, fields = found_by(schedule, own, dense)
    output = tape.memory[0].index_select(0, found.node_index if every_node else found.root_index)
    return output, list(tape), fields


stack_machine_own = torch.library.custom_op(
    "spinn_tensor::stack_machine_own", own_transitions, mutates_args=()
)


def found_by(
    schedule: OwnSchedule,  # after its last step
    own: OwnTables,
    dense: bool,
) -> tuple[LaneTables, list[Tensor]]:
    """Return the tables of the transitions chosen, and their fields FOUND. Raises ScoreError, except with `dense`."""
    if not dense and schedule.scores.isnan().any():
        bad = own.transition_index[schedule.scores.isnan()].min().item()
        raise ScoreError(f"transition {bad} of the batch: its score is not a number")
    found = schedule.lane_tables()
    return found, flatten([getattr(found, name) for name in FOUND])


@stack_machine_own.register_fake
def _(
    leaves: Tensor,
    compose: list[Tensor],
    tracker: list[Tensor],
    transition: list[Tensor],
    tables: list[Tensor],
    noise: Tensor,
    every_node: bool,
    dense: bool,
    save: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    own = bundle_of(OwnTables, tables)
    n_entries, n_lanes = own.previous_index.shape[0], own.first_index.shape[0]
    n_compositions = own_compositions(n_entries, n_lanes, dense)
    asked = own.entry_index if every_node else own.root_entry_index
    output = leaves.new_empty(asked.shape[0], leaves.shape[1] // 2)
    return output, _fake_tape(leaves, tracker, n_compositions, n_entries, save), fake_found(own, dense)


def fake_found(own: OwnTables, dense: bool) -> list[Tensor]:
    """Return tensors of the sizes of what `found_by` finds."""
    offsets = own.entry_offsets.tensor
    n_entries, n_lanes = own.previous_index.shape[0], own.first_index.shape[0]
    n_compositions = own_compositions(n_entries, n_lanes, dense)
    length_of = {
        "reduce_offsets": offsets.shape[0],
        "root_index": own.root_entry_index.shape[0],
        "node_index": own.entry_index.shape[0],
        **dict.fromkeys(("buffer_index", "stack1_index", "stack2_index"), n_entries),
        **dict.fromkeys(("left_index", "right_index", "tracker_index"), n_compositions),
    }
    found = [own.first_index.new_empty(length_of[name]) for name in FOUND]
    found[FOUND.index("reduce_offsets")] = offsets.new_empty(offsets.shape[0])
    return found


def _fake_tape(
    leaves: Tensor, tracker: list[Tensor], n_compositions: int, n_entries: int, save: bool
) -> list[Tensor]:
    hidden_dim = leaves.shape[1] // 2
    shapes: list[tuple[int, ...]] = [
        (2, 1 + leaves.shape[0] + n_compositions, hidden_dim),
        (n_compositions, 5 * hidden_dim) if save else (0,),
    ]
    if tracker:
        tracker_dim = TrackerWeights(*tracker).weight_hidden.shape[1]
        shapes += [
            (2, 1 + n_entries, tracker_dim),
            (n_entries, 4 * tracker_dim) if save else (0,),
        ]
    else:
        shapes += [(0,), (0,)]
    return [leaves.new_empty(shape) for shape in shapes]


@torch.library.custom_op("spinn_tensor::stack_machine_backward", mutates_args=())
def stack_machine_backward(
    grad_output: Tensor,  # (Q, H)
    output_index: Tensor,  # (Q,) int64
    grad_tracker_memory: Tensor | None,  # (2, 1 + A, K)
    compose: list[Tensor],
    tracker: list[Tensor],
    tables: list[Tensor],
    tape: list[Tensor],  # Tape
    dtype: torch.dtype,  # of the products
) -> list[Tensor]:
    """Return the gradients of the leaves, of the compose weights and, with a tracker, of its weights."""
    compose_weights, tracker_weights, bundle = _bundle(compose, tracker, tables)
    widest = max(counts_of(composition_offsets(bundle)), default=0)
    bodies = choose_bodies(grad_output, dtype, tracker_weights is not None, widest)
    with as_written(grad_output), torch.cuda.device_of(grad_output):
        gradients = run_backward(
            grad_output,
            output_index,
            compose_weights,
            tracker_weights,
            bundle,
            Tape(*tape),
            dtype,
            grad_tracker_memory,
            bodies,
        )
    return [gradients.leaves, *gradients.compose[: len(compose)], *(gradients.tracker or ())]


@stack_machine_backward.register_fake
def _(
    grad_output: Tensor,
    output_index: Tensor,
    grad_tracker_memory: Tensor | None,
    compose: list[Tensor],
    tracker: list[Tensor],
    tables: list[Tensor],
    tape: list[Tensor],
    dtype: torch.dtype,
) -> list[Tensor]:
    _, _, bundle = _bundle(compose, tracker, tables)
    _, n_rows, hidden_dim = tape[0].shape
    n_leaves = n_rows - 1 - bundle.left_index.shape[0]
    weights = (grad_output.new_empty(weight.shape) for weight in (*compose, *tracker))
    return [grad_output.new_empty(n_leaves, 2 * hidden_dim), *weights]


def _save(
    ctx,
    compose: list[Tensor],
    tracker: list[Tensor],
    tables: list[Tensor],
    output_index: Tensor,
    tape: list[Tensor],
    save: bool,
    dtype: torch.dtype,
) -> None:
    if not save:
        raise RuntimeError("the stack machine ran with save=False, but a gradient was asked for")
    ctx.set_materialize_grads(False)  # the tape has few gradients, and zeros of its size cost a step's time
    ctx.dtype = dtype
    ctx.sizes = [len(compose), len(tracker), len(tables)]
    ctx.save_for_backward(output_index, *compose, *tracker, *tables, *tape)


def _gradients(
    ctx,
    grad_output: Tensor | None,
    grad_tape: list[Tensor | None] | None,
) -> tuple[Tensor | None, list[Tensor | None], list[Tensor | None]]:
    """Return the gradients of the leaves, of compose and of tracker."""
    output_index, *rest = ctx.saved_tensors
    n_compose, n_tracker, n_tables = ctx.sizes
    grad_tracker_memory = None if grad_tape is None else grad_tape[N_TRACKER_MEMORY]
    if grad_output is None and grad_tracker_memory is None:
        return None, [None] * n_compose, [None] * n_tracker
    compose, rest = rest[:n_compose], rest[n_compose:]
    tracker, rest = rest[:n_tracker], rest[n_tracker:]
    tables, tape = rest[:n_tables], rest[n_tables:]
    if grad_output is None:
        grad_output = tape[0].new_zeros(output_index.shape[0], tape[0].shape[2])
    grad_leaves, *grad_weights = stack_machine_backward(
        grad_output, output_index, grad_tracker_memory, compose, tracker, tables, tape, ctx.dtype
    )
    return grad_leaves, grad_weights[:n_compose], grad_weights[n_compose:]


def _setup_given(ctx, inputs, output) -> None:
    _, compose, tracker, tables, output_index, save, dtype = inputs
    _save(ctx, compose, tracker, tables, output_index, output[1], save, dtype)


def _backward_given(ctx, grad_output, grad_tape):
    return *_gradients(ctx, grad_output, grad_tape), [None] * ctx.sizes[2], None, None, None


def _setup_own(ctx, inputs, output) -> None:
    _, compose, tracker, _, tables, _, every_node, _, save, dtype = inputs
    _, tape, found = output
    lanes = found_tables(tables, found)
    rows = lanes.node_index if every_node else lanes.root_index
    _save(ctx, compose, tracker, flatten(lanes), rows, tape, save, dtype)
    ctx.n_transition, ctx.n_own = len(inputs[3]), len(tables)


def _backward_own(ctx, grad_output, grad_tape, _grad_found):
    # the scores decide, and decisions have no gradient: that of their probabilities comes through the trackers' states
    return (
        *_gradients(ctx, grad_output, grad_tape),
        [None] * ctx.n_transition,
        [None] * ctx.n_own,
        None,
        None,
        None,
        None,
        None,
    )


def found_tables(
    tables: list[Tensor],  # OwnTables
    found: list[Tensor],  # what `stack_machine_own` found
) -> LaneTables:
    """Return the tables of the transitions chosen."""
    known = dict(zip(OwnTables._fields, tables, strict=True)) | dict(zip(FOUND, found, strict=True))
    return bundle_of(LaneTables, [known.get(name) for name in LaneTables._fields])


stack_machine.register_autograd(_backward_given, setup_context=_setup_given)
stack_machine_own.register_autograd(_backward_own, setup_context=_setup_own)
