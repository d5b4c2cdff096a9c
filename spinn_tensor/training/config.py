"""What a training run is: where its examples come from, the model's options and the optimiser's settings.

A `RunConfig` is complete: on the CPU, with the same files, machine and thread count it gives the same weights.
It is stored in the run's folder (`run.json`) and in every checkpoint, and resuming compares it key by key.
"""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from spinn_tensor.config import ClassifierConfig, ConfigError, EncoderConfig, Settings, checked_fields
from spinn_tensor.data_prep.branching import BRANCHINGS
from spinn_tensor.data_prep.limits import DEFAULT_LIMITS, Limits

CORPORA = ("logic", "snli", "multinli", "pairs", "sst", "listops", "trees")
PAIR_CORPORA = ("logic", "snli", "multinli", "pairs")
CRITERIA = ("accuracy", "f1")
PRECISIONS = ("float32", "tf32", "bfloat16")  # of matrix products, see `step`
LEARNING = ("supervised", "reinforce")
BASELINES = ("none", "mean", "greedy", "leave-one-out")  # see `reinforce`
_LISTS = ("train", "dev", "test", "extra", "fields", "labels")  # of DataConfig


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """The optimiser, its schedule, and when to validate, save and stop."""

    epochs: int = 10
    batch_size: int = 128  # sentences or pairs of a step, over all processes
    batch_tokens: int = (
        0  # instead: tokens of a step at most, those of both sentences of a pair; 0 = batch_size
    )
    prefetch: int = 2  # batches that a thread makes ahead; 0 = none
    accumulate: int = 1  # parts of a process's share of a step, computed one by one; batch norm sees one
    learning_rate: float = 2e-3
    rms_decay: float = 0.9  # of RMSprop's mean square (torch's alpha)
    rms_epsilon: float = 1e-6
    weight_decay: float = 0.0  # L2 on matrices; biases, batch norm and embeddings have none
    decay_factor: float = 0.75  # of the learning rate ...
    decay_every: int = 1  # ... after so many ...
    decay_unit: str = "epoch"  # ... epochs or steps
    clip_norm: float = 5.0  # largest global norm of the gradient; 0 = no clipping
    patience: int = 0  # stop after so many evaluations without a better one; 0 = never
    evaluate_every: int = 0  # steps; 0 = at the end of each epoch only (that evaluation is always made)
    save_every: int = 500  # steps; 0 = at the end of each epoch only (that checkpoint is always written)
    log_every: int = 50  # steps between two readings of the loss
    seed: int = 1
    compile: bool = False  # the whole step by torch.compile, on CUDA replayed as graphs where it can be
    precision: str = "float32"  # of matrix products in training, one of PRECISIONS
    select_by: str = "accuracy"  # what makes an evaluation the best: "accuracy", or "f1" of the trees

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "log_every"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("decay_every", "patience", "evaluate_every", "save_every", "batch_tokens", "prefetch"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("learning_rate", "rms_epsilon", "decay_factor"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "more than 0")
        for name in ("weight_decay", "clip_norm"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "0 to 2**63 - 1")
        _require(0 <= self.rms_decay < 1, "rms_decay", self.rms_decay, "in [0, 1)")
        _require(self.decay_unit in ("epoch", "step"), "decay_unit", self.decay_unit, "'epoch' or 'step'")
        _require(self.precision in PRECISIONS, "precision", self.precision, "one of " + ", ".join(PRECISIONS))
        _require(self.select_by in CRITERIA, "select_by", self.select_by, "one of " + ", ".join(CRITERIA))


@dataclass(frozen=True)
class ParsingConfig(Settings):
    """How a SPINN learns to parse; nothing to other encoders."""

    learning: str = "supervised"  # or "reinforce", RL-SPINN
    transition_weight: float = 3.9  # of the transition loss (Bowman et al. 2016, section 4)
    # largest part of the transitions that are the model's own in supervised steps, reached after so many of them
    scheduled_sampling: float = 0.0
    scheduled_steps: int = 5_000
    n_samples: int = 8  # parses of each sentence a step
    baseline: str = "greedy"  # one of BASELINES, see `reinforce`
    normalise: bool = True  # advantages, by the running standard deviation of the rewards
    baseline_decay: float = 0.99  # of the running mean and standard deviation
    policy_weight: float = 1.0  # of the policy's loss beside the classifier's
    entropy_weight: float = 0.01  # of the bonus for undecided choices, which falls to zero ...
    entropy_steps: int = 0  # ... over so many steps after the warm-up; 0 = it stays
    warmup_steps: int = 0  # supervised steps before reinforcement

    def __post_init__(self) -> None:
        _require(self.learning in LEARNING, "learning", self.learning, "one of " + ", ".join(LEARNING))
        _require(self.baseline in BASELINES, "baseline", self.baseline, "one of " + ", ".join(BASELINES))
        for name in ("transition_weight", "policy_weight", "entropy_weight"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("scheduled_steps", "entropy_steps", "warmup_steps"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _require(
            0 <= self.scheduled_sampling <= 1, "scheduled_sampling", self.scheduled_sampling, "in [0, 1]"
        )
        _require(0 <= self.baseline_decay < 1, "baseline_decay", self.baseline_decay, "in [0, 1)")
        least = 2 if self.baseline == "leave-one-out" else 1
        _require(self.n_samples >= least, "n_samples", self.n_samples, f"at least {least}")


@dataclass(frozen=True)
class DataConfig(Settings):
    """Which examples. `data` is a folder, the official zip or a store; the files of a split overrule a folder's."""

    corpus: str = "logic"
    data: str | None = None
    train: tuple[str, ...] = ()  # files, read one after another
    dev: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()  # NAME=FILE, each evaluated at the end
    vectors: str | None = None  # a file that `read_vectors` reads
    min_count: int = 1  # rarer words of the training split become <unk>
    lower: bool = False
    limit: int = 0  # only the first so many examples of every split; 0 = all
    node_labels: bool = False  # SST: learn the label of every node
    skip_bad: bool = False
    branching: str | None = None  # one of BRANCHINGS: trees instead of the corpus's, or where it has none
    fields: tuple[str, ...] = ()  # pairs: PART=NAME, what the fields of a record are called, see `PairFields`
    labels: tuple[str, ...] = ()  # pairs: in this order; () = those of the training examples
    binary: bool = False  # SST: two classes instead of five
    phrases: bool = False  # SST: every phrase of the training trees is an example
    max_line_bytes: int = DEFAULT_LIMITS.max_line_bytes  # a longer line is a bad one
    max_words: int = DEFAULT_LIMITS.max_words  # of a sentence; a line with a longer one is a bad one

    def __post_init__(self) -> None:
        _require(self.corpus in CORPORA, "corpus", self.corpus, "one of " + ", ".join(CORPORA))
        _require(self.min_count >= 1, "min_count", self.min_count, "at least 1")
        _require(self.limit >= 0, "limit", self.limit, "0 or more")
        for name in Limits._fields:
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in _LISTS:
            _require(
                not isinstance(getattr(self, name), str), name, getattr(self, name), "a tuple of strings"
            )
        for entry in self.extra:
            name, separator, file = entry.partition("=")
            _require(bool(name and separator and file), "extra", entry, "NAME=FILE")
        if self.node_labels and self.corpus != "sst":
            raise ConfigError("node_labels: only the trees of --corpus sst have labels on every node")
        if len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"labels: got one twice: {', '.join(self.labels)}")
        for name, corpus in (("fields", "pairs"), ("labels", "pairs"), ("binary", "sst"), ("phrases", "sst")):
            if getattr(self, name) and self.corpus != corpus:
                raise ConfigError(f"{name}: is for --corpus {corpus}, got --corpus {self.corpus}")
        if self.branching is not None:
            _require(
                self.branching in BRANCHINGS, "branching", self.branching, "one of " + ", ".join(BRANCHINGS)
            )
            if self.node_labels:
                raise ConfigError("node_labels: the nodes of trees made by --branching have no labels")

    @property
    def limits(self) -> Limits:
        """Tells how long a line and a sentence may be."""
        return Limits(self.max_line_bytes, self.max_words)

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), **{name: list(getattr(self, name)) for name in _LISTS}}

    def with_absolute_paths(self) -> DataConfig:
        paths: dict[str, Any] = {
            name: os.path.abspath(path)
            for name in ("data", "vectors")
            if (path := getattr(self, name)) is not None
        }
        for name in ("train", "dev", "test"):
            paths[name] = tuple(os.path.abspath(file) for file in getattr(self, name))
        extra = [entry.partition("=") for entry in self.extra]
        paths["extra"] = tuple(f"{name}={os.path.abspath(file)}" for name, _, file in extra)
        return dataclasses.replace(self, **paths)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        fields = checked_fields(cls, values)
        for name in fields.keys() & set(_LISTS):
            fields[name] = tuple(fields[name])
        return cls(**fields)


