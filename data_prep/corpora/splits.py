"""From a `DataConfig` to columns: the files' examples, the vocabulary, the splits.

A corpus is read into a `PreparedCorpus`, whose words have numbers of their own (`prepare`), or was before and is read
from its store (`data_prep.corpora.store`). Then the vocabulary is made and the words get its ids.

The vocabulary holds the words of the training split, so that <unk> means the same in training and after.
With --vectors it holds those of every split: a fixed vector needs no training, and a word unseen in
training still has one.

With --dev-fraction the training files' examples are dealt out to train and dev, by a choice that depends on nothing
but their labels and --split-seed: a trained model is evaluated on those that it was not trained on.

Under `branching` every split has trees of that kind, whatever trees it came with; sentences without any are
read from their text then. Random trees are the same in every run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np

from spinn_tensor.data_prep.branching import branched
from spinn_tensor.data_prep.columns import (
    NO_LABEL,
    Corpus,
    n_sentences,
    number_distinct,
    phrases,
    renumber,
    select,
)
from spinn_tensor.data_prep.corpora.config import DataConfig
from spinn_tensor.data_prep.corpora.formats import LabelNames
from spinn_tensor.data_prep.corpora.kinds import KINDS
from spinn_tensor.data_prep.corpora.read import Examples, join, read_examples_as_columns
from spinn_tensor.data_prep.corpora.sources import Source, extra_sources, is_left_out, split_sources
from spinn_tensor.data_prep.corpora.store import PreparedCorpus, Split, is_store, read_manifest, read_store
from spinn_tensor.data_prep.corpora.text_trees import TextTrees
from spinn_tensor.data_prep.errors import DataError, DataWarning, NoExamples
from spinn_tensor.data_prep.files import N_PLACES, Skipped, shorter_path
from spinn_tensor.data_prep.penn import DEFAULT_BINARIZE
from spinn_tensor.data_prep.text import SentenceReader
from spinn_tensor.data_prep.token_rules import Rules, read_rules
from spinn_tensor.data_prep.tokenizer import Tokenizer
from spinn_tensor.data_prep.vocabulary import Vocabulary, WordList

OnLines = Callable[[int], object]  # told of so many lines when they are read

# Those that say how further files of the same kind are read: a run on the store has them, too.
KEPT = (
    *("corpus", "branching", "parser", "binarize", "notation", "tokenizer"),
    *("fields", "labels", "binary", "phrases"),
)

_BY_DEFAULT = {"binarize": DEFAULT_BINARIZE, "notation": "auto"}  # what None means, where it may be named


class Splits(NamedTuple):
    """Hold a corpus ready for training."""

    task: str  # "pair" | "sentence" | "parse"
    labels: tuple[str, ...]
    vocabulary: Vocabulary
    train: Corpus
    dev: Corpus
    rules: Rules  # that make words of text
    others: dict[str, Corpus]  # test, the logic corpus' long, and every --extra


def load_splits(data: DataConfig, skipped: Skipped, trees: TextTrees | None = None) -> Splits:
    """Read every split of the data. Raises DataError naming file, line and field."""
    if data.data is not None and is_store(data.data):
        corpus = _from_store(data, Path(data.data), skipped, trees)
    else:
        corpus = prepare(data, skipped, trees=trees)
    known = corpus.splits if data.vectors is not None else {"train": corpus.splits["train"]}
    counts = _count_words(known, len(corpus.words))
    occurring = {corpus.words[word]: int(counts[word]) for word in np.flatnonzero(counts).tolist()}
    vocabulary = Vocabulary.from_counts(occurring, data.min_count, data.lower)
    ids = vocabulary.encode(corpus.words)
    splits = {name: renumbered(split.columns, ids) for name, split in corpus.splits.items()}
    train, dev = splits.pop("train"), splits.pop("dev")
    return Splits(corpus.task, corpus.labels, vocabulary, train, dev, rules_of(data), splits)


def prepare(
    data: DataConfig,
    skipped: Skipped,
    on_lines: OnLines | None = None,
    trees: TextTrees | None = None,  # for text without a parse; None: text is refused, but under `branching`
) -> PreparedCorpus:
    """Read every split from its files, training examples first. Raises DataError naming file, line and field."""
    words, labels = WordList(), KINDS[data.corpus].labels(data)
    reader, sources = _Reader(data, words, labels, skipped, on_lines, trees), split_sources(data)
    splits: dict[str, Split] = {}
    whole: dict[tuple[Path, ...], Split] = {}  # files that train and dev are parts of: read once
    for name in sorted(sources, key=lambda name: name != "train"):
        source = sources[name]
        if source.part is not None and source.paths not in whole:
            whole[source.paths] = reader.whole(source)
        try:
            read = whole[source.paths] if source.part is not None else reader.whole(source)
        except NoExamples as error:
            if not is_left_out(data, name, error):
                raise
            continue
        splits[name] = reader.finished(read, source.part, is_train=name == "train")
    # only words that occur have numbers, by frequency, then by the alphabet, however the corpus was read
    counts, spelt = _count_words(splits, len(words)), words.words
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda word: (-counts[word], spelt[word]))
    numbers = np.zeros(len(words), dtype=np.int64)
    numbers[order] = np.arange(len(order))
    for name, split in splits.items():
        splits[name] = split._replace(columns=renumbered(split.columns, numbers))
    return PreparedCorpus(task_of(data), tuple(labels.names), tuple(spelt[word] for word in order), splits)


def read_source(
    source: Source,
    data: DataConfig,  # all that says how files are read
    labels: tuple[str, ...],  # of the model
    skipped: Skipped,
    trees: TextTrees | None,  # as in `prepare`
    rules: Rules | None,  # those of the model, None: those of the data
) -> tuple[Split, tuple[str, ...]]:
    """Read examples for a trained model; return them and their words, by number. Raises DataError."""
    words = WordList()
    reader = _Reader(data, words, LabelNames(list(labels)), skipped, trees=trees, rules=rules)
    return reader.split(source), words.words


def with_prepared_options(data: DataConfig) -> DataConfig:
    """Add the options that a store was prepared with, where there is one and the data say nothing else.

    Raises DataError for a store that cannot be read and for options that do not fit it.
    """
    if data.data is None or not is_store(data.data):
        return data
    folder = Path(data.data)
    manifest = read_manifest(folder)
    # a later option was what it is by default
    options = {**DataConfig().to_dict(), **manifest["options"], "parser": manifest.get("parser")}
    given, changes = data.to_dict(), dict[str, Any]()
    for name in KEPT:
        was = options[name]
        if name in ("branching", "parser") and (data.branching, data.parser) != (None, None):
            continue  # made anew, of whatever trees there were
        if given[name] and given[name] not in (was, _BY_DEFAULT.get(name) if was is None else was):
            raise DataError(f"was prepared with {name} = {was!r}, got {given[name]!r}", path=folder)
        changes[name] = tuple(was) if isinstance(was, list) else was
    return replace(data, **changes)


def prepared_from(folder: str | None) -> str | None:
    """Return the kind of files that a store was made of; None where there is no store. Raises DataError."""
    if folder is None or not is_store(folder):
        return None
    corpus = read_manifest(Path(folder))["options"].get("corpus")
    if corpus not in KINDS:
        raise DataError(f"a corpus of kind {corpus!r}: prepare again", path=folder)
    return str(corpus)


def read_stored(
    data: DataConfig,
    labels: tuple[str, ...],  # of the model
    skipped: Skipped,
    trees: TextTrees | None,  # as in `prepare`
) -> PreparedCorpus:
    """Read the store that `data` names, for a trained model. Raises DataError, for other labels too."""
    assert data.data is not None
    corpus = _from_store(data, Path(data.data), skipped, trees)
    if labels and corpus.labels != labels:
        reason = f"has the labels {', '.join(corpus.labels)}, the model {', '.join(labels)}"
        raise DataError(reason, path=data.data)
    return corpus


def rules_of(data: DataConfig) -> Rules:
    """Return the rules that text is made into words by: those of --tokenizer, else of the kind. Raises DataError."""
    return read_rules(KINDS[data.corpus].tokenizer if data.tokenizer is None else data.tokenizer)


def task_of(data: DataConfig) -> str:
    """Return what a model learns from the corpus."""
    return KINDS[data.corpus].task


def renumbered(
    columns: Corpus,
    new_ids: np.ndarray,  # (V,) integers, the new number of each word
) -> Corpus:
    """Give the words of the same examples other numbers."""
    return columns._replace(sentences=renumber(columns.sentences, new_ids))


def _count_words(splits: Mapping[str, Split], n_words: int) -> np.ndarray:  # (n_words,) int64
    token_ids = [split.columns.sentences.token_ids for split in splits.values()]
    return np.bincount(np.concatenate(token_ids), minlength=n_words)


def _from_store(data: DataConfig, folder: Path, skipped: Skipped, trees: TextTrees | None) -> PreparedCorpus:
    """Read what was prepared, as far as the limit goes, and the files of --extra."""
    if data.train or data.dev or data.test or data.dev_fraction:
        raise DataError(
            "a prepared corpus has splits of its own; add others by --extra NAME=FILE", path=folder
        )
    data = with_prepared_options(data)
    manifest = read_manifest(folder)
    corpus = read_store(folder)
    skipped.restore(manifest["skipped"], folder)
    splits = {name: _limited(split, data.limit) for name, split in corpus.splits.items()}
    if trees is not None and not _has_trees_of(manifest, data.parser, trees):
        splits = {name: _under(split, trees, corpus.words) for name, split in splits.items()}
    words, labels = WordList(corpus.words), LabelNames(list(corpus.labels))
    for name, source in extra_sources(data, splits).items():
        splits[name] = _Reader(data, words, labels, skipped, trees=trees).split(source)
    if data.branching is not None and data.branching != manifest["options"].get("branching"):
        splits = {
            name: split._replace(columns=branched(split.columns, data.branching))
            for name, split in splits.items()
        }
    return corpus._replace(words=words.words, splits=splits)


def _has_trees_of(manifest: dict[str, Any], parser: str | None, trees: TextTrees) -> bool:
    """Tell whether a store's trees are those already, or are to stay as they are."""
    try:
        return trees.sha256 in (None, manifest["options"].get("parser"))
    except ValueError:  # the parser is not here any more
        if parser != manifest.get("parser"):
            raise
        return True


