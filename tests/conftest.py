"""Settings of every test; and trained runs and exports that many tests look at and none changes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# before torch is loaded: workers that each take all processors for a product wait for one another without end
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shared two-core machine is at times slow: an example may take as long as it takes.
hypothesis.settings.register_profile(
    "default", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Put torch's number of threads back, which --threads changes, where torch is loaded already."""
    torch = sys.modules.get("torch")
    n_threads = None if torch is None else torch.get_num_threads()
    yield
    if torch is not None:
        torch.set_num_threads(n_threads)


def _trained(name: str) -> Any:
    """Make a fixture of a run that `tests.tiny_runs` trains."""

    def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
        from tests import tiny_runs  # which imports the commands, and with them torch

        return getattr(tiny_runs, f"train_{name}")(tmp_path_factory.mktemp(name))

    return pytest.fixture(run, scope="session")


pair_run = _trained("pairs")  # a model of pairs, which needs their trees
tree_run = _trained("trees")  # a model of sentences with labels on every node
spinn_run = _trained("spinn")  # a model of pairs that parses for itself
parser_run = _trained("parser")  # a parser, which has learnt all trees of its corpora


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

        folder = tmp_path_factory.mktemp(f"{kind}-{task}")
        bundle, exported = tiny_bundle(folder / "bundle", kind, task), folder / "exported"
        assert main(["export", str(bundle), "--format", "onnx", "--output", str(exported)]) == 0
        return bundle, exported

    return make
