"""`spinn evaluate`: how well a checkpoint does, class by class."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from spinn_tensor.cli.arguments import (
    CommandParser,
    add_checkpoint,
    add_fields,
    add_inference,
    check_outputs,
    choose_device,
    given_limits,
)
from spinn_tensor.cli.predictions import ReadSplit, predictions, records_file
from spinn_tensor.cli.report import gold_trees, print_evaluations, print_skipped, tell
from spinn_tensor.cli.runs import described
from spinn_tensor.cli.sentences import source_for, tell_of_text
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.corpora.sources import Source, archive_source, is_left_out, split_sources
from spinn_tensor.data_prep.corpora.splits import prepared_from, read_source, read_stored, renumbered
from spinn_tensor.data_prep.errors import NoExamples
from spinn_tensor.data_prep.files import Skipped, write_json
from spinn_tensor.model.classifiers import Checkpoint, load_checkpoint
from spinn_tensor.parsers import TreeSource
from spinn_tensor.training.checkpoint import run_of
from spinn_tensor.training.config import DataConfig
from spinn_tensor.training.evaluate import Evaluation, evaluate
from spinn_tensor.training.run import BEST, LAST, RUN

DESCRIPTION = """\
Scores a checkpoint: accuracy, macro-F1 (the mean over the classes), precision, recall and
F1 of each class, and the confusion matrix, gold labels down and predictions across.
Without --data it takes the dev, test and extra files of the run that trained the
checkpoint, under its limit; with --data any files in the format of its corpus (SNLI's for
a model of pairs), plain or compressed, or the official SNLI zip.
A model that parses for itself is also scored on its trees: unlabelled bracketing F1 against
those of the files, or those of --branching. Text will do as well: the package's parser makes
its trees where the model needs them, or --parser or --branching does. Where a sentence of a
file is text, the file has no trees to score against, and only the labels are scored.
"""

EPILOG = """\
examples:
  spinn evaluate runs/logic
      the run's best checkpoint on its own dev, test and longer sentences

  spinn evaluate runs/pi/last --data snli_1.0_test.jsonl.gz --json scores.json
      another file; the scores also as JSON

  spinn evaluate runs/pi --data snli_1.0.zip --split test

  spinn evaluate runs/pi --data mine.jsonl --predictions predictions.jsonl
      what is said of every line, for looking at mistakes

  spinn evaluate runs/spinn --data texts.jsonl
      pairs of raw text with their labels, for a model that parses for itself

  spinn evaluate runs/pi --branching balanced
      how much the parses matter: the same sentences under balanced trees
