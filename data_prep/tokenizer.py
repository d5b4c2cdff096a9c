r"""Raw English text to Penn Treebank tokens, as SNLI's parses have them.

    She doesn't like the "South Pacific" (1958) sign.
    She does n't like the `` South Pacific '' -LRB- 1958 -RRB- sign .

The rules are a normalizer and pre-tokenizers of HF `tokenizers`, so that one `tokenizer.json` holds them and
the vocabulary, and `tokenizers` alone gives the ids that a model was trained on. In this order:

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

import hashlib
import json
import re
import sys
from collections import Counter
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import StrPath, atomic_write, open_text
from spinn_tensor.data_prep.limits import Limits
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

# English repeats its words: one that was seen is looked up instead of split again. The bounds keep this to some 10 MB.
_N_REMEMBERED = 1 << 15
_LONGEST_REMEMBERED = 40
# `tokenizers` takes up to 250 bytes for a character, and ends the process where it gets none.
_MOST_CHARACTERS = 4_000_000


def unescape(token: str) -> str:
    r"""Return a token of the Penn Treebank as it is written elsewhere: without the treebank's escapes.

    >>> [unescape(token) for token in ("-LRB-", "-rrb-", "``", "''", r"and\/or", r"\*")]
    ['(', ')', '"', '"', 'and/or', '*']
    """
    return _UNQUOTED.get(token) or _ESCAPE.sub(lambda match: _UNESCAPED[match[0].upper()], token)


def penn_tokenizer(vocabulary: Vocabulary | None = None) -> tokenizers.Tokenizer:
    """Make a HF tokenizer of the rules, whose `encode` gives the vocabulary's ids; without one all words are unknown.

    With a vocabulary in lower case the tokens are in lower case.
    """
    import tokenizers

    return tokenizers.Tokenizer.from_str(json.dumps(_content(vocabulary or Vocabulary.build([]))))


class Tokenizer:
    """Turn text into tokens, by the rules alone, and number them by a vocabulary: what a `tokenizer.json` holds.

    >>> Tokenizer().tokenize("The dog's here.")
    ('The', 'dog', "'s", 'here', '.')
    """

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:  # by default one without words
        self.vocabulary = Vocabulary.build([]) if vocabulary is None else vocabulary
        rules = penn_tokenizer()
        self._normalize = rules.normalizer.normalize_str
        self._pre_tokenize = rules.pre_tokenizer.pre_tokenize_str
        self._split_remembered = lru_cache(_N_REMEMBERED)(self._split)

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[Vocabulary]]:  # what is remembered stays here
        return Tokenizer, (self.vocabulary,)

    @cached_property
    def backend(self) -> tokenizers.Tokenizer:
        """Return the HF tokenizer; its ids are `vocabulary.encode(tokenize(text))`, and it gives offsets as well."""
        return penn_tokenizer(self.vocabulary)

    def tokenize(self, text: str) -> tuple[str, ...]:
        """Return the tokens of one sentence, (N,), N > 0, in the text's own case whatever the vocabulary's.

        Raises DataError where there are none, or half a surrogate pair, and for millions of characters.
        """
        if len(text) > _MOST_CHARACTERS:
            raise DataError(f"{len(text):,} characters, expected at most {_MOST_CHARACTERS:,} in a sentence")
        try:
            normalized = self._normalize(text)
        except UnicodeEncodeError as error:
            raise DataError("half of a surrogate pair") from error
        tokens: list[str] = []
        for word in normalized.split():  # no rule of the pre-tokenizer looks beyond whitespace
            split = self._split_remembered if len(word) <= _LONGEST_REMEMBERED else self._split
            tokens += split(word)
        if not tokens:
            raise DataError("a sentence without words")
        return tuple(tokens)

    def _split(self, word: str) -> tuple[str, ...]:
        return tuple(token for token, _ in self._pre_tokenize(word))

    def save(self, path: StrPath) -> None:
        """Write as a `tokenizer.json`, atomically; `tokenizers.Tokenizer.from_file` reads it, too."""
        with atomic_write(path) as file:
            json.dump(_content(self.vocabulary), file, ensure_ascii=False, indent=1)
            file.write("\n")

    @classmethod
    def load(cls, path: StrPath) -> Tokenizer:
        """Read what `save` wrote; raises DataError for anything else, other rules than these among it.

        `tokenizers` never sees the file: what was read is compared, and the rules are made anew.
        """
        with open_text(path, limits=Limits(max_line_bytes=sys.maxsize)) as lines:  # JSON may be one line
            text = "".join(lines)
        try:
            return cls(_vocabulary(json.loads(text, object_pairs_hook=_without_repetition)))
        except DataError as error:
            raise error.at(path=path) from None
        except (ValueError, RecursionError) as error:
            raise DataError("not JSON", path=path) from error


def rules_sha256() -> str:
    """Return a hex digest of this version's rules: what others made of a text may have other words."""
    content = json.dumps(_content(Vocabulary(SPECIAL_TOKENS)), sort_keys=True)
    return hashlib.sha256(content.encode("ascii")).hexdigest()


