"""A corpus read once and kept: columns as Arrow files of HF `datasets`, and a manifest of what they were made of.

    manifest.json       kind, format version, what the corpus is, sources with their SHA-256, options, counts, lines
                        left out, the SHA-256 of every other file of the store
    words.json          the words, by number, the most frequent first
    dataset_dict.json, SPLIT/...   a `datasets.DatasetDict`; `datasets.load_from_disk` reads it, too

Columns of a split, one row an example, where SIDE is premise and hypothesis, or sentence:

    SIDE_words          list of uint16, or int32 where there are more than 65,536 words: numbers of the words
    SIDE_transitions    list of bool, a bit each: False = SHIFT, True = REDUCE
    SIDE_node_labels    list of int8, only of labelled trees; -1 = none
    label               a ClassLabel; -1 = none
    name                string, the example's own name; "" where it has none

The lengths of the sentences are those of the lists. Numbers are those of all words of all splits: which of them a model
knows is for the vocabulary to say, which is made when the store is read.

The folder is written beside its place and then renamed: there is a whole store or none. Files are compared with their
SHA-256 before Arrow opens them: it does not check what it maps into memory, and of files in which a few bytes are wrong
it makes other sentences, or ends the process.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spinn_tensor.data_prep.archives import unopened
from spinn_tensor.data_prep.columns import (
    NO_LABEL,
    SIDES,
    Corpus,
    SentenceColumns,
    check_columns,
    concatenate,
    node_offsets,
)
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import read_json, read_json_object, write_json
from spinn_tensor.data_prep.folders import readable, recover, write_folder
from spinn_tensor.data_prep.row_sources import is_dataset_folder, is_hub_name, sha256_of_rows

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

KIND = "spinn_tensor corpus"  # other folders have a manifest.json, too
FORMAT_VERSION = 1  # rises when an older reader would misread a store, or a newer one reads more
MANIFEST, WORDS = "manifest.json", "words.json"
_ARROW_UNLABELLED = -1  # what HF's ClassLabel takes for no label
_MOST_SHORT = 1 << 16
_CACHE = re.compile(r"(^|/)cache-[^/]*\.arrow$")  # what `datasets` writes beside what it opened


class Split(NamedTuple):
    """Hold n examples."""

    columns: Corpus  # token_ids are numbers of words
    names: pa.Array  # (n,) string
    # (n, 2) int64: which file of the source, and the line in it; None: of a store
    places: np.ndarray | None = None


class PreparedCorpus(NamedTuple):
    """Hold a corpus whose words have numbers."""

    task: str  # "pair" | "sentence" | "parse"
    labels: tuple[str, ...]
    words: tuple[str, ...]  # by number
    splits: dict[str, Split]


def write_store(
    folder: Path,
    corpus: PreparedCorpus,
    facts: Mapping[str, Any],  # what the manifest says besides: JSON values
) -> None:
    """Replace the folder by the corpus. Raises DataError, and leaves what was there, where it cannot be written."""
    import datasets

    parts = {name: _dataset(split, corpus) for name, split in corpus.splits.items()}
    manifest = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "task": corpus.task,
        "labels": list(corpus.labels),
        "splits": {
            name: {"examples": len(split.columns.labels), "tokens": int(split.columns.n_tokens.sum())}
            for name, split in corpus.splits.items()
        },
        "words": len(corpus.words),
        **facts,
    }

    def fill(temporary: Path) -> None:
        datasets.DatasetDict(parts).save_to_disk(temporary)
        write_json(temporary / WORDS, list(corpus.words))
        files = {name: sha256_of(temporary / name) for name in _files(temporary)}
        write_json(temporary / MANIFEST, {**manifest, "files": files})

    try:
        with _without_progress_bars():
            write_folder(folder, fill)
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"cannot be written: {error}", path=folder) from error


def is_store(path: str | Path) -> bool:
    """Tell whether the folder says that it keeps a corpus, however old, new or damaged."""
    try:
        return read_json_object(readable(Path(path)) / MANIFEST).get("kind") == KIND
    except DataError:
        return False


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what the store says of itself, with options, sources and skipped lines as objects. Raises DataError."""
    path = readable(folder) / MANIFEST
    manifest = read_json_object(path)
    for name in ("options", "sources", "skipped"):
        if not isinstance(manifest.setdefault(name, {}), dict):
            raise DataError("expected an object", path=path, field=name)
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise DataError(
            f"format version {version!r}, this version reads {FORMAT_VERSION}: prepare again", path=path
        )
    return manifest


