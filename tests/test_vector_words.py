"""Which word of a file of vectors is which token: spellings, escapes, blanks, marks and headers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spinn_tensor.data_prep.errors import DataWarning
from spinn_tensor.data_prep.vectors import (
    DRAWN,
    EXACT,
    LOWER,
    PADDING,
    UNESCAPED,
    UNESCAPED_LOWER,
    read_vectors,
)
from spinn_tensor.data_prep.vocabulary import Vocabulary
from tests.vector_files import FORMS, VOCABULARY, write, write_form


@pytest.mark.parametrize("name", FORMS)
def test_as_spelt_before_lower_case_whatever_comes_first(tmp_path: Path, name: str) -> None:
    """A word that comes twice has its first vector."""
    vocabulary = Vocabulary(("<pad>", "<unk>", "Dog", "dog", "CAT", "Cat", "ZEBRA", "Ox"))
    words = ["dog", "cat", "Dog", "Cat", "zebra", "OX", "dog"]
    matrix = np.array([[1, -0.5], [2, 1e-3], [3, 9], [4, 8], [5, 7], [6, 6], [7, 5]], np.float32)
    vectors = read_vectors(write_form(name, tmp_path, words, matrix), vocabulary, 2)
    assert (vectors.matrix.dtype, vectors.matrix.shape) == (np.float32, (8, 2))
    np.testing.assert_array_equal(vectors.matrix[2:7], matrix[[2, 0, 1, 3, 4]])
    np.testing.assert_array_equal(vectors.matrix[0], 0)
    assert vectors.origin.tolist() == [PADDING, DRAWN, EXACT, EXACT, LOWER, EXACT, LOWER, DRAWN]
    assert (vectors.n_found, vectors.n_exact, vectors.n_lower, vectors.n_missing) == (5, 3, 2, 2)
    assert str(vectors) == (
        "vectors of 5 of 7 tokens (71.4%): 3 as spelt, 2 in lower case, 0 unescaped; 2 drawn, "
        "<unk> among them"
    )


def test_the_file_may_have_a_vector_for_unknown_words_but_not_for_padding(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", "<unk> 1 2\n<pad> 3 4\ndog 5 6\ncat 5 7\nzebra 5 8\n")
    vectors = read_vectors(path, VOCABULARY, 2)
    assert vectors.matrix[:2].tolist() == [[0, 0], [1, 2]]
    assert (
        str(vectors) == "vectors of 4 of 4 tokens (100.0%): 4 as spelt, 0 in lower case, 0 unescaped; 0 drawn"
    )


ESCAPED = {
    "-LRB-": "(",
    "-RRB-": ")",
    "-LSB-": "[",
    "-rsb-": "]",
    "-LCB-": "{",
    "-rcb-": "}",
    "``": '"',
    "''": '"',
    "`": "'",
    r"and\/or": "and/or",
    r"1\/2\/3": "1/2/3",
    r"\*": "*",
    r"\*\*\*": "***",
    ":-RRB-": ":)",
    "-LRB-sic-RRB-": "(sic)",
    r"He\/She": "he/she",  # then in lower case
}


@pytest.mark.parametrize("name", ["v.txt", "v.bin", "v.safetensors"])
def test_tokens_of_parses_are_looked_up_without_escapes_last(tmp_path: Path, name: str) -> None:
    words = list(dict.fromkeys(ESCAPED.values()))
    matrix = np.arange(1, 1 + len(words))[:, None] * np.ones(2)
    vocabulary = Vocabulary(("<pad>", "<unk>", *ESCAPED))
    vectors = read_vectors(write_form(name, tmp_path, words, matrix), vocabulary, 2)
    found = dict(zip(vocabulary.tokens[2:], vectors.matrix[2:, 0].tolist(), strict=True))
    assert found == {token: 1 + words.index(word) for token, word in ESCAPED.items()}
    assert (vectors.n_found, vectors.n_exact, vectors.n_lower) == (len(ESCAPED), 0, 0)
    assert vectors.origin[2:].tolist() == [UNESCAPED] * (len(ESCAPED) - 1) + [UNESCAPED_LOWER]
    assert str(vectors) == (
        "vectors of 16 of 17 tokens (94.1%): 0 as spelt, 0 in lower case, 16 unescaped; 1 drawn, <unk> among them"
    )


def test_every_other_spelling_comes_before_the_unescaped(tmp_path: Path) -> None:
    vocabulary = Vocabulary(("<pad>", "<unk>", "-LRB-", "-RRB-", "``", "(", r"A\/B", r"a\/b", "''"))
    path = write(tmp_path / "v.txt", '( 1\n) 2\n" 3\n-rrb- 4\n-LRB- 5\na/b 6\nA/B 7\n'.replace("\n", " 0\n"))
    vectors = read_vectors(path, vocabulary, 2)
    assert vectors.matrix[2:, 0].tolist() == [5, 4, 3, 1, 7, 6, 3]
    expected = [PADDING, DRAWN, EXACT, LOWER, UNESCAPED, EXACT, UNESCAPED, UNESCAPED, UNESCAPED]
    assert vectors.origin.tolist() == expected


def test_what_only_looks_like_an_escape_is_none(tmp_path: Path) -> None:
    vocabulary = Vocabulary(("<pad>", "<unk>", "dog", "-LXB-", "'" * 3, "a\\b", "LRB", "it''s", "-"))
    path = write(tmp_path / "v.txt", 'dog 1 2\n( 1 3\n" 1 4\nab 1 5\n/ 1 6\nit"s 1 7\n')
    assert read_vectors(path, vocabulary, 2).origin.tolist() == [PADDING, DRAWN, EXACT, *[DRAWN] * 6]


@pytest.mark.parametrize("name", ["v.txt", "v.vec", "v.vec.gz", "v.vec.bz2", "v.zip"])
@pytest.mark.parametrize(
    "header, rest",
    [
        ("999994 2", "dog 1 2\ncat 3 4\n"),  # what `head` leaves
        ("1 2", "dog 1 2\ncat 3 4\n"),  # files put one after another
        ("0 2", "dog 1 2\ncat 3 4\n"),
        ("3 2 ", "dog 1 2 \ncat 3 4 \n"),  # as fastText writes lines
        ("3 2\r", "dog 1 2\r\ncat 3 4\r\n"),
        ("\ufeff3 2", "dog 1 2\ncat 3 4"),
    ],
)
def test_a_header_that_counts_wrong_is_a_warning(tmp_path: Path, name: str, header: str, rest: str) -> None:
    path = write(tmp_path / name, f"{header}\n{rest}")
    n_words = header.strip("\ufeff").split()[0]
    with pytest.warns(DataWarning, match=f"line 1 says {n_words} words, the file has 2") as caught:
        vectors = read_vectors(path, VOCABULARY, 2)
    assert [str(one.message).startswith(f"{path}: ") for one in caught] == [True]
    assert caught[0].filename == __file__
    assert vectors.matrix[2:4].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("name", ["v.txt", "v.vec.gz", "v.zip"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "lines",
    [
        ["dog 1 2", "cat 3 4"],
        ["2 2", "dog 1 2", "cat 3 4"],
        ["1 9 9", "dog 1 2", "cat 3 4"],  # the word 1
        ["dog 1 2 ", "cat 3 4 "],
        ["2 2", "dog 1 2 ", "cat 3 4 "],
        [". . . 9 9", "dog 1 2", "cat 3 4"],
        ["é 9 9", "dog 1 2", "cat 3 4"],
    ],
)
def test_line_ends_are_no_part_of_words_nor_is_a_byte_order_mark(
    tmp_path: Path, name: str, end: str, lines: list[str]
) -> None:
    content = end.join(lines) + end
    vocabulary = Vocabulary((*VOCABULARY.tokens, "1", ". . .", "é"))
    plain = read_vectors(write(tmp_path / f"a{name}", content), vocabulary, 2)
    marked = read_vectors(write(tmp_path / name, f"\ufeff{content}"), vocabulary, 2)
    np.testing.assert_array_equal(marked.matrix, plain.matrix)
    np.testing.assert_array_equal(marked.origin, plain.origin)
    assert marked.matrix[2:4].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_read(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path = write(tmp_path / "v.txt", f"{mark}dog 1 2\ncat 3 4\n".encode(encoding))
    assert read_vectors(path, VOCABULARY, 2).matrix[2:4].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "first",
    [
        ". . . 4 5",
        "at name@domain.com 4 5",
        "dog dog 4 5",
        ". . . . . 4 5 ",
        "a  b 4 5",
        "7 up 4 5\r",
        "World War 2 4 5",
    ],
)
@pytest.mark.parametrize("header", ["", "3 2\n"])
def test_a_word_of_the_first_line_may_hold_blanks(tmp_path: Path, first: str, header: str) -> None:
    word = first.strip().removesuffix(" 4 5")
    vocabulary = Vocabulary((*VOCABULARY.tokens, word))
    path = write(tmp_path / "v.txt", f"{header}{first}\ndog 1 2\ncat 3 4\n")
    assert read_vectors(path, vocabulary, 2).matrix[[2, 3, 5]].tolist() == [[1, 2], [3, 4], [4, 5]]


def test_odd_words_of_a_text(tmp_path: Path) -> None:
    """Unicode's line ends and blanks are in words, which may be empty; a word twice is the first; 2 3 is a header."""
    words = ["a\u0085b", "c\u2028d", "e\u00a0f", "1", "1½"]
    vocabulary = Vocabulary(("<pad>", "<unk>", *words))
    lines = [f"{word} {row} 0 0" for row, word in enumerate(words)]
    path = write(tmp_path / "v.txt", "\n".join(["7 3", *lines, " 9 9 9", "1 8 8 8"]) + "\n")
    vectors = read_vectors(path, vocabulary, 3)
    assert vectors.matrix[2:, 0].tolist() == [0, 1, 2, 3, 4]
    assert vectors.n_exact == 5


def test_a_word_may_hold_blanks(tmp_path: Path) -> None:
    path = write(tmp_path / "vectors.txt", "dog 1 2\n. . dog 3 4\ncat 5 6\n")
    vectors = read_vectors(path, VOCABULARY, 2)
    assert vectors.n_found == 2
    assert vectors.matrix[2:4].tolist() == [[1, 2], [5, 6]]


def test_numbers_that_are_words(tmp_path: Path) -> None:
    vocabulary = Vocabulary(("<pad>", "<unk>", "7", "8"))
    path = write(tmp_path / "vectors.txt", "7 3\n8 4\n")
    assert read_vectors(path, vocabulary, 1).matrix[2:].tolist() == [[3], [4]]


def test_numbers_of_other_words_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "vectors.txt", b"\xff\xff x nan\ndog 1 2\ndog y inf\n")
    assert read_vectors(path, VOCABULARY, 2).matrix[2].tolist() == [1, 2]
