"""What batches share: equal words, equal trees and equal beginnings are run once, and nothing changes but the work."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spinn_tensor import (
    EncoderConfig,
    SentenceEncoder,
    make_sentence_batch,
    run_forest,
    run_given,
    run_taught,
    to_torch,
)
from spinn_tensor.data_prep.columns import SentenceColumns
from spinn_tensor.data_prep.tables import forest_tables, lane_tables, sharing
from spinn_tensor.data_prep.trees import REDUCE, SHIFT
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
)
from tests.strategies import batches_of_transitions

pytestmark = pytest.mark.numerical

N_WORDS = 5  # few, so that much is equal


def repetitive(seed: int, n_sentences: int = 12, longest: int = 9) -> tuple[list, np.ndarray]:
    """Draw transitions and words of sentences many of which begin alike, and some of which come twice."""
    rng = np.random.default_rng(seed)
    batch, words = [], []
    for _ in range(n_sentences):
        n = int(rng.integers(1, longest + 1))
        batch.append(random_transitions(rng, n))
        words.append(rng.integers(0, 2 if rng.random() < 0.5 else N_WORDS, n))
    again = rng.integers(0, n_sentences, 4)
    batch += [batch[i] for i in again]
    words += [words[i] for i in again]
    return batch, np.concatenate(words)


def entries_of(batch, words) -> dict:
    """Find by brute force every prefix, transitions and words, up to and with the word that is read next."""
    prefixes_of, at = {}, 0
    for sentence, codes in enumerate(batch):
        own = words[at : at + (len(codes) + 1) // 2].tolist()
        at += len(own)
        prefix: tuple = ()
        for time, code in enumerate(codes):
            prefix = (*prefix, own[0] if own else None)
            prefixes_of[sentence, time] = prefix
            if code == SHIFT:
                own.pop(0)
            prefix = (*prefix, int(code))
    return prefixes_of


@given(
    batch=batches_of_transitions(max_batch=8, max_tokens=8),
    seed=st.integers(0, 2**31),
    n_words=st.integers(1, 4),
)
def test_lanes_share_exactly_the_entries_that_begin_alike(batch, seed, n_words) -> None:
    words = np.random.default_rng(seed).integers(0, n_words, int(flatten(batch)[1].sum()))
    _, leaf_index = np.unique(words, return_inverse=True)
    tables = lane_tables(*flatten(batch), leaf_index=leaf_index)
    entries = entries_of(batch, words)
    rows: dict = {}
    for (sentence, time), row in zip(entries, tables.entry_index.tolist(), strict=True):
        assert rows.setdefault(entries[sentence, time], row) == row
    assert len(set(rows.values())) == len(rows) == len(tables.previous_index)
    composed = {entries[s, t] for s, codes in enumerate(batch) for t, c in enumerate(codes) if c == REDUCE}
    assert len(composed) == len(tables.left_index)


@pytest.mark.parametrize(
    "of",
    [
        lambda _, read: 0 * read,
        lambda _, read: read,
        lambda trace, _: trace.time,
        lambda trace, read: trace.time + 999 * read,
    ],
)
def test_prefixes_whose_hashes_collide_are_not_shared(of, monkeypatch) -> None:
    monkeypatch.setattr(sharing, "_prefix_hashes", of)
    batch, words = repetitive(0)
    tables = lane_tables(*flatten(batch), leaf_index=np.unique(words, return_inverse=True)[1])
    assert len(tables.previous_index) == len(flatten(batch)[0])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("make, tracker_dim", [(forest_tables, None), (lane_tables, None), (lane_tables, 3)])
@pytest.mark.parametrize("every_node", [False, True])
def test_shared_tables_have_the_states_of_every_sentence_by_itself(
    seed, make, tracker_dim, every_node
) -> None:
    batch, words = repetitive(seed)
    distinct, leaf_index = np.unique(words, return_inverse=True)
    compose, tracker = random_weights(5, tracker_dim)
    leaves = random_leaves([np.zeros(1, dtype=np.int8)] * len(distinct), 5)

    def run(rows, tables):
        tables = to_torch(tables)
        index = tables.node_index if every_node else None
        if make is forest_tables:
            return run_forest(rows, compose, tables, index)
        return run_given(rows, compose, tracker, tables, index)

    shared = make(*flatten(batch), leaf_index=leaf_index)
    alone = make(*flatten(batch))
    assert len(shared.left_index) < len(alone.left_index)
    got = run(leaves, shared)
    expected = run(leaves[torch.from_numpy(leaf_index)], alone)
    assert relative_error(got, expected) < 1e-12
    inputs = parameters(leaves, compose, tracker)
    for ours, theirs in zip(gradients(got, inputs), gradients(expected, inputs), strict=True):
        assert relative_error(ours, theirs) < 1e-10


def test_teaching_tells_shared_entries_apart_that_go_on_differently() -> None:
    batch = [np.array(codes, dtype=np.int8) for codes in ([0, 0, 1, 0, 1], [0, 0, 0, 1, 1], [0, 0, 1])]
    words = np.zeros(8, dtype=np.int64)
    compose, tracker = random_weights(5, TRACKER)
    leaves = random_leaves([np.zeros(1, dtype=np.int8)], 5)
    transition = random_transition_weights()
    shared = run_taught(
        leaves, compose, tracker, transition, to_torch(lane_tables(*flatten(batch), leaf_index=words))
    )
    alone = run_taught(
        leaves.expand(8, -1), compose, tracker, transition, to_torch(lane_tables(*flatten(batch)))
    )
    assert shared.transitions.tolist() == np.concatenate(batch).tolist()
    for name in ("encodings", "transitions", "logits", "possible_mask"):
        torch.testing.assert_close(getattr(shared, name), getattr(alone, name))


@pytest.mark.parametrize(
    "make, options",
    [(lane_tables, {"width": 2}), (forest_tables, {"width": 2}), (forest_tables, {"padded": True})],
)
def test_tables_of_a_given_width_share_no_leaves(make, options) -> None:
    batch, words = repetitive(0)
    with pytest.raises(ValueError, match="share no leaves"):
        make(*flatten(batch), leaf_index=np.unique(words, return_inverse=True)[1], **options)


KINDS = ["spinn-pi-nt", "spinn-pi", "spinn", "lstm", "bilstm", "bow"]


def columns_of(batch, words) -> SentenceColumns:
    flat, lengths = flatten(batch)
    return SentenceColumns(words.astype(np.int32), np.append(0, np.cumsum(lengths)), flat, None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [False, True])
def test_encoders_give_the_same_whatever_is_shared(kind, training) -> None:
    torch.manual_seed(0)
    config = EncoderConfig(
        kind=kind, vocabulary_size=9, embedding_dim=6, hidden_dim=4, tracker_dim=3, embedding_dropout=0.0
    )
    encoder = SentenceEncoder(dataclasses.replace(config, train_embedding=True)).double().train(training)
    columns = columns_of(*repetitive(1))
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    results = []
    for share in ("nothing", "projections", encoder.sharing(encoder.table_kind)):
        encoder.load_state_dict(state)
        output = encoder(make_sentence_batch(columns, encoder.table_kind, share=share))
        trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        results.append([output, *gradients(output, trained), *encoder.buffers()])
        results[-1] = [tensor.detach().clone() for tensor in results[-1]]
    for result in results[1:]:
        for got, expected in zip(result, results[0], strict=True):
            assert relative_error(got, expected) < 1e-9 or float((got - expected).abs().max()) < 1e-12


def test_dropout_and_a_bidirectional_leaf_encoder_share_projections_only() -> None:
    config = EncoderConfig(kind="spinn-pi", vocabulary_size=9, embedding_dim=6, hidden_dim=4, tracker_dim=3)
    dropping = SentenceEncoder(dataclasses.replace(config, embedding_dropout=0.1))
    assert dropping.train().sharing("lanes") == "projections"
    assert dropping.eval().sharing("lanes") == "states"
    assert (
        SentenceEncoder(dataclasses.replace(config, leaf_encoder="bilstm")).eval().sharing("lanes")
        == "projections"
    )
    assert SentenceEncoder(dataclasses.replace(config, kind="spinn")).eval().sharing("own") == "projections"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"table_kind": "trees"}, "table_kind: expected one of forest, lanes, own, sequence, got 'trees'"),
        ({"share": "everything"}, "share: expected one of"),
        ({"share": "states", "table_kind": "own"}, "cannot share states"),
    ],
)
def test_what_there_is_not_and_what_cannot_be_shared_is_an_error(options, message) -> None:
    options = {"table_kind": "forest", **options}
    with pytest.raises(ValueError, match=message):
        make_sentence_batch(columns_of(*repetitive(0)), **options)
