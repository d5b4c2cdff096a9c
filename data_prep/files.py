"""Reading corpora line by line and writing files whole: every fault is a `DataError` that names the place."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from spinn_tensor.data_prep.archives import (
    COMPRESSED,
    UNREADABLE,
    in_utf8,
    module_of,
    open_bytes,
    unopened,
    unreadable,
)
from spinn_tensor.data_prep.errors import DataError, NeededLine, NoExamples
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits
from spinn_tensor.data_prep.paths import StrPath as StrPath
from spinn_tensor.data_prep.paths import expanded
from spinn_tensor.data_prep.temporary import named_if_full, real_path, shared_descriptor, temporary_beside

Record = dict[str, Any]
Line = str | Record  # text, JSON that is not read yet, or a record


BLANK = "a blank line"  # as a reason of `Skipped`
NOT_UTF_8 = "not UTF-8 text (iconv -f ENCODING -t utf-8 makes it: of Windows cp1252, in Chinese gb18030)"
OLD_MAC = r"a carriage return {} (lines of an old Mac? tr '\r' '\n' mends them)"
STDIN = Path("/dev/stdin")
N_PLACES = 3  # of each reason that `Skipped` keeps
BLOCK_CHARACTERS = 1 << 25  # of the lines of a block, beside the last one: blocks of usual lines have fewer


class Skipped(Counter[str]):
    """Count the lines left out, by reason and by file, and keep where the first of them are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.places: dict[str, list[str]] = {}  # file:line of up to N_PLACES bad lines, where it was known
        self.files: Counter[str] = Counter()  # lines of each file that was read within `of_file`
        self.there: tuple[str, ...] = ()  # fields of the first record that lacked one
        super().__init__(*args, **kwargs)

    def count_error(self, error: DataError) -> None:
        """Count a bad line under its field and reason; the place is kept apart, so that like joins like."""
        reason = error.reason if error.field is None else f"{error.field}: {error.reason}"
        self[reason] += 1
        self.there = self.there or error.there
        if error.path is not None and error.line is not None:
            self._keep_places(reason, [f"{os.fspath(error.path)}:{error.line}"])

    @contextmanager
    def of_file(self, path: StrPath) -> Iterator[Skipped]:
        """Give counts for one file alone, and add them up here when it has been read, or given up."""
        own = Skipped()
        try:
            yield own
        finally:
            self.update(own)
            if n_lines := own.total():
                self.files[os.fspath(path)] += n_lines

    def by_file(self) -> str:
        """Say how many are in which file, "2 in a.txt, 3 in b.txt"; "" where all are in one."""
        if len(self.files) < 2:
            return ""
        counts = list(self.files.items())
        parts = [f"{n} in {shorter_path(path)}" for path, n in counts[:N_PLACES]]
        if others := counts[N_PLACES:]:
            parts.append(f"{sum(n for _, n in others)} in {len(others)} other files")
        return ", ".join(parts)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Add up counts, as of any Counter, and join the places."""
        super().update(*args, **kwargs)
        for other in args:
            if isinstance(other, Skipped):
                self.files.update(other.files)
                self.there = self.there or other.there
                for reason, places in other.places.items():
                    self._keep_places(reason, places)

    def clear(self) -> None:
        super().clear()
        self.places.clear()
        self.files.clear()
        self.there = ()

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return JSON values: of each reason how many, and places."""
        return {reason: {"lines": n, "places": self.places.get(reason, [])} for reason, n in self.items()}

    def restore(
        self,
        values: Mapping[str, Any],
        path: StrPath,  # of what they are told by: the lines count as left out of it
    ) -> None:
        """Add what `to_dict` gave."""
        with self.of_file(path) as own:
            for reason, entry in values.items():
                own[reason] += int(entry["lines"])
                own._keep_places(reason, list(map(str, entry["places"])))

    def _keep_places(self, reason: str, places: list[str]) -> None:
        kept = self.places.setdefault(reason, [])
        kept.extend(places[: N_PLACES - len(kept)])

    def first_places(self, reason: str) -> str:
        """Say where the first lines are that were left out for this reason, "a.txt:4, 9, …"; "" if unknown."""
        places, parts, before = self.places.get(reason, []), [], ""
        for place in map(shorter_path, places):
            path, _, line = place.rpartition(":")
            parts.append(line if path and path == before else place)
            before = path
        more = ", …" if places and self[reason] > len(places) else ""
        return ", ".join(parts) + more

    def told(self, what: str) -> str:
        """Say how many lines became what, in the plural, why, and which ones were the first."""
        ordered = sorted(self.items(), key=lambda item: (-item[1], item[0]))  # however the lines were read
        reasons = "; ".join(
            f"{count} x {reason}" + (f" ({places})" if (places := self.first_places(reason)) else "")
            for reason, count in ordered
        )
        by_file = f", {text}" if (text := self.by_file()) else ""
        if self.total() == 1:
            what = what.replace("lines", "line").replace(" have ", " has ").replace(" are ", " is ")
        return f"{self.total()} {what}{by_file}: {reasons}" if self else f"0 {what}"

    def no_examples(self, where: str = "") -> NoExamples:
        """Return the error of a file, or what `where` says, of which every line was left out."""
        return NoExamples(f"no examples{where}" + (f" ({self})" if self else ""), there=self.there)

    def __str__(self) -> str:
        return self.told("lines skipped")


