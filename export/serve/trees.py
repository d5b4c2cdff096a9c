"""The route for what only these models have: trees."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import orjson
from msgspec import Struct

from spinn_tensor.answers import FORMATS, Parsed
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.text import Words
from spinn_tensor.data_prep.tree_json import nested, tree_object
from spinn_tensor.data_prep.tree_svg import svg
from spinn_tensor.export.serve.engine import Sentence
from spinn_tensor.export.serve.errors import untokenized
from spinn_tensor.export.serve.service import Call, one_side

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
