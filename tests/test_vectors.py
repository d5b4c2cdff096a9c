"""Word vectors in each form of file: the same matrix from all, and what is said of a bad one."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.vectors import (
    DRAWN,
    EXACT,
    PADDING,
    WordVectors,
    read,
    read_vectors,
    save_vectors,
)
from spinn_tensor.data_prep.vocabulary import Vocabulary
from tests.vector_files import FORMS, VOCABULARY, tensors, write, write_form


@pytest.mark.parametrize("block_bytes", [1, 50, 1 << 20])
def test_every_form_gives_the_same_whatever_the_blocks(
    tmp_path: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(read, "_MAX_WORD", 20)
    rng = np.random.default_rng(0)
    words = ["é", "日本", "a\u0085b", "c\u00a0d", "e\u2028", "\ufeff", *(f"w{i}" for i in range(200))]
    matrix = rng.normal(size=(len(words), 7)).astype(np.float32)
    tokens = [*words[:100], "W150", "É", "none"]
    vocabulary = Vocabulary.build([random.Random(0).sample(tokens, len(tokens))])
    found = {}
    for name in FORMS:
        vectors = read_vectors(write_form(name, tmp_path, words, matrix), vocabulary, 7)
        found[name] = vectors.matrix
        assert vectors.n_found == 102
    for token in tokens[:-1]:
        row = matrix[words.index(token if token in words else token.lower())]
        np.testing.assert_array_equal(found["v.txt"][vocabulary.index[token]], row)
    for name in FORMS:
        np.testing.assert_array_equal(found[name], found["v.txt"], err_msg=name)


def test_unknown_words_are_drawn_alike_each_time_at_the_scale_of_the_found(tmp_path: Path) -> None:
    words = tuple(f"w{i}" for i in range(500))
    vocabulary = Vocabulary(("<pad>", "<unk>", "a", "b", *words))
    path = write(tmp_path / "vectors.txt", f"a {'3 ' * 50}\nb {'-3 ' * 50}\n")
    matrix, n_found, _ = read_vectors(path, vocabulary, 50)
    assert n_found == 2
    drawn = np.delete(matrix, [0, 2, 3], axis=0)
    assert abs(drawn.std() - 3) < 0.1
    assert abs(drawn.mean()) < 0.1
    assert len(np.unique(drawn)) > 0.99 * drawn.size
    np.testing.assert_array_equal(matrix, read_vectors(path, vocabulary, 50)[0])


@pytest.mark.parametrize("name", ["v.txt", "v.txt.gz", "v.bin"])
def test_saved_vectors_are_the_same_again(tmp_path: Path, name: str) -> None:
    tokens = ("Dog", "dog", "CAT", "Cat", "ZEBRA", "é", "Ox", "-LRB-", r"A\/B", "A/B")
    vocabulary = Vocabulary(("<pad>", "<unk>", *tokens))
    words = ["unused", "é", "zebra", "cat", "dog", "(", "a/b"]
    matrix = np.random.default_rng(0).normal(size=(7, 3))
    vectors = read_vectors(write_form(name, tmp_path, words, matrix), vocabulary, 3)
    saved = tmp_path / "saved.safetensors"
    save_vectors(saved, vocabulary, vectors)
    for old, new in zip(vectors, read_vectors(saved, vocabulary, 3), strict=True):
        np.testing.assert_array_equal(old, new)
    content = load_file(saved)  # the library reads it, and nothing is in it twice
    spelt = content["words"].tobytes().decode().split("\n")
    assert sorted(spelt) == ["(", "a/b", "cat", "dog", "zebra", "é"]
    for word, row in zip(spelt, content["vectors"], strict=True):
        np.testing.assert_array_equal(row, matrix[words.index(word)].astype(np.float32))


def test_a_word_with_a_line_end_is_not_saved(tmp_path: Path) -> None:
    vocabulary = Vocabulary(("<pad>", "<unk>", "a\nb"))
    vectors = WordVectors(np.zeros((3, 2), np.float32), 1, np.array([PADDING, DRAWN, EXACT], np.int8))
    with pytest.raises(DataError, match="line end"):
        save_vectors(tmp_path / "v.safetensors", vocabulary, vectors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_tensors_of_other_floats(tmp_path: Path, dtype: type) -> None:
    matrix = np.array([[1.5, -2.0], [3.0, 0.25]], dtype=dtype)
    path = tensors(tmp_path / "v.safetensors", ["dog", "cat"], matrix, vectors=matrix, other=np.zeros(1))
    assert read_vectors(path, VOCABULARY, 2).matrix[2:4].tolist() == [[1.5, -2], [3, 0.25]]


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".zip"])
@pytest.mark.parametrize(
    "text, message",
    [
        ("dog 1 2 3\n", ":1: got 3 numbers, expected 2"),
        ("dog 1\n", ":1: got 1 numbers, expected 2"),
        ("dog 1 \n", ":1: got 1 numbers, expected 2"),
        ("bird 1 2\ndog 1\n", ":2: got 1 numbers, expected 2"),
        ("bird 1 2\nbird 1 2 3\n", ":2: got 3 numbers, expected 2"),
        ("bird 1 2\ndog 1 2cat 1 2\n", ":2: got 4 numbers, expected 2"),
        ("dog 1 2\n\n", ":2: got 0 numbers, expected 2"),
        ("dog 1 2\nbird  1 -2\ncat 1  2\n", ":3: two blanks in a row"),
        ("dog\t1\t2\n", ":1: got 0 numbers, expected 2 with blanks between; it has tabs"),
        ("(\xb5/\xfd".encode("latin-1"), "packed by Zstandard"),
        ("bird 1 2\ndog 1 x\n", ":2: number 2: got 'x', expected a number"),
        ("bird 1 2\ndog 1_0 2\n", ":2: number 1: got '1_0', expected a number"),
        ("dog 1 nan\n", ":1: a number that is not finite"),
        ("dog 1 1e39\n", ":1: a number that is not finite"),
        ("dog 3e30 -3e30\n", ": the numbers are too large"),
        ("2 3\ndog 1 2 3\n", ":1: the file says that its vectors have 3 numbers, expected 2"),
        ("\ufeff2 3\ndog 1 2 3\n", ":1: the file says that its vectors have 3 numbers, expected 2"),
        ("\ufeffdog 1 2 3\n", ":1: got 3 numbers, expected 2"),
        ("bird 1 2\n", "none of the 5 words"),
        ("1 2\nbird 1 2\n", "none of the 5 words"),
        ("dog 1 2\n" + "x" * 70_000 + " 1 2\n", ":2: a line of 65,664 bytes or more"),
        ("", "an empty file"),
    ],
)
def test_bad_text_is_refused_by_line(tmp_path: Path, suffix: str, text: str, message: str) -> None:
    path = write(tmp_path / f"vectors{suffix}", text)
    with pytest.raises(DataError) as caught:
        read_vectors(path, VOCABULARY, 2)
    assert f"{path}{message}" in str(caught.value) or f"{path}: {message}" in str(caught.value)


ROW = np.ones(2, "<f4").tobytes()
NAN = np.array([1, np.nan], "<f4").tobytes()


@pytest.mark.parametrize("suffix", [".bin", ".bin.gz"])
@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "an empty file"),
        (b"dog 1 2\n", "expected a first line of two numbers"),
        (b"9" * 1000, "a line of 32 bytes or more"),
        (b"1 3\ndog " + ROW, "its vectors have 3 numbers, expected 2"),
        (
            b"2 2\nbird " + ROW + b"dog " + ROW[:-1],
            "word 2 at byte 18: the file ends early, 2 words expected",
        ),
        (b"2 2\nbird " + ROW, "word 2 at byte 18: the file ends early"),
        (b"2 2\nbird " + ROW + b"dog", "word 2 at byte 18: the file ends early"),
        (b"2 2\nbird " + ROW + b"\n" + b"x" * 80_000, "word 2 at byte 18: no blank after the word"),
        (b"1 2\n" + b"x" * 80_000 + b" " + ROW * 10_000, "word 1 at byte 5: no blank after the word"),
        (b"1 2\ndog " + ROW + b"\ncat " + ROW, "word 2 at byte 17: more data, 1 words expected"),
        (b"2 2\nbird " + NAN + b"dog " + NAN, "word 2 at byte 18: a number that is not finite"),
        (b"1 2\nbird " + ROW, "none of the 5 words"),
        (b"0 2\n", "none of the 5 words"),
        (b"0 2", "expected a first line of two numbers"),
        (
            b"\xba\x16\x4f\x2f\x0c\0\0\0" * 9,
            "a model of fastText's, expected word2vec's form; its .vec file is",
        ),
    ],
)
def test_a_bad_binary_file_is_refused_by_word(
    tmp_path: Path, suffix: str, content: bytes, message: str
) -> None:
    path = write(tmp_path / f"v{suffix}", content)
    with pytest.raises(DataError) as caught:
        read_vectors(path, VOCABULARY, 2)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_binary_file_of_vectors_of_one_number_is_held_against_its_first_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="its vectors have 2 numbers, expected 1"):
        read_vectors(write(tmp_path / "v.bin", b"1 2\ndog " + ROW), VOCABULARY, 1)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"vectors": None}, "vectors: no such tensor; it holds words"),
        ({"words": None}, "words: no such tensor; it holds vectors"),
        ({"vectors": np.ones((2, 3), np.float32)}, "vectors: got 3 numbers a word, expected 2"),
        ({"vectors": np.ones((3, 2), np.float32)}, "words: got 2 words, but 3 vectors"),
        ({"vectors": np.ones((2, 2), np.int32)}, "vectors: got I32 [2, 2], expected F64 or"),
        ({"vectors": np.ones(4, np.float32)}, "vectors: got F32 [4], expected"),
        ({"words": np.ones((2, 2), np.uint8)}, "words: got U8 [2, 2], expected U8 of 1 axes"),
        ({"vectors": np.array([[1, 2], [1, np.inf]], np.float32)}, "vectors: word 2: a number that is not"),
        ({"words": np.frombuffer(b"a\nb", dtype=np.uint8)}, "none of the 5 words"),
    ],
)
def test_bad_tensors_are_refused_by_name(tmp_path: Path, changes: dict, message: str) -> None:
    path = tensors(tmp_path / "v.safetensors", ["dog", "cat"], np.ones((2, 2)), **changes)
    with pytest.raises(DataError) as caught:
        read_vectors(path, VOCABULARY, 2)
    assert f"{path}: {message}" in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:5],
        lambda content: content[:40],
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: content[:-1],
        lambda content: content[:8] + b"x" + content[9:],
        lambda content: content.replace(b"[2,2]", b"[9,2]"),
    ],
)
def test_a_damaged_tensor_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tensors(tmp_path / "v.safetensors", ["dog", "cat"], np.ones((2, 2)))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"truncated or not a \.safetensors file") as caught:
        read_vectors(path, VOCABULARY, 2)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ["v.txt.gz", "v.bin.gz", "v.zip", "v.safetensors", "v.bin", "v.txt"])
def test_a_file_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    matrix = np.random.default_rng(0).normal(size=(500, 2))
    path = write_form(name, tmp_path, ["dog", *(f"w{i}" for i in range(499))], matrix)
    content = path.read_bytes()
    end = len(content) - 40 if "gz" in name else 5000
    path.write_bytes(content[: content.rfind(b" ", 0, end) if name == "v.txt" else end])
    with pytest.raises(DataError, match=r"truncated|ends early|got [01] numbers"):
        read_vectors(path, VOCABULARY, 2)


@pytest.mark.parametrize("name", ["v.txt", "v.txt.gz", "v.zip", "v.bin", "v.safetensors"])
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{name}: no such file"):
        read_vectors(tmp_path / name, VOCABULARY, 2)
    with pytest.raises(DataError, match="no such folder"):
        read_vectors(tmp_path / "none" / name, VOCABULARY, 2)
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=f"{name}: a folder"):
        read_vectors(tmp_path / name, VOCABULARY, 2)


def zip_of(path: Path, names: list[str], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in names:
            archive.writestr(name, "" if name.endswith("/") else f"dog {len(name)} 2\n")
    return path


@pytest.mark.parametrize(
    "names, chosen",
    [
        (["notes.md", "folder/", "folder/any.txt", "__MACOSX/any.txt"], "folder/any.txt"),
        (["glove.6B.12d.txt", "glove.6B.2d.txt", "glove.6B.200d.txt"], "glove.6B.2d.txt"),
        (["crawl.vec"], "crawl.vec"),
    ],
)
def test_the_member_of_an_archive(tmp_path: Path, names: list[str], chosen: str) -> None:
    path = zip_of(tmp_path / "v.zip", names)
    assert read_vectors(path, VOCABULARY, 2).matrix[2].tolist() == [len(chosen), 2]


@pytest.mark.parametrize("names", [[], ["a.md"], ["a.50d.txt", "a.20d.txt"], ["2.a.txt", "2.b.txt"]])
def test_an_archive_without_such_a_member_says_what_it_holds(tmp_path: Path, names: list[str]) -> None:
    path = zip_of(tmp_path / "v.zip", names)
    with pytest.raises(DataError, match=r"expected one \.txt file, or one with 2 in its name") as caught:
        read_vectors(path, VOCABULARY, 2)
    assert (", ".join(names) or "nothing") in str(caught.value)


def test_an_archive_packed_in_another_way(tmp_path: Path) -> None:
    pytest.importorskip("bz2")
    with pytest.raises(DataError, match="another way"):
        read_vectors(zip_of(tmp_path / "v.zip", ["v.txt"], zipfile.ZIP_BZIP2), VOCABULARY, 2)
