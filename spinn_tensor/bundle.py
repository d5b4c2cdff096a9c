"""A trained model as a folder, on this machine or on the Hugging Face Hub: what is in it, and its strict reading.

    model.safetensors   every parameter and buffer of the model, by name
    config.json         format version, model, settings of the run, the vocabulary's sha256, metrics
    tokenizer.json      from text to ids: the rules, the casing and the words, id 0 = <pad>, id 1 = <unk>
    README.md           the model card, for people and the hub; but for the command in it, it is not read

Nothing is unpickled and no code of the folder is run; a cell, leaf encoder or head of one's own is imported as Python
finds its module, and where the bundle comes from the hub only if it is asked for.
Reading is strict: whatever is missing, extra, NaN, of another shape, type, format or vocabulary is a `CheckpointError`
of one line that names the file and the tensor or key. Of the run's settings only what says how text is read is looked
at; the rest is kept as it is, for `spinn_tensor.training`.

`PretrainedModel` has the methods of `huggingface_hub.PyTorchModelHubMixin`, with its keywords and defaults. That class
is not the base, because it reads leniently: missing tensors stay random, unknown keys are dropped, pickles are read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import torch
from torch import nn

from spinn_tensor.config import ConfigError, ModelConfig, Settings, TextSettings, as_values, checked_metrics
from spinn_tensor.data_prep.display import in_short
from spinn_tensor.data_prep.errors import DataError, one_line
from spinn_tensor.data_prep.files import write_json
from spinn_tensor.data_prep.folders import write_folder
from spinn_tensor.data_prep.paths import expanded
from spinn_tensor.data_prep.token_rules import PENN, Rules, read_rules
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.vocabulary import Vocabulary
from spinn_tensor.hub import (
    CARD,
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    HubOptions,
    bundle_folder,
    check_replaceable,
    checkpoint_folder,
    read_object,
    refuse_code,
)
from spinn_tensor.sizes import without_memory
from spinn_tensor.tensor_files import (
    CheckpointError,
    check_finite,
    check_tensors,
    check_weights,
    plain_name,
    plain_names,
    read_tensors,
    write_tensors,
)

FORMAT_VERSION = 2  # of a bundle, the only one that is read; rises with every change of the files

Run = Settings | Mapping[str, Any]  # the settings of a training run, or what its `to_dict` gives


@in_short
class CheckpointConfig(NamedTuple):
    """Hold what config.json says."""

    model: ModelConfig
    run: dict[str, Any]  # settings of the run that wrote it: what `RunConfig.from_dict` takes
    text: TextSettings  # of these, what says how text is read
    vocabulary_sha256: str
    metrics: dict[str, Any]  # dev accuracy, step, epoch


@in_short
class Provenance(NamedTuple):
    """Hold what a bundle holds beside the model; a loaded model has it as `model.provenance`.

    >>> PairClassifier.from_pretrained(folder / "pairs").provenance.metrics
    {'accuracy': 0.5}
    """

    vocabulary: Vocabulary
    run: Run
    metrics: Mapping[str, Any]
    command: str | None = None  # the `spinn train` that makes it again, for the model card
    rules: Rules = PENN  # that made words of its texts


class PretrainedModel(nn.Module):
    """Give a model what reads it from a bundle and writes it as one."""

    task: ClassVar[str]  # of the bundles that the class reads
    config: ModelConfig
    provenance: Provenance | None = None  # what its folder holds beside it; None where it was in none

    def __init__(self, config: ModelConfig) -> None:
        """Raise ConfigError for a model of another task."""
        super().__init__()
        if config.task != self.task:
            raise ConfigError(f"task: {type(self).__name__} is for {self.task!r}, got {config.task!r}")
        self.config = config

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        allow_custom_code: bool = False,
    ) -> Self:
        """Read a model. `Pipeline.from_pretrained` does, too, and reads text for it.

        Args:
            pretrained_model_name_or_path: the folder of a bundle, checkpoint or run; a `str` that is none here, but
                could be a hub id, is looked for on the Hugging Face Hub.
            device: where it goes.
            revision, cache_dir, force_download, local_files_only, token: as in `Pipeline.from_pretrained`.
            allow_custom_code: as there.

        Returns:
            The model in eval mode, with its `vocabulary` and `tokenizer`.

        Raises:
            CheckpointError: for a bundle that cannot be had, is damaged, or is that of another class of models.

        >>> PairClassifier.from_pretrained(folder / "pairs").tokenizer.tokenize("A dog barks.")
        ('A', 'dog', 'barks', '.')
        """
        options = HubOptions(revision, cache_dir, force_download, local_files_only, token)
        folder = trusted_folder(pretrained_model_name_or_path, options, allow_custom_code)
        return read_bundle(folder, device, cls)[0]

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        vocabulary: Vocabulary | None = None,
        tokenizer: str | Path = PENN.name,
        branching: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        license: str | None = None,
    ) -> None:
        """Write the bundle, whole or not at all; its data files are named without the folders they lay in.

        A model that was loaded, or trained by `spinn train`, knows its vocabulary. One that was trained in a loop of
        your own is given it here, and keeps it, with what else says how text is read.

        Args:
            save_directory: a new or empty folder, or one that holds a bundle, which is replaced.
            vocabulary: of a model that has none.
            tokenizer: of such a model: "penn", "whitespace" or a tokenizer.json, whose rules make words of text.
            branching: of such a model: "left", "right", "balanced" or "random" where it learnt from trees that were
                made so.
            metrics: of such a model, for the card: finite numbers by name.
            license: of the weights, for the card: a name that the hub knows, as "mit".

        Raises:
            CheckpointError: for a folder with other files in it, weights that are not float32, and a model without a
                vocabulary or with one of another size.
            ConfigError: for a value that there is not, and for what goes with `vocabulary` alone.
            DataError: for a tokenizer's file that cannot be read.

        >>> encoder = EncoderConfig(vocabulary_size=len(vocabulary), kind="lstm", hidden_dim=8)
        >>> model = SentenceClassifier(ModelConfig("sentence", ("bad", "good"), encoder, ClassifierConfig(n_classes=2)))
        >>> model.save_pretrained(folder / "mine", vocabulary=vocabulary, metrics={"accuracy": 0.5})
        >>> Pipeline.from_pretrained(folder / "mine")
        Pipeline(lstm, sentence, labels bad, good, 9 words, trees: none)
        """
        if vocabulary is not None:
            if len(vocabulary) != (expected := self.config.encoder.vocabulary_size):
                raise CheckpointError(f"a vocabulary of {len(vocabulary)} words for a model of {expected}")
            run = {"data": {"branching": branching}}
            TextSettings.of_run(run)  # which checks it
            self.provenance = Provenance(
                vocabulary, run, checked_metrics(metrics or {}), rules=read_rules(tokenizer)
            )
        elif (tokenizer, branching, metrics) != (PENN.name, None, None):
            raise ConfigError(
                "tokenizer, branching and metrics go with vocabulary=, of a model that has none"
            )
        folder, provenance = expanded(save_directory), self._provenance()
        check_replaceable(folder)
        write_bundle(folder, self, provenance, license=license, names_folders=False)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Push model using huggingface_hub.",
        private: bool | None = None,  # None: public, unless the organisation's default is private
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        license: str | None = None,  # as in `save_pretrained`
    ) -> str:  # address of the commit
        """Upload the bundle in one commit, into a repository that is made where there is none.

        Raises CheckpointError as `save_pretrained`, before anything is sent, and huggingface_hub's own errors.
        """
        from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "bundle"
            self.save_pretrained(folder, license=license)
            api = HfApi(token=token)
            repo_id = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
            commit = api.upload_folder(
                repo_id=repo_id,
                repo_type="model",
                folder_path=folder,
                commit_message=commit_message,
                revision=branch,
                create_pr=create_pr,
            )
        return str(commit)

    @property
    def vocabulary(self) -> Vocabulary:
        """Return the words that the model knows. Raises CheckpointError for a model that has none."""
        return self._provenance().vocabulary

    @property
    def tokenizer(self) -> Tokenizer:
        """Make what raw text for this model is to be read through, anew at each call."""
        provenance = self._provenance()
        return Tokenizer(provenance.vocabulary, provenance.rules)

    def _provenance(self) -> Provenance:
        if self.provenance is None:
            raise CheckpointError(
                "the model has no vocabulary: model.save_pretrained(folder, vocabulary=...) gives it one"
            )
        return self.provenance


M = TypeVar("M", bound=PretrainedModel)


def write_bundle(
    folder: Path,
    model: PretrainedModel,  # or what torch.compile made of one
    provenance: Provenance,
    *,
    also: Callable[[Path], object] | None = None,  # writes further files into the folder
    license: str | None,  # of the weights, for the model card
    names_folders: bool = True,  # that the run's data files lay in
) -> None:
    """Replace the folder by a bundle of the model as it is now, with further files beside it.

    Raises CheckpointError for weights that `read_bundle` would refuse, and for settings of a run, of a program of its
    own, that no card can be made of; ConfigError for metrics and settings of a run that it would refuse.
    """
    from spinn_tensor.card import model_card, without_folders

    vocabulary, run = provenance.vocabulary, as_values(provenance.run)
    metrics = checked_metrics(provenance.metrics)
    TextSettings.of_run(run)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    try:
        run = run if names_folders else without_folders(run)
        card = model_card(model.config, run, metrics, n_parameters, provenance.command, license)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise CheckpointError(
            f"{folder}: run: no model card can be made of it ({one_line(error)})"
        ) from error
    tensors = plain_names(folder, model.state_dict())
    check_weights(folder, tensors, model)
    content = {
        "format_version": FORMAT_VERSION,
        "model": model.config.to_dict(),
        "run": run,
        "vocabulary_sha256": vocabulary.sha256,
        "metrics": metrics,
    }

    def fill(temporary: Path) -> None:
        write_tensors(temporary / WEIGHTS, tensors)
        write_json(temporary / CONFIG, content)
        Tokenizer(vocabulary, provenance.rules).save(temporary / TOKENIZER)
        (temporary / CARD).write_text(card, encoding="utf-8")
        if also is not None:
            also(temporary)

    write_folder(Path(folder), fill)


def trusted_folder(
    path_or_hub_id: str | Path,  # a Path is never a hub id
    options: HubOptions,
    allow_custom_code: bool,
) -> Path:
    """Return the local folder of a bundle. Raises CheckpointError, also where one of the hub would import something."""
    folder = bundle_folder(path_or_hub_id, options)
    if folder != expanded(path_or_hub_id) and not allow_custom_code:
        for setting, name in read_config(checkpoint_folder(folder) / CONFIG).model.own_classes.items():
            how = "if you trust who wrote it, allow_custom_code=True, or download it and name the folder"
            raise CheckpointError(f"{path_or_hub_id}: {setting}: {name} would be imported; {how}")
    return folder


def read_bundle(
    path: str | Path,
    device: str | torch.device,
    build: Callable[[ModelConfig], M],  # makes the model; a class of models is told only of its own task
) -> tuple[M, Vocabulary, CheckpointConfig]:
    """Return the model in eval mode on `device`, its vocabulary and its settings.

    `path` is a checkpoint folder, or the folder of a run, whose `best` checkpoint is then taken (`last` if
    none is there yet). Raises CheckpointError.
    """
    folder = checkpoint_folder(expanded(path))
    config = read_config(folder / CONFIG)
    expected = getattr(build, "task", config.model.task)
    if config.model.task != expected:
        raise CheckpointError(
            f"{folder / CONFIG}: a model of task {config.model.task!r}; {build.__name__} reads those of {expected!r}"
        )
    tokenizer = _read_tokenizer(folder, config)
    weights = folder / WEIGHTS
    tensors = plain_names(weights, read_tensors(weights))
    for setting, name in config.model.own_classes.items():
        refuse_code(folder, setting, name)
    has_own = bool(config.model.own_classes)  # of which it is not known what they hold beside tensors
    try:
        # no memory is taken before it is known that the file fills it
        with torch.device("cpu") if has_own else without_memory():
            model = build(config.model).float()  # as bundles are, whatever torch's default is
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from error
    except (RuntimeError, TypeError) as error:  # TypeError: of a size beyond 64 bits
        raise CheckpointError(
            f"{folder / CONFIG}: no model can have these sizes ({one_line(error)})"
        ) from error
    check_tensors(weights, tensors, model.state_dict())
    check_finite(weights, tensors, has_own)
    copies = {name: tensor.to(device, copy=True) for name, tensor in tensors.items()}  # of what is the file
    (model.to(device) if has_own else model).load_state_dict(copies, assign=not has_own)
    from spinn_tensor.card import read_command

    command = read_command(folder / CARD)
    model.provenance = Provenance(tokenizer.vocabulary, config.run, config.metrics, command, tokenizer.rules)
    return model.eval(), tokenizer.vocabulary, config


def read_config(path: Path) -> CheckpointConfig:
    """Read config.json and check its version, keys and values. Raises CheckpointError."""
    values = read_object(path)
    expected = {"format_version", "model", "run", "vocabulary_sha256", "metrics"}
    version = values.get("format_version")
    if version != FORMAT_VERSION or type(version) is not int:
        older = isinstance(version, int) and version < FORMAT_VERSION
        hint = ": train the model again, or use the version of spinn_tensor that saved it" if older else ""
        raise CheckpointError(
            f"{path}: format version {version!r}; this program reads {FORMAT_VERSION}{hint}"
        )
    for key in sorted(expected ^ values.keys()):
        raise CheckpointError(f"{path}: key {key!r} is {'missing' if key in expected else 'unknown'}")
    try:
        model, metrics = ModelConfig.from_dict(values["model"]), checked_metrics(values["metrics"])
        run, text = values["run"], TextSettings.of_run(values["run"])
        return CheckpointConfig(model, run, text, str(values["vocabulary_sha256"]), metrics)
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {one_line(error)}") from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Copy a file's tensors into a model that may be compiled; raises CheckpointError unless they agree exactly."""
    tensors = plain_names(path, read_tensors(path))
    state = model.state_dict()
    check_tensors(path, tensors, plain_names(path, state))
    model.load_state_dict({name: tensors[plain_name(name)] for name in state}, strict=True)


def _read_tokenizer(folder: Path, config: CheckpointConfig) -> Tokenizer:
    path = folder / TOKENIZER
    try:
        tokenizer = Tokenizer.load(path)
    except DataError as error:
        raise CheckpointError(one_line(error)) from error
    vocabulary = tokenizer.vocabulary
    if vocabulary.sha256 != config.vocabulary_sha256:
        raise CheckpointError(
            f"{path}: not the vocabulary the model was trained with "
            f"(sha256 {vocabulary.sha256[:12]}…, {CONFIG} says {config.vocabulary_sha256[:12]}…)"
        )
    return tokenizer
