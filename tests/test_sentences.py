"""Labelled sentences of one's own, with and without trees, from files to a served model."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from spinn_tensor import Pipeline
from spinn_tensor.cli.main import main
from spinn_tensor.data_prep import read_line_examples
from spinn_tensor.data_prep.columns import NO_LABEL
from spinn_tensor.data_prep.corpora.formats import LabelledFormat, LabelNames, SentenceFields, named_fields
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.text import SentenceReader
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import format_binary
from spinn_tensor.training.text_trees import Parser
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
        ({"text": "a", "label": "other"}, "label: got 'other', expected one of pos"),
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
    labelled.require_label = False
    assert [e.label for e in read_line_examples(path, labelled)] == [NO_LABEL, NO_LABEL, 0]


@pytest.mark.parametrize("kind", ["spinn-pi", "spinn", "bow"])
def test_from_text_to_a_pipeline(kind: str, tmp_path: Path, capsys: Any) -> None:
    """Text has trees of the package's parser where a model composes by trees, and the run tells of it."""
    run = tmp_path / "run"
    for name, seed in (("train", 1), ("dev", 2)):
        reviews(tmp_path / f"{name}.jsonl", 48, seed, "review", "stars")
    fields = ["--fields", "text=review", "label=stars"]
    arguments = ["train", "--corpus", "sentences", "--data", str(tmp_path), *fields, "--kind", kind, *SMALL]
    assert main([*arguments, "--lr", "0.02", "--epochs", "6", "--output", str(run)]) == 0
    expected = "no tree is looked at" if kind == "bow" else "their trees are those of the package's parser"
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
    from spinn_tensor.data_prep.corpora import read_store

    store = read_store(tmp_path / "store")
    sentences = store.splits["train"].columns.sentences
    expected = Parser(str(parser_run))(store.words, sentences)
    assert sentences.transitions.tolist() == expected.tolist()
    texts = ["old red dogs bark", "big cats sing"]
    trees = [format_binary(READER.tree(tree)) for tree in Pipeline.from_pretrained(parser_run).parse(texts)]
    run = tmp_path / "run"
    assert main(["train", *data, "--epochs", "1", *SMALL, "--output", str(run)]) == 0
    command = ["predict", str(run), "--sentence"]
    assert [main([*command, text]) for text in texts + trees] == [0] * 4
