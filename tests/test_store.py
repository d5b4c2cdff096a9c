"""A prepared corpus: what comes back, what is done again, and that there is a whole store or none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from spinn_tensor.data_prep.corpora import store
from spinn_tensor.data_prep.corpora.store import (
    PreparedCorpus,
    read_manifest,
    read_store,
    sha256_of,
    write_store,
)
from spinn_tensor.data_prep.errors import DataError
from tests.damage import change_json, truncate
from tests.processes import run_program
from tests.stores import assert_same, random_corpus

datasets = pytest.importorskip("datasets")


@pytest.mark.parametrize("task", ["pair", "sentence"])
@pytest.mark.parametrize("n_words, kind", [(90, "uint16"), (65_536, "uint16"), (65_537, "int32")])
def test_what_is_written_is_read(tmp_path: Path, task: str, n_words: int, kind: str) -> None:
    corpus = random_corpus(n_words, task)
    write_store(tmp_path / "store", corpus, {"note": "é"})
    assert_same(read_store(tmp_path / "store"), corpus)
    manifest = read_manifest(tmp_path / "store")
    assert manifest["splits"]["train"]["examples"] == 50
    assert (manifest["words"], manifest["note"]) == (n_words, "é")
    opened = datasets.load_from_disk(tmp_path / "store")["train"]
    side = "premise" if task == "pair" else "sentence"
    assert opened.features[f"{side}_words"].feature.dtype == kind
    assert opened.features[f"{side}_transitions"].feature.dtype == "bool"
    assert opened.features["label"].names == ["a", "b", "c"]


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "manifest.json").unlink(), "manifest.json: no such file"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json: not JSON"),
        (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json: got a JSON list"),
        (
            change_json("manifest.json", lambda m: m.update(format_version=99)),
            "format version 99, this version reads 1: prepare again",
        ),
        (change_json("manifest.json", lambda m: m.update(options=[])), "options: expected an object"),
        (change_json("manifest.json", lambda m: m.update(files=None)), "manifest.json: expected"),
        (change_json("manifest.json", lambda m: m.update(files={"\0": ""})), "\0: no such file"),
        (lambda f: (f / "words.json").unlink(), "words.json: no such file"),
        (lambda f: (f / "words.json").write_text('["a"]'), "words.json: damaged"),
        (lambda f: (f / "dataset_dict.json").unlink(), "dataset_dict.json: no such file"),
        (lambda f: shutil.rmtree(f / "dev"), "no such file"),
        (truncate("train/data-00000-of-00001.arrow"), ".arrow: damaged"),
        (lambda f: (f / "dev" / "state.json").write_text("{}"), "state.json: damaged"),
        (lambda f: trusted(f, "words.json", b'["a", "b"]'), "premise: word"),
        (lambda f: trusted(f, "words.json", b"[1]"), "words.json: expected a list of strings"),
        (lambda f: trusted(f, "dataset_dict.json", b"{}"), "not a store"),
        (lambda f: trusted(f, "dataset_dict.json", b'{"splits": []}'), "not a store: no split"),
        (lambda f: trusted(f, "train/data-00000-of-00001.arrow", b"ARROW1"), "not a store"),
        (lambda f: trusted(f, "dev/dataset_info.json", b"[]"), "not a store"),
    ],
)
def test_a_damaged_store_is_one_error(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    folder = tmp_path / "store"
    write_store(folder, random_corpus(90), {})
    damage(folder)
    with pytest.raises(DataError) as caught:
        read_store(folder)
    assert str(folder) in str(caught.value)
    assert message in str(caught.value)


def replace_dev(corpus: PreparedCorpus, **values: Any) -> PreparedCorpus:
    dev = corpus.splits["dev"]
    return corpus._replace(
        splits={**corpus.splits, "dev": dev._replace(columns=dev.columns._replace(**values))}
    )


def relabelled(corpus: PreparedCorpus, label: int) -> PreparedCorpus:
    return replace_dev(corpus, labels=np.full_like(corpus.splits["dev"].columns.labels, label))


def with_node_label(corpus: PreparedCorpus, label: int) -> PreparedCorpus:
    sentences = corpus.splits["dev"].columns.sentences
    labels = np.full_like(sentences.transitions, label)
    return replace_dev(corpus, sentences=sentences._replace(node_labels=labels))


def with_dev_of(corpus: PreparedCorpus, task: str) -> PreparedCorpus:
    return corpus._replace(splits={**corpus.splits, "dev": random_corpus(90, task).splits["dev"]})


@pytest.mark.parametrize(
    "change, task, message",
    [
        (lambda c: relabelled(c, 3), "pair", "split 'dev': label: label 3, expected -1 to 2"),
        (lambda c: relabelled(c, -2), "pair", "split 'dev': label: label -2, expected -1 to 2"),
        (
            lambda c: with_node_label(c, 3),
            "sentence",
            "split 'dev': sentence_node_labels: label 3, expected -1 to 2",
        ),
        (lambda c: with_dev_of(c, "sentence"), "pair", "split 'dev': sides 1, expected 2, those of 'train'"),
    ],
)
def test_a_store_of_a_faulty_program_is_refused_by_its_split(
    tmp_path: Path, change: Callable[[PreparedCorpus], PreparedCorpus], task: str, message: str
) -> None:
    write_store(tmp_path / "store", change(random_corpus(90, task)), {})
    with pytest.raises(DataError) as caught:
        read_store(tmp_path / "store")
    assert str(caught.value) == f"{tmp_path / 'store'}: {message}"


def change_dev(folder: Path, change: Callable[[Any], Any]) -> None:
    """Replace the dev split by another table."""
    write_store(folder, random_corpus(90, "sentence"), {})
    parts = datasets.load_from_disk(folder)
    parts["dev"] = change(parts["dev"])
    parts.save_to_disk(folder.with_name("changed"))
    for path in (folder.with_name("changed") / "dev").iterdir():
        (folder / "dev" / path.name).write_bytes(path.read_bytes())
        trusted(folder, f"dev/{path.name}", path.read_bytes())


def shifted(rows: dict[str, Any]) -> dict[str, Any]:
    """Move a label from the first sentence that has several to the next one."""
    first, second, *others = rows["sentence_node_labels"]
    return {"sentence_node_labels": [first[:-1], [first[-1], *second], *others]}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d.map(shifted, batched=True), "sentence_node_labels: not one label for each node"),
        (
            lambda d: d.cast_column("label", datasets.ClassLabel(names=["c", "b", "a"])),
            r"labels \('c', 'b', 'a'\), expected \('a', 'b', 'c'\)",
        ),
        (lambda d: d.remove_columns("sentence_transitions"), "sentence_transitions"),
        (lambda d: d.remove_columns("label"), "label"),
        (
            lambda d: d.map(lambda row: {"sentence_words": len(row["sentence_words"])}),
            "sentence_words: got int64, expected lists",
        ),
        (
            lambda d: d.map(lambda row, n: {"sentence_words": [0, 1][:n] or None}, with_indices=True),
            "sentence_words: a null, expected a list",
        ),
        (
            lambda d: d.remove_columns("sentence_node_labels").map(lambda row: {"sentence_transitions": [0]}),
            r"transitions of shape \(\d+,\), expected",
        ),
        (
            lambda d: d.map(lambda row: {"sentence_words": [0.5] * len(row["sentence_words"])}),
            "sentence_words: got double, expected whole numbers",
        ),
        (
            lambda d: d.map(lambda row, n: {"label": None if n == 1 else 1}, with_indices=True),
            "label: a null",
        ),
    ],
)
@pytest.mark.usefixtures("without_bars")
def test_a_split_that_does_not_fit_is_named(
    tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    change_dev(tmp_path / "store", change)
    with pytest.raises(DataError, match=message) as caught:
        read_store(tmp_path / "store")
    assert str(caught.value).startswith(f"{tmp_path / 'store'}: split 'dev': ")


@pytest.fixture
def without_bars() -> Iterator[None]:
    with store._without_progress_bars():
        yield


def test_a_fault_of_our_own_is_no_bad_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*_: object) -> NoReturn:
        raise TypeError("ours")

    write_store(tmp_path / "store", random_corpus(90), {})
    monkeypatch.setattr(store, "_split", faulty)
    with pytest.raises(TypeError, match="ours"):
        read_store(tmp_path / "store")


def test_the_files_say_what_is_in_them_not_the_manifest(tmp_path: Path) -> None:
    write_store(tmp_path / "store", random_corpus(90), {})
    other = {"splits": {}, "labels": ["a"], "task": "poem"}
    change_json("manifest.json", lambda m: m.update(other))(tmp_path / "store")
    assert_same(read_store(tmp_path / "store"), random_corpus(90))


def trusted(folder: Path, name: str, content: bytes) -> None:
    """Another file under the SHA-256 that the manifest has: what a program that wrote a wrong store would leave."""
    (folder / name).write_bytes(content)
    digest = sha256_of(folder / name)
    change_json("manifest.json", lambda m: m["files"].update({name: digest}))(folder)


def test_other_files_do_no_harm(tmp_path: Path) -> None:
    """`datasets` leaves some of its own in the folder of a split that it works on."""
    write_store(tmp_path / "store", random_corpus(90), {})
    (tmp_path / "store" / "train" / "cache-1.arrow").write_bytes(b"x")
    assert_same(read_store(tmp_path / "store"), random_corpus(90))


def test_a_disk_that_fills_up_leaves_no_store(tmp_path: Path) -> None:
    """Or the one that was there; the limit of a file's size stands for the disk's."""
    (tmp_path / "empty").mkdir()
    folders = tmp_path / "empty" / "store", tmp_path / "full" / "store"
    write_store(folders[1], random_corpus(5), {})
    limits = 1, 700, 5_000, 12_000  # of one process: it may raise its own again
    program = """
