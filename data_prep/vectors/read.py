"""Which form a file has, by its name."""

from __future__ import annotations

import os

from spinn_tensor.data_prep.files import StrPath
from spinn_tensor.data_prep.vectors.files import open_bytes
from spinn_tensor.data_prep.vectors.tensor_file import read_tensor_file
from spinn_tensor.data_prep.vectors.text import read_text
from spinn_tensor.data_prep.vectors.word2vec import read_word2vec
from spinn_tensor.data_prep.vectors.words import WantedWords, WordVectors
from spinn_tensor.data_prep.vocabulary import Vocabulary


def read_vectors(
    path: StrPath,
    vocabulary: Vocabulary,  # V tokens
    dim: int,  # D
) -> WordVectors:
    """Vectors of the vocabulary's tokens, matrix (V, D) float32, and where each comes from.

        *.bin, *.bin.gz     word2vec's binary form
        *.safetensors       what `save_vectors` writes
        *.zip               GloVe's text: the one .txt file in it, or the one with the number D in its name
        any other, or *.gz  GloVe's text; a first line "V D", as word2vec writes it, is checked

    A token gets the vector of the word spelt like it; else of its lower case, if the file has that; else one drawn
    from N(0, s), s being the standard deviation of the numbers found. Row 0, the padding's, is zero. The same
    vocabulary and file give the same matrix. Where a file has a word twice, the first counts. The file is read in
    blocks, and only the vectors that are needed are kept.

    Raises DataError naming the line (text) or the word and the byte (binary) of a vector of another dimension, of a
    number that is none or not finite, and of an end too early; and DataError if no word is found. Numbers of words
    that are not needed are counted, not read.
    """
    words = WantedWords(vocabulary, dim)
    name = os.fspath(path)
    if name.endswith(".safetensors"):
        read_tensor_file(path, words)
    else:
        read = read_word2vec if name.removesuffix(".gz").endswith(".bin") else read_text
        with open_bytes(path, dim) as source:
            read(source, words)
    return words.result(path)