"""


def add_arguments(parser: CommandParser) -> None:
    parser.of_stray_words = "; --data takes files"
    add_checkpoint(parser)
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="files to score, or a folder that spinn prepare wrote (default: the run's own)",
    )
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="which part of an official zip: train, dev, test; mismatched of MultiNLI",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores here as JSON, too")
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="write a record an example, as .csv, .tsv or else jsonl, in the order of its file: file, line, id, gold "
        "(of the file) and label (predicted), probabilities, and of each sentence its words and its tree, the model's "
        "own where it parses",
    )
    add_fields(parser)
    add_inference(parser, "for a model that parses, the trees that its own are scored against")


def run(args: argparse.Namespace) -> int:
    if args.split is not None and not any(path.suffix == ".zip" for path in args.data or ()):
        raise ConfigError("--split goes with --data: it names a part of an official zip")
    outputs = args.json, args.predictions
    check_outputs(outputs, args.data or ())
    device = choose_device(args)
    checkpoint = load_checkpoint(args.checkpoint, device)
    _tell_unfinished(args.checkpoint, checkpoint)
    made = source_for(args, checkpoint, are_scored=True)
    data = _data(args, checkpoint, made)
    check_outputs(outputs, data.files if args.data is None else ())
    skipped, evaluations = Skipped(), dict[str, Evaluation]()
    labels = checkpoint.config.model.labels
    with nullcontext() if args.predictions is None else records_file(args.predictions, labels) as write:
        for read in _splits(args, data, checkpoint, made, device, skipped):
            corpus = renumbered(read.split.columns, checkpoint.vocabulary.encode(read.words))
            evaluation = evaluate(checkpoint.model, corpus)
            if read.n_without_trees and evaluation.parse_scores is not None:
                tell(f"{read.name}: trees are not scored: {read.n_without_trees:,} sentences have none")
                evaluation = evaluation._replace(parse_scores=None)
            evaluations[read.name] = evaluation
            if write is not None:
                for record in predictions(checkpoint, read, corpus):
                    write(record)
    print_skipped(skipped)
    if args.json is not None:
        write_json(args.json, {name: evaluation.to_dict() for name, evaluation in evaluations.items()})
    print_evaluations(evaluations, gold_trees(made.branching, made.parser))
    return 0


def _tell_unfinished(path: Path, checkpoint: Checkpoint) -> None:
    """Say that the run of a checkpoint goes on or was interrupted, and how far the checkpoint is."""
    folder = path.parent if path.name in (BEST, LAST) else path
    if (folder / RUN).is_file() and (run := described(folder)).state == "unfinished":
        metrics = checkpoint.config.metrics
        at = f"step {metrics['step']:,}, after epoch {metrics['epoch']:,}"
        tell(f"{folder}: unfinished, {run.epochs} of {run.epochs_asked} epochs; this checkpoint is of {at}")


def _splits(
    args: argparse.Namespace,
    data: DataConfig,
    checkpoint: Checkpoint,
    made: TreeSource,
    device: str,
    skipped: Skipped,
) -> Iterator[ReadSplit]:
    """Read what is to be scored, a split at a time."""
    model = checkpoint.config.model
    if (stored := _stored(args, data)) is not None:
        trees = made.text_trees(device)
        corpus = read_stored(stored, model.labels, skipped, trees)
        for name, split in corpus.splits.items():
            if name != "train":
                yield ReadSplit(name, split, corpus.words)
        return
    if args.data is None:
        sources = {name: source for name, source in split_sources(data).items() if name != "train"}
    else:
        sources = {
            str(path): archive_source(data.corpus, path, args.split)
            if args.split is not None and path.suffix == ".zip"
            else Source((path,))
            for path in args.data
        }
    for name, source in sources.items():
        # a parser is scored by its trees alone, for which text has none to compare with
        trees = made.text_trees(device) if model.task != "parse" or made.replaces else None
        rules = checkpoint.tokenizer.rules
        try:
            split, words = read_source(source, data, model.labels, skipped, trees, rules)
        except NoExamples as error:
            if args.data is not None or not is_left_out(data, name, error):
                raise
            continue
        tell_of_text(made, trees, f"{name}: ")
        # trees are scored only where all sentences come with trees to compare with, or all are made
        n_texts = 0 if trees is None or made.replaces else trees.n_sentences
        yield ReadSplit(name, split, words, source.paths, n_texts)


def _data(args: argparse.Namespace, checkpoint: Checkpoint, made: TreeSource) -> DataConfig:
    """Return the settings of the run that bear on the files that are scored, and those given now."""
    data = run_of(checkpoint.config, args.checkpoint).data
    is_own = args.data is None
    skip_bad = (is_own and data.skip_bad) if args.skip_bad is None else args.skip_bad
    given = replace(
        data,
        branching=made.branching,
        parser=made.parser if made.of_all else None,
        notation=args.notation or data.notation,
        fields=(*data.fields, *(args.fields or ())),
        skip_bad=skip_bad,
        limit=data.limit if is_own else 0,
        **given_limits(args),
    )
    if is_own and data.dev_fraction:
        for name in ("max_words", "max_line_bytes", "skip_bad", "notation", "fields"):
            if getattr(given, name) != getattr(data, name):
                why = "the run's dev is a part of its training files, read as then"
                raise ConfigError(f"--{name.replace('_', '-')}: {why}; give --data")
    return given


def _stored(args: argparse.Namespace, data: DataConfig) -> DataConfig | None:
    """Return the data whose store is to be scored: the run's own, or the one that is named; None for files."""
    if args.data is None:
        return None if prepared_from(data.data) is None else data
    if len(args.data) != 1 or (corpus := prepared_from(str(args.data[0]))) is None:
        return None
    return DataConfig(corpus=corpus, data=str(args.data[0]), branching=data.branching, parser=data.parser)
