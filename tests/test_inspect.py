"""`spinn inspect`: what it prints is so, and its page is one file in which words of a corpus are only words."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.columns import LabelledColumns, sentence_columns
from data_prep.files import N_PLACES, Skipped, read_examples
from data_prep.logic import LogicConfig
from data_prep.trees import REDUCE, Tree, parse_binary, parse_labelled
from data_prep.vocabulary import Vocabulary
from spinn_tensor.cli import inspect as inspect_command
from spinn_tensor.cli import page
from spinn_tensor.cli.inspect import bar, histogram_table
from spinn_tensor.cli.inspect_page import padding_bars, padding_table, samples, shorter_path, tree_at
from spinn_tensor.cli.main import main
from spinn_tensor.cli.page import Bars, Figures, bar_plot, escape, tree_svg
from spinn_tensor.fixed_shapes import Shape, ShapeUse
from spinn_tensor.training import generated
from tests.strategies import binary_transitions, tree_of

pytest.importorskip("datasets")

Capture = pytest.CaptureFixture[str]


def pair(premise: str, hypothesis: str, label: str) -> str:
    fields = "sentence1_binary_parse", "sentence2_binary_parse", "gold_label"
    return json.dumps(dict(zip(fields, (premise, hypothesis, label), strict=True)))


SCRIPT = "<script>alert(1)</script>"
TRAIN = [
    pair("( a ( b c ) )", "( a b )", "entailment"),
    pair("( ( a b ) c )", "( a b )", "neutral"),  # the same words as the one before, and another label
    "not JSON",
    pair("d", f"( {SCRIPT} & )", "contradiction"),
    pair("d", "( ( a", "contradiction"),
    pair("a", "b", "-"),
    "[",
    "[",
    "[",
]
DEV = [pair("( a ( b c ) )", "( a b )", "entailment"), pair("d", "( z ( d a ) )", "entailment")]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`spinn inspect` of a small corpus in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, lines in (("train.jsonl", TRAIN), ("dev.jsonl", DEV)):
        Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["inspect", "--corpus", "snli", "--train", "train.jsonl", "--dev", "dev.jsonl"]


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each row of the printed tables, by the first one; the first table with such a row."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, *cells = re.split(r"\s{2,}", line.strip())
        found.setdefault(name, cells)
    return found


def test_figures_of_a_small_corpus(files: list[str], capsys: Capture) -> None:
    assert main(files) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    got = rows(printed)
    assert printed.startswith("snli: train.jsonl\n")
    for name, train, dev in (
        ("examples", "3", "2"),
        ("sentences", "6", "4"),
        ("different sentences", "4", "4"),
        ("tokens", "13", "9"),
        ("different known words", "6", "4"),
        ("tokens not in the vocabulary", "0", "1 (11.1%)"),
        ("examples that came before", "1 (33.3%)", "0"),
        ("equal examples, other label", "2 (66.7%)", "0"),
        ("examples that train has too", "–", "1 (50.0%)"),
        ("sentences that train has too", "–", "3 (75.0%)"),
        ("entailment", "1 (33.3%)", "2 (100.0%)"),
        ("neutral", "1 (33.3%)", "0"),
    ):
        assert got[name] == [train, dev], name
    assert got["train, premise"] == ["2.3", "3", "3", "3", "3"]
    assert got["dev, hypothesis"] == ["2.5", "2", "3", "3", "3"]
    trees = {name: cells for name, *cells in map(_cells, printed[printed.index("left-br.") :].splitlines())}
    assert trees["train, premise"] == ["1.3", "2", "2", "1.11", "50.0%", "50.0%"]
    assert trees["dev, hypothesis"] == ["1.5", "2", "2", "1.33", "100.0%", "0.0%"]


def _cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_bad_lines_are_counted_and_the_first_ones_named(files: list[str], capsys: Capture) -> None:
    assert main(files) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for row in (
        "first ones ─ not JSON 4 train.jsonl:3, train.jsonl:7, train.jsonl:8, …",
        "sentence2_binary_parse: 1 train.jsonl:5 unbalanced: '(' is never closed",  # folded
        "gold_label '-' 1 words of a sentence",
    ):
        assert row in re.sub("─+", "─", printed)


def test_places_are_kept_when_counts_are_added_up(tmp_path: Path) -> None:
    for name, n_bad in (("a", 2), ("b", 4)):
        (tmp_path / name).write_text("( a b )\n" + "( a\n" * n_bad)
    total = Skipped()
    for name in "ab":
        part = Skipped()
        list(read_examples(tmp_path / name, parse_binary, skip_bad=True, skipped=part))
        total.update(part)
    reason = "unbalanced: '(' is never closed"
    assert total == {reason: 6}
    assert total.places == {reason: [f"{tmp_path}/a:2", f"{tmp_path}/a:3", f"{tmp_path}/b:2"]}
    assert len(total.places[reason]) == N_PLACES
    total.clear()
    assert not total.places


def test_a_line_that_is_not_utf_8_has_a_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"( a b )\n\xff\n")
    skipped = Skipped()
    list(read_examples(tmp_path / "a", parse_binary, skip_bad=True, skipped=skipped))
    assert skipped.places == {"not UTF-8 text": [f"{tmp_path}/a:2"]}


def test_a_prepared_corpus_is_what_its_files_are(files: list[str], capsys: Capture) -> None:
    assert main(["prepare", *files[1:], "--skip-bad", "--output", "store"]) == 0
    capsys.readouterr()
    assert main(files) == 0
    from_files = capsys.readouterr().out
    assert main(["inspect", "--data", "store"]) == 0
    prepared = capsys.readouterr().out
    assert prepared.startswith("snli: store\n")
    assert (
        prepared[prepared.index("words of a sentence") :]
        == from_files[from_files.index("words of a sentence") :]
    )
    assert rows(prepared)["not JSON"][0] == "4"


class Checked(HTMLParser):
    """Counts tags, and checks that each is closed in turn."""

    VOID = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        assert not [name for name, _ in attrs if name in ("src", "href", "onload", "xlink:href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked(html: str) -> Checked:
    parser = Checked()
    parser.feed(html)
    parser.close()
    assert not parser.open
    return parser


def drawings(html: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def words(drawing: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in drawing.iter("text") if "word" in text.get("class", "")]


def test_the_page_is_one_inert_well_formed_file(files: list[str], capsys: Capture) -> None:
    assert main([*files, "--html", "corpus.html", "--trees", "9"]) == 0
    assert capsys.readouterr().out.endswith("wrote corpus.html\n")
    html = Path("corpus.html").read_text(encoding="utf-8")
    parser = checked(html)
    assert not {"script", "link", "img", "iframe", "object"} & set(parser.tags)
    assert not re.search(r"https?:|//|url\(|@import|@font-face", html)
    assert "default-src 'none'" in html
    assert "prefers-color-scheme: dark" in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 1
    text = "".join(parser.text)
    for part in ("sentences that train has too", "train.jsonl:3", "example 3: contradiction", "empty rows"):
        assert part in text

    found = [words(drawing) for drawing in drawings(html)]
    assert [sentence for sentence in found if sentence] == [
        ["a", "b", "c"],
        ["a", "b"],
        ["a", "b", "c"],
        ["a", "b"],
        ["d"],
        [SCRIPT, "&"],
    ]
    assert found.count([]) == 2 + 2 + 1 + 2  # lengths and heights of both sides, classes, two kinds of tables


def test_no_trees_and_the_same_page_again(files: list[str]) -> None:
    for name in ("a.html", "b.html"):
        assert main([*files, "--html", name, "--trees", "0"]) == 0
    assert Path("a.html").read_bytes() == Path("b.html").read_bytes()
    assert "Sample trees" not in Path("a.html").read_text(encoding="utf-8")


def test_labels_of_nodes(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("(3 (2 a) (4 (4 b) (2 c)))\n(1 (2 a) (0 d))\n")
    assert (
        main(["inspect", "--corpus", "sst", "--train", "a.txt", "--dev", "a.txt", "--html", "page.html"]) == 0
    )
    got = rows(capsys.readouterr().out)
    assert got["very positive"] == ["0", "0"]  # of sentences
    html = Path("page.html").read_text(encoding="utf-8")
    checked(html)
    first, second = drawings(html)[-2:]
    labels = [text.text for text in first.iter("text") if "word" not in text.get("class", "")]
    assert labels == ["2", "4", "2", "4", "3"]
    assert len(list(second.iter("circle"))) == 3
    assert "Nodes: 0 very negative, 1 negative, 2 neutral, 3 positive, 4 very positive." in html
    nodes = html[html.index("class of a node") :]
    assert "<td>very positive</td><td>2 (25.0%)</td>" in nodes


def test_trees_alone_have_no_classes(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("( a ( b c ) )\n( d e )\n")
    assert (
        main(["inspect", "--corpus", "trees", "--train", "a.txt", "--dev", "a.txt", "--html", "page.html"])
        == 0
    )
    printed = capsys.readouterr().out
    assert "class" not in printed
    assert "other label" not in printed
    assert "<h2>Classes</h2>" not in Path("page.html").read_text(encoding="utf-8")


def test_coverage_of_words_and_of_tokens(files: list[str], capsys: Capture) -> None:
    Path("glove.txt").write_text("a 1 2\nb 1 3\nc 0 1\n")
    assert main([*files, "--vectors", "glove.txt", "--embedding", "2", "--html", "page.html"]) == 0
    printed = capsys.readouterr().out
    after = printed[printed.index("with a vector") :]
    trains = [cells for name, *cells in map(_cells, after.splitlines()) if name == "train"]
    assert trains[0] == ["6", "3 (50.0%)", "13", "10 (76.9%)"]
    assert "<h2>Vectors</h2>" in Path("page.html").read_text(encoding="utf-8")


def test_the_generated_corpus_leaves_no_file(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = generated.GENERATORS["logic"]._replace(
        default=LogicConfig(n_train=90, n_dev=30, n_test=3, n_long=3)
    )
    monkeypatch.setitem(generated.GENERATORS, "logic", tiny)
    monkeypatch.setattr(inspect_command.tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "--batch-size", "16"]) == 0
    assert not list(tmp_path.iterdir())
    printed = capsys.readouterr().out
    assert printed.startswith("logic: generated\n")
    assert rows(printed)["examples"] == ["90", "30", "3", "3"]
    assert "batches of 16 examples" in printed


BAD = {
    "no such training file": (["--train", "none.jsonl"], "none.jsonl: no such file"),
    "no folder for the page": (["--html", "nowhere/a.html"], "nowhere/a.html: no such folder"),
    "no such preset": (["--preset", "x"], "unknown preset 'x'"),
    "no example left": (["--dev", "bad.jsonl"], "bad.jsonl: no examples"),
    "no such vectors": (["--vectors", "none.txt"], "none.txt: no such file"),
    "no such label": (["--extra", "x"], "NAME=FILE"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_are_one_line_and_leave_nothing(name: str, files: list[str], capsys: Capture) -> None:
    options, message = BAD[name]
    Path("bad.jsonl").write_text("{\n")
    arguments = ["inspect", "--corpus", "snli", "--html", "page.html", *options]
    for split in ("train", "dev"):
        if f"--{split}" not in options:
            arguments += [f"--{split}", f"{split}.jsonl"]
    before = set(Path().iterdir())
    assert main(arguments) == 1
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1
    assert message in errors
    assert set(Path().iterdir()) == before


@pytest.mark.parametrize(
    "options", [["--trees", "-1"], ["--batch-size", "0"], ["--seed", "-2"], ["--output", "x"]]
)
def test_wrong_usage(options: list[str], files: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*files, *options])
    assert exit_.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_help_teaches_by_examples(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["inspect", "--help"])
    text = capsys.readouterr().out
    assert "spinn inspect --corpus sst" in text
    assert "Bad lines do not end it" in text


USES = [
    ShapeUse(Shape(8, 1_024, 10, 64), 3, 2_048, 3_072, 24, 30),
    ShapeUse(Shape(8, 2_048, 20, 64), 0, 0, 0, 0, 0),
]


def test_padding_of_a_shape_and_of_all() -> None:
    assert padding_table("forest", USES).rows == [
        ("shape 1", "1,024", "10", "64", "3", "2,048", "33.3%", "20.0%"),
        ("shape 2", "2,048", "20", "64", "0", "0", "–", "–"),
        ("all", "", "", "", "3", "2,048", "33.3%", "20.0%"),
    ]
    bars = padding_bars("forest", USES)
    assert bars.names == ["1,024 × 10", "2,048 × 20"]
    assert bars.shares[0] == pytest.approx(1 / 3)
    assert math.isnan(bars.shares[1])
    ElementTree.fromstring(bar_plot(bars))


@given(st.text())
def test_any_text_is_inert(text: str) -> None:
    parsed = ElementTree.fromstring(f"<text>{escape(text)}</text>")
    assert not list(parsed)
    assert len(parsed.text or "") == len(text)
    assert page.table(Figures((text,), [(text,)])).count("<td>") == 1


def test_control_characters_are_replaced() -> None:
    assert (
        escape("a\x00b\x1b[31m<'\"&\ud800é\u200dの")
        == "a\ufffdb\ufffd[31m&lt;&#x27;&quot;&amp;\ufffdé\u200dの"
    )


def segments(path: str) -> list[tuple[float, float, float, float]]:
    """The straight lines of a tree's edges: a child's up, the bar, the other child's."""
    found = []
    for move in re.findall(r"M(\S+) (\S+?)V(\S+?)H(\S+?)V([\d.]+)", path):
        x1, y1, top, x2, y2 = map(float, move)
        found += [(x1, top, x1, y1), (x1, top, x2, top), (x2, top, x2, y2)]
    return found


