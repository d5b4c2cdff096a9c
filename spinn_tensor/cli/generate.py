"""`spinn generate`: a generated corpus, logical inference or ListOps, as files."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from spinn_tensor.cli.arguments import CommandParser, positive
from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.corpora.generated import GENERATORS, write_generated

SPLITS = ("train", "dev", "test", "long")
UNITS = {"logic": "pairs", "listops": "expressions"}

DESCRIPTION = """\
Writes a generated corpus with gold parses; the same seed gives the same bytes. An earlier
corpus in the folder is replaced as a whole.

logic     pairs of sentences made of quantifiers, nouns, verbs, adjectives, relative clauses
          and negation, in SNLI's jsonl schema. The label of a pair is computed by checking
          every model of a small finite world, never by a pattern of words. Four files:
          train.jsonl, dev.jsonl, test.jsonl, and long.jsonl with sentences longer than any
          in training.
listops   nested operations on lists of digits (Nangia & Bowman 2018), whose value cannot be
          had without the right parse: a value, a tab and a parse a line, in train.tsv,
          dev.tsv and test.tsv. Expressions have at most 100 tokens, those of test any number.
"""

EPILOG = """\
examples:
  spinn generate corpus
  spinn generate corpus-b --seed 7 --train 3000 --dev 500
  spinn generate listops --corpus listops

  spinn train --data corpus --output runs/logic
      trains on it (train generates one by itself where --data is not given)
"""


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to write into")
    parser.add_argument(
        "--corpus", choices=tuple(GENERATORS), default="logic", help="which one (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="default: 0")
    for split in SPLITS:
        sizes = {name: getattr(part.default, f"n_{split}", None) for name, part in GENERATORS.items()}
        default = ", ".join(f"{size} for {name}" for name, size in sizes.items() if size is not None)
        parser.add_argument(f"--{split}", type=positive, metavar="N", help=f"examples (default: {default})")


def run(args: argparse.Namespace) -> int:
    generator = GENERATORS[args.corpus]
    if args.long is not None and "long" not in generator.files:
        raise ConfigError(f"--long: the corpus {args.corpus} has no such split")
    given = {"seed": args.seed, **{f"n_{split}": getattr(args, split) for split in SPLITS}}
    config = replace(generator.default, **{name: n for name, n in given.items() if n is not None})
    write_generated(args.corpus, args.folder, config)
    sizes = [getattr(config, f"n_{split}") for split in generator.files]
    print(f"{' + '.join(f'{size:,}' for size in sizes)} {UNITS[args.corpus]} in {args.folder}")
    return 0
