"""Many binary parses at once: from an Arrow column of strings to `SentenceColumns`, without a loop over sentences.

The strings of a column lie one after another in one buffer of bytes, which is cut at blanks into symbols: `(`, `)` and
words. Without its open brackets a parse is its transitions, a word being a SHIFT and `)` a REDUCE. The open brackets
say nothing more, but can be wrong: in a parse, the number of them before a word is the number of nodes that begin with
that word. So a string is a parse if and only if

    1. its transitions make one tree: the stack is never empty after the first of them, and one state is left;
    2. no `(` is followed by `)` or comes last, which leaves all of them right before words;
    3. every word has as many of them before it as there are REDUCEs whose state begins with it.

What is none is said by row; the reason is for `data_prep.trees.parse_binary` to find, one string at a time. Words are
looked up in the vocabulary once each, after Arrow has numbered the distinct ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spinn_tensor.data_prep.columns import SentenceColumns, WordIds, take
from spinn_tensor.data_prep.segments import starts
from spinn_tensor.data_prep.tables.trace import trace_stack
from spinn_tensor.data_prep.trees import REDUCE, SHIFT

if TYPE_CHECKING:
    import pyarrow as pa

_BLANK = np.zeros(256, dtype=bool)
_BLANK[list(b" \t\r\n")] = True
_OPEN, _CLOSE = b"()"


class ParsedChunk(NamedTuple):
    """Hold what became of n strings."""

    columns: SentenceColumns  # those that are parses, in their order
    parse_mask: np.ndarray  # (n,) bool, which those are


class _Symbols(NamedTuple):
    """Hold the symbols of n strings, Q in all."""

    offsets: np.ndarray  # (n + 1,) int64, where the symbols of each string begin
    row: np.ndarray  # (Q,) int64, string of each
    n_bytes: np.ndarray  # (Q,) int64
    open_mask: np.ndarray  # (Q,) bool
    close_mask: np.ndarray  # (Q,) bool
    word_bytes: np.ndarray  # (number of bytes,) bool, those of words

    @property
    def word_mask(self) -> np.ndarray:  # (Q,) bool
        return ~(self.open_mask | self.close_mask)


def parse_chunk(
    parses: pa.Array,  # (n,) string or large_string; a null is no parse
    vocabulary: WordIds,
    max_words: int | None = None,  # of a parse; what has more is none
) -> ParsedChunk:
    """Read n binary parses as `parse_binary` and `sentence_columns` would, and say which strings are none."""
    data, bounds = _buffers(parses)
    symbols = _symbols(data, bounds)
    parse_mask = _are_trees(symbols)
    if max_words is not None:
        parse_mask &= _totals(symbols.word_mask, symbols.offsets) <= max_words
    kept = parse_mask[symbols.row]
    words = symbols.word_mask & kept
    n_words = _totals(words, symbols.offsets)[parse_mask]
    token_bytes = symbols.word_bytes
    if not parse_mask.all():
        token_bytes = token_bytes & np.repeat(parse_mask, np.diff(bounds))
    columns = SentenceColumns(
        token_ids=_token_ids(data[token_bytes], symbols.n_bytes[words], vocabulary),
        token_offsets=np.concatenate(([0], np.cumsum(n_words))),
        transitions=np.where(symbols.close_mask, REDUCE, SHIFT).astype(np.int8)[kept & ~symbols.open_mask],
        node_labels=None,
    )
    if not len(n_words):
        return ParsedChunk(columns, parse_mask)
    others = ~symbols.open_mask  # of a parse, what follows open brackets is a word
    n_opens = np.diff(np.cumsum(symbols.open_mask & kept)[others], prepend=0)[words[others]]
    fits = _brackets_fit(columns.transitions, n_words, n_opens)
    if not fits.all():
        columns = take(columns, np.flatnonzero(fits))
        parse_mask[parse_mask] = fits
    return ParsedChunk(columns, parse_mask)


def _buffers(parses: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes of all strings, (number of bytes,) uint8, and where each begins, (n + 1,) int64."""
    import pyarrow as pa

    parses = parses.cast(pa.large_string())
    if parses.null_count:
        parses = parses.fill_null("")
    _, offsets, data = parses.buffers()
    if not len(parses):
        return np.zeros(0, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    bounds = np.frombuffer(offsets, dtype=np.int64)[parses.offset : parses.offset + len(parses) + 1]
    content = np.zeros(0, dtype=np.uint8) if data is None else np.frombuffer(data, dtype=np.uint8)
    return content[bounds[0] : bounds[-1]], bounds - bounds[0]


def _symbols(
    data: np.ndarray,  # (number of bytes,) uint8
    bounds: np.ndarray,  # (n + 1,) int64
) -> _Symbols:
    """Cut at blanks and at the ends of the strings."""
    ink = ~_BLANK[data]
    cut = np.zeros(len(data) + 1, dtype=bool)  # whether a string begins or ends before this byte
    cut[bounds] = True
    start, last = ink.copy(), ink.copy()
    start[1:] &= ~ink[:-1] | cut[1:-1]
    last[:-1] &= ~ink[1:] | cut[1:-1]
    starts = np.flatnonzero(start)
    n_bytes = np.flatnonzero(last) + 1 - starts
    first_byte, single = data[starts], n_bytes == 1
    open_mask, close_mask = single & (first_byte == _OPEN), single & (first_byte == _CLOSE)
    ink[starts[open_mask | close_mask]] = False
    offsets = np.searchsorted(starts, bounds)
    row = np.repeat(np.arange(len(bounds) - 1), np.diff(offsets))
    return _Symbols(offsets, row, n_bytes, open_mask, close_mask, ink)


def _are_trees(symbols: _Symbols) -> np.ndarray:  # (n,) bool
    """Check conditions 1 and 2, and that as many brackets are closed as opened."""
    rise = np.where(symbols.close_mask, -1, symbols.word_mask)  # of the stack
    height = np.concatenate(([0], np.cumsum(rise)))  # (Q + 1,) before each symbol, over all strings
    start = height[symbols.offsets[:-1]]
    stray = symbols.open_mask.copy()  # brackets followed by `)` or by nothing
    stray[:-1] &= symbols.close_mask[1:] | (symbols.row[1:] != symbols.row[:-1])
    empty = (height[1:] - start[symbols.row] < 1) & ~symbols.open_mask
    n_opens, n_closes = (_totals(mask, symbols.offsets) for mask in (symbols.open_mask, symbols.close_mask))
    good = (height[symbols.offsets[1:]] - start == 1) & (n_opens == n_closes)
    good[symbols.row[stray | empty]] = False
    return good


def _brackets_fit(
    transitions: np.ndarray,  # (M,) int8, of m trees
    n_words: np.ndarray,  # (m,) int64
    n_opens: np.ndarray,  # (L,) int64, brackets before each word
) -> np.ndarray:  # (m,) bool
    """Check condition 3."""
    trace = trace_stack(transitions, n_words)
    wrong = np.bincount(trace.first_words(trace.reduces), minlength=len(n_opens)) != n_opens
    return ~np.logical_or.reduceat(wrong, starts(n_words))


def _token_ids(
    data: np.ndarray,  # (number of bytes,) uint8, the words one after another
    n_bytes: np.ndarray,  # (L,) int64, of each
    vocabulary: WordIds,
) -> np.ndarray:  # (L,) int32
    """Look up each distinct word once."""
    import pyarrow as pa

    offsets = np.concatenate(([0], np.cumsum(n_bytes))).astype(np.int64)
    words = pa.LargeStringArray.from_buffers(len(n_bytes), pa.py_buffer(offsets), pa.py_buffer(data))
    distinct = words.dictionary_encode()
    return vocabulary.encode(distinct.dictionary.to_pylist())[distinct.indices.to_numpy()]


def _totals(mask: np.ndarray, offsets: np.ndarray) -> np.ndarray:  # (n,) int64
    """Count the true entries between each two offsets."""
    return np.diff(np.concatenate(([0], np.cumsum(mask)))[offsets])
