"""The settings `leaf_encoder` and `head` as module:Class: trained, saved, read, refused; bundles that name classes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import Tensor, nn

from spinn_tensor import (
    BatchEncoder,
    CheckpointError,
    ClassifierConfig,
    ConfigError,
    EncoderConfig,
    ModelConfig,
    Pipeline,
    SentenceClassifier,
    SentenceEncoder,
    build_model,
    make_batch,
    make_sentence_batch,
)
from spinn_tensor.cli.main import main
from spinn_tensor.config import ENCODER_KINDS
from spinn_tensor.export.interface import ExportError, check_exportable
from spinn_tensor.export.serve.engine import Engine
from spinn_tensor.export.serve.settings import ServeSettings, add_flags, as_arguments, given_settings
from spinn_tensor.model.classifiers import Model
from spinn_tensor.training.checkpoint import read_training_state
from tests.command_line import assert_fails_cleanly
from tests.tiny_bundles import tiny_bundle, tiny_model
from tests.tiny_models import MANY_WORDS, some_columns, some_pairs
from tests.tiny_runs import PRESET, pair_arguments

pytestmark = pytest.mark.numerical

MODULE = """
import torch
from torch import nn
from spinn_tensor.model.classifiers import MLP
from spinn_tensor.model.leaves import LeafEncoder

class Leaves(LeafEncoder):
    pass

class Head(MLP):
    pass

class Choosy(nn.Module):
    def __init__(self, input_dim, config):
        raise ValueError("too wide")

class Spelling(nn.Module):
    '''Leaves made of how words are spelt, of which the model is told once.'''
    def __init__(self, config, output_dim):
        super().__init__()
        self.register_buffer("letters", torch.zeros(config.vocabulary_size, 26))
        self.layer = nn.Linear(26, output_dim)

    def set_vocabulary(self, vocabulary):
        for number, word in enumerate(vocabulary.tokens):
            for letter in word.lower():
                if letter.isascii() and letter.isalpha():
                    self.letters[number, ord(letter) - ord("a")] += 1

    def forward(self, batch):
        return self.layer(self.letters[batch.token_ids])

