"""Raw sentences in; labels, probabilities, encodings and trees out: a loaded model and what reads text for it.

A sentence is a string: a binary parse, `( ( A dog ) barks )`, if it begins with "( ", else raw English text, which is
tokenised as the model's words were. What a model composes by depends on its kind:

    kind                            trees it composes by
    spinn                           its own, whatever is given
    lstm, bilstm, bow               none
    spinn-pi, spinn-pi-nt           those given, or those that `trees` makes:
        trees="parser"              the package's parser makes them for text without a parse
        trees=FOLDER or hub id      another parser does
        trees="left", "right", ...  such trees replace those given, too, as `--branching` does
        trees=None                  as the model was trained: its own --branching, else "parser"
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Self

import numpy as np
import torch

from spinn_tensor.config import GIVEN_KINDS, ConfigError
from spinn_tensor.data_prep.branching import BRANCHINGS
from spinn_tensor.data_prep.columns import (
    NO_LABEL,
    Corpus,
    SentenceColumns,
    n_sentences,
)
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits
from spinn_tensor.data_prep.strings import (
    Prediction,
    Sentences,
    TreeMaker,
    binary_parses,
    joined,
    predictions,
    read_strings,
    require_parses,
    require_sides,
    under_trees,
)
from spinn_tensor.encoding.blocks import encode_columns
from spinn_tensor.hub import HubOptions, bundle_folder
from spinn_tensor.model.classifiers import Model
from spinn_tensor.training.checkpoint import CONFIG, Checkpoint, load_checkpoint
from spinn_tensor.training.evaluate import EVALUATION_BATCH, predict_probabilities, predict_transitions

PACKAGED = "parser"  # the name of the package's own, among trees


class Pipeline:
    """A model on one device, for sentences in any number and of any lengths; results keep their order.

    It keeps no state between calls, so threads may share it. Sentences are cut into batches by their tokens; what
    comes out for one does not depend on the others. (But for trees="random", which are drawn for all of a call.)
    """

    def __init__(
        self,
        model: Model,  # with a vocabulary: loaded, or given one as `model.provenance`
        *,
        branching: str | None = None,  # one of BRANCHINGS, for kinds that compose by given trees
        parser: Model | None = None,  # makes trees for text without a parse, for the same kinds
        max_words: int = DEFAULT_LIMITS.max_words,  # of a sentence
    ) -> None:
        """Puts the model in eval mode. Raises CheckpointError for one without a vocabulary, ConfigError for a
        branching or parser that it has no use for."""
        encoder = model.config.encoder
        if branching is not None and parser is not None:
            raise ConfigError("branching and parser: give one of them")
        if encoder.kind not in GIVEN_KINDS and (branching, parser) != (None, None):
            raise ConfigError(
                f"branching and parser: a model of kind {encoder.kind!r} has no use for given trees"
            )
        if branching is not None and branching not in BRANCHINGS:
            raise ConfigError(f"branching: expected one of {', '.join(BRANCHINGS)}, got {branching!r}")
        if parser is not None and not parser.config.encoder.parses:
            raise ConfigError(f"parser: a model of kind {parser.config.encoder.kind!r} does not parse")
        self.model = model.eval()
        self.branching = branching
        self.parser = parser
        self.max_words = max_words
        self._vocabulary = model.vocabulary
        self._tokenizer = model.tokenizer

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path,
        *,
        device: str | torch.device = "auto",  # "auto": cuda where there is one
        trees: str | Path | None = None,  # see the top of this module
        max_words: int = DEFAULT_LIMITS.max_words,  # of a sentence
        revision: str | None = None,  # of the model on the hub
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """Raises CheckpointError as `PairClassifier.from_pretrained`, ConfigError for trees that the model has no use
        for or that are no parser's, and for a device that is not there."""
        options = HubOptions(revision, cache_dir, force_download, local_files_only, token)
        device = _device(device)
        checkpoint = load_checkpoint(bundle_folder(path_or_hub_id, options), device)
        encoder, run = checkpoint.config.model.encoder, checkpoint.config.run
        if encoder.kind not in GIVEN_KINDS:
            if trees is not None:
                why = "makes trees of its own" if encoder.parses else "looks at no tree"
                raise ConfigError(f"trees={trees!r}: a model of kind {encoder.kind!r} {why}")
            return cls(checkpoint.model, max_words=max_words)
        trees = trees or run.data.branching or PACKAGED
        if trees in BRANCHINGS:
            return cls(checkpoint.model, branching=str(trees), max_words=max_words)
        if trees != PACKAGED and "/" not in str(trees) and not Path(trees).is_dir():
            known = ", ".join((PACKAGED, *BRANCHINGS))
            raise ConfigError(f"trees={str(trees)!r}: expected {known}, a folder, or owner/name on the hub")
        folder = (
            packaged_parser() if trees == PACKAGED else bundle_folder(trees, options._replace(revision=None))
        )
        return cls(checkpoint.model, parser=load_parser(folder, device).model, max_words=max_words)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; () for a model that only parses."""
        return self.model.config.labels

    def classify(
        self,
        premises: Iterable[str],  # n sentences, which need not be premises
        hypotheses: Iterable[str] | None = None,  # n, for a model of pairs
        *,
        batch_size: int = EVALUATION_BATCH,  # sentences or pairs at most
    ) -> list[Prediction]:  # n
        """Labels and probabilities.

        Raises DataError naming the number of a sentence, counted from 0, that is empty, no text, a broken parse or
        longer than `max_words`; TypeError where the model is not one of pairs, or of sentences.
        """
        task = self.model.task
        require_sides(task, hypotheses is not None, type(self.model).__name__)
        if hypotheses is None:
            read, n_sides = self._read(premises, "sentences"), 1
        else:
            read, n_sides = joined(self._read(premises, "premises"), self._read(hypotheses, "hypotheses")), 2
        columns = self._composed(read)
        labels = np.full(n_sentences(columns) // n_sides, NO_LABEL, dtype=np.int64)
        corpus = Corpus(columns, labels, n_sides)
        return predictions(self.labels, predict_probabilities(self.model, corpus, batch_size))

    def encode(self, sentences: Iterable[str]) -> np.ndarray:  # (n, output_dim) float32
        """One vector a sentence. Raises DataError as `classify`."""
        return encode_columns(self.model.encoder, self._composed(self._read(sentences, "sentences")))

    def parse(self, sentences: Iterable[str]) -> list[str]:  # n
        """The trees that the model composes the sentences by, as binary parses.

        Raises DataError as `classify`, TypeError for a model that looks at no tree.
        """
        kind = self.model.encoder.config.kind
        if self.model.encoder.table_kind == "sequence":
            raise TypeError(f"a model of kind {kind!r} looks at no tree")
        read = self._read(sentences, "sentences")
        columns = self._composed(read)
        if self.model.encoder.config.parses:
            columns = columns._replace(transitions=predict_transitions(self.model.encoder, columns))
        return binary_parses(read, columns)

    def _read(self, sentences: Iterable[str], name: str) -> Sentences:
        read = read_strings(sentences, name, self._tokenizer, Limits(max_words=self.max_words))
        needs_parse = self.model.config.encoder.kind in GIVEN_KINDS
        if needs_parse and self.branching is None and self.parser is None:
            require_parses(read, name)
        return read

    def _composed(self, read: Sentences) -> SentenceColumns:
        """The sentences under the trees that a model composes by which does not parse."""
        parser = None
        if self.parser is not None:
            parser = TreeMaker(self.parser.vocabulary, partial(predict_transitions, self.parser.encoder))
        return under_trees(read, self._vocabulary, self.branching, parser)


def packaged_parser() -> Path:
    """Folder of the checkpoint that comes with the package. Raises ConfigError if this installation lacks it."""
    folder = Path(str(resources.files("spinn_tensor"))) / "pretrained" / "parser"
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            "the package's parser is missing here; train one with spinn train --corpus trees and give its folder"
        )
    return folder


def load_parser(path: str | Path, device: str | torch.device) -> Checkpoint:
    """A checkpoint that parses. Raises CheckpointError, and ConfigError for one that does not."""
    checkpoint = load_checkpoint(path, device)
    encoder = checkpoint.config.model.encoder
    if not encoder.parses:
        raise ConfigError(f"{path}: an encoder of kind {encoder.kind} does not parse; those of kind spinn do")
    return checkpoint


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device}: torch sees no CUDA device here")
    return device
