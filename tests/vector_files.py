"""Files of word vectors in every form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from spinn_tensor.data_prep.vocabulary import Vocabulary
from tests.fuzzing import packed

VOCABULARY = Vocabulary(("<pad>", "<unk>", "dog", "cat", "zebra"))


def text_lines(words: list[str], matrix: np.ndarray) -> bytes:
    """GloVe's text."""
    rows = (" ".join([word, *map(str, row)]) for word, row in zip(words, matrix.tolist(), strict=True))
    return "".join(row + "\n" for row in rows).encode()


def word2vec(words: list[str], matrix: np.ndarray, end: bytes = b"\n") -> bytes:
    """word2vec's binary form."""
    rows = [
        word.encode() + b" " + row.astype("<f4").tobytes() + end
        for word, row in zip(words, matrix, strict=True)
    ]
    return f"{len(words)} {matrix.shape[1]}\n".encode() + b"".join(rows)


def tensors(path: Path, words: list[str], matrix: np.ndarray, /, **changes: np.ndarray | None) -> Path:
    """A file that the library writes."""
    text = np.frombuffer("\n".join(words).encode(), dtype=np.uint8)
    content = {"vectors": matrix.astype(np.float32), "words": text, **changes}
    save_file({name: array for name, array in content.items() if array is not None}, path)
    return path


def write(path: Path, content: bytes | str) -> Path:
    """Write a file, packed as its name says."""
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(packed(content, path.name, "vectors.txt"))
    return path


def write_form(name: str, folder: Path, words: list[str], matrix: np.ndarray) -> Path:
    path = folder / name
    if name.endswith(".safetensors"):
        return tensors(path, words, matrix)
    return write(path, (word2vec if ".bin" in name else text_lines)(words, matrix))


FORMS = [
    "v.txt",
    "v",
    "v.txt.gz",
    "v.txt.bz2",
    "v.txt.xz",
    "v.zip",
    "v.bin",
    "v.bin.gz",
    "v.bin.xz",
    "v.safetensors",
]
