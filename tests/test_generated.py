"""Generated corpora: made once, known again, and replaced as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spinn_tensor import ConfigError
from spinn_tensor.cli.main import main
from spinn_tensor.data_prep.corpora.generated import (
    GENERATORS,
    GeneratedConfig,
    generate_corpus,
    write_generated,
)
from spinn_tensor.data_prep.corpora.generated.listops import ListOpsConfig
from spinn_tensor.data_prep.corpora.generated.logic import LogicConfig
from spinn_tensor.data_prep.errors import DataError
from tests.processes import run_program
from tests.tiny_runs import SMALL

pytest.importorskip("datasets")

Capture = pytest.CaptureFixture[str]
TINY = LogicConfig(n_train=90, n_dev=30, n_test=30, n_long=30)
LOGIC = GENERATORS["logic"]
SCRIPT = """
import json, sys
import numpy
name, folder, config, seed = sys.argv[1:]
numpy.random.seed(int(seed))
from spinn_tensor.data_prep.corpora.generated import GENERATORS, write_generated
write_generated(name, folder, type(GENERATORS[name].default)(**json.loads(config)))
"""


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# A configuration, and the SHA-256 of the files that it gives with this version of its generator.
GIVES: list[tuple[str, GeneratedConfig, str]] = [
    ("logic", TINY, "6dfb2e1c0dd6ac604279c00a2f1d4e8c248cd5cae0332bf7c50d05cb6ccc1a68"),
    (
        "listops",
        ListOpsConfig(n_train=60, n_dev=20, n_test=20, max_tokens=10),
        "c28d10c9e44628025b232ba1a3f0ebb02be9f6f74b9fb6d4f087e0e157d08165",
    ),
]


@pytest.mark.parametrize("name, config, sha256", GIVES)
def test_the_same_bytes_whatever_the_hash_seed_and_numpy_state(
    name: str, config: GeneratedConfig, sha256: str, tmp_path: Path
) -> None:
    write_generated(name, tmp_path / "here", config)
    expected = content(tmp_path / "here")
    assert expected.keys() == {*GENERATORS[name].files.values(), "corpus.json"}
    assert hashlib.sha256(b"".join(expected.values())).hexdigest() == sha256
    for seed in ("0", "1"):
        made = json.dumps(config.to_dict())
        run_program(SCRIPT, name, tmp_path / seed, made, seed, PYTHONHASHSEED=seed)
        assert content(tmp_path / seed) == expected
    write_generated(name, tmp_path / "other", replace(config, seed=2))
    for file, lines in content(tmp_path / "other").items():
        assert lines != expected[file]


@pytest.mark.parametrize(
    "kind, field, value",
    [
        (LogicConfig, "n_train", -1),
        (LogicConfig, "n_long", -3),
        (LogicConfig, "max_tokens", 5),
        (LogicConfig, "max_long_tokens", 10),
        (LogicConfig, "contrast", 0.7),
        (LogicConfig, "contrast", -0.1),
        (LogicConfig, "domain_size", 6),
        (ListOpsConfig, "n_dev", -1),
        (ListOpsConfig, "n_test", -2),
        (ListOpsConfig, "max_tokens", 9),
        (ListOpsConfig, "max_depth", 1),
        (ListOpsConfig, "max_depth", 101),
    ],
)
def test_bad_configurations_are_named(kind: type[GeneratedConfig], field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: expected .*, got {value}"):
        kind(**{field: value})


def test_a_generated_corpus_is_left_as_it_is(tmp_path: Path) -> None:
    output = tmp_path / "run"
    folder = output / "corpus"  # even here, where train without --data generates its own
    sizes = ["--train", "90", "--dev", "30", "--test", "30", "--long", "30"]
    assert main(["generate", str(folder), *sizes]) == 0
    before = content(folder)
    assert {"train.jsonl", "dev.jsonl", "test.jsonl", "long.jsonl"} <= set(before)
    assert main(["train", "--data", str(folder), "--epochs", "1", *SMALL, "--output", str(output)]) == 0
    results = json.loads((output / "results.json").read_text())
    assert set(results["splits"]) == {"dev", "test", "long"}
    assert before == content(folder)


def test_a_generated_corpus_is_taken_again_only_while_it_is_what_would_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "corpus"
    assert generate_corpus("logic", folder, TINY)
    before = content(folder)
    assert not generate_corpus("logic", folder, TINY)
    assert generate_corpus("logic", folder, replace(TINY, seed=1))
    assert content(folder) != before
    monkeypatch.setitem(GENERATORS, "logic", LOGIC._replace(version=LOGIC.version + 1))
    assert generate_corpus("logic", folder, replace(TINY, seed=1))
    monkeypatch.undo()
    (folder / "dev.jsonl").unlink()
    assert generate_corpus("logic", folder, TINY)
    assert content(folder) == before
    (folder / "notes.txt").write_text("mine")
    assert not generate_corpus("logic", folder, TINY)
    with pytest.raises(DataError, match=r"corpus: holds other files \(notes.txt\)"):
        generate_corpus("logic", folder, replace(TINY, seed=1))
    assert content(folder) == {**before, "notes.txt": b"mine"}


def test_a_corpus_is_replaced_as_a_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    folder = tmp_path / "corpus"
    generate_corpus("logic", folder, TINY)
    before = content(folder)

    def fail(record: object) -> tuple[str, str]:
        raise OSError("disk full")

    monkeypatch.setitem(GENERATORS, "logic", LOGIC._replace(line=fail, default=TINY))
    assert main(["generate", str(folder), "--seed", "3"]) == 1
    assert "disk full" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    assert content(folder) == before


def test_train_alone_generates_its_corpus_and_resumes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(GENERATORS, "logic", LOGIC._replace(default=TINY))
    monkeypatch.chdir(tmp_path)
    options = ["--output", "run", *SMALL]
    assert main(["train", "--epochs", "1", *options]) == 0
    assert f"generated the corpus in {tmp_path / 'run' / 'corpus'}" in capsys.readouterr().err
    assert json.loads(Path("run/run.json").read_text())["data"]["data"] == str(tmp_path / "run" / "corpus")
    before = content(Path("run/corpus"))
    newer = LOGIC._replace(version=LOGIC.version + 1)
    monkeypatch.setitem(GENERATORS, "logic", newer)  # a run keeps the corpus that it began with
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["train", "--output", "../run", "--resume", "--epochs", "2"]) == 0
    assert main(["evaluate", "../run"]) == 0
    assert content(tmp_path / "run" / "corpus") == before
