"""Measure bulk encoding against dynamic batching: from a file of parses to shards of vectors, no tracker, one thread.

    python -m benchmarks.bulk               100,000 sentences, H = 300, some minutes
    python -m benchmarks.bulk --quick       seconds, numbers without meaning

The sentences: the trees of SNLI's dev slice, repeated in random order, each time with other words. Words are drawn from
the counts of SNLI's 20,000 training pairs at hand, tokenised, so that lengths and vocabulary are SNLI's; phrases are
not, and no two sentences are alike. Timed, in the same rounds:

    file to shards      what `spinn encode` does, and dynamic batching fed by the same reader, in batches of 128
                        sentences sorted by length within the same blocks of 20,000 lines, into the same shards
    encoding            the same from word ids in memory to vectors in memory, on the first block; ours for several
                        sizes of batch

Both project words with the model's own leaf encoder, dynamic batching every word of a batch as it comes. Before
anything is timed, the vectors of the first block are compared. The peak memory is that of a process that encodes a file
and nothing else, for a fifth of the sentences and for all of them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks import dynamic, harness
from benchmarks.data import SNLI_SLICE, TRAINING_PAIRS, load_sentences, n_tokens_of
from benchmarks.harness import Option
from spinn_tensor import EncoderConfig, SentenceEncoder, make_sentence_batch
from spinn_tensor.data_prep import PairFormat, SentenceFormat, read_line_examples
from spinn_tensor.data_prep.columns import SentenceColumns, lengths, n_sentences, take
from spinn_tensor.data_prep.corpora.read import open_examples
from spinn_tensor.data_prep.text import SentenceReader
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import Tree, format_binary
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.encoding import EncodingOptions, encode_to_shards
from spinn_tensor.encoding.run import BLOCK_LINES
from spinn_tensor.encoding.shards import write_array
from spinn_tensor.inference import encode_columns
from spinn_tensor.model.cells import TreeLSTM
from spinn_tensor.model.machine import StackMachine

DYNAMIC, OURS = "dynamic batching, 128 sentences", "spinn encode"
DYNAMIC_BATCH = 128
N_RANDOM_WORDS = 10_000  # where there are no training pairs
TOLERANCE = 1e-5
OPTIONS = {
    "count": Option(100_000, 200, "sentences"),
    "dim": Option(300, 8, "hidden size, and size of the word vectors"),
    "batch_tokens": Option([4096, 16_384, 65_536, 131_072], [64, 512], "sizes of ours to compare"),
    "shard_size": Option(20_000, 50, "sentences of a shard"),
    "repeats": Option(3, 1, "recorded rounds"),
}
_parse = partial(harness.parse, "bulk", __doc__, options=OPTIONS, device="cpu", snli="the logic corpus")
COLUMNS = {
    "what": "{what}",
    "how": "{how}",
    "sentences/s": "{sentences_per_s:,.0f}",
    "µs a sentence": "{microseconds:.1f}",
    "times the first": "{times_baseline:.2f}×",
}


class Text(NamedTuple):
    """Hold what files of sentences are made of."""

    source: str  # of the trees
    transitions: list[np.ndarray]
    words: list[str]
    shares: np.ndarray  # of each word among all words

    def write(self, path: Path, count: int) -> None:
        """Write a parse a line: the trees again and again in random order, their words drawn anew."""
        rng = np.random.default_rng(0)
        chosen = rng.permutation(np.resize(np.arange(len(self.transitions)), count))
        transitions = [self.transitions[row] for row in chosen]
        n_tokens = n_tokens_of(transitions)
        drawn = np.array(self.words)[rng.choice(len(self.words), n_tokens.sum(), p=self.shares)]
        with path.open("w", encoding="utf-8") as file:
            for codes, tokens in zip(transitions, np.split(drawn, np.cumsum(n_tokens)[:-1]), strict=True):
                file.write(format_binary(Tree(tuple(tokens.tolist()), codes)) + "\n")


class Setup(NamedTuple):
    """Hold what every candidate works on."""

    source: Path  # a parse a line
    vocabulary: Vocabulary
    encoder: SentenceEncoder
    options: EncodingOptions
    folder: Path  # for shards


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = _parse(arguments)
    harness.as_in_training()  # as `spinn encode` does; for both alike
    text = Text(*load_sentences(options.snli), *word_shares())
    with tempfile.TemporaryDirectory() as folder:
        setup = make_setup(Path(folder), text, options)
        first = first_block(setup)
        difference = compare(setup.encoder, first)
        peaks = {count: peak_bytes(setup, text, count) for count in (options.count // 5, options.count)}
        cases: dict[str, dict[str, Callable[[], object]]] = {
            "file to shards": {
                DYNAMIC: partial(encode_file_dynamically, setup),
                OURS: partial(encode_file, setup),
            },
            "encoding": {DYNAMIC: partial(encode_dynamically, setup.encoder, first)}
            | {
                f"ours, {size:,} words a batch": partial(
                    encode_columns, setup.encoder, first, batch_tokens=size
                )
                for size in options.batch_tokens
            },
        }
        timed = [{how: harness.stopwatch(run) for how, run in case.items()} for case in cases.values()]
        seconds = harness.interleaved(timed, range(-1, options.repeats))
    rows = [
        _figures(what, how, count, times)
        for what, count, times in zip(cases, (options.count, n_sentences(first)), seconds, strict=True)
        for how in times
    ]
    peak = ", ".join(f"{count:,} sentences {n / 2**20:,.0f} MB" for count, n in peaks.items())
    notes = [
        f"{options.count:,} sentences of {lengths(first).mean():.2f} words on average; trees: {text.source}; "
        f"{len(text.words):,} distinct words; H = {options.dim}, shards of {options.shard_size:,}; "
        f"{options.repeats} rounds",
        f"the vectors of the first block differ by at most {difference:.1e}",
        f"peak memory of a process that encodes a file: {peak}",
    ]
    result = {"trees": text.source, "largest_difference": difference, "peak_bytes": peaks, "rows": rows}
    harness.publish(options, result, notes, [harness.Table(COLUMNS, rows, 2)])


def word_shares() -> tuple[list[str], np.ndarray]:
    """Return words, and the share of each among the words of SNLI's training pairs, or made up without these."""
    reader = SentenceReader(Tokenizer().tokenize)
    counts: Counter[str] = Counter()
    for name in TRAINING_PAIRS:
        if (path := SNLI_SLICE.parent / name).exists():
            for pair in read_line_examples(path, PairFormat(require_label=False, reader=reader)):
                counts.update((*pair.premise.tokens, *pair.hypothesis.tokens))
    if not counts:  # Zipf's law
        counts.update({f"word{rank}": N_RANDOM_WORDS // rank + 1 for rank in range(1, N_RANDOM_WORDS)})
    return list(counts), np.array(list(counts.values())) / counts.total()


def make_setup(folder: Path, text: Text, options: argparse.Namespace) -> Setup:
    """Make the file, and a model of the usual size."""
    source = folder / "parses.txt"
    text.write(source, options.count)
    vocabulary = Vocabulary.build([text.words])
    torch.manual_seed(0)
    encoder = SentenceEncoder(EncoderConfig(len(vocabulary), "spinn-pi-nt", options.dim, options.dim)).eval()
    return Setup(source, vocabulary, encoder, EncodingOptions(shard_size=options.shard_size), folder)


def first_block(setup: Setup) -> SentenceColumns:
    """Read the first block of lines."""
    with open_examples(setup.source, SentenceFormat(), setup.vocabulary) as file:
        block = file.block(BLOCK_LINES)
    assert block is not None
    return block.examples.sentences


def compare(encoder: SentenceEncoder, columns: SentenceColumns) -> float:
    """Return the largest difference between both ways to encode; raise RuntimeError if it is one."""
    ours, theirs = encode_columns(encoder, columns), encode_dynamically(encoder, columns)
    difference = float(np.abs(ours - theirs).max())
    if not difference <= TOLERANCE:
        raise RuntimeError(f"the vectors differ by {difference:.1e}")
    return difference


def encode_dynamically(encoder: SentenceEncoder, columns: SentenceColumns) -> np.ndarray:  # (n, H)
    """Encode as the baseline does: batches of 128 sentences, sorted by length."""
    result = np.empty((n_sentences(columns), encoder.output_dim), dtype=np.float32)
    order = np.argsort(-lengths(columns), kind="stable")
    assert isinstance(encoder.composer, StackMachine)
    assert isinstance(encoder.composer.compose, TreeLSTM)
    weights = encoder.composer.compose.weights()
    with torch.inference_mode():
        for rows in np.split(order, np.arange(DYNAMIC_BATCH, len(order), DYNAMIC_BATCH)):
            some = take(columns, rows)
            leaves = encoder.leaves(make_sentence_batch(some, "sequence"))
            ends = np.cumsum(2 * lengths(some) - 1)
            transitions = [codes.tolist() for codes in np.split(some.transitions, ends[:-1])]
            roots = dynamic.encode_batch(leaves, transitions, weights)
            result[rows] = roots[:, : encoder.output_dim].numpy()
    return result


def encode_file(setup: Setup) -> None:
    """Encode by ours, from the file to shards in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=setup.folder) as folder:
        encode_to_shards(setup.encoder, setup.vocabulary, setup.source, Path(folder) / "out", setup.options)


def encode_file_dynamically(setup: Setup) -> None:
    """Encode by dynamic batching, from the file to the same shards."""
    with (
        tempfile.TemporaryDirectory(dir=setup.folder) as folder,
        open_examples(setup.source, SentenceFormat(), setup.vocabulary) as file,
    ):
        while block := file.block(min(BLOCK_LINES, setup.options.shard_size)):
            encodings = encode_dynamically(setup.encoder, block.examples.sentences)
            write_array(Path(folder) / f"{block.first_line}.npy", encodings)


def peak_bytes(setup: Setup, text: Text, count: int) -> int:
    """Return the highest resident memory of a process that encodes so many sentences."""
    source = setup.folder / f"{count}.txt"
    text.write(source, count)
    return harness.in_a_process(_peak_here, setup._replace(source=source))


def _peak_here(setup: Setup) -> int:
    harness.as_in_training()
    encode_file(setup)
    return harness.peak()


def _figures(what: str, how: str, count: int, times: dict[str, list[float]]) -> dict[str, Any]:
    seconds = statistics.median(times[how])
    return {
        "what": what,
        "how": how,
        "sentences_per_s": count / seconds,
        "microseconds": 1e6 * seconds / count,
        "times_baseline": harness.ratio(next(iter(times.values())), times[how]),
    }


if __name__ == "__main__":
    harness.run(main)
