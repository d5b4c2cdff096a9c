"""Whole policies compared, against one sentence and one policy at a time."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model, make_sentence_batch
from spinn_tensor.data_prep.columns import Corpus, SentenceColumns
from spinn_tensor.machine.reference import walk_any
from spinn_tensor.training import rule_search
from spinn_tensor.training.config import ParsingConfig
from spinn_tensor.training.explore import Explore
from spinn_tensor.training.ppo import batch_of, composed_rewards, under
from spinn_tensor.training.rule_search import Rivals, Search, parses_by, stage_of, state_moments
from tests.strategies import columns_of, right_branching

pytestmark = pytest.mark.numerical

K, HIDDEN = 4, 6
SIZES = (5, 1, 9, 2, 7)


@pytest.fixture(autouse=True)
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule_search, "N_FEATURES", K)
    monkeypatch.setattr(rule_search, "LEVELS", ((24, 2), (12, 1)))
    monkeypatch.setattr(rule_search, "N_RIVALS", 8)
    monkeypatch.setattr(rule_search, "N_KEPT", 3)
    monkeypatch.setattr(rule_search, "N_LEARNT", 3)
    monkeypatch.setattr(rule_search, "N_JUDGED", 2)


def model_of(cell: str = "treelstm"):
    torch.manual_seed(2)
    encoder = EncoderConfig(
        9, "spinn", 5, HIDDEN, 4, embedding_dropout=0.0, batch_norm=False, policy_dim=3, cell=cell
    )
    classifier = ClassifierConfig(3, mlp_dim=8, mlp_dropout=0.0, batch_norm=False)
    model = build_model(ModelConfig("sentence", ("a", "b", "c"), encoder, classifier)).double()
    torch.nn.init.normal_(model.encoder.embedding.weight)
    torch.nn.init.normal_(model.encoder.leaves.projection.weight)
    torch.nn.init.normal_(model.encoder.policy.composer.transition.weight, std=9.0)
    return model


def sentences() -> SentenceColumns:
    columns = columns_of([right_branching(n) for n in SIZES])
    rng = np.random.default_rng(0)
    return columns._replace(token_ids=rng.integers(0, 9, len(columns.token_ids)).astype(np.int32))


def begun(model, columns: SentenceColumns) -> Search:
    search = Search.empty(HIDDEN, torch.device("cpu"))
    search = Search(*(tensor.double() for tensor in search))
    return search.begun(state_moments(model.encoder, columns, torch.from_numpy(columns.transitions).long()))


def one_by_one(model, search: Search, policy: torch.Tensor, columns: SentenceColumns) -> list[int]:
    """The same parses, each sentence from the beginning at every step."""
    cell, found = model.encoder.composer.compose, []
    leaves = model.encoder.leaves(make_sentence_batch(columns, "forest"))
    for start, end in zip(columns.token_offsets, columns.token_offsets[1:], strict=False):
        tree: list[int] = []
        while len(tree) < 2 * (end - start) - 1:
            n_shifts = tree.count(0)
            if n_shifts - tree.count(1) < 2 or n_shifts == end - start:
                tree.append(int(n_shifts - tree.count(1) >= 2))
                continue
            pushed, _ = walk_any(cell, None, leaves[start:end], tree)
            z = search.projection @ (pushed[-1][:HIDDEN] - search.centre)
            tree.append(int(z @ policy[:-1] + policy[-1] > 0))
        found += tree
    return found


@pytest.mark.parametrize("cell", ["treelstm", "grc"])
def test_all_policies_in_one_run_parse_as_each_by_itself(cell: str) -> None:
    model, columns = model_of(cell), sentences()
    search = begun(model, columns)
    policies = search.policies[:12]
    parses = parses_by(policies, search, model.encoder, columns)
    with torch.no_grad():
        expected = [one_by_one(model, search, policy, columns) for policy in policies]
    assert parses.tolist() == expected
    assert len({tuple(parse) for parse in parses.tolist()}) > 6


def test_features_are_white_on_the_states_that_they_come_from() -> None:
    model, columns = model_of(), sentences()
    search = begun(model, columns)
    with torch.no_grad():
        states = model.encoder.node_states(rule_search.batch_of(model.encoder, columns, "forest"))
    z = (states - search.centre) @ search.projection.T
    torch.testing.assert_close(z.mean(0), torch.zeros(K).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(z.T @ z / len(z), torch.eye(K).double(), rtol=0, atol=1e-10)


def test_stages_follow_one_another() -> None:
    stages = [stage_of(batch) for batch in range(9)]
    assert [stage.n_policies for stage in stages] == [24, 24, 12, 8, 8, 8, 8, 8, 8]
    assert [stage.round for stage in stages] == [None, None, None, 0, 0, 0, 1, 1, 1]
    assert [stage.is_first for stage in stages] == [True, False, True, True, False, False, True, False, False]
    assert [stage.is_last for stage in stages] == [False, True, True, False, False, True, False, False, True]
    assert [stage.counts for stage in stages] == [True, True, True, False, True, True, False, True, True]


def test_a_search_climbs_and_keeps_the_best() -> None:
    goal = torch.randn(K + 1, generator=torch.Generator().manual_seed(1)).double()
    search = Search(*(tensor.double() for tensor in Search.empty(HIDDEN, torch.device("cpu"))))

    def worth() -> torch.Tensor:
        return torch.cosine_similarity(search.policies, goal.unsqueeze(0))

    best = worth().max()
    torch.testing.assert_close(search.policies.norm(dim=1), torch.full((24,), (K + 1) ** 0.5).double())
    for batch in range(3 + 3 * 20):
        stage = stage_of(batch)
        rewards = worth()[: stage.n_policies]
        search = search.compared(batch, rewards if stage.counts else -rewards)
        assert search.rewards.any() == (stage.counts and not stage.is_last)
        if stage.is_last:
            assert worth()[0] == worth()[: stage.n_policies if stage.round is None else 3].max()
            assert worth()[0] >= best - 1e-12
            best = worth()[0]
    assert best > 0.97


@pytest.mark.parametrize("has_fixed_words", [False, True])
def test_each_copy_learns_as_the_composer_itself_would(has_fixed_words: bool) -> None:
    model, columns = model_of(), sentences()
    model.encoder.embedding.weight.requires_grad_(not has_fixed_words)
    with torch.no_grad():
        model.mlp.output.weight *= 30  # gradients are long enough to be cut
    labels = torch.arange(len(SIZES)) % 3
    rivals, search = Rivals(model), begun(model, columns)
    trained = [p for name, p in model.named_parameters() if p.requires_grad and ".policy." not in name]
    assert rivals.weights.shape == (8, sum(p.numel() for p in trained))
    for _ in range(2):  # a second round begins where the first did
        rivals.begin()
        rewards = []
        for _ in range(3):
            trees = parses_by(search.policies[:8], search, model.encoder, columns)
            rewards.append(rivals.learn(columns, trees, labels, None))
    number = 5
    alone = copy.deepcopy(model)
    parts = [p for name, p in alone.named_parameters() if ".policy." not in name]
    optimizer = torch.optim.Adam(parts, rule_search.RATE)
    for reward in rewards:
        expected = composed_rewards(alone, columns, trees[number : number + 1], labels)[0]
        torch.testing.assert_close(reward[number], expected.detach(), rtol=0, atol=1e-10)
        optimizer.zero_grad()
        (-expected.mean()).backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in parts if p.grad is not None])
        assert norm > 1
        for part in parts:
            if part.grad is not None:
                part.grad /= norm
        optimizer.step()
    again = Rivals(model)
    kept = rivals.tensors()
    rivals.learn(columns, trees, labels, None)
    again.restore(kept)
    again.learn(columns, trees, labels, None)
    assert torch.equal(again.weights, rivals.weights)


def test_the_composer_rests_while_policies_are_compared() -> None:
    model, columns = model_of().float(), sentences()
    n_before = 2 + 12  # of these twelve steps one is for the states, three for levels, five for rounds
    config = ParsingConfig(learning="ppo", warmup_steps=2, search_steps=n_before - 2, n_samples=2)
    method = Explore(model, config, compiled=False)
    batch, found = method.collate(Corpus(columns, np.arange(len(SIZES)) % 3), 0), []
    for step in range(n_before + 1):
        model.zero_grad(set_to_none=True)
        loss = method.loss(batch, step)
        loss.backward()
        method.observe(method.observed())
        learns = {name for name, p in model.named_parameters() if p.grad is not None}
        of_policy = {name for name in learns if ".policy." in name}
        assert learns
        assert (loss == 0) == (step == 2)
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        assert of_policy == (learns if 2 <= step < n_before else set())
        assert method.further_updates(step) == (0 if step < n_before else config.policy_steps)
        if step == n_before - 1:  # imitation alone: nats a choice, to nine tenths as the best policy does
            policy = model.encoder.policy
            trees = parses_by(method.search.policies[:1], method.search, model.encoder, columns)
            parse = policy.parse(batch_of(policy, under(columns, trees), "lanes"))
            log_p = torch.log_softmax(parse.logits, 1)[parse.free_mask]
            taken = log_p.gather(1, trees[0][parse.free_mask].unsqueeze(1))
            expected = -(0.95 * taken + 0.05 * (log_p.sum(1, keepdim=True) - taken)).mean()
            torch.testing.assert_close(loss, expected, rtol=1e-5, atol=5e-6)
        found.append(method.search.policies)
    changed = [step for step in range(1, len(found)) if not torch.equal(found[step], found[step - 1])]
    assert changed == [4, 8]  # the second level, on the same batch, ranks as the first
    again = Explore(model, config, compiled=False)
    kept = method.tensors()
    assert not {"rivals", "rivals_first"} & kept.keys(), "after the search nothing is theirs"
    again.restore({**again.tensors(), **kept})
    for name, tensor in kept.items():
        assert torch.equal(tensor, again.tensors()[name]), name
    assert method.rate_factor(0) == 1
    assert method.rate_factor(1) == 1
    assert Explore(model, replace(config, warmup_steps=100), compiled=False).rate_factor(99) == pytest.approx(
        0.05
    )
