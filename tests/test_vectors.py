"""GloVe's text format."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import DataError
from data_prep.vectors import read_vectors
from data_prep.vocabulary import Vocabulary

VOCABULARY = Vocabulary(("<pad>", "<unk>", "dog", "cat", "zebra"))


def _write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["vectors.txt", "vectors.txt.gz"])
def test_found_words_get_their_vectors(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path / name, "cat 1 2 3\nbird 9 9 9\ndog -1 0.5 1e-3\ncat 7 7 7\n")
    matrix, n_found = read_vectors(path, VOCABULARY, 3)
    assert n_found == 2
    assert matrix.dtype == np.float32
    assert matrix.shape == (5, 3)
    np.testing.assert_array_equal(matrix[2:4], np.array([[-1, 0.5, 1e-3], [1, 2, 3]], dtype=np.float32))
    np.testing.assert_array_equal(matrix[0], 0)


def test_unknown_words_are_drawn_alike_each_time_at_the_scale_of_the_found(tmp_path: Path) -> None:
    words = tuple(f"w{i}" for i in range(500))
    vocabulary = Vocabulary(("<pad>", "<unk>", "a", "b", *words))
    path = _write(tmp_path / "vectors.txt", f"a {'3 ' * 50}\nb {'-3 ' * 50}\n")
    matrix, n_found = read_vectors(path, vocabulary, 50)
    assert n_found == 2
    drawn = np.delete(matrix, [0, 2, 3], axis=0)
    assert abs(drawn.std() - 3) < 0.1
    assert abs(drawn.mean()) < 0.1
    assert len(np.unique(drawn)) > 0.99 * drawn.size
    np.testing.assert_array_equal(matrix, read_vectors(path, vocabulary, 50)[0])


def test_a_word_may_hold_blanks(tmp_path: Path) -> None:
    path = _write(tmp_path / "vectors.txt", "dog 1 2\n. . dog 3 4\ncat 5 6\n")
    matrix, n_found = read_vectors(path, VOCABULARY, 2)
    assert n_found == 2
    assert matrix[2].tolist() == [1, 2]
    assert matrix[3].tolist() == [5, 6]


@pytest.mark.parametrize(
    "text, message",
    [
        ("dog 1 2 3\n", ":1: got 3 numbers, expected 2"),
        ("dog 1\n", ":1: got 1 numbers, expected 2"),
        ("bird 1 2\ndog 1\n", ":2: got 1 numbers, expected 2"),
        ("bird 1 2\ndog 1 x\n", ":2: could not convert string to float"),
        ("dog 1 nan\n", ":1: a number that is not finite"),
        ("bird 1 2\n", "none of the 5 words"),
        ("", "an empty file"),
    ],
)
def test_a_bad_file_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = _write(tmp_path / "vectors.txt", text)
    with pytest.raises(DataError) as caught:
        read_vectors(path, VOCABULARY, 2)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
