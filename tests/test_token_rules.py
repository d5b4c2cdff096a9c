"""Words by other rules than the Penn Treebank's: blanks alone, or a tokenizer.json of one's own."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers

from spinn_tensor import Pipeline
from spinn_tensor.cli.main import main
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.token_rules import PENN, WHITESPACE, Rules, read_rules
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.model.classifiers import load_checkpoint
from tests.tiny_runs import SMALL


def chinese(path: Path, normalizer: Any = None) -> Path:
    """A tokenizer as those of Chinese BERTs are: a word for every character, and pieces of other words."""
    made = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "狗": 1}, unk_token="[UNK]"))
    made.normalizer = normalizer or normalizers.BertNormalizer(lowercase=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.save(str(path))
    return path


TEXTS = ["狗在叫", "我(你)好", "SPINN 很快!", "a  b\tc", "8\xa01/2 (x)"]


def test_whitespace_leaves_words_as_they_are() -> None:
    tokenizer = Tokenizer(rules=WHITESPACE)
    assert tokenizer.tokenize(" [MAX 2 9\t[MIN 4 7 ] 0 ]\r\n") == (
        "[MAX",
        "2",
        "9",
        "[MIN",
        "4",
        "7",
        "]",
        "0",
        "]",
    )
    assert tokenizer.tokenize("8\xa01/2 don't (x) \"") == ("8\xa01/2", "don't", "(x)", '"')
    for text, reason in (("a ( b", "a bracket"), (" \t ", "without words"), ("a \ud800", "surrogate")):
        with pytest.raises(DataError, match=reason):
            tokenizer.tokenize(text)


def test_rules_of_a_file(tmp_path: Path) -> None:
    rules = read_rules(chinese(tmp_path / "hf.json"))
    assert Tokenizer(rules=rules).tokenize("狗在叫(ok)") == ("狗", "在", "叫", "-LRB-", "ok", "-RRB-")
    assert read_rules("penn") is PENN
    assert read_rules("whitespace") is WHITESPACE


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("name", ["penn", "whitespace", "own", "small letters"])
def test_saved_loaded_and_pickled(name: str, lower: bool, tmp_path: Path) -> None:
    normalizer = normalizers.Lowercase() if name == "small letters" else None
    file = chinese(tmp_path / "hf.json", normalizer)
    rules = read_rules(name if name in ("penn", "whitespace") else file)
    texts = [text for text in TEXTS if name != "whitespace" or " (" not in text]
    vocabulary = Vocabulary.build(map(Tokenizer(rules=rules).tokenize, texts), lower=lower)
    tokenizer = Tokenizer(vocabulary, rules)
    tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert (again.rules, again.vocabulary) == (rules, vocabulary)
    copied = pickle.loads(pickle.dumps(tokenizer))  # as for another process
    assert copied.vocabulary == vocabulary
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in texts:
        tokens = tokenizer.tokenize(text)
        assert again.tokenize(text) == copied.tokenize(text) == tokens
        if "-LRB-" not in tokens or name == "penn":
            assert backend.encode(text).ids == vocabulary.encode(tokens).tolist()


def test_a_word_with_a_blank_is_refused() -> None:
    digits = {"type": "Split", "pattern": {"Regex": "[a-z]+"}, "behavior": "Isolated", "invert": False}
    tokenizer = Tokenizer(rules=Rules("own", [], digits))
    assert tokenizer.tokenize("a1b") == ("a", "1", "b")
    with pytest.raises(DataError, match="token 2 ' 1 ': a blank in a word"):
        tokenizer.tokenize("a 1 b")


@given(st.text(max_size=30))
def test_ids_of_whitespace_are_those_of_the_vocabulary(text: str) -> None:
    tokenizer = Tokenizer(Vocabulary.build([["a", "\xa0", "é"]]), WHITESPACE)
    try:
        tokens = tokenizer.tokenize(text)
    except DataError:
        return
    assert tokenizer.backend.encode(text).ids == tokenizer.vocabulary.encode(tokens).tolist()


@pytest.mark.parametrize(
    "content, reason",
    [
        ("{}", "no pre-tokenizer"),
        ('{"pre_tokenizer": null}', "no pre-tokenizer"),
        ("[]", "expected an object"),
        ("no JSON", "not JSON"),
        ('{"pre_tokenizer": {"type": "Unheard"}}', "cannot read"),
        (
            '{"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,'
            ' "use_regex": true}}',
            "makes 'Ã",
        ),
    ],
)
def test_a_file_without_rules(content: str, reason: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "hf.json"
    path.write_text(content)
    arguments = training(tmp_path, [("a b", "c")] * 4)
    assert main([*arguments, "--tokenizer", str(path), "--output", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert str(path) in error
    assert reason in error
    assert not (tmp_path / "run" / "best").exists()


def test_rules_of_another_version_are_refused(tmp_path: Path) -> None:
    """But for rules of one's own, which the file itself holds."""
    Tokenizer(Vocabulary.build([["a"]])).save(tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["pre_tokenizer"]["pretokenizers"].pop()
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="not the rules of this version"):
        Tokenizer.load(tmp_path / "tokenizer.json")
    own = Rules("own", content["normalizer"]["normalizers"], content["pre_tokenizer"])
    Tokenizer(rules=own).save(tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path / "tokenizer.json").rules == own


