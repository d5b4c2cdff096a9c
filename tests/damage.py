"""Ways to damage a bundle, and what its reading says of each."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def change_tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name)

    return damage


def change_json(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        change(values)
        (folder / name).write_text(json.dumps(values))

    return damage


def truncate(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, os.path.getsize(folder / name) // 2)


def words(tokenizer: dict) -> dict[str, int]:
    """Ids of the words in a tokenizer.json."""
    return tokenizer["model"]["vocab"]


WEIGHTS = "model.safetensors"
DAMAGE = {
    "a width that no machine has": (
        change_json("config.json", lambda c: c["model"]["encoder"].update(hidden_dim=10**12)),
        r"config.json: no model can have these sizes",
    ),
    "a width that no integer of torch has": (
        change_json("config.json", lambda c: c["model"]["encoder"].update(hidden_dim=10**20)),
        r"config.json: no model can have these sizes",
    ),
    "more layers than a machine makes in a minute": (
        change_json("config.json", lambda c: c["model"]["classifier"].update(mlp_layers=10**5)),
        r"config.json: mlp_layers: expected 0 to 100, got 100000",
    ),
    "a wider model than the file's": (
        change_json("config.json", lambda c: c["model"]["encoder"].update(hidden_dim=10**5)),
        r"model.safetensors: tensor .* has shape",
    ),
    "labels that are one text": (
        change_json("config.json", lambda c: c["model"].update(labels="abc")),
        r"config.json: labels: expected a list of names, got 'abc'",
    ),
    "metrics that are none": (
        change_json("config.json", lambda c: c.update(metrics=["ab"])),
        r"config.json: metrics: expected an object of finite numbers",
    ),
    "settings of a run that JSON has not": (
        change_json("config.json", lambda c: c["run"]["training"].update(rates=[1, {"b": float("inf")}])),
        r"config.json: run.training.rates.b: expected a finite number, got inf$",
    ),
    "a version that is no whole number": (
        change_json("config.json", lambda c: c.update(format_version=2.0)),
        r"config.json: format version 2.0",
    ),
    "missing tensor": (
        change_tensors(WEIGHTS, lambda t: t.pop("mlp.output.bias")),
        r"model.safetensors: tensor 'mlp.output.bias' is missing",
    ),
    "extra tensor": (
        change_tensors(WEIGHTS, lambda t: t.update(extra=torch.zeros(1))),
        r"model.safetensors: tensor 'extra' is not part of the model",
    ),
    "misshapen tensor": (
        change_tensors(WEIGHTS, lambda t: t.update({"mlp.output.bias": torch.zeros(4)})),
        r"model.safetensors: tensor 'mlp.output.bias' has shape \(4,\), expected \(3,\)",
    ),
    "tensor of another type": (
        change_tensors(WEIGHTS, lambda t: t.update({"mlp.output.bias": torch.zeros(3, dtype=torch.float64)})),
        r"model.safetensors: tensor 'mlp.output.bias' has type torch.float64, expected torch.float32",
    ),
    "weights of a training that went astray": (
        change_tensors(WEIGHTS, lambda t: t["mlp.output.weight"].view(-1)[0].fill_(float("nan"))),
        r"model.safetensors: tensor 'mlp.output.weight' holds NaN or infinity",
    ),
    "truncated weights": (truncate(WEIGHTS), r"model.safetensors: not a whole safetensors file"),
    "empty weights": (lambda f: os.truncate(f / WEIGHTS, 0), r"model.safetensors: not a whole"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), r"model.safetensors: no such file"),
    "truncated config": (truncate("config.json"), r"config.json: not JSON"),
    "config without an end": (
        lambda f: (f / "config.json").write_text("[" * 100_000),
        r"config.json: not JSON",
    ),
    "config that is a list": (
        lambda f: (f / "config.json").write_text("[]"),
        r"config.json: got a JSON list, expected an object",
    ),
    "newer format": (
        change_json("config.json", lambda c: c.update(format_version=99)),
        r"config.json: format version 99; this program reads 2$",
    ),
    "older format": (
        change_json("config.json", lambda c: c.update(format_version=1)),
        r"config.json: format version 1; this program reads 2: train the model again",
    ),
    "no format": (change_json("config.json", lambda c: c.pop("format_version")), r"format version None"),
    "unknown key": (change_json("config.json", lambda c: c.update(colour=1)), r"key 'colour' is unknown"),
    "missing key": (change_json("config.json", lambda c: c.pop("metrics")), r"key 'metrics' is missing"),
    "unknown model key": (
        change_json("config.json", lambda c: c["model"]["encoder"].update(depth=2)),
        r"config.json: EncoderConfig: unknown key 'depth'",
    ),
    "unknown branching": (
        change_json("config.json", lambda c: c["run"]["data"].update(branching="up")),
        r"config.json: branching: expected one of",
    ),
    "value of another type": (
        change_json("config.json", lambda c: c["model"]["encoder"].update(hidden_dim="8")),
        r"config.json: EncoderConfig.hidden_dim: expected int, got '8'",
    ),
    "value out of range": (
        change_json("config.json", lambda c: c["model"]["encoder"].update(kind="gru")),
        r"config.json: kind: expected one of",
    ),
    "section that is no object": (
        change_json("config.json", lambda c: c.update(run=3)),
        r"config.json: run: expected an object",
    ),
    "other vocabulary": (
        change_json("tokenizer.json", lambda t: words(t).update(new=len(words(t)))),
        r"tokenizer.json: not the vocabulary the model was trained with",
    ),
    "reordered vocabulary": (
        change_json(
            "tokenizer.json", lambda t: words(t).update(dogs=words(t)["bark"], bark=words(t)["dogs"])
        ),
        r"tokenizer.json: not the vocabulary",
    ),
    "other casing": (
        change_json("tokenizer.json", lambda t: t["normalizer"]["normalizers"].append({"type": "Lowercase"})),
        r"tokenizer.json: not the vocabulary",
    ),
    "other rules": (
        change_json("tokenizer.json", lambda t: t["pre_tokenizer"]["pretokenizers"].pop()),
        r"tokenizer.json: pre_tokenizer: not the rules of this version",
    ),
    "vocabulary with a gap": (
        change_json("tokenizer.json", lambda t: words(t).pop("dogs")),
        r"tokenizer.json: vocab: token '\S+' has the id \d+, expected each of 0 to \d+ once",
    ),
    "truncated tokenizer": (truncate("tokenizer.json"), r"tokenizer.json: not JSON"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer.json: no such file"),
}
