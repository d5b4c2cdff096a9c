"""Test how raw text becomes Penn Treebank tokens: examples, SNLI's own leaves, nltk as oracle, laws of any text."""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.trees import Tree, format_binary, parse_binary
from spinn_tensor.data_prep.vocabulary import UNKNOWN_ID, Vocabulary
from tests.machines import SHARED, needs_shared
from tests.strategies import right_branching

tokenizers = pytest.importorskip("tokenizers")
TOKENIZER = Tokenizer()
MANY = settings(max_examples=10 * settings.default.max_examples)  # 400, 1,000 in `make test-all`
SNLI = SHARED / "snli"

EXAMPLES = [
    ("A dog barks.", "A dog barks ."),
    ("A dog barks", "A dog barks"),
    ("Dogs", "Dogs"),
    ("  A\tdog \r\n barks .\n", "A dog barks ."),
    # periods
    ("I see Mt. Washington.", "I see Mt. Washington ."),
    ("He is from the U.S.", "He is from the U.S ."),
    ("It is 3.5 ft. deep", "It is 3.5 ft. deep"),
    ("So he waits... and waits...", "So he waits ... and waits ..."),
    ("Wait....", "Wait ... ."),
    ("work..", "work.."),
    ('He says "no."', "He says `` no . ''"),
    ("(He says no.)", "-LRB- He says no . -RRB-"),
    ("He says 'no.'", "He says 'no . '"),
    # other punctuation
    ("Red, white; blue: all!", "Red , white ; blue : all !"),
    ("At 10:05, 12,000 people", "At 10:05 , 12,000 people"),
    ("red,,green", "red , , green"),
    ("Why?!", "Why ? !"),
    ("It costs $50, 99% off & #8 @ home", "It costs $ 50 , 99 % off & # 8 @ home"),
    ("Now--or never - he/she", "Now -- or never - he/she"),
    ("a<b> <pad> <unk>", "a < b > < pad > < unk >"),
    ("a long-haired corn-on-the-cob seller", "a long-haired corn-on-the-cob seller"),
    # brackets
    ("(a) [b] {c}", "-LRB- a -RRB- -LSB- b -RSB- -LCB- c -RCB-"),
    ("sings,(presumably)loud", "sings , -LRB- presumably -RRB- loud"),
    ("-LRB- a -RRB-", "-LRB- a -RRB-"),
    # quotes
    ('"Hot" tea', "`` Hot '' tea"),
    ('tea ("hot"), "cold".', "tea -LRB- `` hot '' -RRB- , `` cold '' ."),
    ("''Hot'' tea", "`` Hot '' tea"),
    ('A\xa0"hot"\t"tea"\u2003"', "A `` hot '' `` tea '' ``"),
    ("`` Hot '' tea", "`` Hot '' tea"),
    ("“Don’t go…”—‘he’ said", "`` Do n't go ... '' -- 'he ' said"),
    ("kids won 'cleanest feet'", "kids won 'cleanest feet '"),
    # clitics
    ("It's the girls' dog's toy.", "It 's the girls ' dog 's toy ."),
    (
        "I'm sure they're here, he'd say we'll see I've",
        "I 'm sure they 're here , he 'd say we 'll see I 've",
    ),
    ("He doesn't, can't, WON'T.", "He does n't , ca n't , WO N'T ."),
    ("he'd've shouldn't've a's'", "he 'd 've should n't 've a 's '"),
    ("a women's-only gym, a bird's-eye view", "a women 's - only gym , a bird 's - eye view"),
    ("L'Oreal S'mores o'clock rock'n'roll", "L'Oreal S'mores o'clock rock'n'roll"),
    # two words in one
    ("Cannot, gonna gotta wanna", "Can not , gon na got ta wan na"),
    ("gimme lemme d'ye more'n", "gim me lem me d 'ye more 'n"),
    ("'Tis what 'twas", "'T is what 't was"),
    ("a wanna-be canister", "a wanna-be canister"),
    ("wanna's 'cannot-see' s'more'n 'tisn't", "wan na 's ' can not -see ' s ' more 'n 't is n't"),
    # not in any treebank
    ("a\x00b\u200bc\u00add\ufeff e\x85f\u00a0g\u2003h\u2028i", "abcd e f g h i"),
    ("cafe\u0301 \u0301x 犬が吠える。 🐕\ufe0f👨\u200d👩", "café \u0301x 犬が吠える。 🐕\ufe0f👨👩"),
]


@pytest.mark.parametrize("text, tokens", EXAMPLES, ids=[ascii(text) for text, _ in EXAMPLES])
def test_examples(text: str, tokens: str) -> None:
    assert TOKENIZER.tokenize(text) == tuple(tokens.split(" "))
    assert TOKENIZER.tokenize(tokens) == tuple(tokens.split(" "))


