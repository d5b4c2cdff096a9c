"""The judge: equal is equal, and every way to differ is found."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from spinn_tensor import ClassifierConfig, EncoderConfig, ModelConfig, build_model
from spinn_tensor.batch import make_batch
from spinn_tensor.data_prep.columns import lengths
from spinn_tensor.export.parity import (
    BATCH_SIZES,
    LENGTHS,
    TOLERANCES,
    ParityError,
    ParityReport,
    Tolerance,
    compare,
    random_cases,
    reference,
    require,
)
from tests.tiny_models import VOCABULARY_SIZE, tiny_model

pytestmark = pytest.mark.numerical


@pytest.fixture(scope="module")
def model():
    return tiny_model("pair", "spinn")


@pytest.fixture(scope="module")
def cases(model):
    return list(random_cases(model, batch_sizes=(1, 6)))


def faulty(model, cases, fault):
    """The model itself as the artefact, with a fault."""
    outputs = {id(case.inputs): reference(model, case, "own") for case in cases}

    def run(inputs):
        made = {name: values.copy() for name, values in outputs[id(inputs)].items()}
        fault(made)
        return made

    return run


def no_fault(outputs):
    pass


def test_the_model_agrees_with_itself(model, cases) -> None:
    report = compare(model, faulty(model, cases, no_fault), cases)
    assert report._replace(differences={}) == ParityReport({}, 1.0, 1.0, len(LENGTHS) + 6, 0.0, 0.0)
    assert set(report.differences) == set(LENGTHS)
    assert report.largest_difference < 1e-5
    require(report)


def test_training_mode_comes_back(model, cases) -> None:
    assert model.training
    reference(model, cases[0], "own")
    assert model.training
    assert all(module.training for module in model.modules())


def test_cases_mix_lengths_and_hide_nothing(model) -> None:
    cases = list(random_cases(model))
    assert [len(case.columns.labels) for case in cases] == [1] * len(LENGTHS) + list(BATCH_SIZES[1:])
    alone = [lengths(case.columns.sides[0])[0] for case in cases[: len(LENGTHS)]]
    assert alone == list(LENGTHS)
    for case in cases[-2:]:
        assert set(lengths(case.columns.sides[0])) == set(lengths(case.columns.sides[1])) == set(LENGTHS)
        ids, n_tokens = case.inputs["premise_ids"], case.inputs["premise_lengths"]
        real = np.arange(ids.shape[1]) < n_tokens[:, None]
        assert (ids[real] < VOCABULARY_SIZE).all()
        assert (ids[~real] < 0).all()  # what reads them fails


def other_number(outputs):
    outputs["hypothesis_encodings"][0, 3] += 0.125


def other_probability(outputs):
    outputs["hypothesis_log_probabilities"][0, -1] -= 0.125


def other_label(outputs):
    outputs["logits"][0] = -outputs["logits"][0]


def other_tree(outputs):
    """A right-branching one, and numbers of none."""
    row = outputs["premise_transitions"][-1]
    n = (row != -1).sum() // 2 + 1
    row[: 2 * n - 1] = [0] * n + [1] * (n - 1)
    outputs["premise_encodings"][-1] = 7.0


@pytest.mark.parametrize(
    "fault, reason",
    [
        (other_number, "differ by .*e-02 at length .* is allowed"),
        (other_probability, "differ by .*e-02 at length .* is allowed"),
        (other_label, "a label is wrong by .* of the logits' scale, .* is allowed"),
        (other_tree, "differ by .*; a transition is wrong by .* of the logits' scale"),
    ],
)
def test_what_differs_is_found(model, cases, fault, reason) -> None:
    report = compare(model, faulty(model, cases, fault), cases)
    with pytest.raises(ParityError, match=reason) as caught:
        require(report)
    assert "\n" not in str(caught.value)


def test_shares_are_told(model, cases) -> None:
    def run(inputs):
        outputs = faulty(model, cases, other_label)(inputs)
        other_tree(outputs)
        return outputs

    report = compare(model, run, cases)
    assert report.equal_labels == pytest.approx(5 / 11)
    assert 1 - 6 / 22 <= report.equal_trees < 1


def test_wider_limits_let_more_through() -> None:
    report = ParityReport({1: 1e-3, 40: 3e-3}, 0.99, 0.95, 100, 3e-2, 0.0)
    require(report, TOLERANCES["float16"])
    with pytest.raises(ParityError, match=r"3\.0e-03 at length 40, 2\.0e-03 is allowed"):
        require(report, Tolerance(2e-3))
    with pytest.raises(ParityError, match=r"a label is wrong by 3\.0e-02 .*, 2\.0e-02 is allowed"):
        require(report, Tolerance(1e-2))
    for broken in (
        report._replace(differences={1: 1e-3, 40: np.nan}),
        report._replace(label_cost=np.nan),
        report._replace(transition_cost=np.nan),
    ):
        with pytest.raises(ParityError):
            require(broken, TOLERANCES["int8"])


def test_longer_sentences_may_differ_more() -> None:
    within = ParityReport({1: 7e-6, 82: 2.5e-5}, 1.0, 1.0, 2)
    require(within)
    for differences, n_words in (({1: 9e-6, 82: 2.5e-5}, 1), ({1: 7e-6, 82: 3e-5}, 82), ({14: 1e-4}, 14)):
        with pytest.raises(ParityError, match=f"at length {n_words},"):
            require(within._replace(differences=differences))


def says(other, cases):
    """Another model as the artefact."""
    case_of = {id(case.inputs): case for case in cases}
    return lambda inputs: reference(other, case_of[id(inputs)], "own")


def edge_model(seed: int, task: str, vocabulary_size: int):
    """A small one; every second is as new as `build_model` makes it, with logits of some thousandths."""
    encoder = EncoderConfig(vocabulary_size, "spinn", 2, 3, tracker_dim=2)
    labels = () if task == "parse" else ("yes", "no")
    classifier = ClassifierConfig(2, mlp_dim=3, mlp_layers=1) if labels else None
    torch.manual_seed(seed)
    model = build_model(ModelConfig(task, labels, encoder, classifier)).eval()
    if seed % 2 == 0:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.5 * torch.randn_like(parameter)
    return model


def rounded(model, n_bits: int):
    """Its matrices in so many bits, a scale a row: what a narrower artefact computes with."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.ndim == 2:
                step = parameter.abs().amax(1, keepdim=True) / 2 ** (n_bits - 1)
                parameter.copy_((parameter / step).round() * step)
    return other


