"""The executors: what is run over which tables. One loop, one step function and one backward serve them all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from spinn_tensor.bundles import (
    ComposeWeights,
    ForestTables,
    LaneTables,
    OwnTables,
    TrackerWeights,
    TransitionWeights,
    flatten,
)
from spinn_tensor.data_prep.display import in_short
from spinn_tensor.machine.buffers import Tape
from spinn_tensor.machine.operators import (
    found_tables,
    given_transitions,
    operator_or,
    own_transitions,
    stack_machine,
    stack_machine_own,
)
from spinn_tensor.machine.schedule import can_reduce, can_shift, is_dense


@in_short
class Parse(NamedTuple):
    """Hold a run of the machine and what its trackers thought of the M transitions, lane after lane.

    >>> encoder = SentenceEncoder(EncoderConfig(len(vocabulary), kind="spinn", hidden_dim=8))
    >>> parse = encoder.parse(make_sentence_batch(columns, "own"))
    >>> parse.encodings.shape, parse.transitions.shape, parse.log_probabilities().shape
    (torch.Size([2, 8]), torch.Size([10]), torch.Size([10]))
    """

    encodings: Tensor  # (P, H) h of the roots, or (M, H) of every node
    transitions: Tensor  # (M,) int64, SHIFT or REDUCE
    logits: Tensor  # (M, 2) of SHIFT and REDUCE, differentiable; -inf for a transition that was impossible
    possible_mask: Tensor  # (M, 2) bool
    tables: LaneTables  # what was read and composed

    @property
    def free_mask(self) -> Tensor:  # (M,) bool
        """Tell where both transitions were possible."""
        return self.possible_mask.all(1)

    def log_probabilities(self) -> Tensor:  # (M,)
        """Return the log-probability of each transition made; 0 where there was no choice."""
        return F.log_softmax(self.logits, 1).gather(1, self.transitions.unsqueeze(1)).squeeze(1)


def run_forest(
    leaves: Tensor,
    compose: ComposeWeights,
    tables: ForestTables,
    output_index: Tensor | None = None,
) -> Tensor:
    """Run SPINN-PI-NT: all compositions of all trees, in the steps of the forest's schedule.

    Args:
        leaves: (L, 2H) [h; c] of the words of all sentences.
        compose: without `tracker_weight`.
        tables: of the B trees.
        output_index: (Q,) int64 rows to return: `tables.node_index` for every node in the order of the transitions;
            None: the roots.

    Returns:
        (Q, H) or (B, H), h; differentiable once in `leaves` and the weights.

    Raises:
        TypeError: for tables of another kind and for leaves and weights of more than one dtype.
        ValueError: for more or fewer leaves than the tables are of, on the CPU.

    >>> tables = make_sentence_batch(columns, "forest").tables
    >>> run_forest(torch.randn(6, 16), ComposeWeights(torch.randn(40, 16), torch.zeros(40)), tables).shape
    torch.Size([2, 8])
    """
    return _run(leaves, compose, None, tables, output_index)[0]


def run_given(
    leaves: Tensor,
    compose: ComposeWeights,
    tracker: TrackerWeights | None,
    tables: LaneTables,
    output_index: Tensor | None = None,
) -> Tensor:
    """Run SPINN-PI: step after step, the tracker of every lane and the compositions of the lanes that reduce.

    Args:
        leaves: (L, 2H) [h; c] of the words of all sentences.
        compose: with `tracker_weight`, where there is a tracker.
        tracker: None: it computes what `run_forest` does, in the order of the transitions.
        tables: of the B trees.
        output_index: (Q,) int64 rows to return, as in `run_forest`.

    Returns:
        (Q, H) or (B, H), h; differentiable once in `leaves` and the weights.

    Raises:
        TypeError: for tables of another kind and for leaves and weights of more than one dtype.
        ValueError: as `run_forest`.

    >>> compose = ComposeWeights(torch.randn(40, 16), torch.zeros(40), torch.randn(40, 3))
    >>> tracker = TrackerWeights(torch.randn(12, 24), torch.randn(12, 3), torch.zeros(12))
    >>> tables = make_sentence_batch(columns, "lanes").tables
    >>> run_given(torch.randn(6, 16), compose, tracker, tables, tables.node_index).shape
    torch.Size([10, 8])
    """
    if tracker is not None:
        return _run(leaves, compose, tracker, tables, output_index)[0]
    return _run(leaves, compose, None, in_time(tables), output_index)[0]


def in_time(tables: LaneTables) -> ForestTables:
    """Return the compositions alone, in the order of the transitions."""
    return ForestTables(
        left_index=tables.left_index,
        right_index=tables.right_index,
        step_offsets=tables.reduce_offsets,
        root_index=tables.root_index,
        node_index=tables.node_index,
        hoisted=tables.hoisted,
    )


def run_taught(
    leaves: Tensor,
    compose: ComposeWeights,
    tracker: TrackerWeights,
    transition: TransitionWeights,
    tables: LaneTables,
    *,
    every_node: bool = False,
) -> Parse:
    """Run SPINN under teacher forcing: `run_given`, and what the trackers would have chosen at every transition.

    Args:
        leaves: (L, 2H) [h; c] of the words of all sentences.
        compose, tracker, transition: the weights.
        tables: of the B trees.
        every_node: whether the encodings are those of every node, (M, H).

    Returns:
        The run, its `logits` being what a transition loss is taken of.

    Raises:
        TypeError: for tables of another kind and for weights of more than one dtype.

    >>> compose = ComposeWeights(torch.randn(40, 16), torch.zeros(40), torch.randn(40, 3))
    >>> tracker = TrackerWeights(torch.randn(12, 24), torch.randn(12, 3), torch.zeros(12))
    >>> transition, batch = TransitionWeights(torch.randn(2, 3), torch.zeros(2)), make_sentence_batch(columns, "lanes")
    >>> parse = run_taught(torch.randn(6, 16), compose, tracker, transition, batch.tables)
    >>> torch.equal(parse.transitions, batch.transitions), parse.logits.shape
    (True, torch.Size([10, 2]))
    """
    check_dtypes(compose.weight, transition)
    output_index = tables.node_index if every_node else None
    encodings, tape = _run(leaves, compose, tracker, tables, output_index)
    return make_parse(encodings, tape.tracker_memory[0], tape.memory.shape[1], transition, tables)


def run_own(
    leaves: Tensor,
    compose: ComposeWeights,
    tracker: TrackerWeights,
    transition: TransitionWeights,
    tables: OwnTables,
    noise: Tensor | None = None,
    *,
    every_node: bool = False,
) -> Parse:
    """Run SPINN, whose trackers choose the transitions (Bowman et al. 2016, section 3.3).

    Without noise the likelier ones; with `logistic_noise` a sample of their softmax; with `forcing_noise` given ones.
    What is impossible is never chosen, so that any scores give trees. Encodings are differentiable through the states,
    log-probabilities through the trackers and the transition's weights, the choices not at all.

    Args:
        leaves: (L, 2H) [h; c] of the words of all sentences.
        compose, tracker, transition: the weights.
        tables: of the P lanes.
        noise: (M,), added to logit(REDUCE) - logit(SHIFT); None: 0.
        every_node: whether the encodings are those of every node, (M, H).

    Returns:
        The run.

    Raises:
        ScoreError: for scores that are not numbers; on CUDA, where looking would mean waiting, they choose SHIFT, and
            their log-probabilities are not numbers.
        TypeError: for tables of another kind and for weights of more than one dtype.
        ValueError: for noise of another shape, and as `run_forest`.

    >>> compose = ComposeWeights(torch.randn(40, 16), torch.zeros(40), torch.randn(40, 3))
    >>> tracker = TrackerWeights(torch.randn(12, 24), torch.randn(12, 3), torch.zeros(12))
    >>> transition, batch = TransitionWeights(torch.randn(2, 3), torch.zeros(2)), make_sentence_batch(columns, "own")
    >>> run_own(torch.randn(6, 16), compose, tracker, transition, batch.tables).encodings.shape
    torch.Size([2, 8])
    """
    leaves, save, dtype = prepare(leaves, compose, tracker)
    check_dtypes(compose.weight, transition)
    if not isinstance(tables, OwnTables):
        raise TypeError(f"got {type(tables).__name__}; run_own reads OwnTables")
    check_leaves(leaves, tables)
    noise = checked_noise(leaves, noise, tables)
    weights = [weight for weight in compose if weight is not None]
    run = operator_or(own_transitions, stack_machine_own)
    encodings, tape, found = run(
        leaves,
        weights,
        list(tracker),
        [weight.detach() for weight in transition],  # a choice has no gradient
        flatten(tables),
        noise,
        every_node,
        is_dense(tables),
        save,
        dtype,
    )
    memory, _, tracker_memory, _ = tape
    found_lanes = found_tables(flatten(tables), found)
    return make_parse(encodings, tracker_memory[0], memory.shape[1], transition, found_lanes)


def checked_noise(leaves: Tensor, noise: Tensor | None, tables: OwnTables) -> Tensor:  # (M,)
    """Return the noise of own transitions in the type of the states, zeros for None. Raises ValueError."""
    if noise is None:
        return leaves.new_zeros(tables.entry_index.shape)
    if noise.shape != tables.entry_index.shape:
        got, expected = tuple(noise.shape), tuple(tables.entry_index.shape)
        raise ValueError(f"got noise of shape {got}, expected one number a transition, {expected}")
    return noise.detach().to(leaves.dtype)


def logistic_noise(
    uniform: Tensor,
) -> Tensor:
    """Return the noise that makes `run_own` sample REDUCE with probability σ(logit(REDUCE) - logit(SHIFT)).

    Args:
        uniform: (M,) in [0, 1), drawn uniformly.

    Returns:
        (M,), noise of the logistic distribution.

    >>> logistic_noise(torch.tensor([0.5])).item()
    0.0
    """
    tiny = torch.finfo(uniform.dtype).tiny
    return uniform.clamp(min=tiny).log() - torch.log1p(-uniform)


def forcing_noise(
    transitions: Tensor,
) -> Tensor:
    """Return the noise that makes `run_own` take these transitions, wherever they are possible.

    Args:
        transitions: (M,), 0 = SHIFT, 1 = REDUCE.

    Returns:
        (M,) float32, infinite.

    >>> forcing_noise(torch.tensor([0, 0, 1]))
    tensor([-inf, -inf, inf])
    """
    return torch.where(transitions == 0, -torch.inf, torch.inf)


def make_parse(
    encodings: Tensor,
    trackers: Tensor,  # (1 + A, K)
    n_rows: int,  # R
    transition: TransitionWeights,
    tables: LaneTables,
) -> Parse:
    """Find the transitions and their logits, in one product over all of them."""
    h = trackers.index_select(0, tables.entry_index)
    with torch.autocast(h.device.type, enabled=False):  # the machine chose by scores of the states' type
        logits = torch.addmm(transition.bias, h, transition.weight.t())
    possible = torch.stack((can_shift(tables.buffer_index), can_reduce(tables.stack2_index)), 1)
    possible = possible.index_select(0, tables.entry_index - 1)
    logits = logits.masked_fill(~possible, -torch.inf)
    first_composed = n_rows - tables.left_index.shape[0]
    transitions = (tables.node_index >= first_composed).to(tables.node_index.dtype)
    return Parse(encodings, transitions, logits, possible, tables)


def _run(
    leaves: Tensor,
    compose: ComposeWeights,
    tracker: TrackerWeights | None,
    tables: ForestTables | LaneTables,
    output_index: Tensor | None,
) -> tuple[Tensor, Tape]:
    leaves, save, dtype = prepare(leaves, compose, tracker)
    if not isinstance(tables, ForestTables if tracker is None else LaneTables):
        raise TypeError(f"got {type(tables).__name__}; run_forest reads ForestTables, run_given LaneTables")
    check_leaves(leaves, tables)
    weights = [weight for weight in compose if weight is not None]
    index = tables.root_index if output_index is None else output_index
    run = operator_or(given_transitions, stack_machine)
    output, tape = run(leaves, weights, list(tracker or ()), flatten(tables), index, save, dtype)
    return output, Tape(*tape)


def prepare(
    leaves: Tensor,
    compose: ComposeWeights,
    tracker: TrackerWeights | None,
) -> tuple[Tensor, bool, torch.dtype]:
    """Return the leaves, whether a backward pass may follow, and the type of the products.

    Under autocast that is its type. States and gates keep the weights' type, which leaves from an autocast region are
    brought back to.
    """
    if (compose.tracker_weight is None) != (tracker is None):
        raise ValueError("compose.tracker_weight and the tracker's weights are given together or not at all")
    weights = [*(weight for weight in compose if weight is not None), *(tracker or ())]
    dtype = compose.weight.dtype
    device_type = leaves.device.type
    if torch.is_autocast_enabled(device_type):
        leaves = leaves.to(dtype)
        if dtype != torch.float64:  # which autocast leaves alone
            dtype = torch.get_autocast_dtype(device_type)
    check_dtypes(leaves, weights)
    check_transforms((leaves, *weights))
    needs_grad = any(tensor.requires_grad for tensor in (leaves, *weights))
    return leaves, torch.is_grad_enabled() and needs_grad, dtype


def check_transforms(tensors: Iterable[Tensor]) -> None:
    """Raise NotImplementedError for what a transform follows, of which the operators' derivatives would be zero."""
    if torch.compiler.is_compiling():
        return
    for tensor in tensors:
        if (
            torch._C._functorch.is_functorch_wrapped_tensor(tensor)
            or forward_ad.unpack_dual(tensor).tangent is not None
        ):
            raise NotImplementedError(
                "the stack machine has no torch.func transforms (grad, vmap, jvp, …) and no forward-mode derivatives: "
                "take gradients by autograd, those of single examples from batches of one"
            )


