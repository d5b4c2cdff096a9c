"""The folder of a job's shards: whose it is, and what several processes and odd files do to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinn_tensor import ConfigError
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.encoding import Part, read_manifest, read_shards, shards
from tests.closeness import assert_close
from tests.damage import change_json
from tests.tiny_encoding import BAD, contents, encode, encoder_of, one_by_one, small_blocks
from tests.tiny_sentences import N_LINES, write_parses

pytestmark = pytest.mark.numerical
few_lines = pytest.fixture(autouse=True)(small_blocks)

pytest.importorskip("pyarrow")


@pytest.mark.parametrize("left", [".job.json.0123abcd.tmp", ""])
def test_a_job_that_ended_before_it_signed_its_folder_is_begun_again(left: str, tmp_path: Path) -> None:
    write_parses(tmp_path / "in.txt")
    folder = tmp_path / "out"
    (folder / "unfinished").mkdir(parents=True)
    if left:
        (folder / "unfinished" / left).write_text("{")
    assert encode(tmp_path / "in.txt", folder) == read_manifest(folder)


def test_a_job_without_a_whole_shard_is_in_nobodys_way(tmp_path: Path) -> None:
    source, folder = tmp_path / "in.txt", tmp_path / "out"
    write_parses(source, {2: "( a )"})
    with pytest.raises(DataError, match=r"in.txt:2: token 3 '\)': a node with one child"):
        encode(source, folder)
    write_parses(source)
    manifest = encode(source, folder)
    assert manifest is not None
    assert manifest["count"] == N_LINES


def test_a_folder_with_anything_else_is_refused(tmp_path: Path) -> None:
    write_parses(tmp_path / "in.txt")
    with pytest.raises(ConfigError, match="holds files, but no encodings"):
        encode(tmp_path / "in.txt", tmp_path, overwrite=True)
    with pytest.raises(ConfigError, match="a file, expected a folder"):
        encode(tmp_path / "in.txt", tmp_path / "in.txt", overwrite=True)
    for name in ("links", "folders"):
        (tmp_path / name).mkdir()
    (tmp_path / "links" / "link").symlink_to("nowhere")
    (tmp_path / "folders" / "mine").mkdir()
    for name in ("links", "folders"):
        with pytest.raises(ConfigError, match="holds files, but no encodings"):
            encode(tmp_path / "in.txt", tmp_path / name)


@pytest.mark.parametrize("n_parts", [2, 3, 7])
def test_parts_share_the_shards_without_overlap_or_loss(n_parts: int, tmp_path: Path) -> None:
    """One after another, the first part last: whichever ends last joins the shards."""
    sentences, source = write_parses(tmp_path / "in.txt", BAD), tmp_path / "in.txt"
    done: list[int] = []
    notes: list[str] = []
    for number in range(n_parts, 1, -1):
        part = Part(number, n_parts)
        made = encode(
            source, tmp_path / "out", part=part, on_error="skip", advance=done.append, note=notes.append
        )
        assert made is None
        assert notes.pop().startswith(f"part {number} of {n_parts} is done, ")
    last = Part(1, n_parts)
    manifest = encode(source, tmp_path / "out", part=last, on_error="skip", advance=done.append)
    assert sum(done) == len(sentences)
    encode(source, tmp_path / "alone", on_error="skip")
    assert manifest == read_manifest(tmp_path / "alone")
    assert {name: data for name, (data, _) in contents(tmp_path / "out").items()} == {
        name: data for name, (data, _) in contents(tmp_path / "alone").items()
    }
    assert encode(source, tmp_path / "out", part=Part(2, n_parts), on_error="skip") == manifest


def test_the_whole_command_does_what_parts_left(tmp_path: Path) -> None:
    sentences, source = write_parses(tmp_path / "in.txt"), tmp_path / "in.txt"
    done: list[int] = []
    assert encode(source, tmp_path / "out", part=Part(2, 3), advance=done.append) is None
    manifest = encode(source, tmp_path / "out", advance=done.append)
    assert manifest is not None
    assert sum(done) == len(sentences) == manifest["count"]


def test_a_part_that_is_overtaken_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process does the same shards and ends the job between a shard and its entry."""
    source, folder = tmp_path / "in.txt", tmp_path / "out"
    write_parses(source)
    write_array, overtaken = shards.write_array, []

    def overtake(path: Path, array: np.ndarray) -> None:
        write_array(path, array)
        if not overtaken:
            overtaken.append(path)
            encode(source, folder)

    monkeypatch.setattr(shards, "write_array", overtake)
    assert encode(source, folder) == read_manifest(folder)
    assert overtaken
    assert not (folder / "unfinished").exists()


