"""A prepared corpus: what comes back, what is done again, and that there is a whole store or none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spinn_tensor
from data_prep import sst
from data_prep.branching import branched
from data_prep.columns import LabelledColumns, PairColumns, lengths
from data_prep.errors import DataError
from data_prep.files import Skipped
from data_prep.store import PreparedCorpus, Split, is_store, read_manifest, read_store, sha256_of, write_store
from data_prep.trees import Tree, format_binary, parse_labelled
from data_prep.vocabulary import Vocabulary
from spinn_tensor.cli.main import main
from spinn_tensor.training.config import DataConfig
from spinn_tensor.training.corpora import load_splits, prepare, prepared_from
from spinn_tensor.training.preparation import prepare_store
from tests.strategies import columns_of, transitions_from_choices
from tests.tiny_runs import SMALL, write_own_pairs, write_pairs, write_trees

datasets = pytest.importorskip("datasets")


def assert_same(got: Any, expected: Any) -> None:
    """Named tuples of arrays, and of what compares."""
    if isinstance(expected, np.ndarray):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
    elif isinstance(expected, tuple) and hasattr(expected, "_fields"):
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert_same(got[name], value)
    else:
        assert got == expected


def random_corpus(n_words: int, task: str = "pair") -> PreparedCorpus:
    import pyarrow as pa

    rng = np.random.default_rng(0)

    def sentences(n: int) -> Any:
        n_tokens = rng.integers(1, 12, n)
        columns = columns_of([transitions_from_choices(k, rng.random(2 * k - 1) < 0.5) for k in n_tokens])
        ids = rng.integers(0, n_words, len(columns.token_ids)).astype(np.int32)
        return columns._replace(token_ids=ids)

    def split(n: int) -> Split:
        labels = np.where(rng.random(n) < 0.2, -100, rng.integers(0, 3, n))
        names = pa.array([f"é {i}" for i in range(n)])
        if task == "pair":
            return Split(PairColumns(sentences(n), sentences(n), labels), names)
        labelled = sentences(n)
        labelled = labelled._replace(node_labels=rng.integers(0, 3, len(labelled.transitions)))
        return Split(LabelledColumns(labelled, labels), names)

    words = tuple(f"word {i}" for i in range(n_words))
    return PreparedCorpus(task, ("a", "b", "c"), words, {"train": split(50), "dev": split(7)})


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


def break_json(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    path = folder / name
    value = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(value)), encoding="utf-8")


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "manifest.json").unlink(), "manifest.json: no such file"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json: not JSON"),
        (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json: not the manifest of a"),
        (
            lambda f: break_json(f, "manifest.json", lambda m: {**m, "format_version": 99}),
            "format version 99, this version reads 1: prepare again",
        ),
        (lambda f: break_json(f, "manifest.json", lambda m: {**m, "task": "poem"}), "expected a task"),
        (
            lambda f: break_json(f, "manifest.json", lambda m: {**m, "splits": {}}),
            "manifest.json says otherwise",
        ),
        (lambda f: break_json(f, "manifest.json", lambda m: {**m, "labels": ["a"]}), "has other labels than"),
        (lambda f: break_json(f, "manifest.json", lambda m: {**m, "files": None}), "manifest.json: expected"),
        (
            lambda f: break_json(f, "manifest.json", lambda m: {**m, "files": {"\0": ""}}),
            "\0: no such file",
        ),
        (lambda f: (f / "words.json").unlink(), "words.json: no such file"),
        (lambda f: (f / "words.json").write_text('["a"]'), "words.json: damaged"),
        (lambda f: (f / "dataset_dict.json").unlink(), "dataset_dict.json: no such file"),
        (lambda f: shutil.rmtree(f / "dev"), "no such file"),
        (lambda f: truncate(next((f / "train").glob("*.arrow"))), ".arrow: damaged"),
        (lambda f: (f / "dev" / "state.json").write_text("{}"), "state.json: damaged"),
        (lambda f: trusted(f, "words.json", b'["a", "b"]'), "premise: word"),
        (lambda f: trusted(f, "words.json", b"[1]"), "words.json: expected a list of strings"),
        (lambda f: trusted(f, "dataset_dict.json", b"{}"), "not a store"),
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


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def trusted(folder: Path, name: str, content: bytes) -> None:
    """Another file under the SHA-256 that the manifest has: what a program that wrote a wrong store would leave."""
    (folder / name).write_bytes(content)
    digest = sha256_of(folder / name)
    break_json(folder, "manifest.json", lambda m: {**m, "files": {**m["files"], name: digest}})


def test_other_files_do_no_harm(tmp_path: Path) -> None:
    """`datasets` leaves some of its own in the folder of a split that it works on."""
    write_store(tmp_path / "store", random_corpus(90), {})
    (tmp_path / "store" / "train" / "cache-1.arrow").write_bytes(b"x")
    assert_same(read_store(tmp_path / "store"), random_corpus(90))


@pytest.mark.parametrize("kept", ["nothing", "a store"])
def test_a_disk_that_fills_up_leaves_no_store(tmp_path: Path, kept: str) -> None:
    """The limit of a file's size stands for the disk's."""
    folder = tmp_path / "store"
    if kept == "a store":
        write_store(folder, random_corpus(5), {})
    program = """
