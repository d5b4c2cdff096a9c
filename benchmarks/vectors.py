"""Reading word vectors: 400,000 x 300, of which a vocabulary of 40,000 words is wanted, in each form of file.

    python -m benchmarks.vectors            some minutes, and 3 GB in the folder for temporary files
    python -m benchmarks.vectors --quick    seconds, numbers without meaning

The file is made: numbers of GloVe's size and sign with 5 digits, and words of which the vocabulary has 36,000 as spelt
and 2,000 in lower case only; it lacks 2,000. Compared with what one writes first: the text is split line by line
(`line.split`), and every vector made (`np.array`).

Each reader runs in a process of its own, which measures the seconds from the path to the matrix, without the start of
Python, and its own peak memory, all of it. The readers take turns, and the files have just been written: they come from
the page cache, not from the disk. All matrices must be the same, or but for the words in lower case that of the plain
reader, which does not look for these.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Option
from spinn_tensor.data_prep.vectors import read_vectors
from spinn_tensor.data_prep.vectors.read import write_tensor_file
from spinn_tensor.data_prep.vocabulary import Vocabulary

PLAIN = "line.split and np.array of every line"
TEXT, GZIP, BINARY, TENSORS = "GloVe text", "GloVe text, .gz", "word2vec binary", "safetensors"
FILES = {
    PLAIN: "vectors.txt",
    TEXT: "vectors.txt",
    GZIP: "vectors.txt.gz",
    BINARY: "vectors.bin",
    TENSORS: "vectors.safetensors",
}
VOCABULARY = "vocabulary.txt"  # a token a line
EXACT_SHARE, LOWER_SHARE = 0.9, 0.05  # of the vocabulary; the file lacks the rest
LIMIT_SECONDS, LIMIT_MB = 30, 600  # what the text must be read in
N_DIGITS = 5
BLOCK_WORDS = 10_000
OPTIONS = {
    "words": Option(400_000, 2000, "in the file"),
    "dim": Option(300, 8),
    "vocabulary": Option(40_000, 200, "words wanted"),
    "repeats": Option(3, 1, "rounds"),
    "gzip": Option(False, False, "the packed text too, which takes a minute to make"),
}
COLUMNS = {
    "reader": "{reader}",
    "file, MB": "{file_mb:,.0f}",
    "seconds, median": "{seconds:.2f}",
    "longest": "{longest_seconds:.2f}",
    "peak memory, MB": "{peak_mb:,.0f}",
    "times the first": "{times_baseline:.1f}×",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = _parse(arguments)
    names = [name for name in FILES if name != GZIP or options.gzip]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        sizes = make_files(Path(folder), options)

        def reader(name: str) -> Callable[[], float]:
            def run() -> float:
                runs[name].append(harness.in_a_process(read, name, Path(folder), options.dim))
                return float(runs[name][-1]["seconds"])

            return run

        harness.interleaved([{name: reader(name) for name in names}], range(options.repeats))
    _check(runs)
    coverage = runs[TEXT][0]["coverage"]
    rows = {name: _figures(name, runs[name], runs[PLAIN], sizes[FILES[name]]) for name in names}
    is_good = rows[TEXT]["longest_seconds"] <= LIMIT_SECONDS and rows[TEXT]["peak_mb"] <= LIMIT_MB
    notes = [
        f"{options.words:,} words x {options.dim} numbers, read for a vocabulary of {options.vocabulary:,} words; "
        f"{options.repeats} rounds, one process at a time, files in the page cache",
        coverage,
        f"GloVe text within {LIMIT_SECONDS} s and {LIMIT_MB} MB: {'yes' if is_good else 'NO'}",
    ]
    result = {"coverage": coverage, "readers": rows}
    harness.publish(options, result, notes, [harness.Table(COLUMNS, rows.values())])


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    return harness.parse("vectors", __doc__, arguments, OPTIONS, fixed=("words", "dim", "vocabulary"))


def make_files(folder: Path, options: argparse.Namespace) -> dict[str, int]:
    """Write the vocabulary and every form of the same vectors; return the bytes of each."""
    words, vocabulary = make_words(options.words, options.vocabulary)
    (folder / VOCABULARY).write_text("\n".join(vocabulary.tokens), encoding="utf-8")
    text, binary = folder / FILES[TEXT], folder / FILES[BINARY]
    matrix = np.empty((options.words, options.dim), dtype=np.float32)
    with text.open("wb") as text_file, binary.open("wb") as binary_file:
        binary_file.write(f"{options.words} {options.dim}\n".encode())
        for start, texts, vectors in _blocks(options.words, options.dim):
            matrix[start : start + len(vectors)] = vectors
            for word, line, vector in zip(words[start:], texts, vectors, strict=False):
                text_file.write(word.encode() + line.tobytes() + b"\n")
                binary_file.write(word.encode() + b" " + vector.tobytes())
    write_tensor_file(folder / FILES[TENSORS], words, matrix)
    if options.gzip:
        with text.open("rb") as source, gzip.open(folder / FILES[GZIP], "wb", compresslevel=6) as packed:
            shutil.copyfileobj(source, packed, 1 << 20)
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def make_words(n_words: int, n_tokens: int) -> tuple[list[str], Vocabulary]:
    """Make the words of a file, and the vocabulary that it is read for, whose words are spread over it."""
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(n_words)]
    n_exact, n_lower = int(EXACT_SHARE * n_tokens), int(LOWER_SHARE * n_tokens)
    chosen = rng.choice(n_words, n_exact + n_lower, replace=False).tolist()
    exact = [words[i] for i in chosen[:n_exact]]
    lower = [words[i].capitalize() for i in chosen[n_exact:]]
    missing = [f"missing{i}" for i in range(n_tokens - n_exact - n_lower)]
    return words, Vocabulary.build([exact, lower, missing])


def _blocks(n_words: int, dim: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Give the first row, texts (n, D x 9) uint8 and the same numbers (n, D) float32 of so many words at a time.

    A number is one of a table, " 0.12345" or "-0.1234", all equally long, so that the text is an indexing.
    """
    rng = np.random.default_rng(1)
    top = 10 ** (N_DIGITS - 1)
    numbers = [f" {sign}0.{i:0{N_DIGITS - bool(sign)}d}" for sign in ("", "-") for i in range(top)]
    texts = np.array([list(number.encode()) for number in numbers], dtype=np.uint8)
    values = np.array([float(number) for number in numbers], dtype=np.float32)
    for start in range(0, n_words, BLOCK_WORDS):
        n = min(BLOCK_WORDS, n_words - start)
        drawn = rng.integers(len(numbers), size=(n, dim))
        yield start, texts[drawn].reshape(n, -1), values[drawn]


