"""The policy gradient against exact sums over all trees, and the pieces that it is made of."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from spinn_tensor import ModelConfig, SentenceParser, forcing_noise, make_batch, make_sentence_batch
from spinn_tensor.data_prep.columns import NO_LABEL, Corpus
from spinn_tensor.training.config import BASELINES, ParsingConfig
from spinn_tensor.training.methods import Reinforce, Supervise
from spinn_tensor.training.objective import supervised_loss, transition_loss
from spinn_tensor.training.reinforce import (
    Moments,
    advantages,
    mean_entropy,
    n_lanes_of,
    reinforce_loss,
    roll_out,
    sampling_noise,
)
from tests.strategies import all_transitions, columns_of, right_branching
from tests.tiny_training import choosing_model, flat_gradient

pytestmark = pytest.mark.numerical

N_COPIES, N_SAMPLES, N_BATCHES = 50, 4, 100  # 20,000 samples of a pair's trees
POLICY_WEIGHT = 0.7


def pairs(n_copies: int, n_premise: int = 3, n_hypothesis: int = 4) -> Corpus:
    """The same pair several times."""
    premises = columns_of([right_branching(n_premise)] * n_copies)
    hypotheses = columns_of([right_branching(n_hypothesis)] * n_copies)
    ids = np.arange(2, 2 + n_premise + n_hypothesis, dtype=np.int32)
    premises = premises._replace(token_ids=np.tile(ids[:n_premise], n_copies))
    hypotheses = hypotheses._replace(token_ids=np.tile(ids[n_premise:], n_copies))
    return Corpus.of_pairs(premises, hypotheses, np.full(n_copies, 1))


def exact_gradient(model, weight_of_policy: float) -> torch.Tensor:
    """Of -(expected reward), its policy's part weighted, by the sum over all pairs of trees."""
    trees = list(product(all_transitions(3), all_transitions(4)))
    batch = make_batch(pairs(1), "own", n_samples=len(trees))
    noise = forcing_noise(torch.from_numpy(np.concatenate([code for pair in trees for code in pair])))
    rewards, log_probabilities, _ = roll_out(model, batch, noise)
    probability = log_probabilities.exp()
    assert probability.sum().item() == pytest.approx(1, abs=1e-12)
    policy = (probability * rewards.detach()).sum()
    states = (probability.detach() * rewards).sum()
    return flat_gradient(-weight_of_policy * policy - states, model)


@pytest.mark.parametrize(
    "baseline, normalise", [("none", False), ("mean", True), ("greedy", True), ("leave-one-out", False)]
)
def test_the_policy_gradient_is_unbiased(baseline, normalise) -> None:
    model = choosing_model()
    moments = Moments(*(torch.tensor(value, dtype=torch.float64) for value in (0.5, -0.6, 1.0)))
    deviation = moments.deviation().item() if normalise else 1.0
    exact = exact_gradient(model, POLICY_WEIGHT / deviation)
    policy_part = exact - exact_gradient(model, 0.0)
    n_lanes = n_lanes_of(baseline, N_SAMPLES)
    batch = make_batch(pairs(N_COPIES), "own", n_samples=n_lanes)
    estimates = []
    torch.manual_seed(0)
    for _ in range(N_BATCHES):
        noise = sampling_noise(batch, n_lanes, baseline)
        loss, rewards, _ = reinforce_loss(
            model, batch, noise, moments, baseline, normalise, POLICY_WEIGHT, torch.tensor(0.0)
        )
        assert rewards.shape == (N_SAMPLES, N_COPIES)
        estimates.append(flat_gradient(loss, model))
    got = torch.stack(estimates)
    if baseline == "greedy":
        # the greedy lane is trained too: its part of the states' gradient is not sampled, and always the same
        share = N_SAMPLES / n_lanes
        exact = policy_part + share * exact_gradient(model, 0.0) + greedy_part(model, batch, noise)
    error = got.std(0) / N_BATCHES**0.5
    # along the gradient itself, where a bias of its size would lie, and in every single number
    direction = policy_part / policy_part.norm()
    along = got @ direction
    difference = (along.mean() - exact @ direction).item()
    spread = (along.std() / N_BATCHES**0.5).item()
    assert abs(difference) < 3 * spread
    assert spread < 0.1 * policy_part.norm().item(), "so wide an interval would hide a bias"
    moving = error > 1e-12
    deviations = ((got.mean(0) - exact).abs() / error)[moving]
    assert (deviations < 4.5).all()
    torch.testing.assert_close(got.mean(0)[~moving], exact[~moving], rtol=0, atol=1e-9)


