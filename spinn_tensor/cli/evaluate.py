"""`spinn evaluate`: how well a checkpoint does, class by class."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from spinn_tensor.cli.arguments import (
    add_checkpoint,
    add_command,
    add_inference,
    choose_device,
    given_limits,
)
from spinn_tensor.cli.report import gold_trees, print_evaluations, print_skipped
from spinn_tensor.cli.sentences import TextReader, chosen_branching, needs_parses
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.corpora.sources import Source, archive_source, split_sources
from spinn_tensor.data_prep.corpora.splits import prepared_from, read_source, stored_splits
from spinn_tensor.data_prep.files import Skipped, write_json
from spinn_tensor.data_prep.text import SentenceReader
from spinn_tensor.model.classifiers import Checkpoint, load_checkpoint
from spinn_tensor.training.checkpoint import run_of
from spinn_tensor.training.config import DataConfig
from spinn_tensor.training.evaluate import Evaluation, evaluate

DESCRIPTION = """\
Scores a checkpoint: accuracy, macro-F1 (the mean over the classes), precision, recall and
F1 of each class, and the confusion matrix, gold labels down and predictions across.
Without --data it takes the dev, test and extra files of the run that trained the
checkpoint, under its limit; with --data any files in the format of its corpus (SNLI's for
a model of pairs), plain or compressed, or the official SNLI zip.
A model that parses for itself is also scored on its trees: unlabelled bracketing F1 against
those of the files, or those of --branching. A classifier of pairs that does, or that looks
at no tree (an LSTM, a bag of words), takes raw text as well, in the fields sentence1 and
sentence2; where a sentence of a file is text, the file has no trees to score against, and
only the labels are scored.
"""

EPILOG = """\
examples:
  spinn evaluate runs/logic
      the run's best checkpoint on its own dev, test and longer sentences

  spinn evaluate runs/pi/last --data snli_1.0_test.jsonl.gz --json scores.json
      another file; the scores also as JSON

  spinn evaluate runs/pi --data snli_1.0.zip --split test

  spinn evaluate runs/spinn --data texts.jsonl
      pairs of raw text with their labels, for a model that parses for itself

  spinn evaluate runs/pi --branching balanced
      how much the parses matter: the same sentences under balanced trees
"""


def add_parser(subparsers: Any) -> None:
    parser = add_command(subparsers, "evaluate", "score a checkpoint", DESCRIPTION, EPILOG)
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
    add_inference(parser, "for a model that parses, the trees that its own are scored against")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.split is not None and args.data is None:
        raise ConfigError("--split goes with --data: it names a part of an official zip")
    device = choose_device(args)
    checkpoint = load_checkpoint(args.checkpoint, device)
    data = _data(args, checkpoint)
    skipped = Skipped()
    if (stored := _stored(args, data)) is not None:
        corpora = stored_splits(stored, checkpoint.vocabulary, checkpoint.config.model.labels, skipped)
        evaluations = {
            name: evaluate(checkpoint.model, corpus) for name, corpus in corpora.items() if name != "train"
        }
    else:
        evaluations = {
            name: _evaluate(name, source, data, checkpoint, skipped)
            for name, source in _sources(args, data).items()
        }
    print_skipped(skipped)
    if args.json is not None:
        write_json(args.json, {name: evaluation.to_dict() for name, evaluation in evaluations.items()})
    print_evaluations(evaluations, gold_trees(data.branching))
    return 0


def _evaluate(
    name: str, source: Source, data: DataConfig, checkpoint: Checkpoint, skipped: Skipped
) -> Evaluation:
    """Score a source; trees only where its sentences come with trees to compare with, or --branching does."""
    model = checkpoint.config.model
    reads_text = not needs_parses(checkpoint) and model.task != "parse"
    reader = TextReader(checkpoint.tokenizer) if reads_text else None
    sentences = None if reader is None else SentenceReader(reader, checkpoint.config.text.binarize)
    corpus = read_source(source, data, checkpoint.vocabulary, model.labels, skipped, sentences)
    evaluation = evaluate(checkpoint.model, corpus)
    if evaluation.parse_scores is None or reader is None:
        return evaluation
    if not reader.n_sentences or data.branching is not None:
        return evaluation
    print(f"spinn: {name}: trees are not scored: {reader.n_sentences:,} sentences have none", file=sys.stderr)
    return evaluation._replace(parse_scores=None)


def _data(args: argparse.Namespace, checkpoint: Checkpoint) -> DataConfig:
    """Return the settings of the run that bear on the files that are scored, and those given now."""
    data = run_of(checkpoint.config, args.checkpoint).data
    is_own = args.data is None
    skip_bad = (is_own and data.skip_bad) if args.skip_bad is None else args.skip_bad
    return replace(
        data,
        branching=chosen_branching(args, checkpoint),
        skip_bad=skip_bad,
        limit=data.limit if is_own else 0,
        **given_limits(args),
    )


def _stored(args: argparse.Namespace, data: DataConfig) -> DataConfig | None:
    """Return the data whose store is to be scored: the run's own, or the one that is named; None for files."""
    if args.data is None:
        return None if prepared_from(data.data) is None else data
    if len(args.data) != 1 or (corpus := prepared_from(str(args.data[0]))) is None:
        return None
    return DataConfig(corpus=corpus, data=str(args.data[0]), branching=data.branching)


def _sources(args: argparse.Namespace, data: DataConfig) -> dict[str, Source]:
    if args.data is not None:
        return {str(path): _given_source(path, args.split, data.corpus) for path in args.data}
    sources = split_sources(data)
    return {name: source for name, source in sources.items() if name != "train"}


def _given_source(path: Path, split: str | None, corpus: str) -> Source:
    if split is None or path.suffix != ".zip":
        return Source((path,))
    return archive_source(corpus, path, split)
