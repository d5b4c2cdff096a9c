"""A corpus from its files to a store, once: a second time nothing is read if files and options are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spinn_tensor.data_prep.corpora.config import DataConfig
from spinn_tensor.data_prep.corpora.sources import split_sources
from spinn_tensor.data_prep.corpora.splits import OnLines, prepare, rules_of
from spinn_tensor.data_prep.corpora.store import (
    check_files,
    clear_store,
    read_manifest,
    sha256_of,
    write_store,
)
from spinn_tensor.data_prep.corpora.text_trees import TextTrees
from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Skipped
from spinn_tensor.data_prep.limits import Limits
from spinn_tensor.data_prep.tokenizer import rules_sha256

# Options that a corpus is prepared with: others make nothing different of the files.
PREPARED_WITH = (
    *("corpus", "limit", "skip_bad", "branching", "binarize", "notation", "tokenizer", "fields", "labels"),
    *("binary", "phrases", "dev_fraction", "split_seed"),
    *Limits._fields,
)


def prepare_store(
    data: DataConfig,
    folder: Path,
    skipped: Skipped,
    *,
    trees: TextTrees | None = None,  # makes those of all sentences, which need none then
    on_lines: OnLines | None = None,
) -> tuple[dict[str, Any], bool]:
    """Make the folder the store of this corpus; return its manifest, and whether it had to be written.

    Raises DataError; a store that was there is left as it was then.
    """
    for name in (entry.partition("=")[0] for entry in data.extra):
        if name == ".." or Path(name).name != name:  # it becomes a folder of that name
            raise DataError("expected NAME=FILE with a name of a folder", field=f"--extra {name}")
    clear_store(folder)
    key = preparation_key(data)
    if trees is not None:
        key["options"]["parser"] = trees.sha256
    if (manifest := _whole_store(folder)) is not None and _essence(manifest) == _essence(key):
        return manifest, False
    corpus = prepare(data, skipped, on_lines, trees)
    parser = data.with_absolute_paths().parser
    write_store(folder, corpus, {**key, "parser": parser, "skipped": skipped.to_dict()})
    return read_manifest(folder), True


def preparation_key(data: DataConfig) -> dict[str, Any]:
    """Return what a store depends on: options and the contents of all files, each of which must be readable.

    Raises DataError for a file that cannot be read.
    """
    sources = split_sources(data)
    digests = {path: sha256_of(path) for source in sources.values() for path in source.paths}
    return {
        "options": preparation_options(data),
        "tokenizer": rules_sha256(rules_of(data)),
        "sources": {
            name: {
                "member": source.member,
                "files": [{"path": str(path.absolute()), "sha256": digests[path]} for path in source.paths],
            }
            for name, source in sources.items()
        },
    }


def preparation_options(data: DataConfig) -> dict[str, Any]:
    """Pick the options that a store depends on."""
    values = data.to_dict()
    return {name: values[name] for name in PREPARED_WITH}


def _whole_store(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a store that this version reads and nothing is missing of."""
    try:
        return check_files(folder)
    except DataError:
        return None


def _essence(values: dict[str, Any]) -> Any:
    """Return options, the rules of the tokenizer and contents of files, wherever these lie."""
    try:
        contents = {
            name: (source["member"], [file["sha256"] for file in source["files"]])
            for name, source in values["sources"].items()
        }
        # an option that came later was what it is by default
        options = {**preparation_options(DataConfig()), **values["options"]}
    except (KeyError, TypeError, AttributeError):  # of a manifest that was written by hand
        return None
    return options, values.get("tokenizer"), contents
