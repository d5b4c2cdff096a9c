"""What `spinn doctor` says of facts of this machine and of others."""

from __future__ import annotations

import _ctypes
import importlib
import re
import shutil
import sys
from importlib import metadata

import pytest

from spinn_tensor.cli import doctor
from spinn_tensor.cli.doctor import Facts, gather, problems, runtime_for
from spinn_tensor.cli.main import main
from spinn_tensor.toolchain import Missing

GOOD = Facts(
    python="3.11.7",
    platform="linux x86_64",
    versions={name: "1.0" for name in doctor.PACKAGES if name != "onnxruntime"} | {"onnxruntime": None},
    too_old=(),
    torch_cuda="13.0",
    torch_sees_gpu=True,
    has_driver=True,
    onnxruntime_error=None,
    onnxruntime_cuda="13.0",
    providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
    provider_error=None,
    n_cores=8,
    n_threads=8,
    compiler="/usr/bin/g++",
    cannot_compile={},
)


def versions(**changes: str | None) -> dict[str, str | None]:
    return {**GOOD.versions, **{name.replace("_", "-"): version for name, version in changes.items()}}


# Facts of a machine, whether something would fail there, and what is said of it and what is to be done.
MACHINES: dict[str, tuple[Facts, bool, str, str]] = {
    "both": (
        GOOD._replace(versions=versions(onnxruntime="1.0")),
        True,
        "onnxruntime and onnxruntime-gpu are both installed",
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
    ),
    "both on a Mac": (
        GOOD._replace(
            versions=versions(onnxruntime="1.0"), platform="darwin arm64", has_driver=False, torch_cuda=None
        ),
        True,
        "onnxruntime and onnxruntime-gpu are both installed",
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime$",
    ),
    "none": (
        GOOD._replace(versions=versions(onnxruntime_gpu=None)),
        False,
        "no onnxruntime: no ONNX export, no OnnxPredictor",
        r"pip install 'spinn_tensor\[export\]'",
    ),
    "no onnx": (
        GOOD._replace(versions=versions(onnx=None, onnxscript=None)),
        False,
        "no onnx and no onnxscript: no ONNX export",
        r"pip install 'spinn_tensor\[export\]'",
    ),
    "for the CPU alone": (
        GOOD._replace(versions=versions(onnxruntime_gpu=None, onnxruntime="1.0")),
        False,
        "onnxruntime runs on the CPU alone, and there is an NVIDIA driver",
        "pip uninstall -y onnxruntime && pip install onnxruntime-gpu",
    ),
    "broken": (
        GOOD._replace(onnxruntime_error="undefined symbol"),
        True,
        "onnxruntime cannot be imported: undefined symbol",
        "pip uninstall -y onnxruntime-gpu && pip install onnxruntime-gpu",
    ),
    "a library": (
        GOOD._replace(provider_error="libcublas.so.13: cannot open shared object file"),
        True,
        "onnxruntime cannot load its provider for CUDA 13.0: libcublas.so.13",
        r"pip install 'onnxruntime-gpu\[cuda,cudnn\]', or put their folder into LD_LIBRARY_PATH",
    ),
    "old": (
        GOOD._replace(too_old=("numpy>=1.26",)),
        True,
        "numpy>=1.26 is needed",
        "pip install 'numpy>=1.26'",
    ),
    "torch for the CPU": (
        GOOD._replace(torch_cuda=None, torch_sees_gpu=False),
        False,
        "torch is built for the CPU alone",
        "--force-reinstall torch",
    ),
    "torch without a GPU": (
        GOOD._replace(torch_sees_gpu=False),
        True,
        "torch for CUDA 13.0 sees no GPU",
        "nvidia-smi",
    ),
    "no compiler": (
        GOOD._replace(compiler=None, cannot_compile={"cpu": Missing("no C++ compiler", "apt install g++")}),
        False,
        "no C\\+\\+ compiler: no spinn export --format aoti",
        "apt",
    ),
    "no Triton": (
        GOOD._replace(cannot_compile={"cuda": Missing("Triton cannot be imported", "pip install triton")}),
        False,
        "Triton cannot be imported: training steps on the GPU are not compiled",
        "pip install triton",
    ),
    "threads": (GOOD._replace(n_threads=64), False, "torch has 64 threads for 8 cores", "OMP_NUM_THREADS=8"),
}


