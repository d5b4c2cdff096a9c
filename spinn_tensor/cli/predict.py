"""`spinn predict`: the label of a pair or a sentence, with its trees drawn, or of every line of a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from spinn_tensor.answers import unknown_words
from spinn_tensor.cli.arguments import (
    CommandParser,
    add_checkpoint,
    add_fields,
    add_inference,
    add_input,
    check_outputs,
    choose_device,
    given_limits,
    on_error,
)
from spinn_tensor.cli.predictions import label_and_probabilities, records_file
from spinn_tensor.cli.progress import counter_of
from spinn_tensor.cli.report import console, print_skipped, tell, tell_unknown
from spinn_tensor.cli.sentences import (
    composed,
    parse_argument,
    reading_for,
    record_fields,
    sentence_field,
    tell_of_text,
    trees_of,
    under_trees,
)
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.branching import branched
from spinn_tensor.data_prep.columns import Corpus, renumber
from spinn_tensor.data_prep.corpora.formats import (
    Example,
    LabelNames,
    LineFormat,
    PairFields,
    PairFormat,
    SentenceFormat,
    named_fields,
)
from spinn_tensor.data_prep.corpora.read import BLOCK, corpus_of, open_examples
from spinn_tensor.data_prep.files import BLANK, Skipped
from spinn_tensor.data_prep.limits import Limits
from spinn_tensor.data_prep.text import PACKAGED_NLI
from spinn_tensor.data_prep.tree_view import GAP, drawn, side_by_side
from spinn_tensor.data_prep.trees import Tree
from spinn_tensor.data_prep.vocabulary import UNKNOWN_ID, WordList
from spinn_tensor.inference import predict_probabilities
from spinn_tensor.model.classifiers import Checkpoint, load_checkpoint
from spinn_tensor.parsers import packaged_folder

DESCRIPTION = """\
Classifies with a trained checkpoint. A pair (or, for a model of sentences, a sentence)
given as binary parses is printed with its trees and the probability of each label. A
jsonl file, or any other of records, gives records: line, id (pairID, sentenceID or id), label
and probabilities of every line, in its order, null for a blank one; --output NAME.csv or
NAME.tsv has them as a table. A parse brackets every
two constituents: ( ( all dogs ) run ). Text will do as well: the package's parser makes its
trees where the model needs them, or --parser or --branching does.
A model that parses for itself is drawn with its own trees, whatever trees are given; of one
that looks at no tree (an LSTM, a bag of words) the words are listed.
"""

EPILOG = """\
examples:
  spinn predict --premise "A dog runs." --hypothesis "An animal moves."
      the package's own model, a demonstration

  spinn predict runs/logic --premise "( ( all dogs ) run )" --hypothesis "( ( all poodles ) move )"

  spinn predict runs/spinn --premise "all dogs run" --hypothesis "all poodles move"
      text, for a model that parses for itself

  spinn predict runs/pi --input pairs.jsonl --output predictions.jsonl
      fields sentence1_binary_parse, sentence2_binary_parse and, if there, pairID; no label is needed

  spinn predict runs/reviews --sentence "a very good film"
  spinn predict runs/reviews --input new.csv --on-error empty --output labels.csv
