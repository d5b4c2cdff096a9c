"""Data flows one way, data_prep <- spinn_tensor <- export, and importing changes nothing and costs little."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import spinn_tensor
from tests.processes import ROOT, run_program

# links in spinn_tensor to the folders beside it
DATA, EXPORT = "spinn_tensor.data_prep", "spinn_tensor.export"
MAY_IMPORT = {  # of our own
    "data_prep": (DATA,),
    "spinn_tensor": (DATA, "spinn_tensor"),
    "export": (DATA, "spinn_tensor", EXPORT),
    "benchmarks": (DATA, "spinn_tensor", EXPORT, "benchmarks"),
}
COMMANDS = ROOT / "spinn_tensor" / "cli"  # the only part of spinn_tensor that imports the exports
# within spinn_tensor: each layer may import those before it
LAYERS = [
    "bundles",
    "transfer",
    "config",
    "toolchain",
    "sizes",
    "tensor_files",
    "answers",
    "text_model",
    "machine",
    "batch",
    "fixed_shapes",
    "normalization",
    "card",
    "hub",
    "bundle",
    "model",
    "inference",
    "parsers",
    "encoding",
    "pipeline",
    "batch_encoder",
    "transformer",
    "training",
    "cli",
    "__init__",
]


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


def package_of(module: str) -> str:
    """Return which of our packages a module belongs to; "" for another's."""
    for package in (DATA, EXPORT):
        if module == package or module.startswith(package + "."):
            return package
    top = module.split(".")[0]
    return top if top in ("spinn_tensor", "benchmarks", "tests", "data_prep", "export") else ""


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_packages_import_only_what_is_before_them(folder) -> None:
    paths = list((ROOT / folder).rglob("*.py"))
    assert len(paths) > 5
    for path in paths:
        ours = {package_of(name) for name in imports(path)} - {""}
        allowed = {*MAY_IMPORT[folder], *([EXPORT] if COMMANDS in path.parents else [])}
        assert ours <= allowed, f"{path} imports {ours - allowed}"


def layer(parts: list[str]) -> int:
    name = parts[0] if parts else "__init__"
    return LAYERS.index(name)


def test_layers_of_spinn_tensor_import_only_what_is_below_them() -> None:
    package = ROOT / "spinn_tensor"
    for path in package.rglob("*.py"):
        parts = list(path.relative_to(package).with_suffix("").parts)
        if parts == ["__main__"]:
            continue
        for name in imports(path):
            if package_of(name) == "spinn_tensor" != name:
                assert layer(name.split(".")[1:]) <= layer(parts), f"{path} imports {name}"


def test_importing_loads_no_heavy_package_and_changes_no_setting_of_torch() -> None:
    """All names are there without scikit-learn, too, which only who names `SpinnTransformer` needs."""
    program = """
import inspect, sys, pkgutil
for name, heavy in {  # imported in turn: packages that none of it, and of what was before it, may load
    "spinn_tensor": "torch numpy datasets pyarrow rich onnx tokenizers huggingface_hub sklearn",
    "spinn_tensor.data_prep": "torch datasets pyarrow rich tokenizers huggingface_hub",
    "spinn_tensor.Pipeline": "datasets pyarrow rich onnx tokenizers huggingface_hub sklearn "
    "spinn_tensor.training spinn_tensor.card",
    "benchmarks.gpu": "datasets pyarrow rich",
}.items():
    pkgutil.resolve_name(name)
    loaded = set(sys.modules) & set(heavy.split())
    assert not loaded, (name, loaded)
sys.modules["sklearn"] = None
import spinn_tensor, torch
from spinn_tensor import *
assert Pipeline is spinn_tensor.Pipeline
inspect.getmembers(spinn_tensor)
assert (torch.get_num_threads(), torch.get_default_dtype()) == (2, torch.float32)
try:
    spinn_tensor.SpinnTransformer
except ImportError as error:
    print(error)
"""
    assert "sklearn" in run_program(program, OMP_NUM_THREADS="2")


def test_what_computes_nothing_loads_no_torch() -> None:
    names = [
        *("export.predictor", "export.session", "export.artefact"),
        *("export.triton", "export.triton_text", "export.serve.server"),
        *("cli.main.build_parser", "cli.presets", "cli.generate", "cli.doctor"),
    ]
    program = f"""
import sys, pkgutil
for name in {names}:
    pkgutil.resolve_name("spinn_tensor." + name)
    assert "torch" not in sys.modules, name
from spinn_tensor.cli.main import main
assert main(["presets"]) == 0
assert "torch" not in sys.modules
"""
    run_program(program)


def test_all_errors_have_one_base_beside_the_built_in_one() -> None:
    found: dict[str, list[str]] = {}
    for folder in ("data_prep", "spinn_tensor", "export"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    bases = [ast.unparse(base) for base in node.bases]
                    if not {"SpinnError", "ValueError", "RuntimeError"}.isdisjoint(bases):
                        found[node.name] = bases
    at_runtime = ("DrawError", "LostMaker", "LostRank", "ProviderError", "TrainingError")
    of_values = ("ArtefactError", "CheckpointError", "ConfigError", "DataError", "ExportError")
    assert found == {
        **{name: ["SpinnError", "RuntimeError"] for name in at_runtime},
        **{name: ["SpinnError", "ValueError"] for name in (*of_values, "ParityError", "ScoreError")},
    }
    assert issubclass(spinn_tensor.CheckpointError, spinn_tensor.SpinnError)


def test_no_test_file_imports_another() -> None:
    """What several of them need lies in a module beside them."""
    names = {path.stem for path in (ROOT / "tests").glob("test_*.py")}
    for path in (ROOT / "tests").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                found = {node.module.split(".")[-1], *(alias.name for alias in node.names)}
                assert node.module.split(".")[0] != "tests" or not found & names, (
                    f"{path} imports {found & names}"
                )
