"""`spinn`: train, evaluate and use SPINN models from the command line.

Exit status: 0 done, 1 an error (one line on stderr), 2 wrong usage, 128 + N ended by signal N (Ctrl-C: 130).
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import signal
import sys
import warnings
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import NoReturn

from spinn_tensor import __version__
from spinn_tensor.cli.arguments import CommandParser
from spinn_tensor.cli.endings import Ended, ending_signals
from spinn_tensor.data_prep.archives import UNREADABLE
from spinn_tensor.data_prep.errors import (
    DataError,
    DataWarning,
    Interrupted,
    NeededLine,
    SpinnError,
    one_line,
)
from spinn_tensor.data_prep.files import NOT_UTF_8
from spinn_tensor.data_prep.limits import LongLine, LongSentence
from spinn_tensor.training.hardware import keep_freed_memory

COMMANDS = {  # each in the module of its name
    "train": "train a model",
    "runs": "compare runs",
    "plot": "draw the curves of runs",
    "evaluate": "score a checkpoint",
    "predict": "classify a pair, a sentence or a file",
    "parse": "sentences to trees",
    "encode": "sentences to vectors",
    "export": "ONNX, TorchScript, Triton, ...",
    "serve": "a model over HTTP",
    "prepare": "read a corpus once, for many runs",
    "inspect": "look at a corpus",
    "generate": "write a generated corpus",
    "profile": "where a training step's time goes",
    "presets": "list the presets of train",
    "doctor": "what is installed, what would fail",
    "demo": "generate, train, compare and classify",
}

DESCRIPTION = """\
SPINN reads a sentence along its parse: words are shifted onto a stack, and the two top
entries are composed whenever the parse closes a bracket. The last entry encodes the
sentence; two encodings tell whether one sentence follows from the other. `spinn COMMAND
--help` explains each command by examples.
"""

EPILOG = """\
a first session, nothing to download:
  spinn train --output runs/first            train SPINN-PI on a generated corpus of logical inference
  spinn evaluate runs/first                  accuracy, class by class
  spinn predict runs/first --premise "( ( all dogs ) run )" --hypothesis "( ( all poodles ) move )"
"""


class _Versions(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from torch import __version__ as of_torch  # which names its build, as torch's metadata may not

        print(f"spinn_tensor {__version__}, torch {of_torch}, Python {platform.python_version()}")
        parser.exit()


def build_parser(arguments: Container[str] | None = None) -> argparse.ArgumentParser:
    """Make the parser of these arguments, which knows the options of commands named there alone; of all by default.

    Most commands load torch, which takes longer than all else that a parser is made of.
    """
    parser = CommandParser(
        prog="spinn",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Versions, nargs=0, help="show the versions and exit")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        own = subparsers.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if arguments is not None and name not in arguments:
            continue
        command = import_module(f"spinn_tensor.cli.{name}")
        own.description, own.epilog = command.DESCRIPTION, command.EPILOG
        own.add_argument("--debug", action="store_true", help="show the traceback of an error")
        own.set_defaults(run=command.run)
        command.add_arguments(own)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    for name in ("stdout", "stderr"):
        # closed, by >&- or a daemon: a file that is opened must not take its place
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 -- for as long as the program runs
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() not in ("utf-8", "utf8"):
            stream.reconfigure(errors="replace")  # a terminal without box characters is no reason to fail
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser(argv)
    if not argv:
        parser.print_help(sys.stderr)
        return 2
    args = parser.parse_args(argv)
    keep_freed_memory()
    try:
        with ending_signals(), _warnings_of_a_line():
            return int(args.run(args))
    except Interrupted as interrupt:  # which the observer has told
        return 128 + interrupt.signal_number
    except (KeyboardInterrupt, Ended) as end:
        print("spinn: interrupted; nothing more was saved", file=sys.stderr)
        return 128 + (end.signal_number if isinstance(end, Ended) else signal.SIGINT)
    except BrokenPipeError:
        # the reader left: no second error at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except _errors() as error:
        if args.debug:
            raise
        reason = one_line(error) or "out of memory"  # a MemoryError has no text
        if isinstance(error, OSError) and error.filename is not None:
            reason = f"{error.filename}: {error.strerror}"
        print(f"spinn: {_rank()}error: {reason}{_remedy(error, args)}", file=sys.stderr)
        return 1


def _errors() -> tuple[type[Exception], ...]:
    """Return what is said in one line. Out of memory may be a RuntimeError of no type of its own on the CPU, too."""
    torch = sys.modules.get("torch")
    return (SpinnError, OSError, MemoryError, *([] if torch is None else [torch.OutOfMemoryError]))


@contextmanager
def _warnings_of_a_line() -> Iterator[None]:
    """Write what is odd about the input as errors are written; other warnings are Python's."""
    usual = warnings.formatwarning

    def formatted(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if issubclass(category, DataWarning):
            return f"spinn: {_rank()}warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _rank() -> str:
    """Say which of the processes that torchrun started this one is."""
    rank = os.environ.get("RANK")
    return f"rank {rank}: " if rank is not None and os.environ.get("WORLD_SIZE", "1") != "1" else ""


def _remedy(error: Exception, args: argparse.Namespace) -> str:
    """Name the option that allows what is too long, or that leaves out a bad line, where the command has it."""
    if isinstance(error, LongLine | LongSentence) and hasattr(args, error.limit):
        return f"; --{error.limit.replace('_', '-')} allows more"
    if isinstance(error, DataError) and error.there and hasattr(args, "fields"):
        return "; --fields says what they are called"
    if isinstance(error, DataError) and error.there and hasattr(args, "field"):
        return "; --field names another"
    if not isinstance(error, DataError) or error.line is None or getattr(args, "skip_bad", True):
        return ""
    if isinstance(error, NeededLine) or error.reason == NOT_UTF_8:  # all lines with such a letter are as bad
        return ""
    is_end = isinstance(error.__cause__, UNREADABLE)  # of an archive: nobody knows how many lines it had
    is_scored = getattr(args, "gold", None) is not None
    in_its_place = None if is_end or is_scored else getattr(args, "in_its_place", None)
    keeps = "" if in_its_place is None else f"--on-error {in_its_place} keeps the place of such lines, "
    return f"; {keeps}--skip-bad leaves {'them' if keeps else 'such lines'} out"
