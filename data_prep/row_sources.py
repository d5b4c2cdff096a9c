"""Rows of tables that are no text: of Arrow's forms, of `datasets`, of the hub, and of Python's objects."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.files import Record, read_json_object
from spinn_tensor.data_prep.paths import StrPath, expanded

N_ROWS = 1024  # that are Python objects at a time
HUB = "hf:/"  # of hf://, as `pathlib` leaves it
_DICT = "dataset_dict.json"
_DATASET = ("state.json", "dataset_info.json", _DICT)  # of which `save_to_disk` writes one
_HUB_BEGIN = re.compile(r"hf:/+")
_HUB_NAME = re.compile(r"hf:/+([\w.-]+/[\w.-]+|[\w.-]+)(?:/([\w.-]+))?:([\w.-]+)")


def is_hub_name(source: StrPath) -> bool:
    """Tell whether a path stands for a dataset of the Hugging Face Hub."""
    return os.fspath(source).startswith(HUB)


def is_dataset_folder(source: StrPath) -> bool:
    """Tell whether `datasets` has saved to this folder."""
    return any((expanded(source) / name).is_file() for name in _DATASET)


def splits_in(folder: Path) -> list[str]:
    """Return the names of the datasets in a folder of several; [] if it is of one, or none. Raises DataError."""
    if not (path := folder / _DICT).is_file():
        return []
    if not isinstance(names := read_json_object(path).get("splits"), list):
        raise DataError("expected a list", path=path, field="splits")
    return list(map(str, names))


def rows_of(source: Any) -> Iterator[Any]:
    """Yield the rows of a dataset's folder, a name of the hub, or an object. Raises DataError."""
    if isinstance(source, (str, os.PathLike)):
        yield from _rows_of_dataset(
            _from_hub(source) if is_hub_name(source) else _from_folder(expanded(source))
        )
    elif hasattr(source, "iloc") and not hasattr(source, "columns"):  # a column of pandas
        yield from source
    elif hasattr(source, "iloc"):  # pandas, whose columns may have values of several types
        for start in range(0, len(source), N_ROWS):
            part = source.iloc[start : start + N_ROWS]
            yield from part.astype(object).where(part.notna(), None).to_dict("records")
    elif hasattr(source, "features") and hasattr(source, "with_format"):
        yield from _rows_of_dataset(source)
    elif hasattr(source, "__arrow_c_stream__"):
        import pyarrow as pa

        reader = pa.RecordBatchReader.from_stream(source)
        yield from _rows(reader.schema, reader)
    elif isinstance(source, Iterable) and not isinstance(source, dict):
        yield from source
    else:
        kind = type(source).__name__
        raise DataError(f"got {kind}, expected one dataset, a table, or an iterable of dicts")


def rows_in_arrow(
    file: IO[bytes],
    head: bytes,  # its first bytes
) -> Iterator[Record]:
    """Yield the rows of a Parquet file, or of one of Arrow's own forms. Raises DataError."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if head.startswith(b"PAR1"):
            table = parquet.ParquetFile(file)
            yield from _rows(table.schema_arrow, table.iter_batches(N_ROWS))
        elif head.startswith(b"ARROW1"):
            reader = pa.ipc.open_file(file)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
            yield from _rows(reader.schema, batches)
        else:
            stream = pa.ipc.open_stream(file)
            yield from _rows(stream.schema, stream)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise DataError(f"not a whole file of Parquet or Arrow: {error}") from error


def sha256_of_rows(source: StrPath) -> str:
    """Return the hex digest of a dataset's folder, or of what the hub has under a name. Raises DataError."""
    if is_hub_name(source):
        return hashlib.sha256(str(_from_hub(source)._fingerprint).encode()).hexdigest()
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(source).rglob("*") if path.is_file()):
        if path.suffix == ".arrow" or path.name in _DATASET:
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(source).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def class_names(schema: Any) -> dict[str, list[str]]:
    """Return the names of the classes of each column that has some, which `datasets` writes beside an Arrow schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: list(map(str, feature["names"]))
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and "names" in feature
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _rows(
    schema: Any,
    batches: Iterable[Any],  # record batches, or tables
) -> Iterator[Record]:
    classes, number = class_names(schema), 0
    for batch in batches:
        for start in range(0, batch.num_rows, N_ROWS):
            part = batch.slice(start, N_ROWS)
            try:
                rows = part.to_pylist()
            except (ValueError, OverflowError) as error:
                raise _not_in_python(part, number, error) from error
            number += len(rows)
            for row in rows:
                for field, names in classes.items():
                    row[field] = _class_name(row.get(field), names)
                yield row


def _not_in_python(
    part: Any,  # a record batch, or table
    number: int,  # of the row before it
    error: Exception,
) -> DataError:
    """Name the first cell that Python has no value for, as a time in the year 10000, or no text in UTF-8."""
    for row, field in itertools.product(range(part.num_rows), part.schema.names):
        try:
            part.column(field)[row].as_py()
        except (ValueError, OverflowError) as found:
            return DataError(f"cannot be read: {found}", line=number + row + 1, field=field)
    return DataError(f"cannot be read: {error}")


def _class_name(label: Any, names: list[str]) -> Any:
    """Return the name of a class; None for none, which `datasets` has as -1."""
    if not isinstance(label, int) or isinstance(label, bool) or label >= len(names):
        return label
    return names[label] if label >= 0 else None


def _rows_of_dataset(dataset: Any) -> Iterator[Record]:
    schema = None if dataset.features is None else dataset.features.arrow_schema
    if hasattr(dataset, "__getitem__"):
        yield from _rows(schema, dataset.with_format("arrow").iter(batch_size=N_ROWS))
        return
    classes = {} if schema is None else class_names(schema)  # of a stream
    for row in dataset:
        yield {
            name: _class_name(cell, classes[name]) if name in classes else cell for name, cell in row.items()
        }


def _from_folder(folder: Path) -> Any:
    import datasets

    if names := splits_in(folder):
        raise DataError(f"holds several datasets, {', '.join(names)}: name one, {folder / names[0]}")
    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever Arrow, JSON or the file system say
        raise DataError(f"not a dataset that can be read: {error}", path=folder) from error


def _from_hub(name: StrPath) -> Any:
    import datasets

    shown = _HUB_BEGIN.sub("hf://", os.fspath(name))
    if not (found := _HUB_NAME.fullmatch(os.fspath(name))):
        raise DataError("expected hf://NAME:SPLIT, or hf://NAME/CONFIG:SPLIT", path=shown)
    dataset, config, split = found.groups()
    try:
        return datasets.load_dataset(dataset, config, split=split)
    except Exception as error:  # of the network, the hub, or for a name that it does not have
        first = str(error).strip().partition("\n")[0]
        raise DataError(f"cannot be loaded: {first}", path=shown) from error
