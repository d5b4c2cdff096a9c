"""Lines and sentences that are too long, in every reader: named or counted, and never read as a whole."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spinn_tensor.data_prep import files
from spinn_tensor.data_prep.columns import SentenceColumns, lengths
from spinn_tensor.data_prep.corpora.formats import (
    LineFormat,
    ListOpsFormat,
    PairFormat,
    SentenceFormat,
    SstFormat,
    TreebankFormat,
)
from spinn_tensor.data_prep.corpora.read import open_examples, read_examples_as_columns, read_line_examples
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped, open_text
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits
from spinn_tensor.data_prep.text import SentenceReader
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import Tree, format_binary, format_labelled, right_branching
from spinn_tensor.data_prep.vocabulary import Vocabulary, WordList

pytest.importorskip("pyarrow")

Read = Callable[
    [Path, bool, Skipped, Limits], list[int]
]  # words of each sentence, of each first one of a pair
READER = SentenceReader(Tokenizer().tokenize)
FEW = 5  # words


def words(n: int) -> Tree:
    return right_branching(["dog"] * n)


def pair(n: int) -> str:
    parses = {"sentence1_binary_parse": format_binary(words(n)), "sentence2_binary_parse": "dog"}
    return json.dumps({"gold_label": "neutral", **parses})


def record(n: int) -> str:
    return json.dumps({"sentence_binary_parse": format_binary(words(n))})


def labelled(n: int) -> str:
    return format_labelled(words(n)._replace(labels=np.full(2 * n - 1, 2)))


def by_line(line_format: LineFormat) -> Read:
    def read(path: Path, skip_bad: bool, skipped: Skipped, limits: Limits) -> list[int]:
        found = read_line_examples(path, line_format, skip_bad=skip_bad, skipped=skipped, limits=limits)
        return [example.trees[0].n_tokens for example in found]

    return read


def by_columns(line_format: LineFormat, sides: int = 1) -> Read:
    def read(path: Path, skip_bad: bool, skipped: Skipped, limits: Limits) -> list[int]:
        found = read_examples_as_columns(
            path, line_format, WordList(), skip_bad=skip_bad, skipped=skipped, limits=limits
        )
        return lengths(found.sentences)[::sides].tolist()

    return read


def by_blocks(path: Path, skip_bad: bool, skipped: Skipped, limits: Limits) -> list[int]:
    line_format, vocabulary = (
        SentenceFormat(None, READER),
        Vocabulary.build([["dog"]]),
    )
    columns: list[SentenceColumns] = []
    with open_examples(path, line_format, vocabulary, skip_bad=skip_bad, limits=limits) as file:
        while block := file.block(2):
            columns.append(block.examples.sentences)
            skipped.update(block.skipped)
    return [n for part in columns for n in lengths(part).tolist()]


# The reader, the name of a file for it, and a line of so many words.
READERS: dict[str, tuple[Read, str, Callable[[int], str]]] = {
    "pairs": (by_line(PairFormat()), "a.jsonl", pair),
    "pairs by columns": (by_columns(PairFormat(), 2), "a.jsonl", pair),
    "pairs by columns, text": (
        by_columns(PairFormat(reader=READER), 2),
        "a.jsonl",
        lambda n: json.dumps({"gold_label": "neutral", "sentence1": "dog " * n, "sentence2": "dog"}),
    ),
    "trees by columns": (by_columns(TreebankFormat()), "a.txt", lambda n: format_binary(words(n))),
    "records by columns": (by_columns(TreebankFormat()), "a.jsonl", record),
    "text": (by_line(TreebankFormat(READER)), "a.txt", lambda n: "dog " * n),
    "labelled by columns": (by_columns(SstFormat()), "a.txt", labelled),
    "expressions": (by_line(ListOpsFormat()), "a.tsv", lambda n: f"3\t{format_binary(words(n))}"),
    "sentences": (by_blocks, "a.txt", lambda n: format_binary(words(n))),
    "sentences, text": (by_blocks, "a.txt.gz", lambda n: "dog " * n),
    "sentences, records": (by_blocks, "a.jsonl", record),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("limited", Limits._fields)
def test_what_is_too_long_is_named_or_counted(name: str, limited: str, tmp_path: Path) -> None:
    """The second line is as long as can be, or by a byte or a word longer."""
    read, file, line = READERS[name]
    n_words = 40 if limited == "max_line_bytes" else FEW + 1
    path = tmp_path / file
    content = "".join(line(n) + "\n" for n in (2, n_words, 3)).encode()
    path.write_bytes(gzip.compress(content) if file.endswith(".gz") else content)
    most = len(line(n_words)) if limited == "max_line_bytes" else n_words
    enough, few = Limits(**{limited: most}), Limits(**{limited: most - 1})
    assert read(path, False, Skipped(), enough) == [2, n_words, 3]
    reason = "a line of more than" if limited == "max_line_bytes" else "a sentence of more than"
    with pytest.raises(DataError, match=rf"{reason} {most - 1} (bytes|words)$") as caught:
        read(path, False, Skipped(), few)
    assert (caught.value.path, caught.value.line) == (path, 2)
    if limited == "max_words":
        assert caught.value.token == (n_words, "dog")
    skipped = Skipped()
    assert read(path, True, skipped, few) == [2, 3]
    assert list(skipped.values()) == [1]
    assert list(skipped.places.values()) == [[f"{path}:2"]]
    assert f"{most - 1:,}" in str(skipped)


class Counted(io.BytesIO):
    """A file that tells how much was asked of it at a time, and in all."""

    most = n_read = 0

    def peek(self, size: int = 0, /) -> bytes:
        """As of a file on disk."""
        return self.getvalue()[self.tell() :][:size]

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self.most, self.n_read = max(self.most, len(line)), self.n_read + len(line)
        return line


@pytest.mark.parametrize("end", [b"\n", b""])
def test_no_more_of_a_line_is_in_memory_than_may_be(end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"one\n" + b"x" * 100 + b"\n" + b"y" * 5_000 + b"\nfour\n" + b"z" * 5_000 + end
    opened: list[Counted] = []

    def counted(path: object, choose: object) -> Counted:
        opened.append(Counted(content))
        return opened[-1]

    monkeypatch.setattr(files, "open_bytes", counted)
    limits, skipped, lines = Limits(max_line_bytes=100), Skipped(), list[str]()
    message = r"a\.txt:3: a line of more than 100 bytes"
    with pytest.raises(DataError, match=message), open_text("a.txt", limits=limits) as found:
        lines.extend(found)
    assert lines == ["one\n", "x" * 100 + "\n"]
    assert opened[0].n_read == 4 + 101 + 101
    with open_text("a.txt", limits=limits, skipped=skipped) as found:
        assert list(found) == [*lines, "\n", "four\n", "\n"]
    assert opened[1].n_read == len(content)
    assert opened[0].most == opened[1].most == 101
    assert skipped.total() == 2
    assert list(skipped.places.values()) == [["a.txt:3", "a.txt:5"]]


@pytest.mark.parametrize("n_before", [0, 2])
def test_a_break_in_a_long_line_is_one_bad_line(n_before: int, tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"dog\n" * n_before + b"x" * 5_000, 0)[:-2_000])
    skipped, limits = Skipped(), Limits(max_line_bytes=100)
    with open_text(path, limits=limits, skipped=skipped) as lines:
        if not n_before:
            with pytest.raises(DataError, match=r"a.txt.gz:1: truncated"):
                list(lines)
            return
        assert list(lines) == ["dog\n"] * n_before
    assert skipped == {"truncated: the compressed data end early": 1}


def test_a_long_line_in_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "one\n" + "x" * 1_000_001 + "\nthree")
    skipped = Skipped()
    with open_text(tmp_path / "a.zip", member="a.txt", skipped=skipped) as lines:
        assert list(lines) == ["one\n", "\n", "three"]
    message = r"a\.zip:2: a line of more than 1,000,000 bytes"
    with pytest.raises(DataError, match=message), open_text(tmp_path / "a.zip", member="a.txt") as lines:
        list(lines)


@pytest.mark.parametrize("name", READERS)
def test_long_lines_make_small_blocks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps 20,000 lines of a megabyte from being in memory at once."""
    read, file, line = READERS[name]
    path, n_words = tmp_path / file, [2, 9, 3, 1, 9, 9, 2]
    content = "".join(line(n) + "\n" for n in n_words).encode()
    path.write_bytes(gzip.compress(content) if file.endswith(".gz") else content)
    monkeypatch.setattr(files, "BLOCK_CHARACTERS", len(line(2)))
    assert read(path, False, Skipped(), DEFAULT_LIMITS) == n_words
    with pytest.raises(DataError) as caught:
        read(path, False, Skipped(), Limits(max_words=8))
    assert caught.value.line == 2


