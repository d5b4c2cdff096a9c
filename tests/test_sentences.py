"""Labelled sentences of one's own, with and without trees, from files to a served model."""

from __future__ import annotations

import json
import os
import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinn_tensor import Pipeline
from spinn_tensor.cli.main import main
from spinn_tensor.data_prep import read_line_examples
from spinn_tensor.data_prep.corpora.config import DataConfig
from spinn_tensor.data_prep.corpora.formats import (
    LabelledFormat,
    LabelNames,
    SentenceFields,
    SentenceFormat,
    named_fields,
)
from spinn_tensor.data_prep.corpora.splits import load_splits
from spinn_tensor.data_prep.errors import DataError, DataWarning
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.text import SentenceReader, Words, tree_of
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import format_binary
from spinn_tensor.model.classifiers import load_checkpoint
from spinn_tensor.parsers import Parser
from tests.closeness import assert_close
from tests.tiny_runs import SMALL

READER = SentenceReader(Tokenizer().tokenize)


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def reviews(path: Path, n: int, seed: int, text: str = "text", label: str = "label") -> Path:
    """Sentences whose label is in a word."""
    rng = random.Random(seed)
    words = {"good": "pos", "bad": "neg"}
    records = []
    for _ in range(n):
        word = rng.choice(list(words))
        sentence = f"The {rng.choice(['film', 'plot'])} is {rng.choice(['very', 'so'])} {word}."
        records.append({text: sentence, label: words[word]})
    return write(path, *records)


@pytest.mark.parametrize(
    "record, settings",
    [
        ({"text": "A dog barks.", "label": "pos"}, []),
        ({"sentence": "A dog barks.", "label": "pos", "text": "not this"}, []),
        ({"sentence_binary_parse": "( ( A dog ) ( barks . ) )", "label": "pos"}, []),
        ({"sentence_parse": "(S (NP (DT A) (NN dog)) (VP (VBZ barks) (. .)))", "label": "pos"}, []),
        (
            {"review": "( ( A dog ) ( barks . ) )", "stars": "pos", "text": "x"},
            ["text=review", "label=stars"],
        ),
    ],
)
def test_fields(record: dict[str, str], settings: list[str], tmp_path: Path) -> None:
    labels = LabelNames([], grows=True)
    line_format = LabelledFormat(labels, named_fields(SentenceFields(), settings), reader=READER)
    (example,) = read_line_examples(write(tmp_path / "a.jsonl", {**record, "id": 7}), line_format)
    assert example.trees[0].tokens == ("A", "dog", "barks", ".")
    assert (labels.names, example.label, example.name) == (["pos"], 0, "7")


@pytest.mark.parametrize(
    "record, reason",
    [
        ({"label": "pos"}, "missing field"),
        ({"text": "a"}, "label: missing field"),
        ({"text": 3, "label": "pos"}, "text: got int"),
        ({"text": " ", "label": "pos"}, "text: a sentence without words"),
        ({"text": "(S (NP a)", "label": "pos"}, "text: token 1"),
        ({"text": "a", "label": "other"}, "label: got 'other', expected one of 'pos'"),
    ],
)
def test_what_is_wrong_is_named(record: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "a", "label": "pos"}, record)
    with pytest.raises(DataError) as error:
        list(read_line_examples(path, LabelledFormat(LabelNames(["pos"]), reader=READER)))
    assert str(error.value).startswith(f"{path}:2: {reason}")


def test_sentences_without_a_label(tmp_path: Path) -> None:
    records = [{"text": "a", "label": label} for label in (-1, "-", "pos")]
    path, skipped = write(tmp_path / "a.jsonl", *records), Skipped()
    labelled = LabelledFormat(LabelNames(["pos"]), reader=READER)
    assert [e.label for e in read_line_examples(path, labelled, skipped=skipped)] == [0]
    assert skipped.total() == 2


