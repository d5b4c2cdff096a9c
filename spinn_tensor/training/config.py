"""What a training run is: where its examples come from, the model's options and the optimiser's settings.

A `RunConfig` is complete: on the CPU, with the same files, machine and thread count it gives the same weights.
It is stored in the run's folder (`run.json`) and in every checkpoint, and resuming compares it key by key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

from spinn_tensor.config import (
    AT_LEAST_1,
    NOT_NEGATIVE,
    POSITIVE,
    Allowed,
    ClassifierConfig,
    ConfigError,
    EncoderConfig,
    Settings,
    nearest_of,
    one_of,
    setting,
)
from spinn_tensor.data_prep.corpora.config import DataConfig as DataConfig
from spinn_tensor.data_prep.flags import parse_value
from spinn_tensor.data_prep.settings import kinds_of
from spinn_tensor.training.weighting import as_entries

CRITERIA = ("accuracy", "macro_f1", "f1")
PRECISIONS = ("float32", "tf32", "bfloat16")  # of matrix products, see `step`
LEARNING = ("supervised", "reinforce", "ppo")
CREDITS = ("sentence", "deviation")  # see `ppo`
BASELINES = ("none", "mean", "greedy", "leave-one-out")  # see `reinforce`
IN_HALF_OPEN = Allowed("in [0, 1)", lambda value: 0 <= value < 1)
# Each with how the names of its own settings begin.
OPTIMIZERS = {"rmsprop": "rms", "adadelta": "rms", "adam": "adam", "adamw": "adam", "adagrad": "adagrad"}
SCHEDULES = ("step", "constant", "linear", "cosine")


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """Set the optimiser, its schedule, and when to validate, save and stop."""

    epochs: int = setting(10, "passes over the training examples", AT_LEAST_1)
    batch_size: int = setting(
        128, "pairs or sentences a step, over all processes", AT_LEAST_1, flags=("--global-batch",)
    )
    batch_tokens: int = setting(
        0,
        "instead: words a step at most (a longer pair is a step by itself), so that short sentences come in larger "
        "batches; 0 = by --batch-size",
        NOT_NEGATIVE,
    )
    prefetch: int = setting(
        2, "batches made ahead, by a thread, or on CUDA by each of up to 4 processes; 0 = none", NOT_NEGATIVE
    )
    accumulate: int = setting(
        1, "parts that each process computes its share of a step in, to save memory", AT_LEAST_1
    )
    optimizer: str = setting("rmsprop", "torch's class of this name", one_of(*OPTIMIZERS))
    learning_rate: float = setting(
        2e-3, "of the optimiser; usually 1 for Adadelta, 0.05 for Adagrad", POSITIVE, flags=("--lr",)
    )
    embedding_rate: float = setting(
        1.0, "of trained word vectors, as a multiple of --learning-rate", POSITIVE
    )
    rms_decay: float = setting(
        0.9, "of the mean square of RMSprop (torch's alpha) and of Adadelta (rho)", IN_HALF_OPEN
    )
    rms_epsilon: float = setting(1e-6, "of RMSprop and Adadelta", POSITIVE)
    adam_beta1: float = setting(0.9, "of the mean gradient of Adam and AdamW", IN_HALF_OPEN)
    adam_beta2: float = setting(0.999, "of the mean square of Adam and AdamW", IN_HALF_OPEN)
    adam_epsilon: float = setting(1e-8, "of Adam and AdamW", POSITIVE)
    adagrad_epsilon: float = setting(1e-8, "of Adagrad", POSITIVE)
    weight_decay: float = setting(
        0.0,
        "L2 (of AdamW: decay of the weights) on matrices only: biases, batch norm and embeddings have none",
        NOT_NEGATIVE,
    )
    lr_schedule: str = setting(
        "step",
        "of the learning rate: step is by --decay-every; linear and cosine fall to 0 at the end of the run",
        one_of(*SCHEDULES),
    )
    lr_warmup: float = setting(
        0.0,
        "steps over which the learning rate rises from 0; below 1 it is a part of the run",
        Allowed("in [0, 1) or whole", lambda value: 0 <= value < 1 or (value > 0 and value % 1 == 0)),
    )
    policy_rate: float = setting(1.0, "of a policy of its own, as a multiple of --learning-rate", POSITIVE)
    decay_factor: float = setting(0.75, "of the learning rate, after every --decay-every units", POSITIVE)
    decay_every: int = setting(1, "epochs or steps; 0 = the learning rate stays", NOT_NEGATIVE)
    decay_unit: str = setting("epoch", "what --decay-every counts", one_of("epoch", "step"))
    clip_norm: float = setting(
        5.0, "largest global norm of the gradient; 0 = no clipping", NOT_NEGATIVE, flags=("--clip",)
    )
    clip_kind: str = setting("l2", "norm of --clip-norm; inf is the largest element", one_of("l2", "inf"))
    ema_decay: float = setting(
        0.0,
        "of an average of the weights, over about 1 / (1 - N) steps, which is then evaluated and saved; 0 = none",
        IN_HALF_OPEN,
    )
    label_smoothing: float = setting(
        0.0, "part of each label's probability that all classes share in the loss", IN_HALF_OPEN
    )
    patience: int = setting(0, "stop after so many evaluations without a better one; 0 = never", NOT_NEGATIVE)
    evaluate_every: int = setting(0, "steps; the end of an epoch is always evaluated", NOT_NEGATIVE)
    save_every: int = setting(500, "steps; the end of an epoch is always saved", NOT_NEGATIVE)
    log_every: int = setting(50, "steps between two readings of the loss", AT_LEAST_1)
    tensorboard: bool = setting(
        False, "write for TensorBoard, too, into the run's folder; needs the extra tensorboard"
    )
    seed: int = setting(
        1,
        "of initialisation, dropout and the order of the examples",
        Allowed("0 to 2**63 - 1", lambda value: 0 <= value < 2**63),
    )
    compile: bool = setting(
        False,
        "torch.compile the training step; on CUDA (where it is the default, but for LSTMs and without Triton or a C "
        "compiler) replay it as a graph",
    )
    precision: str = setting(
        "float32",
        "of matrix products in training, on CUDA tf32 if not said; weights, checkpoints and evaluation are float32",
        one_of(*PRECISIONS),
    )
    select_by: str = setting(
        "accuracy",
        "what makes an evaluation the best; macro_f1 is the mean over the classes, f1 that of the trees",
        one_of(*CRITERIA),
    )
    class_weights: tuple[str, ...] = setting(
        (),
        "of the classes in the loss: balanced (the rarer, the more), or by label, others 1 (default: all the same)",
        metavar="LABEL=WEIGHT",
        several=True,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_weights", as_entries(self.class_weights))
        super().__post_init__()
        for item in dataclasses.fields(self):
            owners = [name for name, family in OPTIMIZERS.items() if item.name.startswith(f"{family}_")]
            if owners and self.optimizer not in owners and getattr(self, item.name) != item.default:
                raise ConfigError(
                    f"{item.name}: of {' and '.join(owners)}; the optimizer is {self.optimizer}"
                )

    @property
    def rate_needs_length(self) -> bool:
        """Tell whether the learning rate of a step depends on how many steps the run has."""
        return self.lr_schedule in ("linear", "cosine") or 0 < self.lr_warmup < 1


@dataclass(frozen=True)
class ParsingConfig(Settings):
    """Set how a SPINN learns to parse; nothing to other encoders."""

    learning: str = setting(
        "supervised", "reinforce is RL-SPINN; ppo is for --policy-dim, and sees no tree", one_of(*LEARNING)
    )
    transition_weight: float = setting(
        3.9, "of the transition loss (Bowman et al. 2016, section 4)", NOT_NEGATIVE
    )
    scheduled_sampling: float = setting(
        0.0,
        "largest part of the transitions that are the model's own in supervised steps",
        Allowed("in [0, 1]", lambda value: 0 <= value <= 1),
    )
    scheduled_steps: int = setting(5_000, "steps until that part is reached", NOT_NEGATIVE)
    n_samples: int = setting(8, "parses of each sentence a step", AT_LEAST_1)
    baseline: str = setting(
        "greedy", "what a reward is held against, see `training.reinforce`", one_of(*BASELINES)
    )
    normalise: bool = setting(True, "divide advantages by the running standard deviation of the rewards")
    baseline_decay: float = setting(0.99, "of the running mean and standard deviation", IN_HALF_OPEN)
    policy_weight: float = setting(1.0, "of the policy's loss beside the classifier's", NOT_NEGATIVE)
    entropy_weight: float = setting(
        0.01, "of the bonus for undecided choices, which falls to zero over --entropy-steps", NOT_NEGATIVE
    )
    entropy_steps: int = setting(0, "steps after the warm-up; 0 = the bonus stays", NOT_NEGATIVE)
    warmup_steps: int = setting(
        0,
        "supervised steps before reinforcement; of ppo, of the composer alone on random trees",
        NOT_NEGATIVE,
    )
    search_steps: int = setting(
        0, "of ppo, after the warm-up: steps in which whole policies are compared and imitated", NOT_NEGATIVE
    )
    credit: str = setting(
        "sentence", "of ppo: what a reward is credited to, see `training.ppo`", one_of(*CREDITS)
    )
    policy_steps: int = setting(15, "of ppo, after each step of the composer", AT_LEAST_1)
    clip_ratio: float = setting(0.2, "of ppo: how far from 1 a ratio of probabilities counts", POSITIVE)
    n_composed: int = setting(
        0, "of ppo: samples that the composer learns from beside the greedy parse; 0 = all", NOT_NEGATIVE
    )
    first_length: int = setting(
        0, "of ppo: words of the longest sentences at first; 0 = there are all from the start", NOT_NEGATIVE
    )
    length_loss: float = setting(
        0.5,
        "of ppo: mean loss of an epoch's greedy parses under which sentences half as long again come",
        POSITIVE,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.baseline == "leave-one-out" and self.n_samples < 2:
            raise ConfigError(f"n_samples: expected at least 2 with leave-one-out, got {self.n_samples}")


@dataclass(frozen=True)
class RunConfig(Settings):
    """Describe one training run. The corpus adds `vocabulary_size` and `n_classes` to the model's options."""

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
            what = "a leaf encoder of one's own" if ":" in option else "an LSTM"
            raise ConfigError(f"compile: torch.compile cannot take {what} whole; {option}")

    @property
    def not_compilable(self) -> str | None:
        """Say what makes the step one that is not compiled whole, as "kind is 'lstm'"; None if nothing does."""
        encoder = encoder_config(self.encoder, vocabulary_size=2)
        for name, value in (("kind", encoder.kind), ("leaf_encoder", encoder.leaf_encoder)):
            if value in ("lstm", "bilstm") or ":" in value:
                return f"{name} is {value!r}"
        return None

    def _check_parsing(self, encoder: EncoderConfig) -> None:
        """Raise ConfigError for settings that would do nothing."""
        learning = f"learning: {self.parsing.learning}"
        reinforces, by_f1 = self.parsing.learning != "supervised", self.training.select_by == "f1"
        if not encoder.parses and (reinforces or by_f1):
            name = learning if reinforces else "select_by: f1"
            raise ConfigError(f"{name} is for an encoder that parses, kind 'spinn'; got {encoder.kind!r}")
        if self.data.corpus == "trees" and reinforces:
            raise ConfigError(f"{learning} needs labels to reward; --corpus trees has none")
        if self.data.corpus == "trees" and encoder.policy_dim:
            raise ConfigError("policy_dim: a model that only parses composes for no other")
        if self.parsing.learning == "ppo":
            self._check_ppo(encoder)
        for name in ("class_weights", "label_smoothing"):
            if self.data.corpus == "trees" and getattr(self.training, name):
                raise ConfigError(f"{name}: with --corpus trees there are no classes")
        if reinforces and self.training.label_smoothing:
            raise ConfigError(f"label_smoothing: not with {learning}, which rewards the label alone")
        if not encoder.policy_dim and self.training.policy_rate != 1:
            raise ConfigError("policy_rate: there is no policy of its own; it needs policy_dim")
        if not encoder.train_embedding and self.training.embedding_rate != 1:
            raise ConfigError("embedding_rate: the word vectors are fixed; it needs train_embedding")
        if self.data.corpus == "trees" and encoder.parses and not by_f1:
            raise ConfigError("select_by: with --corpus trees there is nothing but f1 to select by")

    def _check_ppo(self, encoder: EncoderConfig) -> None:
        """Raise ConfigError for what a policy of its own cannot learn with."""
        if not encoder.policy_dim:
            raise ConfigError("learning: ppo needs a policy of its own, policy_dim above 0")
        if self.training.accumulate > 1:
            raise ConfigError("accumulate: not with learning: ppo, which samples a whole batch")
        if self.parsing.credit == "deviation" and self.parsing.baseline != "greedy":
            raise ConfigError("baseline: deviations are held against the greedy parse")
        if self.parsing.first_length and self.training.rate_needs_length:
            raise ConfigError(
                "first_length: the length of the run is not known, which the learning rate needs"
            )

    def changed(self, **values: Any) -> RunConfig:
        """Return a copy with values set by name or section__name: changed(seed=2, encoder__batch_norm=False)."""
        changed = self.to_dict()
        for key, value in values.items():  # all at once: what lies between need not be valid
            section, name = locate(key.replace("__", "."))
            changed[section] = {**changed[section], name: value}
        return RunConfig.from_dict(changed)

    def with_absolute_paths(self) -> RunConfig:
        """Return the same run, whatever the folder is that a later program starts in."""
        return dataclasses.replace(self, data=self.data.with_absolute_paths())


