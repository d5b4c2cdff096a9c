"""The words a model knows, and their numbers; numbers of words before all of them are known.

A `Vocabulary` is made of words that have been counted, so that a corpus would have to be read twice: once to count,
once to number. A `WordList` gives the next number to every new word, and when all is read, `columns.renumber` turns
its numbers into those of a vocabulary by one look-up each.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain

import numpy as np

from spinn_tensor.data_prep.errors import DataError, not_text

PAD_ID = 0
UNKNOWN_ID = 1
SPECIAL_TOKENS = ("<pad>", "<unk>")


def lower_case(token: str) -> str:
    """Put the token in lower case as HF `tokenizers` does: each character by itself.

    `str.lower` differs where Σ ends a word, which it writes ς, and in characters that are new in Unicode.
    """
    if token.isascii():
        return token.lower()
    try:
        return _lowercase()(token)
    except UnicodeEncodeError:  # half of a surrogate pair is no text, and in no vocabulary
        return token


@cache
def _lowercase() -> Callable[[str], str]:
    from tokenizers.normalizers import Lowercase

    return Lowercase().normalize_str


@dataclass(frozen=True)
class Vocabulary:
    """Hold V distinct tokens; id 0 is `<pad>`, id 1 is `<unk>`, which stands for every other word."""

    tokens: tuple[str, ...]  # (V,)
    lower: bool = False  # whether words are looked up in lower case, as `lower_case` has it

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(not_text(self.tokens)))
        if self.tokens[:2] != SPECIAL_TOKENS:
            raise DataError(f"a vocabulary begins with {SPECIAL_TOKENS}, got {self.tokens[:2]}")
        if len(set(self.tokens)) != len(self.tokens):
            token, count = Counter(self.tokens).most_common(1)[0]
            raise DataError(f"a vocabulary holds a token once, got {token!r} {count} times")
        try:
            "".join(self.tokens).encode()
        except UnicodeEncodeError as error:
            raise DataError("a vocabulary holds text, got half of a surrogate pair") from error

    @classmethod
    def build(
        cls,
        token_iterables: Iterable[Iterable[str]],  # sentences
        min_count: int = 1,
        lower: bool = False,
    ) -> Vocabulary:
        """Take the words seen at least min_count times, most frequent first, then in alphabetical order."""
        return cls.from_counts(Counter(chain.from_iterable(map(not_text, token_iterables))), min_count, lower)

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], min_count: int = 1, lower: bool = False) -> Vocabulary:
        """Do as `build`, with words already counted."""
        merged: Counter[str] = Counter()
        for token, count in counts.items():
            merged[lower_case(token) if lower else token] += count
        kept = [token for token, n in merged.items() if n >= min_count and token not in SPECIAL_TOKENS]
        return cls(SPECIAL_TOKENS + tuple(sorted(kept, key=lambda token: (-merged[token], token))), lower)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self):,} words{', in lower case' if self.lower else ''})"

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Return the id of each token; `<pad>` is no word and has none, so that a word spelt like it is unknown."""
        return {token: i for i, token in enumerate(self.tokens) if i != PAD_ID}

    def encode(self, tokens: Iterable[str]) -> np.ndarray:
        """Return ids of the tokens, (number of tokens,) int32; UNKNOWN_ID for those not in the vocabulary."""
        get = self.index.get
        tokens = not_text(tokens)
        if self.lower:
            tokens = map(lower_case, tokens)
        return np.array([get(token, UNKNOWN_ID) for token in tokens], dtype=np.int32)

    @cached_property
    def sha256(self) -> str:
        """Return a hex digest over the tokens, in order, and the casing: equal digests encode equally."""
        return hashlib.sha256(json.dumps([self.lower, self.tokens]).encode("ascii")).hexdigest()


class WordList:
    """Keep words in the order in which they came."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._index: dict[str, int] = {}
        self.encode(words)

    def encode(self, tokens: Iterable[str]) -> np.ndarray:
        """Return the numbers of the tokens, (number of tokens,) int32; a new one has the next number."""
        index = self._index
        return np.array([index.setdefault(token, len(index)) for token in tokens], dtype=np.int32)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def words(self) -> tuple[str, ...]:
        """Return all words, by number."""
        return tuple(self._index)
