"""From a `DataConfig` to columns: which files, the vocabulary, the splits.

The vocabulary holds the words of the training split, so that <unk> means the same in training and after.
With --vectors it holds those of every split: a fixed vector needs no training, and a word unseen in
training still has one.

Under `branching` every split has trees of that kind, whatever trees it came with; sentences without any are
read from their text then. Random trees are the same in every run.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from data_prep import listops, logic, snli, sst, treebank
from data_prep.branching import branched
from data_prep.columns import LabelledColumns, PairColumns
from data_prep.errors import DataError
from data_prep.files import Skipped
from data_prep.listops import ListOpsConfig
from data_prep.logic import LogicConfig
from data_prep.records import Tokenize
from data_prep.tokenizer import Tokenizer
from data_prep.vocabulary import Vocabulary
from spinn_tensor.training.config import DataConfig
from spinn_tensor.training.folders import recover, write_folder

Corpus = PairColumns | LabelledColumns

SPLITS = ("train", "dev", "test")
FILES = {  # around the split
    "snli": ("snli_1.0_", ".jsonl"),
    "sst": ("", ".txt"),
    "listops": ("", ".tsv"),
    "trees": ("", ".txt"),
}
MANIFEST = "corpus.json"  # of a generated corpus: the generator's version and configuration
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


class SentenceCorpus(NamedTuple):
    """How a corpus of single sentences is read."""

    labels: tuple[str, ...]  # () where there are none: a corpus to learn trees from
    read: Callable[..., Iterator[Any]]  # examples of a file, each with its `tokens`; as `sst.read_trees`
    columns: Callable[[Iterable[Any], Vocabulary], LabelledColumns]


SENTENCE_CORPORA: dict[str, SentenceCorpus] = {
    "sst": SentenceCorpus(sst.LABELS, sst.read_trees, sst.labelled_columns),
    "listops": SentenceCorpus(listops.LABELS, listops.read_expressions, listops.expression_columns),
    "trees": SentenceCorpus((), treebank.read_treebank, treebank.treebank_columns),
}


class Source(NamedTuple):
    """Files of examples, read one after another, or a split of the official SNLI zip."""

    paths: tuple[Path, ...]
    split: str | None = None  # only in a zip


class Splits(NamedTuple):
    """A corpus ready for training."""

    task: str  # "pair" | "sentence" | "parse"
    labels: tuple[str, ...]
    vocabulary: Vocabulary
    train: Corpus
    dev: Corpus
    others: dict[str, Corpus]  # test, the logic corpus' long, and every --extra


def load_splits(data: DataConfig, skipped: Skipped) -> Splits:
    """Reads every split of the data. Raises DataError naming file, line and field."""
    sources = split_sources(data)
    examples = {name: _examples(source, data, skipped) for name, source in sources.items()}
    if data.corpus in SENTENCE_CORPORA:
        labels, _, columns = SENTENCE_CORPORA[data.corpus]
        listed = {name: list(part) for name, part in examples.items()}
        vocabulary = _vocabulary(data, {name: _count(part) for name, part in listed.items()})
        corpora = {name: _with_trees(columns(part, vocabulary), data) for name, part in listed.items()}
        return _splits("sentence" if labels else "parse", labels, vocabulary, corpora)
    tables = {name: snli.to_dataset(part) for name, part in examples.items()}
    vocabulary = _vocabulary(data, {name: snli.token_counts(table) for name, table in tables.items()})
    corpora = {
        name: _with_trees(snli.pair_columns(table, vocabulary), data) for name, table in tables.items()
    }
    return _splits("pair", snli.LABELS, vocabulary, corpora)


def split_sources(data: DataConfig) -> dict[str, Source]:
    """Which file is which split. Raises DataError if train or dev is missing."""
    sources: dict[str, Source] = {}
    given = {"train": data.train, "dev": data.dev, "test": data.test}
    if data.data is not None and not (data.train and data.dev):
        sources.update(_in_folder(data.corpus, Path(data.data)))
    sources.update({name: Source(tuple(map(Path, files))) for name, files in given.items() if files})
    for name in ("train", "dev"):
        if name not in sources:
            raise DataError(f"no {name} file: give --{name} FILE, or --data with the folder of the corpus")
    for entry in data.extra:
        name, _, file = entry.partition("=")
        if name in sources:
            raise DataError(f"the corpus has a split {name!r} already", field=f"--extra {entry}")
        sources[name] = Source((Path(file),))
    return sources


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
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    is_equal = isinstance(manifest, dict) and (manifest.get("version"), manifest.get("config")) == (
        generator.version,
        asdict(config),
    )
    return is_equal and all((folder / name).is_file() for name in generator.files.values())


def read_source(
    source: Source,
    data: DataConfig,  # corpus, limit, skip_bad and branching
    vocabulary: Vocabulary,
    skipped: Skipped,
    tokenize: Tokenize | None = None,  # reads sentences without a parse; default: `text_reader`
) -> Corpus:
    """Examples for a trained model. Raises DataError."""
    examples = _examples(source, data, skipped, tokenize)
    columns: Callable[..., Corpus] = snli.pair_columns_from_examples
    if data.corpus in SENTENCE_CORPORA:
        columns = SENTENCE_CORPORA[data.corpus].columns
    return _with_trees(columns(examples, vocabulary), data)


def text_reader(branching: str | None) -> Tokenize | None:
    """What reads sentences without a parse: nothing, unless trees are made for them."""
    return None if branching is None else Tokenizer().tokenize


def _in_folder(corpus: str, path: Path) -> dict[str, Source]:
    if path.suffix == ".zip" and corpus == "snli":
        return {split: Source((path,), split) for split in SPLITS}
    if not path.is_dir():
        raise DataError("no such folder" if not path.exists() else "expected a folder", path=path)
    if corpus == "logic":
        files = {name: path / file for name, file in GENERATORS[corpus].files.items()}
        return {n: Source((file,)) for n, file in files.items() if n in ("train", "dev") or file.exists()}
    stem, suffix = FILES[corpus]
    found = {}
    for split in SPLITS:
        places = [folder / f"{stem}{split}{suffix}" for folder in (path, path / "snli_1.0")]
        candidates = [place.with_name(place.name + ending) for place in places for ending in ("", ".gz")]
        if existing := [candidate for candidate in candidates if candidate.is_file()]:
            found[split] = Source((existing[0],))
        elif split != "test":
            raise DataError(f"no {places[0].name} (nor .gz) in it", path=path)
    return found


def _examples(
    source: Source, data: DataConfig, skipped: Skipped, tokenize: Tokenize | None = None
) -> Iterator[Any]:
    """Examples of the files in the corpus's format, up to the limit."""
    tokenize = tokenize or text_reader(data.branching)
    read: Callable[..., Iterator[Any]]
    if data.corpus == "trees":
        read = partial(treebank.read_treebank, tokenize=tokenize)
    elif data.corpus in SENTENCE_CORPORA:
        read = SENTENCE_CORPORA[data.corpus].read
    else:
        read = partial(snli.read_pairs, split=source.split, tokenize=tokenize)
    files = (read(path, skip_bad=data.skip_bad, skipped=skipped) for path in source.paths)
    return islice(chain.from_iterable(files), data.limit or None)


def _with_trees(corpus: Corpus, data: DataConfig) -> Corpus:
    """The corpus as it is, or under trees of one kind."""
    return corpus if data.branching is None else branched(corpus, data.branching)


def _vocabulary(data: DataConfig, counts: dict[str, Counter[str]]) -> Vocabulary:
    if data.vectors is None:
        return Vocabulary.from_counts(counts["train"], data.min_count, data.lower)
    total: Counter[str] = Counter()
    for split in counts.values():
        total.update(split)
    return Vocabulary.from_counts(total, data.min_count, data.lower)


def _count(examples: Iterable[Any]) -> Counter[str]:
    return Counter(token for example in examples for token in example.tokens)


def _splits(task: str, labels: tuple[str, ...], vocabulary: Vocabulary, corpora: dict[str, Corpus]) -> Splits:
    others = {name: corpus for name, corpus in corpora.items() if name not in ("train", "dev")}
    return Splits(task, labels, vocabulary, corpora["train"], corpora["dev"], others)
