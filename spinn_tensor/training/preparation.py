"""A corpus kept in a store, under its own trees or those of a SPINN that was taught to parse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spinn_tensor.bundle import WEIGHTS, checkpoint_folder
from spinn_tensor.data_prep.corpora import preparation
from spinn_tensor.data_prep.corpora.config import DataConfig
from spinn_tensor.data_prep.corpora.splits import OnLines
from spinn_tensor.data_prep.corpora.store import sha256_of
from spinn_tensor.data_prep.corpora.text_trees import TextTrees
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.training.text_trees import OnSentences, Parser


def prepare_store(
    data: DataConfig,
    folder: Path,
    skipped: Skipped,
    *,
    device: str = "cpu",
    on_lines: OnLines | None = None,
    on_sentences: OnSentences = lambda n_sentences: None,
) -> tuple[dict[str, Any], bool]:
    """Make the folder the store of this corpus, as `preparation.prepare_store`, under trees of `data.parser` if set.

    Raises DataError and, for the parser, CheckpointError; a store that was there is left as it was then.
    """
    by = None
    if data.parser is not None:
        parser = Parser(data.parser, device, on_sentences)
        weights = sha256_of(checkpoint_folder(parser.folder) / WEIGHTS)
        by = preparation.Parser(weights, TextTrees(parser, of_all=True))
    return preparation.prepare_store(data, folder, skipped, parser=by, on_lines=on_lines)