import json, os, resource, signal, sys
from tests.stores import random_corpus
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.corpora.store import write_store
from pathlib import Path
corpus = random_corpus(2_000)
import datasets, pyarrow
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
for name, limit in json.loads(sys.argv[1]):
    folder = Path(name)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    try:
        write_store(folder, corpus, {})
        said = ""
    except DataError as error:
        said = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    print(json.dumps([said, sorted(os.listdir(folder.parent))]))
"""
    cases = [(str(folder), limit) for folder in folders for limit in limits]
    lines = run_program(program, json.dumps(cases)).splitlines()
    for (folder, _), (said, left) in zip(cases, map(json.loads, lines), strict=True):
        assert said.startswith(f"{folder}: cannot be written: ")
        assert len(said.splitlines()) == 1
        assert left == ([] if folder == str(folders[0]) else ["store"])
    assert_same(read_store(folders[1]), random_corpus(5))


def test_all_files_of_a_store_are_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spinn_tensor.data_prep import folders

    synced: list[str] = []
    monkeypatch.setattr(folders, "_fsync", lambda path: synced.append(path.name))
    write_store(tmp_path / "store", random_corpus(5), {})
    names = {path.name for path in (tmp_path / "store").rglob("*")}
    assert names <= set(synced)
    assert synced.index("train") > synced.index("state.json")
