"""`spinn demo`: the whole path in a few minutes, from generated sentences to a pair parsed and classified."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.table import Table

from spinn_tensor.cli.arguments import (
    CommandParser,
    add_device,
    add_settings,
    choose_device,
    given_data,
    given_settings,
)
from spinn_tensor.cli.predict import show_prediction
from spinn_tensor.cli.progress import TerminalObserver
from spinn_tensor.cli.report import console, plain_table, print_evaluations
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.corpora.generated import generate_corpus
from spinn_tensor.data_prep.corpora.generated.logic import LogicConfig
from spinn_tensor.data_prep.trees import right_branching
from spinn_tensor.model.classifiers import load_checkpoint
from spinn_tensor.training.config import DataConfig
from spinn_tensor.training.presets import run_config
from spinn_tensor.training.run import Results, execute, is_run

CORPUS = LogicConfig()
ENCODERS = ("spinn", "spinn-pi", "lstm", "bow")  # the first one's checkpoint is loaded again
# Entailment: the subject becomes narrower, which under "all" keeps the truth, and the predicate wider.
EXAMPLE = {
    "premise": "all dogs that hug some children run",
    "hypothesis": "all poodles that hug some girls move",
}

DESCRIPTION = """\
Shows everything at once, in about three minutes on one core: generates the corpus of logical
inference, trains SPINN, which learns to parse for itself, SPINN-PI, which is given the parses,
and to compare an LSTM and a bag of words; prints their accuracy on dev and on sentences longer
than any in training; then loads SPINN's checkpoint into a fresh model, which parses and
classifies a pair of plain sentences.
"""

EPILOG = """\
examples:
  spinn demo
  spinn demo --output /tmp/demo --seed 3
  spinn demo --epochs 1               a quick look; the figures are then poor
"""


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/demo"),
        metavar="DIR",
        help="folder of the corpus and the runs (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo's runs")
    add_settings(parser, "training", ("seed", "epochs"), default=" (default: the presets')")
    add_settings(parser, "data", ("limit",))
    # matrices this small gain nothing from two threads, and lose much on a busy machine
    add_device(parser, threads=1)


def run(args: argparse.Namespace) -> int:
    device = choose_device(args)
    start = time.perf_counter()
    if not args.overwrite and any(is_run(args.output / kind) for kind in ENCODERS):
        raise ConfigError(f"{args.output}: holds a demo already; --overwrite replaces it")
    corpus = args.output / "corpus"
    print(f"1. the corpus, in {corpus}", flush=True)
    generate_corpus("logic", corpus, CORPUS)
    results = {}
    for number, kind in enumerate(ENCODERS, start=2):
        print(f"{number}. training {kind}", flush=True)
        results[kind] = _train(args, kind, corpus, device)
    print_evaluations({f"{ENCODERS[0]}, dev": results[ENCODERS[0]].evaluations["dev"]})
    console().print(_comparison(results))
    folder = args.output / ENCODERS[0] / "best"
    print(f"{len(ENCODERS) + 2}. loading {folder} into a fresh model; it parses and classifies a pair\n")
    checkpoint = load_checkpoint(folder, device)
    tokenize = checkpoint.tokenizer.tokenize
    # the trees that it is shown are not looked at
    trees = {name: right_branching(tokenize(text)) for name, text in EXAMPLE.items()}
    show_prediction(checkpoint, trees)
    print(f"\n{time.perf_counter() - start:,.0f} seconds in all")
    return 0


def _train(args: argparse.Namespace, kind: str, corpus: Path, device: str) -> Results:
    data = DataConfig(corpus="logic", data=str(corpus), **given_data(args))
    settings = run_config(f"logic-{kind}", data).changed(**given_settings(args, "training"))
    with TerminalObserver(f"{kind}: ") as observer:
        return execute(settings, args.output / kind, device=device, overwrite=True, observer=observer)


def _comparison(results: dict[str, Results]) -> Table:
    columns = ("encoder", "trained parameters", "seconds", "dev", "test", "longer sentences")
    title = "accuracy of the best checkpoint"
    rows = [
        (
            *(kind, f"{result.n_parameters:,}", f"{result.progress.seconds:,.0f}"),
            *(f"{result.evaluations[split].criterion('accuracy'):.1%}" for split in ("dev", "test", "long")),
        )
        for kind, result in results.items()
    ]
    return plain_table(*columns, rows=rows, title=title, title_justify="left", title_style="")
