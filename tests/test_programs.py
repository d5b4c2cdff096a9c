"""torch.export programs and AOTInductor packages: equal to their models, run by torch alone, whole or not there."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._inductor import config as inductor_config

from spinn_tensor.export.interface import ExportError, describe
from spinn_tensor.export.job import write_artefact
from spinn_tensor.export.parity import random_cases, reference
from spinn_tensor.export.programs import export_aoti, load_aoti, load_program
from tests.artefacts import SAID, assert_equal, run_alone
from tests.contract import Artefact, ArtefactContract
from tests.processes import run_program
from tests.tiny_models import exports_lanes, tiny_model

ROOT = Path(__file__).resolve().parents[1]

# task, kind, tables, leaf encoder, leaves folded
PROGRAMS = [
    ("parse", "spinn", "own", "projection", False),
    ("pair", "spinn-pi", "given", "projection", False),
    ("pair", "spinn-pi-nt", "forest", "projection", True),
    ("pair", "spinn", "own", "bilstm", False),
    ("sentence", "spinn", "given", "bilstm", False),
    ("sentence", "spinn-pi-nt", "forest", "projection", False),
    ("pair", "bilstm", "sequence", "projection", False),
    ("sentence", "bow", "sequence", "projection", True),
    ("sentence", "lstm", "sequence", "bilstm", False),
]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
# form, marks: the compiler of packages takes a minute or two for each
QUICK = [PROGRAMS[0], PROGRAMS[2], PROGRAMS[-2]]
FORMS = [("pt2", QUICK, [])]
FORMS += [("pt2", [case for case in PROGRAMS if case not in QUICK], [pytest.mark.slow])]
FORMS += [("aoti", PROGRAMS, [pytest.mark.slow, needs_compiler])]
CASES = [
    pytest.param(
        (form, *case), marks=[*marks, *([] if case[2] in ("forest", "sequence") else [exports_lanes])]
    )
    for form, cases, marks in FORMS
    for case in cases
]
LOADING = {
    "pt2": "torch.export.load(sys.argv[1]).module()",
    "aoti": "torch._inductor.aoti_load_package(sys.argv[1])",
}


@pytest.fixture(scope="module")
def made_of(tmp_path_factory) -> Callable[..., Artefact]:
    """Return what makes a program or a package, once, and reads it from its file."""

    @cache
    def make(form, task, kind, tables, leaf_encoder, folded) -> Artefact:
        model = tiny_model(task, kind, leaf_encoder=leaf_encoder).double()
        path = tmp_path_factory.mktemp("program") / f"model.{form}.pt2"
        run = write_artefact(model, path, describe(model, form, tables=tables, fold_leaves=folded, **SAID))
        return Artefact(model, tables, run, path)

    return make


@pytest.fixture(scope="module", params=CASES, ids=str)
def artefact(request, made_of) -> Artefact:
    return made_of(*request.param)


class TestPrograms(ArtefactContract):
    """Expect programs, and packages of compiled code, to hold none of ours."""

    @pytest.mark.slow
    def test_torch_alone_runs_it(self, artefact: Artefact, monkeypatch) -> None:
        model, tables, _, path = artefact
        monkeypatch.setenv("AOTI_RUNTIME_CHECK_INPUTS", "1")
        check_alone(model, tables, path, path.name.split(".")[1])


def check_alone(model, tables: str, path: Path, form: str) -> None:
    """Run a file in a process that finds none of our packages, and look for code of ours in it."""
    case = next(random_cases(model, tables=tables, batch_sizes=(1,)))
    run_alone(LOADING[form], path.parent, path.name, case.inputs)
    assert_equal(dict(np.load(path.parent / "outputs.npz")), reference(model, case, tables))
    with zipfile.ZipFile(path) as archive:
        assert form != "pt2" or not [name for name in archive.namelist() if name.endswith(".py")]


def test_the_file_says_what_it_is_and_other_files_are_refused(made_of, tmp_path) -> None:
    model, _, _, path = made_of("pt2", *PROGRAMS[2])
    check_alone(model, "forest", path, "pt2")
    extra = {"export.json": ""}
    torch.export.load(path, extra_files=extra)
    said = json.loads(extra["export.json"])
    assert (said["kind"], said["tables"], said["vocabulary_sha256"]) == ("spinn-pi-nt", "forest", "0123abc")
    (tmp_path / "broken.pt2").write_bytes(path.read_bytes()[:1000])
    other = torch.export.export(torch.nn.ReLU(), (torch.zeros(2),))
    torch.export.save(other, tmp_path / "other.pt2")
    for name, reason in (
        ("broken", "not a readable"),
        ("missing", "not a readable"),
        ("other", "not written by"),
    ):
        with pytest.raises(ExportError, match=rf"{name}\.pt2: .*{reason}") as error:
            load_program(tmp_path / f"{name}.pt2")
        assert "\n" not in str(error.value)
    with pytest.raises(ExportError, match=r"model\.pt2\.pt2: not a readable AOTInductor package"):
        load_aoti(path)


def test_a_package_needs_a_compiler(tmp_path) -> None:
    model = tiny_model("sentence", "spinn-pi-nt")
    no_compiler = inductor_config.patch({"cpp.cxx": ("no-such-compiler",)})
    with no_compiler, pytest.raises(ExportError, match="needs a C\\+\\+ compiler: install g\\+\\+"):
        export_aoti(model, tmp_path / "model.aoti.pt2", describe(model, "aoti", **SAID))


@pytest.mark.slow
def test_a_program_made_after_an_onnx_file_takes_any_sizes(tmp_path) -> None:
    """In a process of its own: `scan` keeps what it compiled for the file, and with it the sizes it would refuse."""
    pytest.importorskip("onnxscript")
    program = """
import sys
from pathlib import Path
from spinn_tensor.export.interface import describe
from spinn_tensor.export.onnx_file import export_onnx
from spinn_tensor.export.parity import compare, random_cases, require
from spinn_tensor.export.programs import export_program, load_program
from tests.tiny_models import tiny_model

folder = Path(sys.argv[1])
model = tiny_model("pair", "spinn-pi-nt")
export_onnx(model, folder / "model.onnx", describe(model))
export_program(model, folder / "model.pt2", describe(model, "pt2"))
require(compare(model, load_program(folder / "model.pt2"), random_cases(model, batch_sizes=(1, 3))))
"""
    run_program(program, tmp_path)
