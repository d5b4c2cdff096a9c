"""`spinn generate`: the embedded corpus of logical inference, as files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from data_prep.logic import LogicConfig
from spinn_tensor.cli.arguments import add_command, positive
from spinn_tensor.training.corpora import write_logic

DEFAULTS = LogicConfig()

DESCRIPTION = """\
Writes the generated corpus: pairs of sentences made of quantifiers, nouns, verbs, adjectives,
relative clauses and negation, with gold parses, in SNLI's jsonl schema. The label of a pair is
computed by checking every model of a small finite world, never by a pattern of words. Four
files: train.jsonl, dev.jsonl, test.jsonl, and long.jsonl with sentences longer than any in
training. The same seed gives the same bytes. An earlier corpus in the folder is replaced as a
whole.
"""

EPILOG = """\
examples:
  spinn generate corpus
  spinn generate corpus-b --seed 7 --train 3000 --dev 500

  spinn train --data corpus --output runs/logic
      trains on it (train generates one by itself where --data is not given)
"""


def add_parser(subparsers: Any) -> None:
    parser = add_command(subparsers, "generate", "write the generated corpus", DESCRIPTION, EPILOG)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to write into")
    parser.add_argument("--seed", type=int, default=DEFAULTS.seed, metavar="N", help="default: %(default)s")
    for split in ("train", "dev", "test", "long"):
        default = getattr(DEFAULTS, f"n_{split}")
        parser.add_argument(
            f"--{split}", type=positive, default=default, metavar="N", help="pairs (default: %(default)s)"
        )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    config = LogicConfig(
        seed=args.seed, n_train=args.train, n_dev=args.dev, n_test=args.test, n_long=args.long
    )
    write_logic(args.folder, config)
    print(f"{args.train:,} + {args.dev:,} + {args.test:,} + {args.long:,} pairs in {args.folder}")
    return 0
