"""What torch.compile needs of a machine is looked for before a run begins: one clear line, or eager steps on CUDA."""

from __future__ import annotations

import importlib.machinery
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch._inductor import config as inductor_config

from spinn_tensor import toolchain
from spinn_tensor.cli import train as train_command
from spinn_tensor.cli.main import main
from spinn_tensor.config import ConfigError
from spinn_tensor.toolchain import Missing, check_compile, cpp_compiler, missing_to_compile
from tests.tiny_runs import pair_arguments
from tests.tiny_training import run_of

pytest.importorskip("datasets")

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has compilers of its own")
NO_HEADER = "<stdin>:1:10: fatal error: Python.h: No such file or directory"


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton is installed, and no GPU is too old for it."""
    module = ModuleType("triton")
    module.__spec__ = importlib.machinery.ModuleSpec("triton", None)
    monkeypatch.setitem(sys.modules, "triton", module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def no_cpp() -> Iterator[None]:
    """There is no C++ compiler."""
    with inductor_config.patch({"cpp.cxx": ("no-such-compiler",)}):
        yield


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a program where programs are looked for, and there is no other."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CC", raising=False)

    def install(name: str, script: str = "exit 0", interpreter: str = "#!/bin/sh\n") -> Path:
        path = folder / name
        path.write_text(interpreter + script + "\n")
        path.chmod(0o755)
        return path

    return install


def missing(device_type: str) -> Missing:
    found = missing_to_compile(device_type)
    assert found is not None
    assert "\n" not in str(found)
    return found


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_nothing_is_missing_where_it_compiles() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: x.sin() + 1, fullgraph=True)
    torch.testing.assert_close(compiled(torch.ones(3)), torch.ones(3).sin() + 1)
    assert missing_to_compile("cpu") is None
    check_compile("cpu")


@pytest.mark.usefixtures("no_cpp")
@on_posix
def test_no_cpp_compiler() -> None:
    assert cpp_compiler() is None
    assert missing("cpu").what == "no C++ compiler"
    with pytest.raises(ConfigError, match=r"^compile: no C\+\+ compiler"):
        check_compile("cpu")


@on_posix
def test_a_folder_is_no_compiler(tmp_path: Path) -> None:
    with inductor_config.patch({"cpp.cxx": (str(tmp_path),)}):
        assert missing("cpu").what == "no C++ compiler"


@on_posix
def test_no_headers_on_the_cpu(install: Install) -> None:
    path = install("g++", f'test "$1" = --version || {{ echo "{NO_HEADER}" >&2; exit 1; }}')
    with inductor_config.patch({"cpp.cxx": (str(path),)}):
        found = missing("cpu")
    assert "cannot read Python.h" in found.what
    assert found.what.endswith(NO_HEADER)
    assert "python3-dev" in found.remedy


def test_no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert missing("cuda").what.startswith("Triton cannot be imported: ")
    assert missing("cuda").remedy == "pip install triton"


def test_a_broken_triton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "triton.py").write_text("raise RuntimeError('no\\nsymbol')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    assert missing("cuda").what == "Triton cannot be imported: no symbol"


@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("capability, knows", [((6, 1), False), ((7, 0), True), ((9, 0), True)])
def test_a_gpu_that_triton_does_not_know(capability, knows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla P40")
    monkeypatch.setattr(toolchain, "_missing_c", lambda: None)
    found = missing_to_compile("cuda")
    assert (found is None) == knows
    assert knows or "Tesla P40" in str(found)


# The program that is found, what it does, what CC names, and what is then said to be missing.
C_COMPILERS = {
    "gcc": (("gcc", "exit 0", None), None),
    "clang": (("clang", "exit 0", None), None),
    "another that CC names": (("cc-12", "exit 0", "cc-12"), None),
    "another that nothing names": (("cc-12", "exit 0", None), "no C compiler, which Triton needs"),
    "a C++ compiler": (("g++", "exit 0", None), "no C compiler, which Triton needs"),
    "none that CC names": (
        ("gcc", "exit 0", "no-such-compiler"),
        "no C compiler: CC names 'no-such-compiler'",
    ),
    "no headers": (("gcc", f'echo "{NO_HEADER}" >&2; exit 1', None), NO_HEADER),
}


@pytest.mark.usefixtures("triton")
@on_posix
@pytest.mark.parametrize("case", C_COMPILERS)
def test_a_c_compiler_as_triton_finds_it(
    case: str, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name, script, named), lacking = C_COMPILERS[case]
    install(name, script)
    if named is not None:
        monkeypatch.setenv("CC", named)
    found = missing_to_compile("cuda")
    assert found is None if lacking is None else found is not None and found.what.endswith(lacking)


@pytest.mark.usefixtures("triton")
@on_posix
def test_a_compiler_that_does_not_run(install: Install) -> None:
    install("gcc", interpreter="#!/no/such/interpreter\n")
    assert "does not run" in missing("cuda").what


@pytest.fixture
def steps_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """For devices that are then asked about."""
    asked: list[str] = []

    def find(device_type: str) -> Missing:
        asked.append(device_type)
        return Missing("no C compiler", "apt install gcc")

    monkeypatch.setattr(train_command, "choose_device", lambda _: "cuda")
    monkeypatch.setattr(train_command, "missing_to_compile", find)
    return asked


@pytest.mark.parametrize(
    "options, compiles, is_said",
    [
        ([], False, True),
        (["--set", "kind=spinn-pi-nt"], False, True),
        (["--no-compile"], False, False),
        (["--set", "compile=false"], False, False),
        (["--preset", "logic-lstm"], False, False),
        (["--compile"], True, False),  # `execute` stops
    ],
)
def test_steps_on_cuda_are_eager_where_they_cannot_be_compiled(
    options, compiles, is_said, steps_cannot_be_compiled: list[str]
) -> None:
    notes: list[str] = []
    settings = run_of(*options, tell=notes.append)
    assert settings.training.compile == compiles
    assert notes == is_said * ["steps are not compiled: no C compiler (apt install gcc)"]
    assert steps_cannot_be_compiled == (["cuda"] if is_said else [])


@pytest.mark.usefixtures("no_cpp")
@on_posix
@pytest.mark.parametrize("command, option", [("train", "--output"), ("profile", "--json")])
def test_a_command_stops_before_it_begins(
    command: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [command, *pair_arguments(tmp_path)[1:], "--compile", option, str(tmp_path / "made")]
    assert main(arguments) == 1
    assert "error: compile: no C++ compiler" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


@pytest.mark.usefixtures("no_cpp")
@on_posix
def test_a_resumed_run_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Resumes a run that was begun on another machine, where there was a compiler."""
    arguments = [*pair_arguments(tmp_path), "--output", str(tmp_path / "run")]
    assert main([*arguments, "--epochs", "1"]) == 0
    path = tmp_path / "run" / "run.json"
    run = json.loads(path.read_text())
    run["training"]["compile"] = True
    path.write_text(json.dumps(run))
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    capsys.readouterr()
    assert main([*arguments, "--epochs", "2", "--resume"]) == 1
    assert "error: compile: no C++ compiler" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before