def test_a_block_ends_where_its_lines_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BLOCK_CHARACTERS", 10)
    lines = iter(["a" * 4, "b" * 4, "c" * 4, "d" * 50, "e", "f", "g"])
    sizes = []
    while block := files.next_lines(lines, 2):
        sizes.append(len(block))
    assert sizes == [2, 2, 2, 1]
    lines = iter(["a" * 4, "b" * 4, "c" * 4, "d" * 50, "e"])
    assert [len(files.next_lines(lines, 9)) for _ in range(4)] == [3, 1, 1, 0]


def test_long_text_is_refused_before_it_is_tokenized() -> None:
    """`tokenizers` would end the process where it gets no more memory."""
    with pytest.raises(DataError, match="4,000,001 characters"):
        Tokenizer().tokenize("a" * 4_000_001)


def test_a_tokenizer_may_be_one_long_line(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer = Tokenizer(Vocabulary.build([[f"word{i}" for i in range(70_000)]]))
    tokenizer.save(path)
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    assert path.stat().st_size > DEFAULT_LIMITS.max_line_bytes
    assert Tokenizer.load(path).vocabulary == tokenizer.vocabulary


@pytest.mark.parametrize("name", READERS)
def test_a_limit_may_be_beyond_what_an_index_holds(name: str, tmp_path: Path) -> None:
    read, file, line = READERS[name]
    content = (line(3) + "\n").encode()
    (tmp_path / file).write_bytes(gzip.compress(content) if file.endswith(".gz") else content)
    for most in (sys.maxsize, sys.maxsize + 1, 1 << 80):
        assert read(tmp_path / file, False, Skipped(), Limits(most, most)) == [3]
