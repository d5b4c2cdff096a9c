"""`spinn parse`: sentences to trees, and parsers held against a treebank."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from spinn_tensor.bundle import checkpoint_folder
from spinn_tensor.cli.arguments import (
    add_command,
    add_device,
    add_limits,
    add_skip_bad,
    choose_device,
    given_limits,
)
from spinn_tensor.cli.progress import counters
from spinn_tensor.cli.report import (
    comparison_table,
    parse_counts,
    parse_summary,
    parse_table,
    print_skipped,
)
from spinn_tensor.cli.sentences import trees_of
from spinn_tensor.cli.tree_view import MOST_WORDS, drawn
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.brackets import score_parses, self_f1
from spinn_tensor.data_prep.branching import BRANCHINGS, baseline_transitions, with_branching
from spinn_tensor.data_prep.columns import SentenceColumns, sentence_columns
from spinn_tensor.data_prep.corpora.formats import TreebankFormat
from spinn_tensor.data_prep.corpora.read import read_line_examples
from spinn_tensor.data_prep.corpora.records import sentence_names, text_field
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped, atomic_write, is_jsonl, parse_record, read_examples
from spinn_tensor.data_prep.limits import Limits
from spinn_tensor.data_prep.text import SentenceReader
from spinn_tensor.data_prep.token_rules import WHITESPACE
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import Tree, format_binary, right_branching
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.inference import predict_transitions
from spinn_tensor.model.classifiers import Checkpoint
from spinn_tensor.pipeline import load_parser, packaged_parser

STDIN = "/dev/stdin"

DESCRIPTION = """\
Parses with a SPINN that parses for itself: by default the one that comes with the package,
with --model any checkpoint whose encoder parses (kind spinn), classifiers of pairs or of
sentences included. A sentence is raw English text, which is tokenised as in the Penn
Treebank; its tree is printed as a binary parse, the notation that the other commands read.

A text file has a sentence a line (blank lines are none) and gives a parse a line. A jsonl
file gives its own lines, each with the field NAME_binary_parse added, or replaced where it
was there, for the field NAME: sentence1 and sentence2 where the record has them, else
sentence, or what --field names.

With --gold, files are trees, in any form that `spinn train --corpus trees` reads: prints
the unlabelled bracketing F1 of the models, of trees made without a parser, and how far
several models agree with each other. (The package's parser learnt from trees of SNLI's dev
set and of SST: its F1 on those is too good.)
"""

EPILOG = """\
examples:
  spinn parse "The church has cracks in the ceiling."
  spinn parse --draw "The church has cracks in the ceiling." "Dogs bark."
  spinn parse --tokens --input tokenised.txt --output trees.txt
  fortune | spinn parse --input -

  spinn parse --input pairs.jsonl.gz --output parsed.jsonl
      pairs of raw text become pairs that spinn train --corpus snli takes

  spinn parse --gold snli_1.0_dev.jsonl --model runs/a --model runs/b
      scores two parsers against SNLI's trees