"""


def add_arguments(parser: CommandParser) -> None:
    add_checkpoint(parser, " (default)")
    parser.add_argument("--premise", metavar="TEXT", help="text or binary parse of the premise")
    parser.add_argument("--hypothesis", metavar="TEXT", help="the same of the hypothesis")
    parser.add_argument("--sentence", metavar="TEXT", help="the same, for a model of sentences")
    add_input(parser, whose="sentence models: ")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="predictions, as .csv, .tsv or else jsonl, compressed as named (default: jsonl on stdout)",
    )
    add_fields(parser)
    add_inference(
        parser, "not for a model that parses for itself", instead=("empty", "a record without a label")
    )
    parser.of_stray_words = "; --sentence takes one, --premise and --hypothesis a pair, --input a file"


def run(args: argparse.Namespace) -> int:
    _check_usage(args)
    check_outputs([args.output], [args.input])
    device = choose_device(args)
    checkpoint = load_checkpoint(args.checkpoint or packaged_folder(PACKAGED_NLI), device)
    if args.checkpoint is None:
        accuracy = checkpoint.config.metrics["best_dev_score"]
        tell(f"no CHECKPOINT: {PACKAGED_NLI}, a demonstration (right on {accuracy:.1%} of SNLI's dev set)")
    _check_task(args, checkpoint.config.model.task)
    if args.input is not None:
        return _predict_file(args, checkpoint, device)
    made, makes_trees, reader = reading_for(args, checkpoint, device)
    names = ("premise", "hypothesis") if args.sentence is None else ("sentence",)
    limits = Limits(**given_limits(args))
    given = [parse_argument(getattr(args, name), f"--{name}", reader, limits) for name in names]
    trees = dict(zip(names, under_trees(given, makes_trees), strict=True))
    show_prediction(checkpoint, trees, made.branching)
    return 0


def show_prediction(checkpoint: Checkpoint, trees: dict[str, Tree], branching: str | None = None) -> None:
    """Draw the trees (one sentence, or premise and hypothesis) and print the probability of each label.

    The trees are those that the model makes itself, else those of `branching`, else those given. Of a model that looks
    at no tree the words are listed, unless `branching` asks for trees.
    """
    out = console()
    corpus = corpus_of([Example(tuple(trees.values()))], checkpoint.vocabulary)
    if branching is not None:
        corpus = branched(corpus, branching)
    given = list(trees.values())
    seen = trees_of(given, composed(checkpoint, corpus.sentences))
    has_trees = branching is not None or checkpoint.model.encoder.table_kind != "sequence"
    drawings = [
        [name, *(drawn(tree) if has_trees else tree.tokens)] for name, tree in zip(trees, seen, strict=True)
    ]
    width = sum(max(map(len, drawing)) for drawing in drawings) + GAP
    fits = len(drawings) == 2 and width <= out.width
    lines = side_by_side(*drawings) if fits else [line for drawing in drawings for line in drawing]
    for line in lines:
        out.print(line, soft_wrap=True)
    unknown = dict.fromkeys(chain.from_iterable(unknown_words(given, corpus.sentences)))
    if unknown:
        out.print(f"not in the vocabulary: {', '.join(unknown)}", soft_wrap=True)
    probabilities = predict_probabilities(checkpoint.model, corpus)[0]
    labels = checkpoint.config.model.labels
    out.print()
    for i in np.argsort(-probabilities, kind="stable"):
        bar = "█" * round(30 * float(probabilities[i]))
        out.print(f"{labels[i]:<{max(map(len, labels))}}  {probabilities[i]:6.1%}  {bar}")


def _predict_file(args: argparse.Namespace, checkpoint: Checkpoint, device: str) -> int:
    skipped, labels = Skipped(), checkpoint.config.model.labels
    n_predicted = 0
    with (
        records_file(args.output, labels) as write,
        counter_of(args.output, "examples classified") as advance,
    ):
        for lines, names, corpus in _read(args, checkpoint, device, skipped):
            shares = iter([] if corpus is None else predict_probabilities(checkpoint.model, corpus).tolist())
            for line in lines:
                record: dict[str, Any] = {"line": line, "id": None, "label": None, "probabilities": None}
                if line in names:
                    record |= {"id": names[line] or None, **label_and_probabilities(labels, next(shares))}
                write(record)
            n_predicted += len(names)
            advance(len(names))
        if not n_predicted:
            raise skipped.no_examples().at(path=args.input)
    print_skipped(skipped, "lines skipped" if on_error(args) == "skip" else "lines have no label")
    if args.output is not None:
        print(f"{n_predicted:,} predictions in {args.output}")
    return 0


def _read(
    args: argparse.Namespace, checkpoint: Checkpoint, device: str, skipped: Skipped
) -> Iterator[tuple[list[int], dict[int, str], Corpus | None]]:
    """Yield the numbers of lines of --input, the names of the examples there, and the examples; None without any.

    Lines before a bad one are given before its error.
    """
    made, trees, reader = reading_for(args, checkpoint, device)
    if checkpoint.config.model.task == "sentence":
        field = sentence_field(checkpoint, args.field, args.fields)
        name_field = record_fields(checkpoint, args.fields).sentence_id
        is_listops = checkpoint.config.run["data"].get("corpus") == "listops"
        line_format: LineFormat = SentenceFormat(field, reader, name_field, is_listops)
    else:
        known = LabelNames(list(checkpoint.config.model.labels))
        fields = named_fields(PairFields(), (*checkpoint.config.text.fields, *(args.fields or ())))
        line_format = PairFormat(known, fields, require_label=False, reader=reader)
    error, limits = on_error(args), Limits(**given_limits(args))
    n_words = n_unknown = 0
    n_lines = sys.maxsize if made.branching == "random" else BLOCK  # which depend on all sentences before
    with open_examples(args.input, line_format, WordList(), skip_bad=error != "raise", limits=limits) as file:
        if not file.has_records and (option := "fields" if args.fields else args.field and "field"):
            reason = f"--{option} goes with a jsonl --input, or another of records"
            raise ConfigError(f"{reason}; {args.input} is read as text")
        while True:
            file.words = words = WordList()  # of the block alone: memory does not grow with the file
            if (block := file.block(n_lines)) is None:
                break
            skipped.update(block.skipped)
            if block.n_blank:
                skipped[BLANK] += block.n_blank
            corpus, lines = None, block.examples.lines
            if error != "skip":
                lines = np.setdiff1d(block.first_line + np.arange(block.n_lines), block.continued)
            if len(block.examples.labels):
                sentences = block.examples.sentences
                if trees is not None:
                    sentences = trees.put(sentences, words.words, block.examples.text_mask)
                sentences = renumber(sentences, checkpoint.vocabulary.encode(words.words))
                n_words += len(sentences.token_ids)
                n_unknown += int((sentences.token_ids == UNKNOWN_ID).sum())
                corpus = block.examples._replace(sentences=sentences).corpus()
                if made.branching is not None:
                    corpus = branched(corpus, made.branching)
            names = zip(block.examples.lines.tolist(), block.examples.names.to_pylist(), strict=True)
            yield lines.tolist(), dict(names), corpus
        skipped.update(file.skipped)
    tell_of_text(made, trees)
    tell_unknown(n_words, n_unknown)


def _check_usage(args: argparse.Namespace) -> None:
    pair = args.premise is not None or args.hypothesis is not None
    if pair and (args.premise is None or args.hypothesis is None):
        raise ConfigError("a pair needs both --premise and --hypothesis")
    if [pair, args.sentence is not None, args.input is not None].count(True) != 1:
        raise ConfigError("give --premise and --hypothesis, or --sentence, or --input")
    for option in ("output", "field", "fields", "on_error", "skip_bad", "max_line_bytes"):
        if getattr(args, option) not in (None, False) and args.input is None:
            raise ConfigError(f"--{option.replace('_', '-')} goes with --input")


def _check_task(args: argparse.Namespace, task: str) -> None:
    if task == "parse":
        raise ConfigError("this checkpoint only parses; spinn parse --model does it")
    if task == "pair" and args.sentence is not None:
        raise ConfigError("--sentence: this checkpoint classifies pairs; give --premise and --hypothesis")
    if task == "pair" and args.field is not None:
        raise ConfigError("--field: this checkpoint classifies pairs, in the fields sentence1 and sentence2")
    if task == "sentence" and args.premise is not None:
        raise ConfigError("--premise: this checkpoint classifies single sentences; give --sentence")