def read(name: str, folder: Path, dim: int) -> dict[str, Any]:
    """Read one form once, and return what was measured; for a process of its own."""
    vocabulary = Vocabulary(tuple((folder / VOCABULARY).read_text(encoding="utf-8").split("\n")))
    path, coverage = folder / FILES[name], ""
    start = time.perf_counter()
    if name == PLAIN:
        matrix = read_plainly(path, vocabulary, dim)
    else:
        vectors = read_vectors(path, vocabulary, dim)
        matrix, coverage = vectors.matrix, str(vectors)
    seconds = time.perf_counter() - start
    exact = [row for token, row in vocabulary.index.items() if token.startswith("word")]
    return {
        "seconds": seconds,
        "peak_bytes": harness.peak(),
        "coverage": coverage,
        "of_exact": hashlib.sha256(matrix[exact].tobytes()).hexdigest(),
        "of_all": hashlib.sha256(matrix.tobytes()).hexdigest(),
    }


def read_plainly(path: Path, vocabulary: Vocabulary, dim: int) -> np.ndarray:  # (V, D)
    """Read as one does who has no reader: the baseline."""
    matrix = np.zeros((len(vocabulary), dim), dtype=np.float32)
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            word, *numbers = line.split()
            vector = np.array(numbers, dtype=np.float32)
            if (row := vocabulary.index.get(word)) is not None:
                matrix[row] = vector
    return matrix


def _check(runs: dict[str, list[dict[str, Any]]]) -> None:
    """Raise RuntimeError if not all readers read the same."""
    ours = {run["of_all"] for name, rounds in runs.items() if name != PLAIN for run in rounds}
    everyone = {run["of_exact"] for rounds in runs.values() for run in rounds}
    if len(ours) > 1 or len(everyone) > 1:
        raise RuntimeError("the readers do not give the same matrix")


def _figures(
    name: str, runs: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]], n_bytes: int
) -> dict[str, Any]:
    seconds, of_baseline = ([run["seconds"] for run in which] for which in (runs, baseline))
    return {
        "reader": name,
        "file_mb": n_bytes / 1e6,
        "seconds": statistics.median(seconds),
        "longest_seconds": max(seconds),
        "peak_mb": max(run["peak_bytes"] for run in runs) / 1e6,
        "times_baseline": harness.ratio(of_baseline, seconds),
    }


if __name__ == "__main__":
    harness.run(main)
