"""Every reader of corpora on files that are random, or good ones damaged: examples or one `DataError` come out.

And what comes out does not depend on how a reader goes about it: a block of lines at once or each on its own. How many
files are tried says the environment (see `fuzzing`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import strategies as st

from spinn_tensor.data_prep import reading
from spinn_tensor.data_prep.columns import sentence_columns
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.listops import ListOpsFormat, read_expressions
from spinn_tensor.data_prep.pairs import LabelNames, PairFields, PairFormat, read_pairs
from spinn_tensor.data_prep.reading import LineFormat, read_line_examples
from spinn_tensor.data_prep.sentence_lines import line_reader
from spinn_tensor.data_prep.sst import SstFormat, read_trees
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.treebank import TreebankFormat, read_treebank
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
from tests import test_parse_chunks
from tests.fuzzing import (
    JSON_PIECES,
    LISTOPS_LINES,
    OWN_LINES,
    PARSE_LINES,
    PIECES,
    SNLI_LINES,
    SST_LINES,
    TREE_LINES,
    TREE_RECORDS,
    fuzz,
    texts,
)
from tests.strategies import assert_same_tree
from tests.test_reading import OWN, VOCABULARY, Slowly, outcome
from tests.test_sentence_lines import assert_as_by_the_line, blocks_of

pytest.importorskip("pyarrow")

TOKENIZE = Tokenizer().tokenize
N_EXAMPLES = 150  # of a reader, by default


def assert_one_error(error: DataError | str, path: Path | None = None) -> None:
    """A line that begins with the file's name, and that a terminal can hold."""
    message = str(error)
    assert message.startswith("" if path is None else str(path))
    assert len(message.splitlines()) == 1
    assert len(message) < 1000


class Case(NamedTuple):
    """A file and how it is read."""

    file: str  # its name
    lines: list[bytes]  # good ones
    make: Callable[[], LineFormat]
    read: Callable[..., Iterable[Any]]  # the same by the line: path, skip_bad, skipped
    trees: Callable[[Any], tuple[Tree, ...]]  # of an example that `read` gives


def check_case(case: Case, path: Path) -> Callable[[tuple[bytes, int, int]], None]:
    """At once or by the line, in one block or several: one outcome, and whoever skips bad lines has fewer errors."""

    def check(drawn: tuple[bytes, int, int]) -> None:
        content, limit, block = drawn
        path.write_bytes(content)
        reading.BLOCK = block if is_short(content) else 8192
        outcomes = []
        for skip_bad in (False, True):
            found = named_outcome(path, case.make(), skip_bad, limit)
            assert found == named_outcome(path, Slowly(case.make()), skip_bad, limit)
            if isinstance(found, str):
                assert_one_error(found, path)
            if not limit:
                assert_as_read(case, path, found, skip_bad, is_text(content))
            outcomes.append(found)
        if not isinstance(outcomes[0], str):
            assert outcomes[1] == outcomes[0]

    return check


def named_outcome(path: Path, line_format: Any, skip_bad: bool, limit: int) -> Any:
    """As `outcome`, with labels by name: growing ones are numbered as they come, at once in another order."""
    found = outcome(path, line_format, skip_bad, limit)
    labels = getattr(getattr(line_format, "_format", line_format), "labels", None)
    if isinstance(found, str) or labels is None:
        return found
    return (*found[:5], [labels.names[number] if number >= 0 else None for number in found[5]], *found[6:])


def assert_as_read(case: Case, path: Path, found: Any, skip_bad: bool, text: bool) -> None:
    """Sentences and errors are those of the reader that gives examples one by one."""
    skipped = Skipped()
    try:
        examples, reason = list(case.read(path, skip_bad=skip_bad, skipped=skipped)), ""
    except DataError as error:
        examples, reason = [], str(error)
    if reason:
        assert isinstance(found, str)
        assert found == reason or not text  # of two errors: bytes of a block are looked at before its lines
        return
    read = [tree for example in examples for tree in case.trees(example)]
    assert "".join(token for tree in read for token in tree.tokens).encode()  # no halves of surrogate pairs
    trees = sentence_columns(read, VOCABULARY)
    ids, offsets, transitions, *_, counts = found
    assert (ids, offsets, counts) == (trees.token_ids.tolist(), trees.token_offsets.tolist(), dict(skipped))
    assert transitions == trees.transitions.tolist()


def is_short(content: bytes) -> bool:
    """Or else blocks of two lines would take minutes."""
    return content.count(b"\n") < 100


def is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def fuzz_case(case: Case, pieces: list[bytes], folder: Path, monkeypatch: Any, n_cases: int) -> None:
    monkeypatch.setattr(reading, "BLOCK", reading.BLOCK)
    limits, blocks = st.sampled_from([0, 0, 0, 1, 3]), st.sampled_from([8192, 8192, 2])
    inputs = st.tuples(texts(case.lines, pieces), limits, blocks)
    fuzz(inputs, check_case(case, folder / case.file), N_EXAMPLES, n_cases)


def pairs(lines: list[bytes], fields: PairFields, labels: list[str], **options: Any) -> Case:
    grows = options.pop("grows", False)

    def make() -> PairFormat:
        return PairFormat(LabelNames(list(labels), grows), fields, **options)

    def read(path: Path, **how: Any) -> Any:
        return read_pairs(path, make(), **how)

    return Case("pairs.jsonl", lines, make, read, lambda pair: (pair.premise, pair.hypothesis))


