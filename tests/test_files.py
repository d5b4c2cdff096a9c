"""Files read by the line and written whole, and what is said where they cannot be."""

from __future__ import annotations

import gzip
import os
import pickle
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from spinn_tensor.data_prep import PairFormat, read_line_examples
from spinn_tensor.data_prep.archives import unpacked_name
from spinn_tensor.data_prep.corpora.formats import LineExample, LineFormat
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import (
    N_PLACES,
    NOT_UTF_8,
    Skipped,
    atomic_write,
    open_text,
    read_json_object,
    shorter_path,
    write_json,
)
from spinn_tensor.encoding.shards import write_array
from tests.fuzzing import packed
from tests.records import WORD

TEXT = "one\ntwo\u2028still two\r\nthree"
LINES = ["one\n", "two\u2028still two\r\n", "three"]


def read(path: Path, member: str | None = None) -> list[str]:
    with open_text(path, member=member) as lines:
        return list(lines)


class Even(LineFormat):
    """A format for the tests: even numbers."""

    def read(self, line: str) -> LineExample:
        number = int(line)
        if number % 2:
            raise DataError("odd", field="number", token=(1, line.strip()))
        return LineExample((WORD,), number)


def even(path: Path | str, skipped: Skipped | None = None, skip_bad: bool = True) -> Iterator[int]:
    found = read_line_examples(path, Even(), skip_bad=skip_bad, skipped=skipped)
    return (example.label for example in found)


def long_file(path: Path, n_lines: int = 300_000) -> Path:
    """Compress numbers, of which there are enough that a truncated file still has lines to give."""
    numbers = (str((i * 2654435761) % 2**31 * 2) for i in range(n_lines))
    path.write_bytes(packed("\n".join(numbers).encode(), path.name))
    return path