def _under(split: Split, trees: TextTrees, words: Sequence[str]) -> Split:
    """Put the sentences of a store, none of which is text any more, under trees where all are to have others."""
    sentences = split.columns.sentences
    none = np.zeros(n_sentences(sentences), dtype=bool)
    return split._replace(columns=split.columns._replace(sentences=trees.put(sentences, words, none)))


class _Reader(NamedTuple):
    """Read splits that share words and labels."""

    data: DataConfig
    words: WordList
    labels: LabelNames
    skipped: Skipped
    on_lines: OnLines | None = None
    trees: TextTrees | None = None
    rules: Rules | None = None

    def split(self, source: Source) -> Split:
        """Read a split that is not trained on. Raises DataError."""
        return self.finished(self.whole(source), source.part)

    def whole(self, source: Source) -> Split:
        """Read all examples of the files. Raises DataError."""
        parts = self._examples(source)
        examples = join(parts)
        if self.trees is not None:
            sentences = self.trees.put(examples.sentences, self.words.words, examples.text_mask)
            examples = examples._replace(sentences=sentences)
        files = np.repeat(np.arange(len(parts)), [len(part.lines) for part in parts])
        places = np.stack((files, examples.lines), axis=1)
        if task_of(self.data) == "parse":  # two sentences of a line are two examples here
            columns = Corpus(examples.sentences, np.full(n_sentences(examples.sentences), NO_LABEL))
        else:
            columns = examples.corpus()
        names = examples.names
        if self.labels.grows:
            columns = _settle_labels(columns, self.labels)
        if len(names) != len(columns.labels):
            names = _no_names(len(columns.labels))
            places = np.repeat(places, examples.n_sentences, axis=0)
        return Split(columns, names, places)

    def finished(self, split: Split, part: str | None, is_train: bool = False) -> Split:
        """Return those of the examples that are the split, as the settings want them. Raises DataError."""
        if part is not None:
            labels, distinct = split.columns.labels, number_distinct(split.columns)
            is_dev = held_out(labels, distinct, self.data.dev_fraction, self.data.split_seed)
            split = _taken(split, np.flatnonzero(is_dev == (part == "dev")))
        if is_train and self.data.phrases:
            columns = phrases(split.columns)
            split = Split(columns, _no_names(len(columns.labels)))
        split = _limited(split, self.data.limit)
        if self.data.branching is not None:
            split = split._replace(columns=branched(split.columns, self.data.branching))
        return split

    def _examples(self, source: Source) -> list[Examples]:
        """Read the examples of each file, one after another, up to the limit."""
        data, own = self.data, Skipped()
        limit = 0 if source.part is not None else data.limit  # the limit is on what is kept of them
        takes_text = self.trees is not None or data.branching is not None
        tokenize = Tokenizer(rules=self.rules or rules_of(data)).tokenize if takes_text else None
        reader = SentenceReader(tokenize, data.binarize or DEFAULT_BINARIZE, data.notation or "auto")
        line_format = KINDS[data.corpus].line_format(data, self.labels, reader)
        parts: list[Examples] = []
        try:
            for path in source.paths:
                n_before = sum(len(part.labels) for part in parts)
                if limit and n_before >= limit:
                    break
                part = read_examples_as_columns(
                    path,
                    line_format,
                    self.words,
                    member=source.member,
                    skip_bad=data.skip_bad,
                    skipped=own,
                    limit=limit - n_before if limit else 0,
                    may_be_empty=len(source.paths) > 1,
                    on_lines=self.on_lines,
                    limits=data.limits,
                )
                parts.append(part)
        finally:
            self.skipped.update(own)
        if not any(len(part.labels) for part in parts):
            first = ", ".join(shorter_path(str(path)) for path in source.paths[:N_PLACES])
            more = ", …" if len(source.paths) > N_PLACES else ""
            raise own.no_examples(f" in {len(source.paths)} files, {first}{more}")
        return parts


