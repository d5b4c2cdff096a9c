"""The judge of all artefacts: an exported model against the model itself, on sentences that it was not exported with.

    cases       batches of 1, 3, 32 and 128 examples, their sentences of 1, 2, 14, 40 and 82 words mixed, random trees
                among left- and right-branching ones, and padding that must not be read
    reference   what `spinn_tensor` says of a case, by the tables that users batch with
    candidate   any function of a graph's inputs by name to its outputs by name, in NumPy

Where the encoder parses for itself, two machines that differ in the last bit may choose another transition, whereupon
everything differs: labels are compared for all examples, numbers only where the trees are equal. A difference is that
of the numbers, or where an output goes beyond 1 its part of the largest: float32 has no more digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

from data_prep.branching import BRANCHINGS, branching_transitions
from data_prep.columns import LabelledColumns, PairColumns, SentenceColumns, lengths
from export.interface import Arrays, Candidate, default_tables, output_axes, sides_of
from export.sentences import graph_inputs
from spinn_tensor.batch import collate
from spinn_tensor.classifiers import Model, PairClassifier, SentenceClassifier, run_model

LENGTHS = (1, 2, 14, 40, 82)
BATCH_SIZES = (1, 3, 32, 128)
BATCH_TABLES = {"own": "own", "given": "lanes", "forest": "forest"}  # of `make_sentence_batch`
POISON = -(10**9)  # padding that is no word


class ParityError(ValueError):
    """An artefact that does not say what its model says. One line."""


class Case(NamedTuple):
    """A batch, and what an artefact reads of it."""

    columns: PairColumns | LabelledColumns  # n examples
    inputs: Arrays  # by name, see `export.interface`


class Limits(NamedTuple):
    """What is still equal."""

    difference: float  # of logits and encodings
    labels: float  # share of examples with the same label
    trees: float  # share of sentences with the same tree


# What rounding may cost. float16 and int8 round every product, so that a close choice may fall otherwise, above all in
# long sentences.
LIMITS = {
    "float32": Limits(1e-5, 1.0, 1.0),
    "float16": Limits(2e-2, 0.98, 0.9),
    "int8": Limits(0.3, 0.9, 0.4),
}


class ParityReport(NamedTuple):
    """How an artefact compares."""

    largest_difference: float  # of logits and encodings, where trees are equal; of outputs beyond 1, relative
    equal_labels: float  # share of examples; 1 where there are no labels
    equal_trees: float  # share of sentences; 1 where the trees are given
    n: int  # examples
    n_compared: int  # of these, those with equal trees, whose logits and encodings were compared

    def __str__(self) -> str:
        return (
            f"largest difference {self.largest_difference:.1e}, equal labels {self.equal_labels:.2%}, "
            f"equal trees {self.equal_trees:.2%}, {self.n} examples"
        )


def random_cases(
    model: Model,
    *,
    tables: str | None = None,  # "own", "given" or "forest"; None = what the model was trained with
    batch_sizes: Sequence[int] = BATCH_SIZES,
    seed: int = 0,
) -> Iterator[Case]:
    """Random words in sentences of LENGTHS: each length alone if a batch has one example, else all of them mixed."""
    generator = np.random.default_rng(seed)
    for n in batch_sizes:
        for length in LENGTHS if n == 1 else (None,):
            sides = []
            for _ in sides_of(model.config.task):
                mixed = generator.permutation(np.resize(generator.permutation(LENGTHS), n))
                n_tokens = mixed if length is None else np.array([length])
                sides.append(_random_sentences(generator, n_tokens, model.config.encoder.vocabulary_size))
            yield make_case(model, _corpus(sides), tables=tables)


def make_case(
    model: Model,
    columns: PairColumns | LabelledColumns,
    *,
    tables: str | None = None,
) -> Case:
    """The case of a batch of a corpus, with padding that must not be read."""
    sides = _sides(columns)
    inputs = graph_inputs(sides, default_tables(model) if tables is None else tables)
    for side, sentences in zip(sides_of(model.config.task), sides, strict=True):
        ids = inputs.get(f"{side}ids" if side else "token_ids")
        if ids is not None and ids.ndim == 2:
            ids[np.arange(ids.shape[1]) >= lengths(sentences)[:, None]] = POISON
    return Case(columns, inputs)


def compare(
    model: Model,
    candidate: Candidate,
    cases: Sequence[Case] | Iterator[Case],
    *,
    tables: str | None = None,
) -> ParityReport:
    """Run both on all cases. Raises ParityError for outputs of other names or shapes, and for numbers that are none."""
    tables = default_tables(model) if tables is None else tables
    largest, n_labels, n_trees, n, n_sentences, n_compared = 0.0, 0, 0, 0, 0, 0
    for case in cases:
        expected, got = reference(model, case, tables), candidate(case.inputs)
        _check(expected, got)
        examples, sentences = _equal_trees(expected, got, model.config.task)
        for name, values in expected.items():
            if not name.endswith("transitions"):
                differences = np.abs(values - got[name])[examples].max(initial=0)
                largest = max(largest, float(differences / np.abs(values).max(initial=1)))
        labels = (
            expected["logits"].argmax(1) == got["logits"].argmax(1)
            if "logits" in expected
            else examples | True
        )
        n_labels, n_trees = n_labels + int(labels.sum()), n_trees + int(sentences.sum())
        n_compared += int(examples.sum())
        n, n_sentences = n + len(labels), n_sentences + len(sentences)
    if n == 0:
        raise ValueError("no cases to compare")
    return ParityReport(largest, n_labels / n, n_trees / n_sentences, n, n_compared)


def require(
    report: ParityReport,
    limits: Limits = LIMITS["float32"],
) -> None:
    """Raises ParityError where the report is beyond the limits."""
    faults = []
    if not report.largest_difference <= limits.difference:
        faults.append(f"they differ by {report.largest_difference:.1e}, {limits.difference:.0e} is allowed")
    for what, share, least in (
        ("labels", report.equal_labels, limits.labels),
        ("trees", report.equal_trees, limits.trees),
    ):
        if share < least:
            faults.append(f"{share:.2%} of the {what} are equal, at least {least:.0%} must be")
    if not report.n_compared:
        faults.append("no example has equal trees, so that no number could be compared")
    if faults:
        raise ParityError(
            f"the artefact does not agree with its model: {'; '.join(faults)} ({report.n} examples)"
        )


def reference(
    model: Model,
    case: Case,
    tables: str,  # "own", "given" or "forest"
) -> Arrays:
    """What the model says of a case in evaluation, by the names of the outputs of its graphs."""
    with _evaluating(model), torch.no_grad():
        batch = collate(case.columns, BATCH_TABLES[tables])
        outputs: Arrays = {}
        if isinstance(model, SentenceClassifier):
            outputs["logits"] = model.root_logits(batch).numpy()  # type: ignore[arg-type]
        elif isinstance(model, PairClassifier):
            logits = run_model(model, batch).logits
            assert logits is not None
            outputs["logits"] = logits.numpy()
        sentences = batch.sentences
        if model.config.encoder.parses:
            parse = model.encoder.parse(sentences)
            encodings, transitions = parse.encodings.numpy(), parse.transitions.numpy()
        else:
            encodings, transitions = model.encoder(sentences).numpy(), sentences.transitions.numpy()
    prefixes = sides_of(model.config.task)
    for prefix, part in zip(prefixes, np.split(encodings, len(prefixes)), strict=True):
        outputs[f"{prefix}encodings"] = part
    if tables == "own":
        rows = _transition_rows(transitions, np.concatenate([lengths(side) for side in _sides(case.columns)]))
        for prefix, part in zip(prefixes, np.split(rows, len(prefixes)), strict=True):
            outputs[f"{prefix}transitions"] = part
    assert list(outputs) == list(output_axes(model.config.task, tables))
    return outputs


@contextmanager
def _evaluating(model: Model) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _check(expected: Arrays, got: Arrays) -> None:
    if set(expected) != set(got):
        raise ParityError(
            f"the artefact's outputs are {', '.join(sorted(got))}; expected {', '.join(sorted(expected))}"
        )
    for name, values in expected.items():
        if values.shape != got[name].shape:
            raise ParityError(f"{name}: got shape {got[name].shape}, expected {values.shape}")
        for whose, array in (("the model's", values), ("the artefact's", got[name])):
            if not np.isfinite(array).all():
                raise ParityError(f"{whose} {name}: not finite everywhere")


def _equal_trees(expected: Arrays, got: Arrays, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Of each example whether all its trees are equal, (n,) bool, and of each sentence, (n,) or (2n,) bool."""
    sides = []
    for prefix in sides_of(task):
        n = len(expected[f"{prefix}encodings"])
        trees = expected.get(f"{prefix}transitions", np.zeros((n, 0)))
        sides.append((trees == got.get(f"{prefix}transitions", trees)).all(1))
    return np.logical_and.reduce(sides), np.concatenate(sides)


