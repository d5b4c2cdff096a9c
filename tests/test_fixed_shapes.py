"""Batches of fixed shapes: the loss and gradients of the ragged batch, few shapes, and padding that nothing reads."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.data import load_pairs
from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model, make_batch
from spinn_tensor.batch import Batch
from spinn_tensor.bundles import ForestTables, flatten
from spinn_tensor.config import GIVEN_KINDS
from spinn_tensor.data_prep.batching import epoch_batches
from spinn_tensor.data_prep.columns import NO_LABEL, Corpus, select
from spinn_tensor.data_prep.tables import own_tables
from spinn_tensor.fixed_shapes import (
    FIXED_KINDS,
    MOST_SHAPES,
    ROUNDING,
    Shape,
    _narrowest,
    fixed_batch,
    plan_for_corpus,
    plan_shapes,
    shape_use,
)
from spinn_tensor.training.config import ParsingConfig
from spinn_tensor.training.methods import Reinforce, make_method
from spinn_tensor.training.objective import Totals, count_rows, supervised_loss, training_loss
from tests.compiled_steps import same_draws
from tests.machines import needs_shared
from tests.strategies import columns_of, left_branching, transitions_from_choices

pytestmark = pytest.mark.numerical

N_WORDS, BATCH_SIZE = 50, 8
PADDING_ID = 0  # the word of padding rows, whose embedding is NaN; no sentence here has it


def sentences(rng: np.random.Generator, n_sentences: int, longest: int):
    n_tokens = rng.integers(1, longest + 1, size=n_sentences)
    columns = columns_of([transitions_from_choices(n, rng.random(2 * n - 1) < 0.5) for n in n_tokens])
    return columns._replace(token_ids=rng.integers(2, N_WORDS, len(columns.token_ids)).astype(np.int32))


def pair_corpus(n_pairs: int = 200, longest: int = 30) -> Corpus:
    rng = np.random.default_rng(0)
    return Corpus.of_pairs(*(sentences(rng, n_pairs, longest) for _ in range(2)), rng.integers(0, 3, n_pairs))


def labelled_corpus() -> Corpus:
    rng = np.random.default_rng(0)
    return Corpus(sentences(rng, 200, 30), rng.integers(0, 3, 200))


def model_of(task: str, kind: str, batch_norm: bool):
    torch.manual_seed(0)
    options = {"embedding_dim": 6, "hidden_dim": 8, "tracker_dim": 4}
    encoder = EncoderConfig(N_WORDS, kind, embedding_dropout=0.0, batch_norm=batch_norm, **options)
    classifier = ClassifierConfig(3, mlp_dim=16, mlp_dropout=0.0, batch_norm=batch_norm)
    model = build_model(ModelConfig(task, ("a", "b", "c"), encoder, classifier)).double()
    with torch.no_grad():
        model.encoder.embedding.weight[PADDING_ID] = torch.nan
    return model


@pytest.mark.parametrize("n_examples", [BATCH_SIZE, 5, 1])
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("kind", GIVEN_KINDS)
@pytest.mark.parametrize("task", ["pair", "sentence"])
def test_a_fixed_batch_trains_as_the_ragged_one(task, kind, batch_norm, n_examples) -> None:
    """Losses, gradients and batch norm's statistics in float64; the embedding of padding rows is NaN."""
    corpus = pair_corpus() if task == "pair" else labelled_corpus()
    model = model_of(task, kind, batch_norm)
    shapes = plan_for_corpus(corpus, model.encoder.table_kind, BATCH_SIZE, seed=0)
    for start in (0, 40, 80):
        columns = select(corpus, np.arange(start, start + n_examples))
        fixed = fixed_batch(columns, model.encoder.table_kind, shapes)
        assert fixed is not None
        other = copy.deepcopy(model)
        expected = training_loss(model, make_batch(columns, model.encoder.table_kind))
        got = training_loss(other, fixed)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
        expected.backward()
        got.backward()
        for ours, theirs in zip(other.parameters(), model.parameters(), strict=True):
            if theirs.grad is None:  # single words do not compose
                assert ours.grad is None or not ours.grad.any()
            else:
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-11)
        for ours, theirs in zip(other.buffers(), model.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs)
        model.zero_grad()


