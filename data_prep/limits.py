"""How long a line of a file and a sentence may be: what is longer is hardly text, and would take all memory and time.

A line is measured while it is unpacked, before anything is made of it; a sentence before any model sees it. 100,000
words are many: reading and parsing take time and memory in proportion to them, a minute and 2 GB for so many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from spinn_tensor.data_prep.errors import DataError


class LongLine(DataError):
    """Say that a line is too long; `limit` names the field of `Limits` that allows more."""

    limit = "max_line_bytes"


class LongSentence(DataError):
    """Say that a sentence is too long, as `LongLine` does of a line."""

    limit = "max_words"


class Limits(NamedTuple):
    """Say how long the longest line and the longest sentence may be."""

    max_line_bytes: int = 1_000_000  # of a file, its end not counted
    max_words: int = 100_000  # of a sentence

    def long_line(self) -> LongLine:
        """Make the error for a line that is longer."""
        return LongLine(f"a line of more than {self.max_line_bytes:,} bytes")

    def check_words(self, *sentences: Sequence[str]) -> None:
        """Raise LongSentence naming the first word of a sentence that is one too many."""
        for words in sentences:
            if len(words) > self.max_words:
                first = (self.max_words + 1, words[self.max_words])
                raise LongSentence(f"a sentence of more than {self.max_words:,} words", token=first)


DEFAULT_LIMITS = Limits()
