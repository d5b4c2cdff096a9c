"""The judge of all artefacts: an exported model against the model itself, on sentences that it was not exported with.

    cases       batches of 1, 3, 32 and 128 examples, their sentences of 1, 2, 14, 40 and 82 words mixed, random trees
                among left- and right-branching ones, and padding that must not be read
    reference   what `spinn_tensor` says of a case, by the tables that users batch with
    candidate   any function of a graph's inputs by name to its outputs by name, in NumPy

Where the encoder parses for itself, two machines that differ in the last bit may choose another transition, whereupon
everything differs. So numbers are compared by the artefact's trees: the model is run on them as on given ones. A
difference is that of the numbers, or where an output goes beyond 1 its part of the output's largest in all cases: that
of float32 has no more digits, and a small one may be the difference of large ones. Log-probabilities count as what they
are made of, the logits of the transitions.

What float32 may cost follows from the arithmetic. Two orders of adding up one sum lie some units in the last place, of
2⁻²³, apart: leaves and classifier are allowed 64 of them. A composition adds its own to those of its children, which it
passes on by gates below 1, and so does a step of the tracker: errors add up along a path at most, and a sentence of N
words has at most N - 1 compositions on a path, and 2 N - 1 steps. Each word is allowed 2 units more. So one word may
cost 8e-6, 82 words 2.7e-5; what was seen, by any arithmetic, were 14 units (docs/decisions.md).

Choices, of labels and of transitions, are judged by what they cost. If no logit differs by more than d, the one that
is chosen lies at most 2 d below the model's best. So a choice is wrong where by the model's logits it costs more than

    2 * the largest allowed difference * scale     scale = max(largest |logit - mean of its row|, largest |logit| / 20)

over all examples, or all transitions that were free; what costs less is a tie. Permuted classes cost up to twice the
scale however small the logits are, as those of a new model. Only rows that are constant but for a twentieth are told
apart no better than their size allows: what rounding adds to a logit grows with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from spinn_tensor.batch import TableKind, make_batch
from spinn_tensor.data_prep.branching import BRANCHINGS, branching_transitions
from spinn_tensor.data_prep.columns import Corpus, SentenceColumns, concatenate, lengths
from spinn_tensor.data_prep.errors import DataError, SpinnError
from spinn_tensor.data_prep.trees import check_all_transitions
from spinn_tensor.export.artefact import graph_inputs, output_axes, sides_of
from spinn_tensor.export.interface import Arrays, Candidate, default_tables, first_line
from spinn_tensor.machine import Parse
from spinn_tensor.model.classifiers import Model, SentenceClassifier

LENGTHS = (1, 2, 14, 40, 82)
BATCH_SIZES = (1, 3, 32, 128)
# of `make_sentence_batch`
BATCH_TABLES: dict[str, TableKind] = dict(own="own", given="lanes", forest="forest", sequence="sequence")
POISON = -(10**9)  # padding that is no word


class ParityError(SpinnError, ValueError):
    """Raised for an artefact that does not say what its model says. One line."""


class Case(NamedTuple):
    """Hold a batch, and what an artefact reads of it."""

    columns: Corpus  # n examples
    inputs: Arrays  # by name, see `export.artefact`


class Tolerance(NamedTuple):
    """Say how far numbers may lie apart that differ by rounding alone."""

    difference: float  # relative to the largest number
    per_word: float = 0.0  # more of it for each word of an example's longest sentence

    def at(self, n_words: int) -> float:
        """Return the difference that an example of so many words may have."""
        return self.difference + self.per_word * n_words


UNIT = 2.0**-23  # the last place of float32
TOLERANCES = {
    "float32": Tolerance(64 * UNIT, 2 * UNIT),
    "float16": Tolerance(2e-2),  # float16 and int8 round every product
    "int8": Tolerance(0.3),
}


class ParityReport(NamedTuple):
    """Say how an artefact compares."""

    # by the words of an example's longest sentence: of logits and encodings by the artefact's trees; beyond 1 relative
    differences: dict[int, float]
    equal_labels: float  # share of examples; 1 where there are no labels
    equal_trees: float  # share of sentences; 1 where the trees are given
    n: int  # examples
    label_cost: float = 0.0  # of the worst label that was chosen otherwise, relative to the logits' scale
    transition_cost: float = 0.0  # of the worst transition, likewise

    @property
    def largest_difference(self) -> float:
        """Return the largest difference of all examples."""
        return max(self.differences.values())


class _Choices:
    """Judge what an artefact chose among options, by the logits of its model."""

    def __init__(self) -> None:
        self.worst, self.scale = 0.0, 0.0

    def judge(
        self,
        logits: np.ndarray,  # (n, options) the model's
        chosen: np.ndarray,  # (n,) int64 the artefact's
    ) -> None:
        costs = logits.max(1) - np.take_along_axis(logits, chosen[:, None], 1)[:, 0]
        self.worst = max(self.worst, float(costs.max(initial=0)))
        centred = logits - logits.mean(1, keepdims=True)
        scale = max(np.abs(centred).max(initial=0), np.abs(logits).max(initial=0) / 20)
        self.scale = max(self.scale, float(scale))

    @property
    def cost(self) -> float:
        """Return what the worst choice cost, relative to the scale; 0 where the best was always chosen."""
        return self.worst / self.scale if self.worst else 0.0


def random_cases(
    model: Model,
    *,
    tables: str | None = None,  # see `interface.TABLE_KINDS`; None = what the model was trained with
    batch_sizes: Sequence[int] = BATCH_SIZES,
    seed: int = 0,
) -> Iterator[Case]:
    """Draw words in sentences of LENGTHS: each length alone if a batch has one example, else all of them mixed."""
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
    columns: Corpus,
    *,
    tables: str | None = None,
) -> Case:
    """Make the case of a batch of a corpus, with padding that must not be read."""
    tables = default_tables(model) if tables is None else tables
    return Case(columns, graph_inputs(columns.sides, tables, POISON))


def compare(
    model: Model,
    candidate: Candidate,
    cases: Iterable[Case],
    *,
    tables: str | None = None,
) -> ParityReport:
    """Run both on all cases.

    Raises ParityError for an artefact that fails, for outputs of other names or shapes, for numbers that are none and
    for transitions that are no trees.
    """
    tables = default_tables(model) if tables is None else tables
    labels, transitions = _Choices(), _Choices()
    differences: dict[tuple[str, int], float] = {}  # by output and words
    sizes: dict[str, float] = {}
    n_labels, n_trees, n, n_sentences = 0, 0, 0, 0
    for case in cases:
        expected, got = reference(model, case, tables), _run(candidate, case)
        _check(expected, got)
        same_labels, same_trees = _equal(expected, got, model.config.task)
        n_labels, n_trees = n_labels + int(same_labels.sum()), n_trees + int(same_trees.sum())
        n, n_sentences = n + len(same_labels), n_sentences + len(same_trees)
        if tables == "own":
            expected, parse = _outcome(model, _with_trees(case.columns, got), "given")
            assert parse is not None
            free = parse.free_mask
            transitions.judge(parse.logits[free].numpy(), parse.transitions[free].numpy())
            expected |= _of_steps("log_probabilities", parse.log_probabilities(), case.columns, 0)
        n_words = case.columns.lengths_key.tolist()
        for name, values in expected.items():
            size = transitions.scale if name.endswith("log_probabilities") else float(np.abs(values).max())
            sizes[name] = max(sizes.get(name, 1.0), size)
            for n_tokens, difference in zip(n_words, np.abs(values - got[name]).max(1).tolist(), strict=True):
                differences[name, n_tokens] = max(differences.get((name, n_tokens), 0.0), difference)
        if "logits" in expected:
            labels.judge(expected["logits"], got["logits"].argmax(1))
    if n == 0:
        raise ValueError("no cases to compare")
    by_words: dict[int, float] = {}
    for (name, n_tokens), difference in differences.items():
        by_words[n_tokens] = max(by_words.get(n_tokens, 0.0), difference / sizes[name])
    return ParityReport(by_words, n_labels / n, n_trees / n_sentences, n, labels.cost, transitions.cost)


def require(
    report: ParityReport,
    tolerance: Tolerance = TOLERANCES["float32"],
) -> None:
    """Raise ParityError where the report is beyond the tolerance."""
    faults = []
    beyond = {n: value for n, value in report.differences.items() if not value <= tolerance.at(n)}
    if beyond:
        n, value = max(beyond.items(), key=lambda item: item[1] / tolerance.at(item[0]))
        faults.append(f"they differ by {value:.1e} at length {n}, {tolerance.at(n):.1e} is allowed")
    most = 2 * tolerance.at(max(report.differences))
    for what, cost in (("label", report.label_cost), ("transition", report.transition_cost)):
        if not cost <= most:
            faults.append(f"a {what} is wrong by {cost:.1e} of the logits' scale, {most:.1e} is allowed")
    if faults:
        raise ParityError(
            f"the artefact does not agree with its model: {'; '.join(faults)} ({report.n} examples)"
        )


def reference(
    model: Model,
    case: Case,
    tables: str,
) -> Arrays:
    """Return what the model says of a case in evaluation, by the names of the outputs of its graphs."""
    outputs, parse = _outcome(model, case.columns, tables)
    if tables == "own":
        assert parse is not None
        outputs |= _of_steps("transitions", parse.transitions, case.columns, -1)
        outputs |= _of_steps("log_probabilities", parse.log_probabilities(), case.columns, 0)
    assert list(outputs) == list(output_axes(model.config.task, tables))
    return outputs


def _outcome(
    model: Model,
    columns: Corpus,
    tables: str,
) -> tuple[Arrays, Parse | None]:
    """Return logits and encodings, and of a model that parses what it thought of the transitions."""
    training, batch = model.training, make_batch(columns, BATCH_TABLES[tables])
    model.eval()
    try:
        with torch.no_grad():
            if model.config.encoder.parses:
                logits, parse = model.run(batch)
                assert parse is not None
                encodings = parse.encodings
            else:
                encodings, parse = model.encoder(batch.sentences), None
                run = model.root_logits if isinstance(model, SentenceClassifier) else model.forward
                logits = run(batch)
    finally:
        model.train(training)
    outputs: Arrays = {} if logits is None else {"logits": logits.numpy()}
    prefixes = sides_of(model.config.task)
    for prefix, part in zip(prefixes, np.split(encodings.numpy(), len(prefixes)), strict=True):
        outputs[f"{prefix}encodings"] = part
    return outputs, parse


def _run(candidate: Candidate, case: Case) -> Arrays:
    try:
        return candidate(case.inputs)
    except Exception as error:  # those of runtimes have no base of their own
        n = len(case.columns.labels)
        raise ParityError(f"the artefact fails on a batch of {n}: {first_line(error)}") from error


def _with_trees(columns: Corpus, got: Arrays) -> Corpus:
    """Return the examples with the artefact's trees in place of their own."""
    sides = []
    prefixes = sides_of("pair" if columns.n_sides == 2 else "sentence")
    for prefix, side in zip(prefixes, columns.sides, strict=True):
        rows, n_tokens = got[f"{prefix}transitions"], lengths(side)
        real_mask = np.arange(rows.shape[1]) < 2 * n_tokens[:, None] - 1
        try:
            check_all_transitions(rows[real_mask], n_tokens)
        except DataError as error:
            raise ParityError(f"the artefact's {prefix}transitions are no trees: {error}") from None
        if (rows[~real_mask] != -1).any():
            raise ParityError(f"the artefact's {prefix}transitions: padding is not -1 everywhere")
        sides.append(side._replace(transitions=rows[real_mask].astype(np.int8)))
    return _corpus(sides)


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


