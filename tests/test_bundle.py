"""Bundles: the same model in another process, strict reading whatever is damaged, the card, and the hub."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from safetensors.torch import load_file, save_file

from spinn_tensor import (
    CheckpointError,
    PairClassifier,
    Pipeline,
    Provenance,
    SentenceClassifier,
    SentenceParser,
    load_checkpoint,
    save_checkpoint,
)
from spinn_tensor.cli.main import build_parser
from spinn_tensor.cli.train import new_run
from spinn_tensor.config import ENCODER_KINDS
from spinn_tensor.hub import HubMixin
from spinn_tensor.training.checkpoint import load_weights
from spinn_tensor.training.model_card import model_card, train_command, without_folders
from tests.test_checkpoint import DAMAGE
from tests.tiny_bundles import METRICS, PARSES, own_run, tiny_bundle, tiny_model, tiny_run

CLASSES = {"pair": PairClassifier, "sentence": SentenceClassifier, "parse": SentenceParser}
FILES = ["README.md", "config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of pairs that nobody changes."""
    return tiny_bundle(tmp_path_factory.mktemp("whole") / "bundle")


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    left, right = first.state_dict(), second.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


FRESH_PROCESS = """
import json, sys
import torch
from spinn_tensor import Pipeline
torch.set_num_threads(1)
folder, task, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
pipeline = Pipeline.from_pretrained(folder, device="cpu")
result = {"encode": pipeline.encode(texts).tobytes().hex(), "parse": pipeline.parse(texts)}
if task != "parse":
    sides = (texts, texts[::-1]) if task == "pair" else (texts,)
    result["classify"] = [prediction.probabilities for prediction in pipeline.classify(*sides)]
print(json.dumps(result))
"""


@pytest.mark.parametrize("kind, task", [("spinn-pi", "pair"), ("spinn", "sentence"), ("spinn", "parse")])
def test_a_fresh_process_gives_the_same_to_the_bit(kind, task, tmp_path) -> None:
    model = tiny_model(kind, task)
    model.save_pretrained(tmp_path / "bundle")
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        here = Pipeline(model)
        expected = {"encode": here.encode(PARSES).tobytes().hex(), "parse": here.parse(PARSES)}
        if task != "parse":
            sides = (PARSES, PARSES[::-1]) if task == "pair" else (PARSES,)
            expected["classify"] = [prediction.probabilities for prediction in here.classify(*sides)]
    finally:
        torch.set_num_threads(n_threads)
    command = [sys.executable, "-c", FRESH_PROCESS, str(tmp_path / "bundle"), task, json.dumps(PARSES)]
    there = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment()
    )
    assert json.loads(there.stdout) == expected


