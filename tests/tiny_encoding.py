"""Encode a small file with a small encoder, for the tests of bulk encoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spinn_tensor import EncoderConfig, SentenceEncoder, make_sentence_batch
from spinn_tensor.data_prep.columns import sentence_columns
from spinn_tensor.data_prep.trees import Tree
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.encoding import EncodingOptions, encode_to_shards
from tests.tiny_sentences import WORDS

VOCABULARY = Vocabulary.build([WORDS[:-1]])
BAD = {4: "( a )", 11: "", 18: "a b"}  # by line


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Body of a fixture, so that shards have several blocks, and blocks several batches."""
    monkeypatch.setattr("spinn_tensor.encoding.run.BLOCK_LINES", 4)


def encoder_of(kind: str = "spinn-pi-nt", seed: int = 0) -> SentenceEncoder:
    torch.manual_seed(seed)
    return SentenceEncoder(EncoderConfig(len(VOCABULARY), kind, 6, 8, tracker_dim=4)).eval()


def one_by_one(encoder: SentenceEncoder, sentences: list[Tree]) -> np.ndarray:
    """Encodings without batches, blocks or files."""
    with torch.no_grad():
        alone = [
            encoder(make_sentence_batch(sentence_columns([tree], VOCABULARY), encoder.table_kind))
            for tree in sentences
        ]
    return torch.cat(alone).numpy()


def encode(source: Path, folder: Path, **arguments: Any) -> dict[str, Any] | None:
    """Shards of 5 lines with a small encoder."""
    options = {name: arguments.pop(name) for name in list(arguments) if name in EncodingOptions().to_dict()}
    made = EncodingOptions(**{"shard_size": 5, **options})
    encoder = arguments.pop("encoder", encoder_of())
    return encode_to_shards(encoder, VOCABULARY, source, folder, made, **arguments)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below the folder, and when it was written."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
