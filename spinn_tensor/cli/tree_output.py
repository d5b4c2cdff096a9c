"""What `spinn parse` writes of a parsed sentence, in the formats that its help explains."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from spinn_tensor.answers import Parsed, as_written
from spinn_tensor.cli.report import json_line
from spinn_tensor.data_prep.tokenizer import Offsets
from spinn_tensor.data_prep.tree_json import tree_object
from spinn_tensor.data_prep.tree_view import drawn
from spinn_tensor.data_prep.trees import Tree

# of each format what a line without a sentence becomes, and the ending of the field of records that has the tree
EMPTY = {"binary": "", "penn": "", "json": "null", "draw": ""}
FIELDS = {"binary": "binary_parse", "penn": "parse", "json": "tree"}
FORMATS = (*EMPTY, "svg")


class Given(NamedTuple):
    """Hold a sentence as it was given."""

    tree: Tree  # right-branching where there was none
    text: str = ""  # that the tokens are of; "": they were given


Composed = tuple[Given, Parsed | list[Parsed]]  # a sentence, and its tree, or its likeliest ones
RANKED = "trees"  # the ending of the field of records that has several


class Line(NamedTuple):
    """Hold a line of the input, or a sentence given as an argument."""

    sentences: tuple[Given, ...] = ()  # none, one or more
    fields: tuple[str, ...] = ()  # of the record that they come from, or should have come from
    record: dict[str, Any] | None = None  # None for text


def written(
    line: Line,
    composed: list[Composed],  # its sentences
    form: str,  # one of EMPTY
    offsets_in: Callable[[str], Offsets],  # of the tokens of a text
) -> str:
    """Return the line of the output, with its end."""
    values = [_value(*sentence, form, offsets_in) for sentence in composed]
    if line.record is not None:
        made = dict.fromkeys(line.fields) | dict(zip(line.fields, values, strict=False))
        ending = RANKED if any(isinstance(found, list) for _, found in composed) else FIELDS[form]
        return json_line({**line.record, **{f"{name}_{ending}": made[name] for name in made}})
    if not values:
        return EMPTY[form] + "\n"
    if isinstance(values[0], list):
        return _lines(values[0], form)
    return json_line(values[0]) if form == "json" else values[0] + "\n"


def _lines(
    ranked: list[dict[str, Any]],  # trees of a sentence, the best first
    form: str,
) -> str:
    if form == "json":
        shared = ("text", "tokens", "offsets")
        own = [{name: tree[name] for name in tree if name not in shared} for tree in ranked]
        return json_line({**{name: ranked[0][name] for name in shared}, RANKED: own})
    return "".join(
        f"{rank}\t{math.exp(tree['log_probability']):.6f}\t{tree['tree']}\n"
        for rank, tree in enumerate(ranked, start=1)
    )


def _value(
    given: Given, parsed: Parsed | list[Parsed], form: str, offsets_in: Callable[[str], Offsets]
) -> Any:
    if isinstance(parsed, list) and form == "json":
        return [_value(given, one, form, offsets_in) for one in parsed]
    if isinstance(parsed, list):
        return [scored._asdict() for scored in as_written(parsed, form)]
    if form == "draw":
        return "\n".join([*drawn(parsed.tree), ""])
    if form == "json":
        return tree_object(parsed.tree, given.text, offsets_in, parsed.log_probability)
    return as_written(parsed, form)
