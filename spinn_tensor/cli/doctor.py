"""`spinn doctor`: what is installed for training and export, and what of it would not work.

Facts are gathered first and judged afterwards, so that the judgement can be tested on facts of any machine.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table

from spinn_tensor.cli.arguments import CommandParser
from spinn_tensor.cli.report import console, pairs_table
from spinn_tensor.data_prep.errors import one_line
from spinn_tensor.export.session import INSTALL, has_nvidia_driver

if TYPE_CHECKING:
    from spinn_tensor.toolchain import Missing

PACKAGES = (
    *("spinn_tensor", "torch", "numpy", "datasets", "pyarrow"),
    *("tokenizers", "safetensors", "huggingface_hub"),
    *("onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "tritonclient", "scikit-learn"),
)
EXTRAS = ("", "export", "serve", "plots", "tensorboard", "kernels")  # of whoever uses it
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")  # which share one folder
NOT_COMPILED = {  # on a device, for want of something
    "cpu": "no spinn export --format aoti, no --compile on the CPU",
    "cuda": "training steps on the GPU are not compiled",
}

ERROR = "cannot load: "  # before what the loader says
# without torch, which brings CUDA libraries of its own; ends at once, since a library half loaded may fail at the end
LOAD_PROVIDER = f"""
import ctypes, os, pathlib, onnxruntime
folder = pathlib.Path(onnxruntime.__file__).parent / "capi"
libraries = [folder / f"libonnxruntime_providers_{{name}}.so" for name in ("shared", "cuda")]
if hasattr(onnxruntime, "preload_dlls"):
    onnxruntime.preload_dlls()
try:
    if all(library.is_file() for library in libraries):
        for library in libraries:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
except OSError as error:
    print({ERROR!r}, error, flush=True)
os._exit(0)
"""

DESCRIPTION = """\
Looks at this machine: versions, what torch and onnxruntime are built for and find here,
CUDA's libraries, threads and cores, what torch.compile needs. Says of each problem what to do. Exit
status 1 where something would fail, such as onnxruntime and onnxruntime-gpu installed
side by side, or a CUDA library that is missing; 0 where something is only slower or absent.
"""

EPILOG = """\
examples:
  spinn doctor
  spinn doctor && spinn export runs/snli --format onnx --output exported/snli
"""


class Facts(NamedTuple):
    """Hold what was found."""

    python: str
    platform: str  # "linux x86_64"
    versions: Mapping[str, str | None]  # of PACKAGES; None = not installed
    too_old: Sequence[str]  # what an installed package does not fulfil: "numpy>=1.26"
    torch_cuda: str | None  # CUDA that torch was built for
    torch_sees_gpu: bool
    has_driver: bool  # NVIDIA's
    onnxruntime_error: str | None  # why it cannot be imported
    onnxruntime_cuda: str | None  # CUDA that it was built for
    providers: Sequence[str]  # that it was built with
    provider_error: str | None  # why its CUDA provider cannot be loaded
    n_cores: int  # that this process may use
    n_threads: int  # of torch
    compiler: str | None  # path of the C++ compiler that inductor would call
    cannot_compile: Mapping[str, Missing]  # what torch.compile lacks, by device; "cuda" if torch sees a GPU


class Problem(NamedTuple):
    """Describe something that is not as it should be."""

    what: str
    remedy: str
    breaks: bool  # whether something fails, rather than being slower or not there


def add_arguments(parser: CommandParser) -> None:
    """Add no argument: the doctor looks at all there is."""


def run(args: argparse.Namespace) -> int:
    facts = gather()
    out = console()
    out.print(_table(facts))
    found = problems(facts)
    for problem in found:
        out.print(f"{'problem' if problem.breaks else 'note'}: {problem.what}", soft_wrap=True)
        out.print(f"    do: {problem.remedy}", soft_wrap=True)
    if not found:
        out.print("no problem found")
    return int(any(problem.breaks for problem in found))


def _table(facts: Facts) -> Table:
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in facts.providers)
    gpu = "sees a GPU" if facts.torch_sees_gpu else "sees no GPU"
    return pairs_table(
        {
            "Python": f"{facts.python}, {facts.platform}",
            **{name: version or "-" for name, version in facts.versions.items()},
            "torch's CUDA": f"{facts.torch_cuda or 'none, built for the CPU'}; {gpu}",
            "onnxruntime's CUDA": facts.onnxruntime_cuda or "none",
            "its providers": f"{providers} (built in; a session may not get them)" if providers else "-",
            "NVIDIA driver": "there" if facts.has_driver else "none",
            "cores, torch's threads": f"{facts.n_cores}, {facts.n_threads}",
            "C++ compiler": facts.compiler or "none",
        }
    )


def gather() -> Facts:
    """Look at this machine."""
    import torch

    from spinn_tensor.toolchain import cpp_compiler, missing_to_compile

    versions = {name: _version(name) for name in PACKAGES}
    error, runtime_cuda, providers = _runtime_facts(versions)
    driver, sees_gpu, compiler = has_nvidia_driver(), torch.cuda.is_available(), cpp_compiler()
    looked = {device: missing_to_compile(device) for device in (("cpu", "cuda") if sees_gpu else ("cpu",))}
    return Facts(
        python=platform.python_version(),
        platform=f"{sys.platform} {platform.machine()}",
        versions=versions,
        too_old=_too_old(),
        torch_cuda=torch.version.cuda,
        torch_sees_gpu=sees_gpu,
        has_driver=driver,
        onnxruntime_error=error,
        onnxruntime_cuda=runtime_cuda,
        providers=providers,
        provider_error=cuda_provider_error() if driver and providers else None,
        n_cores=_n_cores(),
        n_threads=torch.get_num_threads(),
        compiler=None if compiler is None else shutil.which(compiler) or compiler,
        cannot_compile={device: missing for device, missing in looked.items() if missing is not None},
    )


def problems(facts: Facts) -> list[Problem]:
    """Judge what would fail, and what is slower than it could be or not there."""
    return [*_package_problems(facts), *_machine_problems(facts)]


def runtime_for(system: str) -> str:
    """Name the onnxruntime package that there is for a platform, as pyproject.toml's markers choose it."""
    has_gpu_wheel = not system.startswith("darwin") and not system.endswith(("aarch64", "arm64"))
    return "onnxruntime-gpu" if has_gpu_wheel else "onnxruntime"


