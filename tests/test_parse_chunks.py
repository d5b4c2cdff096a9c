"""Chunks of parses against the reader of one parse: the same columns, and the same strings refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spinn_tensor.data_prep.corpora.formats import PairFormat
from spinn_tensor.data_prep.corpora.read import read_line_examples
from spinn_tensor.data_prep.trees import Tree, format_binary
from spinn_tensor.data_prep.vocabulary import Vocabulary
from tests.machines import SHARED, needs_shared
from tests.reading import CHUNK_VOCABULARY, assert_chunk_as_slowly
from tests.strategies import all_transitions, binary_transitions, tree_of

pa = pytest.importorskip("pyarrow")


PARSES = binary_transitions().map(lambda transitions: format_binary(tree_of(transitions)))
BLANKS = st.text(" \t\r\n", min_size=1, max_size=2)
SYMBOLS = st.sampled_from(["(", ")", "w1", "w2", "a\u00a0b", "é", "((", "()", "\u2028", "Dog"])
SOUP = st.lists(st.tuples(SYMBOLS, BLANKS), max_size=8).map(lambda parts: "".join(map("".join, parts)))


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A parse with a symbol removed, doubled or moved: most are none, some are another one."""
    symbols = draw(PARSES).split()
    source, target = (draw(st.integers(0, len(symbols) - 1)) for _ in range(2))
    change = draw(st.sampled_from(["remove", "double", "move"]))
    symbol = symbols[source] if change == "double" else symbols.pop(source)
    if change != "remove":
        symbols.insert(target, symbol)
    return draw(BLANKS).join(symbols)


@given(st.lists(st.one_of(PARSES, damaged(), SOUP), max_size=8), st.booleans())
@example(["( w1 w2", ") w3"], False)
@example(["( w1", "w2 )"], False)
@example(["w1 w2 ) (", "w3"], False)
@example(["w1 (", "w2 w3 )"], False)
@example(["( ( w1 ) w2 w3 )"], False)
@example(["( w1 w2 ) )", "( w1"], False)
@example(["", " ", "()", "( )", "(", ")"], True)
def test_as_one_string_at_a_time(texts: list[str], lower: bool) -> None:
    assert_chunk_as_slowly(texts, CHUNK_VOCABULARY)
    if lower:
        assert_chunk_as_slowly(texts, Vocabulary(("<pad>", "<unk>", "dog", "w1"), lower=True))


def test_every_tree_of_six_words_and_every_place_of_its_open_brackets() -> None:
    for n_tokens in range(1, 7):
        texts = []
        for transitions in all_transitions(n_tokens):
            symbols = format_binary(tree_of(transitions)).split()
            texts.append(" ".join(symbols))
            for position in (i for i, symbol in enumerate(symbols) if symbol == "("):
                rest = symbols[:position] + symbols[position + 1 :]
                texts += [" ".join([*rest[:i], "(", *rest[i:]]) for i in range(len(rest) + 1)]
        assert_chunk_as_slowly(texts)


def test_slices_nulls_and_large_strings() -> None:
    texts = ["( w1 w2 )", "", "w3", "( ( w1 é ) w2 )", "w9"]
    strings = pa.array(texts)
    assert_chunk_as_slowly(texts[1:4], array=strings[1:4])
    assert_chunk_as_slowly(texts, array=strings.cast(pa.large_string()))
    assert_chunk_as_slowly(["", "w1"], array=pa.array([None, "w1"], pa.string()))
    assert_chunk_as_slowly([], array=pa.array([], pa.string()))


def test_a_very_deep_tree() -> None:
    n_tokens = 3000
    transitions = np.array([0] + [0, 1] * (n_tokens - 1), dtype=np.int8)
    assert_chunk_as_slowly([format_binary(Tree(("w1",) * n_tokens, transitions)), "w2"])


@needs_shared
def test_the_sentences_of_the_slice() -> None:
    path = SHARED / "snli" / "snli_1.0_dev_slice.jsonl.gz"
    pairs = list(read_line_examples(path, PairFormat(require_label=False)))
    trees = [tree for pair in pairs for tree in (pair.premise, pair.hypothesis)]
    assert_chunk_as_slowly(
        [format_binary(tree) for tree in trees], Vocabulary.build(tree.tokens for tree in trees)
    )
