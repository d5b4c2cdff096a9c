"""`spinn inspect`: looking at a corpus before anything is trained on it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from spinn_tensor.cli.arguments import CommandParser, add_settings, check_outputs, given_data, given_settings
from spinn_tensor.cli.inspect_page import check_installed, corpus_page, samples
from spinn_tensor.cli.inspect_tables import MEASURES, Inspection, percent, sections
from spinn_tensor.cli.report import console, plain_table
from spinn_tensor.cli.train import add_data, add_preset, read_once
from spinn_tensor.data_prep.corpora.splits import Splits, prepared_from
from spinn_tensor.data_prep.files import Skipped, atomic_write
from spinn_tensor.data_prep.statistics import (
    Coverage,
    Distribution,
    bin_edges,
    binned,
    coverage,
    overlap,
    split_statistics,
)
from spinn_tensor.data_prep.vectors import read_vectors
from spinn_tensor.fixed_shapes import shape_use
from spinn_tensor.training.config import DataConfig, RunConfig, encoder_config
from spinn_tensor.training.presets import DEFAULT_PRESETS, corpus_of_preset, run_config

TEXTS = {  # of settings that mean less here than in training
    "seed": "of the batches that are laid into shapes, and of which trees are drawn",
    "batch_size": "pairs or sentences of a batch that is laid into shapes",
    "skip_bad": "leave out bad lines, and say how many and why (default); --no-skip-bad ends at the first",
}
TABLE_KINDS = ("forest", "lanes")  # of given trees
WIDTH = 80  # of the bars of a row and what stands beside them
MOST_BINS = 16
EIGHTHS = ("", *"▏▎▍▌▋▊▉")

DESCRIPTION = """\
Reads the data of `spinn train` with the same options and says what is in it: how many
examples, words and repetitions, and how many are in train and in another split as well;
lengths and heights of trees as histograms; class balance; with --vectors, for how many words
and tokens there is a vector; and how much of the fixed shapes that batches are laid into for
CUDA graphs stays empty. Bad lines do not end it: they are left out, counted by reason, and the
first ones named. Nothing is trained and nothing written but the page of --html, which has all
of it with plots and sample trees, in one file to be opened in any browser.
"""

EPILOG = """\
examples:
  spinn inspect
      the generated corpus of logical inference, which is made in a temporary folder

  spinn inspect --corpus snli --data snli_1.0.zip --html snli.html
      SNLI, and a page about it; --limit 20000 would read less of every split

  spinn inspect --corpus sst --train train.txt.gz --dev dev.txt.gz --trees 20 --html sst.html
      with twenty trees of train, the sentiment of each node in it

  spinn inspect --corpus snli --data snli_1.0.zip --vectors glove.840B.300d.txt
      for how much of each split there are vectors

  spinn inspect --data prepared/snli
      what spinn prepare wrote, its bad lines included

  spinn inspect --corpus trees --train mine.jsonl --dev mine_dev.jsonl
      which lines of files of your own cannot be read, and why
"""


def add_arguments(parser: CommandParser) -> None:
    group = parser.add_argument_group("what is shown")
    group.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write one page with plots and sample trees; needs the extra plots, matplotlib",
    )
    group.add_argument(
        "--trees",
        type=not_negative,
        default=6,
        metavar="N",
        help="examples of train whose trees are drawn on the page; a pair has two (default: %(default)s)",
    )
    add_settings(group, "training", ("seed", "batch_size"), default=" (default: the preset's)", texts=TEXTS)
    add_settings(group, "encoder", ("embedding_dim",), default=" (default: the preset's)")
    add_preset(group, "batch size, seed and width are its")
    add_data(parser, generated="a temporary folder", texts=TEXTS)


def not_negative(text: str) -> int:
    """Read an integer of at least 0, for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {value}")
    return value


def run(args: argparse.Namespace) -> int:
    if args.html is not None:
        check_installed()
    settings = _settings(args)
    check_outputs([args.html], settings.data.files)
    with ExitStack() as files:  # opened first, so that a folder that is not there costs no reading
        html = None if args.html is None else files.enter_context(atomic_write(args.html))
        found, splits = inspect(settings)
        if html is not None:
            seed = settings.training.seed
            drawn = samples(splits.train, splits.labels, splits.vocabulary, args.trees, seed)
            html.write(corpus_page(found, drawn))
    print_inspection(found)
    if args.html is not None:
        print(f"wrote {args.html}")
    return 0