def environment() -> dict[str, str]:
    """That of a program outside this repository."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}


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


def test_a_subclass_loads_itself(whole) -> None:
    class Mine(PairClassifier):
        pass

    assert type(Mine.from_pretrained(whole)) is Mine


def compiled(model: torch.nn.Module) -> torch.nn.Module:
    return torch.compile(model)


def compiled_inside(model: torch.nn.Module) -> torch.nn.Module:
    model.encoder = torch.compile(model.encoder)
    return model


@pytest.mark.parametrize("change", [compiled, compiled_inside])
def test_a_compiled_model_is_saved_and_loaded_by_its_plain_names(change, whole, tmp_path) -> None:
    model = tiny_model()
    wrapped = change(model)
    assert any("_orig_mod." in name for name in wrapped.state_dict())
    save_checkpoint(tmp_path / "checkpoint", wrapped, *model.provenance)
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
        with pytest.raises(CheckpointError, match=r"has no vocabulary: set model\.provenance"):
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
    assert load_checkpoint(whole).config.run == tiny_run().changed(data__data="snli_1.0")


def test_paths_are_named_by_their_last_part() -> None:
    run = tiny_run(
        train=("/a/b/one.jsonl", "C:\\Users\\ann\\two.jsonl"), vectors="/v/glove.zip", extra=("hard=/x/h.gz",)
    )
    data = without_folders(run.data)
    assert (data.data, data.train, data.vectors, data.extra) == (
        "snli_1.0",
        ("one.jsonl", "two.jsonl"),
        "glove.zip",
        ("hard=h.gz",),
    )


def test_a_link_to_a_folder_is_followed(tmp_path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for _ in range(2):
        tiny_model().save_pretrained(tmp_path / "link")
        assert sorted(os.listdir(tmp_path / "disk")) == FILES
    assert sorted(os.listdir(tmp_path)) == ["disk", "link"]


# the card


@pytest.mark.parametrize(
    "kind, task", [("spinn-pi", "pair"), ("bow", "pair"), ("spinn", "sentence"), ("spinn", "parse")]
)
def test_the_hub_understands_the_card(kind, task, tmp_path) -> None:
    model = tiny_model(kind, task)
    model.save_pretrained(tmp_path / "bundle", license="cc-by-sa-4.0")
    card = ModelCard.load(tmp_path / "bundle" / "README.md")
    assert card.data.library_name == "spinn_tensor"
    assert card.data.license == "cc-by-sa-4.0"
    assert card.data.language == "en"
    assert card.data.pipeline_tag == (None if task == "parse" else "text-classification")
    assert {"spinn", kind} <= set(card.data.tags)
    assert card.data.metrics == ["f1" if task == "parse" else "accuracy"]
    assert f"{sum(p.numel() for p in model.parameters()):,}" in card.text
    assert "90.6%" in card.text
    assert "1,208" in card.text
    assert "`neutral`" in card.text or task != "pair"
    for heading in ("Use", "Model", "Data", "Scores", "Made by", "Not for"):
        assert f"\n## {heading}\n" in card.text
    assert "license" not in model_card(model.config, model.provenance.run, METRICS, 1)


@pytest.mark.parametrize(
    "kind, task", [("spinn-pi", "pair"), ("lstm", "pair"), ("spinn", "sentence"), ("spinn", "parse")]
)
def test_the_cards_code_runs(kind, task, tmp_path) -> None:
    folder = tiny_bundle(tmp_path / "bundle", kind, task)
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    names: dict[str, object] = {}
    exec(code.replace("FOLDER OR HUB ID", str(folder)), names)
    assert isinstance(names["pipeline"], Pipeline)


@pytest.mark.parametrize(
    "run",
    [
        tiny_run().changed(seed=7, decay_unit="step"),
        tiny_run().changed(encoder__batch_norm=False, classifier__batch_norm=False, precision="bfloat16"),
        tiny_run(
            "pairs", fields=("premise=a b", "label=c"), labels=("yes, quite", "no"), min_count=3, lower=True
        ),
        tiny_run("trees", extra=("hard=/x/hard.txt",), limit=100),
        tiny_run(
            vectors="/v/glove.zip",
            train=("/a/1.jsonl", "/a/2.jsonl"),
            dev=("/a/d.jsonl",),
            branching="balanced",
        ),
    ],
    ids=["seed", "ambiguous keys", "own fields", "parser", "vectors"],
)
def test_the_command_of_the_card_has_the_same_settings(run) -> None:
    named = replace(run, data=without_folders(run.data))
    command = train_command(named)
    assert f"    {command}\n" in model_card(tiny_model().config, run, METRICS, 1)
    words = shlex.split(command)
    assert words[:2] == ["spinn", "train"]
    args = build_parser().parse_args([*words[1:], "--device", "cpu"])
    assert new_run(args) == named


def test_a_run_of_no_preset_has_no_command() -> None:
    assert train_command(own_run()) is None
    assert "settings are in config.json" in model_card(tiny_model().config, own_run(), METRICS, 1)


def test_a_score_that_there_is_not_yet() -> None:
    card = model_card(tiny_model().config, tiny_run(), {"step": 3, "best_dev_score": -1.0}, 1)
    assert "| accuracy on dev, the best of the run | not evaluated yet |" in card


# the hub


def test_the_methods_take_what_huggingface_hubs_mixin_takes() -> None:
    for name in ("from_pretrained", "save_pretrained", "push_to_hub"):
        ours = inspect.signature(getattr(HubMixin, name)).parameters
        theirs = inspect.signature(getattr(PyTorchModelHubMixin, name)).parameters
        extra = set(ours) - set(theirs)
        assert extra <= {"device", "license"}, name
        for key in set(ours) - extra:
            assert (ours[key].default, ours[key].kind) == (theirs[key].default, theirs[key].kind), (name, key)


@pytest.mark.parametrize("load", [PairClassifier.from_pretrained, Pipeline.from_pretrained])
def test_what_is_no_folder_is_looked_for_on_the_hub(load, whole, monkeypatch) -> None:
    calls = []

    def download(repo_id, **options):
        calls.append((repo_id, options))
        return str(whole)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    options = {
        "revision": "v1",
        "cache_dir": "/cache",
        "force_download": True,
        "local_files_only": True,
        "token": "t",
    }
    load("ann/spinn-snli", device="cpu", **options)
    ((repo_id, sent),) = calls
    assert repo_id == "ann/spinn-snli"
    assert sorted(sent.pop("allow_patterns")) == FILES  # and nothing else is downloaded
    assert sent == options


@pytest.mark.parametrize(
    "name", ["./runs/snli", "runs/snli/", "a/b/c", "/nowhere", "~/runs", "two words", ""]
)
def test_what_can_only_be_a_folder_is_not_looked_for_on_the_hub(name, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(CheckpointError, match=r"no such checkpoint folder|no checkpoint here"):
        PairClassifier.from_pretrained(name)
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        PairClassifier.from_pretrained(Path("ann/spinn-snli"))


def test_what_the_hub_does_not_have_is_one_line(tmp_path) -> None:
    options = {"cache_dir": tmp_path, "local_files_only": True}  # asks no network
    with pytest.raises(CheckpointError, match="not to be had from the Hugging Face Hub") as error:
        PairClassifier.from_pretrained("ann/spinn-snli", **options)
    assert str(error.value).startswith("ann/spinn-snli: no such folder")
    assert "\n" not in str(error.value)


def test_a_failing_connection_is_one_line(monkeypatch) -> None:
    class ProxyError(Exception):  # as httpx's, which is no OSError
        pass

    def download(repo_id: str, **options: object) -> str:
        raise ProxyError("502\nBad Gateway")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(CheckpointError, match=r"^ann/spinn: no such folder, .* \(502 Bad Gateway\)$"):
        PairClassifier.from_pretrained("ann/spinn")


class Hub:
    """Stands for HfApi, and keeps what was sent."""

    sent: list[tuple[str, object]] = []  # noqa: RUF012

    def __init__(self, token: str | None = None) -> None:
        self.sent.append(("token", token))

    def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> SimpleNamespace:
        self.sent.append(("create", (repo_id, private, exist_ok)))
        return SimpleNamespace(repo_id=f"ann/{repo_id}")

    def upload_folder(self, folder_path: Path, **options: object) -> str:
        self.sent.append(("files", sorted(os.listdir(folder_path))))
        self.sent.append(("model", PairClassifier.from_pretrained(folder_path)))
        self.sent.append(("options", options))
        return "https://huggingface.co/commit"


def test_a_model_is_pushed_as_the_bundle_that_it_is(whole, monkeypatch) -> None:
    monkeypatch.setattr(Hub, "sent", [])
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    model = PairClassifier.from_pretrained(whole)
    address = model.push_to_hub("spinn", token="t", private=True, branch="b", create_pr=True, license="mit")
    assert address == "https://huggingface.co/commit"
    sent = dict(Hub.sent)
    assert sent["token"] == "t"
    assert sent["create"] == ("spinn", True, True)
    assert sent["files"] == FILES
    assert same_weights(sent["model"], model)
    assert sent["options"] == {
        "repo_id": "ann/spinn",
        "repo_type": "model",
        "commit_message": "Push model using huggingface_hub.",
        "revision": "b",
        "create_pr": True,
    }


def test_a_model_that_cannot_be_saved_sends_nothing(monkeypatch) -> None:
    monkeypatch.setattr(Hub, "sent", [])
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    with pytest.raises(CheckpointError, match="float32"):
        tiny_model().bfloat16().push_to_hub("spinn")
    assert Hub.sent == []


def test_provenance_is_what_a_checkpoint_holds(whole) -> None:
    checkpoint = load_checkpoint(whole)
    provenance = Provenance(checkpoint.vocabulary, checkpoint.config.run, checkpoint.config.metrics)
    assert checkpoint.model.provenance == provenance
