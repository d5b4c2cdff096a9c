"""What a policy of its own learns by, against exact sums over all trees."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from spinn_tensor import forcing_noise, make_batch, make_sentence_batch
from spinn_tensor.data_prep.columns import Corpus, SentenceColumns, concatenate
from spinn_tensor.training import ppo
from spinn_tensor.training.ppo import Sampled, experience_of, policy_loss
from spinn_tensor.training.reinforce import Moments
from tests.strategies import all_transitions, columns_of, right_branching
from tests.tiny_training import choosing_model, flat_gradient

pytestmark = pytest.mark.numerical

NO_CLIPPING, NO_BONUS = float("inf"), torch.tensor(0.0)
TREES = list(product(all_transitions(3), all_transitions(4)))  # of a pair


def pair() -> SentenceColumns:
    """The two sentences of a pair, of 3 and 4 words."""
    return columns_of([right_branching(3), right_branching(4)])._replace(
        token_ids=np.arange(2, 9, dtype=np.int32)
    )


def trees_of_pair() -> torch.Tensor:
    """All pairs of trees, (10, M)."""
    return torch.from_numpy(np.stack([np.concatenate(both) for both in TREES]).astype(np.int64))


def rewards_of(model, transitions: torch.Tensor) -> torch.Tensor:
    return ppo.composed_rewards(model, pair(), transitions, torch.tensor([1]))


def probabilities(policy, transitions: torch.Tensor) -> torch.Tensor:
    """Of each row of transitions, by the machine that chooses, forced to choose these."""
    batch = make_sentence_batch(pair(), "own", n_samples=len(transitions))
    parse = policy.parse(batch, forcing_noise(transitions).flatten())
    return parse.log_probabilities().view(len(transitions), -1).sum(1).exp()


def test_policy_and_composer_share_nothing() -> None:
    model = choosing_model(policy_dim=3)
    policy = list(model.encoder.policy.parameters())
    others = [p for name, p in model.named_parameters() if ".policy." not in name]
    logits, parse = model.run(make_batch(Corpus(pair(), np.array([1]), n_sides=2), "own"))
    loss = F.cross_entropy(logits, torch.tensor([1]))
    assert all(g is None for g in torch.autograd.grad(loss, policy, allow_unused=True, retain_graph=True))
    assert all(g is not None for g in torch.autograd.grad(loss, others, retain_graph=True))
    chosen = parse.log_probabilities().sum()
    assert all(g is None for g in torch.autograd.grad(chosen, others, allow_unused=True))


def test_rewards_are_those_of_the_whole_model_under_these_trees() -> None:
    model, trees = choosing_model(policy_dim=3), trees_of_pair()
    expected = []
    for transitions in trees:
        columns = pair()._replace(transitions=transitions.numpy().astype(np.int8))
        logits, _ = model.run(make_batch(Corpus(columns, np.array([1]), n_sides=2), "lanes"))
        expected.append(-F.cross_entropy(logits, torch.tensor([1])))
    torch.testing.assert_close(rewards_of(model, trees)[:, 0], torch.stack(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("baseline", [0.0, -1.5])
def test_the_first_step_is_reinforce_on_enumerated_trees(baseline: float) -> None:
    model, trees = choosing_model(policy_dim=3), trees_of_pair()
    policy, rewards = model.encoder.policy, rewards_of(model, trees).detach()
    probability = probabilities(policy, trees)
    assert probability.sum().item() == pytest.approx(1, abs=1e-12)
    expected = flat_gradient(-(probability * rewards[:, 0]).sum(), policy)  # whatever the baseline is
    # every tree is a sample, and weighs as often as it would be drawn
    better = len(trees) * probability.detach().unsqueeze(1) * (rewards - baseline)
    sampled = Sampled(torch.cat((trees[:1], trees)))
    experience = experience_of(policy, pair(), sampled, torch.cat((rewards[:1], rewards)), better)
    loss, told = policy_loss(policy, experience, NO_CLIPPING, NO_BONUS)
    torch.testing.assert_close(flat_gradient(loss, policy), expected, rtol=0, atol=1e-10)
    assert told[1] == 0, "the ratio is 1 at the first step"


def test_a_ratio_counts_no_further_than_it_is_clipped() -> None:
    model, trees = choosing_model(policy_dim=3), trees_of_pair()
    policy, rewards = model.encoder.policy, rewards_of(model, trees).detach()
    better = torch.linspace(-1, 1, len(trees), dtype=torch.float64).unsqueeze(1)
    sampled = Sampled(torch.cat((trees[:1], trees)))
    experience = experience_of(policy, pair(), sampled, torch.cat((rewards[:1], rewards)), better)
    shift = torch.linspace(-0.4, 0.5, len(trees), dtype=torch.float64)
    moved = experience._replace(before=experience.before - shift)
    loss, told = policy_loss(policy, moved, 0.2, NO_BONUS)
    ratio, credit = shift.exp(), better[:, 0]
    clipped = torch.where(credit > 0, ratio.clamp(max=1.2), ratio.clamp(min=0.8))
    torch.testing.assert_close(loss, -(clipped * credit).mean())
    torch.testing.assert_close(told[1], (ratio - 1).abs().mean())
    bonus, (entropy, _) = policy_loss(policy, moved, 0.2, torch.tensor(0.5))
    assert entropy > 0
    torch.testing.assert_close(bonus, loss - 0.5 * entropy)


def greedy_but_for(policy, n_words: int, ids: np.ndarray) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """By enumeration: for each choice of the greedy parse the tree with that one changed and all later ones greedy."""
    trees = list(all_transitions(n_words))
    columns = columns_of(trees)._replace(token_ids=np.tile(ids, len(trees)))
    parse = policy.parse(make_sentence_batch(columns, "lanes"))
    free = parse.free_mask.view(len(trees), -1).numpy()
    likelier = parse.logits.argmax(1).view(len(trees), -1).numpy()
    greedy = next(
        tree for tree, best, of in zip(trees, likelier, free, strict=True) if (tree == best)[of].all()
    )
    found = {}
    for tree, best, of in zip(trees, likelier, free, strict=True):
        for place in range(len(tree)):
            later = slice(place + 1, None)
            begins_alike = (tree[:place] == greedy[:place]).all() and tree[place] != greedy[place]
            if begins_alike and of[place] and (tree == best)[later][of[later]].all():
                found[place] = tree
    return found, greedy


def test_deviations_are_the_exact_gradient_of_one_choice_drawn() -> None:
    model = choosing_model(policy_dim=3)
    policy, words = model.encoder.policy, pair().token_ids
    (first, greedy1), (second, greedy2) = (
        greedy_but_for(policy, 3, words[:3]),
        greedy_but_for(policy, 4, words[3:]),
    )
    changed = [(place, np.concatenate((tree, greedy2))) for place, tree in first.items()]
    changed += [(5 + place, np.concatenate((greedy1, tree))) for place, tree in second.items()]
    assert len(changed) >= 3
    greedy = np.concatenate((greedy1, greedy2))
    rows = torch.from_numpy(np.stack([greedy, *(tree for _, tree in changed)]).astype(np.int64))
    rewards = rewards_of(model, rows).detach()[:, 0]
    parse = policy.parse(make_sentence_batch(pair(), "own"))
    assert torch.equal(parse.transitions, rows[0])
    probability = F.softmax(parse.logits, 1)
    expected = -sum(
        probability[place, 1 - greedy[place]] * (reward - rewards[0])
        for (place, _), reward in zip(changed, rewards[1:], strict=True)
    )
    expected = flat_gradient(expected, policy)
    exact = deviation_gradient(model, len(changed) + 2)
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-10)
    # a part of the choices, drawn: the same on average
    draws = torch.stack([deviation_gradient(model, 2) for _ in range(150)])
    along = draws @ (expected / expected.norm())
    error = along.std() / len(draws) ** 0.5
    assert abs(along.mean() - expected.norm()) < 3 * error
    assert error < 0.15 * expected.norm(), "so wide an interval would hide a bias"


def deviation_gradient(model, n_samples: int) -> torch.Tensor:
    policy = model.encoder.policy
    sampled = ppo.sample_deviations(policy, pair(), n_samples, n_examples=1)
    rewards = rewards_of(model, sampled.transitions).detach()
    experience = experience_of(policy, pair(), sampled, rewards, rewards[1:] - rewards[0])
    loss, told = policy_loss(policy, experience, NO_CLIPPING, NO_BONUS)
    assert told[1] == 0
    return flat_gradient(loss, policy)


def test_a_deviation_is_greedy_until_its_flip_and_no_flip_comes_twice() -> None:
    policy = choosing_model(policy_dim=3).encoder.policy
    columns = concatenate(pair(), pair())  # 2 examples
    torch.manual_seed(0)
    transitions, flips = ppo.sample_deviations(policy, columns, 20, n_examples=2)
    parse = policy.parse(make_sentence_batch(columns, "own"))
    assert torch.equal(transitions[0], parse.transitions)
    example = ppo.example_of(torch.device("cpu"), columns, 2)
    assert torch.equal(flips.sum(0), parse.free_mask.long())  # with samples enough, every choice once
    for sample, flip in zip(transitions[1:], flips, strict=True):
        for of in range(2):
            places = (flip & (example == of)).nonzero().view(-1)
            assert len(places) <= 1
            if len(places) == 0:
                assert torch.equal(sample[example == of], transitions[0][example == of])
                continue
            assert sample[places] == 1 - transitions[0, places]
    few, chosen = ppo.sample_deviations(policy, columns, 2, n_examples=2)
    assert chosen.sum() == 4
    assert chosen.sum(0).max() == 1
    assert len(few) == 3


def test_the_policys_loss_compiles_whole() -> None:
    model, trees = choosing_model(policy_dim=3), trees_of_pair()
    policy, rewards = model.encoder.policy, rewards_of(model, trees).detach()
    experience = experience_of(policy, pair(), Sampled(trees), rewards, rewards[1:])
    compiled = torch.compile(policy_loss, fullgraph=True, dynamic=True, backend="aot_eager")
    losses = [of(policy, experience, 0.2, torch.tensor(0.1))[0] for of in (policy_loss, compiled)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(flat_gradient(loss, policy) for loss in losses))


def test_samples_are_the_policys_own_and_random_trees_nobodys() -> None:
    policy = choosing_model(policy_dim=3).encoder.policy
    torch.manual_seed(0)
    n = 1500
    drawn, tossed = ppo.sample_parses(policy, pair(), n), ppo.random_trees(policy, pair(), n)
    greedy = policy.parse(make_sentence_batch(pair(), "own")).transitions
    assert torch.equal(drawn.transitions[0], greedy)
    for sampled, expected in (
        (drawn.transitions[1:], probabilities(policy, trees_of_pair()).detach()),
        (tossed.transitions, torch.tensor([0.5 ** n_choices(tree) for tree in TREES]).double()),
    ):
        shares = torch.stack([(sampled == tree).all(1).double().mean() for tree in trees_of_pair()])
        error = (expected * (1 - expected) / n).sqrt()
        assert ((shares - expected).abs() < 4.5 * error + 1e-9).all()


def test_rewards_only_ever_scale_down() -> None:
    rewards = torch.tensor([[1.0, 4.0], [3.0, 0.0]])
    for square, scale in ((4.25, 1.0), (8.0, 2.0)):  # of a running mean of 2: deviations 0.5 and 2
        moments = Moments(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(square))
        torch.testing.assert_close(
            ppo.better_than(rewards, moments, "greedy"), torch.tensor([[2.0, -4.0]]) / scale
        )


def test_columns_come_back_from_a_batch() -> None:
    columns = concatenate(pair(), pair())
    for share in ("nothing", "projections"):
        found = ppo.columns_of(make_sentence_batch(columns, "own", share=share))
        for name in ("token_ids", "token_offsets", "transitions"):
            np.testing.assert_array_equal(getattr(found, name), getattr(columns, name))


def n_choices(trees: tuple[np.ndarray, np.ndarray]) -> int:
    """How many of the transitions of these trees are choices."""
    batch = make_sentence_batch(columns_of(trees), "lanes")
    return int(choosing_model(policy_dim=3).encoder.policy.parse(batch).free_mask.sum())
