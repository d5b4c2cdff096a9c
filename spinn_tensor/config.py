"""What a model is made of: frozen, checked when made, and the same after a trip through JSON."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

SPINN_KINDS = ("spinn-pi-nt", "spinn-pi", "spinn")
GIVEN_KINDS = ("spinn-pi-nt", "spinn-pi")  # those that need a parse
ENCODER_KINDS = (*SPINN_KINDS, "lstm", "bilstm", "bow")
LEAF_ENCODERS = ("projection", "bilstm")
TASKS = ("pair", "sentence", "parse")


class ConfigError(ValueError):
    """Raised for a setting that is unknown, missing, or not what it can be."""


class Settings:
    """Give a dataclass of settings what all of them can: go to JSON values and come back."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Raises ConfigError for an unknown or missing key and for a value of another type."""
        return cls(**checked_fields(cls, values))


def as_values(settings: Settings | Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON values, which they may be already."""
    return settings.to_dict() if isinstance(settings, Settings) else dict(settings)


@dataclass(frozen=True)
class EncoderConfig(Settings):
    """Describe a sentence encoder. `kind` is the paper's SPINN-PI-NT, SPINN-PI or SPINN, or one to compare with."""

    vocabulary_size: int  # V, padding and unknown word included
    kind: str = "spinn-pi"  # one of ENCODER_KINDS
    embedding_dim: int = 300
    hidden_dim: int = 300  # H
    tracker_dim: int = 64  # K, of spinn-pi and spinn
    leaf_encoder: str = "projection"  # or "bilstm": a bidirectional LSTM over the words before the stack
    train_embedding: bool = True
    embedding_dropout: float = 0.1  # probability of dropping an element of a projected word
    batch_norm: bool = True  # of projected words

    def __post_init__(self) -> None:
        _require_member("kind", self.kind, ENCODER_KINDS)
        _require_member("leaf_encoder", self.leaf_encoder, LEAF_ENCODERS)
        _require_at_least("vocabulary_size", self.vocabulary_size, 2)
        for name in ("embedding_dim", "hidden_dim", "tracker_dim"):
            _require_at_least(name, getattr(self, name), 1)
        _require_probability("embedding_dropout", self.embedding_dropout)

    @property
    def parses(self) -> bool:
        """Tell whether it chooses its transitions itself."""
        return self.kind == "spinn"


@dataclass(frozen=True)
class ClassifierConfig(Settings):
    """Describe the multilayer perceptron over one or two encodings (Bowman et al. 2016, section 4)."""

    n_classes: int
    mlp_dim: int = 1024
    mlp_layers: int = 2
    mlp_dropout: float = 0.1  # probability of dropping an input feature or a hidden unit
    batch_norm: bool = True

    def __post_init__(self) -> None:
        _require_at_least("n_classes", self.n_classes, 2)
        _require_at_least("mlp_dim", self.mlp_dim, 1)
        _require_at_least("mlp_layers", self.mlp_layers, 0)
        _require_probability("mlp_dropout", self.mlp_dropout)


@dataclass(frozen=True)
class ModelConfig(Settings):
    """Describe a whole model: what `build_model` needs."""

    task: str  # "pair" or "sentence", or "parse": trees alone, no classes
    labels: tuple[str, ...]  # names of the classes, in the order of the logits
    encoder: EncoderConfig
    classifier: ClassifierConfig | None  # None where there is nothing to classify
    node_labels: bool = False  # classify every node of a tree, not its root alone; "sentence" only

    def __post_init__(self) -> None:
        _require_member("task", self.task, TASKS)
        n_classes = 0 if self.classifier is None else self.classifier.n_classes
        if len(self.labels) != n_classes:
            raise ConfigError(f"labels: got {len(self.labels)} names for {n_classes} classes")
        if (self.task == "parse") != (self.classifier is None):
            raise ConfigError("classifier: a model that only parses has none, every other model has one")
        if self.task == "parse" and not self.encoder.parses:
            raise ConfigError(f"kind: only spinn parses for itself, got {self.encoder.kind!r}")
        if self.node_labels and (self.task != "sentence" or self.encoder.kind not in GIVEN_KINDS):
            raise ConfigError(
                "node_labels: only a SPINN that classifies single sentences by given trees has nodes to label"
            )

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "labels": list(self.labels)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Raises ConfigError for an unknown or missing key and for a value of another type."""
        fields = checked_fields(cls, values)
        labels = fields["labels"]
        if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
            raise ConfigError(f"labels: expected a list of names, got {labels!r:.80}")
        if len(set(labels)) < len(labels):
            raise ConfigError(f"labels: got one twice: {', '.join(labels):.80}")
        fields["labels"] = tuple(labels)
        fields["encoder"] = EncoderConfig.from_dict(fields["encoder"])
        if fields["classifier"] is not None:
            fields["classifier"] = ClassifierConfig.from_dict(fields["classifier"])
        return cls(**fields)


def checked_fields(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Check values as keyword arguments of a dataclass: no unknown or missing key, no value of another type."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{cls.__name__}: expected an object with keys, got {type(values).__name__}")
    hints = typing.get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cls)}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"{cls.__name__}: unknown key {key!r}")
        if hints[key] in (int, float, bool, str) and not _is_a(value, hints[key]):
            raise ConfigError(f"{cls.__name__}.{key}: expected {hints[key].__name__}, got {value!r}")
    for name, item in fields.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{cls.__name__}: key {name!r} is missing")
    return dict(values)


def _is_a(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _require_member(name: str, value: str, members: tuple[str, ...]) -> None:
    if value not in members:
        raise ConfigError(f"{name}: expected one of {', '.join(members)}, got {value!r}")


def _require_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name}: expected at least {least}, got {value!r}")


def _require_probability(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ConfigError(f"{name}: expected a probability in [0, 1), got {value!r}")
