"""Penn trees through the commands, however people have them: the same as the binary trees that they stand for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from tests.closeness import assert_close
from tests.command_line import Spinn
from tests.tiny_runs import SMALL, write_pairs

pytestmark = pytest.mark.numerical

pytest.importorskip("datasets")

BINARY = ["( ( old dogs ) ( bark . ) )", "( cats ( do ( not sleep ) ) )"]
# the same two sentences in the ways that treebanks and parsers write them
FORMS = {
    "a tree a line": "(ROOT (S (NP (JJ old) (NNS dogs)) (VP (VBP bark) (. .))))\n"
    "(ROOT (S (NP (NNS cats)) (VP (VBP do) (VP (RB not) (VB sleep)))))\n",
    "over several lines": "( (S \n    (NP (JJ old) (NNS dogs) )\n    (VP (VBP bark) (. .) )))\n"
    "( (S \n    (NP (NNS cats) )\n    (VP (VBP do) \n      (VP (RB not) (VB sleep) ))))\n",
    "blank lines between": "\n(S\n  (NP (JJ old) (NNS dogs))\n  (VP (VBP bark) (. .)))\n\n\n"
    "(S\n  (NP (NNS cats))\n  (VP (VBP do)\n    (VP (RB not) (VB sleep))))\n\n",
    "traces and functions": "( (S (NP-SBJ-1 (JJ old) (NNS dogs)) (VP (VBP bark) (S (NP-SBJ (-NONE- *-1))) (. .))) )\n"
    "( (S (NP-SBJ (NNS cats)) (VP=2 (VBP do) (VP (RB not) (VB sleep) (NP (-NONE- *T*))))) )\n",
    "unary chains": "(S (S (NP (NP (JJ old) (NNS dogs))) (VP (VP (VBP (VBP bark)) (. .)))))\n"
    "(S (S (NP (NP (NNS cats))) (VP (VP (VBP do) (VP (RB not) (VP (VB sleep)))))))\n",
    "no tags": "(S (NP old dogs) (VP bark .))\n(S (NP cats) (VP do (VP not sleep)))\n",
    "CoreNLP's": "(ROOT|sentiment=2|prob=0.9 (S (NP (JJ old) (NNS dogs)) (VP (VBP bark) (. .))))\n"
    "(ROOT|sentiment=3|prob=0.5 (S (NP (NNS cats)) (VP (VBP do) (VP (RB not) (VB sleep)))))\n",
    "carriage returns": "(S (NP (JJ old) (NNS dogs))\r\n  (VP (VBP bark) (. .)))\r\n"
    "(S (NP cats)\r\n  (VP do (VP not sleep)))\r\n",
}


@pytest.fixture(params=FORMS)
def penn(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "trees.mrg").write_text(FORMS[request.param], newline="")
    return tmp_path / "trees.mrg"


def test_parse(penn: Path, parser_run: Path, spinn: Spinn) -> None:
    """Their words are parsed, or with --branching none written as binary parses."""
    words = [" ".join(tree.replace("(", "").replace(")", "").split()) for tree in BINARY]
    expected = spinn("parse", "--model", parser_run, "--tokens", *words).out.splitlines()
    for options, trees in ((["--model", str(parser_run)], expected), (["--branching", "none"], BINARY)):
        assert list(filter(None, spinn("parse", *options, "--input", penn).out.split("\n"))) == trees
    assert spinn("parse", "--gold", penn, "--model", parser_run).out.startswith("2 sentences, ")


def test_encode(penn: Path, pair_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    vectors = []
    (tmp_path / "binary.txt").write_text("\n".join(BINARY))
    for source in (penn, tmp_path / "binary.txt"):
        target = tmp_path / f"{source.name}.npy"
        spinn("encode", pair_run, "--input", source, "--output", target)
        rows = np.load(target)
        vectors.append(rows[~np.isnan(rows).any(1)])
    assert_close(*vectors)


def test_train_prepare_and_evaluate(penn: Path, parser_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    packed, run = tmp_path / "dev.mrg.gz", tmp_path / "run"
    packed.write_bytes(gzip.compress(penn.read_bytes()))
    corpus = ["--corpus", "trees", "--train", str(penn), "--dev", str(packed)]
    spinn("prepare", *corpus, "--output", tmp_path / "store")
    spinn("train", *corpus, *SMALL, "--epochs", "1", "--output", run)
    results = json.loads((run / "results.json").read_text())["splits"]["dev"]["parse"]
    assert (results["gold"]["n_sentences"], results["gold"]["n_brackets"]) == (2, 6)
    scores = tmp_path / "scores.json"
    found = []
    (tmp_path / "binary.txt").write_text("\n".join(BINARY))
    for data in (penn, tmp_path / "binary.txt"):
        spinn("evaluate", parser_run, "--data", data, "--json", scores)
        found.append(next(iter(json.loads(scores.read_text()).values())))
    assert found[0] == found[1]


def test_records_with_penn_trees(pair_run: Path, tree_run: Path, tmp_path: Path, spinn: Spinn) -> None:
    """SNLI's own field, and one's own names."""
    trees = FORMS["a tree a line"].splitlines()
    forms = {"parse": trees, "binary_parse": BINARY}
    printed = {}
    for ending, (first, second) in forms.items():
        source = tmp_path / f"{ending}.jsonl"
        record = {
            "pairID": "a",
            f"sentence1_{ending}": first,
            f"sentence2_{ending}": second,
            f"text_{ending}": first,
        }
        source.write_text(json.dumps(record) + "\n")
        single = tmp_path / f"{ending}1.jsonl"
        single.write_text(json.dumps({"sentenceID": 1, f"sentence_{ending}": first}) + "\n")
        output = []
        for run, file in ((pair_run, source), (tree_run, single)):
            output.append(spinn("predict", run, "--input", file).out)
        for field in ("sentence2", f"sentence2_{ending}", "text"):
            target = tmp_path / "out.npy"
            spinn("encode", pair_run, "--input", source, "--field", field, "--output", target)
            output.append(np.load(target).round(4).tolist())
        printed[ending] = output
    assert len(printed["parse"]) == 5
    assert [json.loads(text)["label"] for text in printed["parse"][:2]] == [
        json.loads(text)["label"] for text in printed["binary_parse"][:2]
    ]
    assert printed["parse"][2:] == printed["binary_parse"][2:]


def test_a_corpus_of_records_with_penn_trees(tmp_path: Path, spinn: Spinn) -> None:
    trees = FORMS["a tree a line"].splitlines()
    source = tmp_path / "pairs.jsonl"
    record = {"gold_label": "neutral", "sentence1_parse": trees[0], "sentence2_parse": trees[1]}
    source.write_text(4 * (json.dumps(record) + "\n"))
    dev = write_pairs(tmp_path / "dev.jsonl", 8, seed=2)
    files = ["--train", source, "--train", dev, "--dev", dev]
    for corpus in ("trees", "snli"):
        spinn("train", "--corpus", corpus, *files, *SMALL, "--epochs", "1", "--output", tmp_path / corpus)


def test_a_tree_that_breaks_off_is_named_by_its_first_line(
    parser_run: Path, tmp_path: Path, spinn: Spinn
) -> None:
    source = tmp_path / "a.mrg"
    source.write_text("(S (NP a)\n  (VP b))\n(S (NP (DT a)\n\n(S (NP c) (VP d))\n")
    for command in (["parse", "--model", str(parser_run)], ["parse", "--branching", "none"]):
        printed = spinn(*command, "--input", source, "--on-error", "empty")
        assert [bool(line) for line in printed.out.split("\n")[:-1]] == [True, False, False, True]
        assert printed.err.startswith("spinn: 2 lines have no tree: 1 x a blank line; 1 x unbalanced")
        assert "a.mrg:3: token 3 '(': unbalanced" in spinn.fails(*command, "--input", source).err
