"""onnxruntime sessions on a provider that was asked for, and got.

A session falls back to the CPU silently where CUDA's libraries or a GPU are missing; only what it says afterwards of
its providers is true. Here a provider that was asked for and not granted is an error, and "auto" says what it took.
"""

from __future__ import annotations

import ctypes
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spinn_tensor.data_prep.errors import SpinnError, one_line
from spinn_tensor.export.artefact import ArtefactError

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# by themselves products would be in TF32, whose factors have 10 bits, where float32's have 23
OPTIONS: dict[str, dict[str, str]] = {"cuda": {"use_tf32": "0"}}
# what else may run the nodes that a provider lacks
BEHIND = {"cpu": [], "cuda": ["cpu"], "tensorrt": ["cuda", "cpu"]}
INSTALL = "pip install 'spinn_tensor[export]'"
# how onnxruntime begins what it raises: whose error it is, and the path
_RUNTIME = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .* failed:)?")

logger = logging.getLogger(__name__)


class ProviderError(SpinnError, RuntimeError):
    """Raised where onnxruntime is missing, or a provider not granted that was asked for; one line says what to do."""


class OpenSession(NamedTuple):
    """Hold a session, and the provider that it has."""

    session: Any  # onnxruntime.InferenceSession
    provider: str  # one of PROVIDERS


def open_session(
    path: Path,
    provider: str,  # "auto" or one of PROVIDERS
    threads: int | None = None,  # of the CPU; None = onnxruntime's choice, one a core
) -> OpenSession:
    """Open a session of an ONNX file. "auto" is CUDA where it is granted, else the CPU, and never TensorRT.

    Raises ArtefactError for a file that onnxruntime cannot run, ProviderError for a provider that it does not grant.
    """
    runtime = import_onnxruntime()
    if provider not in ("auto", *PROVIDERS):
        raise ValueError(f"unknown provider {provider!r}, expected auto, {', '.join(PROVIDERS)}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    if not path.is_file():
        raise ArtefactError(f"{path}: no such file")
    offered = runtime.get_available_providers()
    if provider != "auto":
        if PROVIDERS[provider] not in offered:
            raise ProviderError(
                f"provider {provider}: this onnxruntime has only {', '.join(offered)}; it takes onnxruntime-gpu in "
                "place of onnxruntime (see spinn doctor)"
            )
        if provider != "cpu" and not has_nvidia_driver():
            raise ProviderError(f"provider {provider}: {_not_granted()}")
        session = _open(runtime, path, provider, threads)
        if PROVIDERS[provider] not in session.get_providers():
            raise ProviderError(
                f"provider {provider}: onnxruntime did not grant it (the session has "
                f"{', '.join(session.get_providers())}): {_not_granted()}"
            )
        return OpenSession(session, provider)
    if PROVIDERS["cuda"] in offered and has_nvidia_driver():
        session = _open(runtime, path, "cuda", threads)
        if PROVIDERS["cuda"] in session.get_providers():
            logger.info("%s: provider auto took cuda", path)
            return OpenSession(session, "cuda")
        logger.warning("%s: provider auto took cpu, cuda was not granted: %s", path, _not_granted())
    else:
        logger.info("%s: provider auto took cpu", path)
    return OpenSession(_open(runtime, path, "cpu", threads), "cpu")


def onnx_function(
    path: Path,
    threads: int | None = None,  # as in `open_session`
) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Run an ONNX file on the CPU, from its inputs to its outputs, by name. Raises as `open_session`."""
    session = open_session(path, "cpu", threads).session
    names = [output.name for output in session.get_outputs()]

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run


def import_onnxruntime() -> Any:
    """Import the package onnxruntime. Raises ProviderError where it is missing or broken."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError(f"onnxruntime cannot be imported ({error}): {INSTALL}") from error
    if not hasattr(onnxruntime, "InferenceSession"):  # the folder that one of two packages left behind
        raise ProviderError(
            "onnxruntime is broken, as where two packages of it were installed: see spinn doctor"
        )
    return onnxruntime


def has_nvidia_driver() -> bool:
    """Tell whether NVIDIA's driver is here; it comes with the system and not with a package."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _open(runtime: Any, path: Path, provider: str, threads: int | None) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 4 if provider == "cpu" else 3  # there all that matters is in the errors here
    if threads is not None:
        options.intra_op_num_threads = threads
    if provider == "cpu":
        options.enable_cpu_mem_arena = False  # which keeps what the largest batch took, and is no faster
        options.enable_mem_pattern = False  # a plan for each shape, where batches differ in theirs
    elif hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()  # those of NVIDIA's Python packages, which no loader finds by itself
    offered = runtime.get_available_providers()
    wanted = [name for name in (provider, *BEHIND[provider]) if PROVIDERS[name] in offered]
    try:
        session = runtime.InferenceSession(
            str(path), options, providers=[(PROVIDERS[name], OPTIONS.get(name, {})) for name in wanted]
        )
    except Exception as error:  # its exceptions have no base of their own
        reason = _RUNTIME.sub("", one_line(error)).strip(" .")
        if provider != "cpu" and type(error).__name__ not in (
            "InvalidProtobuf",
            "InvalidGraph",
            "NoSuchFile",
        ):
            raise ProviderError(f"provider {provider}: {reason}; {_not_granted()}") from error
        raise ArtefactError(f"{path}: onnxruntime cannot run it ({reason})") from error
    session.disable_fallback()  # a failure on one provider is an error, not a slower answer
    return session


def _not_granted() -> str:
    if not has_nvidia_driver():
        return "there is no NVIDIA driver on this machine"
    return "a CUDA library is missing or does not fit, see spinn doctor"
