"""Files of vectors that are random, or good ones damaged: a matrix or one DataError comes out, and nothing else.

SPINN_FUZZ_EXAMPLES says how many files are tried in all; the default is small.
"""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from data_prep.errors import DataError
from data_prep.vectors import DRAWN, PADDING, read_vectors
from data_prep.vocabulary import Vocabulary

VOCABULARY = Vocabulary(("<pad>", "<unk>", "dog", "Cat", "zebra", "é", "1"))
DIM = 3
WORDS = ("the", "dog", "cat", "é", "dog", "1")
MATRIX = np.random.default_rng(0).normal(size=(len(WORDS), DIM)).astype(np.float32)

TEXT = "".join(
    f"{word} {' '.join(map(str, row))}\n" for word, row in zip(WORDS, MATRIX, strict=True)
).encode()
HEADED = b"%d %d\n" % MATRIX.shape + TEXT
BINARY = b"%d %d\n" % MATRIX.shape + b"".join(
    word.encode() + b" " + row.tobytes() for word, row in zip(WORDS, MATRIX, strict=True)
)
SPELLINGS = np.frombuffer("\n".join(WORDS).encode(), dtype=np.uint8)
TENSORS = save({"vectors": MATRIX, "words": SPELLINGS})
GOOD = {
    "v.txt": (TEXT, HEADED),
    "v.txt.gz": (TEXT, HEADED),
    "v.zip": (TEXT, HEADED),
    "v.bin": (BINARY,),
    "v.bin.gz": (BINARY,),
    "v.safetensors": (TENSORS, save({"vectors": MATRIX.astype(np.float16), "words": SPELLINGS})),
}
PIECES = (b"", b" ", b"\n", b"\0", b"nan", b"-1e999", b"_", b"\xff", b"9" * 20, b"[", b"1 2 3\n", b"\x7f" * 8)
KINDS = ("random", "damaged")
N_EXAMPLES = int(os.environ.get("SPINN_FUZZ_EXAMPLES", "600")) // (len(GOOD) * len(KINDS)) + 1

cuts = st.tuples(
    st.integers(0, 1 << 30),  # where, modulo the length
    st.sampled_from([0, 1, 1, 2, 8, 1 << 30]),  # bytes taken out
    st.sampled_from(PIECES) | st.binary(max_size=9),  # put in
)


def damaged(content: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for place, n_out, piece in changes:
        place %= len(content) + 1
        content = content[:place] + piece + content[place + n_out :]
    return content


def packed(content: bytes, name: str) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(content, mtime=0)
    if name.endswith(".zip"):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("v.txt", content)
        return file.getvalue()
    return content


@st.composite
def contents(draw, name: str, kind: str) -> bytes:
    """Before and after packing, either of them may be hit."""
    if kind == "random":
        content = draw(st.sampled_from([b"", *GOOD[name]]).map(lambda good: good[:8])) + draw(st.binary())
        return packed(content, name) if draw(st.booleans()) else content
    content = damaged(draw(st.sampled_from(GOOD[name])), draw(st.lists(cuts, max_size=3)))
    return damaged(packed(content, name), draw(st.lists(cuts, max_size=2)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GOOD)
def test_a_matrix_or_one_error(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / name

    @settings(max_examples=N_EXAMPLES, suppress_health_check=list(HealthCheck), database=None)
    @given(contents(name, kind))
    def read(content: bytes) -> None:
        path.write_bytes(content)
        try:
            vectors = read_vectors(path, VOCABULARY, DIM)
        except DataError as error:
            message = str(error)
            assert message.startswith(str(path))
            assert "\n" not in message
            assert len(message) < 1000
            return
        assert vectors.matrix.shape == (len(VOCABULARY), DIM)
        assert vectors.matrix.dtype == np.float32
        assert np.isfinite(vectors.matrix).all()
        assert not vectors.matrix[0].any()
        assert vectors.n_found == (~np.isin(vectors.origin, (DRAWN, PADDING))).sum() > 0

    read()


@pytest.mark.parametrize("name", GOOD)
def test_the_good_files_are_good(name: str, tmp_path: Path) -> None:
    for content in GOOD[name]:
        (tmp_path / name).write_bytes(packed(content, name))
        assert read_vectors(tmp_path / name, VOCABULARY, DIM).n_found == 4
