"""Settings of every test, and trained runs that many tests look at and none changes."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

# A shared two-core machine is at times slow: an example may take as long as it takes.
hypothesis.settings.register_profile(
    "default", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("default")


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


def _trained(name: str, factory: pytest.TempPathFactory) -> Path:
    from tests import tiny_runs  # which imports the commands, and with them torch

    return getattr(tiny_runs, f"train_{name}")(factory.mktemp(name))
