"""A corpus from its files to a store, once: a second time nothing is read if files and options are the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spinn_tensor.bundle import WEIGHTS, checkpoint_folder
from spinn_tensor.data_prep.columns import SentenceColumns, n_sentences
from spinn_tensor.data_prep.corpora.store import (
    PreparedCorpus,
    check_files,
    clear_store,
    is_store,
    read_manifest,
    sha256_of,
    write_store,
)
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.words import renumber
from spinn_tensor.inference import predict_transitions
from spinn_tensor.model.classifiers import Checkpoint, load_checkpoint
from spinn_tensor.training.config import DataConfig
from spinn_tensor.training.corpora import OnLines, preparation_key, preparation_options, prepare

OnSentences = Callable[[int], object]  # told of so many sentences when they are parsed


def prepare_store(
    data: DataConfig,
    folder: Path,
    skipped: Skipped,
    *,
    parser: Path | None = None,  # checkpoint of a SPINN that parses: all trees are made by it
    device: str = "cpu",
    on_lines: OnLines | None = None,
    on_sentences: OnSentences | None = None,
) -> tuple[dict[str, Any], bool]:
    """Makes the folder the store of this corpus; gives its manifest, and whether it had to be written.

    With a parser, sentences need no trees. Raises DataError and, for the parser, CheckpointError; a store that was
    there is left as it was then.
    """
    clear_store(folder)
    key = preparation_key(data)
    if parser is not None:
        key["options"]["parser"] = sha256_of(checkpoint_folder(parser) / WEIGHTS)
    if (manifest := _whole_store(folder)) is not None and _essence(manifest) == _essence(key):
        return manifest, False
    if parser is None:
        corpus = prepare(data, skipped, on_lines)
    else:
        checkpoint = load_checkpoint(parser, device)
        if not checkpoint.config.model.encoder.parses:
            raise DataError(
                f"a model of kind {checkpoint.config.model.encoder.kind!r} does not parse", path=parser
            )
        without_trees = replace(data, branching=data.branching or "right")
        corpus = _parsed(prepare(without_trees, skipped, on_lines), checkpoint, on_sentences)
    write_store(folder, corpus, {**key, "skipped": skipped.to_dict()})
    return read_manifest(folder), True


def _whole_store(folder: Path) -> dict[str, Any] | None:
    """The manifest of a store that this version reads and nothing is missing of."""
    if not is_store(folder):
        return None
    try:
        check_files(folder)
        return read_manifest(folder)
    except DataError:
        return None


def _essence(values: dict[str, Any]) -> Any:
    """Options, the rules of the tokenizer and contents of files, wherever these lie."""
    try:
        contents = {
            name: (source["member"], [file["sha256"] for file in source["files"]])
            for name, source in values["sources"].items()
        }
        # an option that came later was what it is by default
        options = {**preparation_options(DataConfig()), **values["options"]}
    except (KeyError, TypeError, AttributeError):  # of a manifest that was written by hand
        return None
    return options, values.get("tokenizer"), contents


def _parsed(
    corpus: PreparedCorpus, checkpoint: Checkpoint, on_sentences: OnSentences | None
) -> PreparedCorpus:
    """The corpus under the trees that the model finds."""
    ids = checkpoint.vocabulary.encode(corpus.words)

    def under_own_trees(sentences: SentenceColumns) -> SentenceColumns:
        if not n_sentences(sentences):
            return sentences
        transitions = predict_transitions(
            checkpoint.model.encoder, renumber(sentences, ids), on_batch=on_sentences
        )
        return sentences._replace(transitions=transitions.astype(np.int8), node_labels=None)

    splits = {}
    for name, split in corpus.splits.items():
        sentences = under_own_trees(split.columns.sentences)
        splits[name] = split._replace(columns=split.columns._replace(sentences=sentences))
    return corpus._replace(splits=splits)