def _equal(expected: Arrays, got: Arrays, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Tell of each example whether its label is equal, (n,) bool, of each sentence its tree, (n,) or (2n,) bool."""
    same_trees = []
    for prefix in sides_of(task):
        n = len(expected[f"{prefix}encodings"])
        trees = expected.get(f"{prefix}transitions", np.zeros((n, 0)))
        same_trees.append((trees == got.get(f"{prefix}transitions", trees)).all(1))
    if "logits" not in expected:
        return np.ones(n, dtype=bool), np.concatenate(same_trees)
    return expected["logits"].argmax(1) == got["logits"].argmax(1), np.concatenate(same_trees)


def _of_steps(
    name: str,  # of an output
    values: torch.Tensor,  # (M,) of all transitions
    columns: Corpus,
    padding: int,
) -> Arrays:  # of each side (n, 2N - 1)
    n_tokens = lengths(columns.sentences)
    rows = np.full((len(n_tokens), 2 * n_tokens.max() - 1), padding, dtype=values.numpy().dtype)
    rows[np.arange(rows.shape[1]) < 2 * n_tokens[:, None] - 1] = values.numpy()
    prefixes = sides_of("pair" if columns.n_sides == 2 else "sentence")
    return {
        f"{prefix}{name}": part for prefix, part in zip(prefixes, np.split(rows, len(prefixes)), strict=True)
    }


def _random_sentences(
    generator: np.random.Generator,
    n_tokens: np.ndarray,  # (n,)
    vocabulary_size: int,
) -> SentenceColumns:
    """Draw sentences, each with a tree of some kind, in turn."""
    transitions = [
        branching_transitions(
            np.array([length]), BRANCHINGS[row % len(BRANCHINGS)], int(generator.integers(1 << 31))
        )
        for row, length in enumerate(n_tokens)
    ]
    ids = generator.integers(1, vocabulary_size, n_tokens.sum()).astype(np.int32)
    return SentenceColumns(ids, np.concatenate(([0], np.cumsum(n_tokens))), np.concatenate(transitions), None)


def _corpus(sides: list[SentenceColumns]) -> Corpus:
    labels = np.zeros(len(sides[0].token_offsets) - 1, dtype=np.int64)
    return Corpus(concatenate(*sides), labels, len(sides))
