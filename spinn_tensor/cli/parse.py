"""`spinn parse`: sentences to trees, and parsers held against a treebank."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import IO

from spinn_tensor.answers import Parsed
from spinn_tensor.cli.arguments import (
    CommandParser,
    add_device,
    add_input,
    add_on_error,
    add_settings,
    check_outputs,
    choose_device,
    given_limits,
    on_error,
    positive,
)
from spinn_tensor.cli.parse_lines import FORMATS, Composed, Line, LineFile, Sentences, TreeParser, written
from spinn_tensor.cli.parse_scores import score
from spinn_tensor.cli.progress import counter_of
from spinn_tensor.cli.report import print_skipped, tell
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.branching import BRANCHINGS
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import STDIN, write_text
from spinn_tensor.data_prep.limits import Limits
from spinn_tensor.data_prep.penn import DEFAULT_BINARIZE
from spinn_tensor.data_prep.record_files import has_records
from spinn_tensor.data_prep.text import SentenceReader
from spinn_tensor.data_prep.token_rules import WHITESPACE
from spinn_tensor.data_prep.tokenizer import Offsets, Tokenizer
from spinn_tensor.data_prep.tree_view import MOST_WORDS, svg
from spinn_tensor.hub import checkpoint_folder
from spinn_tensor.model.classifiers import Checkpoint
from spinn_tensor.parsers import load_parser, model_folder, packaged_folder

DRAWN = ("draw", "svg")  # formats that no record can hold
MOST_DRAWN = 1_000  # trees of a picture

DESCRIPTION = """\
Parses with a SPINN that parses for itself: by default the one that comes with the package,
with --model any checkpoint whose encoder parses (kind spinn), classifiers of pairs or of
sentences included. A sentence is raw English text, which is tokenised as in the Penn
Treebank, or a tree in any notation, whose words are parsed.

A line in is a line out, printed as it comes: the first results of a pipe before its end. A
blank line is a blank line, and counted; the lines of one Penn tree are one. --format says
what a tree is written as:

  binary  a binary parse, ( ( The dog ) barks ), the notation that the other commands read
  penn    (ROOT (X (X (X The) (X dog)) (X barks))), with the tags of a tree that was given
  json    an object: text, tokens, their offsets in the text, the tree, its spans of words and
          characters, and its log-probability; null for a blank line
  draw    drawn with box characters, a word a line; --draw is short for it
  svg     one picture of all trees

With --k 5 these are the five likeliest trees, the best first, fewer of few words: a line each, of
rank, probability and tree between tabs, or in json the list "trees" (of records NAME_trees).

A jsonl file, or any other of records, gives its records as jsonl, each with the field
NAME_binary_parse added (penn: NAME_parse, json: NAME_tree), or replaced where it was there,
for the field NAME: sentence1 and sentence2 where the record has them, else sentence, or what
--field names. Where there is no text in it, the words of NAME_binary_parse or NAME_parse are
parsed.

With --branching none nothing is parsed: trees that are given are written in another notation,
Penn trees with their labels, or binarised by --binarize.

