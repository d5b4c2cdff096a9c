"""--dev-fraction: a part of the training examples is dev, the same one whenever it is asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinn_tensor.cli.main import main
from spinn_tensor.data_prep.columns import NO_LABEL, Corpus, number_distinct, sentence_columns
from spinn_tensor.data_prep.corpora.config import DataConfig
from spinn_tensor.data_prep.corpora.preparation import prepare_store
from spinn_tensor.data_prep.corpora.splits import held_out, load_splits, prepare
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.trees import REDUCE, SHIFT, Tree
from spinn_tensor.data_prep.vocabulary import WordList
from tests.tiny_runs import PRESET, SMALL, same_threads, write_own_pairs, write_pairs, write_trees

pytest.importorskip("datasets")
one_thread = pytest.fixture(autouse=True)(same_threads)
Capture = pytest.CaptureFixture[str]


@given(st.lists(st.sampled_from([NO_LABEL, 0, 1, 2]), min_size=20, max_size=300), st.integers(0, 9))
def test_of_every_label_alike(labels: list[int], seed: int) -> None:
    array = np.array(labels)
    distinct = np.arange(len(labels))
    is_dev = held_out(array, distinct, 0.2, seed)
    assert np.array_equal(held_out(array, distinct, 0.2, seed), is_dev)
    assert abs(is_dev.sum() - 0.2 * len(labels)) <= 0.5
    for label in set(labels):
        assert abs(is_dev[array == label].sum() - 0.2 * (array == label).sum()) <= 1


CHOSEN = [16, 17, 26, 35]  # of 40, by seed 1


def test_the_choice_is_the_same_with_every_version() -> None:
    labels, distinct = np.zeros(40, np.int64), np.arange(40)
    assert np.flatnonzero(held_out(labels, distinct, 0.1, seed=1)).tolist() == CHOSEN
    assert np.flatnonzero(held_out(labels, distinct, 0.1, seed=2)).tolist() != CHOSEN


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=60, max_size=200), st.integers(0, 9)
)
def test_the_same_sentences_go_to_one_side(examples: list[tuple[int, int]], seed: int) -> None:
    trees = [Tree((str(word // 5), str(word)), np.array([SHIFT, SHIFT, REDUCE])) for word, _ in examples]
    labels = np.array([label for _, label in examples])
    halves = sentence_columns(trees, WordList()), sentence_columns(trees[::-1], WordList())
    for corpus in (Corpus(halves[0], labels), Corpus.of_pairs(*halves, labels)):
        keys = [
            tuple(tuple(side.token_ids[2 * row : 2 * row + 2].tolist()) for side in corpus.sides)
            for row in range(len(trees))
        ]
        distinct = number_distinct(corpus)
        assert distinct.tolist() == [list(dict.fromkeys(keys)).index(key) for key in keys]
    distinct = number_distinct(Corpus(halves[0], labels))
    try:
        is_dev = held_out(labels, distinct, 0.3, seed)
    except DataError:
        assert np.bincount(distinct).max() > 0.3 * len(labels)
        return
    assert all(len(set(is_dev[distinct == number].tolist())) == 1 for number in range(distinct.max() + 1))
    assert abs(is_dev.sum() - 0.3 * len(labels)) <= np.bincount(distinct).max() / 2 + 0.5


def test_what_comes_twice_is_not_scored_on_what_it_was_trained_on(tmp_path: Path) -> None:
    train = write_pairs(tmp_path / "train.jsonl", 40, seed=1)
    train.write_text(train.read_text() * 2)
    split = names_of(DataConfig(corpus="snli", train=(str(train),), dev_fraction=0.25))
    assert abs(len(split["dev"]) - 20) <= 2
    assert not set(split["dev"]) & set(split["train"])


def names_of(data: DataConfig) -> dict[str, list[str]]:
    return {name: split.names.to_pylist() for name, split in prepare(data, Skipped()).splits.items()}


def test_train_and_dev_are_the_file_in_its_order(tmp_path: Path) -> None:
    files = [str(write_pairs(tmp_path / f"{seed}.jsonl", 50, seed)) for seed in (1, 2)]
    names = [json.loads(line)["pairID"] for file in files for line in Path(file).read_text().splitlines()]
    data = DataConfig(corpus="snli", train=tuple(files), dev_fraction=0.1)
    split = names_of(data)
    assert len(split["dev"]) == 10
    assert sorted(split["train"] + split["dev"]) == sorted(names)
    for part in split.values():
        assert part == [name for name in names if name in part]
    assert names_of(replace(data, split_seed=2))["dev"] != split["dev"]
    limited = names_of(replace(data, limit=7))
    assert limited == {name: part[:7] for name, part in split.items()}


def test_bad_lines_count_once(tmp_path: Path) -> None:
    train = write_pairs(tmp_path / "train.jsonl", 30, seed=1)
    train.write_text("no record\n" + train.read_text())
    skipped = Skipped()
    load_splits(DataConfig(corpus="snli", train=(str(train),), dev_fraction=0.2, skip_bad=True), skipped)
    assert skipped.total() == 1


def test_phrases_are_of_what_is_trained_on_alone(tmp_path: Path) -> None:
    train = str(write_trees(tmp_path / "train.txt", 40, seed=1))
    splits = load_splits(DataConfig(corpus="sst", train=(train,), dev_fraction=0.25, phrases=True), Skipped())
    assert (len(splits.train.labels), len(splits.dev.labels)) == (30 * 5, 10)


@pytest.mark.parametrize("fraction, n", [(0.01, 30), (0.99, 3)])
def test_too_few_examples(fraction: float, n: int, tmp_path: Path) -> None:
    train = str(write_pairs(tmp_path / "train.jsonl", n, seed=1))
    with pytest.raises(DataError, match="leaves no train or no dev"):
        prepare(DataConfig(corpus="snli", train=(train,), dev_fraction=fraction), Skipped())


def test_a_run_is_resumed_and_evaluated_on_the_same_dev(tmp_path: Path, capsys: Capture) -> None:
    train, run = write_own_pairs(tmp_path / "all.jsonl", 100, seed=1), tmp_path / "run"
    fields = ["--fields", "premise=text", "hypothesis=claim", "label=verdict", "pair_id=key"]
    files = ["train", "--corpus", "pairs", "--train", str(train), *fields, *SMALL, *PRESET]
    assert main([*files, "--epochs", "1", "--output", str(run)]) == 1
    assert "--dev-fraction" in capsys.readouterr().err
    split = ["--dev-fraction", "0.2", "--split-seed", "5"]
    assert main([*files, *split, "--epochs", "1", "--output", str(run)]) == 0
    assert "19 examples held out" in capsys.readouterr().err  # the next pair comes twice, and stays together
    assert main(["train", "--resume", "--epochs", "2", "--output", str(run), "--threads", "1"]) == 0
    assert main(["train", "--resume", "--dev-fraction", "0.1", "--output", str(run)]) == 1
    assert main(["evaluate", str(run), "--json", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())["dev"]
    assert scores["n_examples"] == 19
    assert scores == json.loads((run / "results.json").read_text())["splits"]["dev"]


def test_it_is_for_corpora_without_dev(tmp_path: Path, capsys: Capture) -> None:
    for name in ("train", "dev"):
        write_pairs(tmp_path / f"snli_1.0_{name}.jsonl", 20, seed=1)
    with pytest.raises(DataError, match="without a dev file"):
        prepare(DataConfig(corpus="snli", data=str(tmp_path), dev_fraction=0.1), Skipped())
    train = str(tmp_path / "snli_1.0_train.jsonl")
    with pytest.raises(DataError, match="no train file"):
        prepare(DataConfig(corpus="snli", dev_fraction=0.1), Skipped())
    arguments = ["prepare", "--corpus", "snli", "--train", train, "--dev", train, "--dev-fraction", "0.1"]
    assert main([*arguments, "--output", str(tmp_path / "store")]) == 1
    assert "without a dev file" in capsys.readouterr().err


def test_a_store_has_the_split_that_it_was_prepared_with(tmp_path: Path) -> None:
    train, folder = str(write_pairs(tmp_path / "train.jsonl", 60, seed=1)), tmp_path / "store"
    data = DataConfig(corpus="snli", train=(train,), dev_fraction=0.2)
    manifest, written = prepare_store(data, folder, Skipped())
    assert written
    assert (manifest["splits"]["train"]["examples"], manifest["splits"]["dev"]["examples"]) == (48, 12)
    assert not prepare_store(data, folder, Skipped())[1]
    stored = load_splits(DataConfig(corpus="snli", data=str(folder)), Skipped())
    read = load_splits(data, Skipped())
    assert stored.dev.labels.tolist() == read.dev.labels.tolist()
    assert stored.dev.sentences.token_ids.tolist() == read.dev.sentences.token_ids.tolist()
    assert prepare_store(replace(data, split_seed=2), folder, Skipped())[1]


@pytest.mark.parametrize(
    "options", [["--max-words", "2"], ["--max-line-bytes", "99"], ["--skip-bad"], ["--notation", "text"]]
)
def test_its_dev_is_not_read_in_another_way(options: list[str], tmp_path: Path, capsys: Capture) -> None:
    train, run = str(write_pairs(tmp_path / "train.jsonl", 60, seed=1)), str(tmp_path / "run")
    files = ["--corpus", "snli", "--train", train, "--dev-fraction", "0.2"]
    assert main(["train", *files, *SMALL, *PRESET, "--epochs", "1", "--output", run]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, *options]) == 1
    assert f"{options[0]}: the run's dev" in capsys.readouterr().err
    assert main(["evaluate", run, *options, "--data", train]) in (0, 1)
    assert "the run's dev" not in capsys.readouterr().err