def test_a_part_that_is_overtaken_at_its_end_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process joins the shards, where there are no locks, before this one has read what they are."""
    source, folder = tmp_path / "in.txt", tmp_path / "out"
    write_parses(source)
    read, overtaken = shards.read_json_object, []

    def overtake(path: Path) -> dict[str, Any]:
        if path.stem.isdecimal() and not overtaken:
            overtaken.append(path)
            encode(source, folder)
        return read(path)

    monkeypatch.setattr(shards, "_alone", lambda _: nullcontext())
    monkeypatch.setattr(shards, "read_json_object", overtake)
    assert encode(source, folder) == read_manifest(folder)
    assert overtaken


def test_parts_that_begin_at_once_replace_another_job_once(tmp_path: Path) -> None:
    """Threads stand for processes: each opens the folder, and its lock, by itself."""
    sentences, source, folder = write_parses(tmp_path / "in.txt"), tmp_path / "in.txt", tmp_path / "out"
    encode(source, folder, dtype="float16")

    def run(number: int) -> dict[str, Any] | None:
        return encode(source, folder, encoder=encoder, part=Part(number, 4), overwrite=True)

    encoder = encoder_of()
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(run, range(1, 5)))
    manifest = read_manifest(folder)
    assert manifest in made
    assert manifest["count"] == len(sentences)
    assert_close(np.concatenate(list(read_shards(folder))), one_by_one(encoder, sentences))


def without(name: str) -> Callable[[dict], object]:
    return lambda values: values.pop(name)


@pytest.mark.parametrize(
    "name, change",
    [
        ("unfinished/job.json", dict.clear),
        ("unfinished/job.json", lambda job: job.update(input=3)),
        ("unfinished/job.json", lambda job: job["input"].pop("sha256")),
        ("unfinished/00000.json", dict.clear),
        ("unfinished/00001.json", lambda entry: entry.update(rows="7")),
        ("manifest.json", without("job")),
        ("manifest.json", without("shards")),
        ("manifest.json", lambda manifest: manifest["shards"][0].pop("file")),
        ("manifest.json", lambda manifest: manifest["shards"].append(3)),
    ],
)
def test_what_we_did_not_write_is_one_error_that_names_it(
    name: str, change: Callable[[dict], object], tmp_path: Path
) -> None:
    source, folder = tmp_path / "in.txt", tmp_path / "out"
    write_parses(source)
    encode(source, folder, part=Part(2, 2))
    encode(source, folder, part=Part(1, 2) if name == "manifest.json" else Part(2, 2))
    if name.startswith("unfinished/0"):
        entry = json.loads((folder / "unfinished" / "00001.json").read_text())
        for number in range(0, -(-N_LINES // 5), 2):
            (folder / f"shard-{number:05d}.npy").touch()
            (folder / "unfinished" / f"{number:05d}.json").write_text(json.dumps(entry))
    change_json(name, change)(folder)
    with pytest.raises(DataError, match="not what spinn encode writes") as caught:
        encode(source, folder)
    assert str(caught.value).startswith(f"{folder / name}: ")


def test_a_file_of_no_shard_is_not_counted(tmp_path: Path) -> None:
    source, folder = tmp_path / "in.txt", tmp_path / "out"
    write_parses(source)
    encode(source, folder, part=Part(2, 2))
    (folder / "unfinished" / "0x.json").write_text("{}")
    assert encode(source, folder) is not None
