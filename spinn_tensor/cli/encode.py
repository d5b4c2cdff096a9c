"""`spinn encode`: the encodings of the sentences of a file, as a NumPy array."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.branching import with_branching
from data_prep.columns import SentenceColumns, lengths, n_sentences, sentence_columns, take
from data_prep.files import Skipped, atomic_write
from spinn_tensor.batch import make_sentence_batch, move
from spinn_tensor.cli.arguments import (
    add_branching,
    add_checkpoint,
    add_command,
    add_device,
    add_skip_bad,
    choose_device,
)
from spinn_tensor.cli.report import print_skipped
from spinn_tensor.cli.sentences import composed_branching, read_sentences, text_reader_for
from spinn_tensor.config import ConfigError
from spinn_tensor.encoder import SentenceEncoder
from spinn_tensor.training.checkpoint import load_checkpoint
from spinn_tensor.training.evaluate import sentence_batches

DESCRIPTION = """\
Encodes sentences: a jsonl file with a binary parse a line gives a .npy array of float32,
(sentences, width), in the order of the file: h of the root of each tree. The parse is
read from the field sentence_binary_parse or binary_parse; --field names another, with or
without its ending _binary_parse. For a model that parses for itself, or for any other with
--branching, text will do, in the field sentence or the one that --field names.
"""

EPILOG = """\
examples:
  spinn encode runs/logic --input sentences.jsonl --output encodings.npy

  spinn encode runs/pi --input snli_1.0_dev.jsonl.gz --field sentence1 --output premises.npy
      the premises of an SNLI file

  spinn encode runs/spinn --input texts.jsonl --field text --output texts.npy
      raw text, for a model that parses for itself

  python -c "import numpy; print(numpy.load('premises.npy').shape)"
"""


def add_parser(subparsers: Any) -> None:
    parser = add_command(subparsers, "encode", "sentences to vectors", DESCRIPTION, EPILOG)
    add_checkpoint(parser)
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help="jsonl, plain or .gz")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.npy", help="array to write")
    parser.add_argument("--field", metavar="NAME", help="field with the parse or text, e.g. sentence1")
    add_branching(parser, "not for a model that parses for itself")
    add_skip_bad(parser)
    add_device(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.output.suffix != ".npy":
        raise ConfigError(f"--output {args.output}: expected a name ending in .npy")
    device = choose_device(args)
    checkpoint = load_checkpoint(args.checkpoint, device)
    branching = composed_branching(args, checkpoint)
    tokenize = text_reader_for(checkpoint, branching)
    skipped = Skipped()
    sentences = read_sentences(args.input, args.field, bool(args.skip_bad), skipped, tokenize)
    columns = sentence_columns((sentence.tree for sentence in sentences), checkpoint.vocabulary)
    if branching is not None:
        columns = with_branching(columns, branching)
    encodings = encode(checkpoint.model.encoder, columns)
    with atomic_write(args.output, "wb") as file:
        np.save(file, encodings)
    print_skipped(skipped)
    print(f"{len(encodings):,} encodings of width {encodings.shape[1]} in {args.output}")
    return 0


def encode(
    encoder: SentenceEncoder,
    columns: SentenceColumns,
) -> np.ndarray:  # (n, D) float32
    """Root encodings in the order of the columns, in batches of like length."""
    device = next(encoder.parameters()).device
    result = np.empty((n_sentences(columns), encoder.output_dim), dtype=np.float32)
    encoder.eval()
    with torch.inference_mode():
        for rows in sentence_batches(lengths(columns)):
            batch = move(make_sentence_batch(take(columns, rows), encoder.table_kind), device)
            result[rows] = encoder(batch).float().cpu().numpy()
    return result
