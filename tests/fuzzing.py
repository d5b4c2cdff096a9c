"""Inputs that are random, or good ones damaged, and as many of them as the environment asks for.

SPINN_FUZZ_EXAMPLES     inputs for each reader; by default few
SPINN_FUZZ_SECONDS      after which a reader gets no more of them
"""

from __future__ import annotations

import gzip
import io
import os
import time
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LONGEST = 1 << 20  # bytes of an input
_BATCH = 1000  # inputs between looks at the clock
_TIMES = [1] * 990 + [2, 2, 2, 3, 3, 100, 2_000, 2_000, 5_000, 200_000]  # how often a piece is put in

Change = tuple[int, int, bytes | None, int]


def changes(pieces: Sequence[bytes]) -> st.SearchStrategy[Change]:
    """A place, modulo the length; how many bytes are taken out there; what is put in (None: they), how often."""
    n_out = st.sampled_from([0, 0, 1, 1, 2, 8, 40, 1 << 30])
    put_in = st.sampled_from([None, b"", *pieces]) | st.binary(max_size=4)
    return st.tuples(st.integers(0, 1 << 30), n_out, put_in, st.sampled_from(_TIMES))


def damaged(content: bytes, cuts: Sequence[Change]) -> bytes:
    """The content after these changes, one after another."""
    for place, n_out, piece, times in cuts:
        place %= len(content) + 1
        end = place + n_out
        if piece is None:
            piece, end = content[place:end], place
        content = content[:place] + (piece * times)[:LONGEST] + content[end:]
    return content[:LONGEST]


def texts(lines: Sequence[bytes], pieces: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Contents of a file: good lines, damaged, or pieces in any order, or random bytes."""
    good = st.lists(st.sampled_from(lines), min_size=1, max_size=5).map(lambda part: b"\n".join(part) + b"\n")
    broken = st.builds(damaged, good, st.lists(changes(pieces), max_size=4))
    return st.one_of(broken, broken, broken, st.lists(st.sampled_from(pieces)).map(b"".join), st.binary())


def packed(content: bytes, name: str, member: str) -> bytes:
    """The content as a .gz, or as a file in a .zip, where the name says so."""
    if name.endswith(".gz"):
        return gzip.compress(content, mtime=0)
    if not name.endswith(".zip"):
        return content
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
    return file.getvalue()


def fuzz(
    inputs: st.SearchStrategy[Any],
    check: Callable[[Any], object],
    default: int,  # inputs, where the environment does not say
    n_cases: int = 1,  # that share the inputs of one reader
) -> None:
    """Check one input after another."""
    wanted = int(os.environ.get("SPINN_FUZZ_EXAMPLES", default)) // n_cases + 1
    seconds = float(os.environ.get("SPINN_FUZZ_SECONDS", "inf")) / n_cases
    start, n_tried = time.monotonic(), 0

    def counted(value: Any) -> None:
        nonlocal n_tried
        n_tried += 1
        check(value)

    while n_tried < wanted and time.monotonic() - start < seconds:
        n_before = n_tried
        settings(
            max_examples=min(_BATCH, wanted - n_tried), suppress_health_check=list(HealthCheck), database=None
        )(given(inputs)(counted))()
        if n_tried - n_before < _BATCH // 2:  # of those that were asked for: there are no more
            break
    print(f"{n_tried:,} inputs in {time.monotonic() - start:.0f} s")