@pytest.mark.parametrize(
    "content, reason",
    [
        ("text,label\na good film,pos\na fine film, pos\nbad ,neg \nso bad,\tneg\n", None),
        ('text, label\n"good, fine", "pos"\ngood, pos\nbad, neg\nbad, "neg"\n', None),
        ("text,label\ngood,pos\ngood,pos\nbad,neg\nbad,neg\nbad,NaN\nbad,nan\nbad,<NA>\nbad,\n", None),
        ("text,label\ngood,pos\nnan,neg\n", "a.csv:3: text: got a missing value (nan), expected a string"),
        ("text,label\ngood,pos\nNaN,neg\n", "a.csv:3: text: got a missing value (NaN), expected a string"),
    ],
)
def test_cells_as_people_write_them(content: str, reason: str | None, tmp_path: Path) -> None:
    """Blanks around labels are none of them, and what pandas writes for a missing value is one."""
    (tmp_path / "a.csv").write_text(content, encoding="utf-8")
    labels, skipped = LabelNames([], grows=True), Skipped()
    examples = read_line_examples(tmp_path / "a.csv", LabelledFormat(labels, reader=READER), skipped=skipped)
    if reason is not None:
        with pytest.raises(DataError) as error:
            list(examples)
        assert str(error.value).endswith(reason)
        return
    assert [example.label for example in examples] == [0, 0, 1, 1]
    assert labels.names == ["pos", "neg"]
    if "NaN" in content:
        assert list(skipped.places.values()) == [[f"{tmp_path}/a.csv:{line}"] for line in (6, 7, 8, 9)]
    assert list(skipped) == (
        [f"label {said!r}" for said in ("NaN", "nan", "<NA>", "")] if "NaN" in content else []
    )


@pytest.mark.parametrize("names", [["nan", "cmn"], [" pos", " neg"], ["NA", "null"]])
def test_labels_that_are_named_are_labels(names: list[str], tmp_path: Path) -> None:
    """Languages by ISO 639-3, and those of runs of earlier versions, which kept blanks."""
    (tmp_path / "a.csv").write_text(f"text,label\na,{names[0]}\nb,{names[1].strip()}\n", encoding="utf-8")
    examples = read_line_examples(tmp_path / "a.csv", LabelledFormat(LabelNames(names), reader=READER))
    assert [example.label for example in examples] == [0, 1]


