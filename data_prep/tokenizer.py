r"""Raw English text to Penn Treebank tokens, as SNLI's parses have them.

    She doesn't like the "South Pacific" (1958) sign.
    She does n't like the `` South Pacific '' -LRB- 1958 -RRB- sign .

The rules are a normalizer and pre-tokenizers of HF `tokenizers`, so that one `tokenizer.json` holds them and,
if there is one, the vocabulary. In this order:

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

from collections.abc import Iterable
from typing import TYPE_CHECKING

from data_prep.errors import DataError
from data_prep.files import StrPath, atomic_write, open_text
from data_prep.vocabulary import SPECIAL_TOKENS, UNKNOWN_ID, Vocabulary

if TYPE_CHECKING:
    import tokenizers

# In the syntax of Oniguruma, where \A and \z are the ends of what is matched and $ would be the end of a line.
_INVISIBLE = r"\p{Cf}|(?![\t-\r\x{85}])\p{Cc}"
_TYPOGRAPHIC = {"‘": "'", "’": "'", "“": "``", "”": "''", "…": "...", "—": "--"}
_FINAL_PERIOD = r"""(?<=[^.])\.(?=[\])}>"']*\s*\z)"""
_OPENING_QUOTE = r"""(?<![^\s(\[{<])(?:"|''(?=\S))"""
_BRACKETS = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"}
_PUNCTUATION = r"``|''|\.\.\.|--|[;@#$%&?!<>]|[:,](?!\d)"
_CONTRACTION = r"(?i)\b(?:(?:cannot|d'ye|gimme|gonna|gotta|lemme|more'n)(?:\b|(?=n't))|wanna(?=\z|'|n't))"
# What may follow a clitic is one character or another clitic: looking on to the end of a word of nothing but
# clitics would take quadratic time.
_CLITIC = r"(?i)(?<=[^'])(?:(?:'(?:s|m|d|ll|re|ve)|n't)(?=\z|[-']|n't)|'\z)"
_HYPHEN_AFTER_CLITIC = r"(?<='s|'m|'d|'ll|'re|'ve|n't)-"
_FIRST_HALF = (
    r"(?i)\A(?:can(?=not\z)|d(?='ye\z)|gim(?=me\z)|gon(?=na\z)|got(?=ta\z)|lem(?=me\z)|more(?='n\z)|wan(?=na\z)"
    r"|'t(?=(?:is|was)\z))"
)


def penn_tokenizer(vocabulary: Vocabulary | None = None) -> tokenizers.Tokenizer:
    """The rules as a HF tokenizer, whose `encode` gives the vocabulary's ids; without one all words are unknown.

    With a vocabulary in lower case the tokens are in lower case.
    """
    import tokenizers
    from tokenizers import Regex, models, normalizers, pre_tokenizers

    words = SPECIAL_TOKENS if vocabulary is None else vocabulary.tokens
    ids = {word: i for i, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(ids, unk_token=SPECIAL_TOKENS[UNKNOWN_ID]))
    steps = [
        normalizers.Replace(Regex(_INVISIBLE), ""),
        normalizers.NFC(),
        *(normalizers.Replace(character, ascii) for character, ascii in _TYPOGRAPHIC.items()),
        normalizers.Replace(Regex(_FINAL_PERIOD), " ."),
        normalizers.Replace(Regex(_OPENING_QUOTE), " `` "),
        normalizers.Replace('"', " '' "),
        *(normalizers.Replace(bracket, f" {name} ") for bracket, name in _BRACKETS.items()),
    ]
    if vocabulary is not None and vocabulary.lower:
        steps.append(normalizers.Lowercase())
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(_PUNCTUATION), "isolated"),
            pre_tokenizers.Split(Regex(_CONTRACTION), "isolated"),
            pre_tokenizers.Split(Regex(f"{_CLITIC}|{_HYPHEN_AFTER_CLITIC}"), "isolated"),
            pre_tokenizers.Split(Regex(_FIRST_HALF), "merged_with_previous"),
        ]
    )
    return tokenizer


class Tokenizer:
    """Text to tokens; `backend` is the HF tokenizer, which gives ids and offsets as well.

    >>> Tokenizer().tokenize("The dog's here.")
    ('The', 'dog', "'s", 'here', '.')
    """

    def __init__(self, backend: tokenizers.Tokenizer | None = None) -> None:  # by default penn_tokenizer()
        self.backend = penn_tokenizer() if backend is None else backend
        self._normalizer, self._pre_tokenizer = self.backend.normalizer, self.backend.pre_tokenizer
        if self._normalizer is None or self._pre_tokenizer is None:
            raise DataError("a tokenizer without rules, expected a normalizer and a pre_tokenizer")

    def tokenize(self, text: str) -> tuple[str, ...]:
        """Tokens of one sentence, (N,), N > 0. Raises DataError where there are none, or half a surrogate pair."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError("half of a surrogate pair") from error
        pieces = self._pre_tokenizer.pre_tokenize_str(self._normalizer.normalize_str(text))
        if not pieces:
            raise DataError("a sentence without words")
        return tuple(token for token, _ in pieces)

    def tokenize_batch(self, texts: Iterable[str]) -> list[tuple[str, ...]]:
        """Tokens of each sentence, for programs; files are read by the line. Raises DataError naming the example."""
        sentences = []
        for example, text in enumerate(texts):
            try:
                sentences.append(self.tokenize(text))
            except DataError as error:
                raise error.at(example=example) from None
        return sentences

    def save(self, path: StrPath) -> None:
        """Write as a `tokenizer.json`, atomically; `tokenizers.Tokenizer.from_file` reads it, too."""
        with atomic_write(path) as file:
            file.write(self.backend.to_str(pretty=True))
            file.write("\n")

    @classmethod
    def load(cls, path: StrPath) -> Tokenizer:
        """Read what `save` wrote; raises DataError for what is no `tokenizer.json`, or one without rules."""
        import tokenizers

        with open_text(path) as lines:
            text = "".join(lines)
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises no narrower class
            raise DataError(f"not a tokenizer.json: {error}", path=path) from error
        try:
            return cls(backend)
        except DataError as error:
            raise error.at(path=path) from None