def move_to_a_tie(models, cases, task: str) -> None:
    """Shifts a bias of both models until they choose otherwise: a label of two words, or the first transition."""
    gaps = []
    for model in models:
        if task == "parse":
            batch = make_batch(cases[0].columns, "own")
            parse = model.encoder.parse(batch.sentences)
            gaps.append(parse.logits[parse.free_mask][0].diff())
        else:
            row = list(lengths(cases[0].columns.sentences)).index(2)
            logits = reference(model, cases[0], "own")["logits"]
            gaps.append(torch.from_numpy(logits[row]).diff())
    with torch.no_grad():
        for model in models:
            head = model.encoder.composer.transition if task == "parse" else model.mlp.output
            head.bias[1] -= sum(gaps).item() / 2


@pytest.fixture
def short(monkeypatch) -> None:
    """Sentences of few words."""
    monkeypatch.setattr("spinn_tensor.export.parity.LENGTHS", (1, 2, 5, 9, 14))


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("n_bits, precision", [(21, "float32"), (11, "float16"), (7, "int8")])
@pytest.mark.parametrize("task", ["sentence", "parse"])
def test_a_choice_at_a_tie_is_free(task, n_bits, precision) -> None:
    """With a single word all sentences of one length are one: a tie flips a fifth of the labels, or most trees."""
    least = 1.0
    for seed in range(4):
        model = edge_model(seed, task, 2)
        cases = list(random_cases(model, batch_sizes=(30,), seed=seed))
        other = rounded(model, n_bits)
        move_to_a_tie((model, other), cases, task)
        report = compare(model, says(other, cases), cases)
        require(report, TOLERANCES[precision])
        least = min(least, report.equal_labels, report.equal_trees)
    assert least <= 0.8


def permuted_classes(model, rarest):
    model.mlp.output.weight.copy_(model.mlp.output.weight.roll(1, 0))
    model.mlp.output.bias.copy_(model.mlp.output.bias.roll(1, 0))


