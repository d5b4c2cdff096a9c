"""What the benchmarks share: where a report goes, which data are read, and what is said where there are none."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import (
    bulk,
    compiled,
    corpora,
    encoders,
    gpu,
    harness,
    own,
    parsing,
    precision,
    sharing,
    vectors,
)
from benchmarks import sentences as benchmark_sentences
from benchmarks.gpu_pairs import load_pairs
from benchmarks.sentences import load_sentences, snli_pairs
from spinn_tensor.data_prep.errors import DataError
from tests.tiny_runs import same_threads, write_pairs

Capture = pytest.CaptureFixture[str]
keep_threads = pytest.fixture(autouse=True)(same_threads)
ON_SNLI = [bulk, compiled, encoders, gpu, own, sharing]  # those with --quick


@pytest.fixture
def pairs_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny pairs, which are also the slice, and a folder of results of its own."""
    path = write_pairs(tmp_path / "pairs.jsonl", 12, seed=1)
    monkeypatch.setattr(benchmark_sentences, "SNLI_SLICE", path)
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    return path


def name_of(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


@pytest.mark.parametrize("module", ON_SNLI, ids=name_of)
def test_committed_results_are_replaced_by_a_whole_run_on_the_slice_alone(
    module: ModuleType, pairs_file: Path, tmp_path: Path
) -> None:
    whole = module._parse([]).out
    assert whole.parent == tmp_path / "results"
    assert whole.name.startswith(name_of(module)[:3])
    assert module._parse(["--quick"]).out is None
    assert module._parse(["--snli", str(pairs_file)]).out is None
    for options in ([], ["--quick"], ["--snli", "some.jsonl"]):
        assert module._parse([*options, "--out", "mine.json"]).out == Path("mine.json")
    pairs_file.unlink()  # what is measured then is something else
    assert module._parse([]).out is None


def test_fewer_seeds_epochs_or_examples_replace_nothing(
    pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parsing, "SST_TRAIN", pairs_file)
    assert parsing._parse([]).out == tmp_path / "results" / "parsing.json"
    assert precision._parse([]).out == tmp_path / "results" / "precision.json"
    for options in (["--seeds", "1"], ["--sst", str(pairs_file)], ["--snli", "mine.jsonl"]):
        assert parsing._parse(options).out is None
    for options in (["--epochs", "1"], ["--limit", "9"], ["--kinds", "spinn"], ["--seeds", "1"]):
        assert precision._parse(options).out is None


def test_a_quick_run_prints_its_report_and_writes_nothing(
    pairs_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    before = sorted(tmp_path.iterdir())
    own.main(["--quick"])
    sharing.main(["--quick"])
    vectors.main(["--quick"])
    printed = capsys.readouterr()
    for part in ("| H | batch | given |", "| arithmetic left |", "| reader | file, MB |"):
        assert part in printed.out
    assert printed.err.count("not written; --out FILE would\n") == 3
    assert sorted(tmp_path.iterdir()) == before


def test_a_report_is_written_as_json_and_markdown(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "folder" / "report.json"
    harness.publish({"a": 1}, "| a |\n", out)
    assert json.loads(out.read_text()) == {"a": 1}
    assert out.with_suffix(".md").read_text() == "| a |\n"
    printed = capsys.readouterr()
    assert printed.out == "| a |\n\n"
    assert printed.err == f"written: {out} and report.md beside it\n"


def test_the_corpus_of_the_feeding_benchmark(pairs_file: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "snli_1.0.zip", "w") as file:
        file.write(pairs_file, "snli_1.0/snli_1.0_dev.jsonl")
    for source, name in (("auto", "pairs.jsonl"), (str(tmp_path / "snli_1.0.zip"), "snli_1.0.zip")):
        assert corpora.make_corpus(tmp_path, 30, source) == name
        assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 30


def test_snli_is_read_plain_packed_and_from_the_official_zip(pairs_file: Path, tmp_path: Path) -> None:
    packed, archive = tmp_path / "pairs.jsonl.gz", tmp_path / "snli_1.0.zip"
    packed.write_bytes(gzip.compress(pairs_file.read_bytes()))
    with zipfile.ZipFile(archive, "w") as file:
        file.write(pairs_file, "snli_1.0/snli_1.0_dev.jsonl")
    expected = [pair.pair_id for pair in snli_pairs("auto")]
    assert len(expected) == 12
    for path in (pairs_file, packed, archive):
        assert [pair.pair_id for pair in snli_pairs(str(path))] == expected
        assert len(load_pairs(str(path)).columns.labels) == 12
        found = load_sentences(str(path))
        assert (found.source, len(found.transitions)) == (f"SNLI ({path.name})", 24)
    assert len(sharing._corpora(str(archive), quick=False)["snli_1.0.zip"]) == 24


@pytest.mark.parametrize("module", [*ON_SNLI, corpora, parsing], ids=name_of)
def test_a_missing_file_is_one_line(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(parsing, "SST_TRAIN", write_pairs(tmp_path / "sst.txt", 3, seed=1))
    missing = str(tmp_path / "none.jsonl")
    with pytest.raises(SystemExit) as status:
        harness.run(lambda: module.main(["--snli", missing]))
    assert status.value.code == f"error: {missing}: no such file; name SNLI's dev file by --snli FILE"
    assert capsys.readouterr().out == ""


def test_other_errors_are_no_lines() -> None:
    def fail() -> None:
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError):
        harness.run(fail)


def test_without_the_slice_the_corpus_of_parsing_is_asked_for(pairs_file: Path) -> None:
    pairs_file.unlink()
    with pytest.raises(DataError, match=r"pairs.jsonl: no such file; name SNLI's dev file by --snli FILE"):
        next(iter(snli_pairs("auto")))
