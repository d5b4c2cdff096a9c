"""DropConnect of compositions: against a slow recursion on dropped matrices, in and out of training, and compiled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from spinn_tensor import (
    ClassifierConfig,
    EncoderConfig,
    ModelConfig,
    build_model,
    make_batch,
    make_sentence_batch,
)
from spinn_tensor.data_prep.columns import NO_LABEL, Corpus
from spinn_tensor.model.classifiers import SentenceClassifier
from spinn_tensor.model.encoder import SentenceEncoder
from spinn_tensor.training.objective import training_loss
from tests.any_cells import recursion
from tests.closeness import FLOAT64
from tests.strategies import columns_of, left_branching, right_branching
from tests.tiny_models import MANY_WORDS, some_columns

pytestmark = pytest.mark.numerical

P = 0.4
VARIANTS = [
    ("spinn-pi-nt", "treelstm"),
    ("spinn-pi", "treelstm"),
    ("spinn-pi-nt", "grc"),
    ("spinn-pi", "grc"),
]
every_variant = pytest.mark.parametrize("kind, cell", VARIANTS)


def trees() -> Corpus:
    """Three trees, of whose nodes every fourth has no label."""
    columns = columns_of([left_branching(4), right_branching(1), right_branching(6)])
    labels = np.arange(len(columns.transitions)) % 4
    return Corpus(columns._replace(node_labels=np.where(labels == 3, NO_LABEL, labels)), np.array([1, 2, 0]))


def node_model(kind: str, cell: str = "treelstm", p: float = P) -> SentenceClassifier:
    torch.manual_seed(0)
    options = {"cell": cell, "embedding_dropout": 0.0, "batch_norm": False, "compose_dropout": p}
    classifier = ClassifierConfig(3, mlp_dim=4, mlp_layers=1, mlp_dropout=0.0, batch_norm=False)
    encoder = EncoderConfig(MANY_WORDS, kind, 6, 8, 3, **options)
    return build_model(ModelConfig("sentence", tuple("abc"), encoder, classifier, node_labels=True)).double()


def loss_and_gradients(model: SentenceClassifier, loss: Tensor) -> tuple[Tensor, list[Tensor]]:
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


def slow_loss(model: SentenceClassifier, corpus: Corpus, dropped: dict[str, Tensor]) -> Tensor:
    """The mean loss of all labelled nodes, tree by tree and node by node, by a cell with these matrices."""
    composer = model.encoder.composer
    ends = np.cumsum(2 * corpus.lengths_key - 1)
    batch = np.split(corpus.sentences.transitions, ends[:-1])
    leaves = model.encoder.leaves.projection(
        model.encoder.embedding.weight[corpus.sentences.token_ids.astype(np.int64)]
    )

    class Cell(torch.nn.Module):
        output_dim = 8

        def forward(self, *states: Tensor) -> Tensor:
            return functional_call(composer.compose, dropped, states)

    states, _ = recursion(Cell(), composer.tracker, leaves, batch)
    losses = [
        -model.mlp.output(model.mlp.hidden[0](state).relu()).log_softmax(0)[int(label)]
        for state, label in zip(states, corpus.sentences.node_labels, strict=True)
        if label != NO_LABEL
    ]
    return torch.stack(losses).sum() / len(losses)


@every_variant
def test_the_loss_of_every_node_is_that_of_a_slow_recursion_on_dropped_matrices(kind: str, cell: str) -> None:
    """One draw a step, the same at every node; biases are never dropped. Gradients, too."""
    model, corpus = node_model(kind, cell).train(), trees()
    batch = make_batch(corpus, model.encoder.table_kind, share="projections")
    torch.manual_seed(1)
    loss, gradients = loss_and_gradients(model, training_loss(model, batch))
    torch.manual_seed(1)
    dropped = {
        name: F.dropout(value, P) if value.dim() > 1 else value
        for name, value in model.encoder.composer.compose.named_parameters()
    }
    matrices = [value for value in dropped.values() if value.dim() > 1]
    share = sum(int((matrix == 0).sum()) for matrix in matrices) / sum(m.numel() for m in matrices)
    assert 0.7 * P < share < 1.3 * P
    expected, slow_gradients = loss_and_gradients(model, slow_loss(model, corpus, dropped))
    torch.testing.assert_close(loss, expected, rtol=0, atol=FLOAT64)
    for gradient, slow in zip(gradients, slow_gradients, strict=True):
        torch.testing.assert_close(gradient, slow, rtol=0, atol=FLOAT64)


@every_variant
def test_masks_are_the_seeds_and_of_training_alone(kind: str, cell: str) -> None:
    model, plain, corpus = node_model(kind, cell), node_model(kind, cell, 0.0), trees()
    batch = make_batch(corpus, model.encoder.table_kind)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return training_loss(model, batch).item()

    assert loss(1) == loss(1) != loss(2)
    state = torch.get_rng_state()
    assert training_loss(model.eval(), batch).item() == training_loss(plain, batch).item()
    assert torch.equal(torch.get_rng_state(), state)


def test_own_transitions_are_composed_by_dropped_matrices() -> None:
    torch.manual_seed(0)
    config = EncoderConfig(MANY_WORDS, "spinn", 6, 8, 3, embedding_dropout=0.0, compose_dropout=P)
    encoder = SentenceEncoder(config).double()
    for table_kind in ("own", "lanes"):
        batch = make_sentence_batch(some_columns(), table_kind)
        draws = [encoder.parse(batch).encodings for _ in range(2)]
        assert not torch.equal(*draws)
        still = [encoder.eval().parse(batch).encodings for _ in range(2)]
        assert torch.equal(*still)
        encoder.train()


def test_a_compiled_loss_drops_what_an_eager_one_does() -> None:
    model, corpus = node_model("spinn-pi").train(), trees()
    batch = make_batch(corpus, model.encoder.table_kind, share="projections")
    results = []
    for loss_of in (training_loss, torch.compile(training_loss, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(1)
        results.append(loss_and_gradients(model, loss_of(model, batch)))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=FLOAT64)


def test_without_it_a_model_is_described_as_before() -> None:
    assert "compose_dropout" not in EncoderConfig(MANY_WORDS).to_dict()
    config = EncoderConfig(MANY_WORDS, compose_dropout=P)
    assert config.to_dict()["compose_dropout"] == P
    assert EncoderConfig.from_dict(config.to_dict()) == config
