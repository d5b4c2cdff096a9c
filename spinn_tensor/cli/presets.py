"""`spinn presets`: the table of presets, or one in full."""

from __future__ import annotations

import argparse
import json
from typing import Any

from spinn_tensor.cli.arguments import add_command
from spinn_tensor.training.config import DataConfig
from spinn_tensor.training.presets import preset_table, run_config

DESCRIPTION = """\
Lists the presets of `spinn train --preset`: with the hyperparameters that the paper and its
PyTorch version published (the last column says which), baselines beside them, and small ones
for the generated corpus. Whatever is not said to be published was chosen here. With a name,
prints every value of it as JSON; any of them can be changed with --set key=value or a flag.
"""

EPILOG = """\
examples:
  spinn presets                     all of them, one a line
  spinn presets spinn-pi            every value of one
"""


def add_parser(subparsers: Any) -> None:
    parser = add_command(subparsers, "presets", "list the presets of train", DESCRIPTION, EPILOG)
    parser.add_argument("name", nargs="?", help="show this one in full")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.name is None:
        print(preset_table())
    else:
        values = run_config(args.name, DataConfig()).to_dict()
        print(json.dumps({key: value for key, value in values.items() if key != "data"}, indent=1))
    return 0
