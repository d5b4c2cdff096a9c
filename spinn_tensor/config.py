"""What a model is made of: frozen, checked when made, and the same after a trip through JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spinn_tensor.data_prep.branching import BRANCHINGS
from spinn_tensor.data_prep.errors import SpinnError
from spinn_tensor.data_prep.penn import BINARIZE, DEFAULT_BINARIZE
from spinn_tensor.data_prep.settings import AT_LEAST_1 as AT_LEAST_1
from spinn_tensor.data_prep.settings import AT_LEAST_2, PROBABILITY, required
from spinn_tensor.data_prep.settings import NOT_NEGATIVE as NOT_NEGATIVE
from spinn_tensor.data_prep.settings import POSITIVE as POSITIVE
from spinn_tensor.data_prep.settings import Allowed as Allowed
from spinn_tensor.data_prep.settings import ConfigError as ConfigError
from spinn_tensor.data_prep.settings import Settings as Settings
from spinn_tensor.data_prep.settings import as_values as as_values
from spinn_tensor.data_prep.settings import checked_fields as checked_fields
from spinn_tensor.data_prep.settings import did_you_mean as did_you_mean
from spinn_tensor.data_prep.settings import nearest_of as nearest_of
from spinn_tensor.data_prep.settings import one_of as one_of
from spinn_tensor.data_prep.settings import setting as setting

SPINN_KINDS = ("spinn-pi-nt", "spinn-pi", "spinn")
GIVEN_KINDS = ("spinn-pi-nt", "spinn-pi")  # those that need a parse
ENCODER_KINDS = (*SPINN_KINDS, "lstm", "bilstm", "bow")
LEAF_ENCODERS = ("projection", "bilstm")
TASKS = ("pair", "sentence", "parse")
CELLS = ("treelstm", "grc", "rntn", "tree-gru", "sum")  # those that come with the package
HEADS = ("mlp",)
NAMES = Allowed(
    "a list of names",
    lambda value: isinstance(value, list | tuple) and all(isinstance(name, str) for name in value),
)


class CheckpointError(SpinnError, ValueError):
    """Raised for a checkpoint that cannot be used; its text is one line: the file and what is wrong."""


def part(names: tuple[str, ...], help: str) -> Any:
    """Declare the setting of a part of the model that has one of these names, or a class of somebody's own."""
    is_class = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*").fullmatch
    text = f"one of {', '.join(names)}, or module:Class"
    allowed = Allowed(text, lambda value: value in names or is_class(value) is not None)
    return setting(names[0], help, allowed, metavar=f"{{{','.join(names)},module:Class}}")


@dataclass(frozen=True)
class EncoderConfig(Settings):
    """Describe a sentence encoder. `kind` is the paper's SPINN-PI-NT, SPINN-PI or SPINN, or one to compare with.

    Raises:
        ConfigError: for a value that a field does not allow.

    >>> EncoderConfig(vocabulary_size=20_000, kind="spinn", hidden_dim=100).parses
    True
    """

    vocabulary_size: int = required("words that it knows, V, padding and unknown word included", AT_LEAST_2)
    kind: str = setting("spinn-pi", "the encoder", one_of(*ENCODER_KINDS))
    embedding_dim: int = setting(300, "width of the word vectors", AT_LEAST_1, flags=("--embedding",))
    hidden_dim: int = setting(300, "width of an encoding, H", AT_LEAST_1, flags=("--hidden",))
    tracker_dim: int = setting(
        64, "width of the tracker's state, K, of spinn-pi and spinn", AT_LEAST_1, flags=("--tracker",)
    )
    cell: str = part(CELLS, "what composes two states of a SPINN")
    policy_dim: int = setting(
        0,
        "width of a policy that parses for a spinn and shares nothing with what composes; 0 = one SPINN does both",
        NOT_NEGATIVE,
        flags=("--policy",),
    )
    leaf_encoder: str = part(
        LEAF_ENCODERS, "what makes leaves of word vectors; bilstm reads the words around"
    )
    train_embedding: bool = setting(True, "train the word vectors")
    embedding_dropout: float = setting(0.1, "of an element of a projected word", PROBABILITY)
    compose_dropout: float = setting(
        0.0,
        "of an element of the matrices that compose two states, drawn once a step (DropConnect)",
        PROBABILITY,
    )
    batch_norm: bool = setting(True, "batch norm of projected words", flags=("--encoder-batch-norm",))
    unsaid = ("cell", "policy_dim", "compose_dropout")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cell != "treelstm" and self.kind not in SPINN_KINDS:
            raise ConfigError(
                f"cell: only a SPINN composes states; {self.kind} has no cell, got {self.cell!r}"
            )
        if self.compose_dropout and self.kind not in SPINN_KINDS:
            raise ConfigError(f"compose_dropout: only a SPINN composes states, got kind {self.kind!r}")
        if self.policy_dim and not self.parses:
            raise ConfigError(f"policy_dim: only kind spinn parses, got {self.kind!r}")
        if self.policy_dim and self.leaf_encoder != "projection":
            raise ConfigError(f"policy_dim: needs leaf_encoder projection, got {self.leaf_encoder!r}")

    @property
    def parses(self) -> bool:
        """Tell whether it chooses its transitions itself."""
        return self.kind == "spinn"


