"""Damaged stores and archives: refused by one error, or read as they were."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from spinn_tensor.data_prep.corpora.formats import PairFormat
from spinn_tensor.data_prep.corpora.read import read_line_examples
from spinn_tensor.data_prep.corpora.store import is_store, read_manifest, read_store, write_store
from spinn_tensor.data_prep.errors import DataError
from tests.fuzzing import (
    JSON_PIECES,
    N_EXAMPLES,
    SNLI_LINES,
    assert_one_error,
    changes,
    damaged,
    fuzz,
    packed,
    texts,
)
from tests.reading import by_the_line, outcome
from tests.stores import assert_same, random_corpus

pytest.importorskip("pyarrow")


@pytest.mark.parametrize("name", ["pairs.jsonl.gz", "pairs.zip"])
def test_containers(name: str, tmp_path: Path) -> None:
    """Hit before or after packing."""
    path, member = tmp_path / name, "p.jsonl" if name.endswith(".zip") else None

    def check(content: bytes) -> None:
        path.write_bytes(content)
        for skip_bad in (False, True):
            found = outcome(path, PairFormat(), skip_bad, member=member)
            expected = by_the_line(path, PairFormat(), skip_bad, member=member)
            if isinstance(found, str):
                assert_one_error(found, path)
                assert isinstance(expected, str)
            else:
                assert found == expected

    inside = texts(SNLI_LINES, JSON_PIECES).map(lambda content: packed(content, name, "p.jsonl"))
    pieces = [
        b"\0",
        b"\xff" * 4,
        b"\x08",
        b"\x0c",
        b"\x0e",
        b"\x80",
        b"\x00\x08",
        b"PK\x01\x02",
        b"PK\x05\x06",
        b"\x1f\x8b",
    ]
    inputs = st.builds(damaged, inside, st.lists(changes(pieces), max_size=3))
    fuzz(inputs, check, N_EXAMPLES, 2)


@pytest.mark.parametrize("task", ["pair", "sentence"])
def test_stores(task: str, tmp_path: Path) -> None:
    """Damaged in any file, a store is refused or what was written."""
    pytest.importorskip("datasets")
    folder, corpus = tmp_path / "store", random_corpus(9, task)
    write_store(folder, corpus, {"options": {"corpus": "snli"}})
    good = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    pieces = [*JSON_PIECES, b"\xff\xff\xff\x7f", b"\0" * 8, b'"train"', b'"a"', b'"files"', b"../", b"/"]
    where = st.sampled_from([folder / "manifest.json", *good])

    def check(drawn: tuple[Path, list[Any]]) -> None:
        path, cuts = drawn
        path.unlink()  # and not written over, since Arrow may have it mapped
        path.write_bytes(damaged(good[path], cuts))
        try:
            assert is_store(folder) or path.name == "manifest.json"
            read_manifest(folder)
            assert_same(read_store(folder), corpus)
        except DataError as error:
            assert_one_error(error, folder)
        finally:
            path.unlink()
            path.write_bytes(good[path])

    fuzz(st.tuples(where, st.lists(changes(pieces), max_size=3)), check, N_EXAMPLES, 2)


def test_a_zip_with_a_name_that_is_no_text(tmp_path: Path) -> None:
    content = bytearray(packed(b"x", "a.zip", "p.jsonl"))
    directory = content.index(b"PK\x01\x02")
    content[directory + 9] |= 8  # names are UTF-8
    content[directory + 46] = 0xFF
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read: .* codec can't decode"):
        list(read_line_examples(tmp_path / "a.zip", PairFormat(), member="p.jsonl"))


def test_a_zip_with_a_file_without_a_name(tmp_path: Path) -> None:
    content = bytearray(packed(b"x", "a.zip", "p.jsonl"))
    directory = content.index(b"PK\x01\x02")
    content[directory + 46] = 0  # where zipfile takes a name to end
    (tmp_path / "a.zip").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == [""]
    with pytest.raises(DataError, match=r"no p\.jsonl in it"):
        list(read_line_examples(tmp_path / "a.zip", PairFormat(), member="p.jsonl"))


def test_a_zip_that_is_packed_in_another_way(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("p.jsonl", b"\n".join(SNLI_LINES))
    with pytest.raises(DataError, match=r"p\.jsonl is packed in another way than deflated"):
        list(read_line_examples(tmp_path / "a.zip", PairFormat(), member="p.jsonl"))
