"""Reading word vectors: 400,000 x 300, of which a vocabulary of 40,000 words is wanted, in each form of file.

    python -m benchmarks.vectors            some minutes, and 3 GB in the folder for temporary files
    python -m benchmarks.vectors --quick    seconds, numbers without meaning

The file is made: numbers of GloVe's size and sign with 5 digits, and words of which the vocabulary has 36,000 as spelt
and 2,000 in lower case only; it lacks 2,000. Compared with

    line.split and np.array of every line       what one writes first: the text is split, every vector made
    numbers of wanted words only                the reader before this one: every line decoded and split

Each reader runs in a process of its own, which measures the seconds from the path to the matrix, without the start of
Python, and its own peak memory, all of it. The readers take turns, and the files have just been written: they come from
the page cache, not from the disk. All matrices must be the same, or but for the words in lower case those of the plain
readers, which do not look for these.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import PROJECT, peak
from spinn_tensor.data_prep.vectors import read_vectors
from spinn_tensor.data_prep.vectors.tensor_file import write_tensor_file
from spinn_tensor.data_prep.vocabulary import Vocabulary

PLAIN, WANTED_ONLY = "line.split and np.array of every line", "numbers of wanted words only"
TEXT, GZIP, BINARY, TENSORS = "GloVe text", "GloVe text, .gz", "word2vec binary", "safetensors"
FILES = {
    PLAIN: "vectors.txt",
    WANTED_ONLY: "vectors.txt",
    TEXT: "vectors.txt",
    GZIP: "vectors.txt.gz",
    BINARY: "vectors.bin",
    TENSORS: "vectors.safetensors",
}
VOCABULARY = "vocabulary.txt"  # a token a line
EXACT_SHARE, LOWER_SHARE = 0.9, 0.05  # of the vocabulary; the file lacks the rest
LIMIT_SECONDS, LIMIT_BYTES = 30, 600_000_000  # what the text must be read in
N_DIGITS = 5
BLOCK_WORDS = 10_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark, or one reader of it, from the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    if options.read is not None:
        print(json.dumps(_read_here(options.read, options.folder, options.dim)))
        return
    from benchmarks import harness

    names = [name for name in FILES if name != GZIP or options.gzip]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        sizes = make_files(Path(folder), options)

        def reader(name: str) -> Callable[[], float]:
            def run() -> float:
                runs[name].append(_read_in_a_process(name, Path(folder), options.dim))
                return float(runs[name][-1]["seconds"])

            return run

        harness.interleaved([{name: reader(name) for name in names}], range(options.repeats))
    _check(runs)
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.vectors", *arguments]),
        "machine": harness.machine(),
        "n_words": options.words,
        "dim": options.dim,
        "n_tokens": options.vocabulary,
        "repeats": options.repeats,
        "coverage": runs[TEXT][0]["coverage"],
        "readers": {name: _figures(runs[name], runs[PLAIN], sizes[FILES[name]]) for name in names},
    }
    out = harness.report_file(options.out, "vectors", not options.quick)
    harness.publish(result, _markdown(result), out)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vectors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--words", type=int, default=400_000, help="in the file")
    add("--dim", type=int, default=300)
    add("--vocabulary", type=int, default=40_000, help="words wanted")
    add("--repeats", type=int, default=3, help="rounds")
    add("--gzip", action="store_true", help="the packed text too, which takes a minute to make")
    add(
        "--out",
        type=Path,
        help="JSON, its .md beside (default: benchmarks/results/vectors.json; not with --quick)",
    )
    add("--quick", action="store_true", help="tiny sizes and one round: does it run?")
    add("--read", choices=FILES, help="read once in this process and print what was measured")
    add("--folder", type=Path, help="of the files to read")
    options = parser.parse_args(arguments)
    if options.quick:
        options.words, options.dim, options.vocabulary, options.repeats = 2000, 8, 200, 1
    return options


def make_files(folder: Path, options: argparse.Namespace) -> dict[str, int]:
    """Write the vocabulary and every form of the same vectors; returns the bytes of each."""
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
    """Words of a file, and the vocabulary that it is read for, whose words are spread over it."""
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(n_words)]
    n_exact, n_lower = int(EXACT_SHARE * n_tokens), int(LOWER_SHARE * n_tokens)
    chosen = rng.choice(n_words, n_exact + n_lower, replace=False).tolist()
    exact = [words[i] for i in chosen[:n_exact]]
    lower = [words[i].capitalize() for i in chosen[n_exact:]]
    missing = [f"missing{i}" for i in range(n_tokens - n_exact - n_lower)]
    return words, Vocabulary.build([exact, lower, missing])


def _blocks(n_words: int, dim: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """First row, texts (n, D x 9) uint8 and the same numbers (n, D) float32, of so many words at a time.

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


