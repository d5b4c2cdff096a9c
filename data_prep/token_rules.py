r"""Rules that turn text into tokens: those of the Penn Treebank, blanks alone, or another tokenizer's.

`PENN` makes of raw English text the tokens that SNLI's parses have:

    She doesn't like the "South Pacific" (1958) sign.
    She does n't like the `` South Pacific '' -LRB- 1958 -RRB- sign .

In this order:

    control and format characters    removed, those of no width among them; but tab, line ends and NEL are
                                     whitespace, and whitespace of any kind separates tokens
    all characters                   in Unicode's composed form (NFC), ‘ ’ “ ” … — as ' ' `` '' ... --
    . that ends the text             a token, closing brackets and quotes may follow it
    "                                `` at the start and after whitespace or an open bracket, '' elsewhere; so
                                     are two apostrophes, but those that stand alone are a '' already
    ( ) [ ] { }                      -LRB- -RRB- -LSB- -RSB- -LCB- -RCB-
    `` '' ... -- ; @ # $ % & ? ! < >     a token each, and so are : and , not before a digit
    cannot d'ye gimme gonna gotta lemme more'n wanna 'tis 'twas      two tokens each
    's 'm 'd 'll 're 've n't '       a token each at the end of a word, one or several

A text is one sentence: a period inside it stays with its word, as in `Mt. Washington`. Hyphenated words stay
whole. A token is never empty, a lone bracket, or has whitespace in it; tokens joined by blanks are tokenized
as themselves. These are the rules of nltk's `TreebankWordTokenizer` with `convert_parentheses=True`, except:

    text            nltk               here                  because
    women's-only    women's-only       women 's - only       SNLI has it so
    `` hot ''       `` hot ``          `` hot ''             tokens are tokenized as themselves
    he'd've         he'd 've           he 'd 've             tokens are tokenized as themselves
    the dogs's'     the dogs's '       the dogs 's '         tokens are tokenized as themselves
    red,,green      red , ,green       red , , green         tokens are tokenized as themselves
    ''Hot'' tea     '' Hot '' tea      `` Hot '' tea         '' opens a text as " does
    “Don’t go…”     “Don’t go…”        `` Do n't go ... ''   they are what phones write

nltk also wants a blank, not any whitespace, before an opening quote; knows 'll and 'LL, but not 'Ll; and has
U+001C to U+001F for whitespace.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import StrPath, read_json_object
from spinn_tensor.data_prep.vocabulary import SPECIAL_TOKENS, UNKNOWN_ID, Vocabulary

if TYPE_CHECKING:
    import tokenizers

# In the syntax of Oniguruma, where \A and \z are the ends of what is matched and $ would be the end of a line.
_INVISIBLE = r"\p{Cf}|(?![\t-\r\x{85}])\p{Cc}"
_TYPOGRAPHIC = {"‘": "'", "’": "'", "“": "``", "”": "''", "…": "...", "—": "--"}
_FINAL_PERIOD = r"""(?<=[^.])\.(?=[\])}>"']*\s*\z)"""
_OPENING_QUOTE = r"""(?<![^\s(\[{<])(?:"|''(?=\S))"""
_BRACKETS = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"}
# What a token stands for: quotes, each a token by itself, and escapes, in any part of it and in lower case, too.
_UNQUOTED = {"``": '"', "''": '"', "`": "'"}
_UNESCAPED = {escape: text for text, escape in _BRACKETS.items()} | {r"\/": "/", r"\*": "*"}
_ESCAPE = re.compile("|".join(map(re.escape, _UNESCAPED)), re.IGNORECASE)
_PUNCTUATION = r"``|''|\.\.\.|--|[;@#$%&?!<>]|[:,](?!\d)"
# Unassigned characters are as good as letters, so that a text splits as it does in lower case: new capitals may have
# small letters that were there before.
_BEGIN, _END = r"(?<![\w\p{Cn}])", r"(?![\w\p{Cn}])"
_CONTRACTION = (
    rf"{_BEGIN}(?i:(?:cannot|d'ye|gimme|gonna|gotta|lemme|more'n)(?:{_END}|(?=n't))|wanna(?=\z|'|n't))"
)
# What may follow a clitic is one character or another clitic: looking on to the end of a word of nothing but
# clitics would take quadratic time.
_CLITIC = r"(?i)(?<=[^'])(?:(?:'(?:s|m|d|ll|re|ve)|n't)(?=\z|[-']|n't)|'\z)"
_HYPHEN_AFTER_CLITIC = r"(?<='s|'m|'d|'ll|'re|'ve|n't)-"
_FIRST_HALF = (
    r"(?i)\A(?:can(?=not\z)|d(?='ye\z)|gim(?=me\z)|gon(?=na\z)|got(?=ta\z)|lem(?=me\z)|more(?='n\z)|wan(?=na\z)"
    r"|'t(?=(?:is|was)\z))"
)
LOWERCASE = {"type": "Lowercase"}  # as the last normalizer: the vocabulary is in lower case
_SAMPLE = "Ä dog barks."
OWN = {"type": "Fuse"}  # the decoder of rules of one's own
TREEBANK_BRACKETS = {"(": "-LRB-", ")": "-RRB-"}  # of trees; the others are words like any