def shifted_logits(model, rarest):
    model.mlp.output.bias[rarest] += 100 * model.mlp.output.weight.abs().max()


def one_class_for_all(model, rarest):
    model.mlp.output.weight.zero_()
    model.mlp.output.bias.zero_()
    model.mlp.output.bias[rarest] = 1e-3


def turned_choices(model, rarest):
    for parameter in model.encoder.composer.transition.parameters():
        parameter.copy_(parameter.flip(0))


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("fault", [permuted_classes, shifted_logits, one_class_for_all, turned_choices])
def test_a_wrong_artefact_is_no_tie(fault) -> None:
    """Check that it is refused, however wide the tolerance and however small the logits."""
    passed = []
    for seed in range(8):
        model = edge_model(seed, "pair", VOCABULARY_SIZE)
        cases = list(random_cases(model, batch_sizes=(30,), seed=seed))
        rarest = int(reference(model, cases[0], "own")["logits"].mean(0).argmin())
        other = copy.deepcopy(model)
        with torch.no_grad():
            fault(other, rarest)
        try:
            require(compare(model, says(other, cases), cases), TOLERANCES["int8"])
            passed.append(seed)
        except ParityError:
            pass
    assert not passed


def missing_output(outputs):
    del outputs["premise_encodings"]


def other_shape(outputs):
    outputs["logits"] = outputs["logits"][:, :2]


def not_a_number(outputs):
    outputs["logits"][0, 0] = np.nan


@pytest.mark.parametrize(
    "fault, reason",
    [
        (missing_output, "the artefact's outputs are hypothesis_encodings, "),
        (other_shape, r"logits: got shape \(1, 2\), expected \(1, 3\)"),
        (not_a_number, "the artefact's logits: not finite everywhere"),
    ],
)
def test_outputs_that_cannot_be_compared_are_refused(model, cases, fault, reason) -> None:
    with pytest.raises(ParityError, match=reason):
        compare(model, faulty(model, cases, fault), cases)


def test_a_model_that_gives_no_numbers_proves_nothing(cases) -> None:
    """Its weights may be finite, and an artefact may give any number there."""
    broken = tiny_model("pair", "spinn")
    with torch.no_grad():
        broken.mlp.output.weight.fill_(3e38)
    agreeing = lambda inputs: {  # noqa: E731
        name: np.nan_to_num(values) for name, values in reference(broken, cases[0], "own").items()
    }
    with pytest.raises(ParityError, match="the model's logits: not finite everywhere"):
        compare(broken, agreeing, cases[:1])


def no_tree(outputs):
    outputs["transitions"][:] = 0


def other_padding(outputs):
    outputs["transitions"][outputs["transitions"] == -1] = 0


@pytest.mark.parametrize(
    "fault, reason", [(no_tree, "transitions are no trees"), (other_padding, "padding is not -1")]
)
def test_transitions_that_are_no_trees_are_refused(fault, reason) -> None:
    parser = tiny_model("parse", "spinn")
    cases = list(random_cases(parser, batch_sizes=(6,)))
    with pytest.raises(ParityError, match=reason):
        compare(parser, faulty(parser, cases, fault), cases)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_other_trees_hide_no_wrong_numbers(precision) -> None:
    """Numbers are compared by the artefact's trees, whichever these are."""
    parser = tiny_model("parse", "spinn")
    cases = list(random_cases(parser, batch_sizes=(6,)))

    def garbage(outputs):
        for row in outputs["transitions"]:
            n = (row != -1).sum() // 2 + 1
            row[: 2 * n - 1] = [0] * n + [1] * (n - 1)
        outputs["encodings"] += 1

    report = compare(parser, faulty(parser, cases, garbage), cases)
    with pytest.raises(ParityError, match="they differ by"):
        require(report, TOLERANCES[precision])


def test_an_artefact_that_fails_is_one_line(model, cases) -> None:
    def run(inputs):
        raise RuntimeError("Expected a size of 3\nat frame 1")

    with pytest.raises(ParityError, match=r"the artefact fails on a batch of 1: Expected a size of 3$"):
        compare(model, run, cases)


def test_no_cases_prove_nothing(model) -> None:
    with pytest.raises(ValueError, match="no cases"):
        compare(model, dict, [])
