"""The benchmark on SNLI: it goes on where it stopped, and ships a model that answers."""

from __future__ import annotations

import gzip
import json
import shutil
import statistics
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import harness, snli
from spinn_tensor import Pipeline
from spinn_tensor.data_prep.errors import DataError

pytest.importorskip("pyarrow")
PAIRS = [
    ("A dog runs.", "An animal moves.", "entailment"),
    ("A cat sleeps.", "A cat runs.", "contradiction"),
    ("A man eats.", "The man is hungry.", "neutral"),
]
TINY = {
    "encoder__embedding_dim": 4,
    "encoder__hidden_dim": 4,
    "encoder__tracker_dim": 2,
    "classifier__mlp_dim": 4,
}


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Write a tiny corpus and vectors, and return the options that name them."""
    for i, name in enumerate((*snli.TRAINING_PAIRS, snli.DEV)):
        records = [
            {"sentence1": premise, "sentence2": hypothesis, "gold_label": label}
            for premise, hypothesis, label in PAIRS * (4 + i)
        ]
        text = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    words = sorted({word for pair in PAIRS for text in pair[:2] for word in (*text[:-1].split(), ".")})
    lines = [f"{word} {i / 9:.3f} 0.1 -0.1 0.01\n" for i, word in enumerate(words)]
    (tmp_path / "vectors.txt").write_text("".join(lines))
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(snli, "SETTINGS", {**snli.SETTINGS, **TINY})
    monkeypatch.setattr(snli, "EPOCHS", 1)
    monkeypatch.setattr(snli, "_epochs", lambda size: 1)
    named = {"data": tmp_path, "vectors": tmp_path / "vectors.txt", "output": tmp_path / "runs"}
    return ["--quick", "--sizes", "20", "10", *(x for k, v in named.items() for x in (f"--{k}", str(v)))]


def test_it_goes_on_where_it_stopped_and_ships_a_model(options: list[str], tmp_path: Path) -> None:
    out, shipped = tmp_path / "snli.json", tmp_path / "shipped"
    with pytest.raises(DataError, match="no run is done yet"):
        snli.main([*options, "--minutes", "1e-9", "--out", str(out)])
    snli.main([*options, "--kinds", "bow", "--out", str(out)])
    result = json.loads(out.read_text())
    assert list(result["runs"]) == ["bow-20-1", "bow-10-1", "bow-20-2"]
    assert result["missing"] == 0
    means = [
        statistics.mean(run["dev"] for run in result["runs"].values() if run["size"] == n) for n in (10, 20)
    ]
    line = next(x for x in out.with_suffix(".md").read_text().splitlines() if x.startswith("| sum of words"))
    assert [cell.strip() for cell in line.split("|")[3:5]] == [f"{mean:.1%}" for mean in means]
    shutil.rmtree(tmp_path / "runs")  # what was published is not done again
    snli.main([*options, "--out", str(out), "--ship", str(shipped)])
    with pytest.raises(DataError, match="the run to ship is gone"):
        snli.main([*options, "--out", str(out), "--output", str(tmp_path / "elsewhere"), "--ship", "nowhere"])
    rows = json.loads(out.read_text())["runs"]
    assert {name: rows[name] for name in result["runs"]} == result["runs"]
    assert sorted(rows.keys() - result["runs"].keys()) == ["spinn-10-1", "spinn-20-1", "spinn-20-2"]
    assert sorted(path.name for path in (tmp_path / "runs").glob("*/bow-*")) == []
    weights = load_file(shipped / "model.safetensors")
    assert {t.dtype for name, t in weights.items() if "embedding" in name} == {torch.float16}
    config = json.loads((shipped / "config.json").read_text())
    assert config["metrics"]["best_dev_score"] == rows["spinn-20-1"]["dev"]
    assert str(tmp_path) not in json.dumps(config)
    assert Pipeline.from_pretrained(shipped).classify("A dog runs.", "An animal moves.").label in (
        "entailment",
        "neutral",
        "contradiction",
    )
