"""Raw sentences in; labels, probabilities, encodings and trees out: a loaded model and what reads text for it.

What a model composes by depends on its kind; the methods, and what a sentence is, are those of `TextModel`.

    kind                            trees it composes by
    spinn                           its own, whatever is given
    lstm, bilstm, bow               none
    spinn-pi, spinn-pi-nt           those given, or those that `trees` makes:
        trees="packaged"            the package's parser makes them for text without a parse
        trees=FOLDER or hub id      another parser does
        trees="left", "right", ...  such trees replace those given, too, as `--branching` does
        trees="none"                given ones are kept, whatever the model was trained with
        trees=None                  as the model was trained: its own --branching, else "packaged", but where its words
                                    are other than the Penn Treebank's: then only trees are taken
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from spinn_tensor.answers import Advance, TreeMaker
from spinn_tensor.bundle import trusted_folder
from spinn_tensor.config import GIVEN_KINDS, ConfigError
from spinn_tensor.data_prep.branching import BRANCHINGS
from spinn_tensor.data_prep.columns import Corpus, SentenceColumns
from spinn_tensor.data_prep.errors import DataError, one_line
from spinn_tensor.data_prep.given import is_one
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS
from spinn_tensor.data_prep.paths import expanded
from spinn_tensor.data_prep.penn import DEFAULT_BINARIZE
from spinn_tensor.data_prep.text import PACKAGED
from spinn_tensor.hub import HubOptions
from spinn_tensor.inference import (
    encode_columns,
    predict_beams,
    predict_logits,
    predict_parses,
    predict_transitions,
)
from spinn_tensor.model.classifiers import Model, load_checkpoint
from spinn_tensor.parsers import FOLDERS, GIVEN, load_parser, packaged_folder, tree_source
from spinn_tensor.text_model import TextModel


class Pipeline(TextModel):
    """Run a model on one device, for sentences in any number and of any lengths, in batches cut by their tokens.

    Threads may share it. `classify`, `encode`, `parse` and `similarity` take strings, lists of words, columns of
    tables, documents of spaCy and trees of nltk.

    >>> pipeline = Pipeline.from_pretrained(folder / "sentences")  # of spinn train, or "owner/name" on the hub
    >>> pipeline.classify(["A dog barks.", "cats sing"])[0].label in pipeline.labels
    True
    >>> pipeline.encode("A dog barks.").shape, pipeline.encode(["A dog barks.", "cats sing"]).shape
    ((8,), (2, 8))
    """

    trees_from = "parser=Pipeline.from_pretrained().model makes them, or branching = left, right"

    def __init__(
        self,
        model: Model,
        *,
        branching: str | None = None,
        parser: Model | None = None,
        parser_of_all: bool = False,
        binarize: str = DEFAULT_BINARIZE,
        notation: str = "auto",
        max_words: int = DEFAULT_LIMITS.max_words,
    ) -> None:
        """Put the model in eval mode. `Pipeline.from_pretrained` reads one.

        Args:
            model: with a vocabulary: one that was loaded, or saved with `vocabulary=`.
            branching: "left", "right", "balanced" or "random": trees that replace those given.
            parser: a model that parses, which makes trees for text without a parse.
            parser_of_all: whether it makes those of all sentences: the model was trained with its trees.
            binarize: how trees of more than two children are read: "head", "right" or "left".
            notation: what strings are: "text", "parses", or "auto": what they look like, see `data_prep.text`.
            max_words: of a sentence at most.

        Raises:
            CheckpointError: for a model without a vocabulary.
            ConfigError: for a branching or parser that the model has no use for.
        """
        encoder = model.config.encoder
        if parser is not None and not parser.config.encoder.parses:
            raise ConfigError(f"parser: a model of kind {parser.config.encoder.kind!r} does not parse")
        self.model = model.eval()
        self.parser = parser
        maker = None
        if parser is not None:
            parse = partial(predict_transitions, parser.encoder)
            maker = TreeMaker(parser.vocabulary, parse, of_all=parser_of_all)
        super().__init__(
            model.task,
            encoder.kind,
            model.tokenizer,
            trees={"own": "own", "sequence": "none"}.get(model.encoder.table_kind, "given"),
            branching=branching,
            tree_maker=maker,
            binarize=binarize,
            notation=notation,
            max_words=max_words,
        )

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path = PACKAGED,
        *,
        device: str | torch.device = "auto",
        trees: str | Path | None = None,
        notation: str = "auto",
        max_words: int = DEFAULT_LIMITS.max_words,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        allow_custom_code: bool = False,
    ) -> Self:
        """Read a bundle: by default the parser that comes with the package.

        Args:
            path_or_hub_id: the folder of a bundle, checkpoint or run, "owner/name" on the Hugging Face Hub, or
                of those that come with the package "packaged", the parser, or "packaged-nli", a demonstration of NLI.
            device: where it computes; "auto": cuda where there is one, else cpu.
            trees: what a model composes by that needs given trees, where text has none: "packaged" (the default, or
                what the model was trained with), a parser's folder or hub id; or "left", "right", "balanced" or
                "random" for trees made without a parser, which replace those given, too; or "none": not as the model
                was trained.
            notation: what strings are: "text", "parses", or "auto": what they look like, see `data_prep.text`.
            max_words: of a sentence at most; more is an error.
            revision: branch, tag or commit on the hub.
            cache_dir, force_download, local_files_only, token: as `huggingface_hub.snapshot_download` has them.
            allow_custom_code: whether bundles from the hub may name `module:Class`, which is imported from what is
                installed here; those in a folder may.

        Returns:
            The pipeline, its model in eval mode.

        Raises:
            CheckpointError: for a bundle that cannot be had or is damaged.
            ConfigError: for trees that the model has no use for or that are no parser's, and for a device that is not
                there.

        >>> Pipeline.from_pretrained().parse("The dog barks.")
        '( ( The dog ) ( barks . ) )'
        """
        options = HubOptions(revision, cache_dir, force_download, local_files_only, token)
        device = _device(device)

        def folder_of(name: str | Path, options: HubOptions) -> Path:
            return (
                packaged_folder(name) if name in FOLDERS else trusted_folder(name, options, allow_custom_code)
            )

        checkpoint = load_checkpoint(folder_of(path_or_hub_id, options), device)
        encoder, text = checkpoint.config.model.encoder, checkpoint.config.text
        make = partial(cls, checkpoint.model, binarize=text.binarize, notation=notation, max_words=max_words)
        if encoder.kind not in GIVEN_KINDS:
            if trees is not None:
                why = "makes trees of its own" if encoder.parses else "looks at no tree"
                raise ConfigError(f"trees={trees!r}: a model of kind {encoder.kind!r} {why}")
            return make()
        asked = None if trees is None else str(trees)
        source = tree_source(text, checkpoint.tokenizer.rules, asked)
        if (name := source.parser) is None:
            return make(branching=source.branching)
        if name != PACKAGED and "/" not in name and not expanded(name).is_dir():
            known = ", ".join((PACKAGED, *BRANCHINGS, GIVEN))
            raise ConfigError(f"trees={name!r}: expected {known}, a folder, or owner/name on the hub")
        parser = load_parser(folder_of(name, options._replace(revision=None)), device)
        return make(parser=parser.model, parser_of_all=source.of_all)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the names of the classes; () for a model that only parses."""
        return self.model.config.labels

    def _logits(self, corpus: Corpus, batch_size: int, advance: Advance) -> np.ndarray:  # (n, C)
        return predict_logits(self.model, corpus, batch_size, advance)

    def _encodings(
        self, sentences: SentenceColumns, batch_size: int | None, advance: Advance
    ) -> np.ndarray:  # (n, D) float32
        return encode_columns(self.model.encoder, sentences, batch_size=batch_size, on_batch=advance)

    def _own_parses(
        self, sentences: SentenceColumns, batch_size: int, advance: Advance
    ) -> tuple[np.ndarray, np.ndarray | None]:  # (M,) int8 and float64
        return predict_parses(self.model.encoder, sentences, advance, batch_size)[:2]

    def _own_beams(
        self, sentences: SentenceColumns, k: int, batch_size: int, advance: Advance
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # (k, M) int8 and float64, (k, n) float64
        return predict_beams(self.model.encoder, sentences, k, advance, batch_size)

    def _tensor(self, encodings: np.ndarray) -> Tensor:
        return torch.from_numpy(encodings).to(next(self.model.parameters()).device)


@dataclass(repr=False, eq=False)
class LazyPipeline:
    """Encode by a bundle, which is read at its first use; a pickle holds its place alone."""

    path_or_hub_id: str | Path
    _: KW_ONLY
    device: str = "auto"
    trees: str | Path | None = None
    revision: str | None = None
    allow_custom_code: bool = False  # of pickles of earlier versions, too
    normalize_embeddings: bool = False
    on_error: str = "raise"  # or "nan": as many rows come out as went in

    def _encode(self, sentences: Any) -> np.ndarray:  # (n, D) float32
        """Return one vector a sentence. Raises as `Pipeline.encode`, and DataError for one sentence alone."""
        if self.on_error == "skip":
            raise ConfigError("on_error: 'skip' would leave rows out here; 'nan' fills them")
        if is_one(sentences):
            raise DataError("got one sentence, expected a list or column of them")
        encodings: np.ndarray = self._pipeline().encode(
            sentences, normalize_embeddings=self.normalize_embeddings, on_error=self.on_error
        )
        return encodings

    def _pipeline(self) -> Pipeline:
        if not hasattr(self, "_loaded"):
            self._loaded = Pipeline.from_pretrained(
                self.path_or_hub_id,
                device=self.device,
                trees=self.trees,
                revision=self.revision,
                allow_custom_code=self.allow_custom_code,
            )
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())  # type: ignore[call-overload]
        state.pop("_loaded", None)
        return state


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
        if found.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"device {device}: torch sees no CUDA device here")
        torch.empty(0, device=found)  # which says what else is not there
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {device}: {one_line(error)}") from error
    return found