class MissingCell(str):
    """Stand for a value that a table lacks, as the text in its place."""


class BadLine(str):
    """Stand for a line that could not be read and was counted, so that the others keep their numbers."""


def shorter_path(place: str) -> str:
    """Give a path as it is, or from the working folder, whichever is shorter."""
    return min(place, os.path.relpath(place), key=len)


@contextmanager
def open_text(
    path: StrPath,
    *,
    member: str | None = None,  # file inside a .zip
    skipped: Skipped | None = None,  # counts bad lines, not raising: too long, not UTF-8, a broken end
    limits: Limits = DEFAULT_LIMITS,  # of which that on a line is kept
) -> Iterator[Iterator[str]]:
    """Open a text file, plain, .gz, .bz2, .xz or in a .zip, whose lines are read as they are asked for.

    Text is UTF-8, or UTF-16 or UTF-32 as a byte order mark says. Lines end at "\\n" alone, so that they count as
    other tools count them; one that is left out is given as an empty one, so that the others keep their numbers.

    Raises DataError, on entry or on the line where it happens, for a missing file or folder, a folder, an
    empty file, a truncated or damaged archive, a missing member, a line that is too long, lines that end as those
    of an old Mac, and text that is not UTF-8. Of a line that is too long no more than the limit is ever in memory.
    """
    with open_bytes(path, member) as file:
        yield text_lines(file, path, skipped, limits)


def text_lines(file: IO[bytes], path: StrPath, skipped: Skipped | None, limits: Limits) -> Iterator[str]:
    """Yield the lines of a file that is open, as `open_text` does."""
    n_lines = 0
    try:
        read_line = partial(in_utf8(file).readline, min(limits.max_line_bytes, sys.maxsize - 1) + 1)
        for line in iter(read_line, b""):
            if n_lines == 0 and not line.endswith(b"\n") and b"\r" in line.rstrip(b"\r"):
                raise NeededLine(OLD_MAC.format("and no line end"))
            try:
                text = _decoded(line, n_lines == 0, limits)
            except DataError as error:
                bad = error.at(path=path, line=n_lines + 1)
                if skipped is None:
                    raise bad from error.__cause__
                while line and not line.endswith(b"\n"):  # the rest of it, if it is too long
                    line = read_line()
                skipped.count_error(bad)
                text = BadLine("\n")
            n_lines += 1
            yield text
    except DataError as error:
        raise error.at(path=path, line=n_lines + 1) from error.__cause__
    except UNREADABLE as error:
        bad = DataError(unreadable(error), path=path, line=n_lines + 1)
        if skipped is None or not n_lines or not isinstance(error, EOFError):
            raise bad from error
        skipped.count_error(bad)
    if not n_lines:
        raise DataError("an empty file", path=path)


