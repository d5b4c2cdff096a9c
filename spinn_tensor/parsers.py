"""Who makes the trees of text, and the models that come with the package: a parser, and one of NLI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from spinn_tensor.answers import Advance
from spinn_tensor.config import ConfigError, TextSettings
from spinn_tensor.data_prep.branching import BRANCHINGS
from spinn_tensor.data_prep.columns import SentenceColumns, renumber
from spinn_tensor.data_prep.corpora.store import sha256_of
from spinn_tensor.data_prep.corpora.text_trees import TextTrees
from spinn_tensor.data_prep.text import PACKAGED, PACKAGED_NLI
from spinn_tensor.data_prep.token_rules import PENN, Rules
from spinn_tensor.hub import CONFIG, WEIGHTS, checkpoint_folder
from spinn_tensor.inference import predict_transitions
from spinn_tensor.model.classifiers import Checkpoint, load_checkpoint

FOLDERS = {PACKAGED: "parser", PACKAGED_NLI: "nli"}  # in pretrained/
GIVEN = "none"  # trees: those that are given, whatever a model was trained with


class TreeSource(NamedTuple):
    """Say who makes the trees of sentences; nobody: those are taken that come with them."""

    branching: str | None = None  # trees made without a parser, of all sentences
    parser: str | None = None  # its name: PACKAGED, a folder or a hub id
    of_all: bool = False  # the parser makes those of sentences that have a tree, too
    are_looked_at: bool = True  # else text may keep whatever trees it is read with

    @property
    def replaces(self) -> bool:
        """Tell whether trees that come with the sentences are replaced."""
        return self.branching is not None or self.of_all

    def text_trees(self, device: str, on_sentences: Advance = lambda n: None) -> TextTrees | None:
        """Return what puts sentences under the parser's trees; None where text is to be refused."""
        if self.branching is not None or not self.are_looked_at:
            return TextTrees()
        if self.parser is None:
            return None
        return TextTrees(Parser(self.parser, device, on_sentences), of_all=self.of_all)


def tree_source(
    trained: TextSettings,  # how the model's run had its trees
    rules: Rules,  # that make words of text for the model
    asked: str | None = None,  # a branching, a parser's name, or GIVEN; None: as trained
    *,
    are_looked_at: bool = True,  # by the model, or by whoever scores its own
) -> TreeSource:
    """Decide who makes the trees of sentences.

    What is asked for goes before what the model was trained with, which made the trees of all sentences. Without
    either the package's parser makes those of text, where its words are the Penn Treebank's.
    """
    if asked in BRANCHINGS:
        return TreeSource(branching=asked)
    if not are_looked_at:
        return TreeSource(are_looked_at=False)
    if asked not in (None, GIVEN):
        return TreeSource(parser=asked)
    if asked is None and trained.branching is not None:
        return TreeSource(branching=trained.branching)
    if asked is None and trained.parser is not None:
        return TreeSource(parser=trained.parser, of_all=True)
    return TreeSource(parser=PACKAGED if rules == PENN else None)


@dataclass(eq=False)
class Parser:
    """Find trees, with a checkpoint that is read at the first sentence."""

    name: str  # PACKAGED, or the folder of a checkpoint
    device: str = "cpu"
    on_sentences: Advance = lambda n: None

    def __str__(self) -> str:
        return "the package's parser" if self.name == PACKAGED else self.name

    @property
    def sha256(self) -> str:
        """Return the digest of its weights: two of one name make other trees. Raises CheckpointError."""
        return sha256_of(checkpoint_folder(model_folder(self.name)) / WEIGHTS)

    def __call__(
        self,
        words: Sequence[str],  # by number
        sentences: SentenceColumns,  # n; their trees are not looked at
    ) -> np.ndarray:  # (M,) int8, sentence after sentence
        """Return the transitions that the parser finds.

        Raises CheckpointError for a checkpoint that cannot be read, ConfigError for a model that does not parse.
        """
        ids = self._checkpoint.vocabulary.encode(words)
        encoder = self._checkpoint.model.encoder
        return predict_transitions(encoder, renumber(sentences, ids), on_batch=self.on_sentences)

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return load_parser(model_folder(self.name), self.device)


def load_parser(path: str | Path, device: str | torch.device) -> Checkpoint:
    """Read a checkpoint that parses. Raises CheckpointError, and ConfigError for one that does not."""
    checkpoint = load_checkpoint(path, device)
    encoder = checkpoint.config.model.encoder
    if not encoder.parses:
        raise ConfigError(f"{path}: an encoder of kind {encoder.kind} does not parse; those of kind spinn do")
    return checkpoint


def model_folder(name: str) -> Path:
    """Return where a named model is. Raises ConfigError if this installation lacks that of the package."""
    return packaged_folder(name) if name in FOLDERS else Path(name)


def packaged_folder(
    name: str = PACKAGED,  # one of FOLDERS
) -> Path:
    """Return the folder of a model that comes with the package. Raises ConfigError if this installation lacks it."""
    folder = Path(str(resources.files("spinn_tensor"))) / "pretrained" / FOLDERS[name]
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            f"the package's {FOLDERS[name]} model is missing here; name the folder of one that spinn train made"
        )
    return folder
