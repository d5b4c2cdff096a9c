"""How long a line of a file and a sentence may be: what is longer is hardly text, and would take all memory and time.

A line is measured while it is unpacked, before anything is made of it; a sentence before any model sees it. 100,000
words are many: reading and parsing take time and memory in proportion to them, a minute and 2 GB for so many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from data_prep.errors import DataError


class Limits(NamedTuple):
    """The longest line, and the longest sentence, that are taken."""

    max_line_bytes: int = 1_000_000  # of a file, its end not counted
    max_words: int = 100_000  # of a sentence

    def long_line(self) -> DataError:
        """What is wrong with a line that is longer."""
        return DataError(f"a line of more than {self.max_line_bytes:,} bytes; --max-line-bytes allows more")

    def check_words(self, *sentences: Sequence[str]) -> None:
        """Raises DataError naming the last word of a sentence that has more of them."""
        for words in sentences:
            if len(words) > self.max_words:
                reason = f"beyond the {self.max_words:,} words of a sentence; --max-words allows more"
                raise DataError(reason, token=(len(words), words[-1]))


DEFAULT_LIMITS = Limits()
