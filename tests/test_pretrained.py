"""The models that come with the package: small, told of, and good for what their page says."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spinn_tensor import Pipeline, load_checkpoint
from spinn_tensor.cli.main import main
from spinn_tensor.parsers import FOLDERS, packaged_folder
from tests.machines import SHARED, needs_shared

NLI = "packaged-nli"
PAGE = packaged_folder().parent / "README.md"


def test_they_are_small_and_have_a_licence() -> None:
    files = [path for name in FOLDERS for path in packaged_folder(name).iterdir()]
    assert sum(path.stat().st_size for path in files) <= 15e6
    assert 'license: "cc-by-sa-4.0"' in (packaged_folder(NLI) / "README.md").read_text()
    assert "CC BY-SA 4.0" in PAGE.read_text()


def test_predict_needs_no_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    pair = ["--premise", "A dog runs.", "--hypothesis", "An animal moves."]
    assert main(["predict", *pair]) == 0
    unnamed = capsys.readouterr()
    assert re.search(r"packaged-nli, a demonstration \(right on \d\d\.\d% of SNLI's dev set\)", unnamed.err)
    assert re.search(r"^entailment +\d\d\.\d%", unnamed.out, re.MULTILINE)
    assert main(["predict", NLI, *pair]) == 0
    assert capsys.readouterr() == (unnamed.out, "")


def test_nli_knows_the_plainest_pairs_and_parses() -> None:
    pipeline = Pipeline.from_pretrained(NLI, device="cpu")
    premises = ["A dog runs.", "A woman is cooking.", "A man plays the guitar."]
    hypotheses = ["An animal moves.", "Nobody is cooking.", "A man plays the guitar for money."]
    labels = [prediction.label for prediction in pipeline.classify(premises, hypotheses)]
    assert labels == ["entailment", "contradiction", "neutral"]
    tree = "( ( A girl ) ( ( is ( playing ( in ( the park ) ) ) ) . ) )"
    assert pipeline.parse("A girl is playing in the park.") == tree


def test_the_server_serves_them_without_a_folder() -> None:
    pytest.importorskip("onnxruntime")
    from spinn_tensor.export.serve.engine import Engine
    from spinn_tensor.export.serve.settings import ServeSettings

    engine = Engine.open(ServeSettings(device="cpu"))
    assert (engine.name, engine.kinds) == (NLI, ["encode", "classify", "parse"])
    pair = (engine.read("A dog runs.", "inputs"), engine.read("An animal moves.", "inputs"))
    (prediction,) = engine.run("classify", [pair])
    assert prediction.label == "entailment"


def test_the_server_finds_an_export_whose_replacement_was_killed_between_two_renames(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from spinn_tensor.export.serve.engine import Engine
    from spinn_tensor.export.serve.settings import ServeSettings

    shutil.copytree(Path(__file__).parent / "formats" / "2" / "onnx", tmp_path / ".kept.old")
    engine = Engine.find(ServeSettings(str(tmp_path / "kept"), device="cpu"))
    assert engine is not None
    assert engine.name == "kept"


@needs_shared
def test_nli_is_as_good_as_its_page_says() -> None:
    lines = gzip.decompress((SHARED / "snli" / "pairs_dev_9842.jsonl.gz").read_bytes()).splitlines()
    pairs = [json.loads(line) for line in lines[::10]]
    pipeline = Pipeline.from_pretrained(NLI, device="cpu")
    found = pipeline.classify([pair["sentence1"] for pair in pairs], [pair["sentence2"] for pair in pairs])
    right = sum(p.label == pair["gold_label"] for p, pair in zip(found, pairs, strict=True)) / len(pairs)
    said = load_checkpoint(packaged_folder(NLI)).config.metrics["best_dev_score"]
    assert right == pytest.approx(said, abs=0.03)  # two standard deviations of 985 pairs
    assert f"{said:.1%}".replace("%", " %") in PAGE.read_text()


def test_a_bundle_of_float16_is_read_as_float32(tmp_path: Path) -> None:
    """What is saved of it holds float32, so that training goes on from it."""
    model = load_checkpoint(packaged_folder(NLI)).model
    stored = load_file(packaged_folder(NLI) / "model.safetensors")
    assert torch.float16 in {t.dtype for t in stored.values()}
    assert {t.dtype for t in model.state_dict().values() if t.is_floating_point()} == {torch.float32}
    model.save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "model.safetensors"
    tensors = {name: t.clone() for name, t in load_file(path).items()}  # not the file, which is written over
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float32}
    save_file({name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}, path)
    for name, tensor in load_checkpoint(tmp_path / "saved").model.state_dict().items():
        torch.testing.assert_close(
            tensor, tensors[name].half().float() if tensor.is_floating_point() else tensor
        )
