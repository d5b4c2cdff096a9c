"""Servers for the tests: of a tiny model in this process, and as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from starlette.testclient import TestClient

from spinn_tensor import Pipeline
from spinn_tensor.export.serve.app import make_app
from spinn_tensor.export.serve.engine import Engine
from spinn_tensor.export.serve.settings import ServeSettings
from tests.processes import HANGS
from tests.tiny_bundles import tiny_model

ROOT = Path(__file__).resolve().parents[1]
TEXTS = [
    "The dogs don't bark.",
    "cats",
    "The big old cat sings a dog sings the cats sleep.",
    "( ( A dog ) ( sings . ) )",
    "A dog sleeps.",
    "the dogs " * 20,
]


def tiny_engine(kind: str = "spinn", task: str = "pair", max_length: int = 512) -> Engine:
    """Return an untrained model to serve."""
    pipeline = Pipeline(tiny_model(kind, task), max_words=max_length, branching=None)
    return Engine(pipeline, "tiny")


@contextmanager
def served(engine: Engine, **settings: Any) -> Iterator[TestClient]:
    """Serve a model in this process, without a socket; ready."""
    app = make_app(ServeSettings(**settings), engine)
    with TestClient(app, raise_server_exceptions=False) as client:
        until(lambda: client.get("/health").status_code == 200)
        yield client


def until(holds: Any, seconds: float = HANGS) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


class Server:
    """A server that runs as a process: its address, and what it says."""

    def __init__(
        self, *arguments: str, command: tuple[str, ...] = ("-m", "spinn_tensor.export.serve")
    ) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *command, *arguments, "--port", "0"],
            env=environment,
            cwd=ROOT.parent,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.first_line = self.process.stderr.readline()
        found = re.search(r"http://\S+", self.first_line)
        assert found, self.first_line + self.process.stderr.read()
        self.url = found[0]

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=HANGS)

    def post(self, path: str, **body: Any) -> httpx2.Response:
        return httpx2.post(self.url + path, json=body, timeout=HANGS)

    def health(self) -> dict[str, Any]:
        """What /health says; {} while it does not answer."""
        try:
            answer = self.get("/health")
        except httpx2.TransportError:
            return {}
        return dict(answer.json())

    def metric(self, name: str) -> float:
        """What Prometheus is told of a name and its labels; 0 where nothing is."""
        lines = self.get("/metrics").text.splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), 0)

    def wait(self, n_workers: int = 1) -> None:
        """Wait until so many workers are ready."""
        until(lambda: self.health().get("workers") == n_workers)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal, and return the exit status and the rest of what it says."""
        self.process.send_signal(number)
        return self.process.wait(timeout=HANGS), self.said()

    def said(self) -> str:
        """Return the rest of what it says, when it has ended."""
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            return lines.read()


@contextmanager
def running(*arguments: str, n_workers: int = 1) -> Iterator[Server]:
    """Run a server, ready; it is gone afterwards."""
    server = Server(*arguments, f"--workers={n_workers}")
    try:
        server.wait(n_workers)
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()
        assert server.process.stderr is not None
        server.process.stderr.close()