def truncate(path: Path, share: float = 0.5) -> Path:
    os.truncate(path, int(path.stat().st_size * share))
    return path


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz"])
def test_plain_and_compressed_read_alike(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(packed(TEXT.encode(), path.name))
    assert read(path) == LINES


def test_a_file_in_a_zip_is_read(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("folder/other.txt", "other")
        writer.writestr("folder/a.txt", TEXT)
    assert read(archive, "folder/a.txt") == LINES


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz"])
def test_a_name_tells_the_form_beneath_the_compression(ending: str) -> None:
    assert unpacked_name(f"folder.d/v.bin{ending}") == "folder.d/v.bin"


@pytest.mark.parametrize("ending", [".bz2", ".xz"])
def test_a_python_without_the_module_says_so(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(packed(TEXT.encode(), path.name))
    monkeypatch.setitem(sys.modules, {".bz2": "bz2", ".xz": "lzma"}[ending], None)
    with pytest.raises(DataError, match=rf"a\.txt\{ending}: this Python was built without"):
        read(path)


def test_lines_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    with open_text(truncate(long_file(tmp_path / "a.gz"))) as lines:
        assert next(lines) == "0\n"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", b"", "a.txt: an empty file"),
        ("a.txt.gz", b"", "a.txt.gz: an empty file"),
        ("a.txt.gz", gzip.compress(b"", mtime=0), "a.txt.gz: an empty file"),
        ("a.txt.gz", b"plain text\n", "a.txt.gz:1: cannot be read: Not a gzipped file"),
        (
            "a.txt.gz",
            gzip.compress(b"abc" * 9, mtime=0)[:12],
            "a.txt.gz:1: truncated: the compressed data end early",
        ),
        (
            "a.txt.gz",
            gzip.compress(b"abc\n", mtime=0)[:10] + b"\xff" * 20,
            "a.txt.gz:1: cannot be read: Error -3",
        ),
        ("a.txt.bz2", b"plain text\n", "a.txt.bz2:1: cannot be read: "),
        ("a.txt.xz", b"plain text\n", "a.txt.xz:1: cannot be read: "),
        ("a.txt.bz2", packed(b"abc\n" * 9, ".bz2")[:20], "a.txt.bz2:1: truncated"),
        ("a.txt.xz", packed(b"abc\n" * 9, ".xz")[:20], "a.txt.xz:1: truncated"),
        ("a.txt", b"one\n\xff\xfe\n", "a.txt:2: not UTF-8 text"),
        ("a.txt", b"\x28\xb5\x2f\xfd..", "packed by Zstandard"),
        ("a.txt", gzip.compress(b"abc\n", mtime=0), "packed by gzip: its name should end in .gz"),
        ("a.zip", b"PK\x03\x04 cut short", "a.zip: truncated or not a .zip file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path / name, "a.txt" if name.endswith(".zip") else None)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["a.gz", "a.bz2", "a.xz"])
def test_a_truncated_file_names_the_line_it_breaks_at_or_counts_it(tmp_path: Path, name: str) -> None:
    path = truncate(long_file(tmp_path / name))
    seen: list[str] = []
    with pytest.raises(DataError, match=": truncated") as caught, open_text(path) as lines:
        seen.extend(lines)
    assert len(seen) > 5_000
    assert caught.value.line == len(seen) + 1
    skipped = Skipped()
    examples = list(even(path, skipped))
    assert len(examples) == len(seen)
    assert skipped == {"truncated: the compressed data end early": 1}
    with pytest.raises(DataError, match=": truncated"):
        list(even(truncate(path, 0.00005)))


def test_missing_files_folders_and_members(tmp_path: Path) -> None:
    (tmp_path / "folder.gz").mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as writer:
        writer.writestr("folder/a.txt", TEXT)
        writer.writestr("c.txt", TEXT)
    for path, member, message in [
        (tmp_path / "a.txt", None, "a.txt: no such file"),
        (tmp_path / "nowhere" / "a.txt", None, f"a.txt: no such folder: {tmp_path / 'nowhere'}"),
        (tmp_path, None, "a folder, expected a file"),
        (tmp_path / "folder.gz", None, "a folder, expected a file"),
        (tmp_path / "a.zip", "b.txt", "a.zip: no b.txt in it; it holds folder/a.txt, c.txt"),
        (
            tmp_path / "a.zip",
            None,
            "a.zip: say which file of it to read, or unpack it; it holds folder/a.txt, c.txt",
        ),
        (tmp_path / "a.txt", "b.txt", "a.txt: expected a .zip file to read b.txt from"),
    ]:
        with pytest.raises(DataError) as caught:
            read(path, member)
        assert str(caught.value).endswith(message)


def test_an_error_of_the_reader_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    with pytest.raises(OSError, match="disk full"), open_text(tmp_path / "a.txt") as lines:
        raise OSError(f"disk full at {next(lines)}")


def test_a_bad_line_is_named_or_counted(tmp_path: Path) -> None:
    path = tmp_path / "numbers.txt"
    path.write_text("2\n\n3\n4\n5\n")
    with pytest.raises(DataError) as caught:
        list(even(path, skip_bad=False))
    assert str(caught.value) == f"{path}:3: number: token 1 '3': odd"
    skipped = Skipped()
    assert list(even(path, skipped)) == [2, 4]
    assert skipped == {"number: odd": 2}
    places = f"{shorter_path(f'{path}:3')}, 5"
    assert str(skipped) == f"2 lines skipped: 2 x number: odd ({places})"


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_line_that_is_not_utf_8_with_skip_bad_is_one_bad_line(tmp_path: Path, name: str) -> None:
    path, content = tmp_path / name, b"2\n\xff4\n6\n" + b"8\n" * 9_999 + b"\xc3\n10"
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    skipped = Skipped()
    assert list(even(path, skipped)) == [2, 6, *[8] * 9_999, 10]
    assert skipped == {NOT_UTF_8: 2}
    assert skipped.places == {NOT_UTF_8: [f"{path}:2", f"{path}:10003"]}
    with pytest.raises(DataError, match=f"{name}:2: not UTF-8 text"):
        list(even(path, skip_bad=False))


@pytest.mark.parametrize("content, told", [("\n \n", "$"), ("3\n5\n", r" \(2 lines skipped")])
def test_a_file_that_leaves_no_example_is_refused(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "numbers.txt"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"numbers\.txt: no examples{told}"):
        list(even(path))


def test_what_is_left_out_is_told_of_each_file_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {"a": "3\n5\n2\n", "good": "2\n", "b": "2\n7\n", "c": "9\n9\n", "d": "9\n", "e": "1\n"}
    skipped = Skipped()
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        if name < "c" or name == "good":
            list(even(tmp_path / name, skipped))
            continue
        with pytest.raises(DataError) as caught:
            list(even(tmp_path / name, skipped))
        n = content.count("\n")
        lines = "line" if n == 1 else "lines"
        places = f"{name}:" + ", ".join(map(str, range(1, n + 1)))
        told = f"no examples ({n} {lines} skipped: {n} x number: odd ({places}))"
        assert str(caught.value) == f"{tmp_path / name}: {told}"
    told = "7 lines skipped, 2 in a, 1 in b, 2 in c, 2 in 2 other files: 7 x number: odd (a:1, 2, b:2, …)"
    assert str(skipped) == told
    total = Skipped()
    total.update(skipped)
    assert str(total) == str(skipped)
    total.restore({"odd": {"lines": 4, "places": []}}, "store")
    assert total.files["store"] == 4
    assert len(total.places["number: odd"]) == N_PLACES
    total.clear()
    assert not total.files
    assert not total.places


def test_paths_are_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shorter_path(f"{tmp_path}/a.txt:3") == "a.txt:3"
    assert shorter_path("/a.txt:3") == "/a.txt:3"


def test_atomic_write_of_text_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with atomic_write(path) as file:
        file.write("é\n")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == "é\n".encode()
    with atomic_write(path, "wb") as file:
        file.write(b"\x00new")
        file.flush()
        assert path.read_bytes() == "é\n".encode()
    assert path.read_bytes() == b"\x00new"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_atomic_write_leaves_nothing_on_an_error(
    tmp_path: Path, old: str | None, error: type[BaseException]
) -> None:
    path = tmp_path / "a"
    if old is not None:
        path.write_text(old)

    def fail() -> None:
        with atomic_write(path) as file:
            file.write("half")
            raise error

    with pytest.raises(error):
        fail()
    assert os.listdir(tmp_path) == ([] if old is None else ["a"])
    assert old is None or path.read_text() == old


def test_atomic_write_leaves_pipes_devices_and_links_what_they_are(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with atomic_write(tmp_path / "pipe", "wb") as file:
            file.write(b"text")
        assert os.read(reader, 100) == b"text"
    finally:
        os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "a")
    for text in ("old", "new"):  # whether what it stands for is there or not
        with atomic_write(tmp_path / "link") as file:
            file.write(text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "folder" / "a").read_text() == text
    assert os.listdir(tmp_path / "folder") == ["a"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full") as error, atomic_write("/dev/full") as file:
        file.write("a")
    assert error.value.filename == "/dev/full"
    link = tmp_path / "a.npy"
    link.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left .*a\.npy"):
        write_array(link, np.zeros(100_000))


def test_atomic_write_names_what_is_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"), atomic_write(tmp_path / "nowhere" / "a"):
        pass
    with pytest.raises(DataError, match="a folder, expected a file"), atomic_write(tmp_path):
        pass


def test_json_is_written_whole_and_what_is_no_object_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"é": [1]})
    assert path.read_bytes() == '{\n "é": [\n  1\n ]\n}\n'.encode()
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"loss": float("nan")})
    assert read_json_object(path) == {"é": [1]}
    for content in (b"[1]", b"{", b'"\xff"', b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.json"):
            read_json_object(path)
    with pytest.raises(DataError, match="no such file"):
        read_json_object(tmp_path / "b.json")


def test_a_data_error_is_one_line_and_keeps_the_first_place_it_was_given() -> None:
    error = (
        DataError("got 'a\nb'", token=(5, ")\n")).at(path="a\nb.txt", line=3, field="x").at(line=9, example=2)
    )
    assert str(error) == "a b.txt:3: example 2: x: token 5 ')\\n': got 'a b'"
    assert str(DataError("r", line=3)) == "line 3: r"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_files_that_are_read_in_turns_are_told_of_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in {"a": "2\n3\n2\n3\n3\n", "b": "5\n2\n2\n"}.items():
        (tmp_path / name).write_text(content)
    skipped = Skipped()
    both = [even(name, skipped) for name in ("a", "b")]
    assert list(zip(*both, strict=True)) == [(2, 2), (2, 2)]
    assert skipped.files == {"a": 3, "b": 1}
    assert skipped == {"number: odd": 4}
    neutral = '{"gold_label": "-", "sentence1_binary_parse": "a", "sentence2_binary_parse": "b"}\n'
    (tmp_path / "c.jsonl").write_text(neutral)
    (tmp_path / "d.jsonl").write_text(neutral * 2)
    skipped = Skipped()
    for name, n in (("c.jsonl", 1), ("d.jsonl", 2)):
        with pytest.raises(DataError, match=rf"no examples \({n} lines? skipped: {n} x "):
            list(read_line_examples(name, PairFormat(), skipped=skipped))
    assert skipped.files == {"c.jsonl": 1, "d.jsonl": 2}