@pytest.mark.parametrize("text", ["", " ", "\t\r\n\x0b\x0c\x85\u00a0\u3000", "\x00\u200b\ufeff"])
def test_a_text_without_words(text: str) -> None:
    with pytest.raises(DataError, match=r"^a sentence without words$"):
        TOKENIZER.tokenize(text)


def test_half_a_surrogate_pair() -> None:
    for text, reason in (("\ud83d dog", "half of a surrogate pair"), ("un caf\udce9", "not UTF-8 text")):
        with pytest.raises(DataError, match=f"^{reason}$"):
            TOKENIZER.tokenize(text)


def test_long_texts() -> None:
    assert TOKENIZER.tokenize(" ".join(["dog's"] * 1_000) + ".") == ("dog", "'s") * 1_000 + (".",)


@pytest.mark.parametrize("part", ["'s", "'", '"', ".", "n't", "cannot", "(", " ", ".'", "\u0301", "😀"])
def test_time_is_linear(part: str) -> None:
    """A quadratic rule would take minutes for a word of so many parts."""
    assert TOKENIZER.tokenize("a" + part * 100_000 + "b")


# Pieces that rules are about, in every order.
CHARACTERS = "\"'`.,:;-()[]{}<>$%&5aé \t\n\x1f\x85\u0301\u200b\u200d‘’“”…—＂\u037e\u1fefİßſK犬🐕\ufe0f"
PIECES = st.sampled_from(
    [
        *CHARACTERS,
        *("'s", "'D", "'ll", "n't", "N'T", "''", "``", "--", "...", "-LRB-", "'tis", "'n", "'ye", "d"),
        *("can", "not", "gon", "wan", "na", "gim", "me", "more", "dog"),
    ]
)
ANY_TEXT = st.one_of(
    st.lists(PIECES, max_size=12).map("".join),
    st.text(st.characters(exclude_categories=())),  # lone surrogates included
)


@MANY
@given(ANY_TEXT)
@example("cannotn't")
@example("x'd'ye's-'tis'")
@example("s'cannotn't's")
def test_any_text_gives_tokens_that_trees_can_hold_or_one_error(text: str) -> None:
    try:
        tokens = TOKENIZER.tokenize(text)
    except DataError as error:
        reason, tokens = str(error), ()
    if not tokens:
        assert reason in ("a sentence without words", "half of a surrogate pair", "not UTF-8 text")
        return
    assert not any(set(token) & set("() \t\r\n") for token in tokens)
    parse = format_binary(Tree(tokens, right_branching(len(tokens))))
    assert parse_binary(parse).tokens == tokens
    assert TOKENIZER.tokenize(" ".join(tokens)) == tokens


WORDS = st.sampled_from(
    [
        *("A", "dog's", "it's", "girls'", "can't", "they're", "I'm", "cannot", "gonna"),
        *("T-shirt", "12,000", "3.5", "10:05", "Mr.", "he/she"),
    ]
)
FRAMES = st.sampled_from(
    ["{}"] * 8 + ['"{}"', "({})", "[{}]", "{},", "{};", "{}:", "{}...", "{}%", "${}", '("{}")', "--{}"]
)
ENDS = st.sampled_from(["", ".", "!", "?", "...", '."', ".)", " .", "?!", ".'"])


def nltk_tokenize() -> Callable[[str], list[str]]:
    treebank = pytest.importorskip("nltk.tokenize.treebank")
    oracle = treebank.TreebankWordTokenizer()
    return lambda text: oracle.tokenize(text, convert_parentheses=True)


def test_nltk_agrees_on_plain_sentences() -> None:
    oracle = nltk_tokenize()

    @given(st.lists(st.builds(str.format, FRAMES, WORDS), min_size=1, max_size=12), ENDS)
    def check(words: list[str], end: str) -> None:
        text = " ".join(words) + end
        assert list(TOKENIZER.tokenize(text)) == oracle(text)

    check()


