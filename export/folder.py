"""An exported folder: the artefact, what it is, and what raw text for it is to be read through.

    model.onnx ...   the artefact, see ARTEFACTS
    export.json      format version, format, task, kind, tables, labels, the vocabulary's sha256, ...: `Exported`
    tokenizer.json   that of the checkpoint: from text to ids

It is read without torch, and strictly, as a checkpoint is.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.data_prep.folders import readable
from spinn_tensor.data_prep.tokenizer import Tokenizer

FORMAT_VERSION = 1  # of export.json and of the metadata inside the artefact
EXPORT, TOKENIZER = "export.json", "tokenizer.json"
VERSION_KEY = "spinn_format_version"  # of the metadata inside the artefact
ARTEFACTS = {  # file of each format
    "onnx": "model.onnx",
    "onnx-fp16": "model.onnx",
    "onnx-int8": "model.onnx",
    "torchscript": "model.ts",
    "pt2": "model.pt2",
    "aoti": "model.aoti.pt2",
    "triton": "1/model.onnx",
}


class ArtefactError(ValueError):
    """An exported folder that cannot be used; its text is one line that names the file and what is wrong."""


class Exported(NamedTuple):
    """What export.json says, the format version aside."""

    format: str  # one of ARTEFACTS
    task: str  # "pair", "sentence" or "parse"
    kind: str  # of the encoder: "spinn", "spinn-pi", "spinn-pi-nt"
    tables: str  # what it composes by: "own" transitions, "given" ones, a "forest" schedule
    labels: list[str]  # names of the classes, in the order of the logits; none for a model that only parses
    branching: str | None  # trees that it was trained with, where these were made without a parser
    vocabulary_sha256: str
    max_length: int  # tokens of a sentence at most; 0 = any number
    hidden_dim: int  # H
    precision: str  # "float32", "float16" or "int8"
    folded: bool  # whether the words' leaf states are one table


def metadata(
    *,
    task: str,
    kind: str,
    tables: str,
    labels: Sequence[str],
    vocabulary_sha256: str,
    max_length: int,
    hidden_dim: int,
    precision: str,
    folded: bool,
) -> dict[str, str]:
    """What an artefact says of itself inside, where all values are text; the arguments are fields of `Exported`."""
    return {
        VERSION_KEY: str(FORMAT_VERSION),
        "task": task,
        "kind": kind,
        "tables": tables,
        "labels": json.dumps(list(labels), ensure_ascii=False),
        "vocabulary_sha256": vocabulary_sha256,
        "max_length": str(max_length),
        "hidden_dim": str(hidden_dim),
        "precision": precision,
        "folded": "true" if folded else "false",
    }


def metadata_of(exported: Exported) -> dict[str, str]:
    """What the artefact of an export.json says of itself."""
    fields = exported._asdict()
    del fields["format"], fields["branching"]  # of the folder, not of the artefact
    return metadata(**fields)


def write_export(folder: Path, exported: Exported, tokenizer: Tokenizer) -> None:
    """Writes export.json and tokenizer.json into a folder that is there."""
    content = {"format_version": FORMAT_VERSION, **exported._asdict()}
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / EXPORT).write_text(text + "\n", encoding="utf-8")
    tokenizer.save(folder / TOKENIZER)


def read_export(folder: str | Path) -> tuple[Exported, Tokenizer, Path]:
    """What the folder says of its artefact, its tokenizer, and the path of the artefact.

    Raises ArtefactError for a folder that is none, damaged, newer than this program, or whose vocabulary is another.
    """
    folder = readable(Path(folder))
    if not folder.is_dir():
        raise ArtefactError(f"{folder}: no such folder")
    exported = _checked(folder / EXPORT)
    try:
        tokenizer = Tokenizer.load(folder / TOKENIZER)
    except (DataError, OSError) as error:
        raise ArtefactError(str(error)) from error
    if tokenizer.vocabulary.sha256 != exported.vocabulary_sha256:
        raise ArtefactError(
            f"{folder / TOKENIZER}: not the vocabulary of the exported model "
            f"(sha256 {tokenizer.vocabulary.sha256[:12]}…, {EXPORT} says {exported.vocabulary_sha256[:12]}…)"
        )
    return exported, tokenizer, folder / ARTEFACTS[exported.format]


def _checked(path: Path) -> Exported:
    values = _read_object(path)
    version = values.pop("format_version", None)
    if type(version) is not int or version < 1:
        raise ArtefactError(f"{path}: format_version is {version!r}, expected a number from 1 on")
    if version > FORMAT_VERSION:
        raise ArtefactError(
            f"{path}: format version {version}; this program reads {FORMAT_VERSION}: update spinn_tensor"
        )
    for key in sorted(set(Exported._fields) ^ values.keys()):
        raise ArtefactError(f"{path}: key {key!r} is {'missing' if key in Exported._fields else 'unknown'}")
    for key, expected in typing.get_type_hints(Exported).items():
        if not _is_a(values[key], expected):
            raise ArtefactError(f"{path}: {key} is {values[key]!r:.60}, which it cannot be")
    for key, allowed in (("format", tuple(ARTEFACTS)), ("tables", ("own", "given", "forest"))):
        if values[key] not in allowed:
            raise ArtefactError(f"{path}: {key} is {values[key]!r:.60}, expected {' or '.join(allowed)}")
    return Exported(**values)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtefactError(f"{path.parent}: no exported model here ({path.name} is missing)") from None
    except OSError as error:
        raise ArtefactError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path}: not JSON") from error
    if not isinstance(values, dict):
        raise ArtefactError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def _is_a(value: Any, expected: Any) -> bool:
    if expected == list[str]:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if expected is int:
        return type(value) is int and value >= 0
    return isinstance(value, expected)
