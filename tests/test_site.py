"""The documents are built as a site, strictly, and its pages load nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=False, text=True, capture_output=True
    )  # which tells links that lead nowhere
    assert done.returncode == 0, done.stderr
    return folder


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for path in pages:
        text = path.read_text("utf-8")
        assert not re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?:https?:)?//', text), path
    for path in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )['\"]?(?:https?:)?//", path.read_text("utf-8")), path


@pytest.mark.parametrize(
    "page, text",
    [
        ("reference/commands.html", "--max-batch-tokens"),
        ("reference/settings.html", "rms_decay"),
        ("reference/python.html", "convert_to_tensor"),
        ("reference/formats.html", "unfinished/job.json"),
        ("explanation/machine.html", "The picture: two sentences in one memory"),
    ],
)
def test_the_reference_is_what_the_code_says(site: Path, page: str, text: str) -> None:
    assert text in (site / page).read_text("utf-8")
