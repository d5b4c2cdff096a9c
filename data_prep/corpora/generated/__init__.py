"""Corpora that need no files: they are made from a configuration, in a folder that they share with nothing else.

`logic` is logical inference with gold parses, `listops` nested operations on digits. The same configuration gives the
same examples; `corpus.json` beside them says which it was.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from spinn_tensor.data_prep.corpora.generated import listops, logic
from spinn_tensor.data_prep.corpora.generated.listops import ListOpsConfig
from spinn_tensor.data_prep.corpora.generated.logic import LogicConfig
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import atomic_write, read_json_object, write_json
from spinn_tensor.data_prep.folders import recover, write_folder

MANIFEST = "corpus.json"  # the generator's version and configuration
GeneratedConfig = LogicConfig | ListOpsConfig


class Generator(NamedTuple):
    """Make a corpus that needs no files from a configuration."""

    title: str
    default: GeneratedConfig
    version: int
    splits: Sequence[str]
    suffix: str  # of each split's file
    labels: Sequence[str]
    generate: Callable[[Any], dict[str, list[Any]]]  # examples by split, for a configuration of its own type
    line: Callable[[Any], tuple[str, str]]  # label of an example, and its line

    @property
    def files(self) -> dict[str, str]:
        """Name the file of each split."""
        return {split: f"{split}.{self.suffix}" for split in self.splits}


def _generator(title: str, default: GeneratedConfig, of: Any, suffix: str) -> Generator:
    return Generator(title, default, of.VERSION, of.SPLITS, suffix, of.LABELS, of.generate, of.line)


GENERATORS = {
    "logic": _generator("generated logical inference", LogicConfig(), logic, "jsonl"),
    "listops": _generator("ListOps", ListOpsConfig(), listops, "tsv"),
}


def generate_corpus(name: str, folder: Path, config: GeneratedConfig | None = None) -> bool:
    """Make `folder` hold the generated corpus of this configuration and this version of the generator.

    Returns whether it had to be written: an earlier corpus is replaced where version or configuration differ.
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
    """Replace the folder by a generated corpus, at any moment a whole one or none.

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
    write_folder(folder, lambda temporary: _write(temporary, generator, config))


def _write(folder: Path, generator: Generator, config: GeneratedConfig) -> None:
    """Write the splits and the manifest into a folder that is there."""
    counts = {}
    for split, examples in generator.generate(config).items():
        labels, lines = zip(*map(generator.line, examples), strict=True) if examples else ((), ())
        with atomic_write(folder / generator.files[split]) as file:
            file.writelines(lines)
        of_label = Counter(labels)
        counts[split] = {label: of_label[label] for label in generator.labels}
    manifest = {
        "corpus": generator.title,
        "version": generator.version,
        "config": asdict(config),
        "counts": counts,
    }
    write_json(folder / MANIFEST, manifest)


def _holds_corpus(folder: Path, generator: Generator, config: GeneratedConfig) -> bool:
    try:
        manifest = read_json_object(folder / MANIFEST)
    except DataError:
        return False
    is_equal = (manifest.get("version"), manifest.get("config")) == (generator.version, asdict(config))
    return is_equal and all((folder / name).is_file() for name in generator.files.values())