@pytest.mark.parametrize("n_examples", [BATCH_SIZE, 1])
def test_a_fixed_batch_teaches_as_the_ragged_one(n_examples) -> None:
    """Both losses of a SPINN and its gradients: transitions that are none have no choice, and cost nothing."""
    corpus, model = pair_corpus(), model_of("pair", "spinn", batch_norm=True)
    shapes = plan_for_corpus(corpus, "lanes", BATCH_SIZE, seed=0)
    rows = np.arange(40, 40 + n_examples)
    columns, totals = select(corpus, rows), Totals.of(count_rows(corpus, node_labels=False)[rows])
    fixed, other = fixed_batch(columns, "lanes", shapes), copy.deepcopy(model)
    assert fixed is not None
    assert len(fixed.sentences.transitions) > len(columns.sentences.transitions)
    expected, expected_parts = supervised_loss(model, make_batch(columns, "lanes"), None, 3.9, totals)
    got, parts = supervised_loss(other, fixed, None, 3.9, totals)
    torch.testing.assert_close((got, parts), (expected, expected_parts), rtol=1e-10, atol=1e-12)
    expected.backward()
    got.backward()
    for ours, theirs in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-11)


OWN = {
    "scheduled": ParsingConfig(scheduled_sampling=0.6, scheduled_steps=0),
    **{
        f"{baseline}, {n} samples": ParsingConfig(
            learning="reinforce", baseline=baseline, n_samples=n, entropy_weight=0.3
        )
        for baseline, n in (("none", 1), ("mean", 2), ("greedy", 2), ("leave-one-out", 3))
    },
}