def sentences(name: str) -> list[str]:
    """Return the distinct sentences of a file of pairs, as written."""
    with gzip.open(SNLI / name, "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return sorted({record[field] for record in records for field in ("sentence1", "sentence2")})


@needs_shared
@pytest.mark.parametrize(
    "name, n_texts",
    [("extra_2k", 3_977), pytest.param("18k", 34_313, marks=pytest.mark.slow)],
)
def test_nltk_agrees_on_raw_sentences(name: str, n_texts: int) -> None:
    oracle = nltk_tokenize()
    texts = sentences(f"pairs_train_{name}.jsonl.gz")
    assert len(texts) == n_texts
    differ = [
        text
        for text, tokens in zip(texts, map(TOKENIZER.tokenize, texts), strict=True)
        if list(tokens) != oracle(text)
    ]
    assert [text for text in differ if "'s-" not in text] == []  # where SNLI and nltk differ
    assert len(differ) <= len(texts) * 1e-4


@needs_shared
def test_the_leaves_of_snli() -> None:
    with gzip.open(SNLI / "snli_1.0_dev_slice.jsonl.gz", "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    leaves = [
        (record[field], parse_binary(record[f"{field}_binary_parse"]).tokens)
        for record in records
        for field in ("sentence1", "sentence2")
    ]
    assert len(leaves) == 2_578
    for pairs in (leaves, sorted(set(leaves))):
        got = [TOKENIZER.tokenize(text) for text, _ in pairs]
        equal = np.array([tokens == wanted for tokens, (_, wanted) in zip(got, pairs, strict=True)])
        print(f"{equal.sum()} of {len(equal)} sentences have the parse's leaves: {equal.mean():.3%}")
        assert equal.mean() >= 0.999
        again = [TOKENIZER.tokenize(" ".join(tokens)) for _, tokens in pairs]
        assert np.mean([tokens == wanted for tokens, (_, wanted) in zip(again, pairs, strict=True)]) == 1


@needs_shared
def test_tokenized_text_stays_as_it_is() -> None:
    """The sentences of this file are tokenized already, but by nltk's rule for hyphens, with ( and ) kept."""
    texts = [text for text in sentences("pairs_dev_9842.jsonl.gz") if "(" not in text and "'s-" not in text]
    assert len(texts) > 12_000
    assert list(map(TOKENIZER.tokenize, texts)) == [tuple(text.split()) for text in texts]


@pytest.mark.parametrize("lower", [False, True])
def test_ids_are_those_of_the_vocabulary(lower: bool) -> None:
    texts = [text for text, _ in EXAMPLES]
    sentences = list(map(TOKENIZER.tokenize, texts))
    vocabulary = Vocabulary.build(sentences[::2], lower=lower)
    encodings = Tokenizer(vocabulary).backend.encode_batch(texts)
    for encoding, tokens in zip(encodings, sentences, strict=True):
        assert encoding.ids == vocabulary.encode(tokens).tolist()
        assert encoding.tokens == [vocabulary.tokens[i] for i in encoding.ids]
    assert any(UNKNOWN_ID in encoding.ids for encoding in encodings)


@pytest.mark.parametrize("lower", [False, True])
def test_tokenizers_gives_the_ids_from_the_file_alone(lower: bool, tmp_path: Path) -> None:
    """The file is all that serving needs: whatever the text, it gives the ids that training gave."""
    known = [*(tokens.split(" ") for _, tokens in EXAMPLES[::2]), list(CHARACTERS), ["ΑΣ", "<pad>", "pad"]]
    vocabulary = Vocabulary.build(known, lower=lower)
    Tokenizer(vocabulary).save(tmp_path / "tokenizer.json")
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))

    @MANY
    @given(st.one_of(st.lists(PIECES, max_size=12).map("".join), st.text()))
    @example("<pad> <unk> [PAD] pad")
    @example("ΑΣ ΑΣ. ας İ'S CANNOT\u0130")
    @example("cannot\ua7d2")
    def check(text: str) -> None:
        ids = backend.encode(text).ids
        try:
            tokens = TOKENIZER.tokenize(text)
        except DataError:
            tokens = ()
        assert ids == vocabulary.encode(tokens).tolist()

    check()


@MANY
@given(st.one_of(st.lists(PIECES, max_size=12).map("".join), st.text()))
@example(" ".join(map(chr, range(0x3001))))
def test_words_split_as_they_do_in_their_text(text: str) -> None:
    """No rule of the pre-tokenizer looks beyond whitespace: a word that was seen need not be split again."""
    backend = TOKENIZER.backend
    pieces = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(f"a {text}"))
    assert TOKENIZER.tokenize(f"a {text}") == tuple(token for token, _ in pieces)


def test_tokens_keep_the_case_of_the_text() -> None:
    vocabulary = Vocabulary.build([["the", "dog", "-lrb-"]], lower=True)
    assert Tokenizer(vocabulary).tokenize("The Dog (") == ("The", "Dog", "-LRB-")
    assert Tokenizer(vocabulary).backend.encode("The Dog (").tokens == ["the", "dog", "-lrb-"]