def check_leaves(leaves: Tensor, tables: ForestTables | LaneTables | OwnTables) -> None:
    """Raise ValueError for more or fewer leaves than the tables are of: other rows would be taken for compositions.

    On the CPU, where looking waits for nothing, and for given trees that are not padded to a shape.
    """
    n_leaves = leaves.shape[0]
    if torch.compiler.is_compiling() or leaves.device.type != "cpu":
        return
    if isinstance(tables, OwnTables):
        n_words = int(tables.last_index.max())
        fits = n_words == n_leaves or (n_words < n_leaves and is_dense(tables))
    else:
        n_composed = (tables.node_index.shape[0] - tables.root_index.shape[0]) // 2
        n_words = tables.node_index.shape[0] - n_composed
        is_padded = tables.hoisted is None and tables.left_index.shape[0] != n_composed
        fits = is_padded or bool(torch.count_nonzero(tables.node_index > n_leaves) == n_composed)
    if not fits:
        raise ValueError(
            f"leaves: got {n_leaves}, expected one for each of the {n_words} words of the tables, or where equal ones "
            'are one leaf (share="states") for each of batch.token_ids'
        )


def check_dtypes(leaves: Tensor, weights: Iterable[Tensor]) -> None:
    """Raise TypeError for tensors of more than one dtype."""
    dtypes = {leaves.dtype, *(weight.dtype for weight in weights)}
    if len(dtypes) > 1:
        raise TypeError(f"leaves and weights must have one dtype, got {', '.join(sorted(map(str, dtypes)))}")
