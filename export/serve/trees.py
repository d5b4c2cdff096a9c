"""The routes for what only these models have: trees, and for the page all that a model says of a sentence or two.

For the page the machine is told as one with a thin stack: step t writes entry t, whatever the transition, and an entry
knows the one below it. So the stack after t steps is entry t - 1, the one below that, and so on.

    transitions   S   S     R         S       R
    entry         A   dog   (A dog)   barks   ((A dog) barks)
    below         -   0     -         2       -
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import numpy as np
import orjson
from msgspec import Struct

from spinn_tensor.answers import FORMATS, Parsed, Prediction, normalized
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.text import Words
from spinn_tensor.data_prep.tree_json import nested, tree_object
from spinn_tensor.data_prep.tree_view import svg
from spinn_tensor.data_prep.trees import REDUCE
from spinn_tensor.data_prep.vocabulary import UNKNOWN_ID
from spinn_tensor.export.serve.engine import Sentence
from spinn_tensor.export.serve.errors import invalid, untokenized
from spinn_tensor.export.serve.service import Call, one_side
from spinn_tensor.export.serve.tei import LabelScore, scores

WRITTEN_HERE = 200  # words: more are written on a thread, beside other requests


class ParseRequest(Struct, forbid_unknown_fields=True):
    """Ask for the trees of texts.

    `format`: binary, "( ( A dog ) barks )"; penn, brackets as in the Penn Treebank; nested, lists of words; json, an
    object with tokens, their places in the text, and spans; svg, a picture.
    """

    inputs: str | list[str]
    format: Literal["binary", "penn", "nested", "json", "svg"] = "binary"
    log_probability: bool = False
    truncate: bool | None = None


class ScoredTree(TypedDict):
    """Hold a tree, and how probable the model finds it; null: it did not choose it, or does not say."""

    tree: Any
    log_probability: float | None


async def parse(call: Call, asked: ParseRequest) -> list[Any]:
    """Return the trees that the model composes texts by, in the format that is asked for."""
    texts = call.list_of(asked.inputs, "inputs")
    sentences = await call.read(texts, "inputs", asked.truncate)
    parsed = await call.run("parse", one_side(sentences))

    def written() -> list[Any]:
        of_each = zip(texts, sentences, parsed, strict=True)
        return [_written(call, text, sentence, one, asked.format) for text, sentence, one in of_each]

    is_short = sum(len(sentence.tokens) for sentence in sentences) <= WRITTEN_HERE
    trees = written() if is_short else await call.service.on_reader(written)
    if not asked.log_probability:
        return trees
    return [
        {"tree": tree, "log_probability": one.log_probability}
        for tree, one in zip(trees, parsed, strict=True)
    ]


def _written(call: Call, text: str, sentence: Sentence, parsed: Parsed, form: str) -> Any:
    if form == "nested":
        return orjson.Fragment(nested(parsed.tree))
    if form == "svg":
        return svg([parsed.tree])
    if form == "json":
        offsets = call.service.engine.model.tokenizer.offsets
        whole = text if isinstance(sentence, Words) and sentence.tokens == parsed.tree.tokens else ""
        return tree_object(parsed.tree, whole, offsets, parsed.log_probability)
    try:
        return FORMATS[form](parsed.tree)
    except DataError as error:  # words with brackets, which this notation has no way to write
        raise untokenized(f"format {form}: {error}") from None


class DetailRequest(Struct, forbid_unknown_fields=True):
    """Ask for all that the model says of a text, or of two: a pair, or sentences to compare."""

    inputs: str | list[str]


class MachineStep(TypedDict):
    """Hold what a transition writes on the stack: a node of the tree, over the words from `first` to before `end`."""

    transition: Literal["SHIFT", "REDUCE"]
    first: int
    end: int
    left: int | None  # the step that wrote its left child; null: it is a word
    right: int | None
    below: int | None  # the step that wrote the entry below it on the stack; null: there is none
    is_forced: bool  # no other transition was possible: there was nothing to join, or no word left
    probability: float | None  # null: the model did not choose it, or does not say


class SentenceDetail(TypedDict):
    """Hold a sentence, its tree, and each step of the machine that made it."""

    tokens: list[str]
    unknown: list[bool]  # of each token: whether it is in no vocabulary of the model
    tree: str | None  # null: the model looks at no tree
    steps: list[MachineStep] | None
    log_probability: float | None
    labels: list[LabelScore] | None  # of a classifier of sentences, the best first


class Detail(TypedDict):
    """Hold the sentences, the labels of the pair, the best first, and the cosine of two; null where there are none."""

    sentences: list[SentenceDetail]
    labels: list[LabelScore] | None
    similarity: float | None


async def detail(call: Call, asked: DetailRequest) -> Detail:
    """Return what the page shows: trees with the steps that made them, labels, and the cosine of two sentences."""
    engine = call.service.engine
    texts = call.list_of(asked.inputs, "inputs")
    if len(texts) > 2:
        raise invalid(f"inputs: got {len(texts)} texts, expected one or two")
    sentences = await call.read(texts, "inputs")
    alone = one_side(sentences)
    parses: Sequence[Any] = [None] * len(sentences)
    predictions: Sequence[Any] = [None] * len(sentences)
    pair, cosine = None, None
    if "parse" in engine.kinds:
        parses = await call.run("parse", alone)
    if "classify" in engine.kinds and engine.n_sides == 1:
        predictions = await call.run("classify", alone)
    if len(sentences) == 2:
        if "classify" in engine.kinds and engine.n_sides == 2:
            (pair,) = await call.run("classify", [tuple(sentences)])
        first, second = normalized(np.asarray(await call.run("encode", alone)))
        cosine = float(first @ second)
    encode = engine.model.tokenizer.vocabulary.encode
    return {
        "sentences": [
            _sentence(sentence, encode(sentence.tokens), parsed, prediction)
            for sentence, parsed, prediction in zip(sentences, parses, predictions, strict=True)
        ],
        "labels": None if pair is None else scores(pair),
        "similarity": cosine,
    }


def _sentence(
    sentence: Sentence,
    ids: np.ndarray,  # (N,) of its tokens
    parsed: Parsed | None,
    prediction: Prediction | None,
) -> SentenceDetail:
    detail: SentenceDetail = {
        "tokens": list(sentence.tokens),
        "unknown": (ids == UNKNOWN_ID).tolist(),
        "tree": None,
        "steps": None,
        "log_probability": None,
        "labels": None if prediction is None else scores(prediction),
    }
    if parsed is not None:
        logs = parsed.step_log_probabilities
        chances = None if logs is None else np.exp(logs).tolist()
        detail["steps"] = machine_steps(parsed.tree.transitions.tolist(), chances)
        detail["log_probability"] = parsed.log_probability
        try:
            detail["tree"] = FORMATS["binary"](parsed.tree)
        except DataError as error:  # words with blanks, which brackets have no way to write
            raise untokenized(str(error)) from None
    return detail


def machine_steps(
    transitions: Sequence[int],  # (2N-1,) SHIFT or REDUCE: one whole tree
    probabilities: Sequence[float] | None,  # (2N-1,) of each
) -> list[MachineStep]:
    """Return what each transition does.

    >>> [(step["first"], step["end"], step["below"]) for step in machine_steps([0, 0, 1, 0, 1])]
    [(0, 1, None), (1, 2, 0), (0, 2, None), (2, 3, 2), (0, 3, None)]
    """
    n_words, n_shifted = (len(transitions) + 1) // 2, 0
    steps: list[MachineStep] = []
    for t, transition in enumerate(transitions):
        top = t - 1 if steps else None  # the uppermost entry, and the one below it
        under = None if top is None else steps[top]["below"]
        is_forced = n_shifted == n_words or under is None
        left = right = None
        first, below = n_shifted, top
        if transition == REDUCE:
            assert top is not None
            assert under is not None
            left, right = under, top
            first, below = steps[under]["first"], steps[under]["below"]
        else:
            n_shifted += 1
        steps.append(
            {
                "transition": "REDUCE" if transition == REDUCE else "SHIFT",
                "first": first,
                "end": n_shifted,
                "left": left,
                "right": right,
                "below": below,
                "is_forced": is_forced,
                "probability": None if probabilities is None else probabilities[t],
            }
        )
    return steps
