"""Which files are which split of a corpus.

--data FOLDER     the files that the corpus's publisher, or its generator, put there, plain or compressed, and of
                  records in any form; or a folder of several datasets that `datasets` has saved
--data FILE.zip   the publisher's own archive
--train FILE ...  any files in the corpus's format, instead
--dev-fraction    a part of the training files is dev, where there is no dev file
"""

from __future__ import annotations

import itertools
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from spinn_tensor.data_prep.archives import COMPRESSED
from spinn_tensor.data_prep.corpora.config import DataConfig
from spinn_tensor.data_prep.corpora.kinds import KINDS
from spinn_tensor.data_prep.errors import DataError, DataWarning, NoExamples
from spinn_tensor.data_prep.record_files import FORMS
from spinn_tensor.data_prep.row_sources import splits_in

NEEDED = ("train", "dev")
PACKED = (*COMPRESSED, ".zip")
_DATASET_SPLITS = {"validation": "dev", "valid": "dev"}  # what others call the splits


class Source(NamedTuple):
    """Name files of examples, read one after another, or one file in an archive."""

    paths: tuple[Path, ...]
    member: str | None = None  # only in a .zip
    part: str | None = None  # "train" or "dev": of --dev-fraction, which of the examples; None = all


def split_sources(data: DataConfig) -> dict[str, Source]:
    """Find which file is which split. Raises DataError if train or dev is missing."""
    sources: dict[str, Source] = {}
    given = {"train": data.train, "dev": data.dev, "test": data.test}
    if data.data is not None:
        sources.update(_published(data.corpus, Path(data.data)))
    sources.update({name: Source(tuple(map(Path, files))) for name, files in given.items() if files})
    if data.dev_fraction:
        sources = _with_held_out(sources)
    for name in NEEDED:
        if name not in sources and data.data is not None:
            expected = KINDS[data.corpus].files[name][0]
            others = (
                f"{', '.join(PACKED)} of it{', nor a table of records' * bool(_other_endings(data.corpus))}"
            )
            reason = f"no {expected} (nor {others}) in it; --{name} FILE names another{_or_fraction(name)}"
            raise DataError(reason, path=data.data)
        if name not in sources:
            other = f", or --data with the folder of the corpus{_or_fraction(name)}"
            raise DataError(f"no {name} file: give --{name} FILE{other}")
    return sources | extra_sources(data, sources)


def _or_fraction(name: str) -> str:
    return "; --dev-fraction 0.1 takes a part of the training examples" if name == "dev" else ""


def _with_held_out(sources: Mapping[str, Source]) -> dict[str, Source]:
    """Make dev a part of the training files. Raises DataError where there is a dev file."""
    if "dev" in sources:
        paths = ", ".join(map(str, sources["dev"].paths))
        raise DataError(
            "for a corpus without a dev file; this one has one", path=paths, field="--dev-fraction"
        )
    if "train" not in sources:
        return dict(sources)
    train = sources["train"]
    return {**sources, "train": train._replace(part="train"), "dev": train._replace(part="dev")}


def extra_sources(data: DataConfig, others: Mapping[str, object]) -> dict[str, Source]:
    """Return the splits of --extra. Raises DataError for a name that another split has."""
    sources: dict[str, Source] = {}
    for entry in data.extra:
        name, _, file = entry.partition("=")
        if name in others or name in sources:
            raise DataError(f"the corpus has a split {name!r} already", field=f"--extra {entry}")
        sources[name] = Source((Path(file),))
    return sources


def is_left_out(data: DataConfig, name: str, error: NoExamples) -> bool:
    """Tell whether a split without examples is left out, as a test set is whose labels are withheld; warn if so.

    A split that training needs, or that was asked for by itself, is never left out.
    """
    asked = {*NEEDED, *(["test"] if data.test else []), *(entry.partition("=")[0] for entry in data.extra)}
    if name not in asked:
        warnings.warn(f"{error}: left out", DataWarning, stacklevel=2)
    return name not in asked


def archive_source(corpus: str, path: Path, split: str) -> Source:
    """Find a split in the publisher's archive. Raises DataError for a corpus, or a split, that has none."""
    kind = KINDS[corpus]
    if not kind.folder:
        raise DataError(f"--corpus {corpus} is not read from an archive", path=path)
    if split not in kind.files:
        raise DataError(f"no split {split!r}, expected one of {', '.join(kind.files)}", path=path)
    return Source((path,), f"{kind.folder}/{kind.files[split][0]}")


def _published(corpus: str, path: Path) -> dict[str, Source]:
    if path.suffix == ".zip" and KINDS[corpus].folder:
        return {split: archive_source(corpus, path, split) for split in _splits_in(corpus, path)}
    if not path.is_dir():
        is_file = "expected a folder; --train and --dev take files"
        raise DataError(is_file if path.exists() else "no such folder", path=path)
    kind = KINDS[corpus]
    if datasets := splits_in(path):
        return {_DATASET_SPLITS.get(name, name): Source((path / name,)) for name in datasets}
    found = {}
    for split, names in kind.files.items():
        stems = [os.path.splitext(name)[0] for name in names]
        in_other_forms = [stem + ending for stem in stems for ending in _other_endings(corpus)]
        candidates = [
            place / (name + ending)
            for place in dict.fromkeys((path, path / kind.folder))
            for name in dict.fromkeys((*names, *in_other_forms))
            for ending in ("", *PACKED)
        ]
        if existing := [candidate for candidate in candidates if candidate.is_file()]:
            found[split] = Source((existing[0],))
    return found


def _other_endings(corpus: str) -> tuple[str, ...]:
    """Return the endings of files that may be there instead, where the corpus is made of records."""
    names = itertools.chain.from_iterable(KINDS[corpus].files.values())
    return (*FORMS, ".txt") if any(name.endswith(".jsonl") for name in names) else ()


def _splits_in(corpus: str, path: Path) -> list[str]:
    """Find those splits that training needs, and what else is there."""
    kind = KINDS[corpus]
    try:
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return list(kind.files)  # whoever reads it says what is wrong
    return [
        split
        for split, names in kind.files.items()
        if split in NEEDED or f"{kind.folder}/{names[0]}" in members
    ]