@pytest.mark.parametrize("name", MACHINES)
def test_it_says_what_is_wrong_and_what_to_do(name, monkeypatch, capsys) -> None:
    facts, breaks, what, remedy = MACHINES[name]
    (problem,) = problems(facts)
    assert re.match(what, problem.what)
    assert re.search(remedy, problem.remedy)
    monkeypatch.setattr(doctor, "gather", lambda: facts)
    assert main(["doctor"]) == int(breaks)
    printed = capsys.readouterr().out
    assert f"{'problem' if breaks else 'note'}: {problem.what}\n    do: {problem.remedy}\n" in printed
    assert "no problem found" not in printed


def test_a_good_machine_has_no_problem(monkeypatch, capsys) -> None:
    monkeypatch.setattr(doctor, "gather", lambda: GOOD)
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("no problem found\n")
    assert re.search(r"onnxruntime-gpu +1.0", printed)


def test_this_machine_is_looked_at(capsys) -> None:
    facts = gather()
    assert facts.versions["torch"] == metadata.version("torch")
    assert facts.n_cores >= 1
    assert main(["doctor"]) == int(any(problem.breaks for problem in problems(facts)))
    assert re.search(rf"torch +{re.escape(metadata.version('torch'))}", capsys.readouterr().out)


@pytest.mark.parametrize("sees_gpu", [False, True])
def test_what_compiling_lacks_on_a_gpu_is_said_where_there_is_one(sees_gpu: bool, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: sees_gpu)
    monkeypatch.setitem(sys.modules, "triton", None)  # cannot be imported
    assert ("cuda" in gather().cannot_compile) == sees_gpu


def test_facts_of_packages_that_are_missing_broken_or_old(monkeypatch) -> None:
    real, really_import = metadata.version, importlib.import_module

    def version(name: str) -> str:
        found = {"onnxruntime": "1.0", "onnxruntime-gpu": "1.0", "numpy": "1.0", "uvicorn": "0.1"}.get(name)
        if name in ("onnx", "spinn_tensor"):
            raise metadata.PackageNotFoundError(name)
        return found or real(name)

    def import_module(name: str, package: str | None = None) -> object:
        if name == "onnxruntime":
            raise ImportError("no\nsymbol")
        return really_import(name, package)  # torch loads parts of itself when they are used

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(importlib, "import_module", import_module)
    facts = gather()
    assert facts.versions["onnx"] is None
    assert facts.onnxruntime_error == "no symbol"
    assert "numpy>=1.26" in facts.too_old
    assert any(unmet.startswith("uvicorn>=") for unmet in facts.too_old)  # of an extra
    both = [problem.what for problem in problems(facts) if problem.breaks]
    assert any(what.startswith("onnxruntime and onnxruntime-gpu are both") for what in both)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the libraries have other names elsewhere")
@pytest.mark.parametrize(
    "cuda, said",
    [
        (None, None),  # an onnxruntime without CUDA
        (b"", "libonnxruntime_providers_cuda.so: "),
        (b"\x7fELF\x02\x01" + bytes(500), "libonnxruntime_providers_cuda.so: "),
    ],
)
def test_the_loader_says_what_is_wrong_with_the_provider(
    cuda: bytes | None, said: str | None, tmp_path, monkeypatch
) -> None:
    folder = tmp_path / "onnxruntime" / "capi"
    folder.mkdir(parents=True)
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    shutil.copy(_ctypes.__file__, folder / "libonnxruntime_providers_shared.so")
    if cuda is not None:
        (folder / "libonnxruntime_providers_cuda.so").write_bytes(cuda)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    error = doctor.cuda_provider_error()
    assert error is None if said is None else said in str(error)


@pytest.mark.parametrize(
    "system, package",
    [
        ("linux x86_64", "onnxruntime-gpu"),
        ("win32 AMD64", "onnxruntime-gpu"),
        ("linux aarch64", "onnxruntime"),
        ("darwin x86_64", "onnxruntime"),
        ("darwin arm64", "onnxruntime"),
    ],
)
def test_platforms_have_the_package_that_pyproject_picks(system, package) -> None:
    assert runtime_for(system) == package
    from packaging.requirements import Requirement

    name, machine = system.split()
    environment = {"sys_platform": name, "platform_machine": machine, "extra": "export"}
    picked = [
        requirement.name
        for requirement in map(Requirement, metadata.requires("spinn_tensor") or ())
        if requirement.name.startswith("onnxruntime")
        and requirement.marker is not None
        and requirement.marker.evaluate(environment)
    ]
    assert picked == [package]
