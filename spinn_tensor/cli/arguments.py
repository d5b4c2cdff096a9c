"""What the subcommands' parsers have in common."""

from __future__ import annotations

import argparse
import difflib
import re
from pathlib import Path
from typing import Any

import torch

from spinn_tensor.config import ConfigError
from spinn_tensor.data_prep.branching import BRANCHINGS
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits


class CommandParser(argparse.ArgumentParser):
    """Answers arguments that it does not know itself, with its own usage; argparse leaves that to the root's."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._suggestion(unknown)}")
        return known, unknown

    def _suggestion(self, unknown: list[str]) -> str:
        options = re.findall(r"--[a-z][\w-]*", self.format_usage())
        wrong = next((word.partition("=")[0] for word in unknown if word.startswith("--")), "")
        nearest = difflib.get_close_matches(wrong, options, n=1, cutoff=0.75)
        return f" (did you mean {nearest[0]}?)" if nearest else ""


def add_command(
    subparsers: Any, name: str, summary: str, description: str, epilog: str
) -> argparse.ArgumentParser:
    """A subcommand whose help keeps the line breaks of its text, with the options that every command has."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_device(parser: argparse.ArgumentParser, threads: int | None = None) -> None:
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto = cuda where there is one (default)",
    )
    default = "torch's choice, one a core" if threads is None else str(threads)
    parser.add_argument(
        "--threads",
        type=positive,
        default=threads,
        metavar="N",
        help=f"CPU threads (default: {default}); 1 is fastest for small models and on a busy machine",
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="folder of a checkpoint, or of a run (its best checkpoint is taken)",
    )


def add_skip_bad(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--skip-bad", action="store_true", default=None, help="leave out bad lines, and say how many and why"
    )


def add_limits(parser: argparse._ActionsContainer) -> None:
    """--max-line-bytes and --max-words, of commands that read sentences; without them the limits are the default."""
    for name, text in (
        ("max_line_bytes", "refuse a longer line of a file, in bytes"),
        ("max_words", "refuse a longer sentence, in words"),
    ):
        default = getattr(DEFAULT_LIMITS, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=positive, metavar="N", help=f"{text} (default: {default:,})"
        )


def given_limits(args: argparse.Namespace) -> dict[str, Any]:
    """The limits that the command line sets, by the names of the fields of `Limits`."""
    return {name: value for name in Limits._fields if (value := getattr(args, name)) is not None}


def add_branching(parser: argparse.ArgumentParser, of_parsers: str) -> None:
    """--branching of the commands that use a checkpoint; `of_parsers` says what it does for models that parse."""
    parser.add_argument(
        "--branching",
        choices=(*BRANCHINGS, "none"),
        help="trees made without a parser instead of those given; text without a parse is read, too "
        f"(default: as the model was trained; none = the trees that are given); {of_parsers}",
    )


def choose_device(args: argparse.Namespace) -> str:
    """The device's name; sets the number of threads. Raises ConfigError if CUDA is asked for and missing."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device here")
    return "cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu"


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value
