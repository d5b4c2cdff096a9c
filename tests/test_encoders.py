"""Encoders and classifiers: equal to plain references, and to themselves whatever else is in the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from spinn_tensor import (
    ClassifierConfig,
    ConfigError,
    EncoderConfig,
    ModelConfig,
    PairClassifier,
    SentenceClassifier,
    SentenceEncoder,
    SentenceParser,
    build_model,
    make_batch,
    make_sentence_batch,
)
from spinn_tensor.batch import TABLE_KINDS
from spinn_tensor.config import ENCODER_KINDS, GIVEN_KINDS, SPINN_KINDS
from spinn_tensor.data_prep.columns import Corpus, concatenate, lengths, sentence_columns, take
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.trees import parse_binary
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.normalization import MaskedBatchNorm
from spinn_tensor.training.objective import transition_loss
from tests.strategies import columns_of, left_branching, right_branching
from tests.tiny_models import MANY_WORDS, pair_model, some_columns, some_pairs

pytestmark = pytest.mark.numerical


def encoder(kind: str = "spinn-pi", **options) -> SentenceEncoder:
    torch.manual_seed(0)
    settings = {"embedding_dim": 6, "hidden_dim": 8, "tracker_dim": 3, "embedding_dropout": 0.0} | options
    return SentenceEncoder(EncoderConfig(MANY_WORDS, kind, **settings))


VARIANTS = [(kind, "projection") for kind in ENCODER_KINDS] + [(kind, "bilstm") for kind in SPINN_KINDS]
every_variant = pytest.mark.parametrize("kind, leaf_encoder", VARIANTS)


def test_projected_words_are_embedding_projection_and_batch_norm() -> None:
    columns = some_columns()
    model = encoder("spinn-pi-nt").double()
    batch = make_sentence_batch(columns, "forest")
    words = model.embedding.weight[columns.token_ids.astype(np.int64)]
    projected = words @ model.leaves.projection.weight.t() + model.leaves.projection.bias
    expected = (projected - projected.mean(0)) / (projected.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(model.leaves(batch), expected)


@every_variant
def test_an_encoding_is_the_same_alone_and_in_any_order(kind, leaf_encoder) -> None:
    columns = some_columns()
    model = encoder(kind, leaf_encoder=leaf_encoder).double().eval()
    with torch.no_grad():
        model.leaves.norm.running_mean.uniform_(-1, 1)
        together = model(make_sentence_batch(columns, model.table_kind))
        order = np.random.default_rng(1).permutation(len(lengths(columns)))
        shuffled = model(make_sentence_batch(take(columns, order), model.table_kind))
        torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-10)
        for row in range(len(order)):
            alone = model(make_sentence_batch(take(columns, np.array([row])), model.table_kind))
            torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-10)


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("kind", ["lstm", "bilstm"])
def test_the_recurrent_encoders_are_torch_lstms_sentence_by_sentence(kind, n_layers: int) -> None:
    columns = some_columns()
    model = encoder(kind).eval()
    if n_layers > 1:
        one = model.composer.lstm
        model.composer.lstm = nn.LSTM(one.input_size, one.hidden_size, 2, bidirectional=one.bidirectional)
    model.double()
    batch = make_sentence_batch(columns, model.table_kind)
    words = model.leaves(batch).split(lengths(columns).tolist())
    n_directions = 1 + model.composer.lstm.bidirectional
    expected = [model.composer.lstm(sentence)[1][0][-n_directions:].flatten() for sentence in words]
    torch.testing.assert_close(model(batch), torch.stack(expected))


def test_the_bag_of_words_is_the_sum() -> None:
    columns = some_columns()
    model = encoder("bow").double().eval()
    batch = make_sentence_batch(columns, model.table_kind)
    sums = [sentence.sum(0) for sentence in model.leaves(batch).split(lengths(columns).tolist())]
    torch.testing.assert_close(model(batch), torch.stack(sums))


def test_the_bidirectional_leaf_encoder_sees_its_sentence_and_nothing_else() -> None:
    columns = some_columns()
    model = encoder("spinn-pi", leaf_encoder="bilstm").double().eval()
    batch = make_sentence_batch(columns, model.table_kind)
    projected = model.leaves.norm(model.leaves.projection(model.embedding(batch.token_ids)))
    words = projected.split(lengths(columns).tolist())
    expected = torch.cat([model.leaves.lstm(sentence)[0] for sentence in words])
    torch.testing.assert_close(model.leaves(batch), expected)


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_masked_batch_norm_is_batch_norm_of_the_real_rows(momentum: float | None) -> None:
    torch.manual_seed(1)
    mask = torch.tensor([True, False, True, True, False, True])
    x = torch.randn(6, 4, dtype=torch.float64)
    x[~mask] = torch.nan
    masked, plain = MaskedBatchNorm(4).double(), nn.BatchNorm1d(4).double()
    masked.momentum = plain.momentum = momentum
    for training in (True, True, False):
        masked.train(training), plain.train(training)
        got, expected = masked(x, mask), plain(x[mask])
        torch.testing.assert_close(got[mask], expected)
        assert not got[~mask].any()
    torch.testing.assert_close(masked.state_dict(), plain.state_dict())


def test_batch_norm_of_a_single_row_uses_the_running_statistics() -> None:
    norm = MaskedBatchNorm(3)
    norm.running_mean.fill_(2.0)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    torch.testing.assert_close(norm(torch.full((1, 3), 2.0)), torch.zeros(1, 3))
    padded = torch.tensor([[4.0] * 3, [torch.nan] * 3])
    masked = norm(padded, torch.tensor([True, False]))
    torch.testing.assert_close(masked[:1], norm(padded[:1]))
    torch.testing.assert_close(norm.state_dict(), before, rtol=0, atol=0)


def test_masked_batch_norm_sums_bfloat16_in_float32() -> None:
    x = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0)) + 5
    exact = MaskedBatchNorm(2)(x, torch.ones(3000, dtype=torch.bool))
    got = MaskedBatchNorm(2).bfloat16()(x.bfloat16(), torch.ones(3000, dtype=torch.bool))
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), exact, rtol=0.02, atol=0.03)


def test_autocast_does_not_round_the_sums_of_batch_norm() -> None:
    generator = torch.Generator().manual_seed(0)
    x, counts = torch.randn(300, 2, generator=generator) + 5, torch.randint(1, 9, (300,), generator=generator)
    exact = MaskedBatchNorm(2)(x, row_counts=counts)
    with torch.autocast("cpu", torch.bfloat16):
        got = MaskedBatchNorm(2)(x, row_counts=counts)
    torch.testing.assert_close(got, exact, rtol=0, atol=0)


def test_a_pair_is_classified_from_both_encodings() -> None:
    model = pair_model(mlp_layers=0, batch_norm=False).eval()
    columns = some_pairs()
    premise, hypothesis = (
        model.encoder(make_sentence_batch(side, "lanes")) for side in (columns.sides[0], columns.sides[1])
    )
    features = torch.cat((premise, hypothesis, premise - hypothesis, premise * hypothesis), 1)
    torch.testing.assert_close(model(make_batch(columns, "lanes")), model.mlp.output(features))


@pytest.mark.parametrize("kind", GIVEN_KINDS)
def test_node_logits_end_with_the_roots(kind) -> None:
    config = EncoderConfig(MANY_WORDS, kind, 6, 8, 3)
    labels = tuple("01234")
    model = build_model(
        ModelConfig("sentence", labels, config, ClassifierConfig(5, mlp_dim=4), node_labels=True)
    )
    model.eval()
    columns = columns_of([left_branching(4), right_branching(1), right_branching(6)])
    columns = columns._replace(node_labels=np.arange(len(columns.transitions)) % 5)
    batch = make_batch(Corpus(columns, np.array([1, 2, 3])), model.encoder.table_kind)
    assert batch.node_labels.tolist() == columns.node_labels.tolist()
    logits = model(batch)
    assert logits.shape == (7 + 1 + 11, 5)
    torch.testing.assert_close(logits[[6, 7, 18]], model.root_logits(batch))


@pytest.mark.parametrize(
    "kind, tracker_dim, mlp_layers, millions",
    [("spinn-pi-nt", 64, 2, 3.4), ("spinn-pi", 61, 2, 3.7), ("spinn", 79, 1, 2.7)],
)
def test_as_many_parameters_as_published(kind, tracker_dim, mlp_layers, millions) -> None:
    """Bowman et al. 2016, table 1; the fixed embedding does not count."""
    config = EncoderConfig(MANY_WORDS, kind, tracker_dim=tracker_dim, train_embedding=False)
    model = build_model(ModelConfig("pair", tuple("abc"), config, ClassifierConfig(3, mlp_layers=mlp_layers)))
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert round(trained / 1e6, 1) == millions


def test_premises_and_hypotheses_are_one_batch() -> None:
    columns = some_pairs()
    both = concatenate(columns.sides[0], columns.sides[1])
    assert make_batch(columns, "forest").sentences.token_ids.tolist() == both.token_ids.tolist()


@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ENCODER_KINDS)
def test_every_encoder_trains_in_every_precision(kind, precision) -> None:
    model = pair_model(kind).to(precision)
    batch = make_batch(some_pairs(), model.encoder.table_kind)
    logits, parse = model.run(batch)
    loss = nn.functional.cross_entropy(logits, batch.labels)
    if parse is not None:  # without it nothing reaches the weights that choose
        loss = loss + transition_loss(parse, parse.transitions)
    loss.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


def test_encoders_without_trees_have_no_nodes() -> None:
    model = encoder("lstm")
    with pytest.raises(TypeError, match="'lstm' has no tree nodes"):
        model.node_states(make_sentence_batch(some_columns(), "sequence"))


def test_word_vectors_may_be_exchanged() -> None:
    """A module of the encoder's own by that name would be one that nobody calls."""
    model = encoder("bow").double()
    model.embedding = nn.Embedding(MANY_WORDS, 6, dtype=torch.float64)
    assert model.embedding is model.leaves.embedding
    assert not any(name.startswith("embedding") for name in model.state_dict())


