"""Every reader of corpora on files that are random, or good ones damaged: examples or one `DataError` come out.

And what comes out does not depend on how a reader goes about it: a block of lines at once or each on its own. How many
files are tried says the environment (see `fuzzing`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import strategies as st

from spinn_tensor.data_prep.corpora import read
from spinn_tensor.data_prep.corpora.formats import (
    LabelNames,
    LineFormat,
    ListOpsFormat,
    PairFields,
    PairFormat,
    SentenceFormat,
    SstFormat,
    TreebankFormat,
)
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.text import TREES_ONLY, SentenceReader
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import (
    Tree,
    format_binary,
    format_close_bracket,
    format_labelled,
    format_transitions,
    parse_binary,
    parse_close_bracket,
    parse_labelled,
    parse_transitions,
)
from spinn_tensor.data_prep.vocabulary import SPECIAL_TOKENS, UNKNOWN_ID, Vocabulary
from tests.fuzzing import (
    JSON_PIECES,
    LISTOPS_LINES,
    N_EXAMPLES,
    OWN_LINES,
    PARSE_LINES,
    PIECES,
    SNLI_LINES,
    SST_LINES,
    TREE_LINES,
    TREE_RECORDS,
    assert_one_error,
    fuzz,
    texts,
)
from tests.reading import OWN, assert_chunk_as_slowly, by_the_line, outcome
from tests.strategies import assert_same_tree

pytest.importorskip("pyarrow")

READER = SentenceReader(Tokenizer().tokenize)


class Case(NamedTuple):
    """A file and how it is read."""

    file: str  # its name
    lines: list[bytes]  # good ones
    make: Callable[[], LineFormat]


def check_case(case: Case, path: Path) -> Callable[[tuple[bytes, int, int]], None]:
    """At once or by the line, in one block or several: one outcome, and whoever skips bad lines has fewer errors."""

    def check(drawn: tuple[bytes, int, int]) -> None:
        content, limit, block = drawn
        path.write_bytes(content)
        read.BLOCK = block if is_short(content) else 8192
        outcomes = []
        for skip_bad in (False, True):
            found = outcome(path, case.make(), skip_bad, limit)
            expected = by_the_line(path, case.make(), skip_bad, limit)
            if isinstance(found, str):
                assert_one_error(found, path)
            assert found == expected
            outcomes.append(found)
        if not isinstance(outcomes[0], str):
            assert outcomes[1] == outcomes[0]

    return check


def is_short(content: bytes) -> bool:
    """Or else blocks of two lines would take minutes."""
    return content.count(b"\n") < 100


def pairs(
    lines: list[bytes], fields: PairFields, labels: list[str], grows: bool = False, **options: Any
) -> Case:
    return Case("pairs.jsonl", lines, lambda: PairFormat(LabelNames(list(labels), grows), fields, **options))


def trees(file: str, lines: list[bytes], reader: Any = TREES_ONLY) -> Case:
    return Case(file, lines, lambda: TreebankFormat(reader))


def sentences(file: str, lines: list[bytes], field: str | None = None, reader: Any = TREES_ONLY) -> Case:
    return Case(file, lines, lambda: SentenceFormat(field, reader))


SNLI_LABELS = list(LabelNames().names)
CASES = {
    "snli": pairs(SNLI_LINES, PairFields(), SNLI_LABELS),
    "snli, text": pairs(SNLI_LINES, PairFields(), SNLI_LABELS, reader=READER, require_label=False),
    "own": pairs(OWN_LINES, OWN, ["0", "1", "yes"], require_label=False),
    "own, growing": pairs(OWN_LINES, OWN, [], grows=True),
    "own, growing, text": pairs(OWN_LINES, OWN, [], grows=True, reader=READER),
    "trees, records": trees("trees.jsonl", TREE_RECORDS + SNLI_LINES),
    "trees, records, text": trees("trees.jsonl", TREE_RECORDS + SNLI_LINES, READER),
    "trees, lines": trees("trees.txt", TREE_LINES),
    "trees, lines, text": trees("trees.txt", TREE_LINES, READER),
    "five sentiments": Case("sst.txt", SST_LINES, SstFormat),
    "two sentiments": Case("sst.txt", SST_LINES, lambda: SstFormat(binary=True)),
    "listops": Case("train.tsv", LISTOPS_LINES, ListOpsFormat),
    "sentences, records": sentences("in.jsonl", TREE_RECORDS + OWN_LINES),
    "sentences, records, text": sentences("in.jsonl", TREE_RECORDS + OWN_LINES, reader=READER),
    "sentences, a field": sentences("in.jsonl", TREE_RECORDS + OWN_LINES, "text", READER),
    "sentences, lines": sentences("in.txt", TREE_LINES),
    "sentences, lines, text": sentences("in.txt", TREE_LINES, reader=READER),
}


@pytest.mark.filterwarnings("ignore:.*a tab in a line of text")
@pytest.mark.parametrize("name", CASES)
def test_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    pieces = JSON_PIECES if "jsonl" in case.file else PIECES
    monkeypatch.setattr(read, "BLOCK", read.BLOCK)
    limits, blocks = st.sampled_from([0, 0, 0, 1, 3]), st.sampled_from([8192, 8192, 2])
    inputs = st.tuples(texts(case.lines, pieces), limits, blocks)
    fuzz(inputs, check_case(case, tmp_path / case.file), 5 * N_EXAMPLES, len(CASES))


def test_chunks_of_parses() -> None:
    lines = texts(PARSE_LINES, [piece for piece in PIECES if b"\n" not in piece])
    inputs = st.lists(lines.map(lambda line: line.decode(errors="ignore")), max_size=6)
    fuzz(inputs, assert_chunk_as_slowly, N_EXAMPLES)


NOTATIONS: list[tuple[Callable[[str], Tree], Callable[[Tree], str]]] = [
    (parse_binary, format_binary),
    (parse_close_bracket, format_close_bracket),
    (parse_labelled, format_labelled),
    (partial(parse_transitions, tokens=("a", "b", "c")), format_transitions),
]


def test_notations() -> None:
    """What is read is written and read again."""

    def check(content: bytes) -> None:
        text = content.decode(errors="replace")
        for parse, write in NOTATIONS:
            try:
                tree = parse(text)
            except DataError as error:
                assert_one_error(error)
                continue
            assert_same_tree(parse(write(tree)), tree)

    lines = [b"S S R S R", b"The church ) is old ) )", *PARSE_LINES, *SST_LINES]
    fuzz(texts(lines, [*PIECES, b"S", b"R", b" S ", b" R "]), check, N_EXAMPLES)


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=4)  # halves of surrogate pairs included
WORDS = st.lists(
    st.sampled_from([*SPECIAL_TOKENS, "dog", "Dog", "DOG", "\u03a3\u03a3", "\u0130", "", "a b"]) | ANY_TEXT
)


def test_vocabularies() -> None:
    def check(drawn: tuple[list[str], int, bool, bool]) -> None:
        words, min_count, lower, whole = drawn
        try:
            if whole:
                vocabulary = Vocabulary((*SPECIAL_TOKENS, *words), lower)
                assert vocabulary.tokens[2:] == tuple(words)
                Vocabulary(tuple(words))
            else:
                vocabulary = Vocabulary.build([words], min_count, lower)
        except DataError as error:
            assert_one_error(error)
            return
        ids = vocabulary.encode(words)
        assert ids.dtype == np.int32
        assert not len(ids) or UNKNOWN_ID <= ids.min() <= ids.max() < len(vocabulary)
        assert len(vocabulary.sha256) == 64
        assert Vocabulary(vocabulary.tokens, lower) == vocabulary

    fuzz(st.tuples(WORDS, st.integers(1, 3), st.booleans(), st.booleans()), check, N_EXAMPLES)


DEEP = 60_000
PARSE_FIELDS = ("sentence1_binary_parse", "sentence2_binary_parse")
LEFT, RIGHT = "( " * DEEP + "a" + " a )" * DEEP, "( a " * DEEP + "a" + " )" * DEEP
DEEP_LINES: list[tuple[Callable[[], LineFormat], str, int]] = [
    (SstFormat, "(3 " * DEEP + "(2 a)" + " (2 a))" * DEEP, 1),
    (ListOpsFormat, "3\t" + LEFT, 1),
    (TreebankFormat, RIGHT, 1),
    (
        PairFormat,
        json.dumps({"gold_label": "neutral", **dict(zip(PARSE_FIELDS, (LEFT, RIGHT), strict=True))}),
        2,
    ),
]


@pytest.mark.parametrize("make, line, n_sentences", DEEP_LINES)
def test_deep_lines(make: Callable[[], LineFormat], line: str, n_sentences: int, tmp_path: Path) -> None:
    """Of half a megabyte; nothing here is a recursion, or quadratic."""
    path = tmp_path / "deep"
    path.write_text(line + "\n", encoding="utf-8")
    found = outcome(path, make(), False)
    assert len(found[0]) == n_sentences * (DEEP + 1)
    assert found == by_the_line(path, make(), False)
