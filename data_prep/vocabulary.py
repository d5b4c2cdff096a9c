"""The words a model knows, and their numbers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from data_prep.errors import DataError
from data_prep.files import StrPath, atomic_write, open_text

PAD_ID = 0
UNKNOWN_ID = 1
SPECIAL_TOKENS = ("<pad>", "<unk>")


@dataclass(frozen=True)
class Vocabulary:
    """V distinct tokens; id 0 is `<pad>`, id 1 is `<unk>`, which stands for every other word."""

    tokens: tuple[str, ...]  # (V,)
    lower: bool = False  # whether words are looked up in lower case

    def __post_init__(self) -> None:
        if self.tokens[:2] != SPECIAL_TOKENS:
            raise DataError(f"a vocabulary begins with {SPECIAL_TOKENS}, got {self.tokens[:2]}")
        if len(set(self.tokens)) != len(self.tokens):
            token, count = Counter(self.tokens).most_common(1)[0]
            raise DataError(f"a vocabulary holds a token once, got {token!r} {count} times")

    @classmethod
    def build(
        cls,
        token_iterables: Iterable[Iterable[str]],  # sentences
        min_count: int = 1,
        lower: bool = False,
    ) -> Vocabulary:
        """The words seen at least min_count times, most frequent first, then in alphabetical order."""
        return cls.from_counts(Counter(chain.from_iterable(token_iterables)), min_count, lower)

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], min_count: int = 1, lower: bool = False) -> Vocabulary:
        """As `build`, of words already counted."""
        merged: Counter[str] = Counter()
        for token, count in counts.items():
            merged[token.lower() if lower else token] += count
        kept = [token for token, n in merged.items() if n >= min_count and token not in SPECIAL_TOKENS]
        return cls(SPECIAL_TOKENS + tuple(sorted(kept, key=lambda token: (-merged[token], token))), lower)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Id of each token; `<pad>` is no word and has none, so that a word spelt like it is unknown."""
        return {token: i for i, token in enumerate(self.tokens) if i != PAD_ID}

    def encode(self, tokens: Iterable[str]) -> np.ndarray:
        """Ids of the tokens, (number of tokens,) int32; UNKNOWN_ID for those not in the vocabulary."""
        get = self.index.get
        if self.lower:
            return np.array([get(token.lower(), UNKNOWN_ID) for token in tokens], dtype=np.int32)
        return np.array([get(token, UNKNOWN_ID) for token in tokens], dtype=np.int32)

    @cached_property
    def sha256(self) -> str:
        """Hex digest over the tokens, in order, and the casing: equal digests encode equally."""
        return hashlib.sha256(json.dumps([self.lower, self.tokens]).encode("ascii")).hexdigest()

    def save(self, path: StrPath) -> None:
        """Write as JSON, atomically."""
        with atomic_write(path) as file:
            json.dump({"lower": self.lower, "tokens": self.tokens}, file, ensure_ascii=False, indent=0)
            file.write("\n")

    @classmethod
    def load(cls, path: StrPath) -> Vocabulary:
        """Read what `save` wrote; raises DataError for anything else."""
        with open_text(path) as lines:
            text = "".join(lines)
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError("not JSON", path=path) from error
        if not isinstance(content, dict) or content.keys() != {"lower", "tokens"}:
            raise DataError("expected a JSON object with the fields lower and tokens", path=path)
        lower, tokens = content["lower"], content["tokens"]
        if not isinstance(lower, bool):
            raise DataError("expected true or false", path=path, field="lower")
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise DataError("expected a list of strings", path=path, field="tokens")
        try:
            return cls(tuple(tokens), lower)
        except DataError as error:
            raise error.at(path=path) from None
