"""Corpora as they are published: folders, archives, names of files; and files of one's own from the command line."""

from __future__ import annotations

import itertools
import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spinn_tensor.cli.main import main
from spinn_tensor.data_prep.corpora.kinds import KINDS
from spinn_tensor.data_prep.corpora.sources import archive_source, split_sources
from spinn_tensor.data_prep.corpora.splits import load_splits, prepare
from spinn_tensor.data_prep.errors import DataError, DataWarning
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.training.config import DataConfig
from tests.fuzzing import packed
from tests.tiny_runs import SMALL, write_own_pairs, write_pairs, write_trees

ARCHIVES = ("snli", "multinli", "sst")


def write_published(folder: Path, corpus: str) -> dict[str, int]:
    """The corpus's own files, each with another number of examples, which is returned by split."""
    counts = {}
    write = write_trees if corpus == "sst" else write_pairs
    for number, (split, names) in enumerate(KINDS[corpus].files.items()):
        counts[split] = 12 + number
        write(folder / names[0], counts[split], seed=number)
    return counts


def sizes(data: DataConfig) -> dict[str, int]:
    splits = load_splits(data, Skipped())
    return {
        name: len(part.labels)
        for name, part in {"train": splits.train, "dev": splits.dev, **splits.others}.items()
    }


def zipped(folder: Path, corpus: str, path: Path) -> Path:
    files = list(folder.iterdir())  # before the archive is one of them
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(file, f"{KINDS[corpus].folder}/{file.name}")
    return path


@pytest.mark.parametrize("corpus", ARCHIVES)
def test_a_folder_an_unpacked_archive_or_the_archive_itself(tmp_path: Path, corpus: str) -> None:
    folder = tmp_path / KINDS[corpus].folder
    folder.mkdir()
    counts = write_published(folder, corpus)
    assert sizes(DataConfig(corpus=corpus, data=str(folder))) == counts
    assert sizes(DataConfig(corpus=corpus, data=str(tmp_path))) == counts
    archive = zipped(folder, corpus, tmp_path / "archive.zip")
    assert sizes(DataConfig(corpus=corpus, data=str(archive))) == counts
    for file, ending in zip(list(folder.iterdir()), itertools.cycle([".gz", ".bz2", ".xz"])):
        name = file.name + ending
        file.with_name(name).write_bytes(packed(file.read_bytes(), name))
        file.unlink()
    assert sizes(DataConfig(corpus=corpus, data=str(folder))) == counts


def test_multinli_has_two_dev_sets(tmp_path: Path) -> None:
    write_published(tmp_path, "multinli")
    sources = split_sources(DataConfig(corpus="multinli", data=str(tmp_path)))
    assert {name: source.paths[0].name for name, source in sources.items()} == {
        "train": "multinli_1.0_train.jsonl",
        "dev": "multinli_1.0_dev_matched.jsonl",
        "mismatched": "multinli_1.0_dev_mismatched.jsonl",
    }


def test_an_archive_without_its_test_split(tmp_path: Path) -> None:
    counts = write_published(tmp_path, "snli")
    (tmp_path / "snli_1.0_test.jsonl").unlink()
    archive = zipped(tmp_path, "snli", tmp_path / "snli.zip")
    del counts["test"]
    assert sizes(DataConfig(corpus="snli", data=str(archive))) == counts


def test_listops_as_published(tmp_path: Path) -> None:
    """Without dev, for which another file is named."""
    for name in ("train_d20s.tsv", "test_d20s.tsv"):
        (tmp_path / name).write_text("9\t( ( ( [MAX 2 ) 9 ) ] )\n1\t1\n", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"no dev\.tsv \(nor \.gz, \.bz2, \.xz, \.zip of it\) in it; --dev FILE names another"
    ):
        split_sources(DataConfig(corpus="listops", data=str(tmp_path)))
    dev = tmp_path / "part"
    dev.write_text("1\t1\n", encoding="utf-8")
    data = DataConfig(corpus="listops", data=str(tmp_path), dev=(str(dev),))
    assert sizes(data) == {"train": 2, "dev": 1, "test": 2}


def test_named_files_overrule_a_folder_s(tmp_path: Path) -> None:
    counts = write_published(tmp_path, "snli")
    more = write_pairs(tmp_path / "more.jsonl", 30, seed=9)
    data = DataConfig(corpus="snli", data=str(tmp_path), train=(str(more),), dev=(str(more),))
    assert sizes(data) == {"train": 30, "dev": 30, "test": counts["test"]}