# Sections of a RunConfig, each with the class of its fields; what has no default there the corpus sets.
SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "encoder": EncoderConfig,
    "classifier": ClassifierConfig,
    "training": TrainingConfig,
    "parsing": ParsingConfig,
}


def encoder_config(options: Mapping[str, Any], vocabulary_size: int) -> EncoderConfig:
    return EncoderConfig.from_dict({**options, "vocabulary_size": vocabulary_size})


def classifier_config(options: Mapping[str, Any], n_classes: int) -> ClassifierConfig:
    return ClassifierConfig.from_dict({**options, "n_classes": n_classes})


@cache
def settable(section: str) -> Mapping[str, dataclasses.Field[Any]]:
    """Return the fields of a section by name, in order."""
    fields = dataclasses.fields(SECTIONS[section])
    known = {item.name: item for item in fields if item.default is not dataclasses.MISSING}
    return MappingProxyType(known)


def locate(key: str) -> tuple[str, str]:
    """Return (section, name) of "hidden_dim" or "encoder.batch_norm". Raises ConfigError if unknown or ambiguous."""
    section, _, name = key.rpartition(".")
    found = [part for part in SECTIONS if section in ("", part) and name in settable(part)]
    if not found:
        names = _names()
        if nearest := nearest_of(name, names):
            raise ConfigError(f"unknown key {key!r} (did you mean {names[nearest]}?)")
        raise ConfigError(f"unknown key {key!r}; known are {', '.join(dict.fromkeys(names.values()))}")
    if len(found) > 1:
        raise ConfigError(f"key {key!r} is ambiguous: {' or '.join(f'{part}.{name}' for part in found)}")
    return found[0], name


