"""`spinn presets`: the table of presets, or one in full."""

from __future__ import annotations

import argparse

from spinn_tensor.cli.arguments import CommandParser
from spinn_tensor.training.presets import preset_table, preset_toml

DESCRIPTION = """\
Lists the presets of `spinn train --preset`: with the hyperparameters that the paper and its
PyTorch version published (the last column says which), baselines beside them, and small ones
for the generated corpus. Whatever is not said to be published was chosen here. With a name,
prints every value of it as a file of TOML, to be copied and changed: `spinn train --preset
FILE` takes it. Such a file may be shorter: what it leaves out is as in the preset that it
names as its base. Its table without_vectors holds where a run has no word vectors.
"""

EPILOG = """\
examples:
  spinn presets                       all of them, one a line
  spinn presets spinn-pi              every value of one
  spinn presets spinn-pi > my.toml
  spinn train --preset my.toml        with what was changed there

a whole file:
  base = "spinn-pi"
  [encoder]
  hidden_dim = 200
  [training]
  epochs = 5
"""


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="show this one, or a file, in full")


def run(args: argparse.Namespace) -> int:
    print(preset_table() if args.name is None else preset_toml(args.name))
    return 0