def test_one_column_has_no_blanks_after_commas(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('sentence\n "Hello" she said .\n', encoding="utf-8")
    (example,) = read_line_examples(tmp_path / "a.csv", SentenceFormat(reader=READER))
    assert example.trees[0].tokens == ("``", "Hello", "''", "she", "said", ".")


@pytest.mark.parametrize(
    "given, labels, message",
    [
        (
            ["pos", "neg", "pos", "neg", "neutral", "other"],
            ("neg", "neutral", "other", "pos"),
            "2 of 4 labels have one example: 'neutral', 'other'",
        ),
        (
            ["Pos", "pos", "neg", "not  e\u0301", "not \xe9"] * 2,
            ("Pos", "neg", "not  e\u0301", "not \xe9", "pos"),
            "4 of 5 labels look alike: 'Pos', 'pos', 'not  e\u0301', …",
        ),
        ([True, False, True], ("False", "True"), "1 of 2 labels have one example: 'False'"),
    ],
)
def test_odd_labels_are_told(given: list[Any], labels: tuple[str], message: str, tmp_path: Path) -> None:
    records = [{"text": "good", "label": label} for label in given]
    data = DataConfig(
        corpus="sentences", train=(str(write(tmp_path / "a.jsonl", *records)),), branching="right"
    )
    data = replace(data, dev=data.train)
    with pytest.warns(DataWarning, match=f"^{message}$"):
        assert load_splits(data, Skipped()).labels == labels


@pytest.mark.parametrize("kind", ["spinn-pi", "spinn", "bow"])
def test_from_text_to_a_pipeline(kind: str, tmp_path: Path, capsys: Any) -> None:
    """Text has trees of the package's parser where a model composes by trees, and the run tells of it."""
    run = tmp_path / "run"
    for name, seed in (("train", 1), ("dev", 2)):
        reviews(tmp_path / f"{name}.jsonl", 48, seed, "review", "stars")
    fields = ["--fields", "text=review", "label=stars"]
    arguments = ["train", "--corpus", "sentences", "--data", str(tmp_path), *fields, "--kind", kind, *SMALL]
    assert main([*arguments, "--lr", "0.02", "--epochs", "6", "--output", str(run)]) == 0
    expected = "no tree is looked at" if kind == "bow" else "trees are those of the package's parser"
    assert f"96 sentences are text without a parse: {expected}" in capsys.readouterr().err
    assert json.loads((run / "results.json").read_text())["splits"]["dev"]["accuracy"] > 0.9
    assert main(["predict", str(run), "--input", str(tmp_path / "dev.jsonl")]) == 0
    predictions = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    texts = [json.loads(line) for line in (tmp_path / "dev.jsonl").read_text().splitlines()]
    found = Pipeline.from_pretrained(run).classify([record["review"] for record in texts])
    assert [prediction.label for prediction in found] == [record["label"] for record in predictions]
    right = [prediction.label == record["stars"] for prediction, record in zip(found, texts, strict=True)]
    assert sum(right) > 43
    assert main(["evaluate", str(run), "--data", str(tmp_path / "dev.jsonl")]) == 0
    encode = ["encode", str(run), "--output", str(tmp_path / "out.npy"), "--input"]
    assert main([*encode, str(tmp_path / "dev.jsonl")]) == 0  # it knows the field, too
    text, whole = (tmp_path / "dev.jsonl").read_text(), np.load(tmp_path / "out.npy")
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(text,), daemon=True)
    writer.start()
    assert main([*encode, str(tmp_path / "pipe")]) == 0
    writer.join()
    assert_close(np.load(tmp_path / "out.npy"), whole)
    (tmp_path / "other.jsonl").write_text(json.dumps({**texts[0], "text": "not this", "key": "k"}) + "\n")
    capsys.readouterr()
    predict = ["predict", str(run), "--input", str(tmp_path / "other.jsonl")]
    assert main([*predict, "--fields", "sentence_id=key"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["id"] == "k"
    assert said["probabilities"] == pytest.approx(predictions[0]["probabilities"], abs=1e-5)
    assert main(["predict", str(run), "--sentence", "The film is so good."]) == 0
    assert "pos" in capsys.readouterr().out


def test_trees_of_another_parser_replace_those_given(parser_run: Path, tmp_path: Path) -> None:
    """In training as in a store that is prepared; a run goes on using them."""
    record = {"sentence_binary_parse": "( ( ( old red ) dogs ) bark )", "label": "yes"}
    other = {"text": "big cats sing", "label": "no"}
    write(tmp_path / "train.jsonl", *[record, other] * 8)
    write(tmp_path / "dev.jsonl", *[record, other] * 8)
    data = ["--corpus", "sentences", "--data", str(tmp_path), "--parser", str(parser_run)]
    assert main(["prepare", *data, "--output", str(tmp_path / "store")]) == 0
    from spinn_tensor.data_prep import read_store

    store = read_store(tmp_path / "store")
    sentences = store.splits["train"].columns.sentences
    expected = Parser(str(parser_run))(store.words, sentences)
    assert sentences.transitions.tolist() == expected.tolist()
    texts = ["old red dogs bark", "big cats sing"]
    trees = [
        format_binary(tree_of(READER.read(tree)))
        for tree in Pipeline.from_pretrained(parser_run).parse(texts)
    ]
    run = tmp_path / "run"
    assert main(["train", *data, "--epochs", "1", *SMALL, "--output", str(run)]) == 0
    command = ["predict", str(run), "--sentence"]
    assert [main([*command, text]) for text in texts + trees] == [0] * 4


def test_a_store_keeps_its_tokenizer_and_takes_other_trees_everywhere(tmp_path: Path) -> None:
    """What a run on a store is trained with, it is scored with; what is the default may be said."""
    write(tmp_path / "train.jsonl", *[{"text": "it doesn't bark", "label": label} for label in "ab" * 8])
    write(tmp_path / "dev.jsonl", {"text": "it doesn't bark", "label": "a"})
    store = str(tmp_path / "store")
    data = ["--corpus", "sentences", "--data", str(tmp_path), "--tokenizer", "whitespace"]
    assert main(["prepare", *data, "--branching", "left", "--output", store]) == 0
    run = tmp_path / "run"
    options = ["--binarize", "head", "--notation", "auto", "--epochs", "1", *SMALL, "--output", str(run)]
    assert main(["train", "--data", store, *options]) == 0
    assert Pipeline.from_pretrained(run).parse("it doesn't bark") == "( ( it doesn't ) bark )"


def test_a_run_on_a_store_is_scored_under_the_trees_of_its_parser(tmp_path: Path, capsys: Any) -> None:
    record = {"sentence_binary_parse": "( ( ( the red ) dog ) barks )", "label": "a"}
    write(tmp_path / "train.jsonl", *[record, {**record, "label": "b"}] * 8)
    write(tmp_path / "dev.jsonl", record)
    store, run, said = str(tmp_path / "store"), tmp_path / "run", tmp_path / "said.jsonl"
    assert main(["prepare", "--corpus", "sentences", "--data", str(tmp_path), "--output", store]) == 0
    options = ["--parser", "packaged", "--epochs", "1", *SMALL, "--output", str(run)]
    assert main(["train", "--data", store, *options]) == 0
    assert main(["evaluate", str(run), "--predictions", str(said)]) == 0
    tree = Pipeline.from_pretrained().parse("the red dog barks")
    assert json.loads(said.read_text())["tree"] == tree != record["sentence_binary_parse"]
    # and so it is in Python: the model knows the parser's trees
    assert Pipeline.from_pretrained(run).parse(record["sentence_binary_parse"]) == tree
    load_checkpoint(run).model.save_pretrained(tmp_path / "again")
    assert Pipeline.from_pretrained(tmp_path / "again").parse(record["sentence_binary_parse"]) == tree
    assert main(["evaluate", str(run), "--parser", str(tmp_path / "nothing")]) == 1
    capsys.readouterr()


@pytest.mark.parametrize("text", ["( (NN dog) )", "(NN dog)", "(FRAG (NN dog))", "(sn (n dog))"])
def test_trees_of_one_word_where_a_tree_is_expected(text: str) -> None:
    for reader in (SentenceReader(notation="parses"), READER):
        read = reader.read if reader is not READER else reader.read_parse
        assert format_binary(tree_of(read(text, "sentence_parse"))) == "dog"


@pytest.mark.parametrize("tree", ["( a b )", "(S (NP a) (VP b))"])
def test_a_label_before_a_tree_is_no_word(tree: str) -> None:
    befores = ["3\t", "very good\t", "3\t ", "\u200f", "\ufeff ", *["wsj_0001.1 "] * tree.startswith("(S")]
    for reader in (READER, SentenceReader()):
        for before in befores:
            with pytest.raises(DataError, match="a label, or an invisible mark, and a tree"):
                reader.read(f"{before}{tree}")
    assert isinstance(replace(READER, notation="text").read(f"3\t{tree}"), Words)
    for text in ("f(x)", "see (S (a)) there", "so\t( he says ) it is", "so\t(really)", f"so\tit is\t{tree}"):
        assert isinstance(READER.read(text), Words)


def test_a_piece_of_a_tree_is_no_word() -> None:
    for text in ("))", ")", "( ("):
        with pytest.raises(DataError):
            tree_of(READER.read(text))
    assert isinstance(READER.read(") he said"), Words)


@pytest.mark.parametrize("options", [["--train", "a.csv"], ["--data", "folder"], ["--resume"]])
def test_it_is_asked_what_a_file_holds(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Instead of being read as the generated corpus of logic, or of generating one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert main(["train", *options, "--output", str(tmp_path / "run")]) == 1
    printed, error = capsys.readouterr()
    assert printed == ""
    assert "--corpus" in error or "nothing that says what to train" in error
    assert not (tmp_path / "run").exists()
