"""ListOps: the grammar, values by another evaluator, the splits, the reader's errors, the command line."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spinn_tensor import EncoderConfig, SentenceEncoder, make_sentence_batch
from spinn_tensor.cli.main import main
from spinn_tensor.config import ENCODER_KINDS
from spinn_tensor.data_prep.columns import check_columns, lengths
from spinn_tensor.data_prep.corpora.formats import ListOpsFormat
from spinn_tensor.data_prep.corpora.generated import GENERATORS, write_generated
from spinn_tensor.data_prep.corpora.generated.draw import Draw
from spinn_tensor.data_prep.corpora.generated.listops import (
    END,
    LABELS,
    OPERATORS,
    SPLITS,
    Expression,
    ListOpsConfig,
    apply_operator,
    draw_expression,
    generate,
)
from spinn_tensor.data_prep.corpora.read import corpus_of, read_line_examples
from spinn_tensor.data_prep.trees import format_binary, parse_binary
from spinn_tensor.data_prep.vocabulary import Vocabulary
from tests.tiny_runs import SMALL

Capture = pytest.CaptureFixture[str]
SMALL_CORPUS = ListOpsConfig(seed=3, n_train=400, n_dev=60, n_test=150, max_tokens=20)
TINY = ListOpsConfig(n_train=60, n_dev=20, n_test=20, max_tokens=10)
LINES = ["9\t( ( ( [MAX 2 ) 9 ) ] )\n", "1\t( ( ( [SM 4 ) 7 ) ] )\n"]
APPLY = {"[MIN": min, "[MAX": max, "[MED": statistics.median, "[SM": sum}  # then an integer below 10

expressions = st.builds(
    lambda seed, max_depth: draw_expression(Draw(str(seed)), max_depth),
    st.integers(0, 10**9),
    st.sampled_from([2, 3, 20]),
)


def apply_by_library(operator: str, values: list[int]) -> int:
    return int(APPLY[operator](values)) % 10


def evaluate_tokens(tokens: list[str], apply: Callable[[str, list[int]], int] = apply_by_library) -> int:
    """The value by the tokens alone, without the tree: brackets of the lists say it all."""
    stack: list[list[Any]] = [[]]
    for token in tokens:
        if token in OPERATORS:
            stack.append([token])
        elif token == END:
            operator, *values = stack.pop()
            assert 2 <= len(values) <= 5
            stack[-1].append(apply(operator, values))
        else:
            stack[-1].append(int(token))
    assert len(stack) == len(stack[0]) == 1
    return stack[0][0]


def bracketed(tokens: list[str]) -> str:
    """The published binary parse of a list of tokens, made by pairing from the left what a list holds."""
    stack: list[str] = []
    for token in tokens:
        if token in OPERATORS:
            stack.append(token)
            continue
        part = token
        if token == END:
            part = f"( {stack.pop()} ] )"
        if stack:
            stack[-1] = f"( {stack[-1]} {part} )"
        else:
            return part
    raise AssertionError("the list is not closed")


def depth_of_digits(tokens: list[str]) -> int:
    """How deep the deepest digit is; the outermost operator is 1 deep."""
    depth = np.cumsum([(token in OPERATORS) - (token == END) for token in tokens])
    return int(depth.max()) + 1


@given(expressions)
def test_expressions_follow_the_grammar(expression: Expression) -> None:
    tree = parse_binary(expression.parse)
    tokens = list(tree.tokens)
    assert set(tokens) <= {*LABELS, *OPERATORS, END}
    assert len(tokens) == expression.n_tokens
    assert evaluate_tokens(tokens) == expression.value
    assert bracketed(tokens) == expression.parse == format_binary(tree)


@given(st.integers(0, 10**9), st.integers(2, 5))
def test_digits_are_at_most_so_deep(seed: int, max_depth: int) -> None:
    expression = draw_expression(Draw(str(seed)), max_depth)
    assert depth_of_digits(expression.parse.replace("( ", "").replace(" )", "").split()) <= max_depth


def test_the_greatest_depth_is_reached() -> None:
    deepest = 0
    for seed in range(200):
        expression = draw_expression(Draw(str(seed)), max_depth=4)
        deepest = max(deepest, depth_of_digits(list(parse_binary(expression.parse).tokens)))
    assert deepest == 4


@pytest.mark.parametrize(
    "parse, value",
    [
        ("( ( ( [MAX 2 ) 9 ) ] )", 9),
        ("( ( ( ( [MIN 4 ) 3 ) 8 ) ] )", 3),
        ("( ( ( [MED 4 ) 7 ) ] )", 5),  # numpy.median gives 5.5, of which the integer is taken
        ("( ( ( ( [MED 9 ) 1 ) 2 ) ] )", 2),
        ("( ( ( ( [SM 4 ) 7 ) 9 ) ] )", 0),
        ("( ( ( [SM 5 ) ( ( ( [MAX 6 ) 8 ) ] ) ) ] )", 3),
    ],
)
def test_values_by_hand(parse: str, value: int) -> None:
    tokens = list(parse_binary(parse).tokens)
    assert evaluate_tokens(tokens, apply_operator) == evaluate_tokens(tokens) == value
    assert bracketed(tokens) == parse


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[Expression]]:
    return generate(SMALL_CORPUS)


def test_splits_have_their_sizes_and_share_no_expression(corpus: dict[str, list[Expression]]) -> None:
    assert {split: len(found) for split, found in corpus.items()} == {"train": 400, "dev": 60, "test": 150}
    parses = [expression.parse for found in corpus.values() for expression in found]
    assert len(set(parses)) == len(parses)
    assert all(
        evaluate_tokens(list(parse_binary(parse).tokens)) == value for parse, value, _ in corpus["train"]
    )


def test_only_the_test_is_of_any_length(corpus: dict[str, list[Expression]]) -> None:
    longest = {split: max(expression.n_tokens for expression in found) for split, found in corpus.items()}
    assert longest["train"] <= SMALL_CORPUS.max_tokens
    assert longest["dev"] <= SMALL_CORPUS.max_tokens
    assert longest["test"] > 3 * SMALL_CORPUS.max_tokens


def test_probabilities_are_the_published_ones() -> None:
    draw = Draw("probabilities")
    drawn = [draw_expression(draw, max_depth=2).parse.replace("( ", "").split() for _ in range(4_000)]
    n_arguments = np.bincount([sum(token in LABELS for token in tokens) for tokens in drawn], minlength=6)
    np.testing.assert_allclose(n_arguments / len(drawn), [0, 0, 0.25, 0.25, 0.25, 0.25], atol=0.03)
    shares = [sum(tokens[0] == operator for tokens in drawn) / len(drawn) for operator in OPERATORS]
    np.testing.assert_allclose(shares, 0.25, atol=0.03)
    deeper = [draw_expression(draw, max_depth=3).parse.replace("( ", "").split() for _ in range(4_000)]
    n_nested = sum(token in OPERATORS for tokens in deeper for token in tokens) - len(deeper)
    assert n_nested / (3.5 * len(deeper)) == pytest.approx(0.25, abs=0.02)


def test_files_are_read_as_they_were_written(tmp_path: Path, corpus: dict[str, list[Expression]]) -> None:
    write_generated("listops", tmp_path, SMALL_CORPUS)
    for split in SPLITS:
        examples = read_line_examples(tmp_path / f"{split}.tsv", ListOpsFormat())
        found = [(format_binary(example.trees[0]), example.label) for example in examples]
        assert found == [expression[:2] for expression in corpus[split]]
    manifest = json.loads((tmp_path / "corpus.json").read_text())
    assert ListOpsConfig(**manifest["config"]) == SMALL_CORPUS
    labels = [str(expression.value) for expression in corpus["dev"]]
    assert manifest["counts"]["dev"] == {label: labels.count(label) for label in LABELS}


def test_words_of_another_vocabulary_are_read(tmp_path: Path) -> None:
    (tmp_path / "other.tsv").write_text("3\t( ( ( [FIRST 3 ) 4 ) ] )\n")
    (example,) = read_line_examples(tmp_path / "other.tsv", ListOpsFormat())
    assert example.trees[0].tokens[0] == "[FIRST"


def long_line(n_tokens: int) -> str:
    """An example of so many tokens: lists in lists, each of a digit and the next, the last of digits alone."""
    n_lists = (n_tokens - 1) // 3  # operator, digit and bracket
    tokens = ["[MAX", "1"] * n_lists + ["2"] * (n_tokens - 3 * n_lists) + [END] * n_lists
    return f"2\t{bracketed(tokens)}\n"


@pytest.mark.parametrize("kind", ENCODER_KINDS)
def test_an_example_of_1500_tokens_is_read_and_encoded(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "test.tsv"
    path.write_text(long_line(1_500) + LINES[0])
    examples = list(read_line_examples(path, ListOpsFormat()))
    vocabulary = Vocabulary.build(example.trees[0].tokens for example in examples)
    columns = corpus_of(examples, vocabulary).sentences
    check_columns(columns)
    assert lengths(columns).tolist() == [1_500, 4]
    assert f"2\t{format_binary(examples[0].trees[0])}\n" == long_line(1_500)
    config = EncoderConfig(len(vocabulary), kind=kind, embedding_dim=4, hidden_dim=4, tracker_dim=2)
    encoder = SentenceEncoder(config).eval()
    with torch.no_grad():
        encodings = encoder(make_sentence_batch(columns, encoder.table_kind))
    assert encodings.shape == (2, encoder.output_dim)
    assert torch.isfinite(encodings).all()


def test_generate_from_the_command_line(tmp_path: Path, capsys: Capture) -> None:
    sizes = ["--train", "60", "--dev", "20", "--test", "20"]
    assert main(["generate", str(tmp_path / "a"), "--corpus", "listops", "--seed", "5", *sizes]) == 0
    assert capsys.readouterr().out == f"60 + 20 + 20 expressions in {tmp_path / 'a'}\n"
    write_generated("listops", tmp_path / "b", ListOpsConfig(seed=5, n_train=60, n_dev=20, n_test=20))
    assert all(
        path.read_bytes() == (tmp_path / "b" / path.name).read_bytes() for path in (tmp_path / "a").iterdir()
    )


def test_generate_names_what_listops_has_not(tmp_path: Path, capsys: Capture) -> None:
    assert main(["generate", str(tmp_path / "a"), "--corpus", "listops", "--long", "5"]) == 1
    assert "--long: the corpus listops has no such split" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_another_corpus_is_not_replaced(tmp_path: Path, capsys: Capture) -> None:
    write_generated("listops", tmp_path / "a", TINY)
    assert main(["generate", str(tmp_path / "a")]) == 1
    assert "holds other files (dev.tsv); name a new folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "preset",
    [
        "listops-spinn-pi-nt",
        "listops-grc",
        "listops-spinn-pi",
        "listops-spinn",
        "listops-rl-spinn",
        "listops-lstm",
    ],
)
def test_train_generates_evaluates_and_predicts(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(GENERATORS, "listops", GENERATORS["listops"]._replace(default=TINY))
    run = tmp_path / "run"
    options = ["--corpus", "listops", "--preset", preset, "--epochs", "1", *SMALL, "--output", str(run)]
    assert main(["train", *options, "--set", "n_samples=2", "--set", "warmup_steps=1"]) == 0
    assert sorted(path.name for path in (run / "corpus").iterdir())[1:] == [
        "dev.tsv",
        "test.tsv",
        "train.tsv",
    ]
    results = json.loads((run / "results.json").read_text())
    assert set(results["splits"]) == {"dev", "test"}
    parses = preset in ("listops-spinn", "listops-rl-spinn")
    assert all(("parse" in scores) == parses for scores in results["splits"].values())
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json", str(tmp_path / "scores.json")]) == 0
    assert json.loads((tmp_path / "scores.json").read_text()) == results["splits"]
    assert main(["evaluate", str(run), "--data", str(run / "corpus" / "test.tsv")]) == 0
    assert main(["predict", str(run), "--sentence", LINES[0].split("\t")[1].strip()]) == 0
    assert "[MAX" in capsys.readouterr().out
    assert main(["predict", str(run), "--input", str(run / "corpus" / "test.tsv")]) == 0
    n_tests = results["splits"]["test"]["n_examples"]
    assert len(capsys.readouterr().out.splitlines()) == n_tests


def test_train_takes_single_files_and_is_listops_spinn_pi_nt_by_default(tmp_path: Path) -> None:
    write_generated("listops", tmp_path / "corpus", TINY)
    files = [f"--{split}={tmp_path / 'corpus' / f'{split}.tsv'}" for split in ("train", "dev")]
    run = tmp_path / "run"
    assert main(["train", "--corpus", "listops", *files, "--epochs", "1", *SMALL, "--output", str(run)]) == 0
    assert json.loads((run / "run.json").read_text())["preset"] == "listops-spinn-pi-nt"
    assert set(json.loads((run / "results.json").read_text())["splits"]) == {"dev"}
    assert not (run / "corpus").exists()