def _content(vocabulary: Vocabulary) -> dict[str, Any]:
    """Make the JSON object of a `tokenizer.json`: these rules and this vocabulary."""
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],  # which would be found in raw text: <pad> is no word
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(vocabulary.lower)},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _pre_tokenizers()},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": SPECIAL_TOKENS[UNKNOWN_ID]},
    }


def _normalizers(lower: bool) -> list[dict[str, Any]]:
    steps = [
        _replace({"Regex": _INVISIBLE}, ""),
        {"type": "NFC"},
        *(_replace({"String": character}, ascii) for character, ascii in _TYPOGRAPHIC.items()),
        _replace({"Regex": _FINAL_PERIOD}, " ."),
        _replace({"Regex": _OPENING_QUOTE}, " `` "),
        _replace({"String": '"'}, " '' "),
        *(_replace({"String": bracket}, f" {name} ") for bracket, name in _BRACKETS.items()),
    ]
    return [*steps, {"type": "Lowercase"}] if lower else steps


def _pre_tokenizers() -> list[dict[str, Any]]:
    return [
        {"type": "WhitespaceSplit"},
        _split_at(_PUNCTUATION, "Isolated"),
        _split_at(_CONTRACTION, "Isolated"),
        _split_at(f"{_CLITIC}|{_HYPHEN_AFTER_CLITIC}", "Isolated"),
        _split_at(_FIRST_HALF, "MergedWithPrevious"),
    ]


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _split_at(regex: str, behavior: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": False}


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Check a JSON object; raises DataError for one that has a key twice, which readers understand differently."""
    values = dict(pairs)
    if len(values) != len(pairs):
        key, count = Counter(key for key, _ in pairs).most_common(1)[0]
        raise DataError(f"the key {key!r} stands {count} times in one JSON object")
    return values


def _vocabulary(content: Any) -> Vocabulary:
    """Read the vocabulary in a `tokenizer.json` of these rules. Raises DataError for any other content."""
    fields = _content(Vocabulary.build([])).keys()
    if not isinstance(content, dict) or content.keys() != fields:
        raise DataError(f"not a tokenizer.json: expected a JSON object with the fields {', '.join(fields)}")
    model = content["model"]
    ids = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(ids, dict):
        raise DataError("expected a WordLevel model with a vocab", field="model")
    lower = content["normalizer"] == {"type": "Sequence", "normalizers": _normalizers(lower=True)}
    vocabulary = Vocabulary(_by_id(ids), lower)
    for field, value in _content(vocabulary).items():
        if content[field] != value:
            raise DataError("not the rules of this version, which its models are trained with", field=field)
    return vocabulary


def _by_id(ids: dict[str, Any]) -> tuple[str, ...]:
    """Return the tokens, (V,), in the order of their ids; raises DataError unless these are 0 to V - 1."""
    tokens: list[str | None] = [None] * len(ids)
    for token, i in ids.items():
        if type(i) is not int or not 0 <= i < len(tokens) or tokens[i] is not None:
            reason = f"token {token!r:.40} has the id {i!r:.40}, expected each of 0 to {len(tokens) - 1} once"
            raise DataError(reason, field="vocab")
        tokens[i] = token
    return tuple(token for token in tokens if token is not None)
