"""The arguments that several commands share, and flags made of the settings' dataclasses."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from spinn_tensor.config import ConfigError, did_you_mean
from spinn_tensor.data_prep.branching import BRANCHINGS
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import STDIN
from spinn_tensor.data_prep.flags import add_flag, with_default
from spinn_tensor.data_prep.limits import Limits
from spinn_tensor.data_prep.paths import expanded
from spinn_tensor.training.config import SECTIONS, kind_of, settable, short_key

FIELDS = {
    "fields": "what records call premise, hypothesis, label and pair_id, or of sentences text, label and sentence_id"
}


class CommandParser(argparse.ArgumentParser):
    """Take whole names of options alone, and answer wrong usage with the error and where help is, without the usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self.of_stray_words = ""  # what to say of words that no option takes
        self.register("type", Path, expanded)  # shells leave the ~ of --output=~/runs as it is

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = re.findall(r"--[a-z][\w-]*", self.format_usage())
            wrong = next((word.partition("=")[0] for word in unknown if word.startswith("-")), None)
            hint = self.of_stray_words if wrong is None else did_you_mean(wrong, options)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return known, unknown

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Refuse "", which shells make of a variable that is not set, and "-" as a path, of which a file would come."""
        if not arg_string and (action.option_strings or action.type is not None):
            raise argparse.ArgumentError(action, "expected a value, got ''")
        if arg_string == "-" and action.type is Path:
            raise argparse.ArgumentError(action, "expected a path, got '-'; /dev/stdin and /dev/stdout are")
        return super()._get_value(action, arg_string)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Name the nearest command, or value of an option, to one that there is not."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += did_you_mean(str(value), map(str, action.choices or ()))
            raise

    def error(self, message: str) -> NoReturn:
        """End with the error, which names the models that need no training where one is missing, and where help is."""
        hint = "; the package has packaged and packaged-nli" if "required: CHECKPOINT" in message else ""
        self.exit(2, f"{self.prog}: error: {message}{hint}\nsee {self.prog} --help\n")


def add_settings(
    group: argparse._ActionsContainer,
    section: str,  # of a run's settings
    names: Iterable[str] | None = None,  # of these alone
    default: str = "",  # what to say of the default, in place of the value
    texts: Mapping[str, str] = MappingProxyType({}),  # in place of the settings' own help, with the default
) -> None:
    """Make flags of fields of settings, which say their help, checks and default; `given_settings` reads them."""
    fields = settable(section)
    for name in fields if names is None else names:
        item = fields[name]
        flags = item.metadata["flags"]
        if not flags or not flags[0].endswith(name.replace("_", "-")):  # two sections have one of that name
            flags = (f"--{name.replace('_', '-')}", *flags)
        text = item.metadata["help"]
        if default or name in texts:
            text = texts.get(name, text).replace("%", "%%") + default
        else:
            text = with_default(text, item)
        add_flag(group, item, kind_of(section, name), _destination(section, name), flags, text)


def _destination(section: str, name: str) -> str:
    """Return where a parsed flag is found: under its field's name, but for one that two sections have."""
    return short_key(section, name).replace(".", "__")


def given_settings(args: argparse.Namespace, *sections: str) -> dict[str, Any]:
    """Return the settings that flags of `add_settings` give, as keywords of `RunConfig.changed`."""
    given: dict[str, Any] = {}
    for section in sections or SECTIONS:
        for name in settable(section):
            value = getattr(args, _destination(section, name), None)
            if value is not None:
                given[f"{section}__{name}"] = tuple(value) if isinstance(value, list) else value
    return given