"""


class Line(NamedTuple):
    """Hold a line of the input, or a sentence given as an argument."""

    sentences: tuple[tuple[str, ...], ...]  # the tokens of one or more
    fields: tuple[str, ...] = ()  # of the record that they come from
    record: dict[str, Any] | None = None  # None for text


def add_parser(subparsers: Any) -> None:
    parser = add_command(subparsers, "parse", "sentences to trees", DESCRIPTION, EPILOG)
    parser.add_argument("sentences", nargs="*", metavar="SENTENCE", help="raw text of a sentence")
    parser.add_argument("--input", metavar="FILE", help="text or jsonl, plain or .gz; - = text from stdin")
    parser.add_argument("--output", type=Path, metavar="FILE", help="file to write (default: stdout)")
    parser.add_argument("--field", metavar="NAME", help="field of a jsonl --input that has the text")
    parser.add_argument(
        "--tokens", action="store_true", help="the sentences are tokenised already, with blanks"
    )
    parser.add_argument(
        "--draw", action="store_true", help=f"draw the trees, a word a line, of up to {MOST_WORDS:,} words"
    )
    parser.add_argument("--gold", type=Path, metavar="FILE", help="score against the trees of this file")
    parser.add_argument(
        "--model",
        type=Path,
        action="append",
        metavar="CHECKPOINT",
        help="folder of a checkpoint or run (default: the package's); repeatable with --gold",
    )
    parser.add_argument("--branching", choices=BRANCHINGS, help="no model: trees of this kind")
    add_skip_bad(parser)
    add_limits(parser)
    # the steps are small; threads that wait for each other cost more than they bring
    add_device(parser, threads=1)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    _check_usage(args)
    device = choose_device(args)
    models = {} if args.branching else _models(args, device)
    skipped, limits = Skipped(), Limits(**given_limits(args))
    if args.gold is not None:
        examples = read_line_examples(
            args.gold,
            TreebankFormat(is_jsonl(args.gold)),
            skip_bad=bool(args.skip_bad),
            skipped=skipped,
            limits=limits,
        )
        trees = [tree for example in examples for tree in example.trees]
        print_skipped(skipped)
        _score(trees, models)
        return 0
    model = None if args.branching else next(iter(models.values()))
    tokenizer = Tokenizer() if model is None else model.tokenizer
    reader = SentenceReader(tokenizer.tokenize)
    if args.tokens:
        reader = SentenceReader(Tokenizer(rules=WHITESPACE).tokenize, trees="text")
    lines = _lines(args, skipped, reader, limits)
    flat = [right_branching(tokens) for line in lines for tokens in line.sentences]
    trees = trees_of(flat, _parsed(flat, model, args.branching))
    _write(args, lines, trees)
    print_skipped(skipped)
    if args.output is not None:
        print(f"{len(trees):,} trees in {args.output}")
    return 0


def _models(args: argparse.Namespace, device: str) -> dict[str, Checkpoint]:
    """Load the parsers to use, by the name to print. Raises CheckpointError and ConfigError."""
    if not args.model:
        return {"the package's parser": load_parser(packaged_parser(), device)}
    if len({checkpoint_folder(path).resolve() for path in args.model}) < len(args.model):
        raise ConfigError("--model: a checkpoint is given twice")
    return {str(path): load_parser(path, device) for path in args.model}


def _parsed(
    flat: list[Tree],  # n sentences under any trees
    model: Checkpoint | None,  # None: `branching` instead
    branching: str | None,
) -> SentenceColumns:
    """Return the sentences under the trees of the model, or of a branching."""
    if model is None:
        assert branching is not None
        return with_branching(sentence_columns(flat, Vocabulary.build([])), branching)
    columns = sentence_columns(flat, model.vocabulary)
    with counters("sentences parsed") as (advance,):
        return columns._replace(transitions=predict_transitions(model.model.encoder, columns, advance))


def _lines(args: argparse.Namespace, skipped: Skipped, reader: SentenceReader, limits: Limits) -> list[Line]:
    """Read what is to be parsed. Raises DataError naming the line, or the number of the argument."""

    def read(text: str, field: str | None = None) -> tuple[str, ...]:
        tokens = reader.tree(text, field).tokens
        limits.check_words(tokens)
        return tokens

    if args.input is None:
        lines = []
        for number, text in enumerate(args.sentences, start=1):
            try:
                lines.append(Line((read(text),)))
            except DataError as error:
                raise error.at(field=f"sentence {number}") from None
        return lines
    path = STDIN if args.input == "-" else args.input

    def parse(line: str, _: Skipped) -> Line:
        return _parse_record(line, args.field, read) if is_jsonl(path) else Line((read(line),))

    return list(read_examples(path, parse, skip_bad=bool(args.skip_bad), skipped=skipped, limits=limits))


def _parse_record(line: str, field: str | None, read: Callable[[str, str], tuple[str, ...]]) -> Line:
    record = parse_record(line)
    names = sentence_names(record) if field is None else (field,)
    if not names:
        raise DataError("missing field, expected sentence1 and sentence2, or sentence")
    return Line(tuple(read(text_field(record, name), name) for name in names), names, record)


def _write(args: argparse.Namespace, lines: list[Line], trees: list[Tree]) -> None:
    remaining = iter(trees)
    with nullcontext(sys.stdout) if args.output is None else atomic_write(args.output) as file:
        for line in lines:
            own = [next(remaining) for _ in line.sentences]
            if line.record is not None:
                parses = zip(line.fields, map(format_binary, own), strict=True)
                record = {**line.record, **{f"{name}_binary_parse": parse for name, parse in parses}}
                file.write(json.dumps(record) + "\n")
            elif args.draw:
                file.writelines(f"{text}\n" for text in [*drawn(own[0]), ""])
            else:
                file.write(format_binary(own[0]) + "\n")


def _score(gold: list[Tree], models: dict[str, Checkpoint]) -> None:
    """Print how the models' trees, and those made without a parser, agree with the gold trees."""
    lengths = np.array([tree.n_tokens for tree in gold])
    gold_transitions = np.concatenate([tree.transitions for tree in gold])
    parses = {name: _parsed(gold, model, None).transitions for name, model in models.items()}
    scores = {
        name: score_parses(parse, gold_transitions, lengths)
        for name, parse in {**parses, **baseline_transitions(gold)}.items()
    }
    console = Console()
    print(parse_counts(next(iter(scores.values()))))
    console.print(comparison_table(scores))
    for name in models:
        print(f"{name}: {parse_summary(scores[name])}")
        console.print(parse_table(scores[name]))
    if len(parses) > 1:
        whole, inner = (self_f1(list(parses.values()), lengths, whole=whole) for whole in (True, False))
        print(f"agreement of the {len(parses)} models (self F1): mean {whole:.2%}, mean, inner {inner:.2%}")


def _check_usage(args: argparse.Namespace) -> None:
    given = [bool(args.sentences), args.input is not None, args.gold is not None]
    if given.count(True) != 1:
        raise ConfigError("give sentences, or --input, or --gold")
    has_records = args.input is not None and is_jsonl(args.input)
    if args.field is not None and not has_records:
        raise ConfigError("--field goes with a jsonl --input")
    if args.draw and has_records:
        raise ConfigError("--draw: a jsonl --input gives jsonl")
    if args.gold is not None and (args.tokens or args.draw or args.output is not None):
        raise ConfigError("--gold prints scores only: it goes without --tokens, --draw and --output")
    if args.branching is not None and (args.model or args.gold is not None):
        raise ConfigError("--branching goes without --model, and --gold compares with every branching anyway")
    if args.gold is None and args.model is not None and len(args.model) > 1:
        raise ConfigError("several --model are compared with --gold; one of them parses")
    if args.skip_bad and args.sentences:
        raise ConfigError("--skip-bad goes with --input or --gold")
    if args.max_line_bytes is not None and args.sentences:
        raise ConfigError("--max-line-bytes goes with --input or --gold")
    if args.output is not None and args.output.suffix == ".gz":
        raise ConfigError(f"--output {args.output}: plain text is written; give a name without .gz")
