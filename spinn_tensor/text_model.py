"""Sentences that a program holds, and what a model says of them, by any runtime: the methods of
`spinn_tensor.Pipeline` and `spinn_tensor.export.predictor.OnnxPredictor`, in NumPy and without torch.

A sentence is a string, a list of words, a spaCy `Doc` or `Span`, or an nltk `Tree` (`data_prep.given`). A string is a
tree in its notation, by the rule of `data_prep.text`, else text, which is tokenised as the model's words were. One
sentence gives one result; a list of them, or a column of a table, gives a list or array of results.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np

from spinn_tensor.answers import (
    FORMATS,
    Advance,
    Parsed,
    Prediction,
    Sentences,
    TreeMaker,
    as_written,
    given_encodings,
    normalized,
    progress,
    read_sentence,
    read_sentences,
    those_found,
    under_trees,
    unknown_words,
    warn_of_unknown,
)
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.branching import BRANCHINGS, with_branching
from spinn_tensor.data_prep.columns import (
    NO_LABEL,
    Corpus,
    SentenceColumns,
    put_transitions,
    sentence_columns,
)
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.limits import Limits, LongSentence
from spinn_tensor.data_prep.penn import DEFAULT_BINARIZE
from spinn_tensor.data_prep.text import SentenceReader, Words
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import Tree

BATCH = 256  # sentences or pairs at most


class TextModel(ABC):
    """Join a model with what reads text for it. It keeps no state between calls, so threads may share it.

    Results keep the order of the sentences; what comes out for one does not depend on the others. (But for random
    trees, which are drawn for all of a call.)

    All methods take `on_error`, which says what becomes of a sentence that cannot be used: "raise" a DataError naming
    it; "nan" a row of NaN, or None, in its place; "skip" no result. The last two issue a DataWarning with the numbers.
    """

    trees_from = "a parser beside it (spinn export --parser packaged) makes them, or trees = left, right"

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
        notation: str = "auto",  # one of NOTATIONS: what strings are
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
        self.task, self.kind, self.composes_by = task, kind, trees
        self.tokenizer, self._tree_maker = tokenizer, tree_maker
        self._parses_all = tree_maker is not None and tree_maker.of_all
        self._reader = SentenceReader(tokenizer.tokenize, binarize, notation)
        limits = (max_length, 0 if tree_maker is None else tree_maker.max_length)
        self.max_length = min(filter(None, limits), default=0)

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """Return the names of the classes; () for a model that only parses."""

    @abstractmethod
    def _logits(self, corpus: Corpus, batch_size: int, advance: Advance) -> np.ndarray:  # (n, C)
        """Return the logits of n sentences or pairs."""

    @abstractmethod
    def _encodings(
        self, sentences: SentenceColumns, batch_size: int | None, advance: Advance
    ) -> np.ndarray:  # (n, D) float32
        """Return one vector a sentence."""

    @abstractmethod
    def _own_parses(
        self, sentences: SentenceColumns, batch_size: int, advance: Advance
    ) -> tuple[np.ndarray, np.ndarray | None]:  # (M,) int8, sentence after sentence, and (M,) float64
        """Return the transitions that a model chooses which parses, and their log-probabilities, if it tells them.

        The trees of the sentences are not looked at.
        """

    def _own_beams(
        self, sentences: SentenceColumns, k: int, batch_size: int, advance: Advance
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # (k, M) int8 and float64, (k, n) float64
        """Return the k best of these, and the log-probabilities of their trees, -inf where there is none."""
        raise ConfigError("k: an exported model finds its best tree alone; spinn_tensor.Pipeline finds more")

    def _tensor(self, encodings: np.ndarray) -> Any:
        """Return a torch tensor of encodings."""
        import torch

        return torch.from_numpy(encodings)

    def classify(
        self,
        premises: Any,  # n sentences, or one; they need not be premises
        hypotheses: Any = None,  # the same, for a model of pairs
        *,
        batch_size: int = BATCH,
        show_progress_bar: bool = False,
        on_error: str = "raise",
    ) -> Any:
        """Return labels and probabilities: a `Prediction` for each sentence or pair.

        Args:
            premises: sentences, or one of them.
            hypotheses: as many, for a model of pairs.
            batch_size: sentences or pairs of a batch at most.
            show_progress_bar: whether to show how far it is, on stderr.
            on_error: "raise", "nan" (None for a sentence or pair that cannot be used) or "skip" (no result).

        Returns:
            A list of n `Prediction`; of one sentence or pair the `Prediction`.

        Raises:
            DataError: naming the number of a sentence, counted from 0, that is empty, no text, a broken parse or
                longer than the model or `max_words` takes.
            TypeError: where the model is not one of pairs, or of sentences.
            ConfigError: for another `on_error` and a `batch_size` below 1.

        >>> pipeline = Pipeline.from_pretrained(folder / "pairs")
        >>> [prediction.label in pipeline.labels for prediction in pipeline.classify(["A dog barks."], ["cats sing"])]
        [True]
        """
        if self.task == "parse":
            raise TypeError("a model that only parses has no labels")
        if (self.task == "pair") != (hypotheses is not None):
            expected = "premises and hypotheses" if self.task == "pair" else "sentences alone"
            raise TypeError(f"a model of task {self.task!r} classifies {expected}")
        sides = {"sentences": premises}
        if hypotheses is not None:
            sides = {"premises": premises, "hypotheses": hypotheses}
        read, sentences = self._read(on_error, batch_size, **sides)
        labels = np.full(len(read.rows), NO_LABEL, dtype=np.int64)
        with progress(show_progress_bar, "classified", len(labels)) as advance:
            corpus = Corpus(sentences, labels, len(sides))
            logits = self._logits(corpus, batch_size, advance)
        if len(rows := np.flatnonzero(~np.isfinite(logits).all(axis=1))):
            raise DataError("the model's logits are not numbers", example=read.rows[rows[0]])
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        unknown = unknown_words(read.trees, sentences)
        predictions = [
            Prediction(
                self.labels[best],
                dict(zip(self.labels, row, strict=True)),
                tuple(dict.fromkeys(word for words in unknown[number :: len(labels)] for word in words)),
                tuple(logits[number].tolist()),
            )
            for number, (best, row) in enumerate(
                zip(probabilities.argmax(1).tolist(), probabilities.tolist(), strict=True)
            )
        ]
        return read.results(predictions, on_error)

    def encode(
        self,
        sentences: Any,  # n, or one
        *,
        batch_size: int | None = None,
        normalize_embeddings: bool = False,
        convert_to_tensor: bool = False,
        show_progress_bar: bool = False,
        on_error: str = "raise",
    ) -> Any:  # (n, D) float32, or (D,) of one sentence
        """Return one vector a sentence.

        Args:
            sentences: sentences, or one of them.
            batch_size: sentences of a batch at most; None: as many as suit the model.
            normalize_embeddings: whether to scale each vector to length 1, so that products of them are cosines.
            convert_to_tensor: whether to return a torch tensor, of a `Pipeline` on its device.
            show_progress_bar: whether to show how far it is, on stderr.
            on_error: "raise", "nan" (a row of NaN for a sentence that cannot be used) or "skip" (no row).

        Returns:
            An array (n, D) float32, D being H, or 2H of a "bilstm"; of one sentence (D,).

        Raises:
            DataError: as `classify`.
            ConfigError: for another `on_error` and a `batch_size` below 1.

        >>> pipeline = Pipeline.from_pretrained(folder / "sentences")
        >>> pipeline.encode("cats sing").shape, pipeline.encode(["cats sing", ["the", "dog"]], on_error="nan").shape
        ((8,), (2, 8))
        """
        read, columns = self._read(on_error, batch_size, sentences=sentences)
        with progress(show_progress_bar, "encoded", len(read.rows)) as advance:
            encodings = self._encodings(columns, batch_size, advance)
        if normalize_embeddings:
            encodings = normalized(encodings)
        encodings = read.results(encodings, on_error)
        return self._tensor(encodings) if convert_to_tensor else encodings

    def similarity(self, a: Any, b: Any) -> np.ndarray:  # (n, m) float32, without the axis of what is one
        """Return the cosines of the angles between encodings: 1 for sentences that are encoded alike.

        Args:
            a: n sentences, or one of them; or what `encode` gave for them, (n, D) or (D,).
            b: m likewise.

        Returns:
            An array (n, m) float32; an axis is missing where there is one sentence: two sentences give a number.

        Raises:
            DataError: as `classify`.

        >>> Pipeline.from_pretrained(folder / "sentences").similarity("cats sing", ["the dog", "A dog", "cats"]).shape
        (3,)
        """
        given = (self.encode(one) if (found := given_encodings(one)) is None else found for one in (a, b))
        first, second = map(normalized, given)
        return first @ second.T

    def parse(
        self,
        sentences: Any,  # n, or one
        *,
        format: str = "binary",
        k: int | None = None,
        batch_size: int = BATCH,
        show_progress_bar: bool = False,
        on_error: str = "raise",
    ) -> Any:
        """Return the trees that the model composes the sentences by.

        Args:
            sentences: sentences, or one of them.
            format: "binary", a binary parse, "( ( A dog ) barks )"; "penn", as the Penn Treebank writes trees; or
                "nltk", trees of nltk. The last two give a Penn tree that is composed by as it came, labels and all;
                under other trees its words keep their tags.
            k: for the k likeliest trees, by a beam of that width: of each sentence a list of `ScoredTree`, best first.
            batch_size, show_progress_bar, on_error: as in `classify`.

        Returns:
            A list of n trees; of one sentence the tree.

        Raises:
            DataError: as `classify`.
            TypeError: for a model that looks at no tree, and with `k` for one that does not parse.
            ConfigError: for another `format` or `on_error`, a `batch_size` or `k` below 1, and `k` for an export.
            ImportError: for "nltk" where it is not installed.

        >>> Pipeline.from_pretrained().parse("The dog barks.", format="penn")
        '(ROOT (X (X (X The) (X dog)) (X (X barks) (X .))))'
        """
        if format not in FORMATS:
            raise ConfigError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
        read, columns = self._read(on_error, batch_size, sentences=sentences)
        parsed = self._parsed(read, columns, k, batch_size, show_progress_bar)
        return read.results([as_written(one, format) for one in parsed], on_error)

    def parses(
        self,
        sentences: Any,  # n, or one
        *,
        k: int | None = None,
        batch_size: int = BATCH,
        show_progress_bar: bool = False,
        on_error: str = "raise",
    ) -> Any:
        """Return what `parse` does as `Parsed`: trees, and how probable a model finds them that parses."""
        read, columns = self._read(on_error, batch_size, sentences=sentences)
        parsed = self._parsed(read, columns, k, batch_size, show_progress_bar)
        return read.results(parsed, on_error)

    def _parsed(
        self, read: Sentences, columns: SentenceColumns, k: int | None, batch_size: int, show: bool
    ) -> list[Parsed] | list[list[Parsed]]:
        """Return the sentences under the trees that the model composes them by. Raises TypeError where it does not."""
        if self.composes_by == "none":
            raise TypeError(f"a model of kind {self.kind!r} looks at no tree")
        if k is not None and self.composes_by == "given":
            raise TypeError(f"k={k}: a model of kind {self.kind!r} does not parse")
        _check_number("k", k)
        as_given = self.composes_by == "given" and self.branching is None and not self._parses_all
        under = partial(under_trees, read.trees, columns, as_given)
        if self.composes_by == "given":
            return under(columns.transitions, None)
        with progress(show, "parsed", len(read.rows)) as advance:
            if k is None:
                return under(*self._own_parses(columns, batch_size, advance))
            *found, sums = self._own_beams(columns, k, batch_size, advance)
        return those_found(map(under, *found), sums)

    def __repr__(self) -> str:
        trees = {"own": "its own", "none": "none"}.get(self.composes_by) or self.branching
        trees = trees or ("given" if self._tree_maker is None else "given or a parser's")
        labels = f", labels {', '.join(self.labels)}" if self.labels else ""
        words = len(self.tokenizer.vocabulary)
        return f"{type(self).__name__}({self.kind}, {self.task}{labels}, {words:,} words, trees: {trees})"

    def _read(
        self,
        on_error: str,
        batch_size: int | None,  # which is checked alone
        **sides: Any,  # sentences by the name of the argument
    ) -> tuple[Sentences, SentenceColumns]:
        """Return the sentences, and their columns under the trees that a model composes by which does not parse.

        Raises DataError naming one that the model cannot take; issues a DataWarning where many words are unknown.
        """
        _check_number("batch_size", batch_size)
        read = read_sentences(sides, self.read, on_error)
        columns = sentence_columns(read.trees, self.tokenizer.vocabulary)
        warn_of_unknown(read.trees, columns)
        if self.branching is not None:
            return read, with_branching(columns, self.branching)
        rows = np.flatnonzero(np.array(read.has_no_parse, dtype=bool) | self._parses_all)
        if self._tree_maker is None or not len(rows):
            return read, columns
        words = sentence_columns((read.trees[row] for row in rows), self._tree_maker.vocabulary)
        return read, put_transitions(columns, rows, self._tree_maker.parse(words))

    def read(
        self,
        sentence: Any,
        name: str = "sentence",  # what an error calls it
        truncate: bool = False,  # whether of text that is too long the beginning is taken
    ) -> Tree | Words:
        """Return a sentence's tree, or its words, which all methods take in its place.

        Raises DataError for one that the model cannot take.
        """
        try:
            found = read_sentence(sentence, self._reader)
            if truncate and isinstance(found, Words):
                found = Words(found.tokens[: min(self.max_words, self.max_length or self.max_words)])
            Limits(max_words=self.max_words).check_words(found.tokens)
            n_words = len(found.tokens)
            if self.max_length and n_words > self.max_length:
                raise DataError(f"{n_words} tokens; this model was exported for at most {self.max_length}")
            needs_parse = self.composes_by == "given" and self.branching is None and self._tree_maker is None
            if needs_parse and isinstance(found, Words) and n_words > 1:  # one word has one tree
                what = "text without a parse; this model composes by given trees"
                raise DataError(f"{what}: {self.trees_from}, balanced or random")
        except LongSentence as error:
            raise LongSentence(
                f"{error.reason}; max_words= allows more", field=name, token=error.token
            ) from None
        except DataError as error:
            raise error.at(field=name) from None
        return found


def _check_number(name: str, value: Any) -> None:
    if value is not None and (not isinstance(value, Integral) or isinstance(value, bool) or value < 1):
        raise ConfigError(f"{name}: expected an integer of at least 1, got {value!r}")
