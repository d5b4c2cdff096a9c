"""Text to tokens, and tokens to numbers: what a `tokenizer.json` holds, by rules (`token_rules`) and a vocabulary.

The rules are a normalizer and pre-tokenizers of HF `tokenizers`, so that one file holds them and the vocabulary, and
`tokenizers` alone gives the ids that a model was trained on.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any
from unicodedata import is_normalized, normalize

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import StrPath, open_text, write_json
from spinn_tensor.data_prep.limits import Limits
from spinn_tensor.data_prep.token_rules import LOWERCASE, NAMED, OWN, PENN, Rules
from spinn_tensor.data_prep.vocabulary import SPECIAL_TOKENS, Vocabulary

if TYPE_CHECKING:
    import tokenizers

_BLANK = re.compile(r"[ \t\r\n]")
# English repeats its words: one that was seen is looked up instead of split again. The bounds keep this to some 10 MB.
_N_REMEMBERED = 1 << 15
_LONGEST_REMEMBERED = 40
Offsets = list[tuple[int, int]]  # of each token in the text, [start, end)
# `tokenizers` takes up to 250 bytes for a character, and ends the process where it gets none.
_MOST_CHARACTERS = 4_000_000


class Tokenizer:
    """Turn text into tokens, by the rules alone, and number them by a vocabulary: what a `tokenizer.json` holds.

    >>> Tokenizer().tokenize("The dog's here.")
    ('The', 'dog', "'s", 'here', '.')
    """

    def __init__(
        self,
        vocabulary: Vocabulary | None = None,  # by default one without words
        rules: Rules = PENN,
    ) -> None:
        """Raise DataError for rules that HF `tokenizers` cannot read."""
        self.vocabulary = Vocabulary.build([]) if vocabulary is None else vocabulary
        self.rules = rules
        in_case = rules.backend(Vocabulary.build([]))
        self._normalize = in_case.normalizer.normalize_str
        self._pre_tokenize = in_case.pre_tokenizer.pre_tokenize_str
        self._split_remembered = lru_cache(_N_REMEMBERED)(self._split)

    def __repr__(self) -> str:
        return f"Tokenizer({self.rules.name}, {len(self.vocabulary):,} words)"

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[Vocabulary, Rules]]:  # what is remembered stays here
        return Tokenizer, (self.vocabulary, self.rules)

    @cached_property
    def backend(self) -> tokenizers.Tokenizer:
        """Return the HF tokenizer; its ids are `vocabulary.encode(tokenize(text))`, and it gives offsets as well.

        (But for a lone bracket under another tokenizer's rules, which `tokenize` writes as trees do, and for the word
        <pad>, which rules other than Penn's keep whole: its id there is 0, where the model knows no word.)
        """
        return self.rules.backend(self.vocabulary)

    def tokenize(self, text: str) -> tuple[str, ...]:
        """Return the tokens of one sentence, (N,), N > 0, in the text's own case whatever the vocabulary's.

        Raises DataError where there are none, or half a surrogate pair, and for millions of characters.
        """
        if len(text) > _MOST_CHARACTERS:
            raise DataError(f"{len(text):,} characters, expected at most {_MOST_CHARACTERS:,} in a sentence")
        try:
            normalized = self._normalize(text)
        except UnicodeEncodeError as error:
            # as which Python keeps each byte of a command line that it cannot decode
            is_byte = "\udc80" <= error.object[error.start] <= "\udcff"
            raise DataError("not UTF-8 text" if is_byte else "half of a surrogate pair") from error
        tokens = self._split_words(normalized) if self.rules.name == PENN.name else self._split(normalized)
        if not tokens:
            raise DataError("a sentence without words")
        return tokens

    def offsets(self, text: str) -> Offsets:
        """Return where the tokens of a text are in it."""
        return with_accents(text, self.backend.encode(text).offsets)

    def _split_words(self, text: str) -> tuple[str, ...]:
        tokens: list[str] = []
        for word in text.split():  # no rule of the pre-tokenizer looks beyond whitespace
            split = self._split_remembered if len(word) <= _LONGEST_REMEMBERED else self._split
            tokens += split(word)
        return tuple(tokens)

    def _split(self, word: str) -> tuple[str, ...]:
        tokens = tuple(token for token, _ in self._pre_tokenize(word))
        if "(" in tokens or ")" in tokens:  # never of the Penn Treebank's rules
            tokens = tuple(
                self.rules.bracket(token, position) if token in "()" else token
                for position, token in enumerate(tokens, start=1)
            )
        if self.rules.name == "own":
            for position, token in enumerate(tokens, start=1):
                if _BLANK.search(token):
                    raise DataError("a blank in a word, which no tree can hold", token=(position, token))
        return tokens

    def save(self, path: StrPath) -> None:
        """Write as a `tokenizer.json`, atomically; `tokenizers.Tokenizer.from_file` reads it, too."""
        write_json(path, self.rules.content(self.vocabulary))

    @classmethod
    def load(cls, path: StrPath) -> Tokenizer:
        """Read what `save` wrote; raises DataError for anything else, this package's rules in another version among it.

        Of these rules `tokenizers` never sees the file: what was read is compared, and they are made anew.
        """
        with open_text(path, limits=Limits(max_line_bytes=sys.maxsize)) as lines:  # JSON may be one line
            text = "".join(lines)
        try:
            return cls(*_read(json.loads(text, object_pairs_hook=_without_repetition)))
        except DataError as error:
            raise error.at(path=path) from None
        except (ValueError, RecursionError) as error:
            raise DataError("not JSON", path=path) from error


def with_accents(text: str, offsets: Offsets) -> Offsets:
    """Return offsets with the end of each token's last letter, of which NFC in `tokenizers` counts the first part."""
    if is_normalized("NFC", text):
        return offsets
    whole = []
    for (start, end), most in zip(offsets, [*(start for start, _ in offsets[1:]), len(text)], strict=True):
        n_letters = len(normalize("NFC", text[start:end]))
        while end < most and len(normalize("NFC", text[start : end + 1])) == n_letters:
            end += 1
        whole.append((start, end))
    return whole


def rules_sha256(rules: Rules) -> str:
    """Return a hex digest of rules: what others made of a text may have other words."""
    content = json.dumps(rules.content(Vocabulary(SPECIAL_TOKENS)), sort_keys=True)
    return hashlib.sha256(content.encode("ascii")).hexdigest()


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Check a JSON object; raises DataError for one that has a key twice, which readers understand differently."""
    values = dict(pairs)
    if len(values) != len(pairs):
        key, count = Counter(key for key, _ in pairs).most_common(1)[0]
        raise DataError(f"the key {key!r} stands {count} times in one JSON object")
    return values


def _read(content: Any) -> tuple[Vocabulary, Rules]:
    """Read what is in a `tokenizer.json` that `save` wrote. Raises DataError for any other content."""
    fields = PENN.content(Vocabulary.build([])).keys()
    if not isinstance(content, dict) or content.keys() != fields:
        raise DataError(f"not a tokenizer.json: expected a JSON object with the fields {', '.join(fields)}")
    model, normalizer = content["model"], content["normalizer"]
    ids = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(ids, dict):
        raise DataError("expected a WordLevel model with a vocab", field="model")
    steps = normalizer.get("normalizers") if isinstance(normalizer, dict) else None
    if not isinstance(steps, list) or not isinstance(content["pre_tokenizer"], dict):
        raise DataError("not the rules of this version, nor any others", field="normalizer")
    lower = steps[-1:] == [LOWERCASE]
    rules = Rules("own", steps[:-1] if lower else steps, content["pre_tokenizer"])
    if content["decoder"] != OWN:
        is_whitespace = content["pre_tokenizer"] == NAMED["whitespace"].pre_tokenizer
        rules = NAMED["whitespace" if is_whitespace else "penn"]
    vocabulary = Vocabulary(_by_id(ids), lower)
    for field, value in rules.content(vocabulary).items():
        if content[field] != value:
            raise DataError("not the rules of this version, which its models are trained with", field=field)
    return vocabulary, rules


def _by_id(ids: dict[str, Any]) -> tuple[str, ...]:
    """Return the tokens, (V,), in the order of their ids; raises DataError unless these are 0 to V - 1."""
    tokens: list[str | None] = [None] * len(ids)
    for token, i in ids.items():
        if type(i) is not int or not 0 <= i < len(tokens) or tokens[i] is not None:
            reason = f"token {token!r:.40} has the id {i!r:.40}, expected each of 0 to {len(tokens) - 1} once"
            raise DataError(reason, field="vocab")
        tokens[i] = token
    return tuple(token for token in tokens if token is not None)