With --gold, files are trees, in any form that `spinn train --corpus trees` reads: prints the
bracketing F1 of the models, of trees made without a parser, of --predicted trees, and how far
several models agree with each other; with and without punctuation; of Penn trees for their
brackets as they are, too, labelled where both sides have labels. (The package's parser learnt
from trees of SNLI's dev set and of SST: its F1 on those is too good.)
"""

EPILOG = """\
examples:
  spinn parse "The church has cracks in the ceiling."
  spinn parse --draw "The church has cracks in the ceiling." "Dogs bark."
  spinn parse --k 5 "A man sees a dog with a telescope."
  spinn parse --tokens --input tokenised.txt --output trees.txt.gz
  fortune | spinn parse --input - --format json --on-error empty

  spinn parse --input pairs.jsonl.gz --output parsed.jsonl
      pairs of raw text become pairs that spinn train --corpus snli takes

  spinn parse --branching none --binarize right --input wsj_0001.mrg
      binary parses of a treebank's own trees

  spinn parse --gold snli_1.0_dev.jsonl --model runs/a --model runs/b
      scores two parsers against SNLI's trees
"""


def add_arguments(parser: CommandParser) -> None:
    add = parser.add_argument
    add("sentences", nargs="*", metavar="SENTENCE", help="raw text of a sentence, or a tree")
    add_input(parser)
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help="file to write, compressed if its name ends in .gz, .bz2 or .xz (default: stdout)",
    )
    add("--tokens", action="store_true", help="the sentences are tokenised already, with blanks")
    add("--format", choices=FORMATS, help="what is written of a tree (default: binary)")
    add(
        "--draw",
        dest="format",
        action="store_const",
        const="draw",
        help=f"--format draw: the trees, a word a line, of up to {MOST_WORDS:,} words",
    )
    add(
        "--k",
        type=positive,
        metavar="K",
        help="the K likeliest trees of a sentence, found by a beam of that width, and how likely they are",
    )
    add("--gold", type=Path, metavar="FILE", help="score against the trees of this file")
    add(
        "--predicted",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="with --gold: another parser's trees of the same sentences; repeatable",
    )
    add(
        "--model",
        type=Path,
        action="append",
        metavar="CHECKPOINT",
        help="folder of a checkpoint or run (default: the package's); repeatable with --gold",
    )
    add(
        "--branching",
        choices=(*BRANCHINGS, "none"),
        help="no model: trees of this kind (none = those that are given)",
    )
    add_settings(parser, "data", ("binarize", "notation"))
    add_on_error(parser, "empty", "a blank line")
    add_settings(parser, "data", ("skip_bad", *Limits._fields))
    # the steps are small; threads that wait for each other cost more than they bring
    add_device(parser, threads=1)


def run(args: argparse.Namespace) -> int:
    _check_usage(args)
    check_outputs([args.output], [args.input])
    device = choose_device(args)
    models = {} if args.branching else _models(args, device)
    limits = Limits(**given_limits(args))
    if args.gold is not None:
        skip_bad = on_error(args) == "skip"
        ways = {model.config.text.binarize for model in models.values()}
        binarize = args.binarize or (ways.pop() if len(ways) == 1 else DEFAULT_BINARIZE)
        score(args.gold, args.predicted, models, binarize, skip_bad, limits)
        return 0
    model = next(iter(models.values()), None)
    tokenizer = Tokenizer() if model is None else model.tokenizer
    if args.tokens:
        tokenizer = Tokenizer(rules=WHITESPACE)
    sentences = Sentences(_reader(args, tokenizer, model), limits, args.field)
    source = None
    if args.input is not None:
        source = LineFile(args.input, sentences, on_error(args), takes_records=args.format not in DRAWN)
    output = nullcontext(sys.stdout) if args.output is None else write_text(args.output)
    with output as file, counter_of(args.output, "sentences parsed") as advance:
        parser = TreeParser(model, args.branching, advance, args.k)
        lines = iter([_arguments(args, sentences)]) if source is None else source.blocks()
        _write(file, map(parser, lines), args, tokenizer.offsets)
    if source is not None:
        print_skipped(source.skipped, "lines skipped" if on_error(args) == "skip" else "lines have no tree")
    if args.output is not None:
        what = "trees" if args.k is None else "sentences"
        print(f"{parser.n_sentences:,} {what} in {args.output}")
    return 0


def _models(args: argparse.Namespace, device: str) -> dict[str, Checkpoint]:
    """Load the parsers to use, by the name to print. Raises CheckpointError and ConfigError."""
    if not args.model:
        return {"the package's parser": load_parser(packaged_folder(), device)}
    if len({checkpoint_folder(model_folder(str(path))).resolve() for path in args.model}) < len(args.model):
        raise ConfigError("--model: a checkpoint is given twice")
    return {str(path): load_parser(model_folder(str(path)), device) for path in args.model}


def _reader(args: argparse.Namespace, tokenizer: Tokenizer, model: Checkpoint | None) -> SentenceReader:
    """Return what reads a sentence: no text where its tree is to be kept."""
    binarize = args.binarize or (DEFAULT_BINARIZE if model is None else model.config.text.binarize)
    notation = "text" if args.tokens else args.notation or "auto"
    return SentenceReader(None if args.branching == "none" else tokenizer.tokenize, binarize, notation)


def _arguments(args: argparse.Namespace, sentences: Sentences) -> list[Line]:
    """Read the sentences of the command line. Raises DataError naming the number of the argument."""
    lines = []
    for number, text in enumerate(args.sentences, start=1):
        if os.path.isfile(text):
            tell(f"{text} is read as a sentence; there is a file of that name, whose lines --input reads")
        try:
            lines.append(Line((sentences.of_text(text),)))
        except DataError as error:
            raise error.at(field=f"sentence {number}") from None
    return lines


def _write(
    file: IO[str],
    blocks: Iterable[list[tuple[Line, list[Composed]]]],
    args: argparse.Namespace,
    offsets_in: Callable[[str], Offsets],
) -> None:
    if args.format == "svg":
        found = (parsed for block in blocks for _, composed in block for _, parsed in composed)
        # several of a sentence are not drawn
        trees = [parsed.tree for parsed in islice(found, MOST_DRAWN + 1) if isinstance(parsed, Parsed)]
        if len(trees) > MOST_DRAWN:
            raise ConfigError(f"--format svg: a picture of at most {MOST_DRAWN:,} trees")
        file.write(svg(trees))
        return
    for block in blocks:
        file.writelines(written(line, found, args.format or "binary", offsets_in) for line, found in block)
        file.flush()


def _check_usage(args: argparse.Namespace) -> None:
    n_given = [bool(args.sentences), args.input is not None, args.gold is not None].count(True)
    if n_given != 1:
        hint = "--input - reads stdin"
        if args.sentences:
            hint = f"{args.sentences[0]!r} is a sentence, --input and --gold take one file each"
        raise ConfigError(f"give sentences, or --input, or --gold; {hint}")
    if args.gold is not None and (args.tokens or args.format or args.output is not None):
        raise ConfigError(
            "--gold prints scores only: it goes without --tokens, --format, --draw and --output"
        )
    keeps_trees = args.branching == "none" and args.format != "penn"
    if args.binarize is not None and args.gold is None and not keeps_trees:
        raise ConfigError(
            "--binarize goes with --branching none, which makes the trees that are given binary (of --format penn they "
            "stay as they are), or with --gold"
        )
    if args.notation is not None and (args.gold is not None or args.tokens):
        raise ConfigError(
            "--notation goes without --gold, whose files are trees, and --tokens, which are none"
        )
    if args.predicted and args.gold is None:
        raise ConfigError("--predicted goes with --gold")
    if args.k is not None and (args.gold is not None or args.branching is not None or args.format in DRAWN):
        raise ConfigError("--k goes with a model and --format binary, penn or json, and without --gold")
    if args.branching is not None and (args.model or args.gold is not None):
        raise ConfigError("--branching goes without --model, and --gold compares with every branching anyway")
    if args.branching == "none" and args.tokens:
        raise ConfigError("--branching none writes trees that are given: it goes without --tokens")
    if args.gold is None and args.model is not None and len(args.model) > 1:
        raise ConfigError("several --model are compared with --gold; one of them parses")
    if on_error(args) != "raise" and args.sentences:
        raise ConfigError("--on-error and --skip-bad go with --input or --gold")
    if args.gold is not None and on_error(args) == "empty":
        raise ConfigError("--on-error empty goes with --input: --gold prints scores only")
    if args.max_line_bytes is not None and args.sentences:
        raise ConfigError("--max-line-bytes goes with --input or --gold")
    if args.field is not None and args.input is None:
        raise ConfigError("--field goes with a jsonl --input, or another of records")
    if args.format in DRAWN and args.input not in (None, STDIN) and has_records(args.input):
        raise ConfigError(f"--format {args.format}: a jsonl --input, or another of records, gives jsonl")
