"""What all artefacts of a model have in common, whatever their format: names, shapes, and what they say of themselves.

pair        premise_ids (batch, length) int64, premise_lengths (batch,) int64, hypothesis_ids, hypothesis_lengths
sentence    token_ids, lengths
parse       token_ids, lengths
given       and premise_transitions, hypothesis_transitions or transitions (batch, 2 length - 1) int64, -1 padding
forest      token_ids (tokens,) of all sentences, premises first; left_index, right_index (steps, width) int64 and
            root_index (sentences,) int64, of `data_prep.tables.forest_tables` with `padded`

-> logits (batch, classes), encodings or premise_encodings and hypothesis_encodings (batch, hidden), and of a model
   that parses transitions, or premise_transitions and hypothesis_transitions, as above
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spinn_tensor.export.folder import metadata
from spinn_tensor.model.classifiers import Model, SentenceParser

TABLE_KINDS = {"spinn": ("own", "given"), "spinn-pi": ("given",), "spinn-pi-nt": ("forest",)}

Arrays = dict[str, np.ndarray]
Candidate = Callable[[Arrays], Arrays]  # an artefact that runs: inputs and outputs by name


class ExportError(ValueError):
    """A model that cannot be exported as asked, or an artefact that is not what it should be. One line."""


def check_exportable(model: Model, table_kind: str) -> None:
    """Raises ExportError for a model that has no artefact on tables of this kind, or whose weights are no numbers."""
    kind = model.config.encoder.kind
    if kind not in TABLE_KINDS:
        raise ExportError(f"an encoder of kind {kind!r} is not exported; only {', '.join(TABLE_KINDS)} are")
    if table_kind not in TABLE_KINDS[kind]:
        raise ExportError(
            f"an encoder of kind {kind!r} runs on {' or '.join(TABLE_KINDS[kind])}, not {table_kind!r}"
        )
    if table_kind == "given" and isinstance(model, SentenceParser):
        raise ExportError("a model that only parses has nothing to do with given transitions")
    if table_kind == "forest" and model.encoder.leaves.lstm is not None:
        raise ExportError("leaf_encoder 'bilstm' is not exported without a tracker")
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise ExportError(
                f"tensor {name!r} of the model holds NaN or infinity: there is nothing to export"
            )


def default_tables(model: Model) -> str:
    """The kind of graph that a model was trained for."""
    kind = model.config.encoder.kind
    return TABLE_KINDS[kind][0] if kind in TABLE_KINDS else "sequence"


def sides_of(task: str) -> tuple[str, ...]:
    """Prefixes of names: one for each sentence of an example."""
    return ("premise_", "hypothesis_") if task == "pair" else ("",)


def input_axes(task: str, table_kind: str) -> dict[str, tuple[str, ...]]:
    """Names of the inputs, in order, with the names of their axes."""
    if table_kind == "forest":
        schedule = ("steps", "width")
        return {
            "token_ids": ("tokens",),
            "left_index": schedule,
            "right_index": schedule,
            "root_index": ("sentences",),
        }
    axes: dict[str, tuple[str, ...]] = {}
    for side in sides_of(task):
        axes |= {side + ("ids" if side else "token_ids"): ("batch", "length"), f"{side}lengths": ("batch",)}
    if table_kind == "given":
        axes |= {f"{side}transitions": ("batch", "transitions") for side in sides_of(task)}
    return axes


def output_axes(task: str, table_kind: str) -> dict[str, tuple[str, ...]]:
    """Names of the outputs, in order, with the names of their axes."""
    batch = "sentences" if table_kind == "forest" and task != "pair" else "batch"
    axes: dict[str, tuple[str, ...]] = {} if task == "parse" else {"logits": (batch, "classes")}
    axes |= {f"{side}encodings": (batch, "hidden") for side in sides_of(task)}
    if table_kind == "own":
        axes |= {f"{side}transitions": (batch, "transitions") for side in sides_of(task)}
    return axes


def describe(
    model: Model,
    *,
    tables: str | None,  # None = what the model was trained with
    fold_leaves: bool,
    vocabulary_sha256: str,
    max_length: int,  # tokens of a sentence at most; 0 = any number
    precision: str = "float32",
) -> dict[str, str]:
    """What an artefact says of itself, beside its tensors."""
    config = model.config
    return metadata(
        task=config.task,
        kind=config.encoder.kind,
        tables=default_tables(model) if tables is None else tables,
        labels=config.labels,
        vocabulary_sha256=vocabulary_sha256,
        max_length=max_length,
        hidden_dim=config.encoder.hidden_dim,
        precision=precision,
        folded=fold_leaves,
    )


def of_arrays(
    run: Callable[..., dict[str, Tensor]],  # inputs by name
) -> Candidate:
    """What torch runs, as a function of arrays."""

    def of_arrays(inputs: Arrays) -> Arrays:
        with torch.no_grad():
            outputs = run(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: output.numpy() for name, output in outputs.items()}

    return of_arrays


@contextmanager
def exporting(model: Model, form: str) -> Iterator[None]:
    """Raises ExportError naming the format and the model for whatever an exporter raises within.

    A package that is missing, a full disk and memory that ran out are passed on as they are.
    """
    try:
        yield
    except (ExportError, ImportError, MemoryError, OSError):
        raise
    except Exception as error:
        named = f"{form} of this model (task {model.config.task}, kind {model.config.encoder.kind})"
        raise ExportError(
            f"torch {torch.__version__} cannot make the {named}: {first_line(error)}"
        ) from error


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """Raises ExportError naming the file for whatever is raised within: torch's readers say what they miss first."""
    try:
        yield
    except Exception as error:
        raise ExportError(f"{path}: not a readable {what}: {first_line(error)}") from error


def require_ours(path: str | Path, found: Any, what: str) -> None:
    """Raises ExportError for a file without what all of ours have."""
    if not found:
        raise ExportError(f"{path}: no {what} in it: not written by spinn_tensor")


def first_line(error: Exception) -> str:
    """Of its text; or its name."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
