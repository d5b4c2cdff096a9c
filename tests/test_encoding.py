"""Bulk encoding: the same vectors whatever the shards, blocks, batches and processes; a killed job goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinn_tensor import ConfigError
from spinn_tensor.config import ENCODER_KINDS
from spinn_tensor.data_prep.columns import sentence_columns
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import NOT_UTF_8
from spinn_tensor.data_prep.text import SentenceReader
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import parse_binary
from spinn_tensor.encoding import EncodingOptions, Part, Reading, encode_to_array, read_manifest, read_shards
from spinn_tensor.inference import encode_columns
from tests.closeness import FLOAT16, FLOAT32, assert_close
from tests.tiny_encoding import BAD, VOCABULARY, contents, encode, encoder_of, one_by_one, small_blocks
from tests.tiny_sentences import N_LINES, WORDS, trees, write_parses

pytestmark = pytest.mark.numerical
few_lines = pytest.fixture(autouse=True)(small_blocks)

pytest.importorskip("pyarrow")


@pytest.mark.parametrize("kind", ENCODER_KINDS)
@pytest.mark.parametrize("batch_tokens", [1, 10, 1000])
def test_columns_are_encoded_as_one_by_one(kind: str, batch_tokens: int) -> None:
    encoder, sentences = encoder_of(kind), trees()
    got = encode_columns(encoder, sentence_columns(sentences, VOCABULARY), batch_tokens=batch_tokens)
    assert got.dtype == np.float32
    assert_close(got, one_by_one(encoder, sentences))


@pytest.mark.parametrize("form", ["npy", "safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shard_size", [1, 5, N_LINES, 100])
def test_shards_are_the_sentences_in_the_order_of_the_lines(
    shard_size: int, dtype: str, form: str, tmp_path: Path
) -> None:
    sentences = write_parses(tmp_path / "in.txt", BAD)
    manifest = encode(
        tmp_path / "in.txt",
        tmp_path / "out",
        shard_size=shard_size,
        dtype=dtype,
        format=form,
        on_error="skip",
    )
    parts = list(read_shards(tmp_path / "out"))
    got, expected = np.concatenate(parts), one_by_one(encoder_of(), sentences)
    assert got.dtype == dtype
    assert_close(got, expected, FLOAT32 if dtype == "float32" else FLOAT16)
    assert manifest == read_manifest(tmp_path / "out")
    assert (manifest["count"], manifest["width"], manifest["lines"]) == (len(sentences), 8, N_LINES)
    assert [entry["rows"] for entry in manifest["shards"]] == [len(part) for part in parts]
    assert [line for entry in manifest["shards"] for line in entry["left_out"]] == list(BAD)
    assert [entry["first_line"] for entry in manifest["shards"]] == list(range(1, N_LINES + 1, shard_size))
    assert sum(manifest["skipped"].values()) == 3
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"manifest.json", *(entry["file"] for entry in manifest["shards"])}
    if form == "npy":
        assert all(isinstance(part, np.memmap) for part in parts if len(part))


def test_an_array_is_the_shards_joined(tmp_path: Path) -> None:
    write_parses(tmp_path / "in.txt", BAD)
    options = EncodingOptions(on_error="skip", branching="random")
    found = encode_to_array(encoder_of(), VOCABULARY, tmp_path / "in.txt", options)
    assert found.skipped.total() == 3
    assert found.left_out.tolist() == list(BAD)
    manifest = encode(
        tmp_path / "in.txt", tmp_path / "out", shard_size=8, on_error="skip", branching="random"
    )
    assert manifest is not None
    joined = np.concatenate(list(read_shards(tmp_path / "out")))
    assert_close(joined, found.encodings)


LINES = b"( old dogs )|| ( a )|(S (NP (DT old)|  (NN dogs)) (VP bark))|  |\xff|( dogs bark )||"


@pytest.mark.parametrize("shard_size", [1, 3, 4, 100])
def test_rows_are_the_lines(shard_size: int, tmp_path: Path) -> None:
    """Blank and bad ones are NaN; a tree's lines, and blank ones after them, are one row, wherever a shard ends."""
    source, folder = tmp_path / "in.txt", tmp_path / "out"
    source.write_bytes(LINES.replace(b"|", b"\n"))
    manifest = encode(source, folder, shard_size=shard_size, on_error="nan")
    assert manifest is not None
    got = np.concatenate(list(read_shards(folder)))
    good = list(map(parse_binary, ("( old dogs )", "( ( old dogs ) bark )", "( dogs bark )")))
    assert np.flatnonzero(~np.isnan(got).any(1)).tolist() == [0, 3, 5]
    assert_close(got[[0, 3, 5]], one_by_one(encoder_of(), good))
    assert len(got) == manifest["count"] == 7
    for name, numbers in {"left_out": [5, 6], "nan_lines": [2, 3, 7, 9]}.items():
        assert [line for entry in manifest["shards"] for line in entry[name]] == numbers
    assert manifest["skipped"] == {"a blank line": 2, "a node with one child": 1, NOT_UTF_8: 1}
    array = encode_to_array(encoder_of(), VOCABULARY, source, EncodingOptions(on_error="nan"))
    np.testing.assert_array_equal(np.isnan(array.encodings), np.isnan(got))
    assert (array.left_out.tolist(), array.nan_lines.tolist()) == ([5, 6], [2, 3, 7, 9])
    assert array.skipped == manifest["skipped"]


