"""One export: a checkpoint in, a folder with an artefact that was held against the model out, whole or not at all."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spinn_tensor.data_prep.folders import write_folder
from spinn_tensor.data_prep.paths import expanded
from spinn_tensor.export.artefact import (
    ARTEFACTS,
    EXPORT,
    PARSER,
    TOKENIZER,
    ArtefactError,
    Exported,
    read_export,
    write_export,
)
from spinn_tensor.export.interface import Candidate
from spinn_tensor.export.parity import TOLERANCES, ParityReport, compare, random_cases, require
from spinn_tensor.export.session import INSTALL, onnx_function
from spinn_tensor.export.triton import (
    CONFIG,
    FRONT,
    FRONT_CODE,
    FRONT_MODEL,
    LABELS,
    VERSION,
    check_front,
    check_repository,
    has_triton_schema,
    write_front,
    write_repository_files,
)
from spinn_tensor.model.classifiers import Checkpoint, Model

OURS = {*ARTEFACTS.values(), EXPORT, TOKENIZER, CONFIG, LABELS}  # what an exported folder may hold
OURS |= {f"{parent}/{name}" for parent in (PARSER, f"{VERSION}/{PARSER}") for name in OURS}
OURS_IN_FRONT = {CONFIG, LABELS, FRONT_MODEL}


def export_folder(
    checkpoint: Checkpoint,
    output: Path,  # a new or empty folder, or one of an earlier export, which is replaced
    exported: Exported,  # what is to be written, of `describe`
    name: str,  # of the model in a Triton repository
    tell: Callable[[str], object],  # told what is being done
    parser: tuple[Checkpoint, Exported] | None,  # makes trees for text: a folder in the folder
) -> ParityReport:
    """Write the folder: of format "triton" a model of the repository `output` and its text front, else `output` itself.

    The artefact is run and held against the model before anything takes its name. Raises ExportError for a model that
    has no such artefact, ParityError for an artefact that disagrees, ArtefactError for an output that holds other
    files or a package that is missing; OSError names the folder.
    """
    is_triton = exported.format == "triton"
    folder = Path(os.path.realpath(expanded(output) / (name if is_triton else ".")))
    front = Path(os.path.realpath(expanded(output) / (name + FRONT)))
    _check_packages(exported.format)
    _check_output(folder)
    if is_triton:
        _check_output(front, is_front=True)
    report: list[ParityReport] = []

    def fill(temporary: Path) -> None:
        report.append(_fill(temporary, checkpoint, exported, name, tell))
        if parser is not None:
            beside = (temporary / ARTEFACTS[exported.format]).with_name(PARSER)
            beside.mkdir()
            _fill(beside, *parser, PARSER, tell)

    def fill_front(temporary: Path) -> None:
        write_front(temporary, name, exported)
        if has_triton_schema():
            check_front(temporary, name)
        write_folder(folder, fill)  # what takes long and may fail, before the front has its name

    with _whole_or_nothing(folder):
        write_folder(front, fill_front) if is_triton else write_folder(folder, fill)
    return report[0]


def _fill(
    folder: Path, checkpoint: Checkpoint, exported: Exported, name: str, tell: Callable[[str], object]
) -> ParityReport:
    """Write an artefact and what describes it into a folder that is there, and hold it against the model."""
    path = folder / ARTEFACTS[exported.format]
    path.parent.mkdir(exist_ok=True)
    tell(f"writing {path.name}" if name != PARSER else f"writing {PARSER}/{path.name}")
    candidate = write_artefact(checkpoint.model, path, exported)
    write_export(folder, exported, checkpoint.tokenizer)
    if exported.format == "triton":
        write_repository_files(folder, name, exported)
        if has_triton_schema():
            check_repository(folder, name)
            tell("config.pbtxt is as Triton's schema and the ONNX file have it")
        else:
            tell("config.pbtxt is not checked: pip install 'tritonclient[grpc]' for Triton's schema")
    read_export(folder)  # as whoever uses it will
    tell("running it against the model")
    cases = random_cases(checkpoint.model, tables=exported.tables)
    report = compare(checkpoint.model, candidate, cases, tables=exported.tables)
    require(report, TOLERANCES[exported.precision])
    return report


def write_artefact(
    model: Model,
    path: Path,
    exported: Exported,  # of `describe`
) -> Candidate:
    """Write the artefact and read it back as what runs it. Each format imports its own exporter alone.

    Raises what that exporter does.
    """
    if exported.format == "torchscript":
        from spinn_tensor.export.scripts import export_torchscript, load_torchscript

        export_torchscript(model, path, exported)
        return load_torchscript(path)
    if exported.format in ("pt2", "aoti"):
        from spinn_tensor.export import programs

        is_package = exported.format == "aoti"
        (programs.export_aoti if is_package else programs.export_program)(model, path, exported)
        return (programs.load_aoti if is_package else programs.load_program)(path)
    from spinn_tensor.export.onnx_file import export_onnx

    export_onnx(model, path, exported)
    return onnx_function(path)


def _check_packages(format_name: str) -> None:
    """Raise ArtefactError where one is missing that the format needs."""
    needed = ("onnx", "onnxscript", "onnxruntime") if ARTEFACTS[format_name].endswith(".onnx") else ()
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ArtefactError(f"format {format_name} needs {' and '.join(missing)}: {INSTALL}")


def _check_output(folder: Path, is_front: bool = False) -> None:
    """Raise ArtefactError for what an export must not replace, or a text front, as one that somebody else wrote."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ArtefactError(f"{folder}: a file, expected a folder")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if is_front:
        names = {name for name in names if "__pycache__/" not in name}  # which Triton leaves
        is_ours = FRONT_MODEL in names and (folder / FRONT_MODEL).read_bytes() == FRONT_CODE.encode()
    else:
        is_ours = EXPORT in names
    others = sorted(names - (OURS_IN_FRONT if is_front else OURS) if is_ours else names)
    if others:
        raise ArtefactError(f"{folder}: holds other files ({others[0]}); name a new folder")


@contextmanager
def _whole_or_nothing(folder: Path) -> Iterator[None]:
    """Remove the folders made on the way to `folder` on an error, and have an OSError name it."""
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        yield
    except BaseException as error:
        for parent in made:
            with suppress(OSError):  # somebody else's files may be in it by now
                parent.rmdir()
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(folder)) from error
        raise
