"""Files of vectors that are random, or good ones damaged: a matrix or one DataError comes out, and nothing else.

How many files are tried says the environment (see `fuzzing`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from safetensors.numpy import save

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.vectors import DRAWN, PADDING, read_vectors
from spinn_tensor.data_prep.vocabulary import Vocabulary
from tests.fuzzing import changes, damaged, fuzz, packed
from tests.vector_files import text_lines, word2vec

VOCABULARY = Vocabulary(("<pad>", "<unk>", "dog", "Cat", "zebra", "é", "1"))
DIM = 3
WORDS = ["the", "dog", "cat", "é", "dog", "1"]
MATRIX = np.random.default_rng(0).normal(size=(len(WORDS), DIM)).astype(np.float32)

TEXT = text_lines(WORDS, MATRIX)
HEADED = b"%d %d\n" % MATRIX.shape + TEXT
BINARY = word2vec(WORDS, MATRIX, end=b"")
SPELLINGS = np.frombuffer("\n".join(WORDS).encode(), dtype=np.uint8)
TENSORS = save({"vectors": MATRIX, "words": SPELLINGS})
GOOD = {
    "v.txt": (TEXT, HEADED),
    "v.txt.gz": (TEXT, HEADED),
    "v.txt.bz2": (TEXT, HEADED),
    "v.txt.xz": (TEXT, HEADED),
    "v.zip": (TEXT, HEADED),
    "v.bin": (BINARY,),
    "v.bin.gz": (BINARY,),
    "v.safetensors": (TENSORS, save({"vectors": MATRIX.astype(np.float16), "words": SPELLINGS})),
}
PIECES = (b"", b" ", b"\n", b"\0", b"nan", b"-1e999", b"_", b"\xff", b"9" * 20, b"[", b"1 2 3\n", b"\x7f" * 8)
KINDS = ("random", "damaged")
N_CASES = len(GOOD) * len(KINDS)


@st.composite
def contents(draw, name: str, kind: str) -> bytes:
    """Before and after packing, either of them may be hit."""
    if kind == "random":
        content = draw(st.sampled_from([b"", *GOOD[name]]).map(lambda good: good[:8])) + draw(st.binary())
        return packed(content, name, "v.txt") if draw(st.booleans()) else content
    content = damaged(draw(st.sampled_from(GOOD[name])), draw(st.lists(changes(PIECES), max_size=3)))
    return damaged(packed(content, name, "v.txt"), draw(st.lists(changes(PIECES), max_size=2)))


@pytest.mark.filterwarnings("ignore::spinn_tensor.data_prep.errors.DataWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GOOD)
def test_a_matrix_or_one_error(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / name

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

    fuzz(contents(name, kind), read, 600, N_CASES)


@pytest.mark.parametrize("name", GOOD)
def test_the_good_files_are_good(name: str, tmp_path: Path) -> None:
    for content in GOOD[name]:
        (tmp_path / name).write_bytes(packed(content, name, "v.txt"))
        assert read_vectors(tmp_path / name, VOCABULARY, DIM).n_found == 4
