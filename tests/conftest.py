"""Settings of every test, and trained runs that many tests look at and none changes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

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


@pytest.fixture(scope="session")
def pair_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model of pairs, which needs their trees."""
    return _trained("pairs", tmp_path_factory)


@pytest.fixture(scope="session")
def tree_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model of sentences with labels on every node."""
    return _trained("trees", tmp_path_factory)


@pytest.fixture(scope="session")
def spinn_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of pairs that parses for itself."""
    return _trained("spinn", tmp_path_factory)


@pytest.fixture(scope="session")
def parser_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parser, which has learnt all trees of its corpora."""
    return _trained("parser", tmp_path_factory)


@pytest.fixture(scope="session")
def few_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of few steps, made in Python by `tests.tiny_training`."""
    from tests.tiny_training import trainer

    folder = tmp_path_factory.mktemp("few_steps")
    trainer(folder, epochs=2).fit()
    return folder


def _trained(name: str, factory: pytest.TempPathFactory) -> Path:
    from tests import tiny_runs  # which imports the commands, and with them torch

    return getattr(tiny_runs, f"train_{name}")(factory.mktemp(name))
