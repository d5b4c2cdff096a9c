"""The model card: what the hub reads of it, and commands and code in it that run."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from spinn_tensor import PairClassifier, Pipeline
from spinn_tensor.card import model_card, without_folders
from spinn_tensor.cli.main import build_parser
from spinn_tensor.cli.train import new_run
from spinn_tensor.training.checkpoint import train_command
from spinn_tensor.training.config import DataConfig, RunConfig, differences
from spinn_tensor.training.presets import run_config
from tests.tiny_bundles import METRICS, own_run, tiny_bundle, tiny_model, tiny_run


@pytest.mark.parametrize(
    "kind, task", [("spinn-pi", "pair"), ("bow", "pair"), ("spinn", "sentence"), ("spinn", "parse")]
)
def test_the_hub_understands_the_card_and_its_code_runs(kind, task, tmp_path) -> None:
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
    assert "license" not in model_card(model.config, tiny_run().to_dict(), METRICS, 1)
    code = card.text.partition("```python\n")[2].partition("```")[0]
    names: dict[str, object] = {}
    exec(code.replace("FOLDER OR HUB ID", str(tmp_path / "bundle")), names)
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
        run_config("sst2-spinn-pi-nt", DataConfig(corpus="sst", train=("a",), dev=("b",), node_labels=True)),
    ],
    ids=["seed", "ambiguous keys", "own fields", "parser", "vectors", "less than its preset"],
)
def test_the_command_of_the_card_has_the_same_settings(run) -> None:
    named = RunConfig.from_dict(without_folders(run.to_dict()))
    command = train_command(named)
    assert f"    {command}\n" in model_card(tiny_model().config, run.to_dict(), METRICS, 1, command)
    words = shlex.split(command)
    assert words[:2] == ["spinn", "train"]
    args = build_parser().parse_args([*words[1:], "--device", "cpu"])
    assert new_run(args) == named


def test_the_command_of_a_preset_of_ones_own_names_another(tmp_path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('base = "logic-lstm"\n[encoder]\nhidden_dim = 7\n')
    run = run_config(str(own), DataConfig())
    words = shlex.split(str(train_command(run)))
    args = build_parser().parse_args([*words[1:], "--device", "cpu"])
    assert new_run(args) == replace(run, preset="logic-spinn-pi")


def test_a_preset_that_leaves_keys_out_is_as_the_defaults(tmp_path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[encoder]\nkind = "bow"\n')
    run = run_config(str(own), DataConfig())
    command = str(train_command(run))
    assert "None" not in command
    args = build_parser().parse_args([*shlex.split(command)[1:], "--device", "cpu"])
    assert differences(new_run(args), replace(run, preset="logic-spinn-pi")) == []


def test_a_run_of_no_preset_has_no_command() -> None:
    assert train_command(own_run()) is None
    card = model_card(tiny_model().config, own_run().to_dict(), METRICS, 1)
    assert "command is not known; its settings are in config.json" in card


@pytest.mark.parametrize(
    "command",
    [
        "spinn train --data x; rm -r y",
        "spinn train --data $(ls)",
        "spinn train --data 'x",
        "spinn train  --data x",
    ],
)
def test_a_command_that_we_did_not_write_is_not_kept(command, tmp_path) -> None:
    folder = tiny_bundle(tmp_path / "bundle")
    made = PairClassifier.from_pretrained(folder).provenance.command
    assert made is not None
    card = folder / "README.md"
    card.write_text(card.read_text().replace(made, command))
    assert PairClassifier.from_pretrained(folder).provenance.command is None
    card.unlink()
    model = PairClassifier.from_pretrained(folder)
    model.save_pretrained(tmp_path / "again")
    assert "not a preset" not in (tmp_path / "again" / "README.md").read_text()


def test_a_score_that_there_is_not_yet() -> None:
    card = model_card(tiny_model().config, tiny_run().to_dict(), {"step": 3, "best_dev_score": -1.0}, 1)
    assert "| accuracy on dev, the best of the run | not evaluated yet |" in card


def test_folders_are_not_published() -> None:
    """Where files lay is nobody's business. Names that are no paths stay."""
    run = tiny_run(
        train=("/a/b/one.jsonl", "C:\\Users\\ann\\two.jsonl"), vectors="/v/glove.zip", extra=("hard=/x/h.gz",)
    )
    data = without_folders(run.to_dict())["data"]
    assert (data["data"], data["vectors"]) == ("snli_1.0", "glove.zip")
    assert (data["train"], data["extra"]) == (["one.jsonl", "two.jsonl"], ["hard=h.gz"])
    data = {"parser": "/home/me/par", "tokenizer": "/home/me/hf.json"}
    assert without_folders({"data": data})["data"] == {"parser": "par", "tokenizer": "hf.json"}
    names = {"parser": "packaged", "tokenizer": "whitespace"}
    assert without_folders({"data": names})["data"] == names
