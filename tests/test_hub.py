"""Models from and to the hub, without a network: what is asked of it, and what is sent."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import PyTorchModelHubMixin
from huggingface_hub.errors import GatedRepoError

from spinn_tensor import CheckpointError, PairClassifier, Pipeline
from spinn_tensor.bundle import PretrainedModel
from tests.tiny_bundles import FILES, same_weights, tiny_bundle, tiny_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that nobody changes."""
    return tiny_bundle(tmp_path_factory.mktemp("whole") / "bundle")


def test_the_methods_take_what_huggingface_hubs_mixin_takes() -> None:
    for name in ("from_pretrained", "save_pretrained", "push_to_hub"):
        ours = inspect.signature(getattr(PretrainedModel, name)).parameters
        theirs = inspect.signature(getattr(PyTorchModelHubMixin, name)).parameters
        extra = set(ours) - set(theirs)
        assert extra <= {
            "device",
            "license",
            "vocabulary",
            "tokenizer",
            "branching",
            "metrics",
            "allow_custom_code",
        }, name
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
    "name", ["./runs/snli", "runs/snli/", "a/b/c", "/nowhere", "~/runs", "two words", "", "afile"]
)
def test_what_can_only_be_a_folder_is_not_looked_for_on_the_hub(name, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("afile").touch()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    message = "a file, not a checkp" if name == "afile" else "no such checkpoint folder|no checkpoint here"
    with pytest.raises(CheckpointError, match=message):
        PairClassifier.from_pretrained(name)
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        PairClassifier.from_pretrained(Path("ann/spinn-snli"))


def test_what_the_hub_does_not_have_is_one_line(tmp_path) -> None:
    options = {"cache_dir": tmp_path, "local_files_only": True}  # asks no network
    with pytest.raises(CheckpointError, match="not to be had from the Hugging Face Hub") as error:
        PairClassifier.from_pretrained("ann/spinn-snli", **options)
    assert str(error.value).startswith("ann/spinn-snli: no such folder")
    assert str(error.value).endswith(
        "(it is not in the cache, and the hub was not reached: check the name and the network)"
    )


class ProxyError(Exception):
    """Stands for httpx's, which is no OSError."""


@pytest.mark.parametrize(
    "kind, reason",
    [
        (ProxyError, "502 Bad Gateway"),
        (GatedRepoError, "there is no such model, or it is private: .*, or log in"),
    ],
)
def test_a_failing_connection_is_one_line(kind, reason, monkeypatch) -> None:
    def download(repo_id: str, **options: object) -> str:
        raise kind.__new__(kind, "502\nBad Gateway")  # which the hub's makes of an answer

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(CheckpointError, match=rf"^ann/spinn: no such folder, .* \({reason}\)$"):
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
