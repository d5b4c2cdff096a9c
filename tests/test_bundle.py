"""Bundles: the same model in another process, strict reading whatever is damaged, the card, and the hub."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils.parametrizations import weight_norm

from spinn_tensor import (
    CheckpointError,
    PairClassifier,
    Pipeline,
    SentenceClassifier,
    load_checkpoint,
    save_checkpoint,
)
from spinn_tensor.bundle import load_weights
from spinn_tensor.cli.main import main
from spinn_tensor.config import ENCODER_KINDS, ConfigError
from spinn_tensor.data_prep.corpora.kinds import KINDS
from spinn_tensor.data_prep.trees import format_binary, parse_binary
from spinn_tensor.data_prep.vocabulary import Vocabulary
from tests.damage import DAMAGE, change_json
from tests.processes import run_program
from tests.tiny_bundles import FILES, PARSES, same_weights, tiny_bundle, tiny_model, tiny_run

pytestmark = pytest.mark.numerical


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of pairs that nobody changes."""
    return tiny_bundle(tmp_path_factory.mktemp("whole") / "bundle")


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


FRESH_PROCESS = """
import json, sys
import torch
from spinn_tensor import Pipeline
torch.set_num_threads(1)
texts = json.loads(sys.argv[1])
for task, folder in zip(sys.argv[2::2], sys.argv[3::2]):
    pipeline = Pipeline.from_pretrained(folder, device="cpu")
    result = {"encode": pipeline.encode(texts).tobytes().hex(), "parse": pipeline.parse(texts)}
    if task != "parse":
        sides = (texts, texts[::-1]) if task == "pair" else (texts,)
        result["classify"] = [prediction.probabilities for prediction in pipeline.classify(*sides)]
    print(json.dumps(result))
    if task == "pair":
        pipeline.classify(["A dog barks."], ["a dog sleeps"])
unused = {"torch._dynamo", "sympy"}  # a second of torch's, for nothing
unused |= {"datasets", "pyarrow", "rich", "onnx", "huggingface_hub", "sklearn"}
assert not unused & set(sys.modules)
"""


@pytest.mark.once
def test_a_fresh_process_gives_the_same_to_the_bit_and_loads_nothing_else(tmp_path) -> None:
    expected, arguments = [], []
    torch.set_num_threads(1)
    for kind, task in (("spinn-pi", "pair"), ("spinn", "sentence"), ("spinn", "parse")):
        model = tiny_model(kind, task)
        model.save_pretrained(tmp_path / task)
        here = Pipeline(model)
        result = {"encode": here.encode(PARSES).tobytes().hex(), "parse": here.parse(PARSES)}
        if task != "parse":
            sides = (PARSES, PARSES[::-1]) if task == "pair" else (PARSES,)
            result["classify"] = [prediction.probabilities for prediction in here.classify(*sides)]
        expected.append(result)
        arguments += [task, tmp_path / task]
    said = run_program(FRESH_PROCESS, json.dumps(PARSES), *arguments, folder=tmp_path)
    assert list(map(json.loads, said.splitlines())) == expected


@pytest.mark.parametrize("kind", ENCODER_KINDS)
def test_a_loaded_model_is_the_saved_one(kind, tmp_path) -> None:
    model = tiny_model(kind)
    model.save_pretrained(tmp_path / "bundle")
    assert sorted(os.listdir(tmp_path / "bundle")) == FILES
    loaded = PairClassifier.from_pretrained(tmp_path / "bundle")
    assert isinstance(loaded, PairClassifier)
    assert not loaded.training
    assert same_weights(model, loaded)
    assert loaded.config == model.config
    assert loaded.vocabulary == model.vocabulary
    assert loaded.tokenizer.tokenize("Dogs don't.") == ("Dogs", "do", "n't", ".")
    loaded.save_pretrained(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "bundle" / name).read_bytes(), name


def test_reading_draws_no_random_number(whole) -> None:
    before = torch.get_rng_state()
    PairClassifier.from_pretrained(whole)
    assert torch.equal(torch.get_rng_state(), before)


def test_torchs_default_type_is_none_of_a_bundle(whole) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        loaded = PairClassifier.from_pretrained(whole)
        encodings = Pipeline(loaded).encode(PARSES)
    finally:
        torch.set_default_dtype(torch.float32)
    assert same_weights(loaded, tiny_model())
    assert (encodings == Pipeline(tiny_model()).encode(PARSES)).all()


def test_a_subclass_loads_itself(whole) -> None:
    class Mine(PairClassifier):
        pass

    assert type(Mine.from_pretrained(whole)) is Mine


def compiled(model: torch.nn.Module) -> torch.nn.Module:
    return torch.compile(model)


def compiled_inside(model: torch.nn.Module) -> torch.nn.Module:
    model.encoder = torch.compile(model.encoder)
    return model


