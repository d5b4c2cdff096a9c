"""Beam search over the machine: against every tree there is, a search in plain Python, and greedy parses to the bit."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from unittest import mock

import numpy as np
import pytest
import torch

from spinn_tensor import ScoreError, StackMachine, forcing_noise, load_checkpoint, run_own, to_torch
from spinn_tensor.batch import make_sentence_batch
from spinn_tensor.bundles import TransitionWeights
from spinn_tensor.data_prep.columns import sentence_columns
from spinn_tensor.data_prep.tables import own_tables
from spinn_tensor.data_prep.trees import Tree
from spinn_tensor.machine.beam import run_beams
from spinn_tensor.machine.schedule import OwnSchedule
from spinn_tensor.model.cells import Tracker, TransitionHead, TreeLSTM
from spinn_tensor.parsers import packaged_folder
from tests.any_cells import PlainTreeLSTM
from tests.machines import TRACKER, random_leaves, random_transition_weights, random_weights
from tests.strategies import all_transitions, right_branching

pytestmark = pytest.mark.numerical

HIDDEN = 4
LENGTHS = [3, 6, 1, 5, 6, 2]
N_TREES = [2, 42, 1, 14, 42, 1]


def machine():
    """Draw leaves, the weights of both cells, and those of the last layer, in float64."""
    compose, tracker = random_weights(HIDDEN, TRACKER)
    leaves = random_leaves([right_branching(n) for n in LENGTHS], HIDDEN)
    return leaves, compose, tracker, random_transition_weights(scale=1.0)


def tables_of(lengths, k: int):
    return to_torch(own_tables(np.array(lengths), n_samples=k))


@cache
def every_tree() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return of each sentence all trees, and the log-probabilities of their transitions, by forced runs."""
    leaves, *weights = machine()
    found = []
    for words, n in zip(leaves.split(LENGTHS), LENGTHS, strict=True):
        trees = np.array(list(all_transitions(n)))
        noise = forcing_noise(torch.from_numpy(trees.astype(np.int64)).flatten())
        run = run_own(words, *weights, tables_of([n], len(trees)), noise)
        steps = run.log_probabilities().detach().view(len(trees), -1).numpy()
        found.append((trees, steps))
    return found


def searched(trees: np.ndarray, steps: np.ndarray, k: int) -> list[tuple[float, tuple[int, ...]]]:
    """Search a sentence in plain Python: the k best beginnings of trees after every transition, best first."""
    score_of = {
        tuple(tree[:n].tolist()): float(step[:n].sum())
        for tree, step in zip(trees, steps, strict=True)
        for n in range(trees.shape[1] + 1)
    }
    beam: list[tuple[int, ...]] = [()]
    for _ in range(trees.shape[1]):
        longer = [(*start, code) for start in beam for code in (0, 1) if (*start, code) in score_of]
        beam = sorted(longer, key=lambda start: -score_of[start])[:k]
    return [(score_of[tree], tree) for tree in beam]


def run_by(kind: str, k: int):
    """Run the beam by the hand-written steps, by dense ones, or by the loop for any cell."""
    leaves, compose, tracker, transition = machine()
    tables = tables_of(LENGTHS, k)
    if kind == "any cell":
        modules = StackMachine(
            PlainTreeLSTM(HIDDEN, TRACKER), Tracker(HIDDEN, TRACKER), TransitionHead(TRACKER)
        ).double()
        parts = {"compose": compose, "tracker": tracker, "transition": transition}
        modules.load_state_dict(
            {f"{part}.{name}": value for part, of in parts.items() for name, value in of._asdict().items()}
        )
        return modules.beams(leaves, tables, k)
    make = OwnSchedule.__init__
    dense = mock.patch.object(OwnSchedule, "__init__", lambda self, *args: make(self, *args[:-1], True))
    with dense if kind == "dense" else nullcontext():
        return run_beams(leaves, compose, tracker, transition, tables, k)


