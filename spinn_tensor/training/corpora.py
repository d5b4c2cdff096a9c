"""From a `DataConfig` to columns: which files, the vocabulary, the splits.

The vocabulary holds the words of the training split, so that <unk> means the same in training and after.
With --vectors it holds those of every split: a fixed vector needs no training, and a word unseen in
training still has one.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from data_prep import snli, sst
from data_prep.columns import LabelledColumns, PairColumns
from data_prep.errors import DataError
from data_prep.files import Skipped
from data_prep.logic import LogicConfig, write_corpus
from data_prep.logic.corpus import VERSION
from data_prep.trees import Tree
from data_prep.vocabulary import Vocabulary
from spinn_tensor.training.config import DataConfig
from spinn_tensor.training.folders import recover, write_folder

if TYPE_CHECKING:
    import datasets

Corpus = PairColumns | LabelledColumns
Example = TypeVar("Example")

SPLITS = ("train", "dev", "test")
LOGIC_FILES = {"train": "train.jsonl", "dev": "dev.jsonl", "test": "test.jsonl", "long": "long.jsonl"}
MANIFEST = "corpus.json"  # of a generated corpus: the generator's version and configuration


class Source(NamedTuple):
    """A file of examples, or a split of the official SNLI zip."""

    path: Path
    split: str | None = None  # only in a zip


class Splits(NamedTuple):
    """A corpus ready for training."""

    task: str  # "pair" | "sentence"
    labels: tuple[str, ...]
    vocabulary: Vocabulary
    train: Corpus
    dev: Corpus
    others: dict[str, Corpus]  # test, the generated corpus' long, and every --extra


def load_splits(data: DataConfig, skipped: Skipped) -> Splits:
    """Reads every split of the data. Raises DataError naming file, line and field."""
    sources = split_sources(data)
    if data.corpus == "sst":
        trees = {name: _read_trees(source, data, skipped) for name, source in sources.items()}
        vocabulary = _vocabulary(data, {name: _count(parts) for name, parts in trees.items()})
        labelled = {name: sst.labelled_columns(parts, vocabulary) for name, parts in trees.items()}
        return _splits("sentence", sst.LABELS, vocabulary, dict(labelled))
    tables = {name: _read_pairs(source, data, skipped) for name, source in sources.items()}
    vocabulary = _vocabulary(data, {name: snli.token_counts(table) for name, table in tables.items()})
    pairs = {name: snli.pair_columns(table, vocabulary) for name, table in tables.items()}
    return _splits("pair", snli.LABELS, vocabulary, dict(pairs))


def split_sources(data: DataConfig) -> dict[str, Source]:
    """Which file is which split. Raises DataError if train or dev is missing."""
    sources: dict[str, Source] = {}
    given = {"train": data.train, "dev": data.dev, "test": data.test}
    if data.data is not None and not (data.train and data.dev):
        sources.update(_in_folder(data.corpus, Path(data.data)))
    sources.update({name: Source(Path(file)) for name, file in given.items() if file})
    for name in ("train", "dev"):
        if name not in sources:
            raise DataError(f"no {name} file: give --{name} FILE, or --data with the folder of the corpus")
    for entry in data.extra:
        name, _, file = entry.partition("=")
        if name in sources:
            raise DataError(f"the corpus has a split {name!r} already", field=f"--extra {entry}")
        sources[name] = Source(Path(file))
    return sources


def generate_logic(folder: Path, config: LogicConfig | None = None) -> bool:
    """Makes `folder` hold the generated corpus of this configuration and this version of the generator.

    Gives whether it had to be written: an earlier corpus is replaced where version or configuration differ.
    Raises DataError where the folder holds anything else.
    """
    config = config or LogicConfig()
    recover(folder)
    if _holds_corpus(folder, config):
        return False
    write_logic(folder, config)
    return True


def write_logic(folder: Path, config: LogicConfig) -> None:
    """Replaces the folder by a generated corpus, at any moment a whole one or none.

    Raises DataError, and changes nothing, where the folder holds files that are not those of a generated corpus.
    """
    folder = Path(os.path.realpath(folder))
    recover(folder)
    if folder.exists() and not folder.is_dir():
        raise DataError("a file, expected a folder", path=folder)
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    others = found - {*LOGIC_FILES.values(), MANIFEST} if MANIFEST in found else found
    if others:
        raise DataError(f"holds other files ({min(others)}); name a new folder", path=folder)
    write_folder(folder, lambda temporary: write_corpus(temporary, config))


def _holds_corpus(folder: Path, config: LogicConfig) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    is_equal = isinstance(manifest, dict) and (manifest.get("version"), manifest.get("config")) == (
        VERSION,
        asdict(config),
    )
    return is_equal and all((folder / name).is_file() for name in LOGIC_FILES.values())


def read_file(
    source: Source,
    task: str,
    vocabulary: Vocabulary,
    skipped: Skipped,
    skip_bad: bool,
    limit: int = 0,  # only the first so many examples; 0 = all
) -> Corpus:
    """One file of labelled examples for a trained model. Raises DataError."""
    if task == "sentence":
        trees = sst.read_trees(source.path, skip_bad=skip_bad, skipped=skipped)
        return sst.labelled_columns(_limited(trees, limit), vocabulary)
    pairs = snli.read_pairs(source.path, split=source.split, skip_bad=skip_bad, skipped=skipped)
    return snli.pair_columns_from_examples(_limited(pairs, limit), vocabulary)


def _in_folder(corpus: str, path: Path) -> dict[str, Source]:
    if path.suffix == ".zip" and corpus == "snli":
        return {split: Source(path, split) for split in SPLITS}
    if not path.is_dir():
        raise DataError("no such folder" if not path.exists() else "expected a folder", path=path)
    if corpus == "logic":
        files = {name: path / file for name, file in LOGIC_FILES.items()}
        return {n: Source(file) for n, file in files.items() if n in ("train", "dev") or file.exists()}
    stem, suffix = ("snli_1.0_", ".jsonl") if corpus == "snli" else ("", ".txt")
    found = {}
    for split in SPLITS:
        places = [folder / f"{stem}{split}{suffix}" for folder in (path, path / "snli_1.0")]
        candidates = [place.with_name(place.name + ending) for place in places for ending in ("", ".gz")]
        if existing := [candidate for candidate in candidates if candidate.is_file()]:
            found[split] = Source(existing[0])
        elif split != "test":
            raise DataError(f"no {places[0].name} (nor .gz) in it", path=path)
    return found


def _read_pairs(source: Source, data: DataConfig, skipped: Skipped) -> datasets.Dataset:
    pairs = snli.read_pairs(source.path, split=source.split, skip_bad=data.skip_bad, skipped=skipped)
    return snli.to_dataset(_limited(pairs, data.limit))


def _read_trees(source: Source, data: DataConfig, skipped: Skipped) -> list[Tree]:
    return list(_limited(sst.read_trees(source.path, skip_bad=data.skip_bad, skipped=skipped), data.limit))


def _limited(examples: Iterator[Example], limit: int) -> Iterator[Example]:
    return islice(examples, limit) if limit else examples


def _vocabulary(data: DataConfig, counts: dict[str, Counter[str]]) -> Vocabulary:
    if data.vectors is None:
        return Vocabulary.from_counts(counts["train"], data.min_count, data.lower)
    total: Counter[str] = Counter()
    for split in counts.values():
        total.update(split)
    return Vocabulary.from_counts(total, data.min_count, data.lower)


def _count(trees: Iterable[Tree]) -> Counter[str]:
    return Counter(token for tree in trees for token in tree.tokens)


def _splits(task: str, labels: tuple[str, ...], vocabulary: Vocabulary, corpora: dict[str, Corpus]) -> Splits:
    others = {name: corpus for name, corpus in corpora.items() if name not in ("train", "dev")}
    return Splits(task, labels, vocabulary, corpora["train"], corpora["dev"], others)
