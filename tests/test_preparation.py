"""`spinn prepare`: done once, known again, and as good as the files; a run on what it made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spinn_tensor
from spinn_tensor.cli.main import main
from spinn_tensor.data_prep.branching import branched
from spinn_tensor.data_prep.columns import Corpus, lengths
from spinn_tensor.data_prep.corpora.preparation import prepare_store
from spinn_tensor.data_prep.corpora.splits import load_splits, prepare, prepared_from
from spinn_tensor.data_prep.corpora.store import is_store, read_store
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.trees import Tree, format_binary
from spinn_tensor.model.classifiers import load_checkpoint
from spinn_tensor.parsers import Parser
from spinn_tensor.training.config import DataConfig
from tests.command_line import contents
from tests.damage import change_json, truncate
from tests.stores import assert_same
from tests.tiny_runs import SMALL, write_own_pairs, write_pairs, write_trees


def data_of(tmp_path: Path, corpus: str, **options: Any) -> DataConfig:
    """Files of a small corpus, train and dev."""
    write = {"snli": write_pairs, "sst": write_trees, "pairs": write_own_pairs, "trees": write_pairs}[corpus]
    files = {}
    for seed, (split, n) in enumerate({"train": 40, "dev": 12}.items()):
        files[split] = (str(write(tmp_path / f"{split}.{'txt' if corpus == 'sst' else 'jsonl'}", n, seed)),)
    return DataConfig(corpus=corpus, **files, **options)


PARSER = str(Path(spinn_tensor.__file__).parent / "pretrained" / "parser")


OWN = ("premise=text", "hypothesis=claim", "label=verdict", "pair_id=key")


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "snli": ("snli", {}),
    "few": ("snli", {"limit": 5}),
    "branching": ("snli", {"branching": "balanced"}),
    "own": ("pairs", {"fields": OWN}),
    "own, labels": ("pairs", {"fields": OWN, "labels": ("yes", "no", "perhaps")}),
    "sst": ("sst", {}),
    "binary": ("sst", {"binary": True}),
    "phrases": ("sst", {"phrases": True}),
    "trees": ("trees", {}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("words", [{}, {"lower": True, "min_count": 2}])
def test_from_the_store_as_from_the_files(tmp_path: Path, case: str, words: dict[str, Any]) -> None:
    corpus, options = CASES[case]
    data = data_of(tmp_path, corpus, **options)
    _, is_new = prepare_store(data, tmp_path / "store", Skipped())
    assert is_new
    assert prepared_from(str(tmp_path / "store")) == corpus
    stored = DataConfig(corpus=corpus, data=str(tmp_path / "store"), **words)
    from_files = load_splits(replace(data, **words), Skipped())
    assert_same(load_splits(stored, Skipped()), from_files)


def test_options_that_are_given_again(tmp_path: Path) -> None:
    data = data_of(tmp_path, "snli")
    prepare_store(data, tmp_path / "store", Skipped())
    store = str(tmp_path / "store")
    whole = load_splits(DataConfig(corpus="snli", data=store), Skipped())
    few = load_splits(DataConfig(corpus="snli", data=store, limit=3), Skipped())
    assert lengths(few.train.sides[0]).tolist() == lengths(whole.train.sides[0])[:3].tolist()
    assert len(few.vocabulary) < len(whole.vocabulary)
    other = load_splits(DataConfig(corpus="snli", data=store, branching="left"), Skipped())
    assert_same(other.train, branched(whole.train, "left"))
    extra = write_pairs(tmp_path / "more.jsonl", 5, seed=9)
    with_extra = load_splits(DataConfig(corpus="snli", data=store, extra=(f"more={extra}",)), Skipped())
    expected = load_splits(DataConfig(**{**data.to_dict(), "extra": (f"more={extra}",)}), Skipped())
    assert_same(with_extra, expected)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"corpus": "sst"}, "was prepared with corpus = 'snli', got 'sst'"),
        ({"train": ("a.jsonl",)}, "a prepared corpus has splits of its own"),
        ({"dev_fraction": 0.1}, "a prepared corpus has splits of its own"),
        ({"extra": ("dev=a.jsonl",)}, "has a split 'dev' already"),
    ],
)
def test_options_that_do_not_fit_the_store(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    prepare_store(data_of(tmp_path, "snli"), tmp_path / "store", Skipped())
    with pytest.raises(DataError, match=message):
        load_splits(DataConfig(**{"corpus": "snli", "data": str(tmp_path / "store"), **options}), Skipped())


@pytest.mark.parametrize("name", ["../other", "a/b", "..", "/other"])
def test_a_split_is_written_into_the_store_alone(name: str, tmp_path: Path) -> None:
    data = data_of(tmp_path, "snli")
    before = contents(tmp_path)
    extra = (f"{name}={data.train[0]}",)
    with pytest.raises(DataError, match="expected NAME=FILE with a name of a folder"):
        prepare_store(replace(data, extra=extra), tmp_path / "store", Skipped())
    assert contents(tmp_path) == before


def test_done_again_only_where_something_is_other(tmp_path: Path) -> None:
    data, folder = data_of(tmp_path, "snli"), tmp_path / "store"

    def is_new(data: DataConfig) -> bool:
        return prepare_store(data, folder, Skipped())[1]

    assert is_new(data)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert not is_new(data)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert not is_new(replace(data, lower=True, min_count=3))  # of no account here
    moved = tmp_path / "moved.jsonl"
    shutil.copy(data.train[0], moved)
    assert not is_new(replace(data, train=(str(moved),)))
    with open(moved, "a", encoding="utf-8") as file:
        file.write("\n")
    assert is_new(replace(data, train=(str(moved),)))
    assert is_new(data)
    for options in ({"limit": 3}, {"skip_bad": True}, {"branching": "left"}):
        assert is_new(replace(data, **options))
        assert not is_new(replace(data, **options))


def test_the_manifest_tells_what_was_left_out(tmp_path: Path) -> None:
    data, folder = data_of(tmp_path, "snli", skip_bad=True), tmp_path / "store"
    with open(data.train[0], "a", encoding="utf-8") as file:
        file.write("nonsense\n")
    skipped = Skipped()
    manifest, _ = prepare_store(data, folder, skipped)
    place = f"{data.train[0]}:41"
    assert manifest["skipped"] == {"not JSON: Expecting value": {"lines": 1, "places": [place]}}
    again = Skipped()
    load_splits(DataConfig(corpus="snli", data=str(folder)), again)
    assert again == skipped == {"not JSON: Expecting value": 1}
    assert again.places == {"not JSON: Expecting value": [place]}


@pytest.mark.parametrize("manifest", [None, {"format_version": 1, "job": {}, "shards": []}, "a store's"])
def test_other_files_are_not_replaced(tmp_path: Path, manifest: Any) -> None:
    """Nor in a folder with a manifest, as `spinn encode` writes one, nor beside a store's own."""
    mine, data = tmp_path / "mine", data_of(tmp_path, "snli")
    if manifest == "a store's":
        prepare_store(data, mine, Skipped())
    else:
        mine.mkdir()
    if isinstance(manifest, dict):
        (mine / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (mine / "notes").mkdir()
    (mine / "notes" / "thesis.txt").write_text("all of it", encoding="utf-8")
    before = sorted(mine.rglob("*"))
    with pytest.raises(DataError, match="holds other files"):
        prepare_store(replace(data, limit=3), mine, Skipped())
    assert sorted(mine.rglob("*")) == before


def test_a_store_of_an_earlier_version_has_the_defaults_of_later_options(tmp_path: Path) -> None:
    folder, data = tmp_path / "store", data_of(tmp_path, "snli")
    prepare_store(data, folder, Skipped())
    for name in ("max_line_bytes", "max_words", "phrases"):
        change_json("manifest.json", lambda m, name=name: m["options"].pop(name))(folder)
    assert not prepare_store(data, folder, Skipped())[1]
    assert prepare_store(replace(data, max_words=99), folder, Skipped())[1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: next((folder / "train").glob("*.arrow")).unlink(),
        truncate("train/data-00000-of-00001.arrow"),
        change_json("manifest.json", lambda m: m.update(format_version=0)),
        change_json("manifest.json", lambda m: m.update(sources={"train": 1})),
        change_json("manifest.json", lambda m: m.update(options=[])),
        change_json("manifest.json", lambda m: m.update(files=None)),
    ],
)
def test_a_damaged_or_older_store_is_made_again(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    folder, data = tmp_path / "store", data_of(tmp_path, "snli")
    prepare_store(data, folder, Skipped())
    whole = read_store(folder)
    damage(folder)
    assert prepare_store(data, folder, Skipped())[1]
    assert_same(read_store(folder), whole)


def test_a_run_on_a_store_reads_other_files_as_the_store_was_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two classes of SST, fields of one's own, and trees for text."""
    for corpus, options, split in (
        ("sst", ["--binary"], "dev"),
        ("pairs", ["--fields", *OWN], "dev"),
        ("snli", ["--branching", "right"], "text"),
    ):
        folder = tmp_path / corpus
        folder.mkdir()
        data = data_of(folder, corpus)
        other = data.dev[0]
        if split == "text":
            other = str(folder / "text.jsonl")
            record = {"gold_label": "neutral", "sentence1": "old dogs bark", "sentence2": "cats sleep"}
            Path(other).write_text(json.dumps(record) + "\n", encoding="utf-8")
        files = ["--train", data.train[0], "--dev", data.dev[0]]
        store, run = str(folder / "store"), str(folder / "run")
        assert main(["prepare", "--corpus", corpus, *files, *options, "--output", store]) == 0
        extra = ["--extra", f"more={other}", "--epochs", "1", "--output", run]
        assert main(["train", "--data", store, *extra, *SMALL]) == 0
        assert main(["evaluate", run, "--data", other]) == 0
        if corpus == "pairs":
            assert main(["predict", run, "--input", other]) == 0
    capsys.readouterr()


def test_words_are_in_an_order_of_their_own(tmp_path: Path) -> None:
    """By frequency, whatever the order of the lines."""
    data = data_of(tmp_path, "snli")
    lines = Path(data.train[0]).read_text(encoding="utf-8").splitlines()
    turned = tmp_path / "turned.jsonl"
    turned.write_text("\n".join(reversed(lines)) + "\n", encoding="utf-8")
    other = DataConfig(corpus="snli", train=(str(turned),), dev=data.dev)
    corpus = prepare(data, Skipped())
    assert corpus.words == prepare(other, Skipped()).words
    token_ids = np.concatenate([split.columns.sentences.token_ids for split in corpus.splits.values()])
    counts = np.bincount(token_ids).tolist()
    assert list(corpus.words) == sorted(
        corpus.words, key=lambda word: (-counts[corpus.words.index(word)], word)
    )


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, folder = data_of(tmp_path, "snli"), tmp_path / "store"
    command = ["prepare", "--corpus", "snli", "--train", data.train[0], "--dev", data.dev[0]]
    assert main([*command, "--output", str(folder)]) == 0
    first = capsys.readouterr().out
    assert "train         40" in first
    assert "written in" in first
    assert main([*command, "--output", str(folder)]) == 0
    assert "up to date, nothing to do" in capsys.readouterr().out
    run = str(tmp_path / "run")
    assert main(["train", "--data", str(folder), "--output", run, "--epochs", "1", *SMALL]) == 0
    assert main(["evaluate", run]) == 0
    assert main(["evaluate", run, "--data", str(folder)]) == 0
    scores = capsys.readouterr().out
    assert scores.count("dev: accuracy") == 3  # the same, of training and of evaluate
    assert len({line for line in scores.splitlines() if "dev: accuracy" in line}) == 1


def test_a_store_with_other_labels_is_not_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    for folder, corpus, options in ((own, "snli", {}), (other, "pairs", {"fields": OWN})):
        folder.mkdir()
        prepare_store(data_of(folder, corpus, **options), folder / "store", Skipped())
    run = str(tmp_path / "run")
    assert main(["train", "--data", str(own / "store"), "--output", run, "--epochs", "1", *SMALL]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--data", str(other / "store")]) == 1
    assert "has the labels no, perhaps, yes, the model entailment, " in capsys.readouterr().err


def test_a_parser_makes_the_trees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of text, too; the trees are those that `spinn parse` prints, and runs on the store have the parser."""
    pair = {"gold_label": "neutral", "sentence1": "The dog runs away.", "sentence2": "It's a small dog."}
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps(pair) + "\n", encoding="utf-8")
    folder = tmp_path / "store"
    command = ["prepare", "--corpus", "snli", "--train", str(path), "--dev", str(path)]
    command += ["--output", str(folder)]
    assert main([*command, "--parser", PARSER]) == 0
    assert main(["parse", pair["sentence1"], pair["sentence2"]]) == 0
    printed = capsys.readouterr().out.splitlines()
    corpus = read_store(folder)
    columns = corpus.splits["train"].columns
    assert isinstance(columns, Corpus)
    for sentences in (columns.sides[0], columns.sides[1]):
        words = tuple(corpus.words[i] for i in sentences.token_ids)
        assert format_binary(Tree(words, sentences.transitions)) in printed
    assert main([*command, "--parser", PARSER]) == 0
    assert "up to date" in capsys.readouterr().out
    assert main([*command, "--parser", PARSER, "--branching", "left"]) == 1
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(Parser, "__call__", None)  # the store has its trees
        run = ["--preset", "logic-spinn", "--epochs", "1", "--output", str(tmp_path / "run")]
        assert main(["train", "--corpus", "snli", "--data", str(folder), *run]) == 0
    assert load_checkpoint(tmp_path / "run").config.text.parser == PARSER
    gold = f"as in trees made by --parser {PARSER}"
    assert gold in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(path)]) == 0
    assert gold in capsys.readouterr().out  # of text
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(path), "--branching", "none"]) == 0
    assert "not scored" in capsys.readouterr().err
    assert main([*command, "--parser", str(tmp_path / "run")]) == 0
    moved = tmp_path / "moved"  # a store needs no parser that is not here any more
    (tmp_path / "run").rename(moved)
    again = [*run[:-1], str(tmp_path / "again")]
    assert main(["train", "--corpus", "snli", "--data", str(folder), *again]) == 0


def test_usage_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ([], "say what to prepare"),
        (["--corpus", "logic"], "spinn generate"),
        (["--corpus", "snli", "--download", "sst"], "is the corpus"),
        (["--corpus", "snli", "--data", str(tmp_path / "none")], "no such folder"),
        (["--corpus", "snli", "--binary"], "is for --corpus sst"),
    ):
        assert main(["prepare", "--output", str(tmp_path / "store"), *arguments]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert not is_store(tmp_path / "store")
