"""Corpora that need no files: they are made from a configuration, in a folder that they share with nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from spinn_tensor.data_prep import listops, logic
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import read_json_object
from spinn_tensor.data_prep.folders import recover, write_folder
from spinn_tensor.data_prep.listops import ListOpsConfig
from spinn_tensor.data_prep.logic import LogicConfig

MANIFEST = "corpus.json"  # the generator's version and configuration
GeneratedConfig = LogicConfig | ListOpsConfig


class Generator(NamedTuple):
    """A corpus that needs no files: it is made from a configuration."""

    default: GeneratedConfig
    version: int
    files: Mapping[str, str]  # name of each split's file
    write: Callable[[Path, Any], None]  # all files and the manifest, for a configuration of its own type


GENERATORS: dict[str, Generator] = {
    "logic": Generator(
        LogicConfig(),
        logic.VERSION,
        {split: f"{split}.jsonl" for split in logic.SPLITS},
        logic.write_corpus,
    ),
    "listops": Generator(
        ListOpsConfig(),
        listops.VERSION,
        {split: f"{split}.tsv" for split in listops.SPLITS},
        listops.write_corpus,
    ),
}


def generate_corpus(name: str, folder: Path, config: GeneratedConfig | None = None) -> bool:
    """Makes `folder` hold the generated corpus of this configuration and this version of the generator.

    Gives whether it had to be written: an earlier corpus is replaced where version or configuration differ.
    Raises DataError where the folder holds anything else, another generator's corpus included.
    """
    generator = GENERATORS[name]
    config = config or generator.default
    recover(folder)
    if _holds_corpus(folder, generator, config):
        return False
    write_generated(name, folder, config)
    return True


def write_generated(name: str, folder: Path, config: GeneratedConfig) -> None:
    """Replaces the folder by a generated corpus, at any moment a whole one or none.

    Raises DataError, and changes nothing, where the folder holds files that are not those of such a corpus.
    """
    generator = GENERATORS[name]
    folder = Path(os.path.realpath(folder))
    recover(folder)
    if folder.exists() and not folder.is_dir():
        raise DataError("a file, expected a folder", path=folder)
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    others = found - {*generator.files.values(), MANIFEST} if MANIFEST in found else found
    if others:
        raise DataError(f"holds other files ({min(others)}); name a new folder", path=folder)
    write_folder(folder, lambda temporary: generator.write(temporary, config))


def _holds_corpus(folder: Path, generator: Generator, config: GeneratedConfig) -> bool:
    try:
        manifest = read_json_object(folder / MANIFEST)
    except DataError:
        return False
    is_equal = (manifest.get("version"), manifest.get("config")) == (generator.version, asdict(config))
    return is_equal and all((folder / name).is_file() for name in generator.files.values())