import resource, signal, sys
from tests.test_store import random_corpus
from data_prep.errors import DataError
from data_prep.store import write_store
from pathlib import Path
corpus = random_corpus(2_000)
import datasets, pyarrow
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    write_store(Path(sys.argv[1]), corpus, {})
except DataError as error:
    print(error)
"""
    for limit in (1, 700, 5_000, 12_000):
        done = subprocess.run(
            [sys.executable, "-c", program, str(folder), str(limit)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{folder}: cannot be written: "), done.stdout
        assert len(done.stdout.splitlines()) == 1
        left = sorted(path.name for path in tmp_path.iterdir())
        assert left == ([] if kept == "nothing" else ["store"])
    if kept == "a store":
        assert_same(read_store(folder), random_corpus(5))


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
    from_files = load_splits(DataConfig(**{**data.to_dict(), **words}), Skipped())
    assert_same(load_splits(stored, Skipped()), from_files)


def test_options_that_are_given_again(tmp_path: Path) -> None:
    data = data_of(tmp_path, "snli")
    prepare_store(data, tmp_path / "store", Skipped())
    store = str(tmp_path / "store")
    whole = load_splits(DataConfig(corpus="snli", data=store), Skipped())
    few = load_splits(DataConfig(corpus="snli", data=store, limit=3), Skipped())
    assert lengths(few.train.premises).tolist() == lengths(whole.train.premises)[:3].tolist()
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
        ({"train": ("a.jsonl",)}, "a prepared corpus has files of its own"),
        ({"extra": ("dev=a.jsonl",)}, "has a split 'dev' already"),
    ],
)
def test_options_that_do_not_fit_the_store(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    prepare_store(data_of(tmp_path, "snli"), tmp_path / "store", Skipped())
    with pytest.raises(DataError, match=message):
        load_splits(DataConfig(**{"corpus": "snli", "data": str(tmp_path / "store"), **options}), Skipped())


def test_done_again_only_where_something_is_other(tmp_path: Path) -> None:
    data, folder = data_of(tmp_path, "snli"), tmp_path / "store"

    def is_new(data: DataConfig) -> bool:
        return prepare_store(data, folder, Skipped())[1]

    assert is_new(data)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert not is_new(data)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert not is_new(DataConfig(**{**data.to_dict(), "lower": True, "min_count": 3}))  # of no account here
    moved = tmp_path / "moved.jsonl"
    shutil.copy(data.train[0], moved)
    assert not is_new(DataConfig(**{**data.to_dict(), "train": (str(moved),)}))
    with open(moved, "a", encoding="utf-8") as file:
        file.write("\n")
    assert is_new(DataConfig(**{**data.to_dict(), "train": (str(moved),)}))
    assert is_new(data)
    for options in ({"limit": 3}, {"skip_bad": True}, {"branching": "left"}):
        assert is_new(DataConfig(**{**data.to_dict(), **options}))
        assert not is_new(DataConfig(**{**data.to_dict(), **options}))


def test_the_manifest_tells_what_was_left_out(tmp_path: Path) -> None:
    data, folder = data_of(tmp_path, "snli", skip_bad=True), tmp_path / "store"
    with open(data.train[0], "a", encoding="utf-8") as file:
        file.write("nonsense\n")
    skipped = Skipped()
    manifest, _ = prepare_store(data, folder, skipped)
    place = f"{data.train[0]}:41"
    assert manifest["skipped"] == {"not JSON": {"lines": 1, "places": [place]}}
    again = Skipped()
    load_splits(DataConfig(corpus="snli", data=str(folder)), again)
    assert again == skipped == {"not JSON": 1}
    assert again.places == {"not JSON": [place]}


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
        prepare_store(DataConfig(**{**data.to_dict(), "limit": 3}), mine, Skipped())
    assert sorted(mine.rglob("*")) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: next((f / "train").glob("*.arrow")).unlink(),
        lambda f: truncate(next((f / "train").glob("*.arrow"))),
        lambda f: break_json(f, "manifest.json", lambda m: {**m, "format_version": 0}),
        lambda f: break_json(f, "manifest.json", lambda m: {**m, "sources": {"train": 1}}),
        lambda f: break_json(f, "manifest.json", lambda m: {**m, "options": []}),
        lambda f: break_json(f, "manifest.json", lambda m: {**m, "files": None}),
    ],
)
def test_a_damaged_or_older_store_is_made_again(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    folder, data = tmp_path / "store", data_of(tmp_path, "snli")
    prepare_store(data, folder, Skipped())
    whole = read_store(folder)
    damage(folder)
    assert prepare_store(data, folder, Skipped())[1]
    assert_same(read_store(folder), whole)


def test_all_files_of_a_store_are_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_prep import folders

    synced: list[str] = []
    monkeypatch.setattr(folders, "_fsync", lambda path: synced.append(path.name))
    write_store(tmp_path / "store", random_corpus(5), {})
    names = {path.name for path in (tmp_path / "store").rglob("*")}
    assert names <= set(synced)
    assert synced.index("train") > synced.index("state.json")


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
    assert prepare(data, Skipped()).words == prepare(other, Skipped()).words


def test_phrases_are_all_nodes() -> None:
    tree = parse_labelled("(3 (2 It) (4 (2 was) (0 (1 so) (3 good))))", 5)
    vocabulary = Vocabulary.build([tree.tokens])
    corpus = sst.phrases(sst.labelled_columns([tree, parse_labelled("(1 good)", 5)], vocabulary))
    words = np.array(vocabulary.tokens)[corpus.sentences.token_ids]
    got = [" ".join(part) for part in np.split(words, corpus.sentences.token_offsets[1:-1])]
    assert got == ["It", "was", "so", "good", "so good", "was so good", "It was so good", "good"]
    assert corpus.labels.tolist() == [2, 2, 1, 3, 0, 4, 3, 1]
    assert corpus.sentences.transitions.tolist() == [
        0,
        0,
        0,
        0,
        *[0, 0, 1],
        *[0, 0, 0, 1, 1],
        *[0, 0, 0, 0, 1, 1, 1],
        0,
    ]


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


def test_a_parser_makes_the_trees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of text, too; the trees are those that `spinn parse` prints."""
    pair = {"gold_label": "neutral", "sentence1": "The dog runs away.", "sentence2": "It's a small dog."}
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps(pair) + "\n", encoding="utf-8")
    folder = tmp_path / "store"
    command = [
        "prepare",
        "--corpus",
        "snli",
        "--train",
        str(path),
        "--dev",
        str(path),
        "--output",
        str(folder),
    ]
    assert main([*command, "--parser", PARSER]) == 0
    assert main(["parse", pair["sentence1"], pair["sentence2"]]) == 0
    printed = capsys.readouterr().out.splitlines()
    corpus = read_store(folder)
    columns = corpus.splits["train"].columns
    assert isinstance(columns, PairColumns)
    for sentences in (columns.premises, columns.hypotheses):
        words = tuple(corpus.words[i] for i in sentences.token_ids)
        assert format_binary(Tree(words, sentences.transitions)) in printed
    assert main([*command, "--parser", PARSER]) == 0
    assert "up to date" in capsys.readouterr().out
    assert main([*command, "--parser", PARSER, "--branching", "left"]) == 1


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
