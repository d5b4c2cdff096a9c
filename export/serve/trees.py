"""Routes for what only these models have: trees, and the steps that make them."""

from __future__ import annotations

import math
from typing import Any, Literal, TypedDict

import numpy as np
import orjson
from msgspec import Struct

from spinn_tensor.answers import FORMATS, Parsed, Prediction, normalized
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.text import Words
from spinn_tensor.data_prep.tree_json import Offsets, nested, tree_object
from spinn_tensor.data_prep.tree_svg import svg
from spinn_tensor.data_prep.vocabulary import UNKNOWN_ID
from spinn_tensor.export.serve.engine import Sentence
from spinn_tensor.export.serve.errors import untokenized
from spinn_tensor.export.serve.service import Call, one_side


class ParseRequest(Struct):
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


class DetailRequest(Struct):
    """Ask for all that the model says of a sentence, or of two."""

    premise: str
    hypothesis: str | None = None


class SentenceDetail(TypedDict):
    """Hold a sentence, its tree, and each step that made it, SHIFT (0) or REDUCE (1), with its probability."""

    tokens: list[str]
    unknown: list[bool]  # of each token
    tree: str | None  # null: the model looks at no tree
    transitions: list[int] | None
    probabilities: list[float] | None  # null: the model did not choose them, or does not say
    log_probability: float | None


class Detail(TypedDict):
    """Hold the sentences, the labels' scores, and the cosine of two; null where the model has none."""

    sentences: list[SentenceDetail]
    labels: list[dict[str, Any]] | None
    similarity: float | None


async def parse(call: Call, asked: ParseRequest) -> list[Any]:
    """Return the trees that the model composes texts by, in the format that is asked for."""
    texts = call.list_of(asked.inputs, "inputs")
    sentences = await call.read(texts, "inputs", asked.truncate)
    parsed = await call.run("parse", one_side(sentences))
    trees = [
        _written(call, text, sentence, one, asked.format)
        for text, sentence, one in zip(texts, sentences, parsed, strict=True)
    ]
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

        def offsets_in(text: str) -> Offsets:
            offsets: Offsets = call.service.engine.model.tokenizer.backend.encode(text).offsets
            return offsets

        whole = text if isinstance(sentence, Words) and sentence.tokens == parsed.tree.tokens else ""
        return tree_object(parsed.tree, whole, offsets_in, parsed.log_probability)
    try:
        return FORMATS[form](parsed.tree)
    except DataError as error:  # words with brackets, which this notation has no way to write
        raise untokenized(f"format {form}: {error}") from None


async def detail(call: Call, asked: DetailRequest) -> Detail:
    """Return what the page shows: trees with their steps, labels, and the cosine of two sentences."""
    engine = call.service.engine
    texts = [asked.premise] if asked.hypothesis is None else [asked.premise, asked.hypothesis]
    sentences: list[Sentence] = []
    for text, name in zip(texts, ("premise", "hypothesis"), strict=False):
        sentences += await call.read([text], name)
    examples = one_side(sentences)
    parsed: Any = [None] * len(sentences)
    if "parse" in engine.kinds:
        parsed = await call.run("parse", examples)
    labels = None
    if "classify" in engine.kinds and len(sentences) == engine.n_sides:
        (prediction,) = await call.run("classify", [tuple(sentences)])
        labels = _labels(prediction)
    cosine = None
    if len(sentences) == 2:
        first, second = normalized(np.asarray(await call.run("encode", examples)))
        cosine = float(first @ second)
    ids = engine.model.tokenizer.vocabulary.encode
    return {
        "sentences": [
            _sentence(sentence, ids(sentence.tokens), one)
            for sentence, one in zip(sentences, parsed, strict=True)
        ],
        "labels": labels,
        "similarity": cosine,
    }


def _labels(prediction: Prediction) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in prediction.probabilities.items()]


def _sentence(sentence: Sentence, ids: Any, parsed: Parsed | None) -> SentenceDetail:
    steps = None if parsed is None else parsed.step_log_probabilities
    return {
        "tokens": list(sentence.tokens),
        "unknown": [int(number) == UNKNOWN_ID for number in ids],
        "tree": None if parsed is None else FORMATS["binary"](parsed.tree),
        "transitions": None if parsed is None else parsed.tree.transitions.tolist(),
        "probabilities": None if steps is None else [math.exp(step) for step in steps.tolist()],
        "log_probability": None if parsed is None else parsed.log_probability,
    }
