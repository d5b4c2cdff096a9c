"""What a model is made of: frozen, checked when made, and the same after a trip through JSON."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

SPINN_KINDS = ("spinn-pi-nt", "spinn-pi", "spinn")
GIVEN_KINDS = ("spinn-pi-nt", "spinn-pi")  # those that need a parse
ENCODER_KINDS = (*SPINN_KINDS, "lstm", "bilstm", "bow")
LEAF_ENCODERS = ("projection", "bilstm")
TASKS = ("pair", "sentence", "parse")


class ConfigError(ValueError):
    """Raised for a setting that is unknown, missing, or not what it can be."""


class Allowed(NamedTuple):
    """Say which values a setting may have."""

    text: str  # "at least 1"
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] | None = None  # where there are few


AT_LEAST_1 = Allowed("at least 1", lambda value: value >= 1)
NOT_NEGATIVE = Allowed("0 or more", lambda value: value >= 0)
POSITIVE = Allowed("more than 0", lambda value: value > 0)
PROBABILITY = Allowed("a probability in [0, 1)", lambda value: 0 <= value < 1)


def one_of(*choices: str) -> Allowed:
    """Allow these names alone."""
    return Allowed(f"one of {', '.join(choices)}", choices.__contains__, choices)


def setting(
    default: Any,
    help: str,
    allowed: Allowed | None = None,
    *,
    flags: tuple[str, ...] = (),  # other names of its flag than its own
    metavar: str = "N",
    several: bool = False,  # whether its flag takes several values at once
) -> Any:
    """Declare a field of settings: its default, and all that the command line says and checks of it."""
    metadata = {"help": help, "allowed": allowed, "flags": flags, "metavar": metavar, "several": several}
    return dataclasses.field(default=default, metadata=metadata)


def check_value(item: dataclasses.Field[Any], value: Any) -> None:
    """Raise ConfigError for a value that its field does not allow."""
    allowed: Allowed | None = item.metadata.get("allowed")
    if value is not None and allowed is not None and not allowed.holds(value):
        raise ConfigError(f"{item.name}: expected {allowed.text}, got {value!r}")


class Settings:
    """Give a dataclass of settings what all of them can: check values, go to JSON values and come back."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            check_value(item, getattr(self, item.name))

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
    kind: str = setting("spinn-pi", "the encoder", one_of(*ENCODER_KINDS))
    embedding_dim: int = setting(300, "width of the word vectors", AT_LEAST_1, flags=("--embedding",))
    hidden_dim: int = setting(300, "width of an encoding, H", AT_LEAST_1, flags=("--hidden",))
    tracker_dim: int = setting(
        64, "width of the tracker's state, K, of spinn-pi and spinn", AT_LEAST_1, flags=("--tracker",)
    )
    leaf_encoder: str = setting(
        "projection",
        "what makes leaves of word vectors; bilstm reads the words around",
        one_of(*LEAF_ENCODERS),
    )
    train_embedding: bool = setting(True, "train the word vectors")
    embedding_dropout: float = setting(0.1, "of an element of a projected word", PROBABILITY)
    batch_norm: bool = setting(True, "batch norm of projected words", flags=("--encoder-batch-norm",))

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_at_least("vocabulary_size", self.vocabulary_size, 2)

    @property
    def parses(self) -> bool:
        """Tell whether it chooses its transitions itself."""
        return self.kind == "spinn"


@dataclass(frozen=True)
class ClassifierConfig(Settings):
    """Describe the multilayer perceptron over one or two encodings (Bowman et al. 2016, section 4)."""

    n_classes: int
    mlp_dim: int = setting(1024, "width of its hidden layers", AT_LEAST_1)
    mlp_layers: int = setting(2, "its hidden layers", NOT_NEGATIVE)
    mlp_dropout: float = setting(0.1, "of an input feature or a hidden unit", PROBABILITY)
    batch_norm: bool = setting(True, "batch norm of its layers", flags=("--classifier-batch-norm",))

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_at_least("n_classes", self.n_classes, 2)


@dataclass(frozen=True)
class ModelConfig(Settings):
    """Describe a whole model: what `build_model` needs."""

    task: str  # one of TASKS; "parse": trees alone, no classes
    labels: tuple[str, ...]  # names of the classes, in the order of the logits
    encoder: EncoderConfig
    classifier: ClassifierConfig | None  # None where there is nothing to classify
    node_labels: bool = False  # classify every node of a tree, not its root alone; "sentence" only

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError(f"task: expected {one_of(*TASKS).text}, got {self.task!r}")
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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest of the names that there are; "" where none is near."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {nearest[0]}?)" if nearest else ""


def checked_fields(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Check values as keyword arguments of a dataclass: no unknown or missing key, no value of another type."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{cls.__name__}: expected an object with keys, got {type(values).__name__}")
    hints = typing.get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cls)}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"{cls.__name__}: unknown key {key!r}{did_you_mean(key, fields)}")
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


def _require_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name}: expected at least {least}, got {value!r}")
