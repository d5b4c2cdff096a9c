"""Make inputs that are random, or good ones damaged, as many of them as the environment asks for.

SPINN_FUZZ_EXAMPLES     inputs for each reader; by default few
SPINN_FUZZ_SECONDS      after which a reader gets no more of them
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spinn_tensor.data_prep.errors import DataError

N_EXAMPLES = 150  # of a reader, by default
LONGEST = 1 << 20  # bytes of an input
_BATCH = 1000  # inputs between looks at the clock
_TIMES = [1] * 990 + [2, 2, 2, 3, 3, 100, 2_000, 2_000, 5_000, 200_000]  # how often a piece is put in

Change = tuple[int, int, bytes | None, int]

# What is put into files: to split at "~".
_BRACKETS = b"(~)~( ~ )~ ( ~ ) ~( a b )~(2~(3 ~ a~[MAX ~]~3\t~\xd9\xa3\t~0~1"
_BLANKS = b" ~\t~\r~\n~\r\n~\n\n~\x0c~\x1c~\xc2\x85~\xc2\xa0~\xe2\x80\xa8~\xe3\x80\x80"
_ODD = b"\0~\xef\xbb\xbf~\xed\xa0\x80~\xff~\xc3\xa9~\xcc\x81~\xf0\x9f\x90\x95~\x7f~\x1b"
_JSON = rb"""{~}~[~]~:~,~"~{}~null~true~NaN~Inf~-~-0~1.0~1e999~//~{"a":~"a":~"gold_label": "-",~"gold_label": 1,"""
_ESCAPES = rb"""\~\ud800~\udc00~\u0000~\u005f~\u00e9~\n~\/~\x~"\u0061":"""
PIECES = b"~".join((_BRACKETS, _BLANKS, _ODD)).split(b"~")
JSON_PIECES = [*PIECES, *_JSON.split(b"~"), *_ESCAPES.split(b"~"), b"9" * 20, b"9" * 5_000, b"[" * 500]

PARSES = ["( A dog )", "( ( A dog ) runs )", "dog", "( é ( w1 1 ) )", "( a ( b ( c ( d e ) ) ) )"]


def jsonl(*records: dict[str, Any]) -> list[bytes]:
    """Write a line for each record, and some once more as other programs would."""
    lines = [json.dumps(record, ensure_ascii=False).encode() for record in records]
    return lines + [json.dumps(record, separators=(",", ":")).encode() for record in records[:3]]


SNLI_LINES = jsonl(
    *(
        {
            "gold_label": "neutral",
            "sentence1": "A dog.",
            "sentence1_binary_parse": parse,
            "sentence2_binary_parse": PARSES[1],
            "pairID": "1#é",
        }
        for parse in PARSES
    ),
    {"gold_label": "-", "sentence1_binary_parse": "dog", "sentence2_binary_parse": "dog"},
    {
        "gold_label": "entailment",
        "sentence1": "A dog barks.",
        "sentence2": "It doesn't.",
        "n": [1, {"x": 2.5}],
    },
)
OWN_LINES = jsonl(
    *({"text": parse, "claim": PARSES[0], "verdict": "yes", "key": "1"} for parse in PARSES),
    {"text_binary_parse": PARSES[1], "text": "A dog.", "claim_binary_parse": "dog", "verdict": 1},
    {"text": "( A dog )", "claim": "dog", "verdict": 0},
    {"text": "A dog.", "claim": "It doesn't.", "verdict": "-"},
)
TREE_RECORDS = jsonl(
    {"sentence_binary_parse": PARSES[1], "sentence": "A dog runs."},
    {"binary_parse": PARSES[3], "sentenceID": "é"},
    {"sentence": "( A dog )"},
    {"sentence1_binary_parse": PARSES[0], "sentence2_binary_parse": PARSES[4], "pairID": "1"},
    {"sentence1": "A dog.", "sentence2_binary_parse": "dog", "sentence1_binary_parse": "( A dog )"},
)
SST_LINES = [
    b"(3 (2 (2 A) (2 dog)) (3 (2 is) (1 old)))",
    b"(2 dog)",
    "(4 (0 é) (1 w1\u00a0b))".encode(),
    b"(1 (2 a) (2 b))",
]
LISTOPS_LINES = [b"9\t( ( ( [MAX 2 ) 9 ) ] )", b"3\t3", b"0\t( ( ( [MIN ( ( ( [SM 5 ) 5 ) ] ) ) 9 ) ] )"]
PARSE_LINES = [parse.encode() for parse in PARSES]
TREE_LINES = [*PARSE_LINES, *SST_LINES, *LISTOPS_LINES, b"It doesn't."]


def changes(pieces: Sequence[bytes]) -> st.SearchStrategy[Change]:
    """Draw a place, modulo the length; how many bytes are taken out there; what is put in (None: they), how often."""
    n_out = st.sampled_from([0, 0, 1, 1, 2, 8, 40, 1 << 30])
    put_in = st.sampled_from([None, b"", *pieces]) | st.binary(max_size=4)
    return st.tuples(st.integers(0, 1 << 30), n_out, put_in, st.sampled_from(_TIMES))


def damaged(content: bytes, cuts: Sequence[Change]) -> bytes:
    """Return the content after these changes, one after another."""
    for place, n_out, piece, times in cuts:
        place %= len(content) + 1
        end = place + n_out
        if piece is None:
            piece, end = content[place:end], place
        content = content[:place] + (piece * times)[:LONGEST] + content[end:]
    return content[:LONGEST]


def texts(lines: Sequence[bytes], pieces: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Draw contents of a file: good lines, damaged, or pieces in any order, or random bytes."""
    good = st.lists(st.sampled_from(lines), min_size=1, max_size=5).map(lambda part: b"\n".join(part) + b"\n")
    broken = st.builds(damaged, good, st.lists(changes(pieces), max_size=4))
    return st.one_of(broken, broken, broken, st.lists(st.sampled_from(pieces)).map(b"".join), st.binary())


def packed(content: bytes, name: str, member: str = "") -> bytes:
    """Pack the content as a .gz, .bz2 or .xz, or as a file in a .zip, where the name says so."""
    if name.endswith(".gz"):
        return gzip.compress(content, mtime=0)
    if name.endswith(".bz2"):
        return bz2.compress(content)
    if name.endswith(".xz"):
        return lzma.compress(content, preset=0)
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


def assert_one_error(error: DataError | str, path: Path | None = None) -> None:
    """Assert that an error is one line that begins with the file's name, and that a terminal can hold."""
    message = str(error)
    assert message.startswith("" if path is None else str(path))
    assert len(message.splitlines()) == 1
    assert len(message if path is None else message.replace(str(path), path.name)) < 1000  # which may be any