def read_store(folder: Path) -> PreparedCorpus:
    """Return what `write_store` wrote. Raises DataError for anything else."""
    import datasets
    import pyarrow as pa

    check_files(folder)
    folder = readable(folder)
    words = read_json(folder / WORDS)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise DataError("expected a list of strings", path=folder / WORDS)
    try:
        parts = dict(datasets.load_from_disk(folder).items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError, pa.ArrowException) as error:
        raise DataError(f"not a store: {error}", path=folder) from error
    labels = {name: tuple(getattr(part.features.get("label"), "names", ())) for name, part in parts.items()}
    splits = {}
    for name, part in parts.items():
        try:
            splits[name] = _split(part.with_format("arrow")[:], len(words), len(labels[name]))
        except (DataError, KeyError, ValueError, pa.ArrowException) as error:
            raise DataError(f"split {name!r}: {error}", path=folder) from error
    if not splits:
        raise DataError("not a store: no split", path=folder)
    n_sides = {name: split.columns.n_sides for name, split in splits.items()}
    first = next(iter(splits))
    for name, (what, values) in itertools.product(splits, (("sides", n_sides), ("labels", labels))):
        if values[name] != values[first]:
            reason = f"split {name!r}: {what} {values[name]}, expected {values[first]}, those of {first!r}"
            raise DataError(reason, path=folder)
    task = "pair" if n_sides[first] == 2 else "sentence" if labels[first] else "parse"
    return PreparedCorpus(task, labels[first], tuple(words), splits)


def sha256_of(path: Path) -> str:
    """Return the hex digest of a file, or of a dataset's folder or name. Raises DataError if it cannot be read."""
    if is_hub_name(path) or is_dataset_folder(path):
        return sha256_of_rows(path)
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(unopened(path, error), path=path) from error