def test_blank_lines_are_rows_without_being_asked(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("( old dogs )\n\ndogs\n")
    found = encode_to_array(encoder_of(), VOCABULARY, tmp_path / "in.txt", EncodingOptions())
    assert np.isnan(found.encodings).any(1).tolist() == [False, True, False]
    assert found.skipped == {"a blank line": 1}


def test_words_and_unknown_words_are_counted_over_all_shards(tmp_path: Path) -> None:
    """Those of shards that were there before, too; the vocabulary lacks the last of WORDS."""
    sentences, source = write_parses(tmp_path / "in.txt", BAD), tmp_path / "in.txt"
    tokens = [token for tree in sentences for token in tree.tokens]
    n_unknown = tokens.count(WORDS[-1])
    assert n_unknown > 0
    found = encode_to_array(encoder_of(), VOCABULARY, source, EncodingOptions(on_error="skip"))
    assert (found.n_words, found.n_unknown) == (len(tokens), n_unknown)
    with pytest.raises(Killed):
        encode(source, tmp_path / "out", on_error="skip", advance=stop_after(12))
    manifest = encode(source, tmp_path / "out", on_error="skip")
    assert manifest is not None
    assert (manifest["words"], manifest["unknown_words"]) == (len(tokens), n_unknown)


def test_a_job_that_goes_on_says_how_many_shards_were_there(tmp_path: Path) -> None:
    source, folder, notes = tmp_path / "in.txt", tmp_path / "out", list[str]()
    write_parses(source)
    with pytest.raises(Killed):
        encode(source, folder, advance=stop_after(12), note=notes.append)
    assert notes == []  # nothing was
    for _ in range(2):
        encode(source, folder, note=notes.append)
    assert notes == ["2 of 5 shards were there", "5 of 5 shards were there"]


class Killed(BaseException):
    """What ends a job in the middle."""


def stop_after(n_sentences: int) -> Any:
    """An `advance` that ends the job once so many sentences are done."""
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if done >= n_sentences:
            raise Killed

    return advance


@pytest.mark.parametrize("ended_after", [1, 5, 12, 22])
def test_a_job_goes_on_with_the_shards_that_are_missing(ended_after: int, tmp_path: Path) -> None:
    sentences = write_parses(tmp_path / "in.txt", BAD)
    source, whole, folder = tmp_path / "in.txt", tmp_path / "whole", tmp_path / "out"
    encode(source, whole, on_error="skip")
    with pytest.raises(Killed):
        encode(source, folder, on_error="skip", advance=stop_after(min(ended_after, len(sentences))))
    with pytest.raises(DataError, match=r"manifest.json: no such file"):
        read_manifest(folder)
    before = {name: value for name, value in contents(folder).items() if name.startswith("shard")}
    done: list[int] = []
    assert encode(source, folder, on_error="skip", advance=done.append) == read_manifest(whole)
    after = contents(folder)
    assert before.items() <= after.items()  # what was whole is not written again
    n_kept = sum(len(np.load(folder / name)) for name in before)
    assert sum(done) == len(sentences) - n_kept
    assert {name: data for name, (data, _) in after.items()} == {
        name: data for name, (data, _) in contents(whole).items()
    }


def test_a_finished_job_is_not_begun_again(tmp_path: Path) -> None:
    write_parses(tmp_path / "in.txt")
    manifest = encode(tmp_path / "in.txt", tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "unfinished").mkdir()  # the writer was killed between its last two steps
    assert encode(tmp_path / "in.txt", tmp_path / "out", advance=stop_after(0)) == manifest
    assert contents(tmp_path / "out") == before
    assert not (tmp_path / "out" / "unfinished").exists()


def test_a_shard_that_was_deleted_is_made_again_by_the_same_job(tmp_path: Path) -> None:
    source, folder, notes = tmp_path / "in.txt", tmp_path / "out", list[str]()
    write_parses(source, BAD)
    manifest = encode(source, folder, on_error="skip")
    before = contents(folder)
    for name in ("shard-00001.npy", "shard-00003.npy"):
        (folder / name).unlink()
    # a part that does one of the two does not say that all is there
    assert encode(source, folder, on_error="skip", part=Part(2, 3)) is None
    assert encode(source, folder, on_error="skip", note=notes.append) == manifest
    assert notes == [f"{len(before) - 2} of {len(before) - 1} shards were there"]
    after = contents(folder)
    assert {name: data for name, (data, _) in after.items()} == {
        name: data for name, (data, _) in before.items()
    }
    assert after["shard-00000.npy"] == before["shard-00000.npy"]  # nor is it written again


def test_shards_of_an_earlier_version_have_the_defaults_of_later_options(tmp_path: Path) -> None:
    source, folder = tmp_path / "in.txt", tmp_path / "out"
    write_parses(source)
    manifest = encode(source, folder, on_error="skip")
    assert manifest is not None
    for name in ("max_line_bytes", "max_words", "on_error"):
        del manifest["job"]["options"][name]
    manifest["job"]["options"]["skip_bad"] = True
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    before = contents(folder)
    assert encode(source, folder, on_error="skip", advance=stop_after(0)) == manifest
    assert contents(folder) == before
    with pytest.raises(ConfigError, match=r"max_words was 100000, now 99\)"):
        encode(source, folder, on_error="skip", max_words=99)
    with pytest.raises(ConfigError, match=r"on_error was 'skip', now 'raise'"):  # blank lines had no row
        encode(source, folder)


OTHER_JOBS: list[tuple[str, dict[str, Any]]] = [  # what is said of each, and its arguments
    ("another input, .*in.txt", {}),
    ("another model", {"encoder": encoder_of(seed=1)}),
    ("dtype was 'float32', now 'float16'", {"dtype": "float16"}),
    ("shard_size was 5, now 6", {"shard_size": 6}),
    ("branching was None, now 'left'", {"branching": "left"}),
    ("on_error was 'raise', now 'skip'", {"on_error": "skip"}),
    ("format was 'npy', now 'safetensors'", {"format": "safetensors"}),
]


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("message, other", OTHER_JOBS, ids=[message for message, _ in OTHER_JOBS])
def test_another_job_is_refused_or_replaces_the_encodings(
    message: str, other: dict[str, Any], finished: bool, tmp_path: Path
) -> None:
    source, folder = tmp_path / "in.txt", tmp_path / "out"
    write_parses(source)
    if finished:
        encode(source, folder)
    else:
        with pytest.raises(Killed):
            encode(source, folder, advance=stop_after(12))
    (folder / "notes.txt").write_text("mine")
    if not other:
        source.write_text(source.read_text() + "( old dogs )\n")
    before = contents(folder)
    with pytest.raises(ConfigError, match=rf"out: holds encodings of another job \({message}\); --overwrite"):
        encode(source, folder, **other)
    assert contents(folder) == before
    manifest = encode(source, folder, **other, overwrite=True)
    encode(source, tmp_path / "fresh", **other)
    (tmp_path / "fresh" / "notes.txt").write_text("mine")
    assert manifest == read_manifest(tmp_path / "fresh")
    assert {name: data for name, (data, _) in contents(folder).items()} == {
        name: data for name, (data, _) in contents(tmp_path / "fresh").items()
    }


def test_a_file_without_a_sentence_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("\n( a )\n")
    for on_error, message in (
        ("skip", "no examples \\(2 lines skipped"),
        ("raise", "in.txt:2: "),
        ("nan", "no examples"),
    ):
        with pytest.raises(DataError, match=message):
            encode(tmp_path / "in.txt", tmp_path / f"out{on_error}", on_error=on_error)
        options = EncodingOptions(on_error=on_error)
        with pytest.raises(DataError, match=message):
            encode_to_array(encoder_of(), VOCABULARY, tmp_path / "in.txt", options)


@pytest.mark.parametrize(
    "setting", [{"format": "txt"}, {"dtype": "int8"}, {"shard_size": 0}, {"branching": "up"}]
)
def test_options_are_checked(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(setting))}: expected "):
        EncodingOptions(**setting)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/", "/", "-1/2"])
def test_parts_are_checked(text: str) -> None:
    assert Part.parse("2/2") == Part(2, 2)
    with pytest.raises(ConfigError, match="expected i/n"):
        Part.parse(text)


@pytest.mark.parametrize("rank, world", [("2", "2"), ("-1", "2"), ("x", "2"), ("0", "")])
def test_the_part_of_the_environment_is_checked(
    rank: str, world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Part.from_environment() == Part(1, 1)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(ConfigError, match="RANK and WORLD_SIZE"):
        Part.from_environment()


def test_text_for_a_model_that_parses_for_itself(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("old dogs bark\n( old ( dogs bark ) )\n")
    options = EncodingOptions()
    encoder, reader = encoder_of("spinn"), SentenceReader(Tokenizer().tokenize)
    got = encode_to_array(
        encoder, VOCABULARY, tmp_path / "in.txt", options, reading=Reading(reader)
    ).encodings
    assert_close(got[0], got[1])
    assert_close(got, one_by_one(encoder, [parse_binary("( old ( dogs bark ) )")] * 2))