def greedy_part(model, batch, noise) -> torch.Tensor:
    """What the greedy lane adds to the gradient of the states."""
    rewards = roll_out(model, batch, noise).rewards
    return flat_gradient(-rewards[0].sum() / rewards.numel(), model)


def test_the_greedy_lane_is_the_greedy_parse() -> None:
    model = choosing_model()
    batch = make_batch(pairs(2), "own", n_samples=n_lanes_of("greedy", 3))
    torch.manual_seed(0)
    noise = sampling_noise(batch, 4, "greedy")
    greedy = model.run(make_batch(pairs(2), "own")).parse.transitions
    lanes = model.run(batch, noise).parse.transitions.view(4, -1)
    assert torch.equal(lanes[0], greedy)
    assert (lanes[1:] != greedy).any()
    assert noise.view(4, -1)[1:].abs().min() > 0


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 4.0], [3.0, 0.0], [5.0, 2.0]])
    moments = Moments(torch.tensor(0.5), torch.tensor(1.0), torch.tensor(4.0))  # mean 2, deviation 2
    expected = {
        "none": rewards,
        "mean": rewards - 2,
        "greedy": torch.tensor([[2.0, -4.0], [4.0, -2.0]]),
        "leave-one-out": torch.tensor([[1 - 4, 4 - 1], [0, -3], [5 - 2, 0]]).float(),
    }
    for baseline in BASELINES:
        got = advantages(rewards, moments, baseline, normalise=False)
        torch.testing.assert_close(got, expected[baseline])
        torch.testing.assert_close(advantages(rewards, moments, baseline, normalise=True), got / 2)


def test_running_moments_are_weighted_ones_of_the_batches_before() -> None:
    rng = np.random.default_rng(0)
    batches = rng.normal(3, 2, size=(40, 16))
    moments = Moments.empty(torch.device("cpu"))
    assert (moments.mean().item(), moments.deviation().item()) == (0, 1)
    for batch in batches:
        rewards = torch.from_numpy(batch).float()
        moments = moments.updated(rewards.mean(), rewards.square().mean(), 0.9)
    weights = 0.9 ** np.arange(39, -1, -1)
    mean = np.average(batches.mean(1), weights=weights)
    square = np.average((batches**2).mean(1), weights=weights)
    assert moments.mean().item() == pytest.approx(mean, rel=1e-4)
    assert moments.deviation().item() == pytest.approx((square - mean**2) ** 0.5, rel=1e-4)


def test_entropy_is_the_mean_over_the_choices() -> None:
    model = choosing_model()
    parse = model.run(make_batch(pairs(1), "own")).parse
    free = parse.free_mask
    probability = parse.logits[free].softmax(1)
    expected = -(probability * probability.log()).sum(1).mean()
    torch.testing.assert_close(mean_entropy(parse), expected)
    (gradient,) = torch.autograd.grad(mean_entropy(parse), model.encoder.composer.transition.bias)
    assert gradient.isfinite().all()
    alone = make_sentence_batch(columns_of([right_branching(1)]), "own")
    assert mean_entropy(model.encoder.parse(alone)).item() == 0


def test_examples_without_a_label_have_no_reward() -> None:
    model = choosing_model()
    columns = pairs(2)._replace(labels=np.array([NO_LABEL, 2]))
    rollout = roll_out(model, make_batch(columns, "own", n_samples=3), torch.zeros(3 * 2 * (5 + 7)))
    assert (rollout.rewards[:, 0] == 0).all()
    assert (rollout.rewards[:, 1] < 0).all()


def test_rewards_and_probabilities_are_those_of_each_sample() -> None:
    model = choosing_model()
    columns = pairs(2)._replace(labels=np.array([0, 2]))
    batch = make_batch(columns, "own", n_samples=3)
    torch.manual_seed(3)
    noise = sampling_noise(batch, 3, "mean").double()
    rollout = roll_out(model, batch, noise)
    for sample, part in enumerate(noise.chunk(3)):
        logits, parse = model.run(make_batch(columns, "own"), part)
        rewards = -F.cross_entropy(logits, torch.tensor([0, 2]), reduction="none")
        torch.testing.assert_close(rollout.rewards[sample], rewards)
        # premises of both pairs, then hypotheses of both
        premise1, premise2, hypothesis1, hypothesis2 = (
            values.sum() for values in parse.log_probabilities().split([5, 5, 7, 7])
        )
        expected = torch.stack((premise1 + hypothesis1, premise2 + hypothesis2))
        torch.testing.assert_close(rollout.log_probabilities[sample], expected)