def test_a_folder_s_test_set_without_labels_is_left_out(tmp_path: Path) -> None:
    counts = write_published(tmp_path, "snli")
    (path,) = tmp_path.rglob("snli_1.0_test.jsonl")
    path.write_text(
        re.sub('"gold_label": "[a-z]+"', '"gold_label": "hidden"', path.read_text(encoding="utf-8"))
    )
    data = DataConfig(corpus="snli", data=str(tmp_path))
    with pytest.warns(DataWarning, match=r"snli_1\.0_test\.jsonl: no examples .*'hidden' .*: left out$"):
        assert sizes(data) == {"train": counts["train"], "dev": counts["dev"]}
    files = {"data": None, **{name: (str(tmp_path / f"snli_1.0_{name}.jsonl"),) for name in ("train", "dev")}}
    for asked in ({"test": (str(path),)}, {**files, "extra": (f"more={path}",)}):
        with pytest.raises(DataError, match="no examples"):
            sizes(replace(data, **asked))
    run = str(tmp_path / "run")
    train = ["train", "--corpus", "snli", "--data", str(tmp_path), "--epochs", "1", *SMALL, "--output", run]
    with pytest.warns(DataWarning, match="left out$"):
        assert main(train) == main(["evaluate", run]) == 0
    assert main(["evaluate", run, "--data", str(path)]) == 1


