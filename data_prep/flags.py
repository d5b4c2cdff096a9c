"""Flags of a command made of the fields of settings, which say their help, checks and default."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any

from spinn_tensor.data_prep.settings import Allowed, ConfigError, check_value


def add_flag(
    group: argparse._ActionsContainer,
    item: dataclasses.Field[Any],
    kind: Any,  # its annotated type
    dest: str,
    names: tuple[str, ...],  # such as "--batch-size"
    text: str,  # its help
) -> None:
    """Add the flag of a field; one that is not given is None."""
    options: dict[str, Any] = {"dest": dest, "help": text.rstrip()}
    allowed: Allowed | None = item.metadata["allowed"]
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif allowed is not None and allowed.choices is not None:
        options["choices"] = allowed.choices
    elif typing.get_origin(kind) is tuple:
        options |= {"nargs": "+", "action": "extend"} if item.metadata["several"] else {"action": "append"}
        options["metavar"] = item.metadata["metavar"]
    else:
        options |= {"type": _checked(item, kind), "metavar": item.metadata["metavar"]}
    group.add_argument(*names, **options)


def with_default(text: str, item: dataclasses.Field[Any]) -> str:
    """Return a help text with the default, where it does not say it already."""
    text = text.replace("%", "%%")
    if "(default" in text or item.default in (None, (), False):
        return text
    shown = f"{item.default:,}" if isinstance(item.default, int) and item.default >= 10_000 else item.default
    return f"{text} (default: {shown})"


def parse_value(kind: Any, text: str, key: str) -> Any:
    """Read a text as a value of the annotated type of a field. Raises ConfigError naming the key."""
    if isinstance(kind, types.UnionType):
        return None if text.lower() == "none" else parse_value(typing.get_args(kind)[0], text, key)
    if kind is bool:
        known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in known:
            raise ConfigError(f"{key}={text}: expected true or false")
        return known[text.lower()]
    if typing.get_origin(kind) is tuple:
        return tuple(item for item in text.split(",") if item)
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{key}={text}: expected {kind.__name__}") from None


def _checked(item: dataclasses.Field[Any], kind: Any) -> Callable[[str], Any]:
    """Return what makes a value of a flag's text, in its field's bounds."""

    def convert(text: str) -> Any:
        try:
            value = parse_value(kind, text, item.name)
            check_value(item, value)
        except ConfigError as error:
            # argparse names the flag
            raise argparse.ArgumentTypeError(str(error).partition(": ")[2]) from None
        return value

    return convert