@given(binary_transitions(max_tokens=15))
def test_a_tree_is_drawn_without_crossings(transitions: np.ndarray) -> None:
    tree = tree_of(transitions)._replace(labels=np.arange(len(transitions)))
    drawing = ElementTree.fromstring(tree_svg(tree, "a tree"))
    width, height = (float(drawing.get(name, "")) for name in ("width", "height"))
    assert words(drawing) == list(tree.tokens)
    texts = [text for text in drawing.iter("text") if "word" in text.get("class", "")]
    for a, b in pairwise(texts):
        assert float(b.get("x", "")) - float(a.get("x", "")) >= page.WORD * max(
            len(a.text or ""), len(b.text or "")
        )
    assert len({text.get("y") for text in texts}) == 1

    circles = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in drawing.iter("circle")]
    assert len(circles) == len(transitions)
    assert all(0 <= x <= width and 0 <= y <= height for x, y in circles)
    stack: list[tuple[float, float]] = []
    for (x, y), transition in zip(circles, transitions.tolist(), strict=True):
        if transition == REDUCE:
            right, left = stack.pop(), stack.pop()
            assert x == pytest.approx((left[0] + right[0]) / 2, abs=0.11)
            assert y < min(left[1], right[1])
        stack.append((x, y))

    lines = segments("".join(path.get("d", "") for path in drawing.iter("path")))
    assert len(lines) == 3 * tree.n_tokens - 3
    for x, top, _, bottom in (line for line in lines if line[0] == line[2]):
        for start, y, end, _ in (line for line in lines if line[0] != line[2]):
            assert not (start < x < end and top < y < bottom)


