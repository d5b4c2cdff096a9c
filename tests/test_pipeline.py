"""The pipeline: raw sentences in, the same out as by the command line, whatever else is in the batch."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from spinn_tensor import (
    CheckpointError,
    PairClassifier,
    Pipeline,
    SentenceBatch,
    load_checkpoint,
    make_sentence_batch,
)
from spinn_tensor.cli import predict
from spinn_tensor.cli.main import main
from spinn_tensor.config import ENCODER_KINDS, ConfigError
from spinn_tensor.data_prep.columns import sentence_columns
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.trees import format_binary, parse_binary
from spinn_tensor.model.classifiers import Model
from spinn_tensor.parsers import packaged_folder
from tests.closeness import assert_close
from tests.tiny_bundles import PARSES, TEXTS, tiny_bundle, tiny_model, tiny_run
from tests.tiny_runs import same_threads

pytestmark = pytest.mark.numerical

GIVEN = ("spinn-pi-nt", "spinn-pi")
TASK_KINDS = [*((kind, "pair") for kind in ENCODER_KINDS), *((kind, "sentence") for kind in ENCODER_KINDS)]


def classify(pipeline: Pipeline, sentences: list[str]) -> np.ndarray:  # (n, C)
    """Probabilities; a pair is a sentence and the next one."""
    sides = (sentences, [*sentences[1:], *sentences[:1]]) if pipeline.model.task == "pair" else (sentences,)
    predictions = pipeline.classify(*sides)
    for prediction in predictions:
        assert tuple(prediction.probabilities) == pipeline.labels
        assert prediction.label == max(prediction.probabilities, key=prediction.probabilities.__getitem__)
    return np.array([list(prediction.probabilities.values()) for prediction in predictions])


def batch_of(model: Model, texts: list[str]) -> SentenceBatch:
    columns = sentence_columns([parse_binary(text) for text in texts], model.vocabulary)
    return make_sentence_batch(columns, model.encoder.table_kind)


@pytest.mark.parametrize("kind, task", TASK_KINDS)
def test_it_gives_what_the_model_gives_one_by_one(kind, task, tmp_path) -> None:
    pipeline = Pipeline.from_pretrained(tiny_bundle(tmp_path / "bundle", kind, task), device="cpu")
    # unlike lengths and orders, more than one batch, texts and parses together
    sentences = [*TEXTS, *PARSES, *TEXTS[::-1]]
    encodings, probabilities = pipeline.encode(sentences), classify(pipeline, sentences)
    assert encodings.dtype == np.float32
    assert encodings.shape == (len(sentences), pipeline.model.encoder.output_dim)
    assert_close(probabilities.sum(1), np.ones(len(sentences)))
    assert len(np.unique(encodings.round(4), axis=0)) > 5
    for row, sentence in enumerate(sentences):
        assert_close(pipeline.encode([sentence])[0], encodings[row])
        if task == "sentence":
            (alone,) = pipeline.classify([sentence])
        else:
            (alone,) = pipeline.classify([sentence], [sentences[(row + 1) % len(sentences)]])
        assert_close(list(alone.probabilities.values()), probabilities[row])


@pytest.mark.parametrize("kind", ENCODER_KINDS)
def test_encodings_are_the_encoders(kind, tmp_path) -> None:
    pipeline = Pipeline(tiny_model(kind))
    with torch.inference_mode():
        expected = pipeline.model.encoder(batch_of(pipeline.model, PARSES)).numpy()
    assert_close(pipeline.encode(PARSES), expected)


@pytest.mark.parametrize(
    "kind, sentences, options",
    [
        ("spinn", TEXTS, []),
        ("lstm", TEXTS, []),
        ("spinn-pi", PARSES, []),
        ("spinn-pi-nt", TEXTS, ["--branching", "balanced"]),
        ("spinn-pi", PARSES, ["--branching", "left"]),
        ("spinn-pi", TEXTS, ["--branching", "random"]),
    ],
)
def test_it_predicts_what_the_command_line_predicts(kind, sentences, options, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(predict, "BLOCK", 2)
    folder = tiny_bundle(tmp_path / "bundle", kind)
    others = sentences[::-1]
    names = (
        ("sentence1_binary_parse", "sentence2_binary_parse")
        if sentences is PARSES
        else ("sentence1", "sentence2")
    )
    lines = [json.dumps(dict(zip(names, pair, strict=True))) for pair in zip(sentences, others, strict=True)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    arguments = ["predict", str(folder), "--input", str(tmp_path / "pairs.jsonl"), *options]
    arguments += ["--output", str(tmp_path / "out.jsonl"), "--device", "cpu", "--threads", "1"]
    trees = options[1] if options else None
    for _ in same_threads():
        assert main(arguments) == 0
        predictions = Pipeline.from_pretrained(folder, device="cpu", trees=trees).classify(sentences, others)
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [record["label"] for record in records] == [prediction.label for prediction in predictions]
    for record, prediction in zip(records, predictions, strict=True):
        assert record["probabilities"].keys() == prediction.probabilities.keys()
        assert_close(list(record["probabilities"].values()), list(prediction.probabilities.values()))


@pytest.mark.parametrize("trees", [None, "packaged", "own"])
def test_text_without_a_parse_gets_the_trees_of_a_parser(trees, tmp_path) -> None:
    own = tiny_bundle(tmp_path / "own", "spinn", "parse")
    parser = Pipeline.from_pretrained(own if trees == "own" else packaged_folder(), device="cpu")
    pipeline = Pipeline.from_pretrained(
        tiny_bundle(tmp_path / "bundle"), device="cpu", trees=own if trees == "own" else trees
    )
    mixed = [TEXTS[0], PARSES[2], TEXTS[2], TEXTS[1], PARSES[0], TEXTS[3]]
    expected = [text if text in PARSES and text != "cats" else parser.parse([text])[0] for text in mixed]
    assert pipeline.parse(mixed) == expected
    assert np.array_equal(pipeline.encode(mixed), pipeline.encode(expected))
    assert pipeline.parse(PARSES) == PARSES  # what is given stays


@pytest.mark.parametrize("kind, task", [("spinn", "pair"), ("spinn", "sentence"), ("spinn", "parse")])
def test_a_model_that_parses_gives_its_own_trees(kind, task, tmp_path) -> None:
    pipeline = Pipeline.from_pretrained(tiny_bundle(tmp_path / "bundle", kind, task), device="cpu")
    parses = pipeline.parse(TEXTS)
    tokens = [parse_binary(parse).tokens for parse in parses]
    assert tokens == [pipeline.model.tokenizer.tokenize(text) for text in TEXTS]
    assert [format_binary(parse_binary(parse)) for parse in parses] == parses
    right = [f"( {words[0]} ( {words[1]} {words[2]} ) )" for words in tokens if len(words) == 3]
    assert pipeline.parse(right) == pipeline.parse([" ".join(parse_binary(text).tokens) for text in right])


def test_without_a_name_it_is_the_packaged_parser(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "packaged").mkdir()  # which is not meant
    text = "The church has cracks in the ceiling."
    expected = "( ( The church ) ( ( has ( cracks ( in ( the ceiling ) ) ) ) . ) )"
    for named in ((), ("packaged",), (packaged_folder(),)):
        assert Pipeline.from_pretrained(*named, device="cpu").parse(text) == expected


def test_a_home_is_found(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny_bundle(tmp_path / "runs" / "own", "spinn", "parse")
    tiny_bundle(tmp_path / "runs" / "given")
    pipeline = Pipeline.from_pretrained("~/runs/given", device="cpu", trees="~/runs/own")
    expected = Pipeline.from_pretrained(tmp_path / "runs" / "own", device="cpu").parse(TEXTS)
    assert pipeline.parse(TEXTS) == expected
    model = PairClassifier.from_pretrained(Path("~/runs/given"))
    model.save_pretrained("~/saved")
    assert load_checkpoint("~/saved").vocabulary == model.vocabulary
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        Pipeline.from_pretrained("~nobody-of-this-name/runs", device="cpu")


def test_a_pipeline_says_in_a_line_what_it_is() -> None:
    parser = tiny_model("spinn", "parse")
    for pipeline, expected in (
        (Pipeline(parser), "Pipeline(spinn, parse, 20 words, trees: its own)"),
        (
            Pipeline(tiny_model("bow", "sentence")),
            "Pipeline(bow, sentence, labels bad, so-so, good, 20 words, trees: none)",
        ),
        (
            Pipeline(tiny_model(), branching="left"),
            "Pipeline(spinn-pi, pair, labels entailment, neutral, contradiction, 20 words, trees: left)",
        ),
        (
            Pipeline(tiny_model(), parser=parser),
            "Pipeline(spinn-pi, pair, labels entailment, neutral, contradiction, 20 words, "
            "trees: given or a parser's)",
        ),
    ):
        assert repr(pipeline) == expected


@pytest.mark.parametrize("trees", ["left", "right", "balanced"])
def test_a_branching_replaces_all_trees(trees, tmp_path) -> None:
    pipeline = Pipeline.from_pretrained(tiny_bundle(tmp_path / "bundle"), device="cpu", trees=trees)
    expected = {
        "left": "( ( ( A dog ) barks ) . )",
        "right": "( A ( dog ( barks . ) ) )",
        "balanced": "( ( A dog ) ( barks . ) )",
    }[trees]
    assert pipeline.parse(["A dog barks.", "( ( A ( dog barks ) ) . )"]) == [expected, expected]


def test_a_model_trained_on_a_branching_goes_on_with_it(tmp_path) -> None:
    folder = tiny_bundle(tmp_path / "bundle", run=tiny_run(branching="left"))
    pipeline = Pipeline.from_pretrained(folder, device="cpu")
    assert (pipeline.branching, pipeline.parser) == ("left", None)
    assert pipeline.parse(["A dog barks."]) == ["( ( ( A dog ) barks ) . )"]
    assert Pipeline.from_pretrained(folder, device="cpu", trees="right").branching == "right"
    assert Pipeline.from_pretrained(folder, device="cpu", trees="packaged").parser is not None


@pytest.mark.parametrize("kind, task", [*TASK_KINDS, ("spinn", "parse")])
def test_nothing_gives_nothing(kind, task) -> None:
    pipeline = Pipeline(tiny_model(kind, task))
    assert pipeline.encode([]).shape == (0, pipeline.model.encoder.output_dim)
    if task != "parse":
        assert classify(pipeline, []).shape == (0,)
    if kind in (*GIVEN, "spinn"):
        assert pipeline.parse([]) == []


BAD = {
    "empty": (["a dog", ""], r"^example 1: sentences: a sentence without words$"),
    "blank": ([" \n", "a dog"], r"^example 0: sentences: a sentence without words$"),
    "broken parse": (["a", "b", "( ( a dog )"], r"^example 2: sentences: token 1 '\(': unbalanced"),
    "no text": (["a", None], r"^example 1: sentences: got NoneType, expected a string$"),
    "bytes": ([b"a"], r"^example 0: sentences: got bytes, expected a string$"),
    "half a character": (["a \ud800"], r"^example 0: sentences: half of a surrogate pair$"),
    "a missing value": (
        ["a", float("nan")],
        r"^example 1: sentences: got a missing value \(NaN\), expected a string$",
    ),
    "no words": ([[]], r"^example 0: sentences: a sentence without words$"),
    "nothing among words": (
        [["a", None]],
        r"^example 0: sentences: token 2 'None': got NoneType among words",
    ),
    "two words in one": (
        [["New York"]],
        r"^example 0: .* token 1 'New York': expected a word without blanks$",
    ),
    "an empty word": ([["a", ""]], r"^example 0: sentences: token 2 '': expected a word without blanks$"),
    "half a word": ([["\ud800"]], r"^example 0: sentences: token 1 .*: half of a surrogate pair$"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_sentences_are_named_by_their_number(name) -> None:
    sentences, message = BAD[name]
    pipeline = Pipeline(tiny_model("spinn", "sentence"))
    for method in (pipeline.encode, pipeline.parse, pipeline.classify):
        with pytest.raises(DataError, match=message):
            method(sentences)


def test_the_side_of_a_bad_sentence_is_named() -> None:
    pipeline = Pipeline(tiny_model("lstm"))
    with pytest.raises(DataError, match=r"^example 1: hypotheses: a sentence without words$"):
        pipeline.classify(["a", "b"], ["c", ""])
    with pytest.raises(DataError, match=r"^example 0: premises: a sentence without words$"):
        pipeline.classify([""], ["c"])
    with pytest.raises(DataError, match="got 2 premises and 1 hypotheses"):
        pipeline.classify(["a", "b"], ["c"])


def test_what_a_model_cannot_do_is_said() -> None:
    with pytest.raises(TypeError, match="classifies premises and hypotheses"):
        Pipeline(tiny_model()).classify(["a"])
    with pytest.raises(TypeError, match="classifies sentences alone"):
        Pipeline(tiny_model("bow", "sentence")).classify(["a"], ["b"])
    with pytest.raises(TypeError, match="a model that only parses has no labels"):
        Pipeline(tiny_model("spinn", "parse")).classify(["a"])
    with pytest.raises(TypeError, match="a model of kind 'lstm' looks at no tree"):
        Pipeline(tiny_model("lstm")).parse(["a"])


def test_options_that_do_not_fit_are_refused(tmp_path, monkeypatch) -> None:
    for kind, why in (("spinn", "makes trees of its own"), ("bow", "looks at no tree")):
        folder = tiny_bundle(tmp_path / kind, kind)
        with pytest.raises(ConfigError, match=f"^trees='left': a model of kind '{kind}' {why}$"):
            Pipeline.from_pretrained(folder, trees="left")
    folder = tiny_bundle(tmp_path / "bundle")
    with pytest.raises(ConfigError, match="an encoder of kind bow does not parse"):
        Pipeline.from_pretrained(folder, trees=tmp_path / "bow")
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        Pipeline.from_pretrained(folder, trees=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="trees='rigth': expected packaged, "):
        Pipeline.from_pretrained(folder, trees="rigth")
    given, parser = tiny_model("spinn-pi"), tiny_model("spinn")
    for options, why in (
        ({"branching": "left", "parser": parser}, "give one of them"),
        ({"branching": "rigth"}, "expected "),
        ({"parser": tiny_model("lstm")}, "a model of kind 'lstm' does not parse"),
    ):
        with pytest.raises(ConfigError, match=why):
            Pipeline(given, **options)
    with pytest.raises(ConfigError, match="has no use for given trees"):
        Pipeline(parser, branching="left")
    with pytest.raises(
        DataError, match=r"example 1: sentences: text without a parse; .*: parser=Pipeline\.from_p"
    ):
        Pipeline(given).encode(["( a b )", "a b"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, why in (("cuda", "torch sees no CUDA device here"), ("gpu", "Expected one of cpu, cuda")):
        with pytest.raises(ConfigError, match=f"^device {device}: {why}"):
            Pipeline.from_pretrained(folder, device=device)
    assert next(Pipeline.from_pretrained(folder).model.parameters()).device.type == "cpu"  # "auto"


def test_node_labels_give_the_label_of_the_root(tmp_path) -> None:
    model = tiny_model("spinn-pi", "sentence", node_labels=True)
    logits = model.mlp(model.encoder.node_states(batch_of(model, PARSES)))
    last = np.cumsum([2 * parse_binary(text).n_tokens - 1 for text in PARSES]) - 1
    expected = logits.softmax(1)[last].detach().numpy()
    assert_close(classify(Pipeline(model), PARSES), expected)


def test_threads_may_share_a_pipeline(tmp_path) -> None:
    pipeline = Pipeline.from_pretrained(tiny_bundle(tmp_path / "bundle"), device="cpu")
    requests = [[*TEXTS[k % 5 :], *TEXTS[: k % 5]] for k in range(40)]
    expected = [classify(pipeline, request) for request in requests[:5]]
    with ThreadPoolExecutor(8) as pool:
        for k, got in enumerate(pool.map(lambda request: classify(pipeline, request), requests)):
            assert_close(got, expected[k % 5])


@pytest.mark.parametrize("sentence", ["a dog barks", "( ( a dog ) barks )"])
def test_a_sentence_of_too_many_words_is_named(sentence: str, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", "spinn", "sentence")
    assert Pipeline.from_pretrained(bundle, device="cpu", max_words=3).encode([sentence]).shape[0] == 1
    pipeline = Pipeline.from_pretrained(bundle, device="cpu", max_words=2)
    for use in (pipeline.encode, pipeline.classify, pipeline.parse):
        with pytest.raises(
            DataError, match=r"example 1: sentences: token 3 'barks': .* 2 words; max_words= "
        ):
            use(["a dog", sentence])


def test_a_text_that_is_no_sentence_is_refused_at_once() -> None:
    with pytest.raises(DataError, match="example 1: sentences: 5,000,000 characters"):
        Pipeline(tiny_model("bow", "sentence")).encode(["a dog", "a" * 5_000_000])
    with pytest.raises(DataError, match="example 0: sentences: token 100001 'b': a sentence of more"):
        Pipeline(tiny_model("bow", "sentence")).encode(["a " * 100_000 + "b"])