@pytest.mark.once
@pytest.mark.parametrize("change", [compiled, compiled_inside])
def test_a_compiled_model_is_saved_and_loaded_by_its_plain_names(change, whole, tmp_path) -> None:
    model = tiny_model()
    wrapped = change(model)
    assert any("_orig_mod." in name for name in wrapped.state_dict())
    save_checkpoint(tmp_path / "checkpoint", wrapped, *model.provenance[:3])
    wrapped.save_pretrained(tmp_path / "bundle")
    for name in ("checkpoint", "bundle"):
        assert load_file(tmp_path / name / "model.safetensors").keys() == tiny_model().state_dict().keys()
        assert same_weights(PairClassifier.from_pretrained(tmp_path / name), tiny_model())
    with torch.no_grad():
        for parameter in wrapped.parameters():
            parameter.zero_()
    load_weights(wrapped, whole / "model.safetensors")
    assert same_weights(wrapped, change(tiny_model()))


def test_weights_with_a_compiled_models_names_load(bundle) -> None:
    path = bundle / "model.safetensors"
    tensors = load_file(path)
    save_file({f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}, path)
    assert same_weights(PairClassifier.from_pretrained(bundle), tiny_model())
    save_file({**tensors, "_orig_mod.mlp.output.bias": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"tensor 'mlp.output.bias' is there twice, compiled and not"):
        PairClassifier.from_pretrained(bundle)


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_bundle_is_refused_in_one_line(name, bundle) -> None:
    damage, message = DAMAGE[name]
    damage(bundle)
    with pytest.raises(CheckpointError, match=message) as error:
        PairClassifier.from_pretrained(str(bundle))
    assert "\n" not in str(error.value)
    assert str(bundle) in str(error.value)


@pytest.mark.parametrize(
    "section, value",
    [
        ("data", {"train": 3}),
        ("data", {"extra": [1]}),
        ("data", {"vectors": 2.5}),
        ("data", {"limit": "many"}),
        ("training", {"select_by": "luck"}),
        ("training", 3),
    ],
)
def test_settings_that_no_card_can_be_made_of_are_one_error(section, value, bundle, tmp_path) -> None:
    def change(config: dict) -> None:
        known = config["run"][section]
        config["run"][section] = {**known, **value} if isinstance(value, dict) else value

    change_json("config.json", change)(bundle)
    model = PairClassifier.from_pretrained(bundle)
    with pytest.raises(CheckpointError, match="again: run: ") as error:
        model.save_pretrained(tmp_path / "again")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "again").exists()


def test_another_class_is_refused(whole) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"config.json: a model of task 'pair'; SentenceClassifier reads those of 'sentence'",
    ):
        SentenceClassifier.from_pretrained(whole)