SNLI_LABELS = list(LabelNames().names)
PAIRS = {
    "snli": pairs(SNLI_LINES, PairFields(), SNLI_LABELS),
    "snli, text": pairs(SNLI_LINES, PairFields(), SNLI_LABELS, tokenize=TOKENIZE, require_label=False),
    "own": pairs(OWN_LINES, OWN, ["0", "1", "yes"], require_label=False),
    "own, growing": pairs(OWN_LINES, OWN, [], grows=True),
    "own, growing, text": pairs(OWN_LINES, OWN, [], grows=True, tokenize=TOKENIZE),
}


@pytest.mark.parametrize("case", PAIRS)
def test_pairs(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz_case(PAIRS[case], JSON_PIECES, tmp_path, monkeypatch, len(PAIRS))


def trees(file: str, lines: list[bytes], tokenize: Any = None) -> Case:
    def read(path: Path, **how: Any) -> Any:
        return read_treebank(path, tokenize=tokenize, **how)

    return Case(file, lines, lambda: TreebankFormat("jsonl" in file, tokenize), read, lambda tree: (tree,))


TREES = {
    "records": trees("trees.jsonl", TREE_RECORDS + SNLI_LINES),
    "records, text": trees("trees.jsonl", TREE_RECORDS + SNLI_LINES, TOKENIZE),
    "lines": trees("trees.txt", TREE_LINES),
    "lines, text": trees("trees.txt", TREE_LINES, TOKENIZE),
}


@pytest.mark.parametrize("case", TREES)
def test_treebanks(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = JSON_PIECES if TREES[case].file.endswith("jsonl") else PIECES
    fuzz_case(TREES[case], pieces, tmp_path, monkeypatch, len(TREES))


def read_binary_trees(path: Path, *, skip_bad: bool, skipped: Skipped) -> Any:
    return read_line_examples(path, SstFormat(binary=True), skip_bad=skip_bad, skipped=skipped)


SENTIMENT = {
    "five": Case("sst.txt", SST_LINES, SstFormat, read_trees, lambda tree: (tree,)),
    "two": Case("sst.txt", SST_LINES, lambda: SstFormat(binary=True), read_binary_trees, lambda e: e.trees),
}


@pytest.mark.parametrize("case", SENTIMENT)
def test_sentiment(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz_case(SENTIMENT[case], PIECES, tmp_path, monkeypatch, len(SENTIMENT))


LISTOPS = Case("train.tsv", LISTOPS_LINES, ListOpsFormat, read_expressions, lambda example: (example.tree,))


def test_listops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz_case(LISTOPS, PIECES, tmp_path, monkeypatch, 1)


SENTENCES = {
    "records": ("in.jsonl", None, None),
    "records, text": ("in.jsonl", None, TOKENIZE),
    "a field": ("in.jsonl", "text", TOKENIZE),
    "lines": ("in.txt", None, None),
    "lines, text": ("in.txt", None, TOKENIZE),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_sentence_lines(case: str, tmp_path: Path) -> None:
    """What `spinn encode` reads."""
    file, field, tokenize = SENTENCES[case]
    path, reader = tmp_path / file, line_reader(file, field, tokenize)
    lines, pieces = (TREE_RECORDS + OWN_LINES, JSON_PIECES) if "jsonl" in file else (TREE_LINES, PIECES)

    def check(drawn: tuple[bytes, int]) -> None:
        content, size = drawn
        size = size if is_short(content) else 8192
        path.write_bytes(content)
        for skip_bad in (False, True):
            try:
                blocks_of(path, reader, size, skip_bad)
            except DataError as error:
                assert_one_error(error, path)
            if skip_bad or is_text(content):
                assert_as_by_the_line(path, reader, size, skip_bad)

    inputs = st.tuples(texts(lines, pieces), st.sampled_from([1, 2, 3, 8192]))
    fuzz(inputs, check, N_EXAMPLES, len(SENTENCES))


def test_chunks_of_parses() -> None:
    lines = texts(PARSE_LINES, [piece for piece in PIECES if b"\n" not in piece])
    inputs = st.lists(lines.map(lambda line: line.decode(errors="ignore")), max_size=6)
    fuzz(inputs, test_parse_chunks.assert_as_slowly, N_EXAMPLES)


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
    (partial(TreebankFormat, False), RIGHT, 1),
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
    assert found == outcome(path, Slowly(make()), False)


GOOD_PAIR = '{"gold_label": "neutral", "sentence1_binary_parse": "( A dog )", "sentence2_binary_parse": "dog", "x": %s}'


@pytest.mark.parametrize(
    "line",
    [
        "\ufeff",  # all that is left out of a line may leave nothing
        GOOD_PAIR % ("9" * 5_000),  # Arrow does not look at fields that are not asked for
        GOOD_PAIR % ("[" * 2_000 + "]" * 2_000),
        GOOD_PAIR % "Inf",
        GOOD_PAIR % "Inf ",
        GOOD_PAIR % "[-Inf\t]",
        GOOD_PAIR % '1, "pair\\u0049D": null',
        GOOD_PAIR % '1, "pai\\u0072ID": null',
        '{"gold_label": "neutral"}\n' + (GOOD_PAIR % "1").replace("neutral", "-"),
    ],
)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_what_was_found_once(line: str, skip_bad: bool, tmp_path: Path) -> None:
    """Arrow and Python's `json` do not agree on these."""
    path = tmp_path / "pairs.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    found = outcome(path, PairFormat(), skip_bad)
    assert isinstance(found, str)
    assert found == outcome(path, Slowly(PairFormat()), skip_bad)


@pytest.mark.parametrize("grows", [False, True])
def test_numbers_are_labels_however_they_are_read(grows: bool, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\n".join(OWN_LINES[5:7]))
    for wrap in (lambda line_format: line_format, Slowly):
        found = outcome(path, wrap(PairFormat(LabelNames(["1", "0"], grows), OWN)), False)
        assert found[5] == [0, 1]