def _names() -> dict[str, str]:
    """Return the key of every setting by its name and by those of its flags, such as learning_rate of lr."""
    keys: dict[str, str] = {}
    for section in SECTIONS:
        for name, item in settable(section).items():
            flags = (flag.removeprefix("--").replace("-", "_") for flag in item.metadata["flags"])
            keys |= dict.fromkeys((name, *flags), short_key(section, name))
    return keys


def short_key(section: str, name: str) -> str:
    """Return the shortest key of a setting: its name, after its section where another one has that name, too."""
    is_shared = sum(name in settable(part) for part in SECTIONS) > 1
    return f"{section}.{name}" if is_shared else name


def parse_setting(text: str) -> tuple[str, Any]:
    """Return ("encoder__hidden_dim", 100) of "hidden_dim=100": a keyword of `RunConfig.changed`, and its value."""
    key, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"{text!r}: a setting is key=value")
    section, name = locate(key.strip())
    return f"{section}__{name}", parse_value(kind_of(section, name), value.strip(), key)


def kind_of(section: str, name: str) -> Any:
    """Return the annotated type of a setting."""
    return kinds_of(SECTIONS[section])[name]


def differences(old: RunConfig, new: RunConfig) -> list[tuple[str, Any, Any]]:
    """List every (key, old value, new value) in which two runs differ, keys as "training.batch_size"."""
    left, right = flat_settings(old), flat_settings(new)
    return [(key, left[key], right[key]) for key in sorted(left) if left[key] != right[key]]


def flat_settings(run: RunConfig) -> dict[str, Any]:
    """Return every setting by "section.name", with the default where the run does not say it."""
    values = run.to_dict()
    flat: dict[str, Any] = {"preset": run.preset}
    for section in SECTIONS:
        for name, item in settable(section).items():
            flat[f"{section}.{name}"] = values[section].get(name, item.default)
    return flat