def given_data(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of DataConfig that flags give."""
    return {key.removeprefix("data__"): value for key, value in given_settings(args, "data").items()}


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
        type=partial(positive, most=4096),  # with many more OpenMP ends the process
        default=threads,
        metavar="N",
        help=f"CPU threads (default: {default}); 1 is fastest for small models and on a busy machine",
    )


def add_input(parser: argparse.ArgumentParser, is_required: bool = False, whose: str = "") -> None:
    """Add the file that sentences are read from, and --field; `whose` says which models that is for."""
    parser.add_argument(
        "--input",
        type=lambda name: STDIN if name == "-" else expanded(name),
        required=is_required,
        metavar="FILE",
        help="text, trees or records (jsonl, csv, parquet, …), plain or compressed; - = stdin",
    )
    text = f"{whose}field of records that has the text or tree, e.g. sentence1"
    parser.add_argument("--field", metavar="NAME", help=text)


def _folder(name: str) -> Path:
    from spinn_tensor.parsers import model_folder

    return expanded(model_folder(name))


def add_checkpoint(parser: argparse.ArgumentParser, otherwise: str = "") -> None:
    """Add the model that a command uses; `otherwise` says which one it is where none is named."""
    parser.add_argument(
        "checkpoint",
        nargs="?" if otherwise else None,
        type=_folder,
        metavar="CHECKPOINT",
        help="folder of a checkpoint, or of a run (its best checkpoint is taken); packaged = the package's parser, "
        f"packaged-nli = its NLI model{otherwise}",
    )


def add_inference(
    parser: argparse.ArgumentParser,
    of_parsers: str,  # what --branching does for models that parse
    instead: tuple[str, str] | None = None,  # as in `add_on_error`; None: there is --skip-bad alone
) -> None:
    """Add how commands that use a checkpoint read their sentences, and where they compute."""
    parser.add_argument(
        "--branching",
        choices=(*BRANCHINGS, "none"),
        help="trees made without a parser instead of those given; text without a parse is read, too "
        f"(default: as the model was trained; none = the trees that are given); {of_parsers}",
    )
    parser.add_argument(
        "--parser",
        metavar="NAME|FOLDER",
        help="trees made by this SPINN instead of those given: packaged, or the folder of a checkpoint (default: as "
        "the model was trained; packaged, for English text without a parse)",
    )
    if instead is not None:
        add_on_error(parser, *instead)
    add_settings(parser, "data", ("notation", "skip_bad", *Limits._fields))
    add_device(parser)


def add_on_error(
    parser: argparse.ArgumentParser,
    instead: str,  # the third choice beside raise and skip
    what: str,  # what a line becomes by it
) -> None:
    """Add what becomes of a line without a sentence; `on_error` tells it."""
    parser.set_defaults(in_its_place=instead)
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip", instead),
        type=lambda name: instead if name in ("empty", "nan") else name,  # commands call one thing by either
        help=f"a bad line is an error (raise, the default), left out as blank lines are then (skip, as --skip-bad), "
        f"or {what} ({instead}); unless they are left out, blank lines are {what}; how many is told",
    )


def on_error(args: argparse.Namespace) -> str:
    """Return what --on-error or --skip-bad say. Raises ConfigError where they do not agree."""
    if args.skip_bad and args.on_error not in (None, "skip"):
        raise ConfigError(f"--skip-bad is --on-error skip: it goes without --on-error {args.on_error}")
    return args.on_error or ("skip" if args.skip_bad else "raise")


def add_fields(parser: argparse._ActionsContainer) -> None:
    """Add what the fields of records are called, for a model that knows how those it was trained on call them."""
    add_settings(
        parser, "data", ("fields",), " (default: as of the records that the model was trained on)", FIELDS
    )


def given_limits(args: argparse.Namespace) -> dict[str, Any]:
    """Return the limits that the command line sets, by the names of the fields of `Limits`."""
    return {name: value for name in Limits._fields if (value := getattr(args, name)) is not None}


def check_outputs(outputs: Iterable[Path | None], inputs: Iterable[Path | None]) -> None:
    """Raise DataError for a file that cannot be made, is read, or is two outputs, before anything can be lost."""
    there, places = [path for path in inputs if path is not None and path.exists()], set[Path]()
    for output in (path for path in outputs if path is not None):
        if not output.parent.is_dir():
            raise DataError(f"no such folder: {output.parent}", path=output)
        if output.is_file() and any(map(output.samefile, there)):
            raise DataError("is read, so that it cannot be written; name another file", path=output)
        if (place := output.resolve()) in places and (output.is_file() or not output.exists()):
            raise DataError("is written by two options; name a file for each", path=output)
        places.add(place)


def choose_device(args: argparse.Namespace) -> str:
    """Name the device and set the number of threads. Raises ConfigError if CUDA is asked for and missing."""
    import torch

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device here")
    return "cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu"


def positive(text: str, most: int = 2**31 - 1) -> int:
    """Read an integer of at least 1, for argparse."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r:.80}") from None
    if not 1 <= value <= most:
        expected = "at least 1" if value < 1 else f"at most {most:,}"
        raise argparse.ArgumentTypeError(f"expected {expected}, got {value}")
    return value