class Rules(NamedTuple):
    """Say how text is made into tokens: what a `tokenizer.json` holds beside its vocabulary."""

    name: str  # "penn", "whitespace", or "own" for those of another tokenizer
    normalizers: Sequence[dict[str, Any]]
    pre_tokenizer: dict[str, Any]

    def __repr__(self) -> str:
        return f"Rules({self.name!r})"

    def backend(self, vocabulary: Vocabulary) -> tokenizers.Tokenizer:
        """Make a HF tokenizer, whose `encode` gives the vocabulary's ids. Raises DataError for rules unknown to it."""
        import tokenizers

        try:
            return tokenizers.Tokenizer.from_str(json.dumps(self.content(vocabulary)))
        except Exception as error:  # whatever `tokenizers` raises: it has no type of its own
            raise DataError(f"rules that HF tokenizers cannot read: {error}") from error

    def content(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """Make the JSON object of a `tokenizer.json`. Its decoder, which nothing uses, tells rules of one's own."""
        ids = {token: i for i, token in enumerate(vocabulary.tokens)}
        normalizers = [*self.normalizers, *([LOWERCASE] if vocabulary.lower else [])]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],  # which would be found in raw text: <pad> is no word
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": self.pre_tokenizer,
            "post_processor": None,
            "decoder": OWN if self.name == "own" else None,
            "model": {"type": "WordLevel", "vocab": ids, "unk_token": SPECIAL_TOKENS[UNKNOWN_ID]},
        }

    def bracket(self, token: str, position: int) -> str:
        """Return a lone bracket as trees write it. Raises DataError where tokens are given as they are."""
        if self.name == "whitespace":
            raise DataError("a bracket, which parses write as -LRB- or -RRB-", token=(position, token))
        return TREEBANK_BRACKETS[token]


def unescape(token: str) -> str:
    r"""Return a token of the Penn Treebank as it is written elsewhere: without the treebank's escapes.

    >>> [unescape(token) for token in ("-LRB-", "-rrb-", "``", "''", r"and\/or", r"\*")]
    ['(', ')', '"', '"', 'and/or', '*']
    """
    return _UNQUOTED.get(token) or _ESCAPE.sub(lambda match: _UNESCAPED[match[0].upper()], token)


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _split_at(regex: str, behavior: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": False}


_NORMALIZERS = [
    _replace({"Regex": _INVISIBLE}, ""),
    {"type": "NFC"},
    *(_replace({"String": character}, ascii) for character, ascii in _TYPOGRAPHIC.items()),
    _replace({"Regex": _FINAL_PERIOD}, " ."),
    _replace({"Regex": _OPENING_QUOTE}, " `` "),
    _replace({"String": '"'}, " '' "),
    *(_replace({"String": bracket}, f" {name} ") for bracket, name in _BRACKETS.items()),
]
_PRE_TOKENIZERS = [
    {"type": "WhitespaceSplit"},
    _split_at(_PUNCTUATION, "Isolated"),
    _split_at(_CONTRACTION, "Isolated"),
    _split_at(f"{_CLITIC}|{_HYPHEN_AFTER_CLITIC}", "Isolated"),
    _split_at(_FIRST_HALF, "MergedWithPrevious"),
]
PENN = Rules("penn", _NORMALIZERS, {"type": "Sequence", "pretokenizers": _PRE_TOKENIZERS})
# SST has words with other blanks in them
WHITESPACE = Rules("whitespace", [], _split_at(r"[ \t\r\n]+", "Removed"))
NAMED = {rules.name: rules for rules in (PENN, WHITESPACE)}


def read_rules(name_or_path: StrPath) -> Rules:
    """Return the rules of a name of `NAMED`, or those in a `tokenizer.json` of HF `tokenizers`.

    Of a file its normalizer and pre-tokenizer are taken, which make words. Pieces of words, which its model may make of
    them, are not: the leaves of a tree are words. Raises DataError for a file that has no pre-tokenizer or one that
    makes no words, and for one that `tokenizers` cannot read.
    """
    if name_or_path in NAMED:
        return NAMED[str(name_or_path)]
    content = read_json_object(name_or_path)
    if not isinstance(content.get("pre_tokenizer"), dict):
        known = " or ".join(NAMED)
        reason = f"no pre-tokenizer, which would split text into words; expected {known}, or a tokenizer.json with one"
        raise DataError(reason, path=name_or_path, field="pre_tokenizer")
    normalizers = [] if (normalizer := content.get("normalizer")) is None else [normalizer]
    if normalizers == [LOWERCASE]:  # else it would be taken for the vocabulary's
        normalizers = [{"type": "Sequence", "normalizers": normalizers}]
    rules = Rules("own", normalizers, content["pre_tokenizer"])
    try:
        backend = rules.backend(Vocabulary.build([]))
    except DataError as error:
        raise error.at(path=name_or_path) from error.__cause__
    text = backend.normalizer.normalize_str(_SAMPLE)
    for token, _ in backend.pre_tokenizer.pre_tokenize_str(text):
        if token not in text or " " in token:  # as GPT-2's bytes and SentencePiece's blanks
            reason = (
                f"makes {token!r} of {_SAMPLE!r}; expected one that makes words, as they stand in the text"
            )
            raise DataError(reason, path=name_or_path, field="pre_tokenizer")
    return rules
