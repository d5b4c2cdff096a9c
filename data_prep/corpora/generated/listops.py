"""ListOps (Nangia & Bowman, NAACL SRW 2018): nested operations on lists of digits, whose value needs the right parse.

An expression is an operator and 2 to 5 arguments; an argument is a digit or, with probability 1/4, an expression again.
A digit is at most `max_depth` = 20 deep, the outermost operator being 1 deep.

    [MIN [MAX   the smallest, the largest argument
    [MED        the median, half a digit rounded down where two arguments are in the middle
    [SM         the sum modulo 10

The operator takes its arguments one by one and then the closing bracket, so trees are binary and, within a list, left
branching. A line of a file is the value, a tab and the binary parse:

    9	( ( ( [MAX 2 ) 9 ) ] )

The grammar and its probabilities are those of the published `make_data.py`, and as there no expression comes twice.
Training is limited in length (100 tokens, operators and brackets included), the test is not; `dev`, which was not
published and is there to choose by, is limited alike. Two things differ. A lone digit is not drawn (but can be read).
And examples are drawn until there are enough, not a million different ones to take some of, so that the shortest, of
which there are few, are a larger part of the corpus: half of the training examples have at most 14 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from spinn_tensor.data_prep.corpora.formats import DIGITS
from spinn_tensor.data_prep.corpora.generated.draw import Draw
from spinn_tensor.data_prep.settings import NOT_NEGATIVE, Allowed, Settings, setting

VERSION = 1  # of the generator: another version gives other examples for the same configuration
SPLITS = ("train", "dev", "test")
LABELS = DIGITS
OPERATORS = MIN, MAX, MED, SUM = ("[MIN", "[MAX", "[MED", "[SM")
END = "]"
NESTED = 0.25  # of the arguments are expressions
N_ARGUMENTS = (2, 3, 4, 5)  # one of these at random


@dataclass(frozen=True)
class ListOpsConfig(Settings):
    """Say what is generated; the same configuration gives the same examples."""

    seed: int = 0
    n_train: int = setting(90_000, "expressions", NOT_NEGATIVE)
    n_dev: int = setting(2_000, "expressions", NOT_NEGATIVE)
    n_test: int = setting(10_000, "expressions", NOT_NEGATIVE)
    max_tokens: int = setting(
        100,
        "of an example of train and dev; those of test may have any number",
        Allowed("at least 10", lambda value: value >= 10),  # or there may be too few without a repetition
    )
    max_depth: int = setting(20, "of the digits", Allowed("2 to 100", lambda value: 2 <= value <= 100))


class Expression(NamedTuple):
    """Hold a generated example, or an argument in it."""

    parse: str
    value: int
    n_tokens: int


def draw_expression(draw: Draw, max_depth: int, depth: int = 1) -> Expression:
    """Draw a random expression whose operator is `depth` deep."""
    n_arguments = draw.choice(N_ARGUMENTS)
    arguments = [_draw_argument(draw, max_depth, depth + 1) for _ in range(n_arguments)]
    operator = draw.choice(OPERATORS)
    parts = ["( " * (n_arguments + 1) + operator, *[f"{parse} )" for parse, _, _ in arguments], END, ")"]
    return Expression(
        parse=" ".join(parts),
        value=apply_operator(operator, [argument.value for argument in arguments]),
        n_tokens=2 + sum(argument.n_tokens for argument in arguments),
    )


def _draw_argument(draw: Draw, max_depth: int, depth: int) -> Expression:
    if depth < max_depth and draw.chance(NESTED):
        return draw_expression(draw, max_depth, depth)
    digit = draw.choice(LABELS)
    return Expression(digit, int(digit), 1)


def apply_operator(operator: str, values: list[int]) -> int:
    """Return the value of a list, 0 to 9."""
    if operator == MIN:
        return min(values)
    if operator == MAX:
        return max(values)
    if operator == SUM:
        return sum(values) % 10
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


def generate(config: ListOpsConfig) -> dict[str, list[Expression]]:
    """Generate expressions by split.

    They are dealt to the splits in a random order, so that the short ones, which soon are all taken, are spread evenly.
    What is longer than `max_tokens` is drawn again for train and dev.
    """
    draw = Draw(f"listops-{VERSION}-{config.seed}")
    splits: dict[str, list[Expression]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    order = [split for split in SPLITS for _ in range(getattr(config, f"n_{split}"))]
    for split in draw.shuffled(order):
        splits[split].append(_draw_new(draw, config, seen, is_limited=split != "test"))
    return splits


def _draw_new(draw: Draw, config: ListOpsConfig, seen: set[str], is_limited: bool) -> Expression:
    while True:
        expression = draw_expression(draw, config.max_depth)
        fits = not is_limited or expression.n_tokens <= config.max_tokens
        if fits and expression.parse not in seen:
            seen.add(expression.parse)
            return expression


def line(expression: Expression) -> tuple[str, str]:
    """Return the label of an expression, and its line."""
    return str(expression.value), f"{expression.value}\t{expression.parse}\n"