def _transition_rows(
    transitions: np.ndarray,  # (M,)
    n_tokens: np.ndarray,  # (n,)
) -> np.ndarray:  # (n, 2N - 1) padded
    rows = np.full((len(n_tokens), 2 * n_tokens.max() - 1), -1)
    rows[np.arange(rows.shape[1]) < 2 * n_tokens[:, None] - 1] = transitions
    return rows


def _sides(columns: PairColumns | LabelledColumns) -> list[SentenceColumns]:
    return [columns.premises, columns.hypotheses] if isinstance(columns, PairColumns) else [columns.sentences]


def _random_sentences(
    generator: np.random.Generator,
    n_tokens: np.ndarray,  # (n,)
    vocabulary_size: int,
) -> SentenceColumns:
    """Every sentence has a tree of some kind, in turn."""
    transitions = [
        branching_transitions(
            np.array([length]), BRANCHINGS[row % len(BRANCHINGS)], int(generator.integers(1 << 31))
        )
        for row, length in enumerate(n_tokens)
    ]
    ids = generator.integers(1, vocabulary_size, n_tokens.sum()).astype(np.int32)
    return SentenceColumns(ids, np.concatenate(([0], np.cumsum(n_tokens))), np.concatenate(transitions), None)


def _corpus(sides: list[SentenceColumns]) -> PairColumns | LabelledColumns:
    labels = np.zeros(len(sides[0].token_offsets) - 1, dtype=np.int64)
    return PairColumns(sides[0], sides[1], labels) if len(sides) == 2 else LabelledColumns(sides[0], labels)
