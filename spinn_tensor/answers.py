"""The sentences of a call, and what a model says of them: predictions, trees and encodings. No torch.

Of the sentences, given by one argument or by two, `Sentences` has those that can be used, and where their results go.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep import given
from spinn_tensor.data_prep.columns import SentenceColumns, node_offsets
from spinn_tensor.data_prep.errors import DataError, DataWarning
from spinn_tensor.data_prep.penn import PennTree, format_penn, to_binary
from spinn_tensor.data_prep.text import SentenceReader, Words, tree_of
from spinn_tensor.data_prep.trees import Tree, format_binary
from spinn_tensor.data_prep.vocabulary import UNKNOWN_ID, Vocabulary

FORMATS: dict[str, Callable[[Tree], Any]] = {  # of trees
    "binary": format_binary,
    "penn": lambda tree: format_penn(tree.penn or PennTree.of_binary(tree)),
    "nltk": lambda tree: given.nltk_tree(tree.penn or PennTree.of_binary(tree)),
}

Advance = Callable[[int], object]  # told of the sentences or pairs just done
ON_ERROR = ("raise", "nan", "skip")
MANY_UNKNOWN = 0.1  # of a call's words: what is more is warned of


class Prediction(NamedTuple):
    """Hold what a classifier says of a sentence or a pair.

    Args:
        label: the most probable.
        probabilities: of every label, in the order of the model's.
        unknown: words that are not in the model's vocabulary, which are all one to it.
        logits: what the probabilities are the softmax of.

    >>> pipeline = Pipeline.from_pretrained(folder / "sentences")
    >>> pipeline.classify("the dog barks the cats sing the dog barks A zebra barks").unknown
    ('zebra',)
    """

    label: str
    probabilities: dict[str, float]
    unknown: tuple[str, ...] = ()
    logits: tuple[float, ...] = ()


class Parsed(NamedTuple):
    """Hold a sentence under the tree that a model composes it by.

    Args:
        tree: with the sentence's words.
        step_log_probabilities: (2N-1,) float64, of its transitions, each among those possible; None: the model did not
            choose them, or is an export of an earlier version, which does not tell.

    >>> pipeline = Pipeline.from_pretrained(folder / "sentences")
    >>> pipeline.parses(["the dog barks"])[0].tree.tokens
    ('the', 'dog', 'barks')
    """

    tree: Tree
    step_log_probabilities: np.ndarray | None = None

    @property
    def log_probability(self) -> float | None:
        """Return the log-probability of the tree."""
        steps = self.step_log_probabilities
        return None if steps is None else float(steps.sum())


class ScoredTree(NamedTuple):
    """Hold one of several trees of a sentence, in the format asked for, and the log-probability that a model gives it.

    >>> Pipeline.from_pretrained().parse("Dogs bark loudly", k=2)[1].tree
    '( ( Dogs bark ) loudly )'
    """

    tree: Any
    log_probability: float | None


def as_written(
    found: Parsed | list[Parsed],  # of a sentence
    format: str,  # one of FORMATS
) -> Any:
    """Return a sentence's tree in a format, or several with their log-probabilities."""
    write = FORMATS[format]
    if isinstance(found, Parsed):
        return write(found.tree)
    return [ScoredTree(write(one.tree), one.log_probability) for one in found]


def under_trees(
    trees: Sequence[Tree],  # of n sentences
    columns: SentenceColumns,
    as_given: bool,  # whether Penn trees are kept as they came
    transitions: np.ndarray,  # (M,) int8
    steps: np.ndarray | None,  # (M,) float64
) -> list[Parsed]:
    """Put sentences under the trees of these transitions, their words keeping the tags of Penn trees."""
    bounds = node_offsets(columns).tolist()
    parsed = []
    for tree, start, end in zip(trees, bounds, bounds[1:], strict=False):
        made = Tree(tree.tokens, transitions[start:end])
        penn = tree.penn if as_given or tree.penn is None else PennTree.of_binary(made, tree.penn)
        parsed.append(Parsed(made._replace(penn=penn), None if steps is None else steps[start:end]))
    return parsed


def those_found(
    ranked: Iterable[list[Parsed]],  # k rankings of n sentences, the best first
    log_probabilities: np.ndarray,  # (k, n), -inf where there is no other tree
) -> list[list[Parsed]]:
    """Return the trees of each sentence, the best first."""
    sentences = zip(*ranked, strict=True)
    return [
        [one for one, total in zip(trees, totals, strict=True) if total > -np.inf]
        for trees, totals in zip(sentences, log_probabilities.T, strict=True)
    ]


def given_encodings(side: Any) -> np.ndarray | None:
    """Return the array of a tensor, wherever and in whatever precision it is, or of an array; None of sentences."""
    if "float" not in str(getattr(side, "dtype", "")) or not hasattr(side, "ndim"):
        return None
    array = side.detach().float().cpu() if hasattr(side, "detach") else side
    return np.asarray(array, dtype=np.float32)


def normalized(encodings: np.ndarray) -> np.ndarray:  # (..., D)
    """Return the vectors at length 1; one of zeros stays as it is."""
    # in double precision, in which squares of small and of large numbers are neither 0 nor infinite
    squares = np.einsum("...d,...d->...", encodings, encodings, dtype=np.float64)
    norms = np.maximum(np.sqrt(squares), np.finfo(np.float64).tiny)
    return (encodings / norms[..., None]).astype(encodings.dtype)


@contextmanager
def progress(show: bool, what: str, total: int) -> Iterator[Advance]:
    """Show a bar on stderr, and yield what moves it."""
    if not show:
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)


