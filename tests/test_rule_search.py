"""Whole policies compared, against one sentence and one policy at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model, make_sentence_batch
from spinn_tensor.data_prep.columns import Corpus, SentenceColumns
from spinn_tensor.machine.reference import walk_any
from spinn_tensor.training import rule_search
from spinn_tensor.training.config import ParsingConfig
from spinn_tensor.training.explore import Explore
from spinn_tensor.training.rule_search import (
    N_BATCHES,
    N_GENERATIONS,
    N_POLICIES,
    Search,
    parses_by,
    state_moments,
)
from tests.strategies import columns_of, right_branching

pytestmark = pytest.mark.numerical

K, HIDDEN = 4, 6
SIZES = (5, 1, 9, 2, 7)


@pytest.fixture(autouse=True)
def few_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule_search, "N_FEATURES", K)


def model_of(cell: str = "treelstm"):
    torch.manual_seed(2)
    encoder = EncoderConfig(
        9, "spinn", 5, HIDDEN, 4, embedding_dropout=0.0, batch_norm=False, policy_dim=3, cell=cell
    )
    classifier = ClassifierConfig(3, mlp_dim=8, mlp_dropout=0.0, batch_norm=False)
    model = build_model(ModelConfig("sentence", ("a", "b", "c"), encoder, classifier)).double()
    torch.nn.init.normal_(model.encoder.embedding.weight)
    torch.nn.init.normal_(model.encoder.leaves.projection.weight)
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
    policies = search.policies(0)[-12:]
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


def test_a_search_climbs_and_the_best_of_several_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule_search, "N_BATCHES", 2)
    goal = torch.randn(K + 1, generator=torch.Generator().manual_seed(1)).double()
    search = Search(*(tensor.double() for tensor in Search.empty(HIDDEN, torch.device("cpu"))))
    for number in range(2 * N_GENERATIONS):
        policies = search.policies(number)
        assert policies.shape == (N_POLICIES + 2, K + 1)
        search = search.compared(number, torch.cosine_similarity(policies, goal.unsqueeze(0)))
        assert search.rewards.any() == (number % 2 == 0)
    found = search.best
    assert torch.cosine_similarity(found, goal, dim=0) > 0.95
    assert torch.equal(search.mean, torch.zeros_like(goal)), "the next one begins where this one did"
    for number in range(2 * N_GENERATIONS, 4 * N_GENERATIONS):  # led away from it, and judged by it
        policies = search.policies(number)
        rewards = torch.cosine_similarity(policies, goal.unsqueeze(0))
        search = search.compared(number, torch.cat((-rewards[:-2], rewards[-2:])))
    assert torch.equal(search.best, found)


def test_the_composer_rests_while_policies_are_compared() -> None:
    model, columns = model_of().float(), sentences()
    n_before = 2 + 4 * N_BATCHES  # the warm-up, three batches of generations and one of imitation
    config = ParsingConfig(learning="ppo", warmup_steps=2, search_steps=n_before - 2, n_samples=2)
    method = Explore(model, config, compiled=False)
    batch, means = method.collate(Corpus(columns, np.arange(len(SIZES)) % 3), 0), []
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
        means.append(method.search.mean)
    changed = [step for step in range(1, len(means)) if not torch.equal(means[step], means[step - 1])]
    assert changed == [2 + N_BATCHES, 2 + 2 * N_BATCHES]
    again = Explore(model, config, compiled=False)
    again.restore(method.tensors())
    for mine, theirs in zip(again.search, method.search, strict=True):
        assert torch.equal(mine, theirs)
