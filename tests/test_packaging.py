"""One import package, wherever it is installed from: a project with packages of our folders' names keeps them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.processes import run_program

ROOT = Path(__file__).resolve().parents[1]
USES_ALL = (
    "from spinn_tensor import data_prep, export; import spinn_tensor.export.predictor, spinn_tensor.cli.main; "
    "spinn_tensor.cli.main.build_parser()"
)


def test_a_project_with_packages_of_the_same_names_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "data_prep").mkdir()
    (tmp_path / "data_prep" / "__init__.py").write_text("whose = 'theirs'\n")
    (tmp_path / "export.py").write_text("whose = 'theirs'\n")
    program = f"{USES_ALL}; import data_prep, export; print(data_prep.whose, export.whose)"
    assert run_program(program, folder=tmp_path, paths=[tmp_path, ROOT]) == "theirs theirs\n"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Build a wheel from the checkout, and another from the sdist of it, with the setuptools that is installed."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("dist")
    copy = folder / "checkout"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    parts = ["spinn_tensor", "data_prep", "export", "pyproject.toml", "README.md", "LICENSE"]
    tracked = subprocess.run([*listed, *parts], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.split():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            (copy / name).symlink_to((ROOT / name).readlink())
        elif (ROOT / name).is_file():
            (copy / name).write_bytes((ROOT / name).read_bytes())
    build = "import sys; from setuptools import build_meta as b; print(b.build_{kind}(sys.argv[1]))"

    def built(kind: str, source: Path, out: Path) -> Path:
        command = [sys.executable, "-c", build.format(kind=kind), str(out)]
        lines = subprocess.run(command, cwd=source, capture_output=True, text=True, check=True).stdout.split()
        return out / lines[-1]

    (folder / "first").mkdir()
    (folder / "second").mkdir()
    sdist = built("sdist", copy, folder)
    subprocess.run(["tar", "-xzf", sdist, "-C", folder], check=True)
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    return [built("wheel", copy, folder / "first"), built("wheel", unpacked, folder / "second")]


def test_a_wheel_of_the_checkout_is_that_of_its_sdist(wheels: list[Path]) -> None:
    contents = []
    for path in wheels:
        with zipfile.ZipFile(path) as wheel:
            contents.append({info.filename: info.CRC for info in wheel.infolist()})
    assert contents[0] == contents[1]


def test_a_wheel_holds_one_package_and_its_licences(wheels: list[Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(wheels[1]) as wheel:
        names = wheel.namelist()
        assert {name.split("/")[0] for name in names} == {"spinn_tensor", names[-1].split("/")[0]}
        for path in (*(ROOT / "data_prep").rglob("*.py"), *(ROOT / "export").rglob("*.py")):
            assert f"spinn_tensor/{path.relative_to(ROOT)}" in names
        for file in (
            "pretrained/parser/model.safetensors",
            "pretrained/nli/model.safetensors",
            "pretrained/nli/README.md",
            "__init__.pyi",
            "py.typed",
            "cli/templates/inspect.html.j2",
            "training/presets/spinn-pi.toml",
            "export/cpp/classify.cpp",
            "export/serve/ui/app.js",
        ):
            assert f"spinn_tensor/{file}" in names
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        assert message_from_bytes(wheel.read(metadata))["License-Expression"] == "MIT AND CC-BY-SA-4.0"
        licences = [name for name in names if ".dist-info/licenses/" in name]
        assert [name.split("licenses/")[1] for name in sorted(licences)] == [
            "LICENSE",
            "spinn_tensor/pretrained/README.md",
        ]
        wheel.extractall(tmp_path)
    program = f"{USES_ALL}; print(spinn_tensor.__file__)"
    where = run_program(program, folder=tmp_path, paths=[tmp_path])
    assert where.strip() == str(tmp_path / "spinn_tensor" / "__init__.py")
