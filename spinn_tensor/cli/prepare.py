"""`spinn prepare`: a corpus read once, into a folder that training opens in a second or two."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from spinn_tensor.cli.arguments import CommandParser, add_device, add_settings, choose_device, given_data
from spinn_tensor.cli.progress import counters, download_bar
from spinn_tensor.cli.report import console, plain_table, print_skipped
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.corpora.download import OFFICIAL, download
from spinn_tensor.data_prep.corpora.generated import GENERATORS
from spinn_tensor.data_prep.corpora.preparation import prepare_store
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.parsers import TreeSource
from spinn_tensor.training.config import DataConfig, settable

# settings of data that a store does not depend on
OF_TRAINING = ("vectors", "vector_norm", "min_count", "lower", "node_labels")
TEXTS = {
    "corpus": "kind of files; needed unless --download is given",
    "data": "folder of the corpus, or its official zip (SNLI, MultiNLI, SST)",
    "parser": "trees made by a SPINN that parses, instead of those of the files, and for text without a parse: "
    "packaged, or the folder of a checkpoint",
}

DESCRIPTION = """\
Reads a corpus and writes its columns (words as numbers, transitions as bits, labels) into a
folder, with a manifest of the files, their SHA-256 and the options. `spinn train --data` opens
that folder in a second or two. Where it is there already, made of the same files with the same
options, nothing is done; made of others, it is replaced, by a whole one or not at all.

The vocabulary is not part of it: --min-count, --lower and --vectors are options of training.
"""

EPILOG = """\
examples:
  spinn prepare --download snli --output prepared/snli
      fetches snli_1.0.zip into downloads/ (again only if it is not there whole) and prepares it

  spinn prepare --corpus multinli --data multinli_1.0.zip --skip-bad --output prepared/multinli
      bad lines are left out; how many and why is printed, and stands in the manifest

  spinn prepare --corpus pairs --train a.jsonl --dev b.jsonl --output prepared/own \\
                --fields premise=text hypothesis=claim label=verdict
      pairs of your own

  spinn prepare --corpus snli --train text.jsonl --dev more.jsonl --parser runs/parser --output prepared/parsed
      raw text; a SPINN that was taught to parse makes the trees

  spinn train --data prepared/snli --preset spinn-pi --output runs/snli
"""


def add_arguments(parser: CommandParser) -> None:
    group = parser.add_argument_group("the store")
    group.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write")
    group.add_argument(
        "--download", choices=tuple(OFFICIAL), metavar="CORPUS", help=f"fetch it first: {', '.join(OFFICIAL)}"
    )
    group.add_argument(
        "--downloads",
        type=Path,
        default=Path("downloads"),
        metavar="DIR",
        help="folder of what is fetched (default: %(default)s)",
    )
    add_device(parser)
    names = [name for name in settable("data") if name not in OF_TRAINING]
    parser.of_stray_words = "; --train and --dev are given once for each file"
    add_settings(parser.add_argument_group("data"), "data", names, texts=TEXTS)


def run(args: argparse.Namespace) -> int:
    data, skipped, start = _data(args), Skipped(), time.perf_counter()
    device = choose_device(args)
    with counters("lines", "sentences parsed") as (on_lines, on_sentences):
        trees = TreeSource(parser=data.parser, of_all=True).text_trees(device, on_sentences)
        manifest, is_new = prepare_store(data, args.output, skipped, trees=trees, on_lines=on_lines)
    if is_new:
        print_skipped(skipped)
    rows = [(name, f"{of['examples']:,}", f"{of['tokens']:,}") for name, of in manifest["splits"].items()]
    console().print(plain_table("split", "examples", "tokens", rows=rows))
    print(f"{manifest['words']:,} different words; labels: {', '.join(manifest['labels']) or 'none'}")
    done = f"written in {time.perf_counter() - start:,.1f} s" if is_new else "up to date, nothing to do"
    print(f"{args.output}: {done}")
    return 0


def _data(args: argparse.Namespace) -> DataConfig:
    given = given_data(args)
    if args.download is None:
        if "corpus" not in given:
            raise ConfigError("say what to prepare: --corpus with --data or --train and --dev, or --download")
        data = DataConfig(**given)
        if data.corpus in GENERATORS and data.data is None and not (data.train and data.dev):
            raise ConfigError(f"no files: `spinn generate DIR --corpus {data.corpus}` makes some")
        return data
    if given.get("corpus", args.download) != args.download or "data" in given:
        raise ConfigError(f"--download {args.download} is the corpus; leave out --corpus and --data")
    archive = OFFICIAL[args.download]
    args.downloads.mkdir(parents=True, exist_ok=True)
    with download_bar(archive.file_name) as on_bytes:
        path = download(archive.url, args.downloads / archive.file_name, archive.sha256, on_bytes=on_bytes)
    return replace(DataConfig(**{**given, "corpus": args.download}), data=str(path))
