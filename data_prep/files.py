"""Reading corpora line by line and writing files whole: every fault is a `DataError` that names the place."""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, cast

from spinn_tensor.data_prep.encodings import in_utf8
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits
from spinn_tensor.data_prep.paths import StrPath as StrPath
from spinn_tensor.data_prep.paths import expanded
from spinn_tensor.data_prep.temporary import real_path, shared_descriptor, temporary_beside

try:
    from lzma import LZMAError
except ImportError:  # a Python that was built without it, which reads no .xz

    class LZMAError(Exception):  # type: ignore[no-redef]
        pass


Record = dict[str, Any]
Line = str | Record  # text, JSON that is not read yet, or a record


BLANK = "a blank line"  # as a reason of `Skipped`
NOT_UTF_8 = "not UTF-8 text (of Windows? iconv -f cp1252 -t utf-8 makes it)"
STDIN = Path("/dev/stdin")
N_PLACES = 3  # of each reason that `Skipped` keeps
COMPRESSED = {
    ".gz": "gzip",
    ".bz2": "bz2",
    ".xz": "lzma",
}  # the module whose `open` unpacks a file of this ending
UNREADABLE = (
    EOFError,
    OSError,
    zlib.error,
    zipfile.BadZipFile,
    LZMAError,
)  # what reading on in an archive raises
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

    def told(self, what: str) -> str:
        """Say how many lines became what, in the plural, and why."""
        ordered = sorted(self.items(), key=lambda item: (-item[1], item[0]))  # however the lines were read
        reasons = "; ".join(f"{count} x {reason}" for reason, count in ordered)
        by_file = f", {text}" if (text := self.by_file()) else ""
        if self.total() == 1:
            what = what.replace("lines", "line").replace(" have ", " has ").replace(" are ", " is ")
        return f"{self.total()} {what}{by_file}: {reasons}" if self else f"0 {what}"

    def no_examples(self, where: str = "") -> DataError:
        """Return the error of a file, or what `where` says, of which every line was left out."""
        return DataError(f"no examples{where} ({self})", there=self.there)

    def __str__(self) -> str:
        return self.told("lines skipped")


class BadLine(str):
    """Stand for a line that could not be read and was counted, so that the others keep their numbers."""


def shorter_path(place: str) -> str:
    """Give a path as it is, or from the working folder, whichever is shorter."""
    return min(place, os.path.relpath(place), key=len)


def unpacked_name(path: StrPath) -> str:
    """Give a file's name without the ending that says how it is compressed."""
    name, suffix = os.path.splitext(os.fspath(path))
    return name if suffix in COMPRESSED else os.fspath(path)


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
    empty file, a truncated or damaged archive, a missing member, a line that is too long, and text that is not
    UTF-8. Of a line that is too long no more than the limit is ever in memory.
    """
    if member is not None and Path(path).suffix != ".zip":
        raise DataError(f"expected a .zip file to read {member} from", path=path)
    with open_bytes(path, partial(only_member, member)) as file:
        yield text_lines(file, path, skipped, limits)


def open_bytes(
    path: StrPath,
    choose: Callable[[Sequence[str]], str],  # of the names of the files in a .zip, one; may raise DataError
) -> IO[bytes]:
    """Open a file, plain, .gz, .bz2, .xz or in a .zip, whose bytes are unpacked as they are read.

    Raises DataError for a missing file or folder, a folder, and an archive that is damaged or packed in another way
    than deflated. What is wrong further on shows when it is read: as one of `UNREADABLE`.
    """
    path = expanded(path)
    try:
        suffix = path.suffix
        if suffix in COMPRESSED:
            return cast(IO[bytes], _module_of(suffix).open(path))
        if suffix != ".zip":
            return open(path, "rb")
        with zipfile.ZipFile(path) as archive:
            member = choose([name for name in archive.namelist() if not name.endswith("/")])
            if archive.getinfo(member).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{member} is packed in another way than deflated")
            # stays open after the archive, until it is closed itself; its own readline is slow with a limit
            return io.BufferedReader(cast(Any, archive.open(member)))
    except DataError as error:
        raise error.at(path=path) from error.__cause__
    except zipfile.BadZipFile as error:
        raise DataError("truncated or not a .zip file", path=path) from error
    except OSError as error:
        raise DataError(_reason(path, error), path=path) from error
    except (EOFError, RuntimeError, ValueError) as error:  # of a .zip that is odd, damaged or encrypted
        raise DataError(f"cannot be read: {error}", path=path) from error


def _module_of(suffix: str) -> Any:
    """Import the module that unpacks files of this ending. Raises DataError where Python was built without it."""
    try:
        return importlib.import_module(COMPRESSED[suffix])
    except ImportError as error:
        raise DataError(
            f"this Python was built without {COMPRESSED[suffix]}, which {suffix} needs"
        ) from error


def only_member(member: str | None, names: Sequence[str]) -> str:
    """Return the file of a .zip that is named, or the only one. Raises DataError."""
    if member is None:
        own = [name for name in names if not name.startswith("__MACOSX/")]
        member = own[0] if len(own) == 1 else None
    if member is None or member not in names:
        wanted = "say which file of it to read" if member is None else f"no {member} in it"
        raise DataError(f"{wanted}; it holds {', '.join(names[:8])}")
    return member


def unreadable(error: Exception) -> str:
    """Say in a line what is wrong with a file that cannot be unpacked further; the error is one of `UNREADABLE`."""
    if isinstance(error, EOFError):
        return "truncated: the compressed data end early"
    return f"cannot be read: {error}"


def text_lines(file: IO[bytes], path: StrPath, skipped: Skipped | None, limits: Limits) -> Iterator[str]:
    """Yield the lines of a file that is open, as `open_text` does."""
    n_lines = 0
    try:
        read_line = partial(in_utf8(file).readline, min(limits.max_line_bytes, sys.maxsize - 1) + 1)
        for line in iter(read_line, b""):
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


def _reason(path: StrPath, error: Exception) -> str:
    folder = Path(path).parent
    if isinstance(error, FileNotFoundError):
        return "no such file" if folder.is_dir() else f"no such folder: {folder}"
    if isinstance(error, IsADirectoryError):
        hint = "; name those in it" if any(Path(path).glob("*.parquet")) else ""
        return f"a folder, expected a file{hint}"
    return (isinstance(error, OSError) and error.strerror) or str(error)


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
            raise DataError(_reason(path, error), path=named) from error
        with opened as file:
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
    if suffix not in COMPRESSED:
        with atomic_write(path) as file:
            yield file
        return
    module = _module_of(suffix)
    with atomic_write(path, "wb") as file, module.open(file, "wt", encoding="utf-8", newline="\n") as packed:
        yield packed


def _open_to_write(path: Path | int, mode: Literal["w", "wb"]) -> IO[Any]:
    return open(path, "wb") if mode == "wb" else open(path, "w", encoding="utf-8", newline="\n")


def parse_record(line: str) -> dict[str, Any]:
    """Read the JSON object in a line of a jsonl file; raises DataError."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError("not JSON") from error
    if not isinstance(record, dict):
        raise DataError(f"got a JSON {type(record).__name__}, expected an object")
    return record


def read_json(path: StrPath) -> Any:
    """Return the value in a JSON file. Raises DataError of one line that names the path."""
    try:
        return json.loads(expanded(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(_reason(path, error), path=path) from error
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
