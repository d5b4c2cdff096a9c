"""Models that are read from a folder, or from the Hugging Face Hub, and written to one: `from_pretrained` and the rest.

A bundle is a checkpoint folder: model.safetensors, config.json, tokenizer.json, and README.md, its model card.

The methods have the names, keywords and defaults of `huggingface_hub.PyTorchModelHubMixin`, and its hub does the
transfer. The class itself is not the base: it reads leniently (missing tensors stay random, unknown keys of
config.json are dropped, pytorch_model.bin is unpickled), and importing it takes a sixth of a second. Reading is that of
`training.checkpoint`, strict, from four files; nothing else is downloaded, and no code is run.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self, cast

import torch

from spinn_tensor.config import ModelConfig
from spinn_tensor.data_prep.folders import readable
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.vocabulary import Vocabulary

if TYPE_CHECKING:
    from spinn_tensor.model.classifiers import Model
    from spinn_tensor.training.checkpoint import Provenance

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)  # "owner/name", or "name"


class HubOptions(NamedTuple):
    """How a bundle is had from the hub, as `huggingface_hub.snapshot_download` takes it; nothing to a local folder."""

    revision: str | None = None  # branch, tag or commit
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool = False  # what is in the cache, without a look at the hub
    token: str | bool | None = None


class HubMixin:
    """What makes a model readable from a bundle and writable as one; a base beside `nn.Module`."""

    task: ClassVar[str]  # of the bundles that the class reads
    config: ModelConfig
    provenance: Provenance | None = None  # what its folder holds beside it; None where it was in none

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,  # folder of a bundle, checkpoint or run, or a hub id
        *,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """The model in eval mode, with its `vocabulary` and `tokenizer`.

        A `str` that is no folder here but could be a hub id is looked for on the hub. Raises CheckpointError of one
        line for a bundle that cannot be had, is damaged, or is that of another class of models.
        """
        from spinn_tensor.training.checkpoint import load_checkpoint

        options = HubOptions(revision, cache_dir, force_download, local_files_only, token)
        folder = bundle_folder(pretrained_model_name_or_path, options)
        return cast(Self, load_checkpoint(folder, device, build=cast("type[Model]", cls)).model)

    def save_pretrained(
        self,
        save_directory: str | Path,  # a new or empty folder, or one that holds a bundle, which is replaced
        *,
        license: str | None = None,  # of the weights, for the card: a name that the hub knows, as "mit"
    ) -> None:
        """Writes the bundle, whole or not at all; its data files are named without the folders they lay in.

        Raises CheckpointError for a folder with other files in it, weights that are not float32, and a model without
        a vocabulary.
        """
        from spinn_tensor.training.checkpoint import save_bundle

        save_bundle(Path(save_directory), cast("Model", self), self._provenance(), license)

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
        """Uploads the bundle in one commit, into a repository that is made where there is none.

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
        """The words that the model knows. Raises CheckpointError for a model that has none."""
        return self._provenance().vocabulary

    @property
    def tokenizer(self) -> Tokenizer:
        """What raw text for this model is to be read through, made anew at each call."""
        return Tokenizer(self.vocabulary)

    def _provenance(self) -> Provenance:
        from spinn_tensor.training.checkpoint import CheckpointError

        if self.provenance is None:
            raise CheckpointError(
                "the model has no vocabulary: set model.provenance = Provenance(vocabulary, run, metrics)"
            )
        return self.provenance


def bundle_folder(
    path_or_hub_id: str | Path,  # a Path is never a hub id
    options: HubOptions = HubOptions(),  # noqa: B008  (a tuple, which cannot change)
) -> Path:
    """The local folder of a bundle, downloaded where it has to be. Raises CheckpointError."""
    from spinn_tensor.training.checkpoint import BUNDLE, CheckpointError

    path = Path(path_or_hub_id)
    if readable(path).is_dir():
        return path
    if isinstance(path_or_hub_id, Path) or HUB_ID.fullmatch(path_or_hub_id) is None:
        raise CheckpointError(f"{path_or_hub_id}: no such checkpoint folder")
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(path_or_hub_id, allow_patterns=list(BUNDLE), **options._asdict())
    except Exception as error:  # its HTTP client's errors are another package's in every version
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path_or_hub_id}: no such folder, and not to be had from the Hugging Face Hub ({reason})"
        ) from error
    return Path(folder)
