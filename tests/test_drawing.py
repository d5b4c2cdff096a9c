"""Trees drawn on a terminal and on a page, up to a length beyond which nobody could look at them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spinn_tensor.cli.main import main
from spinn_tensor.data_prep.tree_view import side_by_side, tree_lines
from spinn_tensor.data_prep.trees import Tree, format_binary, parse_binary, right_branching
from tests.tiny_bundles import tiny_bundle

Capture = pytest.CaptureFixture[str]
LIMIT = 1_000  # words of a tree that is drawn


def test_tree_view() -> None:
    tree = parse_binary("( ( the church ) ( ( has cracks ) . ) )")
    assert tree_lines(tree) == [
        "┬─┬──── the",
        "│ └──── church",
        "└─┬─┬── has",
        "  │ └── cracks",
        "  └──── .",
    ]
    assert tree_lines(parse_binary("church")) == ["─ church"]
    assert side_by_side(["ab", "c"], ["x"]) == ["ab    x", "c"]


def test_tree_view_of_a_long_chain_has_a_line_a_word() -> None:
    n_tokens = 500
    transitions = np.array([0] + [0, 1] * (n_tokens - 1), dtype=np.int8)
    assert len(tree_lines(Tree(("w",) * n_tokens, transitions))) == n_tokens


def chain(n_words: int) -> str:
    return format_binary(right_branching(["w"] * n_words))


def test_parse_draws_up_to_a_limit_and_says_so_beyond_it(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "in.txt").write_text("".join("w " * n_words + "\n" for n_words in (LIMIT, LIMIT + 1, 2)))
    arguments = ["parse", "--branching", "right", "--draw", "--input", str(tmp_path / "in.txt")]
    assert main(arguments) == 0
    drawn, beyond, short, end = capsys.readouterr().out.split("\n\n")
    assert drawn.splitlines() == tree_lines(parse_binary(chain(LIMIT)))
    note, parse = beyond.splitlines()
    assert "not drawn" in note
    assert "1,001 words" in note
    assert parse == chain(LIMIT + 1)
    assert short.splitlines() == ["┬── w", "└── w"]
    assert end == ""


@pytest.mark.parametrize("long", ["premise", "hypothesis"])
def test_predict_draws_up_to_a_limit(long: str, tmp_path: Path, capsys: Capture) -> None:
    texts = {"premise": "( cats sing )", "hypothesis": "( dogs bark )", long: chain(LIMIT + 1)}
    options = [word for name, text in texts.items() for word in (f"--{name}", text)]
    assert main(["predict", str(tiny_bundle(tmp_path / "bundle")), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = lines.index(long)
    assert "not drawn" in lines[place + 1]
    assert lines[place + 2] == chain(LIMIT + 1)
    other = {"premise": "dogs", "hypothesis": "cats"}[long]
    assert f"┬── {other}" in lines


def test_the_page_draws_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.txt").write_text(f"{chain(LIMIT + 1)}\n( dogs bark )\n")
    Path("dev.txt").write_text("( cats sing )\n")
    files = ["--train", "train.txt", "--dev", "dev.txt"]
    assert main(["inspect", "--corpus", "trees", *files, "--html", "a.html"]) == 0
    html = Path("a.html").read_text(encoding="utf-8")
    assert html.count('role="img"') == 1
    assert "not drawn" in html
