"""Generated corpora: made once, known again, and replaced as a whole or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from spinn_tensor.cli.main import main
from spinn_tensor.data_prep.corpora.generated import GENERATORS, generate_corpus
from spinn_tensor.data_prep.corpora.generated.logic import LogicConfig
from spinn_tensor.data_prep.errors import DataError
from tests.tiny_runs import (
    SMALL,
)

pytest.importorskip("datasets")

Capture = pytest.CaptureFixture[str]
PREMISE, HYPOTHESIS = "( dogs bark )", "( dogs ( do ( not bark ) ) )"


def test_a_generated_corpus_is_left_as_it_is(tmp_path: Path) -> None:
    output = tmp_path / "run"
    folder = output / "corpus"  # even here, where train without --data generates its own
    assert (
        main(["generate", str(folder), "--train", "90", "--dev", "30", "--test", "30", "--long", "30"]) == 0
    )
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"train.jsonl", "dev.jsonl", "test.jsonl", "long.jsonl"} <= set(before)
    assert main(["train", "--data", str(folder), "--epochs", "1", *SMALL, "--output", str(output)]) == 0
    results = json.loads((output / "results.json").read_text())
    assert set(results["splits"]) == {"dev", "test", "long"}
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


TINY = LogicConfig(n_train=90, n_dev=30, n_test=30, n_long=30)


LOGIC = GENERATORS["logic"]


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


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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