@dataclass(frozen=True)
class RunConfig(Settings):
    """One training run. The corpus adds `vocabulary_size` and `n_classes` to the model's options."""

    preset: str
    data: DataConfig
    encoder: dict[str, Any]  # fields of EncoderConfig but vocabulary_size
    classifier: dict[str, Any]  # fields of ClassifierConfig but n_classes
    training: TrainingConfig
    parsing: ParsingConfig = field(default_factory=ParsingConfig)

    def __post_init__(self) -> None:
        encoder = encoder_config(self.encoder, vocabulary_size=2)
        classifier_config(self.classifier, n_classes=2)
        self._check_parsing(encoder)
        if self.training.compile and (option := self.not_compilable):
            raise ConfigError(f"compile: torch.compile cannot take an LSTM whole; {option}")

    @property
    def not_compilable(self) -> str | None:
        """What makes an nn.LSTM over packed sequences part of the model, as "kind is 'lstm'"; None if nothing does."""
        encoder = encoder_config(self.encoder, vocabulary_size=2)
        for name, value in (("kind", encoder.kind), ("leaf_encoder", encoder.leaf_encoder)):
            if value in ("lstm", "bilstm"):
                return f"{name} is {value!r}"
        return None

    def _check_parsing(self, encoder: EncoderConfig) -> None:
        """Settings that would do nothing are errors."""
        reinforces, by_f1 = self.parsing.learning == "reinforce", self.training.select_by == "f1"
        if not encoder.parses and (reinforces or by_f1):
            name = "learning: reinforce" if reinforces else "select_by: f1"
            raise ConfigError(f"{name} is for an encoder that parses, kind 'spinn'; got {encoder.kind!r}")
        if self.data.corpus == "trees" and reinforces:
            raise ConfigError("learning: reinforce needs labels to reward; --corpus trees has none")
        if self.data.corpus == "trees" and encoder.parses and not by_f1:
            raise ConfigError("select_by: with --corpus trees there is nothing but f1 to select by")

    def to_dict(self) -> dict[str, Any]:
        return {
            "preset": self.preset,
            "data": self.data.to_dict(),
            "encoder": dict(self.encoder),
            "classifier": dict(self.classifier),
            "training": self.training.to_dict(),
            "parsing": self.parsing.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        fields = checked_fields(cls, values)
        fields["data"] = DataConfig.from_dict(fields["data"])
        fields["training"] = TrainingConfig.from_dict(fields["training"])
        fields["parsing"] = ParsingConfig.from_dict(fields.get("parsing", {}))
        return cls(**fields)

    def changed(self, **values: Any) -> RunConfig:
        """A copy with values set by name or section__name: changed(seed=2, encoder__batch_norm=False)."""
        changes: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            section, name = locate(key.replace("__", "."))
            changes.setdefault(section, {})[name] = value
        sections: dict[str, Any] = {}
        for section, new in changes.items():
            old = getattr(self, section)
            sections[section] = {**old, **new} if isinstance(old, dict) else dataclasses.replace(old, **new)
        return dataclasses.replace(self, **sections)  # all at once: what lies between need not be valid

    def with_absolute_paths(self) -> RunConfig:
        """The same run, whatever the folder is that a later program starts in."""
        return dataclasses.replace(self, data=self.data.with_absolute_paths())


# Sections of a RunConfig: the class with their fields, and the fields that the corpus sets.
SECTIONS: dict[str, tuple[type, frozenset[str]]] = {
    "data": (DataConfig, frozenset()),
    "encoder": (EncoderConfig, frozenset({"vocabulary_size"})),
    "classifier": (ClassifierConfig, frozenset({"n_classes"})),
    "training": (TrainingConfig, frozenset()),
    "parsing": (ParsingConfig, frozenset()),
}


def encoder_config(options: Mapping[str, Any], vocabulary_size: int) -> EncoderConfig:
    return EncoderConfig(**checked_fields(EncoderConfig, {**options, "vocabulary_size": vocabulary_size}))


def classifier_config(options: Mapping[str, Any], n_classes: int) -> ClassifierConfig:
    return ClassifierConfig(**checked_fields(ClassifierConfig, {**options, "n_classes": n_classes}))


def settable(section: str) -> list[str]:
    """Names of the fields of a section, in order."""
    cls, hidden = SECTIONS[section]
    return [item.name for item in dataclasses.fields(cls) if item.name not in hidden]


def locate(key: str) -> tuple[str, str]:
    """(section, name) of "hidden_dim" or "encoder.batch_norm". Raises ConfigError if unknown or ambiguous."""
    section, _, name = key.rpartition(".")
    found = [
        candidate for candidate in SECTIONS if section in ("", candidate) and name in settable(candidate)
    ]
    if not found:
        known = ", ".join(name for part in SECTIONS for name in settable(part))
        raise ConfigError(f"unknown key {key!r}; known are {known}")
    if len(found) > 1:
        raise ConfigError(f"key {key!r} is ambiguous: {' or '.join(f'{part}.{name}' for part in found)}")
    return found[0], name


def parse_setting(text: str) -> tuple[str, Any]:
    """("encoder__hidden_dim", 100) from "hidden_dim=100": a keyword of `RunConfig.changed`, and its value."""
    key, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"{text!r}: a setting is key=value")
    section, name = locate(key.strip())
    kind = typing.get_type_hints(SECTIONS[section][0])[name]
    return f"{section}__{name}", parse_value(kind, value.strip(), key)


def parse_value(kind: Any, text: str, key: str) -> Any:
    """The text as a value of the annotated type of a config field. Raises ConfigError naming the key."""
    if isinstance(kind, types.UnionType):
        return None if text.lower() == "none" else parse_value(typing.get_args(kind)[0], text, key)
    if kind is bool:
        known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in known:
            raise ConfigError(f"{key}={text}: expected true or false")
        return known[text.lower()]
    if typing.get_origin(kind) is tuple:
        return tuple(item for item in text.split(",") if item)
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{key}={text}: expected {kind.__name__}") from None


def differences(old: RunConfig, new: RunConfig) -> list[tuple[str, Any, Any]]:
    """Every (key, old value, new value) in which two runs differ, keys as "training.batch_size"."""
    left, right = _flat(old.to_dict()), _flat(new.to_dict())
    keys = sorted(left.keys() | right.keys())
    return [(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _require(condition: bool, name: str, value: Any, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name}: expected {expected}, got {value!r}")