@pytest.mark.parametrize("kind", ["ragged", "dense", "any cell"])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 50])
def test_a_beam_finds_what_a_search_in_plain_python_does(kind, k) -> None:
    beams = run_by(kind, k)
    found = beams.parse.transitions.view(k, -1).numpy()
    steps = beams.parse.log_probabilities().view(k, -1).numpy()
    bounds = np.cumsum([0, *(2 * n - 1 for n in LENGTHS)])
    for sentence, (trees, of_steps) in enumerate(every_tree()):
        expected = searched(trees, of_steps, k)
        n_found = min(k, N_TREES[sentence])
        assert len(expected) == n_found
        places = slice(bounds[sentence], bounds[sentence + 1])
        scores = beams.log_probabilities[:, sentence].numpy()
        np.testing.assert_allclose(scores[:n_found], [score for score, _ in expected], rtol=0, atol=1e-10)
        assert (scores[n_found:] == -np.inf).all()
        assert [tuple(tree) for tree in found[:n_found, places].tolist()] == [tree for _, tree in expected]
        np.testing.assert_allclose(steps[:n_found, places].sum(1), scores[:n_found], rtol=0, atol=1e-10)


def test_a_beam_as_wide_as_there_are_trees_has_all_their_probability() -> None:
    totals = run_by("ragged", 50).log_probabilities.exp().sum(0)
    np.testing.assert_allclose(totals.numpy(), 1, rtol=0, atol=1e-10)


def test_encodings_are_those_of_the_trees_found() -> None:
    leaves, *weights = machine()
    beams = run_by("ragged", 3)
    forced = run_own(leaves, *weights, tables_of(LENGTHS, 3), forcing_noise(beams.parse.transitions))
    assert torch.equal(forced.transitions, beams.parse.transitions)
    np.testing.assert_allclose(
        beams.parse.encodings.numpy(), forced.encodings.detach().numpy(), rtol=0, atol=1e-10
    )


def test_a_beam_of_one_is_greedy_to_the_bit() -> None:
    """With the package's parser, in float32, and with scores that are equal or so large that sums cannot tell them."""
    model, vocabulary, _ = load_checkpoint(packaged_folder())
    words = [
        "a",
        "man",
        "in",
        "blue",
        "shirts",
        "and",
        "two",
        "dogs",
        "are",
        "running",
        "on",
        "wet",
        "grass",
        ".",
    ]
    rng = np.random.default_rng(3)
    sentences = [tuple(rng.choice(words, n)) for n in (19, 1, 7, 7, 12, 2, 30, 7)]
    trees = [Tree(tokens, right_branching(len(tokens))) for tokens in sentences]
    batch = make_sentence_batch(sentence_columns(trees, vocabulary), "own")
    for scale in (1.0, 0.0, 1e-30, 1e30):
        with torch.inference_mode():
            for parameter in model.encoder.composer.transition.parameters():
                parameter.mul_(scale)
            greedy, beams = model.encoder.parse(batch), model.encoder.beams(batch, 1)
        assert torch.equal(greedy.transitions, beams.parse.transitions)
        assert torch.equal(greedy.encodings, beams.parse.encodings)
        assert torch.equal(greedy.log_probabilities(), beams.parse.log_probabilities())


@pytest.mark.parametrize("kind", [PlainTreeLSTM, TreeLSTM])
def test_leaves_from_a_region_of_autocast_may_be_bfloat16(kind) -> None:
    torch.manual_seed(0)
    machine = StackMachine(kind(4, TRACKER), Tracker(4, TRACKER), TransitionHead(TRACKER))
    leaves, tables = torch.randn(sum(LENGTHS), 8).bfloat16(), tables_of(LENGTHS, 1)
    with torch.autocast("cpu", torch.bfloat16):
        greedy, beams = machine.parse(leaves, tables), machine.beams(leaves, tables, 1)
    assert torch.equal(greedy.transitions, beams.parse.transitions)
    assert torch.equal(greedy.encodings, beams.parse.encodings)


@pytest.mark.parametrize("k", [0, -1, 4])
def test_lanes_that_k_does_not_share_out_are_refused(k) -> None:
    with pytest.raises(ValueError, match=f"k is {k}, expected what the 6 lanes can be shared out by"):
        run_beams(*machine(), tables_of(LENGTHS, 1), k)


def test_a_score_that_is_no_number_is_an_error() -> None:
    leaves, compose, tracker, transition = machine()
    broken = TransitionWeights(transition.weight * torch.nan, transition.bias)
    with pytest.raises(ScoreError, match="its score is not a number"):
        run_beams(leaves, compose, tracker, broken, tables_of(LENGTHS, 2), 2)