def cuda_provider_error() -> str | None:
    """Have a process of its own load onnxruntime's CUDA provider; return what the loader says where it cannot."""
    command = [sys.executable, "-c", LOAD_PROVIDER]
    said = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout
    return one_line(said.partition(ERROR)[2]) or None


def _package_problems(facts: Facts) -> Iterator[Problem]:
    installed = [name for name in RUNTIMES if facts.versions[name] is not None]
    right = runtime_for(facts.platform)
    anew = f"pip uninstall -y {' '.join(installed)} && pip install {right}"
    for requirement in facts.too_old:
        what = f"{requirement} is needed, an older one is installed"
        yield Problem(what, f"pip install '{requirement}'", True)
    if not installed:
        yield Problem("no onnxruntime: no ONNX export, no OnnxPredictor", INSTALL, False)
    missing = [name for name in ("onnx", "onnxscript") if facts.versions[name] is None]
    if missing:
        yield Problem(f"no {' and no '.join(missing)}: no ONNX export", INSTALL, False)
    if len(installed) == 2:
        what = "onnxruntime and onnxruntime-gpu are both installed, into one folder: each breaks the other"
        yield Problem(what, anew, True)
    if installed == ["onnxruntime"] and facts.has_driver and right == "onnxruntime-gpu":
        yield Problem("onnxruntime runs on the CPU alone, and there is an NVIDIA driver", anew, False)
    if facts.onnxruntime_error is not None:
        yield Problem(f"onnxruntime cannot be imported: {facts.onnxruntime_error}", anew, True)
    elif facts.provider_error is not None:
        yield Problem(
            f"onnxruntime cannot load its provider for CUDA {facts.onnxruntime_cuda}: {facts.provider_error}",
            "pip install 'onnxruntime-gpu[cuda,cudnn]', or put their folder into LD_LIBRARY_PATH; "
            "until then provider cuda is refused",
            True,
        )


def _machine_problems(facts: Facts) -> Iterator[Problem]:
    if facts.has_driver and facts.torch_cuda is None:
        yield Problem(
            "torch is built for the CPU alone, and there is an NVIDIA driver",
            "pip install --force-reinstall torch, from the index that https://pytorch.org names for your CUDA",
            False,
        )
    elif facts.has_driver and not facts.torch_sees_gpu:
        yield Problem(
            f"torch for CUDA {facts.torch_cuda} sees no GPU, and there is an NVIDIA driver",
            "look at nvidia-smi, CUDA_VISIBLE_DEVICES, and whether the driver is new enough for that CUDA",
            True,
        )
    for device, missing in facts.cannot_compile.items():
        yield Problem(f"{missing.what}: {NOT_COMPILED[device]}", missing.remedy, False)
    if facts.n_threads > facts.n_cores:
        what = f"torch has {facts.n_threads} threads for {facts.n_cores} cores, which wait for each other"
        yield Problem(what, f"OMP_NUM_THREADS={facts.n_cores}, or --threads", False)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _too_old() -> list[str]:
    """List the requirements of spinn_tensor, extras included, that an installed package does not fulfil."""
    try:
        from packaging.requirements import Requirement

        requirements = [Requirement(text) for text in metadata.requires("spinn_tensor") or ()]
    except (ImportError, metadata.PackageNotFoundError):
        return []
    unmet = []
    for requirement in requirements:
        version = _version(requirement.name)
        markers = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in EXTRAS
        )
        if version is not None and markers and not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"{requirement.name}{requirement.specifier}")
    return unmet


def _runtime_facts(versions: Mapping[str, str | None]) -> tuple[str | None, str | None, list[str]]:
    """Return why onnxruntime cannot be imported, which CUDA it is built for, and its providers."""
    if all(versions[name] is None for name in RUNTIMES):
        return None, None, []
    try:
        runtime = importlib.import_module("onnxruntime")
        providers = list(runtime.get_available_providers())
    except (ImportError, AttributeError) as error:
        return one_line(error), None, []
    return None, getattr(runtime, "cuda_version", "") or None, providers


def _n_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
