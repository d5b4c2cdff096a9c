"""Sentences without a parse: for models that parse for themselves, and with --branching for all others."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from spinn_tensor import Pipeline, make_sentence_batch
from spinn_tensor.cli.main import main
from spinn_tensor.data_prep.columns import sentence_columns
from spinn_tensor.data_prep.tree_view import side_by_side, tree_lines
from spinn_tensor.data_prep.trees import Tree, parse_binary
from spinn_tensor.model.classifiers import load_checkpoint
from tests.command_line import Spinn
from tests.tiny_runs import pair_arguments, same_threads, tree_arguments, write_pairs

pytest.importorskip("datasets")

Capture = pytest.CaptureFixture[str]
PAIR = ["--premise", "old dogs don't bark", "--hypothesis", "( ( old dogs ) bark )"]


def test_a_model_that_parses_for_itself_takes_text_and_draws_its_own_trees(
    spinn_run: Path, spinn: Spinn
) -> None:
    printed = spinn("predict", spinn_run, *PAIR).out
    assert "not in the vocabulary: n't" in printed
    model, vocabulary, _ = load_checkpoint(spinn_run)
    sentences = [parse_binary("( ( ( old dogs ) do ) ( n't bark ) )"), parse_binary("( old ( dogs bark ) )")]
    columns = sentence_columns(sentences, vocabulary)  # their trees are of no account
    with torch.no_grad():
        own = model.encoder.parse(make_sentence_batch(columns, "own")).transitions.numpy().astype(np.int8)
    drawings = [
        tree_lines(Tree(sentences[0].tokens, own[:9])),
        tree_lines(Tree(sentences[1].tokens, own[9:])),
    ]
    assert printed.startswith(
        "\n".join(side_by_side(["premise", *drawings[0]], ["hypothesis", *drawings[1]]))
    )


def test_text_for_a_model_that_needs_trees(pair_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    text = ["--premise", "old dogs bark", "--hypothesis", "( ( old dogs ) bark )"]
    right = spinn("predict", pair_run, *text, "--branching", "right").out
    assert "┬──── old     ┬──── old" in right  # whatever the tree was
    of_text = spinn("predict", pair_run, *text).out
    tree = Pipeline.from_pretrained().parse(["old dogs bark"])[0]  # that of the package's parser
    assert spinn("predict", pair_run, "--premise", tree, *text[2:]).out == of_text


def test_files_of_text_for_a_model_that_needs_trees(pair_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    """Text has trees of the package's parser, which is told, parses are as given; --parser makes all."""
    source = tmp_path / "in.jsonl"
    texts = ["old red dogs bark", "dogs bark"]
    parses = Pipeline.from_pretrained().parse(texts)
    records = [
        {"pairID": "text", "sentence1": texts[0], "sentence2": texts[1]},
        {"pairID": "parses", "sentence1_binary_parse": parses[0], "sentence2_binary_parse": parses[1]},
        {
            "sentence1_binary_parse": "( ( ( old red ) dogs ) bark )",
            "sentence2_binary_parse": "( dogs bark )",
        },
    ]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    command = ["predict", str(pair_run), "--input", str(source)]
    outcomes = {}
    for options in ([], ["--parser", "packaged"], ["--branching", "left"]):
        printed = spinn(*command, *options)
        outcomes[options[1] if options else ""] = [
            json.loads(line)["probabilities"] for line in printed.out.splitlines()
        ]
        assert ("2 sentences are text" in printed.err) == (options[:1] != ["--branching"])
    text, parsed, other = outcomes[""]
    assert text == parsed != other
    assert outcomes["packaged"] == [text] * 3
    assert outcomes["left"] == [other] * 3
    assert "does not parse" in spinn.fails(*command, "--parser", pair_run).err
    for name in ("right", "none"):
        shown = spinn.fails(*command, "--parser", name).err
        assert f"--parser {name}: is no parser; --branching {name}" in shown
    shown = spinn.fails(*command, "--parser", "packaged", "--branching", "left").err
    assert "--parser: has nothing to do" in shown