def test_one_file_of_several_may_have_no_example(tmp_path: Path) -> None:
    full = write_pairs(tmp_path / "full.jsonl", 7, seed=1)
    empty = tmp_path / "empty.jsonl"
    empty.write_text(full.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    empty.write_text(
        empty.read_text(encoding="utf-8").replace('"gold_label": "', '"gold_label": "-", "was": "')
    )
    both = DataConfig(corpus="snli", train=(str(empty), str(full)), dev=(str(full),))
    assert sizes(both) == {"train": 7, "dev": 7}
    with pytest.raises(DataError, match=r"no examples in 2 files, .*empty\.jsonl"):
        sizes(DataConfig(corpus="snli", train=(str(empty), str(empty)), dev=(str(full),)))


@pytest.mark.filterwarnings("ignore:.* labels have one example:")
@pytest.mark.parametrize("names", [("question", "sentence"), ("sentence", "text")])
def test_integers_and_names_of_other_corpora(tmp_path: Path, names: tuple[str, str]) -> None:
    """As QNLI has them, and as HF's datasets say that there is no label."""
    path = tmp_path / "a.jsonl"
    records = [
        {names[0]: "( a b )", names[1]: "( c d )", "label": label, "id": number}
        for number, label in enumerate([10, 2, -1, 1, 2])
    ]
    path.write_text("\ufeff" + "\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")
    fields = (f"premise={names[0]}", f"hypothesis={names[1]}", "label=label", "pair_id=id")
    data = DataConfig(corpus="pairs", train=(str(path),), dev=(str(path),), fields=fields)
    skipped = Skipped()
    splits = load_splits(data, skipped)
    assert splits.labels == ("1", "2", "10")
    assert splits.train.labels.tolist() == [2, 1, 0, 1]
    assert skipped == {"label '-1' (no label, unless --labels names it)": 2}
    prepared = prepare(data, Skipped())
    assert prepared.splits["train"].names.to_pylist() == ["0", "1", "3", "4"]


@pytest.mark.parametrize(
    "corpus, split, message",
    [
        ("listops", "train", "--corpus listops is not read from an archive"),
        ("snli", "validation", "no split 'validation', expected one of train, dev, test"),
    ],
)
def test_what_no_archive_has(tmp_path: Path, corpus: str, split: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        archive_source(corpus, tmp_path / "a.zip", split)


def test_sst_with_two_classes_and_with_phrases(tmp_path: Path) -> None:
    counts = write_published(tmp_path, "sst")
    data = DataConfig(corpus="sst", data=str(tmp_path))
    whole = load_splits(data, Skipped())
    two = load_splits(DataConfig(corpus="sst", data=str(tmp_path), binary=True), Skipped())
    assert two.labels == ("negative", "positive")
    n_neutral = int((whole.train.labels == 2).sum())
    assert 0 < n_neutral < counts["train"]
    assert len(two.train.labels) == counts["train"] - n_neutral
    phrases = load_splits(DataConfig(corpus="sst", data=str(tmp_path), phrases=True), Skipped())
    assert len(phrases.train.labels) == 5 * counts["train"]  # trees of three words
    assert len(phrases.dev.labels) == counts["dev"]


def test_a_part_of_an_archive_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = write_published(tmp_path, "multinli")
    archive = zipped(tmp_path, "multinli", tmp_path / "multinli.zip")
    run = str(tmp_path / "run")
    train = ["train", "--corpus", "multinli", "--data", str(archive), "--epochs", "1", *SMALL]
    assert main([*train, "--output", run]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--data", str(archive), "--split", "mismatched"]) == 0
    assert f"of {counts['mismatched']}" in capsys.readouterr().out
    assert main(["evaluate", run, "--data", str(archive), "--split", "test"]) == 1
    assert "no split 'test', expected one of train, dev, mismatched" in capsys.readouterr().err


def test_files_of_one_s_own_need_no_line_of_python(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        name: write_own_pairs(tmp_path / f"{name}.jsonl", 40, seed) for seed, name in enumerate(["a", "b"])
    }
    fields = ["--fields", "premise=text", "hypothesis=claim", "label=verdict", "pair_id=key"]
    run = str(tmp_path / "run")
    train = ["train", "--corpus", "pairs", "--train", str(files["a"]), "--dev", str(files["b"]), *fields]
    assert main([*train, "--epochs", "2", "--output", run, *SMALL]) == 0
    assert main(["evaluate", run]) == 0
    assert main(["evaluate", run, "--data", str(files["a"])]) == 0
    out = capsys.readouterr().out
    assert " gold label   no   perhaps   yes " in out  # those of the training file, in alphabetical order
    assert main(["predict", run, "--input", str(files["b"])]) == 0
    predictions = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(predictions) == 40
    assert {prediction["label"] for prediction in predictions} <= {"yes", "no", "perhaps"}
    assert all(prediction["id"].startswith("p") for prediction in predictions)
    named = [*train, "--labels", "yes", "no", "perhaps", "--epochs", "1", *SMALL]
    assert main([*named, "--output", str(tmp_path / "b")]) == 0
    assert " gold label   yes   no   perhaps " in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.* labels have one example:")
def test_a_label_that_training_does_not_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, dev = (write_own_pairs(tmp_path / f"{name}.jsonl", 10, seed) for seed, name in enumerate("ab"))
    lines = dev.read_text(encoding="utf-8").splitlines()
    lines[3] = lines[3].replace("yes", "sure").replace('"no"', '"sure"').replace("perhaps", "sure")
    dev.write_text("\n".join(lines) + "\n", encoding="utf-8")
    fields = ["--fields", "premise=text", "hypothesis=claim", "label=verdict"]
    arguments = ["train", "--corpus", "pairs", "--train", str(train), "--dev", str(dev), *fields]
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert f"{dev}:4: verdict: got 'sure', expected one of 'no', 'perhaps', 'yes' or '-'" in error
    assert not (tmp_path / "run").exists()


OLD, BARK = "( ( The church ) ( is old ) )", "( Dogs bark )"
SST = "(3 (2 (2 The) (2 church)) (3 (2 is) (1 old)))"


def test_the_files_of_a_split_are_read_one_after_another(tmp_path: Path) -> None:
    a, b = tmp_path / "a.txt", tmp_path / "b.jsonl"
    a.write_text(f"{OLD}\n{SST}\n")
    b.write_text(json.dumps({"binary_parse": BARK}) + "\n")
    files = {"train": (str(a), str(b)), "dev": (str(b),)}
    splits = load_splits(DataConfig(corpus="trees", train=files["train"], dev=files["dev"]), Skipped())
    assert (splits.task, splits.labels) == ("parse", ())
    assert splits.train.lengths_key.tolist() == [4, 4, 2]
    assert splits.dev.lengths_key.tolist() == [2]
    limited = DataConfig(corpus="trees", train=files["train"], dev=files["dev"], limit=1)
    assert load_splits(limited, Skipped()).train.lengths_key.tolist() == [4]


@pytest.mark.parametrize("corpus", ["snli", "trees"])
def test_branching_replaces_the_trees_of_every_split(corpus: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        json.dumps({"gold_label": "neutral", "sentence1_binary_parse": OLD, "sentence2": "It isn't old."})
        + "\n"
    )
    data = DataConfig(corpus=corpus, train=(str(path),), dev=(str(path),), branching="left")
    splits = load_splits(data, Skipped())
    for split in (splits.train, splits.dev):
        transitions = np.concatenate([side.transitions for side in split.sides])
        assert transitions.tolist() == [0, 0, 1, 0, 1, 0, 1, *[0, 0, 1, 0, 1, 0, 1, 0, 1]]
