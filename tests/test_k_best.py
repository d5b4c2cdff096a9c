"""The k likeliest trees of a sentence, by `Pipeline.parse` and `spinn parse`: what is written, and what is refused."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest

from spinn_tensor import ConfigError, Pipeline
from spinn_tensor.cli.main import main
from tests.command_line import assert_one_error

pytestmark = pytest.mark.numerical

SENTENCES = ["A man sees a dog with a telescope.", "Dogs", "The dog barks loudly", "A dog barks"]
N_TREES = [4, 1, 4, 2]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.from_pretrained(device="cpu")


def test_trees_fall_in_probability_and_the_first_is_the_greedy_one_or_better(pipeline) -> None:
    greedy = [parsed.log_probability for parsed in pipeline.parses(SENTENCES)]
    for found, n_trees, alone in zip(pipeline.parse(SENTENCES, k=4), N_TREES, greedy, strict=True):
        scores = [log_probability for _, log_probability in found]
        assert len({tree for tree, _ in found}) == n_trees
        assert all(left > right for left, right in pairwise(scores))
        assert scores[0] >= alone - 1e-5


def test_a_beam_of_one_is_what_parse_gives(pipeline) -> None:
    found = pipeline.parse(SENTENCES, k=1, format="penn")
    assert [tree for [(tree, _)] in found] == pipeline.parse(SENTENCES, format="penn")
    steps = [one.step_log_probabilities.tolist() for [one] in pipeline.parses(SENTENCES, k=1)]
    assert steps == [one.step_log_probabilities.tolist() for one in pipeline.parses(SENTENCES)]


def test_a_sentence_alone_is_as_among_others_in_small_batches(pipeline) -> None:
    together = pipeline.parses(SENTENCES, k=3, batch_size=5)
    for sentence, expected in zip(SENTENCES, together, strict=True):
        found = pipeline.parses(sentence, k=3)
        assert [one.tree.transitions.tolist() for one in found] == [
            one.tree.transitions.tolist() for one in expected
        ]
        assert [one.log_probability for one in found] == pytest.approx(
            [one.log_probability for one in expected], rel=1e-5, abs=5e-6
        )


@pytest.mark.parametrize("k", [1.5, True, "2", 0, -3])
def test_k_is_an_integer_of_at_least_1(pipeline, k) -> None:
    with pytest.raises(ConfigError, match="k: expected an integer of at least 1, got "):
        pipeline.parse("A dog barks", k=k)


def test_bad_sentences_have_no_trees(pipeline) -> None:
    with pytest.warns(match="1 of 2 sentences cannot be used"):
        first, second = pipeline.parse(["", "A dog barks"], k=2, on_error="nan")
    assert first is None
    assert len(second) == 2


def spinn(capsys, *arguments: str | Path) -> list[str]:
    assert main(["parse", "--device", "cpu", "--k", "3", *map(str, arguments)]) == 0
    return capsys.readouterr().out.split("\n")[:-1]


@pytest.mark.parametrize("form", ["binary", "penn"])
def test_lines_have_rank_probability_and_tree(form, pipeline, capsys) -> None:
    expected = [
        [str(rank), f"{math.exp(score):.6f}", tree]
        for found in pipeline.parse(SENTENCES[2:], k=3, format=form)
        for rank, (tree, score) in enumerate(found, start=1)
    ]
    assert [line.split("\t") for line in spinn(capsys, "--format", form, *SENTENCES[2:])] == expected
    assert [rank for rank, _, _ in expected] == ["1", "2", "3", "1", "2"]


def test_json_is_one_object_a_sentence(pipeline, capsys, tmp_path) -> None:
    (tmp_path / "lines.txt").write_text("A dog barks\n\nDogs\n")
    first, blank, second = map(
        json.loads, spinn(capsys, "--format", "json", "--input", tmp_path / "lines.txt")
    )
    assert (first["text"], first["tokens"], blank) == ("A dog barks", ["A", "dog", "barks"], None)
    assert [tree["tree"] for tree in first["trees"]] == [
        tree for tree, _ in pipeline.parse("A dog barks", k=3)
    ]
    assert list(first["trees"][0]) == ["tree", "spans", "log_probability"]
    assert second["trees"] == [{"tree": "Dogs", "spans": [], "log_probability": 0.0}]


def test_records_have_a_list_of_trees(pipeline, capsys, tmp_path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"sentence1": "A dog barks", "sentence2": "Dogs", "id": 7}\n')
    [record] = map(json.loads, spinn(capsys, "--input", tmp_path / "pairs.jsonl"))
    found = pipeline.parse("A dog barks", k=3)
    assert record["id"] == 7
    assert [tree["tree"] for tree in record["sentence1_trees"]] == [tree for tree, _ in found]
    scores = [tree["log_probability"] for tree in record["sentence1_trees"]]
    assert scores == pytest.approx([score for _, score in found], rel=1e-5, abs=5e-6)
    assert record["sentence2_trees"] == [{"tree": "Dogs", "log_probability": 0.0}]


@pytest.mark.parametrize("more", [["--draw"], ["--format", "svg"], ["--branching", "left"]])
def test_what_does_not_go_with_several_trees_is_refused(more, capsys) -> None:
    assert main(["parse", "--k", "2", *more, "A dog barks"]) == 1
    assert_one_error(capsys, "--k goes with a model and --format binary, penn or json, and without --gold")
