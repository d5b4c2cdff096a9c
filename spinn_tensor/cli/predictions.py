"""What a model says of every example of a split, beside what the file says: records to look at mistakes in."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from spinn_tensor.cli.report import json_line
from spinn_tensor.cli.sentences import composed
from spinn_tensor.data_prep.columns import NO_LABEL, Corpus, n_sentences, node_offsets
from spinn_tensor.data_prep.corpora.store import Split
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import write_text
from spinn_tensor.data_prep.record_files import form_by_name
from spinn_tensor.data_prep.trees import Tree, format_binary
from spinn_tensor.inference import predict_probabilities
from spinn_tensor.model.classifiers import Checkpoint

SIDES = {1: [""], 2: ["premise_", "hypothesis_"]}  # before "text" and "tree"


class ReadSplit(NamedTuple):
    """Hold a split whose words are as they were read, whatever the model knows."""

    name: str
    split: Split
    words: tuple[str, ...]  # by number
    paths: tuple[Path, ...] = ()  # of its files
    n_without_trees: int = 0  # sentences that have none to score a model's own against


def predictions(
    checkpoint: Checkpoint,
    read: ReadSplit,  # n examples
    corpus: Corpus,  # the same examples with the ids of the model's vocabulary
) -> Iterator[dict[str, Any]]:  # n JSON objects
    """Give the record of each example, in the order of the split."""
    model, labels = checkpoint.model, checkpoint.config.model.labels
    probabilities = predict_probabilities(model, corpus).tolist() if labels else []
    sentences = composed(checkpoint, corpus.sentences)
    words, n_examples = read.split.columns.sentences.token_ids, len(corpus.labels)
    offsets, nodes = sentences.token_offsets, node_offsets(sentences)
    has_trees = model.encoder.table_kind != "sequence"
    assert n_sentences(sentences) == corpus.n_sides * n_examples
    for row in range(n_examples):
        # of a store nobody knows file and line
        file, line = (None, None) if read.split.places is None else read.split.places[row].tolist()
        record: dict[str, Any] = {
            "split": read.name,
            "file": None if file is None else str(read.paths[file]),
            "line": line,
            "id": read.split.names[row].as_py() or None,
        }
        if labels:
            gold = int(corpus.labels[row])
            record["gold"] = None if gold == NO_LABEL else labels[gold]
            record |= label_and_probabilities(labels, probabilities[row])
        for side, prefix in enumerate(SIDES[corpus.n_sides]):
            i = row + side * n_examples
            tokens = tuple(read.words[word] for word in words[offsets[i] : offsets[i + 1]].tolist())
            tree = Tree(tokens, sentences.transitions[nodes[i] : nodes[i + 1]])
            record[f"{prefix}text"] = " ".join(tokens)
            record[f"{prefix}tree"] = format_binary(tree) if has_trees else None
        yield record


def label_and_probabilities(labels: Sequence[str], shares: Sequence[float]) -> dict[str, Any]:
    """Return what records say of an example: the most probable label, and how probable each is."""
    label = labels[max(range(len(labels)), key=shares.__getitem__)]
    return {"label": label, "probabilities": {n: round(p, 6) for n, p in zip(labels, shares, strict=True)}}


@contextmanager
def records_file(path: Path | None, labels: Sequence[str]) -> Iterator[Callable[[dict[str, Any]], object]]:
    """Open a file, or stdout, and yield what writes a record: a line of JSON, or of a table as the file's name says.

    A table has a column `p(LABEL)` of each label for the probabilities. Raises DataError for names of other tables.
    """
    form = None if path is None else form_by_name(str(path))
    if form == "arrow" or (path is not None and path.suffix.lower() in (".xlsx", ".xls")):
        raise DataError("expected a name ending in .jsonl, .csv or .tsv", path=path)
    with nullcontext(sys.stdout) if path is None else write_text(path) as file:
        if form not in ("csv", "tsv"):
            yield lambda record: file.write(json_line(record))
            return
        table = csv.writer(file, delimiter="," if form == "csv" else "\t", lineterminator="\n")
        is_first = True

        def write(record: dict[str, Any]) -> None:
            nonlocal is_first
            shares = record.pop("probabilities", None) or {}
            record |= {f"p({label})": shares.get(label) for label in labels}
            if is_first:
                table.writerow(record)
            is_first = False
            table.writerow(record.values())

        yield write