@pytest.mark.parametrize("table_kind", TABLE_KINDS)
def test_what_is_no_batch_is_refused(table_kind) -> None:
    columns = columns_of([left_branching(3), left_branching(2)])
    for other, message in (
        (columns._replace(token_ids=columns.token_ids[:4]), "got 4 tokens, expected 5"),
        (take(columns, np.array([], dtype=np.int64)), "a batch needs at least one sentence"),
    ):
        with pytest.raises(DataError, match=message):
            make_sentence_batch(other, table_kind)
    with pytest.raises(DataError, match="got 1 labels for 2 sentences, 1 an example"):
        make_batch(Corpus(columns, np.array([0])), table_kind)


def test_leaves_of_two_directions_are_an_even_number() -> None:
    with pytest.raises(ConfigError, match="needs an even number of outputs, got 7"):
        encoder("lstm", leaf_encoder="bilstm", hidden_dim=7)


CONFIG = {
    "task": "pair",
    "labels": ["a", "b"],
    "encoder": {"vocabulary_size": 9, "kind": "lstm"},
    "classifier": {"n_classes": 2},
}


def test_a_config_survives_json() -> None:
    config = ModelConfig.from_dict(CONFIG)
    assert config.encoder.hidden_dim == 300
    assert ModelConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "path, value, message",
    [
        (("encoder", "kind"), "gru", "kind: expected one of spinn-pi-nt, spinn-pi, .*, got 'gru'"),
        (("encoder", "hidden_dim"), 0, "hidden_dim: expected at least 1, got 0"),
        (("encoder", "hidden_dim"), "8", "EncoderConfig.hidden_dim: expected int, got '8'"),
        (("encoder", "hiden_dim"), 8, "EncoderConfig: unknown key 'hiden_dim'"),
        (("encoder", "embedding_dropout"), 1.0, "embedding_dropout: expected a probability"),
        (
            ("encoder", "leaf_encoder"),
            "cnn",
            "leaf_encoder: expected one of projection, bilstm, or module:Class, got 'cnn'",
        ),
        (
            ("encoder", "cell"),
            "gcr",
            "cell: expected one of treelstm, grc, rntn, tree-gru, sum, or module:Class, got 'gcr'",
        ),
        (("encoder", "cell"), "grc;x:y", "cell: expected one of"),
        (("encoder", "cell"), "a.b", "cell: expected one of"),
        (("encoder", "cell"), "grc", "only a SPINN composes states; lstm has no cell, got 'grc'"),
        (("encoder", "compose_dropout"), 0.4, "only a SPINN composes states, got kind 'lstm'"),
        (("classifier", "head"), "linear", "head: expected one of mlp, or module:Class, got 'linear'"),
        (("classifier", "n_classes"), 3, "labels: got 2 names for 3 classes"),
        (("labels",), ["a", "a"], "labels: got one twice: a, a"),
        (("classifier",), {}, "ClassifierConfig: key 'n_classes' is missing"),
        (("classifier",), 3, "ClassifierConfig: expected an object with keys, got int"),
        (("labels",), None, "ModelConfig.labels: expected a value, got none"),
        (("labels",), [1] * 1000, r"labels: expected a list of names, got \(1, 1.{70,80}$"),
        (("task",), "triple", "task: expected one of pair, sentence, parse, got 'triple'"),
        (("node_labels",), True, "node_labels: only a SPINN"),
    ],
)
def test_a_config_that_cannot_be(path, value, message) -> None:
    values = {key: dict(part) if isinstance(part, dict) else part for key, part in CONFIG.items()}
    *parents, last = path
    target = values
    for parent in parents:
        target = target[parent]
    target[last] = value
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize(
    "kind, table_kind", [("spinn-pi-nt", "own"), ("spinn-pi", "forest"), ("spinn", "forest")]
)
def test_tables_of_another_kind_are_refused(kind, table_kind) -> None:
    made = SentenceEncoder(EncoderConfig(3, kind, 4, 4, 4))
    columns = sentence_columns([parse_binary("( a b )")], Vocabulary.build([["a"]]))
    for use in (made, made.node_states):
        with pytest.raises(TypeError, match=r"^got (Own|Forest)Tables"):
            use(make_sentence_batch(columns, table_kind))


@pytest.mark.parametrize("kind, leaf_encoder", [("lstm", "projection"), ("spinn-pi", "bilstm")])
def test_sharing_more_than_an_encoder_allows_is_refused(kind, leaf_encoder) -> None:
    batch = make_sentence_batch(some_columns(), "lanes", share="states")
    with pytest.raises(ValueError, match=r"^share=.states. is more than this encoder allows: "):
        encoder(kind, leaf_encoder=leaf_encoder)(batch)


def test_a_config_of_another_task_is_refused() -> None:
    spinn, classifier = EncoderConfig(3, "spinn"), ClassifierConfig(2)
    pair, parse = ModelConfig("pair", ("a", "b"), spinn, classifier), ModelConfig("parse", (), spinn, None)
    for kind, config in ((PairClassifier, parse), (SentenceClassifier, pair), (SentenceParser, pair)):
        with pytest.raises(
            ConfigError, match=f"^task: {kind.__name__} is for '{kind.task}', got '{config.task}'$"
        ):
            kind(config)
