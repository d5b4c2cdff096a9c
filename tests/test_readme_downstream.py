"""README's example of downstream code runs, in a program of its own that imports nothing but spinn_tensor."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.tiny_bundles import LABELS, tiny_bundle

ROOT = Path(__file__).resolve().parents[1]


def test_the_downstream_example_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (example,) = [block for block in blocks if "Pipeline.from_pretrained" in block]
    assert len(example.splitlines()) <= 10
    assert set(re.findall(r"^(?:from|import) (\w+)", example, re.MULTILINE)) == {"spinn_tensor"}
    tiny_bundle(tmp_path / "runs" / "demo" / "spinn", "spinn")  # what `make demo` leaves there
    command, environment = [sys.executable, "-c", example], {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    *predictions, parses = result.stdout.splitlines()
    assert len(predictions) == 2
    for line in predictions:
        assert line.split()[0] in LABELS["pair"]
    assert "( " in parses
