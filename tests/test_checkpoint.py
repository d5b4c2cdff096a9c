"""Checkpoints: strict reading, whole or not at all, and the same model after a trip through a folder."""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from spinn_tensor import PairClassifier
from spinn_tensor.data_prep.folders import readable, recover, write_folder
from spinn_tensor.model.classifiers import load_checkpoint
from spinn_tensor.tensor_files import CheckpointError
from spinn_tensor.training.checkpoint import save_checkpoint
from tests.processes import forked


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_a_checkpoint(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=f"{name}: no "):
        load_checkpoint(tmp_path / name)


def test_load_restores_the_model(few_steps: Path, tmp_path: Path) -> None:
    model, vocabulary, config = load_checkpoint(few_steps / "last")
    assert not model.training
    save_checkpoint(tmp_path / "again", model, vocabulary, config.run, config.metrics)
    again = load_checkpoint(tmp_path / "again")
    assert again.config == config
    assert again.vocabulary == vocabulary == again.tokenizer.vocabulary
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_weights_that_could_not_be_loaded_are_not_saved(few_steps: Path, tmp_path: Path) -> None:
    model, vocabulary, config = load_checkpoint(few_steps / "last")
    with pytest.raises(CheckpointError, match=r"tensor 'encoder\.\S+' has type torch.bfloat16"):
        save_checkpoint(tmp_path / "half", model.bfloat16(), vocabulary, config.run, config.metrics)
    assert not (tmp_path / "half").exists()


def test_a_runs_checkpoints_are_bundles(few_steps: Path) -> None:
    for folder in (few_steps, few_steps / "best", few_steps / "last"):
        model = PairClassifier.from_pretrained(folder)
        checkpoint = load_checkpoint(folder)
        assert model.provenance == checkpoint.model.provenance
        held = checkpoint.vocabulary, checkpoint.config.run, checkpoint.config.metrics
        assert model.provenance[:3] == held
        assert (model.vocabulary, model.config) == (checkpoint.vocabulary, checkpoint.config.model)
    for name in ("best", "last"):
        assert (few_steps / name / "README.md").read_text().startswith("---\nlibrary_name: ")


def test_nothing_that_is_read_can_run_and_others_may_read(few_steps: Path) -> None:
    """The state is a pickle of numbers and tensors, which `weights_only` reads."""
    files = [path for path in few_steps.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".jsonl", ".safetensors", ".md", ".pt"}
    umask = os.umask(0)
    os.umask(umask)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files if path.parent.name == "last"} == {
        0o666 & ~umask
    }


def fill(text: str) -> Callable[[Path], None]:
    """Two files that must always be seen together."""

    def write(folder: Path) -> None:
        for name in ("a", "b"):
            (folder / name).write_text(text)

    return write


def content(folder: Path) -> set[str]:
    return {path.read_text() for path in folder.iterdir()}


def test_a_folder_is_replaced_whole_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    for text in ("one", "two"):
        write_folder(target, fill(text))
        assert content(target) == {text}
        assert os.listdir(target.parent) == ["folder"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_an_error_while_writing_leaves_the_old_folder(number: int, tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", fill("old"))

    def fail(folder: Path) -> None:
        (folder / "a").write_text("half")
        raise OSError(number, "disk full")

    with pytest.raises(OSError, match="disk full") as error:
        write_folder(tmp_path / "folder", fail)
    assert error.value.filename == str(tmp_path / "folder")
    assert content(tmp_path / "folder") == {"old"}
    assert os.listdir(tmp_path) == ["folder"]


def killed_writer(target: Path, n_events: int) -> int:
    """Kill itself after so many file events of replacing a folder: opening, creating, renaming or deleting in it."""
    seen: list[str] = []

    def hook(event: str, values: tuple[Any, ...]) -> None:
        if any(isinstance(a, str | os.PathLike) and str(target.parent) in str(a) for a in values):
            seen.append(event)
            if len(seen) > n_events:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    write_folder(target, fill("new"))
    return 0


def test_killed_at_every_file_event_a_whole_folder_can_be_read(tmp_path: Path) -> None:
    seen = []
    for n_events in range(60):
        parent = tmp_path / str(n_events)
        write_folder(parent / "folder", fill("old"))
        with forked(partial(killed_writer, parent / "folder", n_events)) as writer:
            status = writer.wait()
        texts = content(readable(parent / "folder"))
        assert texts in ({"old"}, {"new"})
        seen.append((status, *texts, (parent / "folder").exists()))
        recover(parent / "folder")
        assert content(parent / "folder") == texts
        write_folder(parent / "folder", fill("newer"))
        assert content(parent / "folder") == {"newer"}
        assert os.listdir(parent) == ["folder"]
        if status == 0:
            break
    assert status == 0
    # all three cases came up: untouched, between the renames, and after them
    assert {
        (-signal.SIGKILL, "old", True),
        (-signal.SIGKILL, "old", False),
        (-signal.SIGKILL, "new", True),
    } <= set(seen)


def test_a_folder_of_runs_says_where_the_checkpoints_are(tmp_path) -> None:
    for name in ("lstm", "spinn-pi"):
        (tmp_path / name / "best").mkdir(parents=True)
        (tmp_path / name / "best" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no checkpoint here .*; there is one in lstm, spinn-pi"):
        load_checkpoint(tmp_path)