def test_offsets_point_into_the_raw_text() -> None:
    text = 'It\'s "(hot)".'
    encoding = Tokenizer().backend.encode(text)
    words = ["It", "'s", '"', "(", "hot", ")", '"', "."]
    assert [text[start:end] for start, end in encoding.offsets] == words


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("words", ["Le café fiancé .", "Việt ệ", "한국 사람", "é é", "ẛ̣ x̣́ y"])
def test_offsets_take_letters_with_their_accents(words: str, form: str) -> None:
    text = unicodedata.normalize(form, words)
    assert [text[start:end] for start, end in TOKENIZER.offsets(text)] == text.split()


WORDS_OF_A_MODEL = (
    "<pad>",
    "<unk>",
    "A",
    "dog",
    "犬",
    "-LRB-",
    "``",
    "8\xa01/2",
    "\u2028",
    '"',
    "\\",
    "\x00",
)


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("n_words", [0, len(WORDS_OF_A_MODEL) - 2])
def test_save_and_load(lower: bool, n_words: int, tmp_path: Path) -> None:
    vocabulary = Vocabulary(WORDS_OF_A_MODEL[: n_words + 2], lower)
    Tokenizer(vocabulary).save(tmp_path / "tokenizer.json")
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.vocabulary == vocabulary
    assert loaded.vocabulary.sha256 == vocabulary.sha256
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_what_tokenizers_saves_again_is_read_too(tmp_path: Path) -> None:
    vocabulary = Vocabulary(WORDS_OF_A_MODEL)
    Tokenizer(vocabulary).backend.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path / "tokenizer.json").vocabulary == vocabulary


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "an empty file"),
        ("{", "not JSON"),
        ("[]", "not a tokenizer.json"),
        ("[" * 100_000, "not JSON"),
        ('{"lower": true, "tokens": ["<pad>", "<unk>"]}', "not a tokenizer.json"),
        ('{"a": 1, "a": 2}', "the key 'a' stands 2 times in one JSON object"),
        (None, "no such file"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError) as caught:
        Tokenizer.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def words(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Return the ids of the words in a tokenizer.json."""
    ids: dict[str, Any] = tokenizer["model"]["vocab"]
    return ids


NOT_OURS = "not the rules of this version"
CHANGES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda t: t.pop("decoder"), "not a tokenizer.json"),
    (lambda t: t.update(colour=1), "not a tokenizer.json"),
    (lambda t: t.update(version="2.0"), f"version: {NOT_OURS}"),
    (lambda t: t.update(padding={"length": 1 << 40}), f"padding: {NOT_OURS}"),
    (lambda t: t["added_tokens"].append({"id": 0, "content": "<pad>"}), f"added_tokens: {NOT_OURS}"),
    (lambda t: t.update(normalizer=None), f"normalizer: {NOT_OURS}"),
    (lambda t: t["normalizer"]["normalizers"].pop(0), f"normalizer: {NOT_OURS}"),
    (lambda t: t["normalizer"]["normalizers"].insert(0, {"type": "Lowercase"}), f"normalizer: {NOT_OURS}"),
    (lambda t: t["pre_tokenizer"]["pretokenizers"].reverse(), f"pre_tokenizer: {NOT_OURS}"),
    (
        lambda t: t["pre_tokenizer"]["pretokenizers"][1]["pattern"].update(Regex="(a*)*b"),
        f"pre_tokenizer: {NOT_OURS}",
    ),
    (lambda t: t.update(model=3), "model: expected a WordLevel model with a vocab"),
    (lambda t: t["model"].update(type="BPE"), f"model: {NOT_OURS}"),
    (lambda t: t["model"].update(unk_token="A"), f"model: {NOT_OURS}"),
    (lambda t: t["model"].update(vocab=["<pad>", "<unk>"]), "model: expected a WordLevel model"),
    (lambda t: t["model"].update(vocab={}), "a vocabulary begins with"),
    (lambda t: words(t).update({"<pad>": 1, "<unk>": 0}), "a vocabulary begins with"),
    (lambda t: words(t).update({"\ud83d": len(words(t))}), "a vocabulary holds text"),
    (lambda t: words(t).pop("dog"), r"vocab: token '\x00' has the id 11, expected each of 0 to 10 once"),
    (lambda t: words(t).update(dog=2), "vocab: token 'dog' has the id 2, expected each of 0 to 11 once"),
    (lambda t: words(t).update(dog=-1), "vocab: token 'dog' has the id -1"),
    (lambda t: words(t).update(dog=3.0), "vocab: token 'dog' has the id 3.0"),
    (lambda t: words(t).update(dog=10**30), "vocab: token 'dog' has the id 1000"),
    (lambda t: words(t).update({"<unk>": True}), "vocab: token '<unk>' has the id True"),
]


@pytest.mark.parametrize("change, message", CHANGES)
def test_other_rules_and_numbers_are_refused(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer(Vocabulary(WORDS_OF_A_MODEL)).save(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        Tokenizer.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")
