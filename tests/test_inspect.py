"""`spinn inspect`: what it prints is so, and its page is one file in which words of a corpus are only words."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import pytest

from spinn_tensor.data_prep.corpora.generated import GENERATORS
from spinn_tensor.data_prep.corpora.splits import prepare
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.training.config import DataConfig
from tests.command_line import Spinn
from tests.tiny_runs import TINY_LOGIC

pytest.importorskip("datasets")


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


def test_figures_of_a_small_corpus(files: list[str], spinn: Spinn) -> None:
    printed = spinn(*files).out
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


def test_bad_lines_are_counted_and_the_first_ones_named(files: list[str], spinn: Spinn) -> None:
    printed = " ".join(spinn(*files).out.split())
    for row in (
        "first ones ─ not JSON: Expecting value 4 train.jsonl:3, 7, 8, …",
        "sentence2_binary_parse: unbalanced: '(' is 1 train.jsonl:5 never closed",  # folded
        "gold_label '-' 1 ",
    ):
        assert row in re.sub("─+", "─", printed)


TREE_FILES = {
    "a.txt": ["( dogs bark )", "( a", "( b"],
    "b.txt": ["( cats bark )", "( a", "( b ) ) )", "( c"],
    "bad.txt": ["( a"],
    "worse.txt": ["( a", "( b"],
    "dev.txt": ["( dogs bark )", "( a"],
}


@pytest.fixture
def tree_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with bad lines in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, lines in TREE_FILES.items():
        Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.usefixtures("tree_files")
def test_bad_lines_are_counted_for_each_file(spinn: Spinn) -> None:
    files = ["--train", "a.txt", "--train", "b.txt", "--dev", "dev.txt"]
    by_file = "2 in a.txt, 3 in b.txt, 1 in dev.txt"
    assert by_file in spinn("inspect", "--corpus", "trees", *files, "--html", "a.html").out
    assert by_file in Path("a.html").read_text()
    printed = spinn("prepare", "--corpus", "trees", *files, "--skip-bad", "--output", "store").err
    assert f"6 lines skipped, {by_file}: " in printed
    assert "6 in store, 3 in b.txt" in spinn("inspect", "--data", "store", "--extra", "more=b.txt").out


@pytest.mark.usefixtures("tree_files")
@pytest.mark.parametrize(
    "files, message",
    [
        (["--train", "a.txt", "--dev", "bad.txt"], "bad.txt: no examples (1 line skipped: 1 x "),
        (
            ["--train", "bad.txt", "--train", "worse.txt", "--dev", "dev.txt"],
            "error: no examples in 2 files, bad.txt, worse.txt (3 lines skipped, 1 in bad.txt, 2 in worse.txt: ",
        ),
    ],
)
def test_no_example_is_told_of_what_was_left_out_there(files: list[str], message: str, spinn: Spinn) -> None:
    assert message in spinn.fails("inspect", "--corpus", "trees", *files).err


@pytest.mark.usefixtures("tree_files")
def test_what_was_left_out_before_an_error_is_kept() -> None:
    Path("later.txt").write_bytes(b"")
    skipped = Skipped()
    data = DataConfig(corpus="trees", train=("a.txt", "later.txt"), dev=("dev.txt",), skip_bad=True)
    with pytest.raises(DataError, match=r"later\.txt: an empty file"):
        prepare(data, skipped)
    assert skipped.files == {"a.txt": 2}


def test_a_prepared_corpus_is_what_its_files_are(files: list[str], spinn: Spinn) -> None:
    spinn("prepare", *files[1:], "--skip-bad", "--output", "store")
    from_files = spinn(*files).out
    prepared = spinn("inspect", "--data", "store").out
    assert prepared.startswith("snli: store\n")
    assert (
        prepared[prepared.index("words of a sentence") :]
        == from_files[from_files.index("words of a sentence") :]
    )
    assert rows(prepared)["not JSON: Expecting value"][0] == "4"


class Checked(HTMLParser):
    """The tags and words of a page, each of whose tags is closed in turn, and which loads nothing."""

    VOID = ("meta", "img")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.trees: list[list[str]] = []  # the words of each
        self.in_word = False
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        values = {name: value or "" for name, value in attrs}
        assert values.pop("src", "data:image/svg+xml;base64,").startswith("data:image/svg+xml;base64,")
        assert not {"href", "onload", "xlink:href"} & set(values)
        if values.get("class", "").startswith("tree"):
            self.trees.append([])
        if tag == "span":
            self.in_word = values["class"].startswith("word")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.in_word and self.open[-1] == "span":
            self.trees[-1].append(data)


def test_the_page_is_one_inert_well_formed_file(files: list[str], spinn: Spinn) -> None:
    assert spinn(*files, "--html", "corpus.html", "--trees", "9").out.endswith("wrote corpus.html\n")
    html = Path("corpus.html").read_text(encoding="utf-8")
    page = Checked(html)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?:|//|url\(|@import|@font-face", re.sub('base64,[^"]*', "", html))
    assert "default-src 'none'" in html
    assert "prefers-color-scheme: dark" in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 1
    text = "".join(page.text)
    for part in ("sentences that train has too", "train.jsonl:3", "example 3: contradiction", "empty rows"):
        assert part in text
    assert page.trees == [["a", "b", "c"], ["a", "b"], ["a", "b", "c"], ["a", "b"], ["d"], [SCRIPT, "&"]]
    # lengths and heights of both sides, classes, two kinds of tables
    assert page.tags.count("img") == 2 + 2 + 1 + 2


def test_the_page_says_what_to_install(
    files: list[str], spinn: Spinn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # cannot be imported
    errors = spinn.fails(*files, "--html", "corpus.html").err
    assert len(errors.splitlines()) == 1
    assert "pip install 'spinn_tensor[plots]'" in errors
    assert not Path("corpus.html").exists()
    spinn(*files)


def test_no_trees_and_the_same_page_again(files: list[str], spinn: Spinn) -> None:
    for name in ("a.html", "b.html"):
        spinn(*files, "--html", name, "--trees", "0")
    assert Path("a.html").read_bytes() == Path("b.html").read_bytes()
    assert "Sample trees" not in Path("a.html").read_text(encoding="utf-8")


def test_labels_of_nodes(tmp_path: Path, spinn: Spinn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("(3 (2 a) (4 (4 b) (2 c)))\n(1 (2 a) (0 d))\n")
    got = rows(
        spinn("inspect", "--corpus", "sst", "--train", "a.txt", "--dev", "a.txt", "--html", "page.html").out
    )
    assert got["very positive"] == ["0", "0"]  # of sentences
    html = Path("page.html").read_text(encoding="utf-8")
    assert Checked(html).trees == [["a", "b", "c"], ["a", "d"]]
    assert re.findall(r"<b>(\d)</b>", html) == [*"24243", *"201"]
    assert "Nodes: 0 very negative, 1 negative, 2 neutral, 3 positive, 4 very positive." in html
    nodes = html[html.index("class of a node") :]
    assert "<td>very positive</td><td>2 (25.0%)</td>" in nodes


def test_trees_alone_have_no_classes(tmp_path: Path, spinn: Spinn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("( a ( b c ) )\n( d e )\n")
    printed = spinn(
        "inspect", "--corpus", "trees", "--train", "a.txt", "--dev", "a.txt", "--html", "page.html"
    ).out
    assert "class" not in printed
    assert "other label" not in printed
    assert "<h2>Classes</h2>" not in Path("page.html").read_text(encoding="utf-8")


def test_coverage_of_words_and_of_tokens(files: list[str], spinn: Spinn) -> None:
    Path("glove.txt").write_text("a 1 2\nb 1 3\nc 0 1\n")
    printed = spinn(*files, "--vectors", "glove.txt", "--embedding", "2", "--html", "page.html").out
    after = printed[printed.index("with a vector") :]
    trains = [cells for name, *cells in map(_cells, after.splitlines()) if name == "train"]
    assert trains[0] == ["6", "3 (50.0%)", "13", "10 (76.9%)"]
    assert "3 as spelt, 0 in lower case, 0 unescaped" in " ".join(after.split())
    assert "<h2>Vectors</h2>" in Path("page.html").read_text(encoding="utf-8")


def test_the_generated_corpus_leaves_no_file(
    tmp_path: Path, spinn: Spinn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GENERATORS, "logic", GENERATORS["logic"]._replace(default=TINY_LOGIC))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    printed = spinn("inspect", "--batch-size", "16").out
    assert not list(tmp_path.iterdir())
    assert printed.startswith("logic: generated\n")
    assert rows(printed)["examples"] == ["90", "30", "30", "30"]
    assert "batches of 16 examples" in printed