class Sentences(NamedTuple):
    """Hold the sentences of a call that can be used: of n examples, side after side."""

    trees: list[Tree]  # right-branching where there was no parse
    has_no_parse: list[bool]
    rows: list[int]  # (n,) the examples' places in the call
    n_given: int  # examples of the call
    is_one: bool  # whether it is of one sentence or pair, not of a list

    def results(
        self,
        values: Any,  # n, of the examples that could be used: a list, or an array (n, ...)
        on_error: str,
    ) -> Any:
        """Return a result for each example of the call, or the result where it is of one."""
        if self.n_given > len(self.rows) and (on_error == "nan" or self.is_one):
            values = self._placed(values)
        return values[0] if self.is_one else values

    def _placed(self, values: Any) -> Any:
        """Return the values in their places, and NaN or None in those of what could not be used."""
        if isinstance(values, np.ndarray):
            array = np.full((self.n_given, *values.shape[1:]), np.nan, dtype=values.dtype)
            array[self.rows] = values
            return array
        placed: list[Any] = [None] * self.n_given
        for row, value in zip(self.rows, values, strict=True):
            placed[row] = value
        return placed


class TreeMaker(NamedTuple):
    """Make trees for text without a parse, by a parser."""

    vocabulary: Vocabulary
    parse: Callable[[SentenceColumns], np.ndarray]  # transitions (M,) int8, sentence after sentence
    max_length: int = 0  # words of a sentence at most; 0 = any number
    of_all: bool = False  # instead of trees that are given, too: the model was trained with these


def read_sentences(
    sides: Mapping[str, Any],  # sentences, or one, by the name of the argument
    read: Callable[[Any, str], Tree | Words],  # a sentence, by the name of its argument
    on_error: str,  # one of ON_ERROR
) -> Sentences:
    """Return the sentences that can be used.

    Raises DataError naming the first one that cannot be; unless `on_error` is "raise" they are left out, with a
    DataWarning.
    """
    if on_error not in ON_ERROR:
        raise ConfigError(f"on_error: expected one of {', '.join(ON_ERROR)}, got {on_error!r}")
    names, is_one = " and ".join(sides), {given.is_one(side) for side in sides.values()}
    if len(is_one) > 1:
        raise DataError(f"{names}: got one sentence and a list, expected both alike")
    columns = [_sentences_of(side, name) for name, side in sides.items()]
    n_given = len(columns[0])
    if len(columns[-1]) != n_given:
        raise DataError(f"got {n_given} premises and {len(columns[-1])} hypotheses, expected as many")
    rows: list[int] = []
    examples: list[list[Tree | Words]] = []
    errors: list[DataError] = []
    for row, example in enumerate(zip(*columns, strict=True)):
        try:
            examples.append([read(one, name) for one, name in zip(example, sides, strict=True)])
            rows.append(row)
        except DataError as error:
            errors.append(error.at(example=row))
            if on_error == "raise":
                raise errors[0] from None
    if errors:
        what = f"{len(errors):,} of {n_given:,} {names} cannot be used, the first: {errors[0]}"
        warnings.warn(what, DataWarning, stacklevel=4)
    flat = [example[side] for side in range(len(sides)) for example in examples]
    has_no_parse = [isinstance(sentence, Words) for sentence in flat]
    return Sentences(list(map(tree_of, flat)), has_no_parse, rows, n_given, is_one == {True})


def read_sentence(sentence: Any, reader: SentenceReader) -> Tree | Words:
    """Return a sentence's tree, or the words of one without a parse. Raises DataError."""
    if isinstance(sentence, Tree | Words):  # which was read before
        return sentence
    if isinstance(sentence, str):
        read = reader.read(sentence)
        return read if isinstance(read, Words) else tree_of(read)
    if given.is_nltk_tree(sentence):
        return to_binary(given.penn_tree(sentence), reader.binarize)
    if (words := given.words_of(sentence)) is None:
        raise given.not_a_sentence(sentence)
    return Words(words)


def _sentences_of(side: Any, name: str) -> list[Any]:
    try:
        return given.sentences_of(side)
    except DataError as error:
        raise error.at(field=name) from None


def unknown_words(trees: list[Tree], columns: SentenceColumns) -> list[tuple[str, ...]]:
    """Return the words of each sentence that the vocabulary of the columns lacks."""
    unknown: list[tuple[str, ...]] = [()] * len(trees)
    places = np.flatnonzero(columns.token_ids == UNKNOWN_ID)
    sentences = np.searchsorted(columns.token_offsets, places, side="right") - 1
    starts = columns.token_offsets[sentences]
    for sentence, position in zip(sentences.tolist(), (places - starts).tolist(), strict=True):
        unknown[sentence] += (trees[sentence].tokens[position],)
    return unknown


def warn_of_unknown(trees: list[Tree], columns: SentenceColumns) -> None:
    """Issue a DataWarning where more than a tenth of the words are unknown, and more than one, or all are."""
    n_words, n_unknown = len(columns.token_ids), int((columns.token_ids == UNKNOWN_ID).sum())
    if n_unknown <= MANY_UNKNOWN * n_words or (n_unknown == 1 and n_words > 1):
        return
    words = dict.fromkeys(word for words in unknown_words(trees, columns) for word in words)
    first = ", ".join(map(repr, list(words)[:3])) + (", ..." if len(words) > 3 else "")
    what = f"{n_unknown:,} of {n_words:,} words ({n_unknown / n_words:.0%}) are unknown to the model's vocabulary"
    warnings.warn(f"{what}: {first}", DataWarning, stacklevel=4)
