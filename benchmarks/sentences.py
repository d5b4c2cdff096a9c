"""The trees that are measured: real sentences where they are at hand, and the batches made of them."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.trees import REDUCE, SHIFT

SNLI_SLICE = Path(__file__).resolve().parents[2] / "shared" / "data" / "snli" / "snli_1.0_dev_slice.jsonl.gz"
ZIP_MEMBER = "snli_1.0/snli_1.0_dev.jsonl"  # of the official archive
RANDOM_LENGTHS = (1, 40)  # tokens of the random trees

if TYPE_CHECKING:
    from spinn_tensor.data_prep.pairs import PairExample, PairFormat


class Sentences(NamedTuple):
    """Trees without their words, which no encoder's speed depends on."""

    source: str  # where they are from, for the report
    transitions: list[np.ndarray]  # (2N - 1,) int8 each


class Setting(NamedTuple):
    """One way of making batches, and the batches that are measured."""

    batching: str  # "sorted" or "shuffled"
    batch_size: int
    batches: list[list[np.ndarray]]  # of transitions


def add_snli(
    parser: argparse.ArgumentParser,
    *names: str,  # of the option, besides --snli
    otherwise: str,  # what "auto" is where there is no slice
    others: str = "",  # what else may be named
) -> None:
    """--snli, which is for `load_sentences`, `snli_pairs`, `snli_file` and `is_usual`."""
    parser.add_argument(
        "--snli",
        *names,
        dest="snli",
        default="auto",
        metavar="FILE",
        help=f"SNLI's snli_1.0_dev.jsonl, plain or .gz, or snli_1.0.zip, whose dev file is read{others} (default: "
        f"auto = the slice of it that the committed results are of, if it is there, else {otherwise})",
    )


def is_usual(source: str) -> bool:
    """Whether it is what the committed results are of."""
    return source == "auto" and SNLI_SLICE.exists()


def snli_pairs(source: str, line_format: PairFormat | None = None) -> Iterator[PairExample]:
    """Pairs of an SNLI file; "auto": of the slice. Raises DataError where it is not there."""
    from spinn_tensor.data_prep.pairs import read_pairs

    path, member = snli_file(source)
    return read_pairs(path, line_format, member=member)


def snli_file(source: str) -> tuple[Path, str | None]:
    """An SNLI file, "auto" being the slice, and where it is an archive the file in it. Raises DataError."""
    path = SNLI_SLICE if source == "auto" else Path(source)
    if not path.exists():
        raise DataError("no such file; name SNLI's dev file by --snli FILE", path=path)
    return path, ZIP_MEMBER if path.suffix == ".zip" else None


def load_sentences(source: str) -> Sentences:
    """Sentences of an SNLI file; "auto": SNLI's dev slice if it is there, else the generated logic corpus;
    "random": random trees. Raises DataError for a file that is not there or cannot be read."""
    if source == "random":
        rng = np.random.default_rng(0)
        lengths = rng.integers(RANDOM_LENGTHS[0], RANDOM_LENGTHS[1] + 1, size=1024)
        return Sentences("random trees", [random_transitions(int(n), rng) for n in lengths])
    if source != "auto" or is_usual(source):
        path, _ = snli_file(source)
        return Sentences(f"SNLI ({path.name})", list(_read(source)))
    return Sentences("generated logic corpus", list(_generate()))


def no_longer_than(sentences: Sentences, max_tokens: int) -> Sentences:
    """The sentences of at most so many tokens."""
    few = [codes for codes in sentences.transitions if len(codes) < 2 * max_tokens]
    return Sentences(f"{sentences.source}, at most {max_tokens} tokens", few)


def random_transitions(n_tokens: int, rng: np.random.Generator) -> np.ndarray:  # (2N - 1,) int8
    """A random tree: wherever both transitions are possible, a fair coin chooses."""
    transitions = np.empty(2 * n_tokens - 1, dtype=np.int8)
    depth, n_shifted = 0, 0
    for step, coin in enumerate(rng.random(2 * n_tokens - 1) < 0.5):
        reduces = depth >= 2 and (n_shifted == n_tokens or bool(coin))
        transitions[step] = REDUCE if reduces else SHIFT
        n_shifted += not reduces
        depth += -1 if reduces else 1
    return transitions


def settings(
    sentences: Sentences,
    batch_sizes: Sequence[int],
    shuffled_size: int,
    n_sentences: int,  # of each setting, at the most (at least one batch)
    max_batches: int,
) -> list[Setting]:
    """Batches of each size from the sentences sorted by length, then batches of `shuffled_size` in random
    order.

    Of a long list of batches every so-manieth is measured, so that short and long sentences are both in it.
    """
    transitions = sentences.transitions
    by_length = sorted(transitions, key=len, reverse=True)
    shuffled = [transitions[i] for i in np.random.default_rng(0).permutation(len(transitions))]
    made = [("sorted", size, by_length) for size in batch_sizes] + [("shuffled", shuffled_size, shuffled)]
    return [
        Setting(batching, size, _spread(_cut(order, size), min(max_batches, max(1, n_sentences // size))))
        for batching, size, order in made
        if size <= len(order)
    ]


def _cut(order: list[np.ndarray], size: int) -> list[list[np.ndarray]]:
    """Whole batches only: the rates of two batch sizes are then comparable."""
    return [order[start : start + size] for start in range(0, len(order) - size + 1, size)]


def _spread(batches: list[list[np.ndarray]], count: int) -> list[list[np.ndarray]]:
    """`count` of the batches, from the middles of equal parts of the list."""
    count = min(count, len(batches))
    return [batches[int((part + 0.5) * len(batches) / count)] for part in range(count)]


def _read(source: str) -> Iterator[np.ndarray]:
    from spinn_tensor.data_prep.pairs import PairFormat

    for pair in snli_pairs(source, PairFormat(require_label=False)):
        yield pair.premise.transitions
        yield pair.hypothesis.transitions


def _generate() -> Iterator[np.ndarray]:
    from spinn_tensor.data_prep.logic import LogicConfig, write_corpus

    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder), LogicConfig())
        yield from _read(f"{folder}/dev.jsonl")
