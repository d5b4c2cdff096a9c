"""Sentences that a program holds as strings, and what a model says of them, by any runtime: the methods of
`spinn_tensor.Pipeline` and `spinn_tensor.export.predictor.OnnxPredictor`, in NumPy and without torch.

A sentence is a string: a tree in its notation, by the rule of `data_prep.text`, else text, which is tokenised as the
model's words were.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.branching import BRANCHINGS, with_branching
from spinn_tensor.data_prep.columns import (
    NO_LABEL,
    Corpus,
    SentenceColumns,
    lengths,
    node_offsets,
    sentence_columns,
)
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.limits import Limits, LongSentence
from spinn_tensor.data_prep.penn import DEFAULT_BINARIZE
from spinn_tensor.data_prep.segments import ragged_arange
from spinn_tensor.data_prep.text import SentenceReader, Words, tree_of
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import Tree, format_binary
from spinn_tensor.data_prep.vocabulary import Vocabulary

BATCH = 256  # sentences or pairs at most


class Prediction(NamedTuple):
    """Hold what a classifier says of a sentence or a pair."""

    label: str  # the most probable
    probabilities: dict[str, float]  # of every label, in the order of the model's


class TreeMaker(NamedTuple):
    """Make trees for text without a parse, by a parser."""

    vocabulary: Vocabulary
    parse: Callable[[SentenceColumns], np.ndarray]  # transitions (M,) int8, sentence after sentence
    max_length: int = 0  # words of a sentence at most; 0 = any number


class Sentences(NamedTuple):
    """Hold n sentences as they were given."""

    trees: list[Tree]  # n; right-branching where there was no parse
    has_no_parse: list[bool]  # n


class TextModel(ABC):
    """Join a model with what reads text for it. It keeps no state between calls, so threads may share it.

    Results keep the order of the sentences; what comes out for one does not depend on the others. (But for random
    trees, which are drawn for all of a call.)
    """

    def __init__(
        self,
        task: str,  # "pair", "sentence" or "parse"
        kind: str,  # of the encoder
        tokenizer: Tokenizer,
        *,
        trees: str,  # it composes by: "own", "given" or "none"
        branching: str | None,  # one of BRANCHINGS: such trees replace those given
        tree_maker: TreeMaker | None,  # makes trees for text without a parse
        binarize: str = DEFAULT_BINARIZE,  # Penn trees
        max_words: int,  # of a sentence
        max_length: int = 0,  # the same, as the model was made for it; 0 = any number
    ) -> None:
        """Raise ConfigError for trees that the model has no use for."""
        if branching is not None and tree_maker is not None:
            raise ConfigError("trees made without a parser, or by one: give one of them")
        if trees != "given" and (branching, tree_maker) != (None, None):
            raise ConfigError(f"a model of kind {kind!r} has no use for given trees")
        if branching not in (None, *BRANCHINGS):
            raise ConfigError(f"trees: expected one of {', '.join(BRANCHINGS)}, got {branching!r}")
        self.branching, self.max_words = branching, max_words
        self._task, self._kind, self._trees = task, kind, trees
        self._tokenizer, self._tree_maker = tokenizer, tree_maker
        self._reader = SentenceReader(tokenizer.tokenize, binarize)
        limits = (max_length, 0 if tree_maker is None else tree_maker.max_length)
        self._max_length = min(filter(None, limits), default=0)

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """Return the names of the classes; () for a model that only parses."""

    @abstractmethod
    def _probabilities(self, corpus: Corpus, batch_size: int) -> np.ndarray:  # (n, C)
        """Return those of the labels of n sentences or pairs."""

    @abstractmethod
    def _encodings(self, sentences: SentenceColumns) -> np.ndarray:  # (n, D) float32
        """Return one vector a sentence."""

    @abstractmethod
    def _own_transitions(
        self, sentences: SentenceColumns
    ) -> np.ndarray:  # (M,) int8, sentence after sentence
        """Return those that a model chooses which parses; the trees of the sentences are not looked at."""

    def classify(
        self,
        premises: Iterable[str],  # n sentences, which need not be premises
        hypotheses: Iterable[str] | None = None,  # n, for a model of pairs
        *,
        batch_size: int = BATCH,  # sentences or pairs at most
    ) -> list[Prediction]:  # n
        """Return labels and probabilities.

        Raises DataError naming the number of a sentence, counted from 0, that is empty, no text, a broken parse or
        longer than the model or `max_words` takes; TypeError where the model is not one of pairs, or of sentences.
        """
        if self._task == "parse":
            raise TypeError("a model that only parses has no labels")
        if (self._task == "pair") != (hypotheses is not None):
            expected = "premises and hypotheses" if self._task == "pair" else "sentences alone"
            raise TypeError(f"a model of task {self._task!r} classifies {expected}")
        if hypotheses is None:
            read, n_sides = self._read(premises, "sentences"), 1
        else:
            read = joined(self._read(premises, "premises"), self._read(hypotheses, "hypotheses"))
            n_sides = 2
        labels = np.full(len(read.trees) // n_sides, NO_LABEL, dtype=np.int64)
        corpus = Corpus(self._composed(read), labels, n_sides)
        probabilities = self._probabilities(corpus, batch_size)
        return [
            Prediction(self.labels[best], dict(zip(self.labels, row, strict=True)))
            for best, row in zip(probabilities.argmax(1).tolist(), probabilities.tolist(), strict=True)
        ]

    def encode(self, sentences: Iterable[str]) -> np.ndarray:  # (n, D) float32
        """Return one vector a sentence. Raises DataError as `classify`."""
        return self._encodings(self._composed(self._read(sentences, "sentences")))

    def parse(self, sentences: Iterable[str]) -> list[str]:  # n
        """Return the trees that the model composes the sentences by, as binary parses.

        Raises DataError as `classify`, TypeError for a model that looks at no tree.
        """
        if self._trees == "none":
            raise TypeError(f"a model of kind {self._kind!r} looks at no tree")
        read = self._read(sentences, "sentences")
        columns = self._composed(read)
        transitions = self._own_transitions(columns) if self._trees == "own" else columns.transitions
        bounds = node_offsets(columns).tolist()
        return [
            format_binary(Tree(tree.tokens, transitions[start:end]))
            for tree, start, end in zip(read.trees, bounds, bounds[1:], strict=False)
        ]

    def _read(self, sentences: Iterable[str], name: str) -> Sentences:
        """Return trees or words of the sentences. Raises DataError naming a sentence that the model cannot take."""
        read = read_strings(sentences, name, self._reader, Limits(max_words=self.max_words))
        needs_parse = self._trees == "given" and self.branching is None and self._tree_maker is None
        for example, (tree, has_no_parse) in enumerate(zip(*read, strict=True)):
            reason = None
            if self._max_length and tree.n_tokens > self._max_length:
                reason = f"{tree.n_tokens} tokens; this model was exported for at most {self._max_length}"
            elif needs_parse and has_no_parse and tree.n_tokens > 1:  # one word has one tree
                reason = (
                    "text without a parse; this model composes by given trees: trees= or parser= makes them"
                )
            if reason is not None:
                raise DataError(reason, example=example, field=name)
        return read

    def _composed(self, read: Sentences) -> SentenceColumns:
        """Return the sentences under the trees that a model composes by which does not parse."""
        columns = sentence_columns(read.trees, self._tokenizer.vocabulary)
        if self.branching is not None:
            return with_branching(columns, self.branching)
        rows = np.flatnonzero(read.has_no_parse)
        if self._tree_maker is None or not len(rows):
            return columns
        words = sentence_columns((read.trees[row] for row in rows), self._tree_maker.vocabulary)
        transitions = columns.transitions.copy()
        places = ragged_arange(node_offsets(columns)[rows], 2 * lengths(words) - 1)
        transitions[places] = self._tree_maker.parse(words)
        return columns._replace(transitions=transitions)


def joined(premises: Sentences, hypotheses: Sentences) -> Sentences:
    """Return n premises, then their n hypotheses. Raises DataError where they are not as many."""
    n, m = len(premises.trees), len(hypotheses.trees)
    if m != n:
        raise DataError(f"got {n} premises and {m} hypotheses, expected as many")
    return Sentences(premises.trees + hypotheses.trees, premises.has_no_parse + hypotheses.has_no_parse)


def read_strings(
    sentences: Iterable[str],  # binary parses, "( ( A dog ) barks )", or raw text
    name: str,  # of the argument, for errors
    reader: SentenceReader,
    limits: Limits,  # of which that on a sentence is kept
) -> Sentences:
    """Return trees or words of the sentences. Raises DataError naming the number of a sentence, counted from 0."""
    if isinstance(sentences, str):
        raise DataError("got a string, expected a list of them", field=name)
    trees: list[Tree] = []
    has_no_parse: list[bool] = []
    for example, text in enumerate(sentences):
        try:
            if not isinstance(text, str):
                raise DataError(f"got {type(text).__name__}, expected a string")
            sentence = reader.read(text)
            tree = tree_of(sentence)
            limits.check_words(tree.tokens)
        except LongSentence as error:
            reason = f"{error.reason}; max_words= allows more"
            raise DataError(reason, example=example, field=name, token=error.token) from None
        except DataError as error:
            raise error.at(example=example, field=name) from None
        trees.append(tree)
        has_no_parse.append(isinstance(sentence, Words))
    return Sentences(trees, has_no_parse)