def _settle_labels(columns: Corpus, labels: LabelNames) -> Corpus:
    """Fix the labels: those that came, in the order of the alphabet, or of numbers.

    Warns of those that came once, and of those that look alike.
    """
    came, counts = (values.tolist() for values in np.unique(columns.labels, return_counts=True))
    names = [labels.names[number] for number in came]
    rare = [name for name, n in zip(names, counts, strict=True) if n == 1]
    plain = [" ".join(normalize("NFKC", name).casefold().split()) for name in names]
    alike = [name for name, spelt in zip(names, plain, strict=True) if plain.count(spelt) > 1]
    for odd, what in ((rare, "have one example"), (alike, "look alike")):
        if odd:
            named = ", ".join(repr(name[:40]) for name in odd[:N_PLACES]) + ", …" * (len(odd) > N_PLACES)
            warnings.warn(f"{len(odd)} of {len(came)} labels {what}: {named}", DataWarning, stacklevel=2)
    names.sort(key=int if all(name.isdecimal() for name in names) else str)
    numbers = np.zeros(len(labels.names), dtype=np.int64)
    for number in came:
        numbers[number] = names.index(labels.names[number])
    labels.names, labels.grows = names, False
    return columns._replace(labels=numbers[columns.labels])


def held_out(
    labels: np.ndarray,  # (n,) int64
    distinct: np.ndarray,  # (n,) int64, of 0, 1, ..., in the order in which they come first
    fraction: float,
    seed: int,
) -> np.ndarray:  # (n,) bool
    """Choose the examples that become dev, those with one number in `distinct` together. Raises DataError for too few.

    In the order of labels, and of random numbers among equal ones, every (1 / fraction)-th is taken: of each label its
    part but for one at most, if all are distinct. Those that are not have the place of the first, and are taken when
    that is nearer to the part than not. The numbers are PCG64's raw ones, which no version of NumPy changes.
    """
    n_examples = len(labels)
    _, first, sizes = np.unique(distinct, return_index=True, return_counts=True)
    order = np.lexsort((np.random.PCG64(seed).random_raw(n_examples)[first], labels[first]))
    is_taken, n_taken = np.zeros(len(first), dtype=bool), 0
    wanted = np.floor(np.cumsum(sizes[order]) * fraction + 0.5)
    for group, size, n_wanted in zip(order.tolist(), sizes[order].tolist(), wanted.tolist(), strict=True):
        if 2 * n_taken + size < 2 * n_wanted:
            is_taken[group], n_taken = True, n_taken + size
    if not 0 < n_taken < n_examples:
        reason = f"{fraction:g} of {n_examples:,} training examples leaves no train or no dev"
        raise DataError(reason, field="--dev-fraction")
    return is_taken[distinct]


def _taken(split: Split, rows: np.ndarray) -> Split:
    places = None if split.places is None else split.places[rows]
    return Split(select(split.columns, rows), split.names.take(rows), places)


def _limited(split: Split, limit: int) -> Split:
    n_examples = len(split.columns.labels)
    return _taken(split, np.arange(limit)) if limit and n_examples > limit else split


def _no_names(n_examples: int) -> Any:
    import pyarrow as pa

    return pa.array([""] * n_examples, pa.string())
