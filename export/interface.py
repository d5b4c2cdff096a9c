"""What every exporter asks of a model, and what every artefact that runs is: a function of arrays by name."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spinn_tensor.data_prep.errors import SpinnError
from spinn_tensor.data_prep.penn import DEFAULT_BINARIZE
from spinn_tensor.export.artefact import PRECISIONS, Exported
from spinn_tensor.model.cells import Tracker
from spinn_tensor.model.classifiers import Model, SentenceParser
from spinn_tensor.model.machine import StackMachine

TABLE_KINDS = {
    "spinn": ("own", "given"),
    "spinn-pi": ("given",),
    "spinn-pi-nt": ("forest",),
    "lstm": ("sequence",),
    "bilstm": ("sequence",),
    "bow": ("sequence",),
}

Arrays = dict[str, np.ndarray]
Candidate = Callable[[Arrays], Arrays]  # an artefact that runs: inputs and outputs by name


class ExportError(SpinnError, ValueError):
    """Raised for a model that cannot be exported as asked, or an artefact that is not what it should be. One line."""


def check_exportable(model: Model, table_kind: str) -> None:
    """Raise ExportError for a model that has no artefact on tables of this kind, or weights or labels that are none."""
    kind, machine = model.config.encoder.kind, model.encoder.composer
    for setting, name in model.config.own_classes.items():
        if setting != "cell":
            raise ExportError(f"{setting} {name!r} is not exported, only the package's own are")
    if isinstance(machine, StackMachine) and type(machine.tracker) not in (Tracker, type(None)):
        raise ExportError(
            f"tracker {type(machine.tracker).__name__} is not exported, only {Tracker.__name__} is"
        )
    if model.encoder.policy is not None and model.config.encoder.cell != "treelstm":
        raise ExportError("with a policy of its own only cell 'treelstm' is exported")
    if table_kind not in TABLE_KINDS[kind]:
        raise ExportError(
            f"an encoder of kind {kind!r} runs on {' or '.join(TABLE_KINDS[kind])}, not {table_kind!r}"
        )
    if table_kind == "given" and isinstance(model, SentenceParser):
        raise ExportError("a model that only parses has nothing to do with given transitions")
    if table_kind == "forest" and model.encoder.leaves.lstm is not None:
        raise ExportError("leaf_encoder 'bilstm' is not exported without a tracker")
    for label in model.config.labels:
        if "".join(label.splitlines()) != label:  # of which labels.txt has one a line
            raise ExportError(f"label {label!r}: expected one line without its end")
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise ExportError(
                f"tensor {name!r} of the model holds NaN or infinity: there is nothing to export"
            )


def default_tables(model: Model) -> str:
    """Return the kind of tables that a model was trained with."""
    return TABLE_KINDS[model.config.encoder.kind][0]


def describe(
    model: Model,
    form: str = "onnx",  # one of ARTEFACTS
    *,
    tables: str | None = None,  # one of TABLE_KINDS of the kind; None = what the model was trained with
    fold_leaves: bool = False,  # embedding, projection and batch norm as one table
    max_length: int = 0,  # tokens of a sentence at most, for those who read it; 0 = any number
    vocabulary_sha256: str = "",
    branching: str | None = None,  # this and what follows: see `Exported`
    parser_of_all: bool = False,
    binarize: str = DEFAULT_BINARIZE,
) -> Exported:
    """Return the description of an artefact of a model, which says all that its exporter has to know.

    Raises ExportError as `check_exportable`, and ConfigError for a format that there is not.
    """
    config = model.config
    tables = default_tables(model) if tables is None else tables
    check_exportable(model, tables)
    return Exported(
        format=form,
        task=config.task,
        kind=config.encoder.kind,
        tables=tables,
        labels=list(config.labels),
        branching=branching,
        parser_of_all=parser_of_all,
        binarize=binarize,
        vocabulary_sha256=vocabulary_sha256,
        max_length=max_length,
        hidden_dim=model.encoder.output_dim,
        precision=PRECISIONS.get(form, "float32"),
        folded=fold_leaves,
    )


def of_arrays(
    run: Callable[..., dict[str, Tensor]],  # inputs by name
) -> Candidate:
    """Make what torch runs a function of arrays in any memory: a package of AOTInductor looks at no strides."""

    def candidate(inputs: Arrays) -> Arrays:
        whole = {
            name: array.astype(np.int64, order="C", casting="safe", copy=False)
            for name, array in inputs.items()
        }
        with torch.no_grad():
            outputs = run(**{name: torch.from_numpy(array) for name, array in whole.items()})
        return {name: output.numpy() for name, output in outputs.items()}

    return candidate


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch and the exporters say of themselves and of each other."""
    names = (
        "torch.onnx",
        "torch.export",
        "torch.fx.experimental.symbolic_shapes",
        "torch._subclasses.fake_tensor",
    )
    loggers = [logging.getLogger(name) for name in (*names, "root")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "# The axis name: .* will not be used")
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)  # deprecated pytrees
        # at every call, that torch.export is to be preferred
        warnings.filterwarnings("ignore", ".*torch.jit.*")
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)  # torch 2.11
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def exporting(model: Model, form: str) -> Iterator[None]:
    """Raise ExportError naming the format and the model for whatever an exporter raises within.

    A package that is missing, a full disk and memory that ran out are passed on as they are.
    """
    try:
        with quiet():
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
    """Raise ExportError naming the file for whatever is raised within: torch's readers say what they miss first."""
    try:
        with quiet():
            yield
    except Exception as error:
        raise ExportError(f"{path}: not a readable {what}: {first_line(error)}") from error


def require_ours(path: str | Path, found: Any, what: str) -> None:
    """Raise ExportError for a file without what all of ours have."""
    if not found:
        raise ExportError(f"{path}: no {what} in it: not written by spinn_tensor")


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, of torch.export's that which names a guard; or its name."""
    lines = str(error).strip().splitlines()
    guards = (line.strip(" -") for line in lines if line.startswith("  - Not all values"))
    return next(guards, lines[0] if lines else type(error).__name__)
