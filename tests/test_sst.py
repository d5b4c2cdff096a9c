"""The Stanford Sentiment Treebank's lines and columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.sst import LABELS, labelled_columns, phrases, read_trees
from spinn_tensor.data_prep.trees import parse_binary, parse_labelled
from spinn_tensor.data_prep.vocabulary import Vocabulary

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "sst"
TREES = ["(3 (2 It) (4 works))", "(1 (2 (2 so) (0 bad)) (2 .))", "(4 Wow)"]


def test_labels_of_roots_and_nodes() -> None:
    trees = [parse_labelled(text) for text in TREES]
    columns = labelled_columns(iter(trees), Vocabulary.build(tree.tokens for tree in trees))
    assert columns.labels.dtype == np.int64
    assert columns.labels.tolist() == [3, 1, 4]
    assert columns.sentences.node_labels is not None
    assert columns.sentences.node_labels.tolist() == [2, 4, 3, 2, 0, 2, 2, 1, 4]
    assert columns.lengths_key.tolist() == [2, 3, 1]


def test_a_tree_without_labels_is_refused() -> None:
    labelled, unlabelled = parse_labelled(TREES[0]), parse_binary("( a b )")
    with pytest.raises(DataError, match="example 1: a tree without labels"):
        labelled_columns([labelled, unlabelled], Vocabulary.build([]))
    with pytest.raises(DataError, match="example 0: a tree without labels"):
        labelled_columns([unlabelled], Vocabulary.build([]))


@pytest.mark.parametrize(
    "line, message",
    [
        ("(5 (2 It) (4 works))", "token 2 '5': expected a label from 0 to 4"),
        ("(3 (2 It) (4 works)", "token 1 '(': unbalanced"),
        ("(3 (2 It))", "token 7 ')': a node with one child"),
    ],
)
def test_a_bad_tree_is_named_or_counted(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "train.txt"
    path.write_text("\n".join([TREES[0], line, TREES[1]]))
    with pytest.raises(DataError) as caught:
        list(read_trees(path))
    assert str(caught.value).startswith(f"{path}:2: {message}")
    skipped = Skipped()
    assert len(list(read_trees(path, skip_bad=True, skipped=skipped))) == 2
    assert skipped.total() == 1


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared")
def test_the_treebank() -> None:
    trees = list(read_trees(SHARED / "dev.txt.gz"))
    columns = labelled_columns(trees, Vocabulary.build((tree.tokens for tree in trees), lower=True))
    assert len(trees) == 1101
    assert np.bincount(columns.labels).tolist() == [139, 289, 229, 279, 165]  # the treebank's own counts
    assert len(LABELS) == 5


def test_phrases_are_all_nodes() -> None:
    tree = parse_labelled("(3 (2 It) (4 (2 was) (0 (1 so) (3 good))))", 5)
    vocabulary = Vocabulary.build([tree.tokens])
    corpus = phrases(labelled_columns([tree, parse_labelled("(1 good)", 5)], vocabulary))
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
