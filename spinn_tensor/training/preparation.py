"""A corpus under the trees of a SPINN that was taught to parse, kept in a store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spinn_tensor.bundle import WEIGHTS, checkpoint_folder
from spinn_tensor.data_prep.columns import n_sentences
from spinn_tensor.data_prep.corpora import preparation
from spinn_tensor.data_prep.corpora.config import DataConfig
from spinn_tensor.data_prep.corpora.preparation import Parser
from spinn_tensor.data_prep.corpora.splits import OnLines
from spinn_tensor.data_prep.corpora.store import PreparedCorpus, sha256_of
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.words import renumber
from spinn_tensor.inference import predict_transitions
from spinn_tensor.model.classifiers import Checkpoint, load_checkpoint

OnSentences = Callable[[int], object]  # told of so many sentences when they are parsed


def prepare_store(
    data: DataConfig,
    folder: Path,
    skipped: Skipped,
    *,
    parser: Path | None = None,  # checkpoint of a SPINN that parses: all trees are made by it
    device: str = "cpu",
    on_lines: OnLines | None = None,
    on_sentences: OnSentences = lambda n_sentences: None,
) -> tuple[dict[str, Any], bool]:
    """Make the folder the store of this corpus, as `preparation.prepare_store`, whose trees a model may make.

    Raises DataError and, for the parser, CheckpointError; a store that was there is left as it was then.
    """
    by = None
    if parser is not None:
        weights = sha256_of(checkpoint_folder(parser) / WEIGHTS)
        by = Parser(weights, partial(_load, parser, device, on_sentences))
    return preparation.prepare_store(data, folder, skipped, parser=by, on_lines=on_lines)


def _load(parser: Path, device: str, on_sentences: OnSentences) -> Callable[[PreparedCorpus], PreparedCorpus]:
    """Return what puts a corpus under the trees that the model finds. Raises DataError and CheckpointError."""
    checkpoint = load_checkpoint(parser, device)
    if not checkpoint.config.model.encoder.parses:
        raise DataError(
            f"a model of kind {checkpoint.config.model.encoder.kind!r} does not parse", path=parser
        )
    return partial(_parsed, checkpoint=checkpoint, on_sentences=on_sentences)


def _parsed(corpus: PreparedCorpus, checkpoint: Checkpoint, on_sentences: OnSentences) -> PreparedCorpus:
    """Return the corpus under the trees that the model finds."""
    ids = checkpoint.vocabulary.encode(corpus.words)
    splits = {}
    for name, split in corpus.splits.items():
        sentences = split.columns.sentences
        if n_sentences(sentences):
            found = predict_transitions(
                checkpoint.model.encoder, renumber(sentences, ids), on_batch=on_sentences
            )
            sentences = sentences._replace(transitions=found.astype(np.int8), node_labels=None)
        splits[name] = split._replace(columns=split.columns._replace(sentences=sentences))
    return corpus._replace(splits=splits)
