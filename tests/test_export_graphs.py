"""The graphs in torch: equal to their models at any batch and length, and refused where there is none."""

from __future__ import annotations

import pytest
import torch

from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model
from spinn_tensor.export.graphs import build_graph
from spinn_tensor.export.interface import ExportError, describe
from spinn_tensor.export.parity import compare, make_case, random_cases, require
from tests.artefacts import graph_function
from tests.closeness import EXACT
from tests.contract import Artefact, ArtefactContract
from tests.tiny_models import tiny_model

# task, kind, tables, leaf encoder, leaves folded
QUICK = [
    ("sentence", "spinn-pi-nt", "forest", "projection", True),
    ("sentence", "bow", "sequence", "bilstm", True),
]
SLOW = [  # what ONNX files, of the same graphs, are held against in every run
    ("sentence", "spinn", "own", "projection", True),
    ("pair", "spinn", "own", "projection", False),
    ("pair", "spinn", "own", "projection", True),
    ("sentence", "spinn", "given", "projection", False),
    ("parse", "spinn", "own", "bilstm", False),
    ("pair", "spinn-pi", "given", "projection", False),
    ("sentence", "spinn-pi", "given", "bilstm", True),
    ("pair", "spinn-pi-nt", "forest", "projection", False),
    ("pair", "lstm", "sequence", "projection", False),
    ("sentence", "lstm", "sequence", "bilstm", True),
    ("pair", "bilstm", "sequence", "projection", True),
    ("pair", "bow", "sequence", "projection", False),
]
GRAPHS = [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)]


@pytest.fixture(scope="module", params=GRAPHS, ids=str)
def artefact(request) -> Artefact:
    """Give each graph, as a module of torch."""
    task, kind, tables, leaf_encoder, folded = request.param
    model = tiny_model(task, kind, leaf_encoder=leaf_encoder).double()
    return Artefact(model, tables, graph_function(model, tables=tables, fold_leaves=folded))


class TestGraphs(ArtefactContract):
    """All kinds of graphs, before anything is traced."""


def random_case(model, tables, n=8):
    return next(random_cases(model, tables=tables, batch_sizes=(n,)))


def test_the_parser_of_the_tests_makes_all_kinds_of_choices() -> None:
    model = tiny_model("pair", "spinn")
    transitions = graph_function(model)(random_case(model, "own").inputs)["premise_transitions"]
    longest = transitions[(transitions >= 0).sum(1).argmax()]
    assert set(longest) == {0, 1}
    right, left = [0] * 82 + [1] * 81, [0, *[0, 1] * 81]
    assert list(longest) not in (right, left)


def test_building_leaves_the_model_alone() -> None:
    model = tiny_model("pair", "spinn")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = build_graph(model, describe(model, "onnx-fp16", fold_leaves=True))
    graph.weights().hidden.zero_()
    graph.leaves.table.zero_()
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "task, kind, tables, leaf_encoder, reason",
    [
        ("pair", "spinn-pi", "own", "projection", "runs on given, not 'own'"),
        ("pair", "lstm", "own", "projection", "runs on sequence, not 'own'"),
        ("pair", "spinn", "sequence", "projection", "runs on own or given, not 'sequence'"),
        ("pair", "spinn", "forest", "projection", "runs on own or given, not 'forest'"),
        ("parse", "spinn", "given", "projection", "nothing to do with given transitions"),
        ("pair", "spinn-pi-nt", "forest", "bilstm", "leaf_encoder 'bilstm' is not exported"),
    ],
)
def test_what_there_is_no_graph_for_is_refused(task, kind, tables, leaf_encoder, reason) -> None:
    with pytest.raises(ExportError, match=reason):
        describe(tiny_model(task, kind, leaf_encoder=leaf_encoder), tables=tables)


def test_a_model_whose_nodes_are_labelled_gives_its_roots() -> None:
    encoder = EncoderConfig(30, "spinn-pi", 6, 8, tracker_dim=5)
    config = ModelConfig("sentence", ("a", "b"), encoder, ClassifierConfig(2, mlp_dim=4), node_labels=True)
    model = build_model(config).double()
    case = random_case(model, "given", 3)
    assert make_case(model, case.columns, tables="given").inputs.keys() == case.inputs.keys()
    require(compare(model, graph_function(model), [case], tables="given"), EXACT)