def clear_store(folder: Path) -> None:
    """Put whole what a killed writer left behind. Raises DataError if the folder holds anything but a store."""
    recover(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError("a file, expected a folder", path=folder)
    own: Any = {}
    if is_store(folder):
        own = read_json_object(folder / MANIFEST).get("files")
        own = {MANIFEST, *own} if isinstance(own, dict) else set(_files(folder))
    others = [name for name in _files(folder) if name not in own and not _CACHE.search(name)]
    if others:
        raise DataError(f"holds other files ({others[0][:80]}); name a new folder", path=folder)


def _files(folder: Path) -> list[str]:
    """List every file in a folder and those below it, by its path from there."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def check_files(folder: Path) -> dict[str, Any]:
    """Return the manifest. Raises DataError naming the first file that is missing, or not the one that was written."""
    folder = readable(folder)
    manifest = read_manifest(folder)
    digests = manifest.get("files")
    if not isinstance(digests, dict):
        raise DataError("expected the SHA-256 of every file: prepare again", path=folder / MANIFEST)
    present = _files(folder)
    for name, digest in digests.items():
        if name not in present:
            raise DataError(f"{name[:80]}: no such file", path=folder)
        if sha256_of(folder / name) != digest:
            raise DataError(f"damaged: not the file whose SHA-256 is in {MANIFEST}", path=folder / name)
    return manifest


def _dataset(split: Split, corpus: PreparedCorpus) -> datasets.Dataset:
    import datasets
    import pyarrow as pa

    word_type = "uint16" if len(corpus.words) <= _MOST_SHORT else "int32"
    columns: dict[str, pa.Array] = {}
    for side, sentences in zip(SIDES[split.columns.n_sides], split.columns.sides, strict=True):
        nodes = node_offsets(sentences)
        columns[f"{side}_words"] = _lists(sentences.token_ids.astype(word_type), sentences.token_offsets)
        columns[f"{side}_transitions"] = _lists(sentences.transitions.astype(bool), nodes)
        if sentences.node_labels is not None:
            columns[f"{side}_node_labels"] = _lists(_to_arrow(sentences.node_labels).astype(np.int8), nodes)
    columns["label"] = pa.array(_to_arrow(split.columns.labels))
    columns["name"] = split.names
    table = pa.table(columns)
    features = datasets.Features.from_arrow_schema(table.schema)
    if corpus.labels:
        features["label"] = datasets.ClassLabel(names=list(corpus.labels))
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features))


def _lists(values: np.ndarray, offsets: np.ndarray) -> pa.ListArray:
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def _split(table: pa.Table, n_words: int, n_labels: int) -> Split:
    import pyarrow as pa

    names = SIDES[1] if f"{SIDES[1][0]}_words" in table.column_names else SIDES[2]
    sentences = concatenate(*(_sentences(table, side, n_words, n_labels) for side in names))
    labels = _from_arrow(_integers(table.column("label"), "label"), n_labels, "label")
    examples = pa.concat_arrays([pa.array([], pa.string()), *table.column("name").chunks])
    return Split(Corpus(sentences, labels, len(names)), examples)


def _sentences(table: pa.Table, side: str, n_words: int, n_labels: int) -> SentenceColumns:
    words, token_offsets = _list_column(table, f"{side}_words")
    transitions, offsets = _list_column(table, f"{side}_transitions")
    node_labels = None
    if f"{side}_node_labels" in table.column_names:
        name = f"{side}_node_labels"
        node_labels, label_offsets = _list_column(table, name)
        if not np.array_equal(label_offsets, offsets):
            raise DataError("not one label for each node", field=name)
        node_labels = _from_arrow(node_labels, n_labels, name)
    columns = SentenceColumns(words.astype(np.int32), token_offsets, transitions.astype(np.int8), node_labels)
    _check_range(words, 0, n_words, "word", side)
    check_columns(columns)
    return columns


def _list_column(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a column of n lists, one list after another, and where each begins, (n + 1,) int64."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.column(name)
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise DataError(f"got {column.type}, expected lists", field=name)
    values = pa.chunked_array([part.flatten() for part in column.chunks], column.type.value_type)
    if column.null_count:
        raise DataError("a null, expected a list", field=name)
    lengths = pc.list_value_length(column).to_numpy().astype(np.int64)
    return _integers(values, name), np.concatenate(([0], np.cumsum(lengths)))


def _integers(values: pa.ChunkedArray, name: str) -> np.ndarray:
    """Return a column of n whole numbers, or of true and false, (n,) of its own type."""
    import pyarrow as pa

    if not (pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)):
        raise DataError(f"got {values.type}, expected whole numbers", field=name)
    if values.null_count:
        raise DataError("a null, expected whole numbers", field=name)
    return values.to_numpy()


def _check_range(values: np.ndarray, lowest: int, end: int, what: str, name: str) -> None:
    """Raise DataError for the first value that is not one of lowest to end - 1."""
    wrong = values[(values < lowest) | (values >= end)]
    if len(wrong):
        raise DataError(f"{what} {wrong[0]}, expected {lowest} to {end - 1}", field=name)


def _to_arrow(labels: np.ndarray) -> np.ndarray:
    return np.where(labels == NO_LABEL, _ARROW_UNLABELLED, labels)


def _from_arrow(labels: np.ndarray, n_labels: int, name: str) -> np.ndarray:
    _check_range(labels, _ARROW_UNLABELLED, n_labels, "label", name)
    labels = labels.astype(np.int64)
    return np.where(labels == _ARROW_UNLABELLED, NO_LABEL, labels)


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    from datasets.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
