"""Files of word vectors, of which the words wanted are kept: GloVe's text, word2vec's binary form, safetensors.

GloVe's text is a word and its D numbers a line, separated by one blank each:

    the 0.27204 -0.06203 -0.1884 …

word2vec's text has a first line besides with the number of words and D; fastText has published files that count wrong,
and so does what `head` leaves of any. Lines end at "\\n" alone, for words hold other line ends of Unicode; a few words
of glove.840B hold blanks (`. . .`), and so numbers are counted from the right.

word2vec's binary form is "V D\\n", then V times a word, a blank and D little-endian float32. Some writers end each
vector with a newline, which is then taken off the next word.

A safetensors file holds `vectors` (V, D) F16, F32 or F64, and `words` (number of bytes,) U8: the V words as UTF-8, with
"\\n" between each two. Nothing is unpickled, and words are compared as UTF-8 bytes.
"""

from __future__ import annotations

import codecs
import io
import itertools
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import IO, Any, cast

import numpy as np

from spinn_tensor.data_prep.archives import UNREADABLE, in_utf8, open_bytes, unpacked_name, unreadable
from spinn_tensor.data_prep.errors import DataError, DataWarning, NeededLine
from spinn_tensor.data_prep.files import StrPath, atomic_write
from spinn_tensor.data_prep.paths import expanded
from spinn_tensor.data_prep.vectors.words import WantedWords, WordVectors, spelling
from spinn_tensor.data_prep.vocabulary import Vocabulary

BLOCK_BYTES = 1 << 20
VECTORS, WORDS = "vectors", "words"
_FLOATS = ("F64", "F32", "F16")
_TEXT = (".txt", ".vec")
_FASTTEXT = (793712314).to_bytes(4, "little")  # what its .bin files begin with
_HEADER = re.compile(rb"(\d{1,12}) (\d{1,9})[ \r\n]*")
_MAX_HEADER, _MAX_WORD, _MAX_NUMBER = 32, 1 << 16, 64  # bytes


def read_vectors(
    path: StrPath,
    vocabulary: Vocabulary,  # V tokens
    dim: int,  # D
) -> WordVectors:
    """Return the vectors of the vocabulary's tokens, matrix (V, D) float32, and where each comes from.

        *.bin          word2vec's binary form
        *.safetensors  what `save_vectors` writes
        *.zip          GloVe's text: the one .txt file in it, or the one with the number D in its name
        any other      GloVe's text; a first line "V D", as word2vec writes it, is checked

    Binary form and text may be compressed (.gz, .bz2, .xz). A token gets the vector of the word spelt like it; else of
    its lower case; else of it without the escapes of the Penn Treebank (`(` for `-LRB-`), or of the lower case of
    that, whichever the file has; else one drawn from N(0, s), s being the standard deviation of the numbers found.
    Row 0, the padding's, is zero. The same vocabulary and file give the same matrix. Where a file has a word twice, the
    first counts. The file is read in blocks, and only the vectors that are needed are kept.

    Warns by DataWarning where a text has other than as many words as its first line says.

    Raises DataError naming the line (text) or the word and the byte (binary) of a vector of another dimension, of a
    number that is none or not finite, and of an end too early; and DataError if no word is found. Numbers of words
    that are not needed are counted, not read.
    """
    words = WantedWords(vocabulary, dim)
    name, odd = os.fspath(path), None
    try:
        if name.endswith(".safetensors"):
            _read_tensors(path, words)
        else:
            read = _read_word2vec if unpacked_name(path).endswith(".bin") else _read_text
            file = open_bytes(path, choose=lambda _, names: _member_of(names, dim))
            with io.BufferedReader(cast(Any, file), BLOCK_BYTES) as buffered:
                odd = read(buffered, words)
    except DataError as error:
        raise error.at(path=path, kind=NeededLine) from error.__cause__
    except UNREADABLE as error:
        raise DataError(unreadable(error), path=path) from error
    result = words.result(path)
    if odd is not None:
        warnings.warn(f"{name}: {odd}", DataWarning, stacklevel=2)
    return result


def save_vectors(
    path: StrPath,  # *.safetensors
    vocabulary: Vocabulary,  # V tokens
    vectors: WordVectors,
) -> None:
    """Write the vectors that were found, each under the spelling in which the file had it, atomically.

    `read_vectors` of the result gives the same again, and quickly. Raises DataError if the file cannot be
    written, or a word holds a "\\n".
    """
    found: dict[str, int] = {}
    for row in np.flatnonzero(vectors.found_mask).tolist():
        found.setdefault(spelling(vocabulary.tokens[row], vectors.origin[row]), row)
    write_tensor_file(path, list(found), vectors.matrix[list(found.values())])