def training(folder: Path, pairs: list[tuple[str, str]]) -> list[str]:
    records = [
        {"gold_label": "entailment", "sentence1": premise, "sentence2": hypothesis, "pairID": "x"}
        for premise, hypothesis in pairs
    ]
    records[0]["gold_label"] = records[2]["gold_label"] = "neutral"
    (folder / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    files = ["--train", str(folder / "pairs.jsonl"), "--dev", str(folder / "pairs.jsonl")]
    return ["train", "--corpus", "pairs", *files, "--branching", "right", "--epochs", "1", *SMALL]


def test_chinese_from_training_to_a_pipeline(tmp_path: Path, capsys: Any) -> None:
    pairs = [("狗在叫", "狗叫"), ("我(你)好", "你好")] * 8
    tokenizer = str(chinese(tmp_path / "hf.json"))
    run = tmp_path / "run"
    assert main([*training(tmp_path, pairs), "--tokenizer", tokenizer, "--output", str(run)]) == 0
    (tmp_path / "hf.json").unlink()  # the bundle holds the rules
    model = load_checkpoint(run).model
    assert {"狗", "在", "叫", "-LRB-"} <= set(model.vocabulary.tokens)
    pipeline = Pipeline.from_pretrained(run)
    assert pipeline.parse(["我(你)好"]) == ["( 我 ( -LRB- ( 你 ( -RRB- 好 ) ) ) )"]
    model.save_pretrained(tmp_path / "again")
    assert Pipeline.from_pretrained(tmp_path / "again").parse(["狗在叫"]) == ["( 狗 ( 在 叫 ) )"]
    assert main(["predict", str(run), "--premise", "狗在叫", "--hypothesis", "狗"]) == 0
    assert "not in the vocabulary" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["bow", "spinn-pi"])
def test_listops_has_words_between_blanks(kind: str, tmp_path: Path) -> None:
    """Penn's rules would make `-LSB- MAX` of `[MAX`, all unknown, and of it a confident digit."""
    lines = ["9\t( ( ( [MAX 2 ) 9 ) ] )", "2\t( ( ( [MIN 2 ) 9 ) ] )"] * 8
    (tmp_path / "a.tsv").write_text("\n".join(lines) + "\n")
    files = ["--train", str(tmp_path / "a.tsv"), "--dev", str(tmp_path / "a.tsv")]
    run = tmp_path / "run"
    arguments = ["train", "--corpus", "listops", *files, "--kind", kind, "--epochs", "1", *SMALL]
    assert main([*arguments, "--output", str(run)]) == 0
    pipeline = Pipeline.from_pretrained(run)
    parsed = pipeline.classify(["( ( ( [MAX 2 ) 9 ) ] )"])
    if kind == "bow":
        assert pipeline.classify(["[MAX 2 9 ]"]) == parsed
    else:  # a parser of English has no trees for it
        with pytest.raises(DataError, match="text without a parse"):
            pipeline.classify(["[MAX 2 9 ]"])
