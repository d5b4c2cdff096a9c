"""Settings as frozen dataclasses: checked when they are made, and the same after a trip through JSON."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, ClassVar, NamedTuple, Self

from spinn_tensor.data_prep.errors import SpinnError

_SCALARS = frozenset({int, float, bool, str, types.NoneType})


class ConfigError(SpinnError, ValueError):
    """Raised for a setting that is unknown, missing, or not what it can be."""


class Allowed(NamedTuple):
    """Say which values a setting may have."""

    text: str  # "at least 1"
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] | None = None  # where there are few


AT_LEAST_1 = Allowed("at least 1", lambda value: value >= 1)
AT_LEAST_2 = Allowed("at least 2", lambda value: value >= 2)
NOT_NEGATIVE = Allowed("0 or more", lambda value: value >= 0)
POSITIVE = Allowed("more than 0", lambda value: value > 0)
LARGEST_FLOAT = 3.4e38  # that tensors of 32 bits hold
PROBABILITY = Allowed("a probability in [0, 1)", lambda value: 0 <= value < 1)


def one_of(*choices: str) -> Allowed:
    """Allow these names alone."""
    return Allowed(f"one of {', '.join(choices)}", choices.__contains__, choices)


def setting(
    default: Any,
    help: str,
    allowed: Allowed | None = None,
    *,
    flags: tuple[str, ...] = (),  # other names of its flag than its own
    metavar: str = "N",
    several: bool = False,  # whether its flag takes several values at once
) -> Any:
    """Declare a field of settings: its default, and all that the command line says and checks of it."""
    metadata = {"help": help, "allowed": allowed, "flags": flags, "metavar": metavar, "several": several}
    return dataclasses.field(default=default, metadata=metadata)


def required(help: str, allowed: Allowed | None = None) -> Any:
    """Declare a field of settings that has no default."""
    return setting(dataclasses.MISSING, help, allowed)


def check_value(item: dataclasses.Field[Any], value: Any) -> None:
    """Raise ConfigError for a value that its field does not allow."""
    if isinstance(value, float) and not abs(value) <= LARGEST_FLOAT:
        expected = "a number that 32 bits hold" if math.isfinite(value) else "a finite number"
        raise ConfigError(f"{item.name}: expected {expected}, got {value!r}")
    allowed: Allowed | None = item.metadata.get("allowed")
    if value is not None and allowed is not None and not allowed.holds(value):
        nearest = did_you_mean(str(value), allowed.choices or ())
        raise ConfigError(f"{item.name}: expected {allowed.text}, got {value!r:.80}{nearest}")


class Settings:
    """Give a dataclass of settings what all of them can: check values, go to JSON values and come back.

    Its docstring gets an entry for each field, made of what `setting` says of it. Fields may be settings themselves.
    """

    unsaid: ClassVar[tuple[str, ...]] = ()  # fields that go without saying at their defaults

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        summary, _, more = (cls.__doc__ or "").partition("\n\n")
        entries = [
            _entry(name, kind, vars(cls).get(name, dataclasses.MISSING))
            for name, kind in cls.__annotations__.items()
        ]
        parts = [summary, "Args:\n" + "\n".join(entries), *([inspect.cleandoc(more)] if more else [])]
        cls.__doc__ = "\n\n".join(parts)

    def __new__(cls, *values: Any, **named: Any) -> Self:
        """Raise TypeError for an unknown keyword, as every class does, but with the nearest."""
        known = [item.name for item in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for name in named.keys() - known:
            raise TypeError(
                f"{cls.__name__}() got an unexpected keyword argument {name!r}{did_you_mean(name, known)}"
            )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            check_value(item, getattr(self, item.name))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        values = {}
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if item.name in self.unsaid and value == item.default:
                continue
            if isinstance(value, tuple):
                value = list(value)
            values[item.name] = as_values(value) if isinstance(value, Settings | Mapping) else value
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave. Raises ConfigError for an unknown or missing key and a value of another type."""
        return cls(**checked_fields(cls, values))


def _entry(name: str, kind: str, item: Any) -> str:
    """Describe a field as the argument that it is."""
    metadata = getattr(item, "metadata", {})
    default = item.default if isinstance(item, dataclasses.Field) else item
    text: str = metadata.get("help", "")
    allowed: Allowed | None = metadata.get("allowed")
    parts = [text, "" if allowed is None else allowed.text]
    if default is not dataclasses.MISSING and "(default" not in text:
        parts.append(f"default: {default!r}")
    line = f"{name} ({kind}): {'; '.join(filter(None, parts)) or 'required'}."
    return textwrap.fill(line, 110, initial_indent="    ", subsequent_indent="        ")


def as_values(settings: Settings | Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON values, which they may be already."""
    return settings.to_dict() if isinstance(settings, Settings) else dict(settings)


def nearest_of(name: str, known: Iterable[str]) -> str | None:
    """Return the nearest of the names that there are; None where none is near."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest of the names that there are; "" where none is near."""
    nearest = nearest_of(name, known)
    return "" if nearest is None else f" (did you mean {nearest}?)"


@cache
def kinds_of(cls: type) -> Mapping[str, Any]:
    """Return the annotated types of a dataclass's fields by name, evaluated once: a command asks hundreds of times."""
    return types.MappingProxyType(typing.get_type_hints(cls))


def checked_fields(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Check values as keyword arguments of a dataclass: no unknown or missing key, no value of another type."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{cls.__name__}: expected an object with keys, got {type(values).__name__}")
    hints = kinds_of(cls)
    fields = {item.name: item for item in dataclasses.fields(cls)}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"{cls.__name__}: unknown key {key!r}{did_you_mean(key, fields)}")
        kinds = _alternatives(hints[key])
        if _SCALARS.issuperset(kinds) and not any(_is_a(value, kind) for kind in kinds):
            names = " or ".join("none" if kind is types.NoneType else kind.__name__ for kind in kinds)
            raise ConfigError(f"{cls.__name__}.{key}: expected {names}, got {value!r:.80}")
        if value is None and types.NoneType not in kinds:
            raise ConfigError(f"{cls.__name__}.{key}: expected a value, got none")
    for name, item in fields.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{cls.__name__}: key {name!r} is missing")
    return {name: _from_json(hints[name], value) for name, value in values.items()}


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _from_json(hint: Any, value: Any) -> Any:
    """Make a tuple of a list, and settings of an object, where a field has them."""
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(value)
    for kind in _alternatives(hint) if value is not None else (hint,):
        if isinstance(kind, type) and issubclass(kind, Settings):
            return kind.from_dict(value)
    return value


def _is_a(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
