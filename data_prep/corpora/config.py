"""Which examples, and how they are read: the settings that are the same for training, preparation and evaluation."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spinn_tensor.data_prep.branching import BRANCHINGS
from spinn_tensor.data_prep.corpora.kinds import KINDS
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits
from spinn_tensor.data_prep.penn import BINARIZE
from spinn_tensor.data_prep.row_sources import is_hub_name
from spinn_tensor.data_prep.settings import (
    AT_LEAST_1,
    NOT_NEGATIVE,
    Allowed,
    ConfigError,
    Settings,
    one_of,
    setting,
)
from spinn_tensor.data_prep.text import NOTATIONS, PACKAGED
from spinn_tensor.data_prep.token_rules import NAMED

_ONLY_FOR = {
    "fields": ("pairs", "sentences", "snli", "multinli", "logic"),
    "labels": ("pairs", "sentences"),
    "binary": ("sst",),
    "phrases": ("sst",),
    "node_labels": ("sst",),
}
_LISTS = ("train", "dev", "test", "extra", "fields", "labels")


@dataclass(frozen=True)
class DataConfig(Settings):
    """Say which examples. `data` is a folder, the official zip or a store; the files of a split overrule a folder's."""

    corpus: str = setting(
        "logic",
        "kind of files (default: that of a prepared folder, or the preset's, else logic, which is generated)",
        one_of(*KINDS),
    )
    data: str | None = setting(
        None,
        "folder of the corpus, its official zip (SNLI, MultiNLI, SST), or what spinn prepare wrote",
        metavar="PATH",
    )
    train: tuple[str, ...] = setting(
        (), "train examples, plain or compressed, instead of --data's; repeatable", metavar="FILE"
    )
    dev: tuple[str, ...] = setting(
        (), "dev examples, plain or compressed, instead of --data's; repeatable", metavar="FILE"
    )
    test: tuple[str, ...] = setting(
        (), "test examples, plain or compressed, instead of --data's; repeatable", metavar="FILE"
    )
    dev_fraction: float = setting(
        0.0,
        "where there is no dev file: this part of the training examples is it, of every label alike; 0 = none",
        Allowed("in [0, 1)", lambda value: 0 <= value < 1),
    )
    split_seed: int = setting(1, "of --dev-fraction's choice, whatever --seed is", NOT_NEGATIVE)
    extra: tuple[str, ...] = setting(
        (), "another file to evaluate at the end; repeatable", metavar="NAME=FILE"
    )
    vectors: str | None = setting(
        None,
        "word vectors: GloVe text (plain, compressed or .zip), word2vec .bin, or .safetensors (default: from scratch)",
        metavar="FILE",
    )
    vector_norm: float = setting(
        0.0, "scale the vector of each word of --vectors to this length; 0 = as it is", NOT_NEGATIVE
    )
    min_count: int = setting(1, "rarer words of the training examples become <unk>", AT_LEAST_1)
    lower: bool = setting(False, "words in lower case")
    limit: int = setting(0, "only the first N examples of every split; 0 = all", NOT_NEGATIVE)
    node_labels: bool = setting(False, "sst: learn the label of every node")
    skip_bad: bool = setting(False, "leave out bad lines, and say how many and why")
    branching: str | None = setting(
        None,
        "trees made without a parser, instead of those of the files; sentences without a parse are read from their "
        "text then (pairs: sentence1, sentence2; trees: sentence, or a line)",
        one_of(*BRANCHINGS),
    )
    parser: str | None = setting(
        None,
        "trees made by a SPINN that parses, instead of those of the files: packaged, or the folder of a checkpoint "
        "(default: packaged, for text without a parse, where the model needs trees)",
        metavar="NAME|FOLDER",
    )
    tokenizer: str | None = setting(
        None,
        "what makes words of text: penn, whitespace, or a tokenizer.json of HF tokenizers, of which the normalizer and "
        "pre-tokenizer are used (default: penn; whitespace for listops)",
        metavar="NAME|FILE",
    )
    notation: str | None = setting(
        None,
        "what sentences are: text or parses, whatever they begin with (default: auto, a tree where it begins like one)",
        one_of(*NOTATIONS),
    )
    binarize: str | None = setting(
        None,
        "how a phrase of three or more parts of a Penn tree becomes binary (default: head, as SNLI's trees were made)",
        one_of(*BINARIZE),
    )
    fields: tuple[str, ...] = setting(
        (),
        "what the records of one's own call premise, hypothesis, label and pair_id (default: as SNLI does), or of "
        "sentences text, label and sentence_id (default: sentence or text, label, sentenceID)",
        metavar="PART=NAME",
        several=True,
    )
    labels: tuple[str, ...] = setting(
        (), "pairs, sentences: in this order (default: those of --train)", metavar="LABEL", several=True
    )
    binary: bool = setting(False, "sst: two classes, neutral sentences left out")
    phrases: bool = setting(False, "sst: every phrase of the training trees is an example")
    max_line_bytes: int = setting(
        DEFAULT_LIMITS.max_line_bytes, "refuse a longer line of a file, in bytes", AT_LEAST_1
    )
    max_words: int = setting(DEFAULT_LIMITS.max_words, "refuse a longer sentence, in words", AT_LEAST_1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _LISTS:
            value = getattr(self, name)
            if not isinstance(value, tuple | list) or not all(isinstance(item, str) for item in value):
                raise ConfigError(f"{name}: expected a tuple of strings, got {value!r}")
        for entry in self.extra:
            name, _, file = entry.partition("=")
            if not name or not file:
                raise ConfigError(f"extra: expected NAME=FILE, got {entry!r}")
        for name, value in self._paths(os.path.expanduser).items():
            object.__setattr__(self, name, value)
        if len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"labels: got one twice: {', '.join(self.labels)}")
        for name, corpora in _ONLY_FOR.items():
            if getattr(self, name) and self.corpus not in corpora:
                raise ConfigError(
                    f"{name}: is for --corpus {' or '.join(corpora)}, got --corpus {self.corpus}"
                )
        if self.branching is not None and self.parser is not None:
            raise ConfigError("trees are made by --parser or by --branching, not by both")
        if self.node_labels and (self.branching or self.parser):
            raise ConfigError(
                "node_labels: the nodes of trees made by --branching or --parser have no labels"
            )

    @property
    def limits(self) -> Limits:
        """Tell how long a line and a sentence may be."""
        return Limits(self.max_line_bytes, self.max_words)

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files and folders that the settings name."""
        extra = (entry.partition("=")[2] for entry in self.extra)
        named = (
            self.data,
            self.vectors,
            self.tokenizer,
            self.parser,
            *self.train,
            *self.dev,
            *self.test,
            *extra,
        )
        return tuple(Path(name) for name in named if name is not None)

    def with_absolute_paths(self) -> DataConfig:
        paths = self._paths(lambda path: path if is_hub_name(path) else os.path.abspath(path))
        return dataclasses.replace(self, **paths)

    def _paths(self, change: Callable[[str], str]) -> dict[str, Any]:
        """Return the fields that hold paths, each path changed."""
        paths: dict[str, Any] = {
            name: change(path)
            for name in ("data", "vectors", "tokenizer", "parser")
            if (path := getattr(self, name)) is not None and path not in (*NAMED, PACKAGED)
        }
        for name in ("train", "dev", "test"):
            paths[name] = tuple(map(change, getattr(self, name)))
        extra = [entry.partition("=") for entry in self.extra]
        return {**paths, "extra": tuple(f"{name}={change(file)}" for name, _, file in extra)}