class Bilinear(nn.Module):
    '''A head of pairs that looks at the two encodings.'''
    def __init__(self, input_dim, config):
        super().__init__()
        self.layer = nn.Bilinear(input_dim // 4, input_dim // 4, config.n_classes)
        self.neutral = {3: 1}[config.n_classes]  # of SNLI's labels, and no others

    def forward(self, features, row_mask=None):
        premise, hypothesis, *_ = features.chunk(4, 1)
        return self.layer(premise.contiguous(), hypothesis.contiguous())

class Narrow(LeafEncoder):
    def forward(self, batch):
        return super().forward(batch)[:, 1:]

class Many(MLP):
    def forward(self, features, row_mask=None):
        return super().forward(features, row_mask).repeat(1, 2)

class Lone(nn.Module):
    def __init__(self):
        super().__init__()
"""


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that Python finds in a folder of its own."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "parts_of_mine.py").write_text(MODULE, encoding="utf-8")
    (folder / "unfinished_part.py").write_text("X = (", encoding="utf-8")
    (folder / "lacking_part.py").write_text("import nowhere_at_all", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # in a folder whose files are compared
    monkeypatch.delitem(sys.modules, "parts_of_mine", raising=False)
    return "parts_of_mine"


def config(kind: str, leaf_encoder: str = "projection", head: str = "mlp") -> ModelConfig:
    encoder = EncoderConfig(MANY_WORDS, kind, 6, 8, 3, leaf_encoder=leaf_encoder, embedding_dropout=0.0)
    return ModelConfig("pair", ("a", "b", "c"), encoder, ClassifierConfig(3, 12, mlp_dropout=0.0, head=head))


def gradients(model: Model, share: str) -> tuple[Tensor, dict[str, Tensor]]:
    batch = make_batch(some_pairs(), model.encoder.table_kind, share=share)  # type: ignore[arg-type]
    logits = model.double()(batch)
    logits.sin().sum().backward()
    return logits, {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("kind", ENCODER_KINDS)
def test_parts_like_the_packages_own_compute_what_these_do(kind: str, parts: str) -> None:
    """Equal words are one leaf here, and there are not."""
    torch.manual_seed(0)
    ours = build_model(config(kind)).train()
    theirs = build_model(config(kind, f"{parts}:Leaves", f"{parts}:Head")).train()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    table_kind = ours.encoder.table_kind
    assert (
        theirs.encoder.sharing(table_kind) == theirs.encoder.sharing(table_kind, training=False) == "nothing"
    )
    expected, expected_gradients = gradients(ours, ours.encoder.sharing(table_kind))
    logits, found = gradients(theirs, "nothing")
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found, expected_gradients, rtol=1e-9, atol=1e-10)
    assert len(found) > 5


@pytest.mark.parametrize(
    "leaf_encoder, head, message",
    [
        (
            "nowhere_at_all:X",
            "mlp",
            r"leaf_encoder: nowhere_at_all:X cannot be imported \(.*\); where .*: PYTHONPATH=\. spinn",
        ),
        ("projection", "nowhere_at_all:X", "head: nowhere_at_all:X cannot be imported"),
        ("parts_of_mine:MODULE", "mlp", "leaf_encoder: parts_of_mine:MODULE is no class of torch.nn.Module"),
        ("parts_of_mine:Lone", "mlp", r"leaf_encoder: parts_of_mine:Lone\(config, 8\) cannot be made \("),
        ("projection", "parts_of_mine:Lone", r"head: parts_of_mine:Lone\(32, config\) cannot be made \("),
        (
            "projection",
            "parts_of_mine:Choosy",
            r"head: parts_of_mine:Choosy\(.*\) cannot be made \(too wide\)",
        ),
        ("projection", "unfinished_part:X", r"head: unfinished_part:X cannot be imported \(.*never closed"),
        ("projection", "pathlib:Path", "head: pathlib:Path is no class of torch.nn.Module"),
        ("projection", "lacking_part:X", r"head: lacking_part:X cannot be imported \([^()]*\)$"),
    ],
)
def test_what_is_no_part_is_refused(leaf_encoder: str, head: str, message: str, parts: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(config("lstm", leaf_encoder, head))


def test_outputs_of_another_shape_are_refused(parts: str) -> None:
    for own, message in (
        (
            config("spinn-pi", f"{parts}:Narrow"),
            r"leaf_encoder: .*:Narrow made \((\d+), 15\), expected \(\1, 16\)",
        ),
        (config("spinn-pi", head=f"{parts}:Many"), r"head: .*:Many made \(5, 6\), expected \(5, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            build_model(own)(make_batch(some_pairs(), "lanes"))


def test_shared_words_are_not_for_a_leaf_encoder_of_ones_own(parts: str) -> None:
    encoder = SentenceEncoder(config("spinn-pi", f"{parts}:Spelling").encoder)
    columns = some_columns()._replace(token_ids=some_columns().token_ids % 3)
    with pytest.raises(ValueError, match=r"leaf_encoder: .*:Spelling made \(3, 16\)"):
        encoder(make_sentence_batch(columns, "lanes", share="states"))


def test_who_has_no_word_vectors_says_so(parts: str) -> None:
    encoder = SentenceEncoder(config("spinn-pi", f"{parts}:Spelling").encoder)
    for use in (lambda: encoder.embedding, lambda: setattr(encoder, "embedding", torch.nn.Embedding(2, 2))):
        with pytest.raises(
            TypeError, match=f"leaf_encoder: {parts}:Spelling has no `embedding` of word vectors"
        ):
            use()


def test_exports_say_that_they_are_not_for_them(parts: str) -> None:
    for own, message in (
        (config("spinn", f"{parts}:Leaves"), f"leaf_encoder '{parts}:Leaves' is not exported"),
        (config("spinn", head=f"{parts}:Head"), f"head '{parts}:Head' is not exported"),
    ):
        with pytest.raises(ExportError, match=message):
            check_exportable(build_model(own), "own")


def test_a_bundle_names_its_parts(tmp_path: Path, parts: str) -> None:
    model = tiny_model("spinn", "sentence", leaf_encoder=f"{parts}:Leaves", head=f"{parts}:Head")
    model.save_pretrained(tmp_path / "bundle")
    settings = json.loads((tmp_path / "bundle" / "config.json").read_text())["model"]
    assert settings["encoder"]["leaf_encoder"] == f"{parts}:Leaves"
    assert settings["classifier"]["head"] == f"{parts}:Head"
    assert (
        f"| head | `{parts}:Head`, which Python has to find"
        in (tmp_path / "bundle" / "README.md").read_text()
    )
    again = SentenceClassifier.from_pretrained(tmp_path / "bundle")
    batch = make_sentence_batch(some_columns(), "own")
    batch = batch._replace(token_ids=batch.token_ids % 5)
    assert torch.equal(again.encoder(batch), model.encoder(batch))


def test_a_treelstm_and_an_mlp_go_without_saying(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundle", "spinn", "sentence")
    settings = json.loads((tmp_path / "bundle" / "config.json").read_text())["model"]
    assert "cell" not in settings["encoder"]
    assert "head" not in settings["classifier"]


def transformer(folder: Path | str, **options: Any) -> object:
    pytest.importorskip("sklearn")
    from spinn_tensor import SpinnTransformer

    return SpinnTransformer(folder, **options).fit()


def batch_encoder(folder: Path | str, **options: Any) -> object:
    return BatchEncoder(folder, **options)({"sentence": ["A dog"]})


def served(folder: Path | str, **options: Any) -> object:
    arguments = argparse.ArgumentParser()
    add_flags(arguments)
    flags = as_arguments(ServeSettings(str(folder), **options))
    return Engine.open(given_settings(arguments.parse_args(flags)))


@pytest.mark.parametrize(
    "load",
    [SentenceClassifier.from_pretrained, Pipeline.from_pretrained, transformer, batch_encoder, served],
)
def test_a_bundle_of_the_hub_imports_what_it_names_only_if_asked(
    load, tmp_path: Path, parts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_bundle(tmp_path / "bundle", "spinn", "sentence", head=f"{parts}:Head")
    monkeypatch.delitem(sys.modules, parts)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path / "bundle"))
    with pytest.raises(CheckpointError, match=f"^ann/spinn: head: {parts}:Head would be imported.*=True"):
        load("ann/spinn", device="cpu")
    assert parts not in sys.modules
    assert load("ann/spinn", device="cpu", allow_custom_code=True)
    assert parts in sys.modules
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    assert load(tmp_path / "bundle", device="cpu")
    assert load(str(tmp_path / "bundle"), device="cpu")


def test_nor_does_the_parser_that_a_pipeline_fetches(
    tmp_path: Path, parts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_bundle(tmp_path / "parser", "spinn", "sentence", leaf_encoder=f"{parts}:Leaves")
    tiny_bundle(tmp_path / "bundle")
    monkeypatch.delitem(sys.modules, parts)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path / "parser"))
    with pytest.raises(CheckpointError, match=r"^ann/parser: leaf_encoder: .* would be imported"):
        Pipeline.from_pretrained(tmp_path / "bundle", trees="ann/parser", device="cpu")
    assert parts not in sys.modules


@pytest.mark.parametrize("options", ["--cell", "--leaf-encoder", "--head", "--seeds 0 --cell"])
@pytest.mark.parametrize("name", ["nowhere_at_all:X", "parts_of_mine:Lone"])
def test_a_part_that_cannot_be_had_is_said_before_a_corpus_is_generated(
    name: str, options: str, tmp_path: Path, parts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--corpus", "logic", "--output", str(tmp_path / "run"), *options.split()]
    assert_fails_cleanly([*arguments, name], f"{name}.* cannot be (imported|made)", tmp_path, capsys)
    assert not (tmp_path / "run").exists()


def test_training_with_parts_of_ones_own(
    tmp_path: Path, parts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    (tmp_path / "data").mkdir()
    arguments = [*pair_arguments(tmp_path / "data"), *PRESET, "--output", str(run)]
    arguments += ["--leaf-encoder", f"{parts}:Spelling", "--head", f"{parts}:Bilinear"]
    vectors = tmp_path / "vectors.txt"
    vectors.write_text(f"dogs {' '.join('1' * 8)}\n")
    assert_fails_cleanly([*arguments, "--compile"], "a leaf encoder of one's own whole", tmp_path, capsys)
    message = f"vectors: leaf_encoder: {parts}:Spelling has no `embedding`"
    assert_fails_cleanly([*arguments, "--vectors", str(vectors)], message, tmp_path, capsys)
    assert main([*arguments, "--epochs", "1"]) == 0
    assert main([*arguments, "--epochs", "2", "--resume"]) == 0
    assert read_training_state(run / "last").progress.epoch == 2
    assert main(["evaluate", str(run)]) == 0
    pipeline = Pipeline.from_pretrained(run)
    letters = pipeline.model.encoder.leaves.letters[pipeline.tokenizer.vocabulary.encode(["dogs"])[0]]
    assert letters.nonzero().flatten().tolist() == sorted(ord(letter) - ord("a") for letter in "dogs")
    assert isinstance(pipeline.model.mlp, nn.Module)
    assert_fails_cleanly(
        ["export", str(run), "--output", str(tmp_path / "export"), "--format", "torchscript"],
        "leaf_encoder .* is not exported",
        tmp_path,
        capsys,
    )