def test_supervision_comes_first_and_entropy_fades() -> None:
    config = ParsingConfig(
        learning="reinforce",
        warmup_steps=2,
        entropy_weight=0.5,
        entropy_steps=4,
        n_samples=3,
        baseline="mean",
    )
    method = Reinforce(choosing_model(), config, compiled=False)
    columns = pairs(2)
    assert hasattr(method.collate(columns, 1).sentences.tables, "left_index")
    batch = method.collate(columns, 2)
    assert batch.sentences.tables.root_entry_index.shape == (3 * 2 * 2,)
    method.loss(method.collate(columns, 0), 0)
    method.observe(method.observed())
    assert method.figures().keys() == {"task_loss", "transition_loss"}
    method.loss(batch, 2)
    method.observe(method.observed())
    assert method.figures().keys() == {"reward", "entropy"}
    assert method.moments.weight > 0
    assert [method.given(step)[0].item() for step in (2, 4, 6, 9)] == [0.5, 0.25, 0, 0]
    again = Reinforce(choosing_model(), config, compiled=False)
    again.restore(method.tensors())
    assert all(map(torch.equal, again.moments, method.moments))


def test_scheduled_sampling_grows_and_keeps_what_it_does_not_sample() -> None:
    model = choosing_model()
    config = ParsingConfig(scheduled_sampling=0.5, scheduled_steps=10)
    method, teacher = Supervise(model, config, compiled=False), Supervise(model, ParsingConfig(), False)
    assert [method.own_share(step) for step in (0, 5, 10, 99)] == [0, 0.25, 0.5, 0.5]
    columns = pairs(3)
    taught, mixed = teacher.collate(columns, 0), method.collate(columns, 0)
    assert hasattr(taught.sentences.tables, "left_index")
    assert not hasattr(mixed.sentences.tables, "left_index")
    expected = teacher.loss(taught, 0)
    torch.testing.assert_close(method.loss(mixed, 0), expected)
    torch.manual_seed(0)
    assert method.loss(mixed, 99).isfinite()
    assert (method.loss(mixed, 99) - expected).abs() > 1e-6


def test_undecided_choices_are_rewarded() -> None:
    model = choosing_model()
    batch = make_batch(pairs(3), "own", n_samples=2)
    noise = sampling_noise(batch, 2, "mean")
    moments = Moments.empty(torch.device("cpu"))
    plain, bonus = (
        reinforce_loss(model, batch, noise, moments, "mean", True, 1.0, torch.tensor(weight))[0]
        for weight in (0.0, 0.1)
    )
    entropy = mean_entropy(model.run(batch, noise).parse)
    assert entropy > 0
    torch.testing.assert_close(bonus - plain, -0.1 * entropy)


def test_supervision_adds_the_weighted_transition_loss() -> None:
    model = choosing_model()
    batch = make_batch(pairs(3), "lanes")
    logits, parse = model.run(batch)
    classification = F.cross_entropy(logits, batch.labels)
    transitions = transition_loss(parse, batch.sentences.transitions)
    assert transitions > 0
    assert classification > 0
    got, parts = supervised_loss(model, batch, None, 2.5)
    torch.testing.assert_close(got, classification + 2.5 * transitions)
    torch.testing.assert_close(parts, torch.stack((classification, transitions)))
    parser = SentenceParser(ModelConfig("parse", (), model.config.encoder, None))
    parser.encoder = model.encoder
    got, parts = supervised_loss(parser, batch, None, 2.5)
    torch.testing.assert_close((got, parts), (2.5 * transitions, torch.stack((0 * transitions, transitions))))


def test_a_broken_model_has_no_good_loss() -> None:
    """Scores that are not numbers reach the losses, which the training loop watches."""
    model = choosing_model()
    with torch.no_grad():
        model.encoder.composer.transition.weight[0, 0] = torch.nan
    parse = model.run(make_batch(pairs(1), "lanes")).parse
    assert transition_loss(parse, parse.transitions).isnan()
    assert mean_entropy(parse).isnan()