def write_tensor_file(
    path: StrPath,
    words: Sequence[str],  # (V,)
    vectors: np.ndarray,  # (V, D) float32
) -> None:
    """Write words and their vectors, atomically. Raises DataError as `save_vectors`."""
    from safetensors.numpy import save

    if wrong := next((word for word in words if "\n" in word), None):
        raise DataError(f"a word with a line end in it: {wrong!r}", path=path)
    spellings = np.frombuffer("\n".join(words).encode(), dtype=np.uint8)
    content = save({VECTORS: np.ascontiguousarray(vectors, dtype=np.float32), WORDS: spellings})
    with atomic_write(path, "wb") as file:
        file.write(content)


def _member_of(names: Sequence[str], dim: int) -> str:
    """Choose the file with the vectors in a .zip. Raises DataError."""
    texts = [name for name in names if name.endswith(_TEXT) and not name.startswith("__MACOSX/")]
    if len(texts) > 1:
        texts = [name for name in texts if re.search(rf"(?<!\d){dim}(?!\d)", name)]
    if len(texts) != 1:
        wanted = f"one .txt file, or one with {dim} in its name"
        raise DataError(f"expected {wanted}; it holds {', '.join(names[:8]) or 'nothing'}")
    return texts[0]


def _read_text(file: io.BufferedReader, words: WantedWords) -> str | None:
    """Read GloVe's text; return what is odd about it.

    Raises DataError naming the line: another number of numbers than D, on any line; of wanted words, what is no
    finite number; and for what is no text, or an empty file.
    """
    dim, place_of, found = words.dim, words.place.get, words.found
    n_words, number = None, 0
    try:
        for number, line in enumerate(_lines(in_utf8(file), _MAX_WORD + _MAX_NUMBER * dim), start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
                header = _header(line)
                if header is not None and (dim != 1 or header[1] == 1):  # else a number and its vector
                    n_words = _words_of(header, dim)
                    continue
            line = line.rstrip(b"\r\n ")
            end = line.find(b" ") if line.count(b" ") == dim else _end_of_word(line, dim)
            place = place_of(line[:end])
            if place is not None and not found[place]:
                words.put(place, _numbers(line[end + 1 :]))
    except DataError as error:
        raise error.at(line=number or None) from error.__cause__
    if not number:
        raise DataError("an empty file")
    if n_words is not None and number - 1 != n_words:
        return f"line 1 says {n_words} words, the file has {number - 1}"
    return None


def _lines(file: IO[bytes], limit: int) -> Iterator[bytes]:
    """Yield lines, which end at "\\n" alone. Raises DataError for one of more bytes, and if they cannot be unpacked."""
    for number in itertools.count(1):
        try:
            line = file.readline(limit)
        except UNREADABLE as error:
            raise DataError(unreadable(error), line=number) from error
        if not line:
            return
        if len(line) == limit and not line.endswith(b"\n"):
            raise DataError(f"a line of {limit:,} bytes or more", line=number)
        yield line


def _header(line: bytes) -> tuple[int, int] | None:
    """Return how many words the first line says there are, and of how many numbers; None if it is no header."""
    match = _HEADER.fullmatch(line)
    return None if match is None else (int(match[1]), int(match[2]))


def _words_of(header: tuple[int, int], dim: int) -> int:
    """Return how many words there are. Raises DataError for vectors of another dimension."""
    n_words, n_numbers = header
    if n_numbers != dim:
        raise DataError(f"the file says that its vectors have {n_numbers} numbers, expected {dim}")
    return n_words


def _end_of_word(line: bytes, dim: int) -> int:
    """Find where the word of a line ends that has not D blanks. Raises DataError if it has not D numbers."""
    word, *numbers = line.rsplit(b" ", dim)
    n_blanks = line.count(b" ")
    if b"" in numbers:
        raise DataError("two blanks in a row, expected one between numbers")
    # Few words have blanks; where the second part is a number, it is rather a longer vector, or two lines in one.
    if n_blanks < dim or _is_number(word.split(b" ", 2)[1]):
        tabs = " with blanks between; it has tabs" if n_blanks < dim and b"\t" in line else ""
        raise DataError(f"got {n_blanks} numbers, expected {dim}{tabs}")
    return len(word)


def _numbers(text: bytes) -> np.ndarray:  # (D,) float64
    fields = text.split(b" ")
    try:
        if b"_" in text:
            raise ValueError  # float() takes 1_000, which nobody writes into such a file
        return np.array([float(field) for field in fields])
    except ValueError:
        position, wrong = next((i, f) for i, f in enumerate(fields, start=1) if not _is_number(f))
        got = wrong[:40].decode("utf-8", "replace")
        raise DataError(f"got {got!r}, expected a number", field=f"number {position}") from None


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return b"_" not in field


def _read_word2vec(file: io.BufferedReader, words: WantedWords) -> None:
    """Read word2vec's binary form.

    Raises DataError for a bad header, for a model of fastText's own form, and, naming the word's number and its first
    byte, both counted from 1 in the unpacked file, for an end too early, a word without an end, a number that is not
    finite, and bytes after the last vector.
    """
    if file.peek(len(_FASTTEXT)).startswith(_FASTTEXT):
        raise DataError("a model of fastText's, expected word2vec's form; its .vec file is read")
    line = next(_lines(file, _MAX_HEADER), b"")
    header = _header(line) if line.endswith(b"\n") else None
    if header is None:
        raise DataError(
            'expected a first line of two numbers, "words dimension"' if line else "an empty file"
        )
    n_words = _words_of(header, words.dim)
    position = len(line)
    n_bytes = 4 * words.dim
    block_bytes = max(BLOCK_BYTES, _MAX_WORD + n_bytes)
    block, start = b"", 0  # what is read but not used yet begins at `start`
    for number in range(1, n_words + 1):
        end = block.find(b" ", start)
        if not 0 <= end < len(block) - n_bytes:
            position += start
            block, start = block[start:] + file.read(block_bytes), 0
            end = block.find(b" ")
        if not 0 <= end < len(block) - n_bytes or end - start > _MAX_WORD:
            reason = "no blank after the word"
            if len(block) - start <= _MAX_WORD + n_bytes:
                reason = f"the file ends early, {n_words} words expected"
            raise _word_error(number, position + start, reason)
        place = words.place.get(block[start:end].lstrip(b"\n"))
        if place is not None and not words.found[place]:
            try:
                words.put(place, np.frombuffer(block, dtype="<f4", count=words.dim, offset=end + 1))
            except DataError as error:
                raise _word_error(number, position + start, error.reason) from None
        start = end + 1 + n_bytes
    if (block[start:] + file.read(2)).strip(b"\n"):
        raise _word_error(n_words + 1, position + start, f"more data, {n_words} words expected")


def _word_error(number: int, position: int, reason: str) -> DataError:
    return DataError(f"word {number:,} at byte {position + 1:,}: {reason}")


def _read_tensors(path: StrPath, words: WantedWords) -> None:
    """Read a safetensors file, of which the library maps into memory what is looked at.

    Raises DataError for a file that is none of this form or ends early, for vectors of another dimension, and
    naming the word with a number that is not finite.
    """
    from safetensors import SafetensorError, safe_open

    open_bytes(path).close()  # for the error of a file that cannot be opened
    try:
        with safe_open(expanded(path), framework="numpy") as file:
            vectors = _tensor(file, VECTORS, _FLOATS, 2)
            names = _tensor(file, WORDS, ("U8",), 1)
            n_words, dim = vectors.get_shape()
            if dim != words.dim:
                raise DataError(f"got {dim} numbers a word, expected {words.dim}", field=VECTORS)
            spellings = names[:].tobytes().split(b"\n")
            if len(spellings) != n_words:
                raise DataError(f"got {len(spellings)} words, but {n_words} vectors", field=WORDS)
            for row, spelling in enumerate(spellings):
                place = words.place.get(spelling)
                if place is None or words.found[place]:
                    continue
                try:
                    words.put(place, vectors[row])
                except DataError as error:
                    raise DataError(f"word {row + 1:,}: {error.reason}", field=VECTORS) from None
    except SafetensorError as error:
        raise DataError(f"truncated or not a .safetensors file: {error}"[:200], path=path) from error


def _tensor(file: Any, name: str, dtypes: tuple[str, ...], n_axes: int) -> Any:
    """Return the tensor of this name, of which slices can be read. Raises DataError."""
    names = list(file.keys())
    if name not in names:
        raise DataError(f"no such tensor; it holds {', '.join(names)[:200] or 'none'}", field=name)
    tensor = file.get_slice(name)
    dtype, shape = tensor.get_dtype(), tensor.get_shape()
    if dtype not in dtypes or len(shape) != n_axes:
        raise DataError(f"got {dtype} {shape}, expected {' or '.join(dtypes)} of {n_axes} axes", field=name)
    return tensor
