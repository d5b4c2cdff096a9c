"""Load what is measured on: real sentences and pairs where they are at hand, and batches of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from spinn_tensor.data_prep import Example, PairFormat, corpus_of, read_line_examples
from spinn_tensor.data_prep.branching import branching_transitions
from spinn_tensor.data_prep.columns import Corpus, SentenceColumns, select
from spinn_tensor.data_prep.corpora.generated import LogicConfig, write_generated
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.trees import Tree
from spinn_tensor.data_prep.vocabulary import Vocabulary

SNLI_SLICE = Path(__file__).resolve().parents[2] / "shared" / "data" / "snli" / "snli_1.0_dev_slice.jsonl.gz"
TRAINING_PAIRS = ("pairs_train_18k.jsonl.gz", "pairs_train_extra_2k.jsonl.gz")  # raw text, beside it
ZIP_MEMBER = "snli_1.0/snli_1.0_dev.jsonl"  # of the official archive
RANDOM_LENGTHS = (1, 40)  # tokens of the random trees
N_CLASSES = 3

Item = TypeVar("Item")


class Pairs(NamedTuple):
    """Hold a corpus of pairs and what it is."""

    source: str
    columns: Corpus
    vocabulary_size: int


class Setting(NamedTuple):
    """Hold one way of making batches, and the batches that are measured."""

    batching: str  # "sorted" or "shuffled"
    batch_size: int
    batches: list[list[Any]]  # of what was given: transitions, or transitions and words


def is_usual(source: str) -> bool:
    """Return whether this is what the committed results are of: the slice, which is there."""
    return source == "auto" and SNLI_SLICE.exists()


def snli_file(source: str) -> tuple[Path, str | None]:
    """Return the path of an SNLI file, "auto" being the slice, and the file in it if it is an archive.

    Raises DataError where it is not there.
    """
    path = SNLI_SLICE if source == "auto" else Path(source)
    if not path.exists():
        raise DataError("no such file; name SNLI's dev file by --snli FILE", path=path)
    return path, ZIP_MEMBER if path.suffix == ".zip" else None


@contextmanager
def pairs_file(source: str) -> Iterator[tuple[str, str]]:
    """Give the name of a source of pairs and a file of them: of "auto" the slice if it is there, else, or of "logic",
    the dev set of the generated logic corpus, which goes afterwards.

    Raises DataError where it is not there.
    """
    if is_usual(source) or source not in ("auto", "logic"):
        yield f"SNLI ({snli_file(source)[0].name})", source
        return
    with tempfile.TemporaryDirectory() as folder:
        write_generated("logic", Path(folder), LogicConfig())
        yield "generated logic corpus", f"{folder}/dev.jsonl"


def snli_pairs(source: str, line_format: PairFormat | None = None) -> Iterator[Example]:
    """Read the pairs of an SNLI file, "auto" being the slice. Raises DataError where it is not there."""
    path, member = snli_file(source)
    return read_line_examples(path, line_format or PairFormat(), member=member)


def load_trees(source: str) -> tuple[str, list[Tree]]:
    """Load the sentences of `pairs_file`, labelled or not, after its name.

    Raises DataError for a file that is not there or cannot be read.
    """
    with pairs_file(source) as (name, path):
        pairs = snli_pairs(path, PairFormat(require_label=False))
        return name, [tree for pair in pairs for tree in pair.trees]


def load_sentences(source: str) -> tuple[str, list[np.ndarray]]:  # (2N - 1,) int8 each
    """Load the transitions of `load_trees`, or of "random" random ones, after their name."""
    if source == "random":
        lengths = np.random.default_rng(0).integers(RANDOM_LENGTHS[0], RANDOM_LENGTHS[1] + 1, size=1024)
        return "random trees", random_trees(lengths)
    name, trees = load_trees(source)
    return name, [tree.transitions for tree in trees]


def load_pairs(source: str = "auto") -> Pairs:
    """Load the labelled pairs of `pairs_file`. Raises DataError for a file that is not there or cannot be read."""
    with pairs_file(source) as (name, path):
        pairs = list(snli_pairs(path))
    vocabulary = Vocabulary.build(tree.tokens for pair in pairs for tree in pair.trees)
    return Pairs(name, corpus_of(pairs, vocabulary), len(vocabulary))


def repeated(columns: Corpus, n_pairs: int) -> Corpus:
    """Take as many pairs with the same distribution of lengths: all of them so often, and the rest drawn."""
    n = len(columns.labels)
    rest = np.random.default_rng(0).permutation(n)[: n_pairs % n]
    return select(columns, np.concatenate((np.tile(np.arange(n), n_pairs // n), rest)))


def random_trees(lengths: np.ndarray, seed: int = 0) -> list[np.ndarray]:  # (2N - 1,) int8 each
    """Draw a tree over each number of tokens, uniformly among all."""
    ends = np.cumsum(2 * lengths - 1)
    return np.split(branching_transitions(lengths, "random", seed), ends[:-1])


def random_corpus(
    transitions: Sequence[np.ndarray],  # of the sentences of all examples, side after side
    n_words: int,  # of the vocabulary, the first two of which are no words
    n_sides: int,  # sentences of an example
) -> Corpus:
    """Draw the words of sentences with these trees, and the labels."""
    rng, lengths = np.random.default_rng(0), n_tokens_of(transitions)
    ids = rng.integers(2, n_words, lengths.sum()).astype(np.int32)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    sentences = SentenceColumns(ids, offsets, np.concatenate(transitions), None)
    return Corpus(sentences, rng.integers(0, N_CLASSES, len(lengths) // n_sides), n_sides)


def n_tokens_of(transitions: Iterable[np.ndarray]) -> np.ndarray:  # (B,) int64
    """Count the tokens of each tree."""
    return np.array([(len(codes) + 1) // 2 for codes in transitions], dtype=np.int64)


def settings(
    sentences: Iterable[Item],
    n_transitions: Callable[[Item], int],
    batch_sizes: Sequence[int],
    shuffled_size: int,
    n_sentences: int,  # of each setting, at the most (at least one batch)
    max_batches: int = 12,
) -> list[Setting]:
    """Cut batches of each size from the sentences sorted by length, then batches of `shuffled_size` in random order.

    Batches are whole, so that the rates of two sizes are comparable. Of a long list of batches every so-manieth is
    measured, from the middles of equal parts of the list, so that short and long sentences are both in it.
    """
    by_length = sorted(sentences, key=n_transitions, reverse=True)
    shuffled = [by_length[row] for row in np.random.default_rng(0).permutation(len(by_length))]
    orders = [("sorted", size, by_length) for size in batch_sizes] + [("shuffled", shuffled_size, shuffled)]
    made = []
    for batching, size, order in orders:
        cut = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
        count = min(len(cut), max_batches, max(1, n_sentences // size))
        if cut:
            middles = [cut[int((part + 0.5) * len(cut) / count)] for part in range(count)]
            made.append(Setting(batching, size, middles))
    return made
