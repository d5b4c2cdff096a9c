"""Trees for text without a parse, by a SPINN that was taught to parse: for training, preparation and use alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from spinn_tensor.config import SPINN_KINDS
from spinn_tensor.data_prep.columns import SentenceColumns
from spinn_tensor.data_prep.corpora.config import DataConfig
from spinn_tensor.data_prep.corpora.splits import Splits, load_splits, rules_of, task_of
from spinn_tensor.data_prep.corpora.text_trees import TextTrees
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.text import PACKAGED
from spinn_tensor.data_prep.token_rules import PENN
from spinn_tensor.data_prep.words import renumber
from spinn_tensor.inference import predict_transitions
from spinn_tensor.model.classifiers import Checkpoint
from spinn_tensor.pipeline import load_parser, packaged_parser
from spinn_tensor.training.config import RunConfig

OnSentences = Callable[[int], object]  # told of so many sentences when they are parsed


class Parser:
    """Find trees, with a checkpoint that is read at the first sentence."""

    def __init__(
        self,
        name: str,  # PACKAGED, or the folder of a checkpoint
        device: str = "cpu",
        on_sentences: OnSentences = lambda n_sentences: None,
    ) -> None:
        self.name, self._device, self._on_sentences = name, device, on_sentences
        self._checkpoint: Checkpoint | None = None

    @property
    def folder(self) -> Path:
        """Return where the checkpoint is. Raises ConfigError if this installation lacks the package's own."""
        return parser_folder(self.name)

    def __str__(self) -> str:
        return "the package's parser" if self.name == PACKAGED else self.name

    def __call__(
        self,
        words: Sequence[str],  # by number
        sentences: SentenceColumns,  # n; their trees are not looked at
    ) -> np.ndarray:  # (M,) int8, sentence after sentence
        """Return the transitions that the parser finds.

        Raises CheckpointError for a checkpoint that cannot be read, ConfigError for a model that does not parse.
        """
        if self._checkpoint is None:
            self._checkpoint = load_parser(self.folder, self._device)
        ids = self._checkpoint.vocabulary.encode(words)
        encoder = self._checkpoint.model.encoder
        return predict_transitions(encoder, renumber(sentences, ids), on_batch=self._on_sentences).astype(
            np.int8
        )


def parser_folder(name: str) -> Path:
    """Return where a parser's checkpoint is. Raises ConfigError if this installation lacks the package's own."""
    return packaged_parser() if name == PACKAGED else Path(name)


def read_splits(
    run: RunConfig, device: str, skipped: Skipped, note: Callable[[str], object] = lambda text: None
) -> Splits:
    """Read the examples of a run, as `load_splits`; text gets trees, and how much of it there is is noted."""
    trees = text_trees(run.data, run.encoder["kind"], device)
    splits = load_splits(run.data, skipped, trees)
    if skipped:
        note(str(skipped))
    if trees is not None and trees.note is not None and run.data.branching is None:
        note(trees.note)
    return splits


def text_trees(
    data: DataConfig,
    kind: str,  # of the encoder that will look at them
    device: str = "cpu",
    on_sentences: OnSentences = lambda n_sentences: None,
) -> TextTrees | None:
    """Return what puts text under trees for this corpus and encoder; None where text is refused.

    Trees that are looked at are made by `data.parser`, for all sentences, or else by the package's parser, for text
    alone: of English, and never for a corpus of trees, from which a parser is to learn.
    """
    if data.parser is not None:
        return TextTrees(Parser(data.parser, device, on_sentences), of_all=True)
    if data.branching is not None or kind not in SPINN_KINDS:
        return TextTrees()
    if task_of(data) == "parse" or rules_of(data) != PENN:
        return None
    return TextTrees(Parser(PACKAGED, device, on_sentences))
