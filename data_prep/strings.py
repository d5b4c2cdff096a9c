"""Sentences that a program holds as strings, binary parses or raw text, and what it gets for them, by any runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from spinn_tensor.data_prep.branching import with_branching
from spinn_tensor.data_prep.columns import (
    SentenceColumns,
    lengths,
    node_offsets,
    ragged_arange,
    sentence_columns,
)
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits, LongSentence
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.treebank import parse_or_tokenize
from spinn_tensor.data_prep.trees import Tree, format_binary
from spinn_tensor.data_prep.vocabulary import Vocabulary


class Sentences(NamedTuple):
    """n sentences as they were given."""

    trees: list[Tree]  # n; right-branching where there was no parse
    has_no_parse: list[bool]  # n


class TreeMaker(NamedTuple):
    """A parser: its vocabulary, and what gives transitions (M,) int8, sentence after sentence, of its columns."""

    vocabulary: Vocabulary
    parse: Callable[[SentenceColumns], np.ndarray]


class Prediction(NamedTuple):
    """What a classifier says of a sentence or a pair."""

    label: str  # the most probable
    probabilities: dict[str, float]  # of every label, in the order of the model's


def predictions(
    labels: Sequence[str],  # C
    probabilities: np.ndarray,  # (n, C)
) -> list[Prediction]:  # n
    """The probabilities by the names of the labels."""
    return [
        Prediction(labels[best], dict(zip(labels, row, strict=True)))
        for best, row in zip(probabilities.argmax(1).tolist(), probabilities.tolist(), strict=True)
    ]


def require_sides(
    task: str,  # of the model: "pair", "sentence" or "parse"
    has_hypotheses: bool,
    model: str,  # its name, for errors
) -> None:
    """Raises TypeError where a model cannot classify what it is given."""
    if task == "parse":
        raise TypeError("a model that only parses has no labels")
    if (task == "pair") != has_hypotheses:
        expected = "premises and hypotheses" if task == "pair" else "sentences alone"
        raise TypeError(f"a {model} classifies {expected}")


def read_strings(
    sentences: Iterable[str],  # binary parses, "( ( A dog ) barks )", or raw text
    name: str,  # of the argument, for errors
    tokenizer: Tokenizer,
    limits: Limits = DEFAULT_LIMITS,  # of which that on a sentence is kept
) -> Sentences:
    """Trees or words of the sentences. Raises DataError naming the number of a sentence, counted from 0."""
    if isinstance(sentences, str):
        raise DataError("got a string, expected a list of them", field=name)
    trees: list[Tree] = []
    texts: list[str] = []  # those without a parse

    def tokenize(text: str) -> tuple[str, ...]:
        texts.append(text)
        return tokenizer.tokenize(text)

    has_no_parse = []
    for example, text in enumerate(sentences):
        n_before = len(texts)
        try:
            if not isinstance(text, str):
                raise DataError(f"got {type(text).__name__}, expected a string")
            tree = parse_or_tokenize(text, tokenize)
            limits.check_words(tree.tokens)
            trees.append(tree)
        except LongSentence as error:
            reason = f"{error.reason}; max_words= allows more"
            raise DataError(reason, example=example, field=name, token=error.token) from None
        except DataError as error:
            raise error.at(example=example, field=name) from None
        has_no_parse.append(len(texts) > n_before)
    return Sentences(trees, has_no_parse)


def require_parses(read: Sentences, name: str) -> None:
    """Raises DataError naming the first sentence of several words that came without a parse."""
    for example, (tree, has_no_parse) in enumerate(zip(*read, strict=True)):
        if has_no_parse and tree.n_tokens > 1:  # one word has one tree
            reason = "text without a parse; this model composes by given trees: trees= or parser= makes them"
            raise DataError(reason, example=example, field=name)


def joined(first: Sentences, second: Sentences) -> Sentences:
    """n premises, then their n hypotheses. Raises DataError where they are not as many."""
    if len(second.trees) != len(first.trees):
        raise DataError(
            f"got {len(first.trees)} premises and {len(second.trees)} hypotheses, expected as many"
        )
    return Sentences(first.trees + second.trees, first.has_no_parse + second.has_no_parse)


def under_trees(
    read: Sentences,
    vocabulary: Vocabulary,
    branching: str | None,  # one of BRANCHINGS, instead of all trees
    parser: TreeMaker | None,  # of text without a parse
) -> SentenceColumns:
    """The sentences under their trees, or those that are made for them."""
    columns = sentence_columns(read.trees, vocabulary)
    if branching is not None:
        return with_branching(columns, branching)
    rows = np.flatnonzero(read.has_no_parse)
    if parser is None or not len(rows):
        return columns
    words = sentence_columns((read.trees[row] for row in rows), parser.vocabulary)
    transitions = columns.transitions.copy()
    places = ragged_arange(node_offsets(columns)[rows], 2 * lengths(words) - 1)
    transitions[places] = parser.parse(words)
    return columns._replace(transitions=transitions)


def binary_parses(
    read: Sentences,  # n
    columns: SentenceColumns,  # the same sentences under any trees
) -> list[str]:  # n
    """The words under the trees of the columns."""
    bounds = node_offsets(columns).tolist()
    return [
        format_binary(Tree(tree.tokens, columns.transitions[start:end]))
        for tree, start, end in zip(read.trees, bounds, bounds[1:], strict=False)
    ]