def test_files_of_text_for_a_model_that_parses_for_itself(
    spinn_run: Path, tmp_path: Path, spinn: Spinn
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.npy"
    records = [{"sentence1": "old dogs bark", "sentence2": "dogs don't bark", "sentence": "cats sing"}] * 2
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert len(spinn("predict", spinn_run, "--input", source).out.splitlines()) == 2
    for options in ([], ["--field", "sentence2"]):
        spinn("encode", spinn_run, "--input", source, "--output", target, *options)
        assert np.load(target).shape == (2, 8)


def test_a_parser_that_is_not_there_scores_nothing(spinn_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    """Of a prepared corpus, too, which has trees already."""
    data, store = str(write_pairs(tmp_path / "pairs.jsonl", 8, seed=8)), str(tmp_path / "store")
    files = ["--train", data, "--dev", data]
    spinn("prepare", "--corpus", "snli", *files, "--parser", "packaged", "--output", store)
    spinn("evaluate", spinn_run, "--data", store, "--parser", "packaged")
    for source in (store, data):
        printed = spinn.fails("evaluate", spinn_run, "--data", source, "--parser", tmp_path / "none").err
        assert f"{tmp_path / 'none'}: no such checkpoint folder" in printed


def test_branching_is_refused_where_it_would_do_nothing(
    spinn_run: Path, tmp_path: Path, spinn: Spinn
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"sentence1": "old dogs bark", "sentence2": "dogs bark", "sentence": "cats sing"}\n')
    encode = ["encode", str(spinn_run), "--input", str(source), "--output", str(tmp_path / "out.npy")]
    predict = ["predict", str(spinn_run), "--input", str(source)]
    for command in (encode, predict, ["predict", str(spinn_run), *PAIR]):
        printed = spinn.fails(*command, "--branching", "left")
        message = f"--branching left: {spinn_run} composes by trees of its own\n"
        assert printed == ("", f"spinn: error: {message}")
        spinn(*command, "--branching", "none")


@pytest.mark.parametrize("mixed", [False, True])
def test_evaluate_reads_text_and_scores_no_trees_of_its_own_making(
    mixed: bool, spinn_run: Path, tmp_path: Path, spinn: Spinn
) -> None:
    """Unless --branching names the trees to compare with. A file with a parse here and there has no trees, too."""
    texts, scores = write_texts(tmp_path / "texts.jsonl", 6, seed=7), tmp_path / "scores.json"
    if mixed:
        with texts.open("a") as file:
            file.write(write_pairs(tmp_path / "pairs.jsonl", 6, seed=8).read_text())
    evaluate = ["evaluate", str(spinn_run), "--data", str(texts), "--json", str(scores)]
    printed = spinn(*evaluate)
    assert printed.err == f"spinn: {texts}: trees are not scored: 12 sentences have none\n"
    assert "bracketing F1" not in printed.out
    (found,) = json.loads(scores.read_text()).values()
    assert found["n_examples"] == (12 if mixed else 6)
    assert "parse" not in found
    printed = spinn(*evaluate, "--branching", "right")
    assert printed.err == ""
    assert "of transitions as in trees made by --branching right" in printed.out
    (found,) = json.loads(scores.read_text()).values()
    assert found["parse"]["gold"] == found["parse"]["right"]


def test_evaluating_text_for_a_model_that_needs_trees(pair_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    texts = write_texts(tmp_path / "texts.jsonl", 3, seed=7)
    printed = spinn("evaluate", pair_run, "--data", texts).err
    assert "6 sentences are text without a parse: trees are those of the package's" in printed


def write_texts(path: Path, n_pairs: int, seed: int, end: str = ".") -> Path:
    """Pairs of raw text, without parses."""
    records = [json.loads(line) for line in write_pairs(path, n_pairs, seed).read_text().splitlines()]
    for record in records:
        for i in (1, 2):
            tokens = parse_binary(record.pop(f"sentence{i}_binary_parse")).tokens
            record[f"sentence{i}"] = " ".join(tokens) + end
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


# Right-branching trees of "old dogs bark." and "dogs bark".
DRAWN = """\
premise         hypothesis
┬────── old     ┬── dogs
└─┬──── dogs    └── bark
  └─┬── bark
    └── .
"""


@pytest.mark.parametrize("preset", ["logic-rl-spinn", "logic-spinn-pi", "logic-lstm"])
def test_training_on_text(preset: str, tmp_path: Path, spinn: Spinn) -> None:
    arguments, run = pair_arguments(tmp_path), str(tmp_path / "run")
    for name, seed in (("train", 1), ("dev", 2)):
        write_texts(tmp_path / f"{name}.jsonl", 32, seed)
    options = ["--preset", preset, "--branching", "right", "--set", "n_samples=2", "--epochs", "1"]
    printed = spinn(*arguments, *options, "--output", run)
    parses = preset == "logic-rl-spinn"
    assert ("trees F1" in printed.err) == ("bracketing F1" in printed.out) == parses
    if parses:
        assert re.search(r"trees F1 [\d.]+% against trees made by --branching right", printed.err)
        assert "of transitions as in trees made by --branching right" in printed.out
        assert "the corpus's trees" not in printed.out
    spinn("evaluate", run)
    text = ["--premise", "old dogs bark.", "--hypothesis", "dogs bark"]
    branching = ["--branching", "right"] if preset == "logic-lstm" else []  # else the run's own
    drawn = spinn("predict", run, *text, *branching).out
    assert parses or drawn.startswith(DRAWN)
    assert load_checkpoint(run).config.text.branching == "right"
    said = spinn("evaluate", run, "--branching", "none").err
    expected = {
        "logic-rl-spinn": "trees are not scored: 64 sentences have none",
        "logic-spinn-pi": "64 sentences are text without a parse: trees are those of the package's parser",
        "logic-lstm": "",  # looks at none
    }[preset]
    assert expected in said
    assert bool(said) == bool(expected)
    other = spinn.fails(*arguments, *options, "--output", run, "--resume", "--branching", "left").err
    assert "--resume: data.branching differs: the run has 'right', now 'left'" in other


@pytest.fixture(scope="module", params=["lstm", "bilstm", "bow"])
def sequence_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of pairs that looks at no tree."""
    folder = tmp_path_factory.mktemp(request.param)
    options = ["--preset", "logic-lstm", "--set", f"kind={request.param}", "--epochs", "1"]
    for _ in same_threads():
        assert main([*pair_arguments(folder), *options, "--output", str(folder / "run")]) == 0
    return folder / "run"


def test_a_model_that_looks_at_no_tree_takes_text(sequence_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    """Without --branching, in every command; and the text is what a parse of its words is."""
    run, source, scores = str(sequence_run), tmp_path / "in.jsonl", tmp_path / "scores.json"
    parses = write_pairs(tmp_path / "parses.jsonl", 6, seed=7)
    write_texts(source, 6, seed=7, end="")
    outputs = []
    for path in (source, parses):
        outputs.append(spinn("predict", run, "--input", path).out)
        assert spinn("evaluate", run, "--data", path, "--json", scores).err == ""
        outputs.append(str(list(json.loads(scores.read_text()).values())))
        target = tmp_path / "out.npy"
        encode = ["encode", run, "--input", str(path), "--output", str(target), "--field", "sentence1"]
        spinn(*encode)
        outputs.append(str(np.load(target).round(5).tolist()))
    assert outputs[:3] == outputs[3:]


def test_words_are_listed_where_no_tree_is_looked_at(sequence_run: Path, spinn: Spinn) -> None:
    pair = ["--premise", "old dogs bark", "--hypothesis", "( ( old dogs ) bark )"]
    printed = spinn("predict", sequence_run, *pair).out
    columns = "premise    hypothesis\nold        old\ndogs       dogs\nbark       bark\n"
    assert printed.startswith(columns)
    assert "┬──── old     ┬──── old" in spinn("predict", sequence_run, *pair, "--branching", "right").out


@pytest.mark.parametrize("branching", ["left", "random"])
def test_branching_of_other_corpora(branching: str, tree_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    arguments = [argument for argument in tree_arguments(tmp_path) if argument != "--node-labels"]
    options = ["--branching", branching, "--epochs", "1", "--output", str(tmp_path / "run")]
    spinn(*arguments, *options)
    assert load_checkpoint(tmp_path / "run").config.text.branching == branching
    sentence = ["--sentence", "( a ( good film ) )"]
    spinn("predict", tree_run, *sentence, "--branching", branching)


def test_encoding_text_for_a_model_that_needs_trees(pair_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    """As in `spinn predict`: text has trees of the package's parser, parses are as given."""
    source, target = tmp_path / "in.txt", tmp_path / "out.npy"
    texts = ["old red dogs bark", "dogs bark"]
    parses = Pipeline.from_pretrained().parse(texts)
    source.write_text("\n".join([*texts, *parses, "( ( ( old red ) dogs ) bark )"]) + "\n")
    command = ["encode", str(pair_run), "--input", str(source), "--output", str(target)]
    assert "2 sentences are text without a parse: trees are those of the package's" in spinn(*command).err
    text, parsed, other = np.load(target)[:2], np.load(target)[2:4], np.load(target)[4]
    np.testing.assert_allclose(text, parsed, rtol=1e-5)
    assert np.abs(text[0] - other).max() > 1e-4
    spinn(*command, "--parser", "packaged")
    np.testing.assert_allclose(np.load(target)[4], text[0], rtol=1e-5)


def test_what_looks_like_a_tree_is_text_where_it_is_said(
    spinn_run: Path, tmp_path: Path, spinn: Spinn
) -> None:
    """The brackets of a text that is wholly in them are words then, in every command and in Python."""
    text, tree = "( dogs bark )", "( -LRB- ( dogs ( bark -RRB- ) ) )"
    assert Pipeline.from_pretrained(notation="text").parse(text).count("-LRB-") == 1
    assert "-LRB-" not in Pipeline.from_pretrained().parse(text)
    for options, expected in (([], 0), (["--notation", "text"], 1)):
        assert spinn("parse", text, *options).out.count("-LRB-") == expected
    vectors = {}
    source, target = tmp_path / "in.txt", tmp_path / "out.npy"
    for name, sentence, options in (
        ("text", text, ["--notation", "text"]),
        ("tree", tree, []),
        ("auto", text, []),
    ):
        source.write_text(sentence + "\n")
        spinn("encode", spinn_run, "--input", source, "--output", target, *options)
        vectors[name] = np.load(target)[0]
    np.testing.assert_allclose(vectors["text"], vectors["tree"], rtol=1e-5)
    assert np.abs(vectors["text"] - vectors["auto"]).max() > 1e-6
    for notation, expected in (("text", 1), ("parses", 0)):
        pair = ["--premise", text, "--hypothesis", "dogs", "--notation", notation]
        assert spinn("predict", spinn_run, *pair).out.count("─ -LRB-") == expected
