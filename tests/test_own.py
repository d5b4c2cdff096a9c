"""Test the machine choosing its own transitions: always a tree, and the same numbers as on those transitions given."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from itertools import product
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spinn_tensor import ScoreError, forcing_noise, logistic_noise, run_given, run_own, run_taught, to_torch
from spinn_tensor.bundles import LaneTables, TransitionWeights
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.tables import lane_tables, own_tables
from spinn_tensor.data_prep.trees import REDUCE, SHIFT, check_all_transitions
from spinn_tensor.machine import operators, reference
from spinn_tensor.machine.schedule import choose
from spinn_tensor.training.objective import transition_loss
from tests.contract import HIDDEN, Executor, ExecutorContract
from tests.machines import (
    TRACKER,
    flatten,
    gradients,
    parameters,
    random_leaves,
    random_transition_weights,
    random_transitions,
    random_weights,
    relative_error,
    run,
)
from tests.strategies import all_transitions, batches_of_transitions, left_branching, right_branching

pytestmark = pytest.mark.numerical

# finite scores from next to nothing to the largest there are
SCORES = st.one_of(
    st.floats(-1e300, 1e300), st.sampled_from([0.0, -0.0, 5e-324, 1.7e308, -1.7e308, np.inf, -np.inf])
)


def machine(batch):
    """Draw leaves and the weights of both cells for a batch of transitions, of which only the lengths matter."""
    compose, tracker = random_weights(HIDDEN, TRACKER)
    assert tracker is not None
    return random_leaves(batch, HIDDEN), compose, tracker


def run_scores(lengths: list[int], scores: np.ndarray, n_samples: int = 1):
    """Run own transitions with scores that nothing but the noise decides."""
    silent = TransitionWeights(torch.zeros(2, TRACKER).double(), torch.zeros(2).double())
    tables = to_torch(own_tables(np.array(lengths), n_samples=n_samples))
    inputs = machine([right_branching(n) for n in lengths])
    with torch.no_grad():
        return run_own(*inputs, silent, tables, torch.from_numpy(scores))


def assert_same(got, expected, inputs) -> None:
    """Assert equal outputs and gradients."""
    assert relative_error(got, expected) < 1e-10
    for ours, theirs in zip(gradients(got, inputs), gradients(expected, inputs), strict=True):
        assert relative_error(ours, theirs) < 1e-10


@pytest.fixture(scope="module")
def executor() -> Executor:
    """Give own transitions, forced, in dense steps."""

    def dense(*arguments) -> Tensor:
        with all_dense():
            return run("own, forced", *arguments)

    return Executor(True, dense)


class TestDenseSteps(ExecutorContract):
    """Null states are composed where a lane shifts, as on a GPU; the CPU composes what reduces."""


@contextmanager
def all_dense():
    """Compose in dense steps, inside."""
    operator = operators.stack_machine_own
    name = "spinn_tensor.machine.executors.stack_machine_own"
    with mock.patch(name, lambda *arguments: operator(*arguments[:-3], True, *arguments[-2:])):
        yield


@given(data=st.data(), lengths=st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_any_scores_give_trees(data, lengths) -> None:
    n_scores = sum(2 * n - 1 for n in lengths)
    scores = np.array(data.draw(st.lists(SCORES, min_size=n_scores, max_size=n_scores)))
    transitions = run_scores(lengths, scores).transitions.numpy()
    check_all_transitions(transitions, np.array(lengths))


@pytest.mark.parametrize("n_tokens", range(1, 61))
def test_extreme_scores_give_trees_of_every_length(n_tokens) -> None:
    rng = np.random.default_rng(n_tokens)
    n = 2 * n_tokens - 1
    rows = [np.full(n, np.inf), np.full(n, -np.inf), np.zeros(n), rng.choice([-1e300, 1e300, np.inf], n)]
    run = run_scores([n_tokens], np.concatenate(rows), n_samples=len(rows))
    check_all_transitions(run.transitions.numpy(), np.full(len(rows), n_tokens))
    left, right, greedy, _ = run.transitions.numpy().reshape(len(rows), n)
    np.testing.assert_array_equal(left, left_branching(n_tokens))
    np.testing.assert_array_equal(right, right_branching(n_tokens))
    np.testing.assert_array_equal(greedy, right_branching(n_tokens))  # a tie is a SHIFT


@pytest.mark.parametrize("bad", [0, 3, 8])
def test_a_score_that_is_no_number_is_an_error(bad) -> None:
    scores = np.zeros(9)
    scores[bad] = np.nan
    with pytest.raises(ScoreError, match=f"transition {bad} of the batch: its score is not a number"):
        run_scores([3, 1, 2], scores)


def possible_after(prefix: tuple[int, ...], n_tokens: int) -> set[int]:
    """Find by brute force the transitions after which some tree over the tokens can still be reached."""
    trees = [tuple(codes) for codes in all_transitions(n_tokens)]
    return {codes[len(prefix)] for codes in trees if codes[: len(prefix)] == prefix}


@pytest.mark.parametrize("n_tokens", range(1, 7))
def test_the_mask_is_the_brute_force_set(n_tokens) -> None:
    trees = list(all_transitions(n_tokens))
    noise = forcing_noise(torch.from_numpy(np.concatenate(trees).astype(np.int64)))
    run = run_scores([n_tokens], noise.numpy().astype(np.float64), n_samples=len(trees))
    got = run.logits.isfinite().view(len(trees), 2 * n_tokens - 1, 2)
    assert torch.equal(run.transitions, torch.from_numpy(np.concatenate(trees)).long())
    for tree, codes in enumerate(trees):
        for time in range(len(codes)):
            allowed = {code for code in (SHIFT, REDUCE) if got[tree, time, code]}
            assert allowed == possible_after(tuple(codes[:time].tolist()), n_tokens)


def test_choose_takes_the_only_possible_transition() -> None:
    for score, shift, reduce in product((-1.0, 0.0, 1.0), (False, True), (False, True)):
        if shift or reduce:
            got = choose(torch.tensor([score]), torch.tensor([not shift]), torch.tensor([reduce]))
            assert bool(got) == (reduce and (score > 0 or not shift))


@pytest.mark.parametrize("composing", [nullcontext, all_dense])
@pytest.mark.parametrize("every_node", [False, True], ids=["roots", "every node"])
def test_sampled_transitions_run_as_given_ones(composing, every_node) -> None:
    rng = np.random.default_rng(0)
    batch = [random_transitions(rng, n) for n in (1, 9, 30, 4, 17, 2, 30, 60, 1)]
    leaves, compose, tracker = machine(batch)
    transition = random_transition_weights()
    tables = to_torch(own_tables(flatten(batch)[1]))
    noise = logistic_noise(torch.rand(len(flatten(batch)[0]), dtype=torch.float64))
    with composing():
        own = run_own(leaves, compose, tracker, transition, tables, noise, every_node=every_node)
    chosen = to_torch(lane_tables(own.transitions.numpy().astype(np.int8), flatten(batch)[1]))
    again = run_taught(leaves, compose, tracker, transition, chosen, every_node=every_node)
    assert torch.equal(own.transitions, again.transitions)
    inputs = [*parameters(leaves, compose, tracker), *transition]
    assert_same(
        *(torch.cat((run.encodings.flatten(), run.log_probabilities())) for run in (own, again)), inputs
    )


@settings(max_examples=30)
@given(batch=batches_of_transitions(max_batch=7, max_tokens=12), every_node=st.booleans())
def test_forced_transitions_against_the_oracle(batch, every_node) -> None:
    """Outputs and gradients of states and of transition scores, against one tree at a time."""
    leaves, compose, tracker = machine(batch)
    transition = random_transition_weights()
    flat, lengths = flatten(batch)
    tables = to_torch(own_tables(lengths))
    noise = forcing_noise(torch.from_numpy(flat.astype(np.int64)))
    run = run_own(leaves, compose, tracker, transition, tables, noise, every_node=every_node)
    assert torch.equal(run.transitions, torch.from_numpy(flat.astype(np.int64)))

    rows = reference.encode_nodes(leaves, batch, compose, tracker)[:, :HIDDEN]
    roots = torch.from_numpy(np.cumsum(2 * lengths - 1) - 1)
    expected = rows if every_node else rows[roots]
    scores = (
        reference.tracker_outputs(leaves, batch, compose, tracker) @ transition.weight.t() + transition.bias
    )
    free = run.free_mask
    inputs = [*parameters(leaves, compose, tracker), *transition]
    got = torch.cat((run.encodings.flatten(), run.logits[free].flatten()))
    assert_same(got, torch.cat((expected.flatten(), scores[free].flatten())), inputs)


def test_states_and_scores_have_gradients_without_each_other() -> None:
    batch = [left_branching(4), right_branching(3)]
    leaves, compose, tracker = machine(batch)
    transition = random_transition_weights()
    tables = to_torch(lane_tables(*flatten(batch)))
    both = run_taught(leaves, compose, tracker, transition, tables)
    inputs = [*parameters(leaves, compose, tracker), *transition]
    scores = both.log_probabilities()
    whole = gradients(torch.cat((both.encodings.flatten(), scores)), inputs)
    runs = [run_taught(leaves, compose, tracker, transition, tables) for _ in range(2)]
    weighting = torch.randn(
        both.encodings.numel() + len(scores), generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    n = both.encodings.numel()
    loss = (
        (runs[0].encodings.flatten() * weighting[:n]).sum(),
        (runs[1].log_probabilities() * weighting[n:]).sum(),
    )
    parts = [torch.autograd.grad(part, inputs, materialize_grads=True) for part in loss]
    for got, first, second in zip(whole, *parts, strict=True):
        assert relative_error(first + second, got) < 1e-10


def test_samples_of_one_sentence_share_its_words() -> None:
    rng = np.random.default_rng(1)
    batch = [random_transitions(rng, n) for n in (5, 1, 12)]
    leaves, compose, tracker = machine(batch)
    transition = random_transition_weights()
    lengths = flatten(batch)[1]
    noise = logistic_noise(torch.rand(4 * int((2 * lengths - 1).sum()), dtype=torch.float64))
    together = run_own(
        leaves, compose, tracker, transition, to_torch(own_tables(lengths, n_samples=4)), noise
    )
    alone = [
        run_own(leaves, compose, tracker, transition, to_torch(own_tables(lengths)), part)
        for part in noise.chunk(4)
    ]
    assert torch.equal(together.transitions, torch.cat([run.transitions for run in alone]))
    expected = torch.cat([run.encodings for run in alone])
    assert relative_error(together.encodings, expected) < 1e-12
    inputs = parameters(leaves, compose, tracker)
    pairs = zip(gradients(together.encodings, inputs), gradients(expected, inputs), strict=True)
    assert all(relative_error(ours, theirs) < 1e-12 for ours, theirs in pairs)


def test_sampling_follows_the_softmax() -> None:
    """Frequencies of all 14 trees of five words against their probabilities."""
    leaves, compose, tracker = machine([right_branching(5)])
    transition = random_transition_weights(scale=1.0)
    trees = list(all_transitions(5))
    lengths = np.full(1, 5)
    torch.manual_seed(0)
    n_samples = 20_000
    with torch.no_grad():
        forced = forcing_noise(torch.from_numpy(np.concatenate(trees).astype(np.int64)))
        tables = to_torch(own_tables(lengths, n_samples=len(trees)))
        exact = run_own(leaves, compose, tracker, transition, tables, forced)
        probability = exact.log_probabilities().view(len(trees), 9).sum(1).exp().numpy()
        assert probability.sum() == pytest.approx(1, abs=1e-12)
        tables = to_torch(own_tables(lengths, n_samples=n_samples))
        sampled = run_own(
            leaves, compose, tracker, transition, tables, logistic_noise(torch.rand(9 * n_samples))
        )
    codes, counts = np.unique(sampled.transitions.view(n_samples, 9).numpy(), axis=0, return_counts=True)
    seen = {tuple(code): count for code, count in zip(codes.tolist(), counts, strict=True)}
    got = np.array([seen.get(tuple(codes.tolist()), 0) for codes in trees])
    assert got.sum() == n_samples
    chi_square = ((got - n_samples * probability) ** 2 / (n_samples * probability)).sum()
    assert chi_square < 34.5  # 13 degrees of freedom, one in a thousand


def test_alone_as_in_a_batch_and_in_any_order() -> None:
    rng = np.random.default_rng(2)
    batch = [random_transitions(rng, n) for n in (7, 1, 19, 7, 3)]
    leaves, compose, tracker = machine(batch)
    transition = random_transition_weights()
    lengths = flatten(batch)[1]
    words = leaves.split(lengths.tolist())
    whole = run_own(leaves, compose, tracker, transition, to_torch(own_tables(lengths)))
    parses = whole.transitions.split((2 * lengths - 1).tolist())
    for sentence, n in enumerate(lengths):
        tables = to_torch(own_tables(lengths[sentence : sentence + 1]))
        alone = run_own(words[sentence], compose, tracker, transition, tables)
        assert torch.equal(alone.transitions, parses[sentence])
        assert len(alone.transitions) == 2 * n - 1
        assert relative_error(alone.encodings[0], whole.encodings[sentence]) < 1e-12


def test_dense_steps_compose_null_states_where_a_lane_shifts() -> None:
    rng = np.random.default_rng(5)
    batch = [random_transitions(rng, n) for n in (8, 3, 8, 1)]
    inputs = *machine(batch), random_transition_weights(), to_torch(own_tables(flatten(batch)[1]))
    with all_dense():
        tables = run_own(*inputs).tables
    assert tables.reduce_offsets.tolist() == tables.entry_offsets.tolist()
    shifts = tables.tracker_index == 0
    assert shifts.sum() == sum(len(codes) // 2 + 1 for codes in batch)
    assert not tables.left_index[shifts].any()
    assert not tables.right_index[shifts].any()
    assert (tables.left_index[~shifts] > 0).all()


def test_tables_of_the_wrong_kind_are_refused() -> None:
    batch = [right_branching(3)]
    inputs = *machine(batch), random_transition_weights()
    with pytest.raises(TypeError, match="got LaneTables; run_own reads OwnTables"):
        run_own(*inputs, to_torch(lane_tables(*flatten(batch))))


@pytest.mark.parametrize("lengths, message", [([], "at least one sentence"), ([2, 0], "example 1")])
def test_batches_without_words_are_refused(lengths, message) -> None:
    with pytest.raises(DataError, match=message):
        own_tables(np.array(lengths, dtype=np.int64))
    with pytest.raises(ValueError, match="n_samples is 0"):
        own_tables(np.array([1]), n_samples=0)


def test_found_tables_are_those_of_lane_tables() -> None:
    """Row by row: what each transition reads and where its state lives, under any numbering of the rows."""
    rng = np.random.default_rng(5)
    batch = [random_transitions(rng, n) for n in (8, 3, 8, 1)]
    flat, lengths = flatten(batch)
    order = np.argsort(-lengths, kind="stable")  # lanes of own tables go longest first; so do these
    batch = [batch[lane] for lane in order]
    flat, lengths = flatten(batch)
    noise = forcing_noise(torch.from_numpy(flat.astype(np.int64)))
    run = run_own(*machine(batch), random_transition_weights(), to_torch(own_tables(lengths)), noise)
    expected = to_torch(lane_tables(flat, lengths))
    assert isinstance(expected, LaneTables)
    assert run.tables.hoisted is None
    for name, table in zip(LaneTables._fields[:-1], run.tables[:-1], strict=True):
        assert table.tolist() == getattr(expected, name).tolist(), name


def test_the_transition_loss_has_the_gradient_of_the_oracle() -> None:
    """Teacher forcing: mean over all transitions, those without a choice counting nothing."""
    batch = [transitions for n in range(1, 6) for transitions in all_transitions(n)]
    leaves, compose, tracker = machine(batch)
    transition = random_transition_weights()
    flat = torch.from_numpy(flatten(batch)[0].astype(np.int64))
    parse = run_taught(leaves, compose, tracker, transition, to_torch(lane_tables(*flatten(batch))))
    scores = (
        reference.tracker_outputs(leaves, batch, compose, tracker) @ transition.weight.t() + transition.bias
    )
    free = [
        len(possible_after(tuple(codes[:time].tolist()), (len(codes) + 1) // 2)) == 2
        for codes in batch
        for time in range(len(codes))
    ]
    losses = torch.nn.functional.cross_entropy(scores, flat, reduction="none")
    expected = (losses * torch.tensor(free)).sum() / len(flat)
    inputs = [*parameters(leaves, compose, tracker), *transition]
    assert_same(transition_loss(parse, flat), expected, inputs)


def test_offsets_stay_on_the_host_whatever_the_default_device() -> None:
    """In inference mode those of a policy were there, where what composes reads them."""
    batch = [left_branching(4), right_branching(3)]
    leaves, compose, tracker = machine(batch)
    tables, transition = to_torch(own_tables(flatten(batch)[1])), random_transition_weights()
    with torch.device("meta"), torch.inference_mode():
        parse = run_own(leaves, compose, tracker, transition, tables)
        again = run_given(leaves, compose, tracker, parse.tables)
    assert relative_error(again, parse.encodings) < 1e-10


def test_the_transition_alone_can_be_trained() -> None:
    batch = [left_branching(4), right_branching(3)]
    leaves, compose, tracker = machine(batch)
    fixed = [weight.detach() for weight in (leaves, *compose, *tracker)]
    bundles = type(compose)(*fixed[1:4]), type(tracker)(*fixed[4:])
    transition = random_transition_weights()
    runs = run_own(fixed[0], *bundles, transition, to_torch(own_tables(flatten(batch)[1])))
    gradients_of = torch.autograd.grad(runs.log_probabilities().sum(), transition)
    assert all(gradient.any() for gradient in gradients_of)
    assert not runs.encodings.requires_grad


def test_noise_and_weights_that_do_not_fit_are_refused() -> None:
    batch = [left_branching(4), right_branching(3)]
    leaves, compose, tracker = machine(batch)
    transition = random_transition_weights()
    tables = to_torch(own_tables(flatten(batch)[1]))
    with pytest.raises(
        ValueError, match=r"noise of shape \(24,\), expected one number a transition, \(12,\)"
    ):
        run_own(leaves, compose, tracker, transition, tables, torch.zeros(24))
    single = TransitionWeights(*(weight.float() for weight in transition))
    with pytest.raises(TypeError, match=r"one dtype, got torch.float32, torch.float64"):
        run_own(leaves, compose, tracker, single, tables)
    with pytest.raises(TypeError, match=r"one dtype, got torch.float32, torch.float64"):
        run_taught(leaves, compose, tracker, single, to_torch(lane_tables(*flatten(batch))))
