"""Penn trees: read, written back, binarised, against nltk and against the binary parses of SNLI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinn_tensor.data_prep import read_line_examples
from spinn_tensor.data_prep.brackets import bracket_spans
from spinn_tensor.data_prep.corpora.formats import SentenceFormat, TreebankFormat
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.penn import (
    BINARIZE,
    Continued,
    PennTree,
    format_penn,
    join_trees,
    parse_penn,
    to_binary,
    without_traces,
)
from spinn_tensor.data_prep.settings import ConfigError
from spinn_tensor.data_prep.text import SentenceReader, Words, notation_of
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import Tree, format_binary
from tests.machines import needs_shared
from tests.nested_trees import nltk_phrases, snli_parses
from tests.strategies import binary_transitions, tree_of

READER = SentenceReader(Tokenizer().tokenize)
DOG = "(ROOT (S (NP (DT The) (NN dog)) (VP (VBZ barks)) (. .)))"


def phrases(depth: int) -> Any:
    word = st.builds(
        "({} {})".format, st.sampled_from(["NN", "-LRB-", "."]), st.sampled_from(["a", "é", "-LRB-"])
    )
    if not depth:
        return word
    label = st.sampled_from(["NP", "NP-SBJ-1", "S|x=1"])
    children = st.lists(phrases(depth - 1) | st.just("bare"), min_size=1, max_size=4).map(" ".join)
    return st.builds("({} {})".format, label, children)


def binary(text: str, binarize: str) -> str:
    return format_binary(to_binary(parse_penn(text), binarize))


@given(phrases(4))
def test_what_is_read_is_written_back(text: str) -> None:
    assert format_penn(parse_penn(text)) == text


@pytest.mark.parametrize(
    "binarize, expected",
    [
        ("right", "( ( The dog ) ( barks ( loudly . ) ) )"),
        ("left", "( ( ( ( The dog ) barks ) loudly ) . )"),
        ("head", "( ( The dog ) ( ( barks loudly ) . ) )"),
    ],
)
@pytest.mark.parametrize(
    "text",
    [
        "(ROOT (S (NP (DT The) (NN dog)) (VP (VBZ barks)) (ADVP (RB loudly)) (. .)))",
        "( (S (NP (DT The) (NN dog)) (VP (VBZ barks)) (ADVP (RB loudly)) (. .)) )",
        "((S (NP-SBJ-1 (DT The) (NN dog))\n  (VP (VBZ barks) (NP (-NONE- *T*-1)))\n  (ADVP (RB loudly)) (. .)))",
        "(S (NP (NP (DT The) (NN dog))) (VP (VP (VBZ barks))) (RB loudly) (. .))",
        "(ROOT|sentiment=2|prob=0.9 (S (NP (DT The) (NN dog)) (VP (VBZ barks)) (RB loudly) (. .)))",
        "(S (NP The dog) (VP barks) loudly .)",
    ],
)
def test_three_rules(text: str, binarize: str, expected: str) -> None:
    assert binary(text, binarize) == expected
    assert isinstance(tree := SentenceReader(binarize=binarize).read(text), Tree)
    assert format_binary(tree) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("(NP (DT a) (JJ b) (JJ c) (NN d))", "( a ( b ( c d ) ) )"),
        ("(VP (VBZ a) (NP b) (PP c) (PP d))", "( ( ( a b ) c ) d )"),
        ("(VP (MD a) (RB b) (VP c))", "( ( a b ) c )"),
        ("(NP (NP a) (, b) (NP c) (CC d) (NP e))", "( ( ( ( a b ) c ) d ) e )"),
        ("(NP (NP a) (POS b) (NN c))", "( a ( b c ) )"),
        ("(NP (NN a) (CC b) (NN c))", "( ( a b ) c )"),
        ("(NP (NNP a) (NNP b) (POS c))", "( a ( b c ) )"),
        ("(UNHEARD (A a) (B b) (C c))", "( ( a b ) c )"),
        ("(ADVP (RB a) (RB b) (PP c))", "( a ( b c ) )"),
    ],
)
def test_heads(text: str, expected: str) -> None:
    assert binary(text, "head") == expected


@pytest.mark.parametrize(
    "text, reason, place",
    [
        ("(S (NP (DT The) (NN dog))", "never closed", 1),
        ("(S (NP (DT The)) (VP (VB barks))))", "after the end", 18),
        ("(S (NP (DT The)) ())", "without a word", 11),
        ("(S (NP (DT The)) (NP) (VP b))", "without a word", 12),
        ("(S (NP (DT The))) (S (NP (DT A)))", "after the end", 11),
    ],
)
def test_broken_trees_are_refused_and_never_text(text: str, reason: str, place: int) -> None:
    with pytest.raises(DataError, match=reason) as error:
        READER.read(text, "sentence")
    assert error.value.token is not None
    assert (error.value.token[0], error.value.field) == (place, "sentence")


def test_a_tree_of_traces_has_no_words() -> None:
    with pytest.raises(DataError, match="traces alone"):
        to_binary(parse_penn("(S (NP (-NONE- *)) (VP (-NONE- *?*)))"))
    kept = without_traces(parse_penn("(S (NP (-NONE- *)) (VP (VB go) (NP (-NONE- *T*) (NN home))))"))
    assert format_penn(kept) == "(S (VP (VB go) (NP (NN home))))"


@given(binary_transitions())
def test_binary_trees_as_penn_trees(transitions: np.ndarray) -> None:
    tree = tree_of(transitions)
    text = format_penn(PennTree.of_binary(tree))
    assert notation_of(text) == "penn"
    for binarize in BINARIZE:
        assert binary(text, binarize) == format_binary(tree)


def test_trees_as_deep_as_they_are_long() -> None:
    text = "(S (NP a) " * 20_000 + "(X b)" + ")" * 20_000
    tree = to_binary(parse_penn(text))
    assert tree.n_tokens == 20_001
    assert format_penn(parse_penn(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "( Laughs ) That is funny .",
        "(see below)",
        "(A dog) barks",
        "( a ) b",
        "(1) First (2) second",
        "a (S (NP",
        "A dog ( (S",
    ],
)
def test_brackets_in_a_text(text: str) -> None:
    """One rule for Python and the commands; `notation` says otherwise."""
    assert isinstance(READER.read(text), Words)
    assert READER.read(text) == SentenceReader(Tokenizer().tokenize, notation="text").read(text)


@pytest.mark.parametrize("text", ["( see below )", "(S (NP (DT A) (NN dog)) (VP barks))"])
def test_what_looks_like_a_tree_is_text_if_it_is_said(text: str) -> None:
    assert not isinstance(READER.read(text), Words)
    assert isinstance(SentenceReader(Tokenizer().tokenize, notation="text").read(text), Words)


@pytest.mark.parametrize("option", ["notation", "binarize"])
def test_a_way_to_read_that_there_is_not_is_said_at_once(option: str) -> None:
    with pytest.raises(ConfigError, match=rf"{option}: expected one of \w+, .*, got 'middle'"):
        SentenceReader(**{option: "middle"})
    with pytest.raises(ValueError, match="unknown way to binarise 'middle', expected one of head"):
        to_binary(parse_penn(DOG), "middle")


LINES = [
    "( (S",
    "    (NP (DT A) (NN dog))",
    "    (VP (VBZ barks))))",
    "",
    DOG,
    "(ROOT",
    "  (S (NP (PRP I))",
    "\t(VP (VBP see)))",
    ")",
]


def test_trees_over_several_lines(tmp_path: Path) -> None:
    joined = list(join_trees((line + "\n" for line in LINES), 1000))
    assert len(joined) == len(LINES)
    assert [line.split() for line in joined if not line.isspace()] == [
        ["(", "(S", "(NP", "(DT", "A)", "(NN", "dog))", "(VP", "(VBZ", "barks))))"],
        DOG.split(),
        ["(ROOT", "(S", "(NP", "(PRP", "I))", "(VP", "(VBP", "see)))", ")"],
    ]
    (tmp_path / "a.mrg").write_text("\n".join(LINES) + "\n(S (NP (DT A)\n(S (NP b) (VP c))\n")
    skipped = Skipped()
    for line_format in (TreebankFormat(), SentenceFormat()):
        examples = read_line_examples(tmp_path / "a.mrg", line_format, skip_bad=True, skipped=skipped)
        trees = [format_binary(example.trees[0]) for example in examples]
        assert trees == ["( ( A dog ) barks )", "( ( The dog ) ( barks . ) )", "( I see )", "( b c )"]
    assert skipped.places == {next(iter(skipped)): [f"{tmp_path}/a.mrg:10"] * 2}


@pytest.mark.parametrize(
    "lines",
    [
        ["(S (NP (DT The)", "(NN dog))", "(VP (VBZ barks)))"],
        ["(S", "(NP (DT The) (NN dog)) (VP (VBZ barks)))"],
        ["(S (NP (DT The) (NN", "dog)) (VP (VBZ barks)))"],
    ],
)
def test_lines_that_are_not_indented(lines: list[str]) -> None:
    whole = " ".join(lines)
    joined = list(join_trees([line + "\n" for line in [*lines, DOG, lines[0], DOG, "text"]], 1000))
    assert [line.strip() for line in joined if line.strip()] == [whole, DOG, lines[0], DOG, "text"]
    assert len(joined) == len(lines) + 4


def test_text_beside_a_tree_that_is_never_closed_keeps_its_lines(tmp_path: Path) -> None:
    lines = ["(S (NP (DT a) (NN dog))\n", "I see it :)\n", "I run .\n"]
    assert list(join_trees(lines, 1000)) == lines
    (tmp_path / "a.txt").write_text("(Applause\nand cheers) .\nI run .\n")
    line_format = SentenceFormat(reader=SentenceReader(Tokenizer().tokenize, notation="text"))
    found = [" ".join(e.trees[0].tokens) for e in read_line_examples(tmp_path / "a.txt", line_format)]
    assert found == ["-LRB- Applause", "and cheers -RRB- .", "I run ."]


def test_a_blank_line_before_the_first_tree_is_no_line_if_that_goes_on() -> None:
    tree = ["(ROOT\n", " (S (NP (NNP A)) (VP (VBD b))))\n"]
    assert [type(line) for line in join_trees(["\n", " \n", *tree], 1000)] == [Continued] * 2 + [
        str,
        Continued,
    ]
    for lines in (["\n", "a\n"], ["\n", DOG + "\n"], ["\n", "\n"]):
        assert list(join_trees(lines, 1000)) == lines
        assert not any(isinstance(line, Continued) for line in join_trees(lines, 1000))


def test_blank_lines_between_trees_of_several_lines_are_no_lines() -> None:
    """So that row i is tree i; after a tree of one line, as after text, a blank line is a line."""
    several = ["(S (NP a)\n", "  (VP b))\n", "\n", "\n"]
    joined = list(join_trees([*several, *several, DOG + "\n", "\n", "text\n", "\n"], 1000))
    assert len(joined) == 12
    kept = [line for line in joined if not isinstance(line, Continued)]
    assert [line.strip() for line in kept] == ["(S (NP a) (VP b))"] * 2 + [DOG, "", "text", ""]


def test_a_tree_that_is_never_closed_takes_no_more_than_the_limit(tmp_path: Path) -> None:
    joined = list(join_trees(["(S (NP a)\n", *["  (NP b)\n"] * 100], 50))
    assert len(joined) == 101
    assert max(map(len, joined)) < 70


@needs_shared
def test_snli_was_binarised_by_its_heads() -> None:
    """All but six of the slice's 1,713 sentences have exactly the binary parse that SNLI's publishers made of them."""
    pairs = snli_parses()
    same = [binary(penn, "head") == parse for penn, parse in pairs]
    assert len(pairs) == 1713
    assert same.count(False) == 6
    for penn, _ in pairs:
        assert format_penn(parse_penn(penn)) == penn


@needs_shared
@pytest.mark.parametrize("binarize", ["right", "left"])
def test_every_tree_as_nltk_has_it(binarize: str) -> None:
    nltk_tree = pytest.importorskip("nltk.tree")
    for penn, _ in snli_parses():
        expected = nltk_tree.Tree.fromstring(penn)
        expected.collapse_unary(collapsePOS=True, collapseRoot=True)
        expected.chomsky_normal_form(factor=binarize)
        tree = to_binary(parse_penn(penn), binarize)
        assert list(tree.tokens) == expected.leaves()
        spans = bracket_spans(tree.transitions, np.array([tree.n_tokens]))
        wanted = {(start, end) for _, start, end in nltk_phrases(expected) if end - start > 1}
        assert set(zip(spans.start.tolist(), spans.end.tolist(), strict=True)) == wanted
