"""Data flows one way, data_prep <- spinn_tensor <- export, and importing changes nothing and costs little."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("data_prep", "spinn_tensor", "export", "benchmarks", "tests")
MAY_IMPORT = {
    "data_prep": {"data_prep"},
    "spinn_tensor": {"data_prep", "spinn_tensor"},
    "export": {"data_prep", "spinn_tensor", "export"},
    "benchmarks": {"data_prep", "spinn_tensor", "export", "benchmarks"},
}
ALL_THREE = ROOT / "spinn_tensor" / "cli"  # the command line may import the exports, inside functions
# within spinn_tensor: each layer may import those before it
LAYERS = [
    "bundles",
    "config",
    "machine",
    "batch",
    "fixed_shapes",
    "model",
    "encoding",
    "training",
    "pipeline",
    "transformer",
    "cli",
    "__init__",
]
MODEL = {"classifiers", "compose", "encoder", "hub", "leaves", "normalization", "tracker"}
# a model reads and writes itself, in a format that holds a run's settings: imported inside the methods that do
UPWARDS = {("hub", "spinn_tensor.training.checkpoint")}


def imports(path: Path) -> set[str]:
    """Modules that a file names in its import statements, inside functions included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_what_is_before_them(package) -> None:
    for path in (ROOT / package).rglob("*.py"):
        ours = {name.split(".")[0] for name in imports(path)} & set(OURS)
        allowed = MAY_IMPORT[package] | ({"export"} if ALL_THREE in path.parents else set())
        assert ours <= allowed, f"{path} imports {ours - allowed}"


def layer(parts: list[str]) -> int:
    name = parts[0] if parts else "__init__"
    return LAYERS.index("model" if name in MODEL else name)


def test_layers_of_spinn_tensor_import_only_what_is_below_them() -> None:
    package = ROOT / "spinn_tensor"
    for path in package.rglob("*.py"):
        parts = list(path.relative_to(package).with_suffix("").parts)
        if parts == ["__main__"]:
            continue
        for name in imports(path):
            if name.startswith("spinn_tensor.") and (".".join(parts), name) not in UPWARDS:
                assert layer(name.split(".")[1:]) <= layer(parts), f"{path} imports {name}"


@pytest.mark.parametrize(
    "package, heavy",
    [
        ("data_prep", "torch datasets pyarrow rich tokenizers huggingface_hub"),
        ("spinn_tensor", "datasets pyarrow rich onnx tokenizers huggingface_hub sklearn"),
    ],
)
def test_importing_loads_no_heavy_package_and_changes_no_setting(package, heavy) -> None:
    program = f"""
import sys
{"import torch; before = torch.get_num_threads(), torch.get_default_dtype()" if package == "spinn_tensor" else ""}
import {package}
loaded = set(sys.modules) & set("{heavy}".split())
assert not loaded, loaded
{"assert before == (torch.get_num_threads(), torch.get_default_dtype())" if package == "spinn_tensor" else ""}
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["predictor", "session", "sentences", "folder", "triton", "doctor", "elf"])
def test_serving_imports_no_torch(name: str) -> None:
    program = f"import sys, export.{name}; assert not {{'torch', 'spinn_tensor'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
