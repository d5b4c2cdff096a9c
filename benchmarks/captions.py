"""Let several parsers parse raw captions together, for another one to learn from (self-training, McClosky et al. 2006).

A sentence's candidates are what the beams of all parsers find. The best is the one to which they give the highest mean
log-probability, each under teacher forcing: one that all of them believe in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from spinn_tensor.data_prep.columns import lengths, node_offsets, sentence_columns
from spinn_tensor.data_prep.files import atomic_write, open_text, parse_record
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import Tree, format_binary, right_branching
from spinn_tensor.inference import predict_beams, sentence_batches
from spinn_tensor.model.classifiers import Checkpoint

BEAM = 4  # lanes of each sentence and parser
AT_ONCE = 2_000  # sentences
TOKENS = 16_384  # of a batch of candidates
LENGTHS = range(3, 41)  # words of the captions that are taken


def read_captions(
    files: Sequence[Path],  # of pairs, jsonl
    held_back: set[tuple[str, ...]],  # sentences that are not to be learnt from, in lower case
) -> list[Tree]:
    """Return the distinct sentences of raw pairs, under any tree."""
    tokenizer, found = Tokenizer(), {}
    for file in files:
        with open_text(file) as lines:
            for record in map(parse_record, lines):
                for name in ("sentence1", "sentence2"):
                    words = tuple(tokenizer.tokenize(record[name]))
                    if len(words) in LENGTHS and tuple(map(str.lower, words)) not in held_back:
                        found[words] = right_branching(words)
    return list(found.values())


def write_parses(path: Path, parsers: Sequence[Checkpoint], sentences: list[Tree]) -> None:
    """Write the sentences under the trees that the parsers find together, one binary parse a line."""
    with atomic_write(path) as file:
        for start in range(0, len(sentences), AT_ONCE):
            trees = parse_together(parsers, sentences[start : start + AT_ONCE])
            file.writelines(format_binary(tree) + "\n" for tree in trees)


def parse_together(parsers: Sequence[Checkpoint], sentences: list[Tree]) -> Iterator[Tree]:
    """Yield each sentence under its best candidate."""
    candidates: list[dict[bytes, Tree]] = [{} for _ in sentences]
    for parser in parsers:
        columns = sentence_columns(sentences, parser.vocabulary)
        beams = predict_beams(parser.model.encoder, columns, BEAM)
        bounds = node_offsets(columns)
        for rank, sentence in zip(*np.nonzero(beams.log_probabilities > -np.inf), strict=True):
            transitions = beams.transitions[rank, bounds[sentence] : bounds[sentence + 1]]
            tree = Tree(sentences[sentence].tokens, transitions)
            candidates[sentence].setdefault(transitions.tobytes(), tree)
    flat = [tree for of_sentence in candidates for tree in of_sentence.values()]
    scores = np.sum([log_probabilities(parser, flat) for parser in parsers], axis=0)
    bounds = np.cumsum([0, *map(len, candidates)])
    for start, end in pairwise(bounds):
        yield flat[start + int(np.argmax(scores[start:end]))]


def log_probabilities(parser: Checkpoint, trees: list[Tree]) -> np.ndarray:  # (n,) float64
    """Return the log-probability that a parser gives each tree."""
    columns, found = sentence_columns(trees, parser.vocabulary), np.empty(len(trees))
    n_steps = 2 * lengths(columns) - 1
    encoder = parser.model.encoder.eval()
    with torch.inference_mode():
        for rows, batch in sentence_batches(encoder, columns, "lanes", TOKENS):
            steps = encoder.parse(batch).log_probabilities().double().numpy()
            found[rows] = np.add.reduceat(steps, np.cumsum(n_steps[rows]) - n_steps[rows])
    return found