def inspect(settings: RunConfig) -> tuple[Inspection, Splits]:
    """Read the data and count everything. Raises DataError, not for a bad line where `skip_bad` is set."""
    skipped = Skipped()
    training = settings.training
    size, budget, seed = training.batch_size, training.batch_tokens, training.seed
    with Console(stderr=True).status("reading") as status:  # which a terminal alone shows
        splits = read_once(settings, "cpu", skipped)
        status.update("counting")
        corpora = {"train": splits.train, "dev": splits.dev, **splits.others}
        n_words, n_labels = len(splits.vocabulary), len(splits.labels)
        statistics = {name: split_statistics(corpus, n_labels, n_words) for name, corpus in corpora.items()}
        overlaps = {
            name: overlap(splits.train, corpus) for name, corpus in corpora.items() if name != "train"
        }
        status.update("looking for vectors")
        coverages, vectors = dict[str, Coverage](), ""
        if settings.data.vectors is not None:
            dim = encoder_config(settings.encoder, n_words).embedding_dim
            read = read_vectors(settings.data.vectors, splits.vocabulary, dim)
            vectors = str(read)
            coverages = {name: coverage(of.word_counts, read.found_mask) for name, of in statistics.items()}
        status.update("laying batches into shapes")
        uses = {kind: shape_use(splits.train, kind, size, seed, budget) for kind in TABLE_KINDS}
    found = Inspection(
        title=_title(settings.data),
        labels=splits.labels,
        statistics=statistics,
        overlaps=overlaps,
        skipped=skipped,
        coverages=coverages,
        vectors=vectors,
        uses=uses,
        batch_size=size,
        n_batches=-(-len(splits.train.labels) // size),
    )
    return found, splits


def print_inspection(found: Inspection) -> None:
    """Print all tables and histograms, on a terminal or into a file."""
    out = console()
    print(found.title)
    for section in sections(found):
        for figures in section.tables:
            out.print(plain_table(*figures.columns, rows=figures.rows, text_columns=figures.text_columns))
        for note in section.notes:
            out.print(note)
        if section.drawn in MEASURES:
            out.print(histogram_table(MEASURES[section.drawn], found.distributions(section.drawn)))


def histogram_table(
    what: str,  # the values are
    sides: Mapping[str, Mapping[str, Distribution]],  # of train, by side and split; dev's for the same bins
) -> Table:
    """Draw bars of block characters, those of all sides beside each other, as long as there is room."""
    counts = [part.counts for splits in sides.values() for part in splits.values()]
    total = np.sum([np.pad(part, (0, max(map(len, counts)) - len(part))) for part in counts], axis=0)
    edges = bin_edges(total, MOST_BINS, start=1 if what == "words" else 0)
    names = [
        str(first) if first + 1 == end else f"{first}–{end - 1}"
        for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]
    room = WIDTH - max(len(what), *map(len, names)) - 2
    length = room // len(sides) - 12  # beside a share and blanks
    table = plain_table(what, text_columns=())
    columns: list[list[str]] = [names]
    for side, splits in sides.items():
        table.add_column(f"train, {side}" if len(sides) > 1 else "train", no_wrap=True, width=length)
        table.add_column("", justify="right", no_wrap=True)
        shares = binned(splits["train"].counts, edges) / splits["train"].total
        columns.append([bar(share / shares.max(), length) for share in shares.tolist()])
        columns.append([percent(share) for share in shares.tolist()])
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    return table


def bar(part: float, length: int) -> str:
    """Draw a bar of block characters, to an eighth of one; whatever is not nothing is seen."""
    eighths = max(round(8 * length * part), 1 if part > 0 else 0)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + EIGHTHS[rest]


def _settings(args: argparse.Namespace) -> RunConfig:
    """Return settings, of which data, batch size, seed and width matter here. Raises ConfigError and DataError."""
    given = given_data(args)
    corpus = prepared_from(given.get("data")) or corpus_of_preset(args.preset)
    data = DataConfig(**{"corpus": corpus, "skip_bad": True, **given})
    settings = run_config(args.preset or DEFAULT_PRESETS[data.corpus], data)
    return settings.changed(**given_settings(args, "training", "encoder"))


def _title(data: DataConfig) -> str:
    files = ([data.data] if data.data is not None else []) + [*data.train]
    where = ", ".join(os.path.basename(os.path.normpath(path)) for path in files) or "generated"
    limit = f", the first {data.limit:,} examples of each split" if data.limit else ""
    trees = f", under {data.branching} trees" if data.branching is not None else ""
    kinds = "".join(f", --{name}" for name in ("binary", "phrases", "lower") if getattr(data, name))
    return f"{data.corpus}: {where}{kinds}{limit}{trees}"
