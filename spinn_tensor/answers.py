"""What a model says of sentences: predictions, trees and encodings, as a program gets them. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from spinn_tensor.data_prep.columns import SentenceColumns, node_offsets
from spinn_tensor.data_prep.given import nltk_tree
from spinn_tensor.data_prep.penn import PennTree, format_penn
from spinn_tensor.data_prep.trees import Tree, format_binary

FORMATS: dict[str, Callable[[Tree], Any]] = {  # of trees
    "binary": format_binary,
    "penn": lambda tree: format_penn(tree.penn or PennTree.of_binary(tree)),
    "nltk": lambda tree: nltk_tree(tree.penn or PennTree.of_binary(tree)),
}

Advance = Callable[[int], object]  # told of the sentences or pairs just done


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


def given_encodings(given: Any) -> np.ndarray | None:
    """Return the array of a tensor, wherever and in whatever precision it is, or of an array; None of sentences."""
    if "float" not in str(getattr(given, "dtype", "")) or not hasattr(given, "ndim"):
        return None
    array = given.detach().float().cpu() if hasattr(given, "detach") else given
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