def test_unknown_words_are_told_apart() -> None:
    vocabulary = Vocabulary(("<pad>", "<unk>", "a"))
    columns = sentence_columns([parse_binary("( a ( zebra a ) )"), parse_labelled("(1 a)")], vocabulary)
    tree = tree_at(columns, 0, vocabulary)
    assert tree.tokens == ("a", "<unk>", "a")
    drawing = ElementTree.fromstring(tree_svg(tree, "", unknown="<unk>"))
    unknown = [text.text for text in drawing.iter("text") if text.get("class") == "word unknown"]
    assert unknown == ["<unk>"]
    assert tree_at(columns, 1, vocabulary).labels is not None


def test_nodes_without_a_label_are_dots() -> None:
    tree = parse_binary("( a ( b c ) )")._replace(labels=np.array([-100, 1, -100, -100, 0]))
    drawing = ElementTree.fromstring(tree_svg(tree, ""))
    assert [circle.get("class") for circle in drawing.iter("circle")] == ["node", "dot", "node"]
    assert [text.text for text in drawing.iter("text")] == ["a", "1", "b", "c", "0"]


def test_samples_are_drawn_once_each() -> None:
    vocabulary = Vocabulary(("<pad>", "<unk>", *"abcdefgh"))
    sentences = sentence_columns([Tree((word,), np.zeros(1, np.int8)) for word in "abcdefgh"], vocabulary)
    corpus = LabelledColumns(sentences, np.array([0, 1, -100] * 3)[:8])
    drawn = samples(corpus, ("no", "yes"), vocabulary, 5, seed=1)
    rows = [sample.row for sample in drawn]
    assert rows == sorted(set(rows))
    assert len(rows) == 5
    assert [sample.trees["sentence"].tokens[0] for sample in drawn] == ["abcdefgh"[row] for row in rows]
    assert [sample.label for sample in drawn] == [("no", "yes", "")[row % 3] for row in rows]
    assert [one.row for one in samples(corpus, ("no", "yes"), vocabulary, 5, seed=2)] != rows
    assert [sample.row for sample in samples(corpus, (), vocabulary, 99, seed=1)] == list(range(8))


@pytest.mark.parametrize(
    "part, expected",
    [(0, ""), (1e-9, "▏"), (1 / 16, "▌"), (0.5, "████"), (0.999, "████████"), (1, "████████")],
)
def test_a_bar_of_eight_characters(part: float, expected: str) -> None:
    assert bar(part, 8) == expected


@pytest.mark.parametrize("n_sides", [1, 2])
def test_histograms_fit_a_terminal(n_sides: int) -> None:
    from rich.console import Console

    plots = [Bars("hypothesis", ["1–5", "1,006–1,234"], [1.0, 0.0], ["100.0%", "0.0%"], [])] * n_sides
    console = Console(width=80)
    with console.capture() as captured:
        console.print(histogram_table("words", plots))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in captured.get()
    (full,) = (line for line in lines if "100.0%" in line)
    assert full.count("█") > 20 * n_sides
    assert full.count("100.0%") == n_sides


def test_paths_are_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shorter_path(f"{tmp_path}/a.txt:3") == "a.txt:3"
    assert shorter_path("/a.txt:3") == "/a.txt:3"
