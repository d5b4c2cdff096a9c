"""The base of all errors, and the one of data preparation: what is wrong with the input, and where; its one warning."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, TypeVar

Words = TypeVar("Words", bound=Iterable[str])

N_FIELDS = 8  # of a record that are named


def one_line(error: object) -> str:  # or a text
    """Return the text of an error on one line."""
    return " ".join(str(error).split())


class DataWarning(UserWarning):
    """Issued for input that is read although something in it is odd. Its text names the place."""


class Interrupted(Exception):
    """Say that a signal asked the run to end; its last checkpoint is written. All ranks raise it at the same step."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class SpinnError(Exception):
    """Base of every error of this package: what is wrong with what was given, or why work ended. Its text is one line.

    >>> issubclass(ConfigError, SpinnError), issubclass(ConfigError, ValueError)
    (True, True)
    """


class DataError(SpinnError, ValueError):
    """Raised for bad input. `str()` is one line: place, then reason.

    >>> str(DataError("a node with one child", path="dev.jsonl", line=17, token=(5, ")")))
    "dev.jsonl:17: token 5 ')': a node with one child"
    """

    def __init__(
        self,
        reason: str,  # what was got and what was expected
        *,
        path: str | os.PathLike[str] | None = None,
        line: int | None = None,  # counted from 1
        example: int | str | None = None,  # row, counted from 0, or the example's own name
        field: str | None = None,  # of the record
        token: tuple[int, str] | None = None,  # position counted from 1, and the token there
        there: tuple[str, ...] = (),  # of a record that lacks a field: those that it has
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = path
        self.line = line
        self.example = example
        self.field = field
        self.token = token
        self.there = there

    def at(
        self,
        *,
        path: str | os.PathLike[str] | None = None,
        line: int | None = None,
        example: int | str | None = None,
        field: str | None = None,
        kind: type[DataError] | None = None,  # another one than it is of
    ) -> DataError:
        """Return the same error with the places filled in that were not known where it was raised."""
        here: dict[str, Any] = {"path": path, "line": line, "example": example, "field": field}
        known = {name: getattr(self, name) for name in here if getattr(self, name) is not None}
        return (kind or type(self))(self.reason, **(here | known), token=self.token, there=self.there)

    def __str__(self) -> str:
        places = []
        if self.path is not None:
            path = os.fspath(self.path)
            places.append(path if self.line is None else f"{path}:{self.line}")
        elif self.line is not None:
            places.append(f"line {self.line}")
        if self.example is not None:
            places.append(f"example {self.example}")
        if self.field is not None:
            places.append(self.field)
        if self.token is not None:
            position, token = self.token
            places.append(f"token {position} {token[:40]!r}")
        reason = self.reason
        if self.there:
            more = ", …" if len(self.there) > N_FIELDS else ""
            reason += f"; the record has {', '.join(name[:40] for name in self.there[:N_FIELDS])}{more}"
        # Names and reasons may quote the input: whatever line ends they hold, the message stays one line.
        return " ".join(": ".join([*places, reason]).splitlines())


def not_text(words: Words) -> Words:
    """Return the words of a sentence. Raises DataError for a text, whose characters would be its words."""
    if isinstance(words, str):
        raise DataError(f"got a text, {words[:40]!r}, expected a list of words")
    return words


class NotWanted(DataError):
    """Say that a line is not bad but no example, as one without a label: it is left out, and counted."""


class NoExamples(DataError):
    """Say that a file has no example, each of its lines having been left out."""


class NeededLine(DataError):
    """Raised for a line without which the others cannot be read, as a header: it cannot be left out."""
