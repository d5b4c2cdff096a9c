"""Paths as people write them: ~ is found wherever one is taken, by Python and where a shell leaves it as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spinn_tensor.cli.main import main
from spinn_tensor.data_prep import Vocabulary, read_vectors, save_vectors
from spinn_tensor.data_prep.corpora.config import DataConfig
from spinn_tensor.data_prep.files import atomic_write, open_text, read_json
from spinn_tensor.data_prep.paths import expanded
from spinn_tensor.training.presets import find_preset
from tests.tiny_bundles import PARSES, tiny_bundle


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, while the working folder is another."""
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_user_that_there_is_not_stays(home) -> None:
    assert expanded("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
    assert expanded("a~/b") == Path("a~/b")


def test_files_are_found_and_written(home) -> None:
    with atomic_write("~/a.json") as file:
        file.write('["a"]')
    assert (home / "a.json").is_file()
    assert read_json("~/a.json") == ["a"]
    vocabulary = Vocabulary.build([["dog"]])
    (home / "v.txt").write_text("dog 1 2\n")
    save_vectors("~/v.safetensors", vocabulary, read_vectors("~/v.txt", vocabulary, 2))
    assert read_vectors("~/v.safetensors", vocabulary, 2).matrix[2].tolist() == [1, 2]
    with open_text("~/a.json") as lines:
        assert list(lines) == ['["a"]']


def test_settings_have_whole_paths(home) -> None:
    data = DataConfig(data="~/snli", train=("~/a", "b"), extra=("more=~/c",), vectors="~/v.txt")
    assert (data.data, data.vectors) == (f"{home}/snli", f"{home}/v.txt")
    assert (data.train, data.extra) == ((f"{home}/a", "b"), (f"more={home}/c",))
    assert data.with_absolute_paths().train == (f"{home}/a", f"{home.parent}/elsewhere/b")
    (home / "my.toml").write_text('base = "logic-bow"\nsummary = "mine"\n')
    assert find_preset("~/my.toml").summary == "mine"


def test_commands_take_them(home) -> None:
    tiny_bundle(home / "pi", "spinn-pi", "sentence")
    tiny_bundle(home / "spinn", "spinn", "parse")
    (home / "in.txt").write_text("".join(f"{parse}\n" for parse in PARSES if parse != "cats"))
    (home / "in.jsonl").write_text("".join(json.dumps({"sentence_binary_parse": p}) + "\n" for p in PARSES))
    cpu = ["--device=cpu", "--threads=1"]
    for arguments in (
        ["encode", "~/pi", "--input=~/in.txt", "--output=~/out.npy", *cpu],
        ["encode", "~/pi", "--input=~/in.txt", "--output=~/shards", *cpu],
        ["predict", "~/pi", "--input=~/in.jsonl", "--output=~/out.jsonl", *cpu],
        ["parse", "--model=~/spinn", "--tokens", "--input=~/words.txt", "--output=~/trees.txt", *cpu],
        ["parse", "--gold=~/trees.txt", "--model=~/spinn", *cpu],
        ["generate", "--corpus=listops", "~/listops", "--train=3", "--dev=3", "--test=3"],
    ):
        (home / "words.txt").write_text("a dog barks\n")
        assert main(arguments) == 0, arguments
    assert np.load(home / "out.npy").shape == (4, 8)
    assert {"shards", "out.jsonl", "trees.txt", "listops"} <= {path.name for path in home.iterdir()}
    assert list(Path.cwd().iterdir()) == []