@pytest.mark.parametrize("n_examples", [BATCH_SIZE, 1])
@pytest.mark.parametrize("parsing", OWN.values(), ids=OWN)
def test_own_transitions_of_a_fixed_batch_are_those_of_the_ragged_one(
    parsing: ParsingConfig, n_examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss, what is observed, gradients and statistics, by the same draws; what nothing reads is NaN."""
    corpus, model = pair_corpus(), model_of("pair", "spinn", batch_norm=True)
    fixed, ragged = (make_method(copy.deepcopy(model), parsing) for _ in range(2))
    assert fixed.plan(corpus, BATCH_SIZE, seed=0)
    rows = np.arange(40, 40 + n_examples)
    columns, totals = select(corpus, rows), Totals.of(count_rows(corpus, node_labels=False)[rows])
    same_draws(monkeypatch)
    losses = []
    for method in (fixed, ragged):
        if isinstance(method, Reinforce):
            method.observe(torch.tensor([-3.0, 9.0, 2.0, 1.0, 2.0]))  # so that there are moments
        batch = method.collate(columns, 1)
        assert (batch.row_mask is None) == (method is ragged)
        losses.append(method.loss(batch, 1, totals))
        losses[-1].backward()
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(fixed.observed(), ragged.observed(), rtol=1e-6, atol=1e-6)
    for (name, ours), theirs in zip(fixed.model.named_parameters(), ragged.model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-11, msg=name)
    for ours, theirs in zip(fixed.model.buffers(), ragged.model.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_lanes_that_choose_cannot_wait() -> None:
    """Of own transitions a batch that is wider somewhere goes to the next shape, or stays ragged."""
    columns = select(pair_corpus(), np.arange(3))
    n_steps = 2 * int(max(columns.lengths_key)) - 1
    narrow, wide = Shape(3, 4096, (6,) * 4, (6,) * 4), Shape(3, 4096, (8,) * n_steps, (8,) * n_steps)
    assert fixed_batch(columns, "own", [narrow]) is None
    assert fixed_batch(columns, "own", [narrow, wide]) is not None
    falling = (6,) * 3 + (1,) * (n_steps - 3)
    assert fixed_batch(columns, "own", [Shape(3, 4096, falling, falling)]) is None
    for widths in ([7, 5, 6], [5, 5, 5], [6]):
        with pytest.raises(ValueError, match="never grow, and hold the lanes of every step"):
            own_tables(np.array([2, 2, 2, 1, 1, 0, 2, 2]), widths=np.array(widths))


@pytest.mark.parametrize("kind", FIXED_KINDS)
def test_there_are_as_many_sizes_as_shapes(kind) -> None:
    corpus = pair_corpus()
    shapes = plan_for_corpus(corpus, kind, BATCH_SIZE, seed=0)
    assert 2 <= len(shapes) <= MOST_SHAPES
    rng, sizes = np.random.default_rng(1), set()
    for _ in range(60):
        rows = rng.permutation(200)[: rng.integers(1, BATCH_SIZE + 1)]
        batch = fixed_batch(select(corpus, rows), kind, shapes)
        if batch is not None:
            sizes.add(tuple(tuple(tensor.shape) for tensor in flatten(batch)))
    assert 2 <= len(sizes) <= len(shapes)


def test_shapes_grow_and_the_last_holds_the_largest() -> None:
    corpus = pair_corpus()
    shapes = plan_for_corpus(corpus, "lanes", BATCH_SIZE, seed=0)
    for small, large in pairwise(shapes):
        assert small.n_steps <= large.n_steps
        assert small.n_leaf_rows <= large.n_leaf_rows
        assert small != large
        assert large.widths[:2] == (0, 0)  # no stack has two entries, so that nothing is launched
        assert min(large.widths[2:]) > 0
    single = plan_for_corpus(corpus, "lanes", BATCH_SIZE, seed=0, most=1)
    assert [shape[:2] for shape in single] == [shapes[-1][:2]]
    assert single[0].n_steps == shapes[-1].n_steps


def test_groups_are_the_best_ones() -> None:
    """Against every way to cut: batches of single sentences, which all have the same number of leaf rows."""
    n_tokens = [1, 2, 2, 3, 7, 8, 8, 15]
    batches = [Corpus(columns_of([left_branching(n)]), np.zeros(1, np.int64)) for n in n_tokens]
    shapes = plan_shapes(batches, "lanes", most=3)

    def waste(limits) -> int:
        return sum(min(limit for limit in limits if limit >= 2 * n - 1) for n in n_tokens)

    steps = sorted({2 * n - 1 for n in n_tokens})
    best = min(waste((a, b, steps[-1])) for a in steps for b in steps)
    assert waste([shape.n_steps for shape in shapes]) == best
    assert shapes == plan_shapes(batches[::-1], "lanes", most=3)


def test_a_budget_of_tokens_gives_shapes_of_its_own() -> None:
    """Short pairs are many in a batch, long ones few, and every batch has about as many tokens."""
    corpus = pair_corpus(n_pairs=600)
    budget = 30 * BATCH_SIZE
    batches = epoch_batches(
        corpus.lengths_key, BATCH_SIZE, seed=0, epoch=9, n_tokens=corpus.n_tokens, token_budget=budget
    )
    for kind in ("forest", "lanes"):
        shapes = plan_for_corpus(corpus, kind, BATCH_SIZE, seed=0, token_budget=budget)
        assert shapes[0].n_examples > 2 * shapes[-1].n_examples
        assert all(shape.n_leaf_rows <= budget + ROUNDING for shape in shapes)
        laid = [fixed_batch(select(corpus, rows), kind, shapes) for rows in batches]
        assert sum(batch is None for batch in laid) <= len(laid) // 20


@pytest.mark.parametrize("token_budget", [0, 400])
@pytest.mark.parametrize("kind", ["forest", "lanes"])
def test_what_an_epoch_leaves_empty_is_counted(kind, token_budget) -> None:
    corpus = pair_corpus()
    use = shape_use(corpus, kind, BATCH_SIZE, seed=0, token_budget=token_budget)
    shapes = plan_for_corpus(corpus, kind, BATCH_SIZE, seed=0, token_budget=token_budget)
    batches = epoch_batches(
        corpus.lengths_key, BATCH_SIZE, seed=0, epoch=4, n_tokens=corpus.n_tokens, token_budget=token_budget
    )
    slots = real = 0
    for rows in batches:
        if (batch := fixed_batch(select(corpus, rows), kind, shapes)) is not None:
            slots += len(batch.sentences.token_ids)
            real += int(corpus.n_tokens[rows].sum())
    assert (sum(row.n_slots for row in use), sum(row.n_tokens for row in use)) == (slots, real)
    assert [row.shape for row in use] == shapes
    assert all(row.n_steps_used <= row.n_steps for row in use)


@given(counts=st.lists(st.integers(0, 50), min_size=1, max_size=12))
def test_widths_of_a_forest_are_the_narrowest_that_never_grow(counts) -> None:
    """Enough is made by the end of each step, and a step less wide would leave too little by the end of one."""
    made_by = np.cumsum(counts)
    widths = _narrowest(made_by)
    assert (np.diff(widths) <= 1e-9).all()
    assert (np.cumsum(widths) >= made_by - 1e-9).all()
    assert widths.sum() == pytest.approx(made_by[-1])
    turns = np.flatnonzero(np.diff(widths) < -1e-9)  # where more would have to be made than there is to make
    np.testing.assert_allclose(np.cumsum(widths)[turns], made_by[turns])


@pytest.mark.parametrize("kind", ["forest", "lanes"])
def test_what_no_shape_holds_is_none(kind) -> None:
    columns = select(pair_corpus(), np.arange(4))
    for n_examples, n_leaf_rows, n_steps in ((4, 4096, 128), (3, 4096, 128), (4, 8, 128), (4, 4096, 3)):
        shape = Shape(n_examples, n_leaf_rows, (64,) * n_steps, (8,) * n_steps)
        holds = (n_examples, n_leaf_rows, n_steps) == (4, 4096, 128)
        assert (fixed_batch(columns, kind, [shape]) is not None) == holds


def test_a_lane_may_wait_into_the_next_shape() -> None:
    """With one composition a step, equal sentences take more steps than the longest has transitions."""
    columns = Corpus(columns_of([left_branching(3)] * 3), np.zeros(3, np.int64))
    narrow, wide, long = (Shape(3, 64, (n,) * steps, (3,) * steps) for n, steps in ((1, 5), (3, 5), (1, 9)))
    assert fixed_batch(columns, "lanes", [narrow]) is None
    assert fixed_batch(columns, "lanes", [wide]) is not None
    batch = fixed_batch(columns, "lanes", [narrow, long])
    assert batch is not None
    assert batch.sentences.tables.entry_offsets.tolist() == [3 * step for step in range(10)]


def test_missing_pairs_have_null_roots_and_no_label() -> None:
    corpus = pair_corpus()
    batch = fixed_batch(select(corpus, np.arange(3)), "forest", [Shape(5, 512, (64,) * 64)])
    assert isinstance(batch, Batch)
    assert batch.labels.tolist() == [*corpus.labels[:3].tolist(), NO_LABEL, NO_LABEL]
    assert batch.row_mask.tolist() == [True] * 3 + [False] * 2
    assert isinstance(batch.sentences.tables, ForestTables)
    roots = batch.sentences.tables.root_index.view(2, 5)
    assert (roots[:, 3:] == 0).all()
    assert (roots[:, :3] > 0).all()


def test_a_plan_needs_trees_and_batches() -> None:
    with pytest.raises(ValueError, match="forest, lanes"):
        plan_shapes([], "sequence")
    with pytest.raises(ValueError, match="at least one batch"):
        plan_shapes([], "forest")


@pytest.mark.once
@needs_shared
@pytest.mark.parametrize("kind", ["forest", "lanes"])
def test_snli_fits_seven_shapes(kind) -> None:
    """Of an epoch that they were not planned from hardly a batch is left over, and about a tenth is padding."""
    pairs = load_pairs().columns
    rng = np.random.default_rng(0)
    corpus = select(pairs, rng.integers(0, len(pairs.labels), 38_400))
    use = shape_use(corpus, kind, 128, seed=1)
    assert len(use) == MOST_SHAPES
    assert sum(row.n_batches for row in use) >= 299  # of 300
    n_tokens, n_slots, n_steps_used, n_steps = (sum(column) for column in list(zip(*use, strict=True))[2:])
    assert 1 - n_tokens / n_slots < 0.10
    assert 1 - n_steps_used / n_steps < 0.15
    n_compositions = n_tokens - len(corpus.labels) * corpus.n_sides
    n_composed = sum(row.n_batches * sum(row.shape.widths) for row in use)
    assert n_composed / n_compositions < (1.2 if kind == "forest" else 1.7)
    if kind == "lanes":
        n_entries = sum(row.n_batches * sum(row.shape.entries) for row in use)
        assert n_entries / (n_tokens + n_compositions) < 1.25