@dataclass(frozen=True)
class ClassifierConfig(Settings):
    """Describe the multilayer perceptron over one or two encodings (Bowman et al. 2016, section 4).

    Raises:
        ConfigError: for a value that a field does not allow.

    >>> ClassifierConfig(n_classes=3, mlp_dim=200).mlp_layers
    2
    """

    n_classes: int = required("labels", AT_LEAST_2)
    mlp_dim: int = setting(1024, "width of its hidden layers", AT_LEAST_1)
    mlp_layers: int = setting(2, "its hidden layers", Allowed("0 to 100", range(101).__contains__))
    mlp_dropout: float = setting(0.1, "of an input feature or a hidden unit", PROBABILITY)
    batch_norm: bool = setting(True, "batch norm of its layers", flags=("--classifier-batch-norm",))
    head: str = part(HEADS, "what classifies encodings: the multilayer perceptron, or another")
    unsaid = ("head",)


@dataclass(frozen=True)
class ModelConfig(Settings):
    """Describe a whole model: what `build_model` needs.

    Raises:
        ConfigError: for a value that a field does not allow, and for labels and parts that do not fit each other.

    >>> encoder = EncoderConfig(vocabulary_size=20_000)
    >>> ModelConfig("sentence", ("bad", "good"), encoder, ClassifierConfig(n_classes=2)).encoder.kind
    'spinn-pi'
    """

    task: str = required("what it is for; parse makes trees alone and has no classes", one_of(*TASKS))
    labels: tuple[str, ...] = required("the classes, in the order of the logits", NAMES)
    encoder: EncoderConfig = required("what makes an encoding of a sentence")
    classifier: ClassifierConfig | None = required(
        "what classifies it; None where there is nothing to classify"
    )
    node_labels: bool = setting(False, "classify every node of a tree, not its root alone; of sentences only")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"labels: got one twice: {', '.join(self.labels):.80}")
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

    @property
    def own_classes(self) -> dict[str, str]:
        """Return the parts that are classes of somebody's own: as module:Class, by the setting that names them."""
        parts = {"cell": self.encoder.cell, "leaf_encoder": self.encoder.leaf_encoder}
        if self.classifier is not None:
            parts["head"] = self.classifier.head
        return {setting: name for setting, name in parts.items() if ":" in name}


@dataclass(frozen=True)
class TextSettings(Settings):
    """Say how the run that made a model read text, as far as its users must read it alike."""

    branching: str | None = setting(
        None, "trees made without a parser, of all sentences", one_of(*BRANCHINGS)
    )
    fields: tuple[str, ...] = setting((), "PART=NAME, what a record's fields are called", NAMES)
    binarize: str = setting(DEFAULT_BINARIZE, "trees of more than two children", one_of(*BINARIZE))
    parser: str | None = setting(None, 'a checkpoint, or "packaged": it made all trees')

    @classmethod
    def of_run(cls, run: Any) -> TextSettings:
        """Read them from a run's settings. Raises ConfigError, of any number that JSON has not, too."""
        if not isinstance(run, dict) or not isinstance(run.get("data"), dict):
            raise ConfigError("run: expected an object with the key 'data', an object")
        check_numbers("run", run)
        names = ("branching", "fields", "binarize", "parser")
        return cls.from_dict({name: run["data"][name] for name in names if run["data"].get(name) is not None})


def checked_metrics(metrics: Any) -> dict[str, Any]:
    """Return what was measured of a model, finite numbers by name. Raises ConfigError."""
    try:  # NumPy's and torch's numbers as Python's
        values = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
        if all(math.isfinite(value) for value in values.values() if not isinstance(value, str | None)):
            return values
    except (AttributeError, TypeError, ValueError, RuntimeError, OverflowError):
        pass
    raise ConfigError("metrics: expected an object of finite numbers")


def check_numbers(name: str, value: Any) -> None:
    """Raise ConfigError naming the key of a number that is not finite, which JSON has not."""
    found = [(name, value)]
    for key, item in found:  # which grows
        if isinstance(item, Mapping):
            found += ((f"{key}.{part}", one) for part, one in item.items())
        elif isinstance(item, list | tuple):
            found += ((key, one) for one in item)
        elif isinstance(item, float) and not math.isfinite(item):
            raise ConfigError(f"{key}: expected a finite number, got {item!r}")