def _read_in_a_process(name: str, folder: Path, dim: int) -> dict[str, Any]:
    options = ["--read", name, "--folder", str(folder), "--dim", str(dim)]
    command = [sys.executable, "-m", "benchmarks.vectors", *options]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def _read_here(name: str, folder: Path, dim: int) -> dict[str, Any]:
    vocabulary = Vocabulary(tuple((folder / VOCABULARY).read_text(encoding="utf-8").split("\n")))
    path, coverage = folder / FILES[name], ""
    start = time.perf_counter()
    if name in (PLAIN, WANTED_ONLY):
        matrix = (read_plainly if name == PLAIN else read_wanted)(path, vocabulary, dim)
    else:
        vectors = read_vectors(path, vocabulary, dim)
        matrix, coverage = vectors.matrix, str(vectors)
    seconds = time.perf_counter() - start
    exact = [row for token, row in vocabulary.index.items() if token.startswith("word")]
    return {
        "seconds": seconds,
        "peak_bytes": peak(),
        "coverage": coverage,
        "of_exact": hashlib.sha256(matrix[exact].tobytes()).hexdigest(),
        "of_all": hashlib.sha256(matrix.tobytes()).hexdigest(),
    }


def read_plainly(path: Path, vocabulary: Vocabulary, dim: int) -> np.ndarray:  # (V, D)
    """The baseline."""
    matrix = np.zeros((len(vocabulary), dim), dtype=np.float32)
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            word, *numbers = line.split()
            vector = np.array(numbers, dtype=np.float32)
            if (row := vocabulary.index.get(word)) is not None:
                matrix[row] = vector
    return matrix


def read_wanted(path: Path, vocabulary: Vocabulary, dim: int) -> np.ndarray:  # (V, D)
    """The same, with numbers made of the words that are wanted only."""
    matrix = np.zeros((len(vocabulary), dim), dtype=np.float32)
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            word, *numbers = line.rstrip("\r\n ").rsplit(" ", dim)
            if (row := vocabulary.index.get(word)) is not None:
                matrix[row] = np.array(numbers, dtype=np.float32)
    return matrix


def _check(runs: dict[str, list[dict[str, Any]]]) -> None:
    """Raises RuntimeError if not all readers read the same."""
    ours = [run for name, rounds in runs.items() if name not in (PLAIN, WANTED_ONLY) for run in rounds]
    everyone = [run for rounds in runs.values() for run in rounds]
    if len({run["of_all"] for run in ours}) > 1 or len({run["of_exact"] for run in everyone}) > 1:
        raise RuntimeError("the readers do not give the same matrix")


def _figures(
    runs: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]], file_bytes: int
) -> dict[str, float]:
    from benchmarks.harness import ratio

    seconds, of_baseline = ([run["seconds"] for run in which] for which in (runs, baseline))
    return {
        "file_bytes": file_bytes,
        "seconds": statistics.median(seconds),
        "longest_seconds": max(seconds),
        "peak_bytes": max(run["peak_bytes"] for run in runs),
        "times_baseline": ratio(of_baseline, seconds),
    }


def _markdown(result: dict[str, Any]) -> str:
    machine, text = result["machine"], result["readers"][TEXT]
    lines = [
        f"`{result['command']}`\n",
        f"- {machine['processor']}, one process at a time on {machine['cores']} cores, Python {machine['python']}, "
        f"numpy {machine['numpy']}, commit {machine['commit']}, {machine['date']}, load {machine['load_average']}",
        f"- {result['n_words']:,} words x {result['dim']} numbers, read for a vocabulary of "
        f"{result['n_tokens']:,} words; {result['repeats']} rounds, files in the page cache",
        f"- {result['coverage']}\n",
        "| reader | file, MB | seconds, median | longest | peak memory, MB | times the first |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in result["readers"].items():
        sizes = [f"{row[key] / 1e6:,.0f}" for key in ("file_bytes", "peak_bytes")]
        times = f"{row['seconds']:.2f} | {row['longest_seconds']:.2f}"
        lines.append(f"| {name} | {sizes[0]} | {times} | {sizes[1]} | {row['times_baseline']:.1f}× |")
    good = text["longest_seconds"] <= LIMIT_SECONDS and text["peak_bytes"] <= LIMIT_BYTES
    wanted = f"{LIMIT_SECONDS} s and {LIMIT_BYTES / 1e6:.0f} MB"
    lines += ["", f"GloVe text within {wanted}: {'yes' if good else 'NO'}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
