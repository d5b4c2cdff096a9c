"""Trees from files of every form, and text where there is none."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from spinn_tensor.data_prep.columns import NO_LABEL
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.pairs import PairFormat, read_pairs
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.treebank import parse_or_tokenize, read_treebank, treebank_columns
from spinn_tensor.data_prep.trees import format_binary, parse_binary, parse_labelled, right_branching
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.training.config import DataConfig
from spinn_tensor.training.corpora import load_splits
from tests.machines import SHARED, needs_shared

OLD, BARK = "( ( The church ) ( is old ) )", "( Dogs bark )"
SST = "(3 (2 (2 The) (2 church)) (3 (2 is) (1 old)))"


def record(**fields: object) -> str:
    return json.dumps(fields)


# Name and lines of a file, and the trees in it.
FORMS: dict[str, tuple[str, list[str], list[str]]] = {
    "pairs": (
        "a.jsonl",
        [record(sentence1_binary_parse=OLD, sentence2_binary_parse=BARK, gold_label="-")] * 2,
        [OLD, BARK, OLD, BARK],
    ),
    "sentences": (
        "a.jsonl",
        [record(sentence_binary_parse=OLD, sentence="x y"), record(binary_parse=BARK)],
        [OLD, BARK],
    ),
    "the first of several fields": (
        "a.jsonl",
        [
            record(binary_parse=BARK, sentence_binary_parse=OLD, sentence="x y"),
            record(sentence="x y", binary_parse=BARK),
            record(sentence_binary_parse=BARK, sentence1_binary_parse=OLD, sentence2_binary_parse=OLD),
        ],
        [OLD, BARK, OLD, OLD],
    ),
    "parses": ("a.txt", [OLD, BARK, "Yes", BARK], [OLD, BARK, "Yes", BARK]),
    "labelled trees": ("a.txt", [SST, "(9 No)"], [OLD, "No"]),
    "labelled parses": ("a.tsv", ["9\t( ( ( [MAX 2 ) 9 ) ] )", "3\t3"], ["( ( ( [MAX 2 ) 9 ) ] )", "3"]),
    "all of them": ("a.txt", [OLD, "", SST, f"0\t{BARK}"], [OLD, OLD, BARK]),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_form(form: str, packed: bool, tmp_path: Path) -> None:
    name, lines, expected = FORMS[form]
    path = tmp_path / (name + ".gz" if packed else name)
    text = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    trees = list(read_treebank(path))
    assert [format_binary(tree) for tree in trees] == expected
    assert all(tree.labels is None for tree in trees)


RAW: dict[str, tuple[str, list[str], list[str]]] = {
    "pairs": (
        "a.jsonl",
        [record(sentence1="It isn't old.", sentence2="Dogs bark", sentence2_binary_parse=BARK)],
        ["( It ( is ( n't ( old . ) ) ) )", BARK],
    ),
    "sentences": ("a.jsonl", [record(sentence="(Yes)")], ["( -LRB- ( Yes -RRB- ) )"]),
    "lines": (
        "a.txt",
        ["Don't", OLD, SST, "(3) no"],
        ["( Do n't )", OLD, OLD, "( -LRB- ( 3 ( -RRB- no ) ) )"],
    ),
}


@pytest.mark.parametrize("form", RAW)
def test_text_is_read_where_there_is_no_parse(form: str, tmp_path: Path) -> None:
    name, lines, expected = RAW[form]
    (tmp_path / name).write_text("".join(line + "\n" for line in lines))
    trees = read_treebank(tmp_path / name, tokenize=Tokenizer().tokenize)
    assert [format_binary(tree) for tree in trees] == expected


BAD: dict[str, tuple[str, str, str]] = {
    "not JSON": ("a.jsonl", "{", "a.jsonl:2: not JSON"),
    "no parse": ("a.jsonl", record(text="x"), "a.jsonl:2: missing field, expected sentence1_binary_parse"),
    "half a pair": (
        "a.jsonl",
        record(sentence1_binary_parse=OLD),
        "a.jsonl:2: sentence2_binary_parse: missing field",
    ),
    "half a text": ("a.jsonl", record(sentence2="A cat"), "a.jsonl:2: sentence1_binary_parse: missing field"),
    "text of a pair": (
        "a.jsonl",
        record(sentence1="A dog", sentence2="A cat"),
        "a.jsonl:2: sentence1_binary_parse: missing field; sentence1 is text without a parse: .* --branching",
    ),
    "text of a sentence": ("a.jsonl", record(sentence="A dog"), "sentence is text without a parse"),
    "unbalanced": ("a.txt", "( ( a b )", r"a.txt:2: token 1 '\(': unbalanced"),
    "text": ("a.txt", "a b", r"a.txt:2: token 2 'b': after the end .* --branching"),
    "three children": ("a.txt", "(3 (2 a) (2 b) (2 c))", "a.txt:2: .*3 children"),
    "a label alone": ("a.txt", "3\t", "a.txt:2: "),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_and_can_be_left_out(name: str, tmp_path: Path) -> None:
    file, line, message = BAD[name]
    good = record(binary_parse=BARK) if file.endswith("jsonl") else BARK
    (tmp_path / file).write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(DataError, match=message):
        list(read_treebank(tmp_path / file))
    skipped = Skipped()
    assert len(list(read_treebank(tmp_path / file, skip_bad=True, skipped=skipped))) == 2
    assert skipped.total() == 1


@pytest.mark.parametrize("text", ["( a", "( ( a b )", "( a ) b", "( a b c )"])
def test_what_begins_like_a_parse_is_no_text(text: str) -> None:
    """A parse with a bracket missing is not silently read as other words."""
    with pytest.raises(DataError):
        parse_or_tokenize(text, Tokenizer().tokenize)


def test_text_without_words_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(record(sentence1="A dog", sentence2="\u200b") + "\n")
    with pytest.raises(DataError, match=r"a.jsonl:1: sentence2: a sentence without words"):
        list(read_treebank(tmp_path / "a.jsonl", tokenize=Tokenizer().tokenize))


def test_columns_have_no_labels() -> None:
    columns = treebank_columns([parse_binary(OLD), parse_labelled(SST)], Vocabulary.build([["old"]]))
    assert columns.labels.tolist() == [NO_LABEL] * 2
    assert columns.sentences.node_labels is None
    assert columns.sentences.token_ids.tolist() == [1, 1, 1, 2] * 2


@pytest.mark.parametrize("n_tokens", [1, 2, 5])
def test_right_branching(n_tokens: int) -> None:
    tokens = tuple("abcde"[:n_tokens])
    expected = {1: "a", 2: "( a b )", 5: "( a ( b ( c ( d e ) ) ) )"}[n_tokens]
    assert format_binary(right_branching(tokens)) == expected


def test_the_files_of_a_split_are_read_one_after_another(tmp_path: Path) -> None:
    a, b = tmp_path / "a.txt", tmp_path / "b.jsonl"
    a.write_text(f"{OLD}\n{SST}\n")
    b.write_text(record(binary_parse=BARK) + "\n")
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
        record(gold_label="neutral", sentence1_binary_parse=OLD, sentence2="It isn't old.") + "\n"
    )
    data = DataConfig(corpus=corpus, train=(str(path),), dev=(str(path),), branching="left")
    splits = load_splits(data, Skipped())
    for split in (splits.train, splits.dev):
        transitions = (
            np.concatenate([split.sides[0].transitions, split.sides[1].transitions])
            if corpus == "snli"
            else split.sentences.transitions
        )
        assert transitions.tolist() == [0, 0, 1, 0, 1, 0, 1, *[0, 0, 1, 0, 1, 0, 1, 0, 1]]


@needs_shared
def test_the_slice_of_snli_has_the_trees_of_its_pairs() -> None:
    path = SHARED / "snli" / "snli_1.0_dev_slice.jsonl.gz"
    pairs = read_pairs(path, PairFormat(require_label=False))
    expected = [tree for pair in pairs for tree in (pair.premise, pair.hypothesis)]
    trees = list(read_treebank(path))
    assert [format_binary(tree) for tree in trees] == [format_binary(tree) for tree in expected]
