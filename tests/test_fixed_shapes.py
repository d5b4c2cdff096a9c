"""Batches of fixed shapes: the loss and gradients of the ragged batch, few shapes, and padding that nothing reads."""

from __future__ import annotations

import copy
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from data_prep.batching import epoch_batches
from data_prep.columns import NO_LABEL, LabelledColumns, PairColumns, select
from data_prep.snli import pair_columns_from_examples, read_pairs
from data_prep.vocabulary import Vocabulary
from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model, collate
from spinn_tensor.batch import PairBatch
from spinn_tensor.bundles import ForestTables
from spinn_tensor.config import GIVEN_KINDS
from spinn_tensor.fixed_shapes import MOST_SHAPES, Shape, fixed_batch, plan_for_corpus, plan_shapes
from spinn_tensor.training import training_loss
from tests.machines import SHARED, needs_shared
from tests.strategies import columns_of, left_branching, transitions_from_choices

N_WORDS, BATCH_SIZE = 50, 8
PADDING_ID = 0  # the word of padding rows; no sentence here has it


def sentences(rng: np.random.Generator, n_sentences: int, longest: int):
    n_tokens = rng.integers(1, longest + 1, size=n_sentences)
    columns = columns_of([transitions_from_choices(n, rng.random(2 * n - 1) < 0.5) for n in n_tokens])
    return columns._replace(token_ids=rng.integers(2, N_WORDS, len(columns.token_ids)).astype(np.int32))


def pair_corpus(n_pairs: int = 200, longest: int = 30) -> PairColumns:
    rng = np.random.default_rng(0)
    return PairColumns(*(sentences(rng, n_pairs, longest) for _ in range(2)), rng.integers(0, 3, n_pairs))


def labelled_corpus() -> LabelledColumns:
    rng = np.random.default_rng(0)
    return LabelledColumns(sentences(rng, 200, 30), rng.integers(0, 3, 200))


def model_of(task: str, kind: str, batch_norm: bool):
    torch.manual_seed(0)
    options = {"embedding_dim": 6, "hidden_dim": 8, "tracker_dim": 4}
    encoder = EncoderConfig(N_WORDS, kind, embedding_dropout=0.0, batch_norm=batch_norm, **options)
    classifier = ClassifierConfig(3, mlp_dim=16, mlp_dropout=0.0, batch_norm=batch_norm)
    return build_model(ModelConfig(task, ("a", "b", "c"), encoder, classifier)).double()


def tensors(bundle) -> list[torch.Tensor]:
    """All tensors of a batch, in order."""
    if bundle is None or isinstance(bundle, torch.Tensor):
        return [] if bundle is None else [bundle]
    return [tensor for part in bundle for tensor in tensors(part)]


@pytest.mark.parametrize("n_examples", [BATCH_SIZE, 5, 1])
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("kind", GIVEN_KINDS)
@pytest.mark.parametrize("task", ["pair", "sentence"])
def test_a_fixed_batch_trains_as_the_ragged_one(task, kind, batch_norm, n_examples) -> None:
    """Losses, gradients and batch norm's statistics in float64; the embedding of padding rows is NaN."""
    corpus = pair_corpus() if task == "pair" else labelled_corpus()
    model = model_of(task, kind, batch_norm)
    with torch.no_grad():
        model.encoder.embedding.weight[PADDING_ID] = torch.nan
    shapes = plan_for_corpus(corpus, model.encoder.table_kind, BATCH_SIZE, seed=0)
    for start in (0, 40, 80):
        columns = select(corpus, np.arange(start, start + n_examples))
        fixed = fixed_batch(columns, model.encoder.table_kind, shapes)
        assert fixed is not None
        other = copy.deepcopy(model)
        expected = training_loss(model, collate(columns, model.encoder.table_kind))
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


@pytest.mark.parametrize("kind", ["forest", "lanes"])
def test_there_are_as_many_sizes_as_shapes(kind) -> None:
    corpus = pair_corpus()
    shapes = plan_for_corpus(corpus, kind, BATCH_SIZE, seed=0)
    assert 2 <= len(shapes) <= MOST_SHAPES
    rng, sizes = np.random.default_rng(1), set()
    for _ in range(60):
        rows = rng.permutation(200)[: rng.integers(1, BATCH_SIZE + 1)]
        batch = fixed_batch(select(corpus, rows), kind, shapes)
        if batch is not None:
            sizes.add(tuple(tuple(tensor.shape) for tensor in tensors(batch)))
    assert 2 <= len(sizes) <= len(shapes)


def test_shapes_hold_one_another_and_waste_few_steps() -> None:
    corpus = pair_corpus()
    shapes = plan_for_corpus(corpus, "lanes", BATCH_SIZE, seed=0)
    for small, large in pairwise(shapes):
        assert small.n_steps < large.n_steps
        assert small.n_leaf_rows <= large.n_leaf_rows
        assert small.width <= large.width
    single = plan_for_corpus(corpus, "lanes", BATCH_SIZE, seed=0, most=1)
    assert single == [shapes[-1]]


