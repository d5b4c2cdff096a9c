"""What `help` shows of `spinn_tensor`: arguments, results, errors, and an example that runs."""

from __future__ import annotations

import dataclasses
import doctest
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import spinn_tensor
from spinn_tensor.data_prep import Corpus, Vocabulary, parse_binary, sentence_columns
from spinn_tensor.data_prep.settings import Settings
from tests.tiny_bundles import tiny_run

NAMES = sorted(set(spinn_tensor.__all__) - {"__version__"})
METHODS = {
    "Pipeline": ("from_pretrained", "classify", "encode", "similarity", "parse"),
    "PairClassifier": ("from_pretrained", "save_pretrained"),
    "StackMachine": ("forward", "parse"),
    "Tracker": ("forward",),
    "SentenceEncoder": ("forward", "node_states", "parse", "sharing"),
}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the examples find: all of spinn_tensor, two sentences, a config for them, a folder with bundles."""
    vocabulary = Vocabulary.build([["A", "dog", "barks", ".", "cats", "sing", "the"]])
    columns = sentence_columns(
        [parse_binary("( ( A dog ) ( barks . ) )"), parse_binary("( cats sing )")], vocabulary
    )
    encoder = spinn_tensor.EncoderConfig(len(vocabulary), hidden_dim=8, embedding_dim=8, tracker_dim=3)
    classifier = spinn_tensor.ClassifierConfig(2, mlp_dim=8)
    config = spinn_tensor.ModelConfig("sentence", ("bad", "good"), encoder, classifier)
    folder = tmp_path_factory.mktemp("bundles")
    for name, task in (("sentences", "sentence"), ("pairs", "pair")):
        model = spinn_tensor.build_model(dataclasses.replace(config, task=task))
        model.save_pretrained(folder / name, vocabulary=vocabulary, metrics={"accuracy": 0.5})
    model = spinn_tensor.PairClassifier.from_pretrained(folder / "pairs")
    spinn_tensor.save_checkpoint(folder / "pairs", model, vocabulary, tiny_run(), {"accuracy": 0.5})
    ours = {name: getattr(spinn_tensor, name) for name in NAMES}
    found = {"vocabulary": vocabulary, "columns": columns, "config": config, "folder": folder}
    return {**ours, "Corpus": Corpus, "Vocabulary": Vocabulary, "np": np, "torch": torch, **found}


def documented() -> Iterator[tuple[str, Any]]:
    for name in NAMES:
        item = getattr(spinn_tensor, name)
        yield name, item
        for method in METHODS.get(name, ()):
            yield f"{name}.{method}", getattr(item, method)


DOCUMENTED = dict(documented())


@pytest.mark.parametrize("name", DOCUMENTED)
def test_an_example_runs(
    name: str, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = DOCUMENTED[name]
    if name == "SpinnTransformer":
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(item)
    is_error = inspect.isclass(item) and issubclass(item, Exception)
    has_example = ">>>" in (text or "")
    assert has_example or is_error, "an example is missing"
    test = doctest.DocTestParser().get_doctest(text, {**names}, name, None, 0)
    printed: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=printed.append)
    assert results.failed == 0, "".join(printed)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_arguments_and_results_are_described(name: str) -> None:
    item = DOCUMENTED[name]
    text = inspect.getdoc(item) or ""
    assert text.split("\n\n")[0].rstrip().endswith("."), "the first line is a sentence"
    if inspect.isclass(item):
        if not issubclass(item, Exception | tuple):
            text += inspect.getdoc(item.__init__) or ""
            assert_named(item, text)
    else:
        assert_named(item, text)
        assert "Returns:" in text or inspect.signature(item).return_annotation == "None"


def assert_named(item: Any, text: str) -> None:
    """Assert that each argument has its place under Args."""
    arguments = [name for name in inspect.signature(item).parameters if name not in ("self", "cls")]
    described = text.partition("Args:")[2]
    missing = [name for name in arguments if f"{name}" not in described.replace(",", ":")]
    assert not missing, f"not described: {missing}"


@pytest.mark.parametrize(
    "kind", [spinn_tensor.EncoderConfig, spinn_tensor.ClassifierConfig, spinn_tensor.ModelConfig]
)
def test_help_shows_what_every_setting_is(kind: type[Settings]) -> None:
    text = " ".join((kind.__doc__ or "").split())
    for item in dataclasses.fields(kind):
        assert f"{item.name} ({item.type}): {item.metadata['help']}" in text
        allowed = item.metadata["allowed"]
        assert allowed is None or allowed.text in text
