"""Raw sentences in; labels, probabilities, encodings and trees out: a loaded model and what reads text for it.

What a model composes by depends on its kind; the methods, and what a sentence is, are those of `TextModel`.

    kind                            trees it composes by
    spinn                           its own, whatever is given
    lstm, bilstm, bow               none
    spinn-pi, spinn-pi-nt           those given, or those that `trees` makes:
        trees="parser"              the package's parser makes them for text without a parse
        trees=FOLDER or hub id      another parser does
        trees="left", "right", ...  such trees replace those given, too, as `--branching` does
        trees=None                  as the model was trained: its own --branching, else "parser", but where its words
                                    are other than the Penn Treebank's: then only trees are taken
"""

from __future__ import annotations

from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from spinn_tensor.bundle import CONFIG, HubOptions, bundle_folder
from spinn_tensor.config import GIVEN_KINDS, ConfigError
from spinn_tensor.data_prep.branching import BRANCHINGS
from spinn_tensor.data_prep.columns import Corpus, SentenceColumns
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS
from spinn_tensor.data_prep.penn import DEFAULT_BINARIZE
from spinn_tensor.data_prep.token_rules import PENN
from spinn_tensor.inference import encode_columns, predict_probabilities, predict_transitions
from spinn_tensor.model.classifiers import Checkpoint, Model, load_checkpoint
from spinn_tensor.text_model import TextModel, TreeMaker

PACKAGED = "parser"  # the name of the package's own, among trees


class Pipeline(TextModel):
    """Run a model on one device, for sentences in any number and of any lengths, in batches cut by their tokens."""

    def __init__(
        self,
        model: Model,  # with a vocabulary: loaded, or given one as `model.provenance`
        *,
        branching: str | None = None,  # one of BRANCHINGS, for kinds that compose by given trees
        parser: Model | None = None,  # makes trees for text without a parse, for the same kinds
        binarize: str = DEFAULT_BINARIZE,  # Penn trees
        max_words: int = DEFAULT_LIMITS.max_words,  # of a sentence
    ) -> None:
        """Put the model in eval mode. Raises CheckpointError for one without a vocabulary, ConfigError for a
        branching or parser that it has no use for."""
        encoder = model.config.encoder
        if parser is not None and not parser.config.encoder.parses:
            raise ConfigError(f"parser: a model of kind {parser.config.encoder.kind!r} does not parse")
        self.model = model.eval()
        self.parser = parser
        maker = None
        if parser is not None:
            maker = TreeMaker(parser.vocabulary, partial(predict_transitions, parser.encoder))
        super().__init__(
            model.task,
            encoder.kind,
            model.tokenizer,
            trees={"own": "own", "sequence": "none"}.get(model.encoder.table_kind, "given"),
            branching=branching,
            tree_maker=maker,
            binarize=binarize,
            max_words=max_words,
        )

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
        """Read a bundle.

        Raises CheckpointError as `PairClassifier.from_pretrained`, ConfigError for trees that the model has no use for
        or that are no parser's, and for a device that is not there.
        """
        options = HubOptions(revision, cache_dir, force_download, local_files_only, token)
        device = _device(device)
        checkpoint = load_checkpoint(bundle_folder(path_or_hub_id, options), device)
        encoder, text = checkpoint.config.model.encoder, checkpoint.config.text
        make = partial(cls, checkpoint.model, binarize=text.binarize, max_words=max_words)
        if encoder.kind not in GIVEN_KINDS:
            if trees is not None:
                why = "makes trees of its own" if encoder.parses else "looks at no tree"
                raise ConfigError(f"trees={trees!r}: a model of kind {encoder.kind!r} {why}")
            return make()
        is_penn = checkpoint.tokenizer.rules == PENN  # words such as the package's parser knows
        trees = trees or text.branching or (PACKAGED if is_penn else None)
        if trees is None:
            return make()
        if trees in BRANCHINGS:
            return make(branching=str(trees))
        if trees != PACKAGED and "/" not in str(trees) and not Path(trees).is_dir():
            known = ", ".join((PACKAGED, *BRANCHINGS))
            raise ConfigError(f"trees={str(trees)!r}: expected {known}, a folder, or owner/name on the hub")
        folder = (
            packaged_parser() if trees == PACKAGED else bundle_folder(trees, options._replace(revision=None))
        )
        return make(parser=load_parser(folder, device).model)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the names of the classes; () for a model that only parses."""
        return self.model.config.labels

    def _probabilities(self, corpus: Corpus, batch_size: int) -> np.ndarray:  # (n, C)
        return predict_probabilities(self.model, corpus, batch_size)

    def _encodings(self, sentences: SentenceColumns) -> np.ndarray:  # (n, D) float32
        return encode_columns(self.model.encoder, sentences)

    def _own_transitions(self, sentences: SentenceColumns) -> np.ndarray:  # (M,) int8
        return predict_transitions(self.model.encoder, sentences)


class LazyPipeline:
    """Hold a bundle's place, and read it at its first use; a pickle holds the place alone."""

    path_or_hub_id: str | Path
    device: str
    trees: str | Path | None
    revision: str | None

    def _pipeline(self) -> Pipeline:
        if not hasattr(self, "_loaded"):
            self._loaded = Pipeline.from_pretrained(
                self.path_or_hub_id, device=self.device, trees=self.trees, revision=self.revision
            )
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())  # type: ignore[call-overload]
        state.pop("_loaded", None)
        return state


def packaged_parser() -> Path:
    """Return the folder of the package's own checkpoint. Raises ConfigError if this installation lacks it."""
    folder = Path(str(resources.files("spinn_tensor"))) / "pretrained" / "parser"
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            "the package's parser is missing here; train one with spinn train --corpus trees and give its folder"
        )
    return folder


def load_parser(path: str | Path, device: str | torch.device) -> Checkpoint:
    """Read a checkpoint that parses. Raises CheckpointError, and ConfigError for one that does not."""
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