def _decoded(line: bytes, is_first: bool, limits: Limits) -> str:
    """Decode a line. Raises DataError."""
    if len(line) > limits.max_line_bytes and not line.endswith(b"\n"):
        raise limits.long_line()
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(NOT_UTF_8) from error
    return text.removeprefix("\ufeff") if is_first else text  # a byte order mark is none of the text


def next_lines(
    lines: Iterator[Line],
    n_lines: int,
    most_characters: int | None = None,  # None: BLOCK_CHARACTERS
    into: list[Line] | None = None,  # which has those before an error, too
) -> list[Line]:
    """Take the next lines or records, at most so many, and fewer where they are long; [] at the end."""
    block: list[Line] = [] if into is None else into
    n_characters = 0
    for line in islice(lines, n_lines):
        block.append(line)
        n_characters += characters_in(line)
        if n_characters >= (most_characters or BLOCK_CHARACTERS):
            break
    return block


def characters_in(line: Line) -> int:
    """Return how long a line, or the text in a record, is."""
    if isinstance(line, str):
        return len(line)
    return sum(len(value) for value in line.values() if isinstance(value, str))


@contextmanager
def atomic_write(path: StrPath, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Open a file to write UTF-8 text ("w") or bytes ("wb"); it takes its name when the block ends well.

    A reader sees the old content or the new, never half of it; on an error nothing is left behind, and what a killed
    writer of the file has left is deleted. A pipe or a device is written to as it is, and of a link what it stands for.
    What this process has open, as /dev/stdout or because its output goes there, is written on where it stands.
    Raises DataError if the file cannot be created.
    """
    named, path = expanded(path), real_path(Path(path))
    with ExitStack() as stack:
        temporary = None
        try:
            if path.is_dir():
                raise IsADirectoryError
            descriptor = shared_descriptor(named)
            if descriptor is None and (path.is_file() or not path.exists()):
                temporary = stack.enter_context(temporary_beside(path, partial(Path.touch, exist_ok=False)))
            opened = _open_to_write((temporary or path) if descriptor is None else descriptor, mode)
        except OSError as error:
            raise DataError(unopened(path, error), path=named) from error
        with named_if_full(named), opened as file:
            yield file
            file.flush()
            if temporary is not None:
                os.fsync(file.fileno())
        if temporary is not None:
            os.replace(temporary, path)


@contextmanager
def write_text(path: StrPath) -> Iterator[IO[str]]:
    """Open a file to write UTF-8 text as `atomic_write` does, compressed where its name says so."""
    suffix = Path(path).suffix
    if suffix == ".zip":
        raise DataError(f"written are {', '.join(COMPRESSED)} and plain files, no .zip", path=path)
    if suffix not in COMPRESSED:
        with atomic_write(path) as file:
            yield file
        return
    module = module_of(suffix)
    with atomic_write(path, "wb") as file, module.open(file, "wt", encoding="utf-8", newline="\n") as packed:
        yield packed


def _open_to_write(path: Path | int, mode: Literal["w", "wb"]) -> IO[Any]:
    return open(path, "wb") if mode == "wb" else open(path, "w", encoding="utf-8", newline="\n")


def parse_record(line: str) -> dict[str, Any]:
    """Read the JSON object in a line of a jsonl file; raises DataError."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {getattr(error, 'msg', error)}") from error
    if not isinstance(record, dict):
        raise DataError(f"got a JSON {type(record).__name__}, expected an object")
    return record


def read_json(path: StrPath) -> Any:
    """Return the value in a JSON file. Raises DataError of one line that names the path."""
    try:
        return json.loads(expanded(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(unopened(path, error), path=path) from error
    except (ValueError, RecursionError) as error:  # of text that is not UTF-8, too
        raise DataError(f"not JSON ({error})", path=path) from error


def read_json_object(path: StrPath) -> dict[str, Any]:
    """Return the object in a JSON file. Raises DataError as `read_json`, and for any other value."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"got a JSON {type(value).__name__}, expected an object", path=path)
    return value


def write_json(path: StrPath, value: Any) -> None:
    """Write a value as a JSON file, all of it or nothing. Raises ValueError for NaN, which JSON does not have."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text + "\n")