class Payload:
    """What runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_no_code_of_a_bundle_is_run(bundle, tmp_path) -> None:
    marker = tmp_path / "was run"
    evil = pickle.dumps(Payload(marker))
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin"):
        (bundle / name).write_bytes(evil)
    for name in ("modeling.py", "__init__.py", "spinn_tensor.py", "sitecustomize.py"):
        (bundle / name).write_text(f"import os; os.mkdir({str(marker)!r})\n")
    assert same_weights(PairClassifier.from_pretrained(bundle), tiny_model())
    (bundle / "model.safetensors").write_bytes(evil)
    with pytest.raises(CheckpointError, match=r"model.safetensors: not a whole safetensors file"):
        PairClassifier.from_pretrained(bundle)
    (bundle / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors: no such file"):
        PairClassifier.from_pretrained(bundle)
    values = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps({**values, "auto_map": {"AutoModel": "modeling.Model"}}))
    with pytest.raises(CheckpointError, match="key 'auto_map' is unknown"):
        PairClassifier.from_pretrained(bundle)
    assert not marker.exists()
    pickle.loads(evil)
    assert marker.exists()  # it would have shown


def test_a_model_without_a_vocabulary_says_what_it_needs(tmp_path) -> None:
    model = tiny_model()
    model.provenance = None
    for use in (
        lambda: model.save_pretrained(tmp_path / "bundle"),
        lambda: model.tokenizer,
        lambda: Pipeline(model),
    ):
        with pytest.raises(CheckpointError, match=r"has no vocabulary: .*vocabulary=\.\.\."):
            use()
    assert not (tmp_path / "bundle").exists()


def test_a_folder_with_other_files_is_left_alone(whole, tmp_path) -> None:
    model = PairClassifier.from_pretrained(whole)
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"thesis: holds other files \(chapter.tex\)"):
        model.save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"chapter.tex: a file, expected a folder"):
        model.save_pretrained(folder / "chapter.tex")
    assert os.listdir(folder) == ["chapter.tex"]
    (folder / "chapter.tex").unlink()
    for name in ("README.md", "config.json"):  # as of anybody's model
        (folder / name).write_text("{}")
        with pytest.raises(CheckpointError, match=r"thesis: holds a .* of something else"):
            model.save_pretrained(folder)
    for path in folder.iterdir():
        assert path.read_text() == "{}"
        path.unlink()
    for _ in range(2):  # an empty folder, and a bundle
        model.save_pretrained(folder)
        assert sorted(os.listdir(folder)) == FILES


def test_nothing_of_the_makers_home_is_in_a_bundle(whole) -> None:
    for name in FILES:
        assert b"/home/ann" not in (whole / name).read_bytes(), name
    assert load_checkpoint(whole).config.run == tiny_run().changed(data__data="snli_1.0").to_dict()


def test_a_link_to_a_folder_is_followed(tmp_path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for _ in range(2):
        tiny_model().save_pretrained(tmp_path / "link")
        assert sorted(os.listdir(tmp_path / "disk")) == FILES
    assert sorted(os.listdir(tmp_path)) == ["disk", "link"]


@pytest.mark.parametrize("branching", [None, "left"])
def test_a_model_of_a_loop_of_ones_own_is_saved_with_its_vocabulary(branching, tmp_path, capsys) -> None:
    model = tiny_model("spinn-pi", "sentence")
    vocabulary, model.provenance = model.vocabulary, None
    model.save_pretrained(tmp_path / "mine", vocabulary=vocabulary, branching=branching, metrics={"f1": 0.5})
    loaded = Pipeline.from_pretrained(tmp_path / "mine", device="cpu")
    assert loaded.model.vocabulary == vocabulary == model.vocabulary
    assert loaded.branching == branching
    assert same_weights(loaded.model, model)
    parses = [format_binary(parse_binary(parse)) for parse in PARSES]
    expected = Pipeline(model, branching=branching).encode(parses)
    assert np.array_equal(loaded.encode(parses), expected)
    card = (tmp_path / "mine" / "README.md").read_text()
    for corpus in (*KINDS, "None"):
        assert f"`{corpus}`" not in card
    assert "| corpus | not recorded |" in card
    assert "| f1 | 0.5 |" in card
    assert "datasets:" not in card
    model.save_pretrained(tmp_path / "listops", vocabulary=vocabulary, tokenizer="whitespace")
    assert load_checkpoint(tmp_path / "listops").tokenizer.tokenize("A dog's.") == ("A", "dog's.")
    # once more as one that was loaded, and by the commands
    loaded.model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text() == card
    assert main(["predict", str(tmp_path / "mine"), "--sentence", PARSES[0], "--device", "cpu"]) == 0
    assert main(["evaluate", str(tmp_path / "mine"), "--device", "cpu"]) == 1
    assert "not of spinn train but of a program of its own" in capsys.readouterr().err


@pytest.mark.parametrize("number", [np.float32(0.5), np.int64(3), torch.tensor(0.5)])
def test_metrics_may_be_of_numpy_and_torch(number, tmp_path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "mine", vocabulary=model.vocabulary, metrics={"f1": number})
    assert load_checkpoint(tmp_path / "mine").config.metrics == {"f1": number.item()}
    save_checkpoint(tmp_path / "other", model, model.vocabulary, tiny_run(), {"f1": number})
    assert load_checkpoint(tmp_path / "other").config.metrics == {"f1": number.item()}


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda model: setattr(model.mlp, "output", torch.nn.Linear(1, 5)),
            r"'mlp.output.weight' has shape \(5, 1\)",
        ),
        (
            lambda model: setattr(model, "more", torch.nn.Linear(1, 1)),
            "'more.weight' is not part of the model",
        ),
        (lambda model: weight_norm(model.mlp.hidden[0]), "'mlp.hidden.0.weight' is missing"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(change, message, tmp_path) -> None:
    model = tiny_model()
    change(model)
    for save in (model.save_pretrained, lambda folder: save_checkpoint(folder, model, *model.provenance[:3])):
        with pytest.raises(
            CheckpointError, match=rf"tensor {message}.*, by model.config, from which it is read"
        ):
            save(tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_what_does_not_go_with_a_model_of_ones_own(tmp_path) -> None:
    model = tiny_model()
    with pytest.raises(CheckpointError, match="a vocabulary of 3 words for a model of 20"):
        model.save_pretrained(tmp_path / "mine", vocabulary=Vocabulary.build([["dog"]]))
    with pytest.raises(ConfigError, match=r"branching: expected one of left, .*, got 'up'"):
        model.save_pretrained(tmp_path / "mine", vocabulary=model.vocabulary, branching="up")
    for f1 in (float("nan"), np.float32("nan"), torch.tensor([0.5, 0.5]), [0.5]):
        with pytest.raises(ConfigError, match="metrics: expected an object of finite numbers"):
            model.save_pretrained(tmp_path / "mine", vocabulary=model.vocabulary, metrics={"f1": f1})
    with pytest.raises(ConfigError, match=r"tokenizer, branching and metrics go with"):
        model.save_pretrained(tmp_path / "mine", metrics={"f1": 0.5})
    known = model.provenance
    for run, message in (
        ({"data": {}, "a": [float("nan")]}, "run.a: expected a finite"),
        ({}, "run: expected"),
    ):
        model.provenance = known._replace(run=run)  # of a program of its own
        with pytest.raises(ConfigError, match=message):
            model.save_pretrained(tmp_path / "mine")
    model.provenance = known
    with torch.no_grad():
        model.mlp.output.bias[0] = torch.nan
    with pytest.raises(CheckpointError, match=r"tensor .mlp.output.bias. holds NaN"):
        model.save_pretrained(tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
