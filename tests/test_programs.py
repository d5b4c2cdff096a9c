"""torch.export programs and AOTInductor packages: equal to their models, run by torch alone, whole or not there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._inductor import config as inductor_config

from spinn_tensor.data_prep.errors import DataError
from spinn_tensor.export.artefact import output_axes
from spinn_tensor.export.interface import ExportError, describe
from spinn_tensor.export.parity import compare, random_cases, reference, require
from spinn_tensor.export.programs import export_aoti, export_program, load_aoti, load_program, program
from tests.artefacts import SAID, assert_equal, run_alone
from tests.closeness import EXACT
from tests.tiny_models import exports_lanes, tiny_model

pytestmark = pytest.mark.numerical

ROOT = Path(__file__).resolve().parents[1]

# task, kind, tables, leaf encoder
PROGRAMS = [
    ("parse", "spinn", "own", "projection"),
    ("pair", "spinn-pi", "given", "projection"),
    ("pair", "spinn-pi-nt", "forest", "projection"),
    ("pair", "spinn", "own", "bilstm"),
    ("sentence", "spinn", "given", "bilstm"),
    ("sentence", "spinn-pi-nt", "forest", "projection"),
]
PROGRAMS = [
    pytest.param(*names, marks=[] if names[1] == "spinn-pi-nt" else exports_lanes) for names in PROGRAMS
]
SLOWLY = [pytest.param(*case.values, marks=[*case.marks, pytest.mark.slow]) for case in PROGRAMS[3:]]

PROGRAM_ALONE = "torch.export.load(sys.argv[1]).module()"
PACKAGE_ALONE = "torch._inductor.aoti_load_package(sys.argv[1])"


@pytest.mark.parametrize("task, kind, tables, leaf_encoder", [*PROGRAMS[:3], *SLOWLY])
def test_a_program_says_what_its_model_says(task, kind, tables, leaf_encoder, tmp_path) -> None:
    model = tiny_model(task, kind, leaf_encoder=leaf_encoder).double()
    export_program(model, tmp_path / "model.pt2", describe(model, "pt2", tables=tables, **SAID))
    run = load_program(tmp_path / "model.pt2")
    case = next(random_cases(model, tables=tables, batch_sizes=(3,)))
    assert list(run(case.inputs)) == list(output_axes(task, tables))
    require(compare(model, run, random_cases(model, tables=tables), tables=tables), EXACT)
    run_alone(PROGRAM_ALONE, tmp_path, "model.pt2", case.inputs)
    assert_equal(dict(np.load(tmp_path / "outputs.npz")), reference(model, case, tables))


@pytest.mark.slow  # the compiler takes a minute or two for each
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("task, kind, tables, leaf_encoder", PROGRAMS)
def test_a_package_says_what_its_model_says(task, kind, tables, leaf_encoder, tmp_path) -> None:
    model = tiny_model(task, kind, leaf_encoder=leaf_encoder).double()
    export_aoti(model, tmp_path / "model.aoti.pt2", describe(model, "aoti", tables=tables, **SAID))
    run = load_aoti(tmp_path / "model.aoti.pt2")
    require(compare(model, run, random_cases(model, tables=tables), tables=tables), EXACT)
    case = next(random_cases(model, tables=tables, batch_sizes=(3,)))
    run_alone(PACKAGE_ALONE, tmp_path, "model.aoti.pt2", case.inputs)
    assert_equal(dict(np.load(tmp_path / "outputs.npz")), reference(model, case, tables))


def test_folded_leaves_change_nothing() -> None:
    model = tiny_model("sentence", "spinn-pi-nt").double()
    folded = program(model, describe(model, fold_leaves=True)).module()

    def run(inputs):
        outputs = folded(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: output.numpy() for name, output in outputs.items()}

    require(compare(model, run, random_cases(model, batch_sizes=(8,))), EXACT)


def test_the_file_says_what_it_is_and_other_files_are_refused(tmp_path) -> None:
    model = tiny_model("sentence", "spinn-pi-nt")
    export_program(model, tmp_path / "model.pt2", describe(model, "pt2", **SAID))
    extra = {"export.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    said = json.loads(extra["export.json"])
    assert (said["kind"], said["tables"], said["vocabulary_sha256"]) == ("spinn-pi-nt", "forest", "0123abc")
    (tmp_path / "broken.pt2").write_bytes((tmp_path / "model.pt2").read_bytes()[:1000])
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
    with pytest.raises(ExportError, match=r"model\.pt2: not a readable AOTInductor package"):
        load_aoti(tmp_path / "model.pt2")


@exports_lanes
def test_a_program_holds_no_code_of_ours(tmp_path) -> None:
    model = tiny_model("pair", "spinn")
    export_program(model, tmp_path / "model.pt2", describe(model, "pt2", **SAID))
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        assert not [name for name in archive.namelist() if name.endswith(".py")]


def test_whole_or_not_at_all(tmp_path, monkeypatch) -> None:
    model = tiny_model("sentence", "spinn-pi-nt")
    with pytest.raises(DataError, match="no such folder"):
        export_program(model, tmp_path / "none" / "model.pt2", describe(model, "pt2", **SAID))

    def fail(exported, content, **options):
        content.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.export, "save", fail)
    with pytest.raises(OSError, match="No space"):
        export_program(model, tmp_path / "model.pt2", describe(model, "pt2", **SAID))
    assert list(tmp_path.iterdir()) == []


def test_a_package_needs_a_compiler(tmp_path) -> None:
    model = tiny_model("sentence", "spinn-pi-nt")
    no_compiler = inductor_config.patch({"cpp.cxx": ("no-such-compiler",)})
    with no_compiler, pytest.raises(ExportError, match="needs a C\\+\\+ compiler: install g\\+\\+"):
        export_aoti(model, tmp_path / "model.aoti.pt2", describe(model, "aoti", **SAID))


def test_a_model_without_a_machine_is_refused() -> None:
    model = tiny_model("pair", "lstm")
    with pytest.raises(ExportError, match="'lstm' is not exported"):
        program(model, describe(model))


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
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
