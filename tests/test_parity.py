"""The judge: equal is equal, and every way to differ is found."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from data_prep.columns import lengths
from export.parity import (
    BATCH_SIZES,
    LENGTHS,
    LIMITS,
    Limits,
    ParityError,
    ParityReport,
    compare,
    random_cases,
    reference,
    require,
)
from tests.tiny_models import VOCABULARY_SIZE, tiny_model


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
    assert report == ParityReport(0.0, 1.0, 1.0, len(LENGTHS) + 6, len(LENGTHS) + 6)
    require(report)


def test_training_mode_comes_back(model, cases) -> None:
    assert model.training
    reference(model, cases[0], "own")
    assert model.training
    assert all(module.training for module in model.modules())


def test_cases_mix_lengths_and_hide_nothing(model) -> None:
    cases = list(random_cases(model))
    assert [len(case.columns.labels) for case in cases] == [1] * len(LENGTHS) + list(BATCH_SIZES[1:])
    alone = [lengths(case.columns.premises)[0] for case in cases[: len(LENGTHS)]]
    assert alone == list(LENGTHS)
    for case in cases[-2:]:
        assert set(lengths(case.columns.premises)) == set(lengths(case.columns.hypotheses)) == set(LENGTHS)
        ids, n_tokens = case.inputs["premise_ids"], case.inputs["premise_lengths"]
        real = np.arange(ids.shape[1]) < n_tokens[:, None]
        assert (ids[real] < VOCABULARY_SIZE).all()
        assert (ids[~real] < 0).all()  # what reads them fails


def other_number(outputs):
    outputs["hypothesis_encodings"][0, 3] += 0.125


def other_label(outputs):
    outputs["logits"][0] = -outputs["logits"][0]


def other_tree(outputs):
    row = outputs["premise_transitions"][-1]
    row[:] = np.where(row == -1, -1, 1 - row)
    outputs["premise_encodings"][-1] = 7.0
    outputs["logits"][-1] += 7.0


@pytest.mark.parametrize(
    "fault, expected, reason",
    [
        (other_number, ParityReport(0.125, 1.0, 1.0, 11, 11), "differ by 1.2e-01, 1e-05 is allowed"),
        (other_label, None, r"45\.45% of the labels are equal, at least 100% must be"),
        (other_tree, ParityReport(0.0, 1.0, 1 - 6 / 22, 11, 5), r"72\.73% of the trees are equal"),
    ],
)
def test_what_differs_is_found(model, cases, fault, expected, reason) -> None:
    report = compare(model, faulty(model, cases, fault), cases)
    if expected is not None:
        assert report == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ParityError, match=reason) as caught:
        require(report)
    assert "\n" not in str(caught.value)


def test_wider_limits_let_more_through() -> None:
    report = ParityReport(3e-3, 0.99, 0.95, 100, 95)
    require(report, LIMITS["float16"])
    require(report, Limits(3e-3, 0.99, 0.95))
    with pytest.raises(ParityError, match="2e-03 is allowed"):
        require(report, Limits(2e-3, 0.99, 0.95))
    with pytest.raises(ParityError):
        require(ParityReport(float("nan"), 1.0, 1.0, 1, 1))


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


@pytest.mark.parametrize("precision", LIMITS)
def test_wrong_trees_hide_no_wrong_numbers(precision) -> None:
    """Where no tree is equal no number is compared: that is a fault, however wide the limits."""
    parser = tiny_model("parse", "spinn")
    cases = list(random_cases(parser, batch_sizes=(6,)))

    def garbage(outputs):
        outputs["transitions"][:] = 0
        outputs["encodings"][:] = 1e6

    report = compare(parser, faulty(parser, cases, garbage), cases)
    with pytest.raises(ParityError, match="of the trees are equal"):
        require(report, LIMITS[precision])


def test_no_equal_tree_proves_nothing() -> None:
    with pytest.raises(ParityError, match="no example has equal trees"):
        require(ParityReport(0.0, 1.0, 0.5, 8, 0), Limits(1.0, 0.0, 0.0))


def test_no_cases_prove_nothing(model) -> None:
    with pytest.raises(ValueError, match="no cases"):
        compare(model, dict, [])


def test_a_report_is_one_line() -> None:
    assert re.fullmatch(
        r"largest difference 2\.5e-07, equal labels 100\.00%, equal trees 99\.50%, 200 examples",
        str(ParityReport(2.5e-7, 1.0, 0.995, 200, 199)),
    )