def test_groups_are_the_best_ones() -> None:
    """Against every way to cut: batches of single sentences, which take 2N - 1 steps."""
    n_tokens = [1, 2, 2, 3, 7, 8, 8, 15]
    batches = [LabelledColumns(columns_of([left_branching(n)]), np.zeros(1, np.int64)) for n in n_tokens]
    shapes = plan_shapes(batches, "lanes", batch_size=1, most=3)

    def waste(limits) -> int:
        return sum(min(limit for limit in limits if limit >= 2 * n - 1) for n in n_tokens)

    steps = sorted({2 * n - 1 for n in n_tokens})
    best = min(waste((a, b, steps[-1])) for a in steps for b in steps)
    assert waste([shape.n_steps for shape in shapes]) == best
    assert shapes == plan_shapes(batches[::-1], "lanes", batch_size=1, most=3)


@pytest.mark.parametrize("kind", ["forest", "lanes"])
def test_what_no_shape_holds_is_none(kind) -> None:
    corpus = pair_corpus()
    rows = np.arange(4)
    assert fixed_batch(select(corpus, rows), kind, [Shape(4, 4096, 128, 64)]) is not None
    assert fixed_batch(select(corpus, rows), kind, [Shape(3, 4096, 128, 64)]) is None  # too many examples
    assert fixed_batch(select(corpus, rows), kind, [Shape(4, 8, 128, 64)]) is None  # too many words
    assert fixed_batch(select(corpus, rows), kind, [Shape(4, 4096, 3, 64)]) is None  # too many steps


def test_a_lane_may_wait_into_the_next_shape() -> None:
    """With one composition a step, equal sentences take more steps than the longest has transitions."""
    columns = LabelledColumns(columns_of([left_branching(3)] * 3), np.zeros(3, np.int64))
    assert fixed_batch(columns, "lanes", [Shape(3, 64, 5, 1)]) is None
    assert fixed_batch(columns, "lanes", [Shape(3, 64, 5, 3)]) is not None
    batch = fixed_batch(columns, "lanes", [Shape(3, 64, 5, 1), Shape(3, 64, 9, 1)])
    assert batch is not None
    assert batch.sentences.tables.entry_offsets.tolist() == [3 * step for step in range(10)]


def test_missing_pairs_have_null_roots_and_no_label() -> None:
    corpus = pair_corpus()
    batch = fixed_batch(select(corpus, np.arange(3)), "forest", [Shape(5, 512, 64, 64)])
    assert isinstance(batch, PairBatch)
    assert batch.labels.tolist() == [*corpus.labels[:3].tolist(), NO_LABEL, NO_LABEL]
    assert batch.row_mask.tolist() == [True] * 3 + [False] * 2
    assert isinstance(batch.sentences.tables, ForestTables)
    roots = batch.sentences.tables.root_index.view(2, 5)
    assert (roots[:, 3:] == 0).all()
    assert (roots[:, :3] > 0).all()


def test_a_plan_needs_trees_and_batches() -> None:
    with pytest.raises(ValueError, match="forest, lanes"):
        plan_shapes([], "own", 8)
    with pytest.raises(ValueError, match="at least one batch"):
        plan_shapes([], "forest", 8)


@needs_shared
@pytest.mark.parametrize("kind", ["forest", "lanes"])
def test_snli_fits_seven_shapes(kind) -> None:
    """Of a later epoch hardly a batch is left over, and less than a tenth of the steps is empty."""
    examples = list(read_pairs(SHARED / "snli" / "snli_1.0_dev_slice.jsonl.gz", require_label=False))
    words = Counter(word for pair in examples for tree in pair[:2] for word in tree.tokens)
    pairs = pair_columns_from_examples(examples, Vocabulary.from_counts(words))
    rng = np.random.default_rng(0)
    corpus = select(pairs, rng.integers(0, len(pairs.labels), 12_800))
    shapes = plan_for_corpus(corpus, kind, 64, seed=1)
    assert len(shapes) == MOST_SHAPES
    left_over, real, padded = 0, np.zeros(2), np.zeros(2)
    batches = epoch_batches(corpus.lengths_key, 64, seed=1, epoch=3)
    for rows in batches[::2]:
        columns = select(corpus, rows)
        batch = fixed_batch(columns, kind, shapes)
        if batch is None:
            left_over += 1
            continue
        ragged = collate(columns, kind)
        for sizes, which in ((real, ragged), (padded, batch)):
            offsets = (
                which.sentences.tables.step_offsets
                if kind == "forest"
                else which.sentences.tables.entry_offsets
            )
            sizes += len(offsets) - 1, len(which.sentences.token_ids)
    assert left_over <= 1
    assert (padded / real < (1.1, 1.4)).all()
