"""What the documents name is there: files, make's targets, commands with their options, and the gate's own commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from spinn_tensor.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[1]
GATE = ROOT / ".github" / "workflows" / "gate.yml"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = sorted(
    {
        line
        for path in PAGES
        for line in re.findall(r"^    (?:.* \| )?(spinn .*)$", path.read_text("utf-8"), re.MULTILINE)
        if "..." not in line and "…" not in line
    }
)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_links_lead_to_files(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text)
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing


def test_the_site_has_every_page() -> None:
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]
    listed = set(re.findall(r"- (?:[^:\n]+: )?(\S+\.md)$", nav, re.MULTILINE))
    assert {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")} <= listed


def test_make_has_the_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for path in (*PAGES, GATE):
        used = set(re.findall(r"(?:^    |`|run: )make ([a-z-]+)", path.read_text("utf-8"), re.MULTILINE))
        assert used <= targets, f"{path}: {used - targets}"


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_have_the_options(line: str) -> None:
    command = shlex.split(re.split(r" [>|] ", line)[0], comments=True)
    assert build_parser().parse_args(command[1:]).run


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 25


def test_the_workflow_runs_what_the_gate_runs() -> None:
    yaml = pytest.importorskip("yaml")
    steps = yaml.safe_load(GATE.read_text("utf-8"))["jobs"]["gate"]["steps"]
    run = {step["run"] for step in steps if "run" in step}
    gate = set(re.findall(r"^make .*$", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE))
    assert len(gate) >= 3
    assert gate <= run
