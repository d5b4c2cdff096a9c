"""The benchmark of shared work runs, and refuses to time what computes something else."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import sharing


def test_it_runs_and_writes_its_table(tmp_path) -> None:
    n_threads = torch.get_num_threads()
    try:
        sharing.main(["--quick", "--out", str(tmp_path / "sharing.json")])
    finally:
        torch.set_num_threads(n_threads)
    rows = json.loads((tmp_path / "sharing.json").read_text())["rows"]
    assert {row["tracker"] for row in rows} == {0, 8}
    assert all(0 < row["arithmetic_left"] < 1 for row in rows)
    assert all(row["times_dynamic"][name] > 0 for row in rows for name in sharing.NAMES)
    assert "| arithmetic left |" in (tmp_path / "sharing.md").read_text()


def test_what_is_wrong_is_not_timed(monkeypatch) -> None:
    encode = sharing._encode
    monkeypatch.setattr(
        sharing, "_encode", lambda case, name: encode(case, name) * (1.01 if name == sharing.SHARED else 1)
    )
    trees = next(iter(sharing._corpora("auto", quick=True).values()))[:4]
    with pytest.raises(RuntimeError, match="shared: off by"):
        sharing._case(trees, 8, 0)
