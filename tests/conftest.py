"""Settings of every test; and trained runs and exports that many tests look at and none changes."""

from __future__ import annotations

import gc
import io
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock

# before torch is loaded: workers that each take all processors for a product wait for one another without end
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# no proxy knows the servers of tests; tables are as wide and as plain as everywhere
os.environ.update(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1", COLUMNS="80")
os.environ.pop("FORCE_COLOR", None)

# A shared two-core machine is at times slow: an example may take as long as it takes. `make test-all` tries more.
USUAL = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("many", USUAL)
hypothesis.settings.register_profile("few", USUAL, max_examples=40)
hypothesis.settings.load_profile("few")


# what takes longest, begun first: a worker that began it last would leave the other idle
FIRST = "compile", "onnx", "any_cell", "machine", "export_cells", "serve_process", "torchrun", "distributed"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with those, as xdist does with --no-loadscope-reorder."""
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in FIRST)


def _synced(descriptor: int) -> None:
    """Take the place of os.fsync, which waits for the disk thousands of times: no machine fails in these processes."""
    os.fstat(descriptor)  # an error where there is no such file


os.fsync = _synced

# Python looks for garbage after 700 new objects, too often beside torch's hundreds of thousands that stay
gc.set_threshold(20_000, 10, 10)


def pytest_collection_finish() -> None:
    """Spare torch its own log, and at each export to ONNX half a second and more for what it knows of operators."""
    gc.freeze()  # what is imported is no garbage
    # pytest listens to a logger that passes nothing on: torch would describe each compilation to it at length
    trace = logging.getLogger("torch.__trace")
    trace.propagate = True
    trace.handlers.clear()
    if "onnxscript" not in sys.modules:
        return
    from torch._export import utils
    from torch.onnx._internal.exporter import _registration

    if hasattr(
        utils, "_materialize_cpp_cia_ops"
    ):  # looks all of them up for each namespace, which are the same
        utils._materialize_cpp_cia_ops = cache(utils._materialize_cpp_cia_ops)
    registry = getattr(_registration, "ONNXRegistry", None)  # as torch has it from 2.11 to 2.15
    if hasattr(registry, "from_torchlib"):
        make = cache(registry.from_torchlib)

        def copied(*arguments: Any, **options: Any) -> Any:
            made = copy(make(*arguments, **options))
            made.functions = {name: [*found] for name, found in made.functions.items()}  # exports add theirs
            return made

        registry.from_torchlib = staticmethod(copied)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Put torch's number of threads back, which --threads changes, where torch is loaded already."""
    torch = sys.modules.get("torch")
    n_threads = None if torch is None else torch.get_num_threads()
    yield
    if torch is not None:
        torch.set_num_threads(n_threads)


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Give a folder that the first of the workers to want it has filled."""
    base = factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = common / f"made_{name}", common / f"made_{name}.done"
    with FileLock(common / f"made_{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
            folder.mkdir()
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                make(folder)  # whose words are none of the test that wants it first
            done.touch()
    return folder


def _trained(name: str) -> Any:
    """Make a fixture of a run that `tests.tiny_runs` trains."""

    def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
        from tests import tiny_runs  # which imports the commands, and with them torch

        return _made_once(tmp_path_factory, name, getattr(tiny_runs, f"train_{name}")) / "run"

    return pytest.fixture(run, scope="session")


pair_run = _trained("pairs")  # a model of pairs, which needs their trees
tree_run = _trained("trees")  # a model of sentences with labels on every node
spinn_run = _trained("spinn")  # a model of pairs that parses for itself
parser_run = _trained("parser")  # a parser, which has learnt all trees of its corpora


@pytest.fixture(scope="session")
def with_parser(pair_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX export of the run of pairs, with the packaged parser."""

    def export(folder: Path) -> None:
        from spinn_tensor.cli.main import main

        arguments = ["export", str(pair_run), "--format", "onnx", "--output", str(folder / "exported")]
        assert main([*arguments, "--parser", "packaged"]) == 0

    return _made_once(tmp_path_factory, "with_parser", export) / "exported"


@pytest.fixture(scope="session")
def few_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of few steps, made in Python by `tests.tiny_training`."""
    from tests.tiny_training import trainer

    folder = tmp_path_factory.mktemp("few_steps")
    trainer(folder, epochs=2).fit()
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Path, Path]]:
    """Give the bundle of a tiny model of a kind and task, and its ONNX export, each made once."""

    @cache
    def make(kind: str, task: str) -> tuple[Path, Path]:
        from spinn_tensor.cli.main import main
        from tests.tiny_bundles import tiny_bundle

        def export(folder: Path) -> None:
            bundle = tiny_bundle(folder / "bundle", kind, task)
            arguments = ["--format", "onnx", "--output", str(folder / "exported")]
            assert main(["export", str(bundle), *arguments]) == 0

        folder = _made_once(tmp_path_factory, f"{kind}-{task}", export)
        return folder / "bundle", folder / "exported"

    return make


@pytest.fixture
def spinn(capsys: pytest.CaptureFixture[str]) -> Any:
    """Give what runs commands, a `tests.command_line.Spinn`."""
    from tests.command_line import Spinn

    return Spinn(capsys)
