"""Load what is measured on: real sentences and pairs where they are at hand, and batches of them."""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.trees import REDUCE, SHIFT

if TYPE_CHECKING:
    from spinn_tensor.data_prep.columns import Corpus
    from spinn_tensor.data_prep.corpora import Example, PairFormat

SNLI_SLICE = Path(__file__).resolve().parents[2] / "shared" / "data" / "snli" / "snli_1.0_dev_slice.jsonl.gz"
ZIP_MEMBER = "snli_1.0/snli_1.0_dev.jsonl"  # of the official archive
RANDOM_LENGTHS = (1, 40)  # tokens of the random trees
N_CLASSES = 3

Item = TypeVar("Item")


class Sentences(NamedTuple):
    """Hold trees without their words, which no encoder's speed depends on."""

    source: str  # where they are from, for the report
    transitions: list[np.ndarray]  # (2N - 1,) int8 each


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


def add_snli(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """Add the option --snli (or --sentences), which says what is measured on: the functions below take it."""
    parser.add_argument(
        "--snli",
        "--sentences",
        dest="snli",
        default="auto",
        metavar="FILE",
        help="SNLI's snli_1.0_dev.jsonl, plain or .gz, or snli_1.0.zip, whose dev file is read; or 'random' trees "
        "(default: auto = the slice of it that the committed results are of, if it is there, else "
        f"{otherwise})",
    )


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


def snli_pairs(source: str, line_format: PairFormat | None = None) -> Iterator[Example]:
    """Read the pairs of an SNLI file, "auto" being the slice. Raises DataError where it is not there."""
    from spinn_tensor.data_prep.corpora import PairFormat, read_line_examples

    path, member = snli_file(source)
    return read_line_examples(path, line_format or PairFormat(), member=member)


def load_sentences(source: str) -> Sentences:
    """Load the trees of an SNLI file; of "auto", the slice if it is there, else the generated logic corpus; of
    "random", random trees.

    Raises DataError for a file that is not there or cannot be read.
    """
    from spinn_tensor.data_prep.corpora import PairFormat

    if source == "random":
        rng = np.random.default_rng(0)
        lengths = rng.integers(RANDOM_LENGTHS[0], RANDOM_LENGTHS[1] + 1, size=1024)
        return Sentences("random trees", [random_transitions(int(n), rng) for n in lengths])
    with _snli_or_logic(source) as (name, path):
        pairs = list(snli_pairs(path, PairFormat(require_label=False)))
    trees = [tree for pair in pairs for tree in pair.trees]
    return Sentences(name, [tree.transitions for tree in trees])


def load_pairs(source: str = "auto") -> Pairs:
    """Load the pairs of an SNLI file; of "auto", the slice if it is there, else the logic corpus; or of "logic".

    Raises DataError for a file that is not there or cannot be read.
    """
    from spinn_tensor.data_prep.corpora import corpus_of
    from spinn_tensor.data_prep.vocabulary import Vocabulary

    with _snli_or_logic(source) as (name, path):
        pairs = list(snli_pairs(path))
    trees = [tree for pair in pairs for tree in pair.trees]
    vocabulary = Vocabulary.from_counts(Counter(word for tree in trees for word in tree.tokens))
    return Pairs(name, corpus_of(pairs, vocabulary), len(vocabulary))


@contextmanager
def _snli_or_logic(source: str) -> Iterator[tuple[str, str]]:
    """Give the name of a source of pairs and a file of them, which may be generated and then goes afterwards."""
    if is_usual(source) or source not in ("auto", "logic"):
        yield f"SNLI ({snli_file(source)[0].name})", source
        return
    from spinn_tensor.data_prep.corpora.generated import LogicConfig, write_generated

    with tempfile.TemporaryDirectory() as folder:
        write_generated("logic", Path(folder), LogicConfig())
        yield "generated logic corpus", f"{folder}/dev.jsonl"


def repeated(columns: Corpus, n_pairs: int) -> Corpus:
    """Take as many pairs with the same distribution of lengths: all of them so often, and the rest drawn."""
    from spinn_tensor.data_prep.columns import select

    n = len(columns.labels)
    rest = np.random.default_rng(0).permutation(n)[: n_pairs % n]
    return select(columns, np.concatenate((np.tile(np.arange(n), n_pairs // n), rest)))


def random_transitions(n_tokens: int, rng: np.random.Generator) -> np.ndarray:  # (2N - 1,) int8
    """Draw a tree: wherever both transitions are possible, a fair coin chooses."""
    transitions = np.empty(2 * n_tokens - 1, dtype=np.int8)
    depth, n_shifted = 0, 0
    for step, coin in enumerate(rng.random(2 * n_tokens - 1) < 0.5):
        reduces = depth >= 2 and (n_shifted == n_tokens or bool(coin))
        transitions[step] = REDUCE if reduces else SHIFT
        n_shifted += not reduces
        depth += -1 if reduces else 1
    return transitions


def n_tokens_of(transitions: Iterable[np.ndarray]) -> np.ndarray:  # (B,) int64
    """Count the tokens of each tree."""
    return np.array([(len(codes) + 1) // 2 for codes in transitions], dtype=np.int64)


def settings(
    by_length: Sequence[Item],  # sentences, longest first
    batch_sizes: Sequence[int],
    shuffled_size: int,
    n_sentences: int,  # of each setting, at the most (at least one batch)
    max_batches: int = 12,
) -> list[Setting]:
    """Cut batches of each size from the sentences sorted by length, then batches of `shuffled_size` in random order.

    Batches are whole, so that the rates of two sizes are comparable. Of a long list of batches every so-manieth is
    measured, from the middles of equal parts of the list, so that short and long sentences are both in it.
    """
    shuffled = [by_length[row] for row in np.random.default_rng(0).permutation(len(by_length))]
    orders = [("sorted", size, list(by_length)) for size in batch_sizes] + [
        ("shuffled", shuffled_size, shuffled)
    ]
    made = []
    for batching, size, order in orders:
        cut = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
        count = min(len(cut), max_batches, max(1, n_sentences // size))
        if cut:
            middles = [cut[int((part + 0.5) * len(cut) / count)] for part in range(count)]
            made.append(Setting(batching, size, middles))
    return made
