"""Measure reading word vectors: 400,000 x 300, of which a vocabulary of 40,000 words is wanted, in each form of file.

    python -m benchmarks.vectors            some minutes, and 3 GB in the folder for temporary files
    python -m benchmarks.vectors --quick    seconds, numbers without meaning

The file is made: numbers of GloVe's size and sign with 5 digits, and words of which the vocabulary has 36,000 as spelt
and 2,000 in lower case only; it lacks 2,000. Compared with what one writes first: the text is split line by line
(`line.split`), and every vector made (`np.array`).

Each reader runs in a process of its own, which measures the seconds from the path to the matrix and all of its peak
memory. The readers take turns, and the files have just been written: they come from the page cache, not from the disk.
All matrices must be the same for the words as they are spelt: the plain reader looks for no others.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Option
from spinn_tensor.data_prep.vectors import read_vectors
from spinn_tensor.data_prep.vectors.read import write_tensor_file
from spinn_tensor.data_prep.vocabulary import Vocabulary

PLAIN = "line.split and np.array of every line"
FILES = {
    PLAIN: "vectors.txt",
    "GloVe text": "vectors.txt",
    "word2vec binary": "vectors.bin",
    "safetensors": "vectors.safetensors",
}
EXACT_SHARE, LOWER_SHARE = 0.9, 0.05  # of the vocabulary; the file lacks the rest
N_DIGITS = 5
OPTIONS = {
    "words": Option(400_000, 2000, "in the file"),
    "dim": Option(300, 8),
    "vocabulary": Option(40_000, 200, "words wanted"),
    "repeats": Option(3, 1, "rounds"),
}
_parse = partial(harness.parse, "vectors", __doc__, options=OPTIONS, fixed=("words", "dim", "vocabulary"))
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
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in FILES}
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = make_files(Path(folder), options)
        sizes = {name: (Path(folder) / file).stat().st_size for name, file in FILES.items()}

        def seconds_of(name: str) -> float:
            runs[name].append(harness.in_a_process(read, name, Path(folder), vocabulary, options.dim))
            return float(runs[name][-1]["seconds"])

        readers = {name: partial(seconds_of, name) for name in FILES}
        (seconds,) = harness.interleaved([readers], range(options.repeats))
    if len({run["sha256"] for rounds in runs.values() for run in rounds}) > 1:
        raise RuntimeError("the readers do not give the same matrix")
    rows = [
        {
            "reader": name,
            "file_mb": sizes[name] / 1e6,
            "seconds": statistics.median(seconds[name]),
            "longest_seconds": max(seconds[name]),
            "peak_mb": max(run["peak_bytes"] for run in runs[name]) / 1e6,
            "times_baseline": harness.ratio(seconds[PLAIN], seconds[name]),
        }
        for name in FILES
    ]
    notes = [
        f"{options.words:,} words x {options.dim} numbers, read for a vocabulary of {options.vocabulary:,} words; "
        f"{options.repeats} rounds, one process at a time, files in the page cache"
    ]
    harness.publish(options, {"readers": rows}, notes, [harness.Table(COLUMNS, rows)])


def make_files(folder: Path, options: argparse.Namespace) -> Vocabulary:
    """Write every form of the same vectors; return a vocabulary of some of their words, spread over the file.

    A number is one of a table, " 0.12345" or "-0.1234", all equally long, so that the text is an indexing.
    """
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(options.words)]
    n_exact, n_lower = int(EXACT_SHARE * options.vocabulary), int(LOWER_SHARE * options.vocabulary)
    chosen = [words[row] for row in rng.choice(options.words, n_exact + n_lower, replace=False)]
    lower = [word.capitalize() for word in chosen[n_exact:]]
    missing = [f"missing{number}" for number in range(options.vocabulary - n_exact - n_lower)]
    top = 10 ** (N_DIGITS - 1)
    numbers = [f" {sign}0.{i:0{N_DIGITS - bool(sign)}d}" for sign in ("", "-") for i in range(top)]
    texts = np.array([list(number.encode()) for number in numbers], dtype=np.uint8)
    drawn = rng.integers(len(numbers), size=(options.words, options.dim), dtype=np.int32)
    matrix = np.array([float(number) for number in numbers], dtype=np.float32)[drawn]
    with (folder / "vectors.txt").open("wb") as text, (folder / "vectors.bin").open("wb") as binary:
        binary.write(f"{options.words} {options.dim}\n".encode())
        for row, word in enumerate(words):
            text.write(word.encode() + texts[drawn[row]].tobytes() + b"\n")
            binary.write(word.encode() + b" " + matrix[row].tobytes())
    write_tensor_file(folder / "vectors.safetensors", words, matrix)
    return Vocabulary.build([chosen[:n_exact], lower, missing])


def read(name: str, folder: Path, vocabulary: Vocabulary, dim: int) -> dict[str, Any]:
    """Read one form once, and return what was measured; for a process of its own."""
    function = read_plainly if name == PLAIN else read_vectors
    start = time.perf_counter()
    vectors = function(folder / FILES[name], vocabulary, dim)
    seconds = time.perf_counter() - start
    matrix = vectors if isinstance(vectors, np.ndarray) else vectors.matrix
    exact = [row for token, row in vocabulary.index.items() if token.startswith("word")]
    digest = hashlib.sha256(matrix[exact].tobytes()).hexdigest()
    return {"seconds": seconds, "peak_bytes": harness.peak(), "sha256": digest}


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


if __name__ == "__main__":
    harness.run(main)
