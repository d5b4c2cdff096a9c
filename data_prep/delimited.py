r"""Records in delimited text, csv and tsv: a header that names the fields, and a row a record.

    .csv    Python's `csv`, strictly: cells in quotes may hold the delimiter, line ends and doubled quotes. The
            delimiter is the one of , ; | and tab that the header has most of, or what Excel's `sep=;` before it says.
            If blanks follow each of the header's, those of the rows do not belong to the cells.
    .tsv    cells end at tabs, and a quote is a character like any other, as in GLUE's files. Quotes are taken off where
            `csv` would have written them: in every row if the header's names are in quotes, else in a row that `csv`
            makes again, exactly, of what it reads there.

Cells of NaN, nan or <NA> are missing values, which Python writes so where nobody looked; a label may be named so.

A row comes in the place of its first line, and `Continued` in that of the header and of every other line of a row, so
that all keep their numbers; a blank line is no row.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter, deque
from collections.abc import Iterator
from io import StringIO

from spinn_tensor.data_prep.errors import DataError, NeededLine
from spinn_tensor.data_prep.files import OLD_MAC, BadLine, Line, MissingCell, Record
from spinn_tensor.data_prep.limits import Limits
from spinn_tensor.data_prep.penn import Continued

DELIMITERS = (",", ";", "\t", "|")
N_NAMES = 8  # of fields that an error names
_EXCEL = re.compile(r"sep=([,;\t|])\r?\n")
MISSING = {"NaN", "nan", "<NA>"}


def read_csv(lines: Iterator[str], limits: Limits) -> Iterator[Line | DataError]:
    """Yield the records of a .csv, and the errors of bad rows. Raises DataError for a bad header."""
    first = next(lines)
    counts = Counter(first)
    delimiter = max(DELIMITERS, key=lambda mark: counts[mark])
    n_before = 0  # lines before the header
    if of_excel := _EXCEL.fullmatch(first):
        yield Continued("\n")
        first, delimiter, n_before = next(lines, ""), of_excel[1], 1
    # a global setting, which is only ever made wider: by default a cell may have 131,072 characters
    csv.field_size_limit(max(csv.field_size_limit(), min(limits.max_line_bytes, 2**31 - 1)))
    feed = _Feed(itertools.chain([first], lines), limits)
    others = first.split(delimiter)[1:]
    blanks = bool(others) and all(name.startswith(" ") for name in others)  # before a quote, too
    reader = csv.reader(feed, delimiter=delimiter, strict=True, skipinitialspace=blanks)
    names: list[str] | None = None
    while True:
        feed.n_lines = feed.n_characters = 0
        line: Line | DataError = Continued("\n")
        try:
            cells = next(reader)
            if names is None:
                names = _header(cells, 1 + n_before)
            elif cells:
                line = _record(names, cells)
            elif isinstance(feed.last, BadLine):
                line = feed.last
        except StopIteration:
            return
        except (csv.Error, DataError) as error:
            line = _of_quotes(error, feed.n_lines) if isinstance(error, csv.Error) else error
            if names is None:
                raise line.at(line=1 + n_before, kind=NeededLine) from None
        yield line
        yield from itertools.repeat(Continued("\n"), feed.n_lines - 1)


class _Feed:
    """Give the lines of a file and count those of a row; one that goes on for too long is an error."""

    def __init__(self, lines: Iterator[str], limits: Limits) -> None:
        self.n_lines = self.n_characters = 0  # of the row
        self.last = ""
        self._lines, self._limits = lines, limits

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if self.n_characters > self._limits.max_line_bytes:
            raise csv.Error("no end")
        self.last = next(self._lines)
        self.n_lines += 1
        self.n_characters += len(self.last)
        return self.last


def _of_quotes(error: csv.Error, n_lines: int) -> DataError:
    if str(error) in ("no end", "unexpected end of data"):
        more = f", in this line or the {n_lines - 1:,} after it" if n_lines > 1 else ""
        return DataError(f"a quote that is not closed{more}")
    if "new-line character" in str(error):
        return DataError(OLD_MAC.format("outside of quotes"))
    return DataError(f"not CSV: {error}")


def read_tsv(lines: Iterator[str], limits: Limits) -> Iterator[Line | DataError]:
    """Yield the records of a .tsv, as `read_csv` does."""
    first = next(lines)
    if first.startswith('"'):
        yield from read_csv(itertools.chain([first], lines), limits)
        return
    names = _header(_cells(first), 1)
    yield Continued("\n")
    ahead: deque[str] = deque()  # lines that were looked at
    while line := ahead.popleft() if ahead else next(lines, ""):
        if not line.strip("\r\n"):
            yield line if isinstance(line, BadLine) else Continued("\n")
            continue
        cells, n_more = _row(line, len(names), lines, ahead, limits)
        try:
            yield _record(names, cells)
        except DataError as error:
            yield error
        for _ in range(n_more):
            ahead.popleft()
            yield Continued("\n")


def _row(
    line: str, n_names: int, lines: Iterator[str], ahead: deque[str], limits: Limits
) -> tuple[list[str], int]:  # its cells, and of how many lines of `ahead` it is as well
    plain = _cells(line)
    if '"' not in line:
        return plain, 0
    if len(plain) >= n_names or not plain[-1].startswith('"'):
        return _unquoted(line, n_names) or plain, 0
    row, n_characters = [line], len(line)  # a cell in quotes that may go on in the lines after it
    is_open = line.count('"') % 2 == 1
    while is_open and n_characters <= limits.max_line_bytes:
        if len(row) > len(ahead):
            if (more := next(lines, None)) is None:
                break
            ahead.append(more)
        row.append(ahead[len(row) - 1])
        n_characters += len(row[-1])
        is_open = row[-1].count('"') % 2 == 0
        if not is_open and (cells := _unquoted("".join(row), n_names)):
            return cells, len(row) - 1
        if len(_cells(row[-1])) >= n_names:  # a row of its own
            break
    return plain, 0


def _unquoted(row: str, n_names: int) -> list[str] | None:
    """Return the cells of a row that `csv` has written with quotes; None for any other."""
    row = row.rstrip("\r\n")
    try:
        found = list(csv.reader([row], delimiter="\t", strict=True))
    except csv.Error:
        return None
    if len(found) != 1 or len(found[0]) != n_names:
        return None
    again = StringIO()
    csv.writer(again, delimiter="\t").writerow(found[0])
    return found[0] if again.getvalue() == row + "\r\n" else None


def _cells(line: str) -> list[str]:
    return line.rstrip("\r\n").split("\t")


def _header(cells: list[str], line: int) -> list[str]:
    names = [name.strip() for name in cells]
    if twice := [name for name, n in Counter(names).items() if name and n > 1]:
        raise NeededLine(f"two columns {twice[0][:40]!r}", line=line)
    if not any(names):
        raise NeededLine("no header: expected the names of the columns", line=line)
    return names


def _record(names: list[str], cells: list[str]) -> Record:
    if len(cells) != len(names):
        named = ", ".join(name[:40] for name in names[:N_NAMES]) + (", …" if len(names) > N_NAMES else "")
        raise DataError(f"{len(cells)} cells, expected {len(names)} as in the header: {named}")
    if cells[-1].strip() == names[-1] and [cell.strip("\ufeff ") for cell in cells] == names != names[:1]:
        raise DataError("the header again; of files that are joined, the first alone keeps it")
    record: Record = dict(zip(names, cells, strict=True))
    if not MISSING.isdisjoint(cells):
        record.update((name, MissingCell(cell)) for name, cell in record.items() if cell in MISSING)
    return record
